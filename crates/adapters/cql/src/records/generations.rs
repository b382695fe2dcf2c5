//! Which generation is served, and how one becomes so.
//!
//! One row says it, changed under a condition only: `served`, `fresh` while one is built, `former` until its tables
//! are dropped, `last`, the highest number there ever was, and `builder`, who began that one. After a change the row is read, so that it does not
//! matter whether its answer came.

use super::store::{Patience, Store, unreadable};
use super::tables::{create, drop_all};
use chargeplane_actors::ports::StoreError;
use scylla::statement::prepared::PreparedStatement;

/// How often a change is begun anew because another process made one meanwhile.
const MAX_TRIES: usize = 16;

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generations {
    pub(super) served: i64,
    pub(super) fresh: Option<i64>,
    former: Option<i64>,
    last: i64,
    builder: Option<String>,
}

type Row = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<String>);

impl Store {
    /// Makes the first generation where there is none.
    pub(super) async fn make_first(&self) -> Result<(), StoreError> {
        self.change(&self.shared.first, ()).await?;
        let served = self.generations().await?.served;
        create(&self.session, &self.keyspace, served).await.map_err(io)
    }

    /// The row, with whatever is under way ended.
    pub(super) async fn generations(&self) -> Result<Generations, StoreError> {
        let rows: Vec<Row> = self.rows(&self.shared.generations, (), Patience::Endless).await?;
        match rows.into_iter().next() {
            Some((Some(served), fresh, former, Some(last), builder)) => {
                Ok(Generations { served, fresh, former, last, builder })
            }
            _ => Err(unreadable("there is no generation")),
        }
    }

    /// The number of the served generation.
    pub(super) async fn served(&self, patience: Patience) -> Result<i64, StoreError> {
        let rows: Vec<(Option<i64>,)> = self.rows(&self.shared.served, (), patience).await?;
        rows.first().and_then(|(served,)| *served).ok_or_else(|| unreadable("no generation is served"))
    }

    /// Makes the tables of a fresh generation and drops what was left of others. Its number.
    pub(super) async fn begin(&self) -> Result<i64, StoreError> {
        for _ in 0..MAX_TRIES {
            let before = self.generations().await?;
            let number = before.last.saturating_add(1);
            let values = (number, number, &*self.builder, before.served, before.last);
            self.change(&self.shared.begin, values).await?;
            let now = self.generations().await?;
            if now.fresh != Some(number) || now.builder.as_deref() != Some(&*self.builder) {
                continue;
            }
            for left in [before.fresh, before.former].into_iter().flatten() {
                self.remove(left).await?;
            }
            if let Some(former) = before.former {
                self.change(&self.shared.forget, (former,)).await?;
            }
            create(&self.session, &self.keyspace, number).await.map_err(io)?;
            return Ok(number);
        }
        Err(StoreError::Io("other processes begin to rebuild the charge records again and again".to_owned()))
    }

    /// Serves a fresh generation. The former one is dropped, if it can be now; otherwise when the next one begins.
    pub(super) async fn publish(&self, fresh: i64) -> Result<(), StoreError> {
        let mut before = self.generations().await?;
        while before.served != fresh {
            if before.fresh != Some(fresh) {
                return Err(StoreError::Io("another process began to rebuild the charge records".to_owned()));
            }
            self.change(&self.shared.publish, (fresh, before.served, before.served, fresh)).await?;
            before = self.generations().await?;
        }
        if let Some(former) = before.former {
            match self.remove(former).await {
                Ok(()) => self.change(&self.shared.forget, (former,)).await?,
                Err(error) => {
                    tracing::warn!(former, %error, "a former generation of the charge records stays until the next");
                }
            }
        }
        Ok(())
    }

    /// Drops a fresh generation.
    pub(super) async fn discard(&self, fresh: i64) -> Result<(), StoreError> {
        self.change(&self.shared.discard, (fresh,)).await?;
        self.remove(fresh).await
    }

    async fn remove(&self, number: i64) -> Result<(), StoreError> {
        drop_all(&self.session, &self.keyspace, number).await.map_err(io)?;
        for statement in [&self.shared.drop_cursors, &self.shared.drop_cities] {
            self.ask(statement, (number,), Patience::None).await?;
        }
        Ok(())
    }

    /// A conditional write. Whether it was done is for who reads the row afterwards.
    async fn change(
        &self,
        statement: &PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<(), StoreError> {
        self.ask(statement, values, Patience::Endless).await.map(drop)
    }
}

fn io(error: scylla::errors::ExecutionError) -> StoreError {
    StoreError::Io(error.to_string())
}
