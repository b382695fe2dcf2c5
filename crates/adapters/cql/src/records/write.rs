//! Adding charge records: what is there is read, the rows are written side by side, and the cursor last.
//!
//! A projector that stops in between writes the same rows again: the cursor says what has to be. So a record above it
//! is written whole even if a part of it is there.

use super::store::{BucketKey, Patience, Store, side_by_side, unreadable};
use super::tables::{Kind, Tables};
use crate::head::{code_of, stored};
use chargeplane_actors::ports::{Added, RecordBatch, RecordConflict, RecordId, StoreError, StoredRecord};
use chargeplane_domain::placement::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Log numbers of one partition of places.
const PLACES: u64 = 1_024;

/// Rows in one mutation: some 20 KB.
const ROWS: usize = 50;

const DAY_MS: i64 = 86_400_000;

/// Where a record is in the journal: log number and index.
type Place = (i64, i32);

/// What is stored of a session: the shard, the place and the record.
type SessionRow = (Option<i32>, Option<i64>, Option<i32>, Option<Vec<u8>>);

type ListRow = (String, String, i64, i64, i64, String, i32, i64, i32, Vec<u8>);

type Write = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// The name of a city's list. A city belongs to its tenant: two tenants' stations of one city are two lists.
pub(super) fn city_of(tenant: &str, city: &str) -> String {
    format!("{tenant}/{city}")
}

/// The bucket of a record in a list of its month: bounded by what a city does in a day, a charger in a month, and one
/// station shard in a month.
fn bucket_of(kind: Kind, record: &StoredRecord) -> i64 {
    match kind {
        Kind::City => record.record.ended_at.0.div_euclid(DAY_MS),
        Kind::Charger => 0,
        Kind::Account => i64::from(code_of(record.shard)),
    }
}

/// The moments that a record in a bucket of cities can have ended at: from the first to before the second.
pub(super) fn day_of(bucket: i64) -> (i64, i64) {
    let from = bucket.saturating_mul(DAY_MS);
    (from, from.saturating_add(DAY_MS))
}

/// How far a shard is: the log number and the records up to it.
pub(super) async fn cursor(
    store: &Store,
    generation: i64,
    shard: ShardId,
    patience: Patience,
) -> Result<(u64, i64), StoreError> {
    let values = (generation, code_of(shard));
    let rows: Vec<(Option<i64>, Option<i64>)> = store.rows(&store.shared.cursor, values, patience).await?;
    let (upto, records) = rows.first().copied().unwrap_or_default();
    Ok((u64::try_from(upto.unwrap_or(0)).map_err(unreadable)?, records.unwrap_or(0)))
}

/// Adds a batch to a generation.
pub(super) async fn add(store: &Arc<Store>, tables: &Arc<Tables>, batch: RecordBatch) -> Result<Added, StoreError> {
    let (is_in, records) = cursor(store, tables.number, batch.shard, Patience::Endless).await?;
    if batch.after_lsn > is_in {
        return Err(StoreError::Conflict { expected: is_in, found: batch.after_lsn });
    }
    let mut there = There::read(store, tables, &batch).await?;
    let (mut added, mut count, mut writes) = (Added::default(), records, Rows::default());
    for stored in &batch.records {
        let record = rmp_serde::to_vec(&stored.record).map_err(unreadable)?;
        let taken = there.take(stored, &record, &mut added);
        let above = stored.lsn > is_in;
        if taken == Taken::New || (taken == Taken::Repeated && above) {
            count = count.saturating_add(1);
            writes.put(stored, record);
        }
    }
    writes.write(store, tables).await?;
    let upto = stored(batch.upto_lsn.max(is_in));
    let values = (tables.number, code_of(batch.shard), upto, count);
    store.ask(&store.shared.put_cursor, values, Patience::Endless).await?;
    Ok(added)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    New,
    Repeated,
    Conflict,
}

/// What is stored under the places and the sessions of a batch.
struct There {
    places: BTreeMap<Place, String>,
    sessions: BTreeMap<String, (ShardId, Place, Vec<u8>)>,
}

