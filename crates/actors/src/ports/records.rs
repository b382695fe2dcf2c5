//! The port to charge records: one a session, immutable, in the orders in which they are asked for.

use super::{Generation, ReadModel, StoreError};
use chargeplane_domain::ids::{AccountId, ChargerId, SessionId, TenantId};
use chargeplane_domain::month::Month;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::session::ChargeRecord;
use chargeplane_domain::units::Timestamp;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// The id of a charge record: a UUID (version 8, RFC 9562) of the SHA-256 of its session's id. So it is the same
/// wherever and whenever it is worked out, fits every system that has ids of 36 characters, and tells nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(u128);

impl RecordId {
    /// The id of a session's record.
    pub fn of(session: &SessionId) -> Self {
        let digest = Sha256::digest(session.as_str().as_bytes());
        let first = digest.iter().take(16).fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        let cleared = first & !(0xf << 76) & !(0b11 << 62);
        Self(cleared | 0x8 << 76 | 0b10 << 62)
    }

    /// Its first 63 bits, as a number that is never negative: they order records that ended in the same millisecond.
    pub fn order(self) -> i64 {
        i64::try_from(self.0 >> 65).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let (a, rest) = hex.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A charge record with its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    /// The journal's shard.
    pub shard: ShardId,
    /// Log number of the frame that settled the session.
    pub lsn: u64,
    /// Index of the event in the frame.
    pub index: u32,
    /// The record.
    pub record: ChargeRecord,
}

impl StoredRecord {
    /// Where it is in the order of all records.
    pub fn order(&self) -> (Timestamp, i64) {
        (self.record.ended_at, RecordId::of(&self.record.session).order())
    }
}

/// The records of one stretch of a shard's journal.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    /// The shard.
    pub shard: ShardId,
    /// The stretch begins after this log number. Above the cursor, it leaves a hole and is refused.
    pub after_lsn: u64,
    /// Everything up to this log number is in.
    pub upto_lsn: u64,
    /// Charge records settled in it, in the order of the log.
    pub records: Vec<StoredRecord>,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// Records that were not there.
    pub new: u64,
    /// Records that were there, the same to the last byte.
    pub repeated: u64,
    /// Records that differ from one that is there. What was there stays.
    pub conflicts: Vec<RecordConflict>,
}

/// Two records where there can be one only: under one place in the journal, or of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordConflict {
    /// The record that was not taken: its place, ...
    pub shard: ShardId,
    /// ... its frame, ...
    pub lsn: u64,
    /// ... its index in it, ...
    pub index: u32,
    /// ... and its session.
    pub session: SessionId,
    /// The session of the record that stays.
    pub stays: SessionId,
}

/// Which charge records to list; newest first, those that ended in the same millisecond by [`RecordId::order`],
/// highest first.
#[derive(Debug, Clone, Default)]
pub struct RecordQuery {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only of stations of this city.
    pub city: Option<String>,
    /// Only of this month, by the station's wall clock at the end.
    pub month: Option<Month>,
    /// Only of this charger.
    pub charger: Option<ChargerId>,
    /// Only of this account.
    pub account: Option<AccountId>,
    /// Only this session.
    pub session: Option<SessionId>,
    /// Ended at or after this moment ...
    pub from: Option<Timestamp>,
    /// ... and before this one.
    pub to: Option<Timestamp>,
    /// Continue after this (ended_at, session) of the page before.
    pub after: Option<(Timestamp, SessionId)>,
    /// At most so many.
    pub limit: usize,
}

impl RecordQuery {
    /// Whether a record is asked for, apart from the page and its length.
    pub fn wants(&self, record: &ChargeRecord) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        }
        self.tenant.as_ref().is_none_or(|tenant| tenant.as_str() == record.session.tenant())
            && is(&self.city, &record.city)
            && is(&self.month, &record.month)
            && is(&self.charger, &record.charger)
            && is(&self.account, &record.account)
            && is(&self.session, &record.session)
            && self.from.is_none_or(|from| record.ended_at >= from)
            && self.to.is_none_or(|to| record.ended_at < to)
    }

    /// The query of the page after one that ended with `last`.
    pub fn after(self, last: &StoredRecord) -> Self {
        Self { after: Some((last.record.ended_at, last.record.session.clone())), ..self }
    }
}

/// Charge records, laid out for pages by tenant, by city and month, by charger and month, by account, and by session.
pub trait ChargeRecords: ReadModel {
    /// Adds a batch and moves the cursor, in one transaction. Adding it again changes nothing; a record that differs
    /// from one that is there is not taken and is told.
    fn add(&self, to: Generation, batch: RecordBatch) -> BoxFuture<'_, Result<Added, StoreError>>;
    /// A page of records.
    fn page(&self, of: Generation, query: RecordQuery) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_s_id_is_its_session_s_for_ever() {
        let id = RecordId::of(&"main/c1.7".parse().expect("an id"));
        assert_eq!(id.to_string(), RecordId::of(&"c1.7".parse().expect("an id")).to_string());
        let text = id.to_string();
        assert_eq!((text.len(), text.as_bytes()[14]), (36, b'8'), "{text}");
        assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
        assert!(id.order() >= 0);
        assert_ne!(id, RecordId::of(&"main/c1.8".parse().expect("an id")));
        // Written down: the ids of records that were exported must stay.
        assert_eq!(text, "7886ff25-3d1a-8187-b422-e2ae7ff0c69e");
    }
}
