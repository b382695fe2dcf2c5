//! The node's face to the API and the bins: typed requests into the shards, typed answers out.
//!
//! Nobody waits for ever: every call has a deadline, and a dropped reply answers [`CallError::Interrupted`].

use crate::account::{self, AccountMessage};
use crate::admission::{Lane, Permit};
use crate::charger::ChargerMessage;
use crate::directory::Directory;
use crate::entry::DeadLetter;
use crate::family::{AccountFamily, AccountMap, StationFamily, StationKey, StationMap, StationMember};
use crate::ports::{ChunkQuery, GatewayCredentials, Generation, RecordQuery, StoreError, StoredRecord};
use crate::projection::rebuild::{self, Model, Rebuild};
use crate::projection::{self, ProjectionMessage};
use crate::reply::{Answer, Reply};
use crate::shard::ShardMessage;
use crate::shared::{NodeShared, ShardStatus};
use crate::station::{Explained, LimitsReport, NodeReport, StationMessage};
use crate::telemetry::TelemetryMessage;
use crate::views::*;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountRejection};
use chargeplane_domain::catalogue::{Catalogue, Gateway};
use chargeplane_domain::catalogue_check;
use chargeplane_domain::charger::{Charger, ChargerRejection, KeyedContent};
use chargeplane_domain::chunk::Chunk;
use chargeplane_domain::command::{Action, Command};
use chargeplane_domain::ids::{AccountId, ChargerId, CommandId, GatewayId, SessionId, StationId};
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::rollup::{Hour, Rollup};
use chargeplane_domain::sample::{NumberedSample, Reading};
use chargeplane_domain::session::{ChargingSession, SessionState};
use chargeplane_domain::station::{LimitCommand, LimitOrder};
use chargeplane_domain::units::{Timestamp, Watts};
use chargeplane_protocol::envelope::gateway_number;
use chargeplane_protocol::topic;
use ractor::ActorRef;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use audit::{AuditView, Audited, AuditedPart, AuditedSession, EntryId, SampleRange};
pub use operator_statement::{OperatorLine, OperatorQuery, OperatorStatement, Positions};
pub use payouts::{PaidOut, Payee};
pub use telemetry::ReadingRange;

/// Chunks read for one query of raw samples or rollups.
const MAX_CHUNKS: usize = 20_000;

/// So many sessions are named when they are in the way of a catalogue.
const SESSIONS_NAMED: usize = 20;

/// Why a call got no answer from its entity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The entity does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The account said no.
    #[error("{0}")]
    Account(AccountRejection),
    /// The account said no to a session that was asked for.
    #[error(
        "the account refused session {session} ({code}): nothing is held and nothing was started; this key gets this \
         answer again, so try again with a new one"
    )]
    StartRefused {
        /// The session, which can be looked at while its key is remembered.
        session: SessionId,
        /// The account's code.
        code: String,
    },
    /// The charger's gateway was not heard lately.
    #[error(
        "charger {charger} is offline: its gateway {gateway} was not heard lately; nothing was done, try again when it \
         is back"
    )]
    ChargerOffline {
        /// The charger.
        charger: ChargerId,
        /// Its gateway.
        gateway: GatewayId,
    },
    /// The charger said no.
    #[error("{0}")]
    Charger(ChargerRejection),
    /// A bounded queue is full: nothing was done, try again later.
    #[error("overloaded: nothing was done, try again in a second")]
    Shed,
    /// Maybe executed: repeat with the same key.
    #[error("interrupted: it may have been executed, repeat it with the same key")]
    Interrupted,
    /// No answer in time, maybe executed: repeat with the same key.
    #[error("no answer in time: it may have been executed, repeat it with the same key")]
    Timeout,
    /// The shard is not open on this node: nothing was done.
    #[error("shard {0} is not open: nothing was done, try again in a second")]
    NotServing(String),
    /// What is read is behind the books: the answer would be less than there is.
    #[error("the statement of {0} is behind the books: what was written last is not in it yet, ask again in a moment")]
    Behind(String),
    /// A parked entity: an operator must look at the dead letters.
    #[error("{0} is parked after repeated failures; see the dead letters")]
    Parked(String),
    /// An entity whose log cannot be applied: out of service until its shard opens with a program that can.
    #[error("{0} is quarantined: its log holds an event that cannot be applied")]
    Quarantined(String),
    /// A catalogue would take chargers away from under their sessions.
    #[error("{}", in_use(sessions))]
    InUse {
        /// Their open sessions.
        sessions: Vec<SessionId>,
    },
    /// A catalogue would remove every station, and nobody said that this is meant.
    #[error(
        "the catalogue has no station, and would remove {stations}: apply the right file, or say `allow_empty=true` \
         (`chargeplane apply --allow-empty`) if that is meant"
    )]
    CatalogueEmpty {
        /// How many stations there are.
        stations: usize,
    },
    /// A store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The answer would be larger than may be; how large, in words.
    #[error("{0}")]
    TooLarge(String),
}

/// Names the sessions that are in the way, as far as a reader takes them in.
fn in_use(sessions: &[SessionId]) -> String {
    let shown: Vec<String> = sessions.iter().take(SESSIONS_NAMED).map(ToString::to_string).collect();
    let more = sessions.len().saturating_sub(shown.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "the catalogue removes or moves chargers whose sessions are open: {}{more}; stop them first",
        shown.join(", ")
    )
}

/// A cheap handle to a running node.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<NodeShared>,
    incarnation: u64,
    started_at: Timestamp,
}

impl NodeHandle {
    pub(crate) fn new(shared: Arc<NodeShared>, incarnation: u64, started_at: Timestamp) -> Self {
        Self { shared, incarnation, started_at }
    }

    fn reply<T: Send + 'static>(&self) -> (Reply<T>, impl Future<Output = Answer<T>> + Send + use<T>) {
        Reply::channel(self.shared.config.call_timeout)
    }

    /// For tests: the station of a gateway hears it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn pretend_beat(&self, gateway: &GatewayId) {
        let directory = self.directory();
        let Some(entry) = directory.gateway(gateway) else { return };
        let (shard, key, gateway) = (entry.shard, StationKey::Station(entry.station.clone()), gateway.clone());
        self.shared.router.station(shard, key, Lane::Status, 64, move |permit| {
            let boot = chargeplane_domain::gateway::BootId { key_epoch: 1, boot: 1 };
            let beat = chargeplane_protocol::message::Beat::default();
            StationMember::Station(StationMessage::Beat { gateway, boot, beat, permit })
        });
    }

    fn directory(&self) -> Arc<Directory> {
        self.shared.directory.load_full()
    }
}

mod accounts;
mod audit;
mod catalogue;
mod chargers;
mod enrolment;
mod operations;
mod operator_statement;
mod payouts;
mod posting;
mod telemetry;
