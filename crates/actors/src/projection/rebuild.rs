//! Building a read model from the journal again while it is served, and holding the two against each other.
//!
//! The fresh generation is filled from the first frame on, compared with the served one, and then either published
//! or dropped. Readers see the served one until the moment at which the other has all that it has. A process that
//! ends in between leaves the served one as it was.

use super::compare::{self, Comparison};
use super::page::{PAGE, project_page};
use crate::ports::{ChargeRecords, Generation, ReadModel, Statements, StoreError};
use crate::shared::NodeShared;
use chargeplane_cluster::journal::Journal;
use chargeplane_domain::placement::Family;
use chargeplane_domain::units::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Pause after a page, so that a rebuild leaves disk and processor to those who wait for an answer.
const REST: Duration = Duration::from_millis(2);

/// Times to catch up with the served generation before giving up. Each has only what came in during the one before,
/// so a few are enough unless the node takes in more than can be projected at all.
const MOST_ROUNDS: usize = 1_000;

/// A read model that can be rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Model {
    /// Charge records.
    Records,
    /// Statements.
    Statements,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Records, Self::Statements];

    /// Stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Statements => "statements",
        }
    }

    /// The model of this name.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.code() == code)
    }

    /// Whose journals it is made from.
    pub fn family(self) -> Family {
        match self {
            Self::Records => Family::Station,
            Self::Statements => Family::Account,
        }
    }
}

/// How a rebuild stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// What is rebuilt.
    pub model: Model,
    /// True: compared only, and dropped.
    pub check: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// Frames projected so far.
    pub frames: u64,
    /// How it ended; none while it runs.
    pub outcome: Option<Result<Comparison, StoreError>>,
}

/// What is rebuilt, or was last.
#[derive(Default)]
pub struct Rebuilds(Mutex<BTreeMap<Model, Rebuild>>);

impl Rebuilds {
    /// How the last rebuild of a model stands; none when there was none since the start.
    pub fn get(&self, model: Model) -> Option<Rebuild> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&model).cloned()
    }

    /// Notes a new one, unless one is running.
    pub(crate) fn begin(&self, model: Model, check: bool, started_at: Timestamp) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&model).is_some_and(|last| last.outcome.is_none()) {
            return false;
        }
        all.insert(model, Rebuild { model, check, started_at, frames: 0, outcome: None });
        true
    }

    pub(crate) fn note(&self, model: Model, frames: u64) {
        self.update(model, |rebuild| rebuild.frames = frames);
    }

    fn update(&self, model: Model, change: impl FnOnce(&mut Rebuild)) {
        if let Some(rebuild) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&model) {
            change(rebuild);
        }
    }

    pub(crate) fn end(&self, model: Model, outcome: Result<Comparison, StoreError>) {
        self.update(model, |rebuild| rebuild.outcome = Some(outcome));
    }
}

/// Rebuilds a read model of a node, which [`Rebuilds`] knows to have begun, and says how it ended.
pub(crate) async fn run(shared: &NodeShared, model: Model, check: bool) -> Result<(), StoreError> {
    let ports = &shared.ports;
    let (journal, records) = (Arc::clone(&ports.journal), Arc::clone(&ports.records));
    let source = Source { journal, records, statements: Arc::clone(&ports.statements) };
    let outcome = source.rebuild(model, check, &|frames| shared.rebuilds.note(model, frames)).await;
    match &outcome {
        Ok(Comparison { equal, difference: None }) => {
            tracing::info!(model = model.code(), check, equal, "rebuilt, equal to the last byte");
        }
        Ok(Comparison { equal, difference: Some(difference) }) => {
            tracing::error!(model = model.code(), check, equal, difference, "rebuilt, and not equal");
        }
        Err(error) => tracing::error!(model = model.code(), check, %error, "not rebuilt"),
    }
    let ended = outcome.as_ref().map(drop).map_err(Clone::clone);
    shared.rebuilds.end(model, outcome);
    ended
}

/// The read models and the journal they are made from.
#[derive(Clone)]
pub struct Source {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// Charge records.
    pub records: Arc<dyn ChargeRecords>,
    /// Statements.
    pub statements: Arc<dyn Statements>,
}

impl Source {
    fn model(&self, model: Model) -> &dyn ReadModel {
        match model {
            Model::Records => &*self.records,
            Model::Statements => &*self.statements,
        }
    }

    /// Builds a fresh generation and compares it with the served one; then it is published, or dropped when `check`.
    /// `seen` is told the number of frames after each page.
    pub async fn rebuild(
        &self,
        model: Model,
        check: bool,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Comparison, StoreError> {
        self.model(model).begin().await?;
        let built = self.fill(model, check, seen).await;
        if check || built.is_err() {
            self.model(model).discard().await?;
        }
        built
    }

    async fn fill(
        &self,
        model: Model,
        check: bool,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Comparison, StoreError> {
        let mut frames = 0;
        self.catch_up(model, &mut frames, seen).await?;
        let comparison = match model {
            Model::Records => compare::records(&*self.records).await?,
            Model::Statements => compare::statements(&*self.statements).await?,
        };
        for _ in 0..MOST_ROUNDS {
            if check || self.model(model).publish().await? {
                return Ok(comparison);
            }
            self.catch_up(model, &mut frames, seen).await?;
        }
        Err(StoreError::Io(format!("{} came in faster than they could be rebuilt; the old ones stay", model.code())))
    }

    /// Projects all shards of the model to the journal's end.
    async fn catch_up(
        &self,
        model: Model,
        frames: &mut u64,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), StoreError> {
        let heads = self.journal.heads().await.map_err(|error| StoreError::Io(error.to_string()))?;
        let cursors: BTreeMap<_, _> = self.model(model).cursors(Generation::Fresh).await?.into_iter().collect();
        for head in heads.iter().filter(|head| head.shard.family == model.family()) {
            let mut at = cursors.get(&head.shard).copied().unwrap_or(0);
            while at < head.last_lsn {
                let models = (&*self.records, &*self.statements);
                let upto = project_page(&*self.journal, models, Generation::Fresh, head.shard, (at, PAGE)).await?;
                if upto == at {
                    break;
                }
                *frames = frames.saturating_add(upto.saturating_sub(at));
                seen(*frames);
                at = upto;
                tokio::time::sleep(REST).await;
            }
        }
        Ok(())
    }
}