impl There {
    async fn read(store: &Arc<Store>, tables: &Arc<Tables>, batch: &RecordBatch) -> Result<Self, StoreError> {
        let parts: BTreeSet<u64> = batch.records.iter().map(|stored| stored.lsn / PLACES).collect();
        let lsns = batch.records.iter().map(|record| stored(record.lsn));
        let (first, last) = (lsns.clone().min().unwrap_or(0), lsns.max().unwrap_or(0));
        let shard = code_of(batch.shard);
        let places = parts.into_iter().map(|part| {
            let (store, tables) = (Arc::clone(store), Arc::clone(tables));
            async move {
                let values = (shard, stored(part), first, last);
                store.rows::<(i64, i32, Option<String>)>(&tables.places, values, Patience::Endless).await
            }
        });
        let places = side_by_side(places).await?.into_iter().flatten();
        let places = places.map(|(lsn, idx, session)| ((lsn, idx), session.unwrap_or_default())).collect();
        let sessions: BTreeSet<String> =
            batch.records.iter().map(|stored| stored.record.session.as_str().to_owned()).collect();
        let sessions = sessions.into_iter().map(|session| {
            let (store, tables) = (Arc::clone(store), Arc::clone(tables));
            async move {
                let rows = store.rows::<SessionRow>(&tables.session, (&session,), Patience::Endless).await?;
                rows.into_iter().next().map(|row| Ok((session, session_row(row)?))).transpose()
            }
        });
        let sessions = side_by_side(sessions).await?.into_iter().flatten().collect();
        Ok(Self { places, sessions })
    }

    /// Holds a record against what is there, and takes it if nothing speaks against it.
    fn take(&mut self, stored: &StoredRecord, record: &[u8], added: &mut Added) -> Taken {
        let place = place_of(stored);
        let session = stored.record.session.as_str();
        let of_place = self.places.get(&place).filter(|other| *other != session);
        let stays = match (of_place, self.sessions.get(session)) {
            // The same session as text, so the id can be read.
            (Some(other), _) => Some(other.parse().unwrap_or_else(|_| stored.record.session.clone())),
            (None, Some(there)) if (there.0, there.1, &*there.2) != (stored.shard, place, record) => {
                Some(stored.record.session.clone())
            }
            (None, Some(_)) => {
                added.repeated = added.repeated.saturating_add(1);
                return Taken::Repeated;
            }
            (None, None) => None,
        };
        if let Some(stays) = stays {
            let (shard, lsn, index) = (stored.shard, stored.lsn, stored.index);
            let session = stored.record.session.clone();
            added.conflicts.push(RecordConflict { shard, lsn, index, session, stays });
            return Taken::Conflict;
        }
        self.places.insert(place, session.to_owned());
        self.sessions.insert(session.to_owned(), (stored.shard, place, record.to_vec()));
        added.new = added.new.saturating_add(1);
        Taken::New
    }
}

fn place_of(record: &StoredRecord) -> Place {
    (stored(record.lsn), i32::try_from(record.index).unwrap_or(i32::MAX))
}

fn session_row((shard, lsn, idx, record): SessionRow) -> Result<(ShardId, Place, Vec<u8>), StoreError> {
    let shard = shard.and_then(crate::head::shard_of_code).ok_or_else(|| unreadable("a session without a shard"))?;
    let place = lsn.zip(idx).ok_or_else(|| unreadable("a session without a place"))?;
    Ok((shard, place, record.unwrap_or_default()))
}

/// A record as one of the lists has it.
pub(super) fn read(shard: i32, lsn: i64, idx: i32, record: &[u8]) -> Result<StoredRecord, StoreError> {
    Ok(StoredRecord {
        shard: crate::head::shard_of_code(shard).ok_or_else(|| unreadable(format!("{shard} is no shard")))?,
        lsn: u64::try_from(lsn).map_err(unreadable)?,
        index: u32::try_from(idx).map_err(unreadable)?,
        record: rmp_serde::from_slice(record).map_err(unreadable)?,
    })
}

/// The record of a session.
pub(super) async fn of_session(
    store: &Store,
    tables: &Tables,
    session: &str,
) -> Result<Option<StoredRecord>, StoreError> {
    let rows: Vec<SessionRow> = store.rows(&tables.session, (session,), Patience::None).await?;
    let row = rows.into_iter().next().map(session_row).transpose()?;
    row.map(|(shard, (lsn, idx), record)| read(code_of(shard), lsn, idx, &record)).transpose()
}

