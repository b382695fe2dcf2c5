//! Reading telemetry: by the days that a range touches to the partitions that have samples of them.

use super::write::{day_of, reason_code};
use super::{Inner, unreadable};
use crate::head::code_of;
use chargeplane_actors::ports::{ChunkQuery, ChunkRow, ChunkSpan, GapRow, StoreError, StreamCursor};
use chargeplane_domain::chunk::{ChunkHeader, EncodedChunk};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::sample::{Gap, GapReason};
use chargeplane_domain::units::Timestamp;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Partitions that one reader reads at once.
const AT_ONCE: usize = 8;

type Part = (i32, i64);

/// The partitions with samples of the days of a range, in the order of the numbering.
async fn parts(inner: &Inner, query: &ChunkQuery) -> Result<Vec<Part>, StoreError> {
    let values = (query.charger.as_str(), day_of(query.from), day_of(query.to));
    let parts: Vec<Part> = inner.rows(&inner.statements.days, values).await?;
    let parts: BTreeSet<Part> = parts.into_iter().collect();
    Ok(parts.into_iter().collect())
}

fn touches(query: &ChunkQuery, first_at: i64, last_at: i64) -> bool {
    last_at >= query.from.0 && first_at < query.to.0
}

/// Reads a statement's rows of each of these partitions, until `take` has enough.
async fn each_part<R>(
    inner: &Arc<Inner>,
    statement: &PreparedStatement,
    charger: &ChargerId,
    parts: &[Part],
    mut take: impl FnMut(u32, Vec<R>) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError>
where
    R: for<'f> DeserializeRow<'f, 'f> + Send + 'static,
{
    for group in parts.chunks(AT_ONCE) {
        let mut running = JoinSet::new();
        for (incarnation, part) in group.iter().copied() {
            let (inner, statement, charger) = (Arc::clone(inner), statement.clone(), charger.clone());
            running.spawn(async move {
                let rows = inner.rows::<R>(&statement, (charger.as_str(), incarnation, part)).await?;
                Ok::<_, StoreError>((incarnation.cast_unsigned(), rows))
            });
        }
        let mut enough = false;
        while let Some(ended) = running.join_next().await {
            let ended = ended.map_err(|error| StoreError::Io(format!("a read was not finished: {error}")))?;
            let (incarnation, rows) = ended?;
            enough |= take(incarnation, rows)?.is_break();
        }
        if enough {
            break;
        }
    }
    Ok(())
}

type ChunkFields = (i64, i64, Option<i64>, Option<i64>, Option<Vec<u8>>);

pub(super) async fn chunks(inner: &Arc<Inner>, query: ChunkQuery) -> Result<Vec<ChunkRow>, StoreError> {
    let parts = parts(inner, &query).await?;
    let mut found = Vec::new();
    each_part(inner, &inner.statements.chunks, &query.charger, &parts, |incarnation, rows: Vec<ChunkFields>| {
        for (range, epoch, first_at, last_at, bytes) in rows {
            let (Some(first_at), Some(last_at), Some(bytes)) = (first_at, last_at, bytes) else {
                return Err(unreadable(format!("a chunk of {} without its columns", query.charger)));
            };
            if touches(&query, first_at, last_at) {
                let header = ChunkHeader::decode(&bytes).map_err(unreadable)?;
                let chunk = EncodedChunk { bytes, header };
                let epoch = u64::try_from(epoch).map_err(unreadable)?;
                let row = ChunkRow { charger: query.charger.clone(), incarnation, epoch, chunk };
                found.push(((last_at, first_at, range), row));
            }
        }
        Ok(if found.len() > query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .await?;
    found.sort_by_key(|(order, row)| (*order, row.incarnation, row.epoch));
    found.truncate(query.limit);
    Ok(found.into_iter().map(|(_, row)| row).collect())
}

type SpanFields = (Option<i64>, Option<i64>, Option<i32>);

pub(super) async fn spans(inner: &Arc<Inner>, query: ChunkQuery) -> Result<Vec<ChunkSpan>, StoreError> {
    let parts = parts(inner, &query).await?;
    let mut found = Vec::new();
    each_part(inner, &inner.statements.spans, &query.charger, &parts, |_, rows: Vec<SpanFields>| {
        for (first_at, last_at, samples) in rows {
            let (Some(first_at), Some(last_at), Some(samples)) = (first_at, last_at, samples) else {
                return Err(unreadable(format!("a chunk of {} without its columns", query.charger)));
            };
            if touches(&query, first_at, last_at) {
                let samples = u64::try_from(samples).map_err(unreadable)?;
                found.push(ChunkSpan { first_at: Timestamp(first_at), last_at: Timestamp(last_at), samples });
            }
        }
        Ok(if found.len() > query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .await?;
    found.truncate(query.limit);
    Ok(found)
}

pub(super) async fn gaps(inner: &Arc<Inner>, charger: ChargerId) -> Result<Vec<GapRow>, StoreError> {
    let rows: Vec<(i32, i64, i64, i32)> = inner.rows(&inner.statements.gaps, (charger.as_str(),)).await?;
    let row = |(incarnation, first, last, reason): (i32, i64, i64, i32)| {
        let reasons = [GapReason::Thinned, GapReason::Dropped, GapReason::Refused];
        let reason = reasons.into_iter().find(|known| reason_code(*known) == reason);
        let reason = reason.ok_or_else(|| unreadable("a gap without a reason that is known"))?;
        let gap = Gap { first: first.cast_unsigned(), last: last.cast_unsigned(), reason };
        Ok(GapRow { charger: charger.clone(), incarnation: incarnation.cast_unsigned(), gap })
    };
    rows.into_iter().map(row).collect()
}

type CursorFields = (String, i32, i32, i32, Option<i64>);

pub(super) async fn cursors(inner: &Arc<Inner>, shard: ShardId) -> Result<Vec<StreamCursor>, StoreError> {
    let rows: Vec<CursorFields> = inner.rows(&inner.statements.cursors, (code_of(shard),)).await?;
    let cursor = |(gateway, stream, key_epoch, boot, upto_seq): CursorFields| {
        Ok(StreamCursor {
            gateway: gateway.parse().map_err(unreadable)?,
            stream: u8::try_from(stream).map_err(unreadable)?,
            boot: BootId::new(key_epoch.cast_unsigned(), boot.cast_unsigned()),
            upto_seq: u64::try_from(upto_seq.unwrap_or(0)).map_err(unreadable)?,
        })
    };
    let mut cursors: Vec<StreamCursor> = rows.into_iter().map(cursor).collect::<Result<_, _>>()?;
    cursors.sort_by(|a, b| (&a.gateway, a.stream, a.boot).cmp(&(&b.gateway, b.stream, b.boot)));
    Ok(cursors)
}

/// Reads the keys of all partitions, page after page.
pub(super) async fn chargers(inner: &Arc<Inner>) -> Result<Vec<ChargerId>, StoreError> {
    let mut found = BTreeSet::new();
    let keep = |charger: String| charger.parse::<ChargerId>().map_err(unreadable);
    scan(inner, &inner.statements.partitions, |(charger, _, _): (String, i32, i64)| {
        found.insert(keep(charger)?);
        Ok(())
    })
    .await?;
    scan(inner, &inner.statements.gap_partitions, |(charger,): (String,)| {
        found.insert(keep(charger)?);
        Ok(())
    })
    .await?;
    Ok(found.into_iter().collect())
}

async fn scan<R>(
    inner: &Inner,
    statement: &PreparedStatement,
    mut take: impl FnMut(R) -> Result<(), StoreError>,
) -> Result<(), StoreError>
where
    R: for<'f> DeserializeRow<'f, 'f>,
{
    let mut state = PagingState::start();
    loop {
        let page = {
            let _permit = inner.permit().await?;
            inner.session.execute_single_page(statement, (), state).await
        };
        let (result, more) = page.map_err(|error| StoreError::Io(crate::store::fault(&error).to_string()))?;
        let rows = result.into_rows_result().map_err(unreadable)?;
        for row in rows.rows::<R>().map_err(unreadable)? {
            take(row.map_err(unreadable)?)?;
        }
        match more.into_paging_control_flow() {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(next) => state = next,
        }
    }
}