/// Shard, part, log number, index, session.
type PlaceRow = (i32, i64, i64, i32, String);

/// The rows of a batch, those of one partition together.
#[derive(Default)]
struct Rows {
    sessions: Vec<(String, i32, i64, i32, Vec<u8>)>,
    places: BTreeMap<(i32, i64), Vec<PlaceRow>>,
    lists: BTreeMap<(Kind, String, String, i64), Vec<ListRow>>,
    cities: BTreeSet<(String, String)>,
}

impl Rows {
    fn put(&mut self, stored: &StoredRecord, body: Vec<u8>) {
        let record = &stored.record;
        let (shard, (lsn, idx)) = (code_of(stored.shard), place_of(stored));
        let session = record.session.as_str().to_owned();
        let part = crate::head::stored(stored.lsn / PLACES);
        self.places.entry((shard, part)).or_default().push((shard, part, lsn, idx, session.clone()));
        let tenant = record.session.tenant();
        self.cities.insert((tenant.to_owned(), record.city.clone()));
        let (month, ord) = (record.month.to_string(), RecordId::of(&record.session).order());
        for kind in Kind::ALL {
            let name = match kind {
                Kind::City => city_of(tenant, &record.city),
                Kind::Charger => record.charger.as_str().to_owned(),
                Kind::Account => record.account.as_str().to_owned(),
            };
            let bucket = bucket_of(kind, stored);
            let key = (kind, name.clone(), month.clone(), bucket);
            let at = record.ended_at.0;
            let row = (name, month.clone(), bucket, at, ord, session.clone(), shard, lsn, idx, body.clone());
            self.lists.entry(key).or_default().push(row);
        }
        self.sessions.push((session, shard, lsn, idx, body));
    }

    async fn write(self, store: &Arc<Store>, tables: &Arc<Tables>) -> Result<(), StoreError> {
        let generation = tables.number;
        let of = |(kind, name, month, bucket): &(Kind, String, String, i64)| -> BucketKey {
            (generation, *kind, name.clone(), month.clone(), *bucket)
        };
        let new: Vec<BucketKey> = self.lists.keys().map(of).filter(|bucket| !store.is_known(bucket)).collect();
        let mut writes: Vec<Write> = Vec::new();
        // A city of a bucket that is known is known too.
        if new.iter().any(|(_, kind, ..)| *kind == Kind::City) {
            for (tenant, city) in self.cities {
                let store = Arc::clone(store);
                writes.push(Box::pin(async move {
                    store.put(&store.shared.put_city, vec![(generation, tenant, city)]).await
                }));
            }
        }
        for (_, kind, name, month, bucket) in new.iter().cloned() {
            let (store, tables) = (Arc::clone(store), Arc::clone(tables));
            writes.push(Box::pin(async move {
                store.put(&tables.put_bucket, vec![(kind.code(), name, month, bucket)]).await
            }));
        }
        for row in self.sessions {
            let (store, tables) = (Arc::clone(store), Arc::clone(tables));
            writes.push(Box::pin(async move { store.put(&tables.put_session, vec![row]).await }));
        }
        for rows in self.places.into_values().flat_map(portions) {
            let (store, tables) = (Arc::clone(store), Arc::clone(tables));
            writes.push(Box::pin(async move { store.put(&tables.put_place, rows).await }));
        }
        for ((kind, ..), rows) in self.lists {
            for rows in portions(rows) {
                let (store, tables) = (Arc::clone(store), Arc::clone(tables));
                writes.push(Box::pin(async move { store.put(&tables.list(kind).put, rows).await }));
            }
        }
        side_by_side(writes).await?;
        store.know(new);
        Ok(())
    }
}

fn portions<T>(mut rows: Vec<T>) -> Vec<Vec<T>> {
    let mut portions = Vec::new();
    while rows.len() > ROWS {
        let rest = rows.split_off(ROWS);
        portions.push(std::mem::replace(&mut rows, rest));
    }
    portions.push(rows);
    portions
}
