//! What the node shows of itself: plain values for the API and the command line.

use crate::ports::LedgerEntry;
use chargeplane_domain::account::{AccountKind, AccountStatus, Holder};
use chargeplane_domain::charger::Refusal;
use chargeplane_domain::command::Command;
use chargeplane_domain::ids::{AccountId, ChargerId, ConnectorNo, GatewayId, SessionId, StationId};
use chargeplane_domain::session::ChargingSession;
use chargeplane_domain::station::{Deficit, OperatorLimit};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours, Watts};
use serde::{Deserialize, Serialize};

/// A charger as the node sees it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChargerView {
    /// The charger.
    pub id: ChargerId,
    /// Its station.
    pub station: StationId,
    /// Its gateway.
    pub gateway: GatewayId,
    /// Its gateway was heard within the last seconds.
    pub online: bool,
    /// `idle`, `starting`, `charging`, `stopping`, `settling`, `faulted`, `unavailable`.
    pub state: String,
    /// The open session, if any.
    pub session: Option<SessionId>,
    /// Power by the last beat.
    pub power_w: Watts,
    /// What the car would take, by the last beat.
    pub demand_w: Watts,
    /// The grant in force, by the last beat.
    pub granted_w: Watts,
    /// Energy register by the last beat or digest.
    pub register_wh: WattHours,
    /// State of charge in 0.1 %, by the last digest.
    pub soc_permille: Option<i32>,
    /// Power is over the grant: counted at its rating.
    pub disobeying: bool,
}

/// A station as the node sees it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StationView {
    /// The station.
    pub id: StationId,
    /// City.
    pub city: String,
    /// Its chargers.
    pub chargers: usize,
    /// Chargers whose gateway was heard lately.
    pub online: usize,
    /// Open sessions.
    pub charging: usize,
    /// Limit of the grid connection in effect.
    pub limit_w: Watts,
    /// Sum of grants in force.
    pub granted_w: Watts,
    /// Worst load that grants, fallbacks and base load allow now.
    pub worst_w: Watts,
    /// Power by the last beats.
    pub power_w: Watts,
    /// Sum of what the cars would take.
    pub demand_w: Watts,
    /// Nodes that are over their limit until grants end: after a cut, or when something was learnt.
    pub deficits: Vec<Deficit>,
    /// Every node of the tree; empty in a list.
    pub nodes: Vec<NodeLimitView>,
}

/// A node of a station's tree of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLimitView {
    /// Its name in the station.
    pub id: String,
    /// The limit in effect: the lower of the catalogue's and the operator's.
    pub limit_w: Watts,
    /// Worst load that grants, fallbacks and base load allow now.
    pub worst_w: Watts,
    /// What an operator set.
    pub set: Option<OperatorLimit>,
}

/// A part of a list: what comes after `after`, of the tenants that `tenant` names (none: all), at most `limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOf<T> {
    /// The last id of the part before.
    pub after: Option<T>,
    /// At most so many.
    pub limit: usize,
    /// Only of this tenant.
    pub tenant: Option<String>,
}

impl<T> PageOf<T> {
    /// The first `limit`, of all tenants.
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit, tenant: None }
    }

    /// True when the page shows things of this tenant.
    pub fn covers(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    /// The gateway.
    pub id: GatewayId,
    /// Its station.
    pub station: StationId,
    /// It was heard within the last seconds.
    pub online: bool,
    /// It has a key.
    pub enrolled: bool,
    /// A new key waits for it: it was not heard under it yet.
    pub rotating: bool,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountView {
    /// The account.
    pub id: AccountId,
    /// Its currency.
    pub currency: Currency,
    /// Prepaid or credit.
    pub kind: AccountKind,
    /// A person's or a fleet's.
    pub holder: Holder,
    /// Whether it may be used.
    pub status: AccountStatus,
    /// What may be refunded: of what was paid in, what is neither spent nor held.
    pub refundable: Money,
    /// The posted balance.
    pub balance: Money,
    /// Held for open sessions.
    pub held: Money,
    /// What may still be spent or held (credit limit included).
    pub available: Money,
    /// Sessions that hold money.
    pub open_sessions: Vec<SessionId>,
    /// When it was opened.
    pub opened_at: Timestamp,
}

/// A part of an account's statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The lines, oldest first.
    pub entries: Vec<LedgerEntry>,
    /// Everything that was answered before the statement was asked for is in the read models.
    pub complete: bool,
}

/// A balance as served: a driver's account or a counter-account of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceView {
    /// The shard that keeps it, `account-0003`.
    pub shard: String,
    /// `driver:main/a1`, `energy:main/op1:CNY`, ...
    pub account: String,
    /// The currency.
    pub currency: Currency,
    /// The posted balance; credit side positive for those who are owed.
    pub balance: Money,
}

/// What an operator has earned in one currency: the fold over all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorBalance {
    /// The currency.
    pub currency: Currency,
    /// For energy.
    pub energy: Money,
    /// For service.
    pub service: Money,
    /// For everything else: flat fees, minutes, least prices.
    pub fees: Money,
    /// Metered and paid by no driver: zero or negative.
    pub overshoot: Money,
    /// Shares of revenue by agreement: received, less what was passed on.
    pub shares: Money,
    /// Paid out, as a negative amount.
    pub paid_out: Money,
}

impl OperatorBalance {
    /// Everything together: what is his and not paid out.
    pub fn total(&self) -> Money {
        let parts = [self.energy, self.service, self.fees, self.overshoot, self.shares, self.paid_out];
        parts.into_iter().fold(Money::ZERO, Money::saturating_add)
    }
}

/// A shard on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// `station-001f`.
    pub shard: String,
    /// `opening`, `open`, `closed`, `failed`.
    pub state: String,
    /// Its epoch.
    pub epoch: u64,
    /// Last committed log number.
    pub last_lsn: u64,
    /// Rows of the durable map.
    pub rows: usize,
    /// Live entity actors.
    pub live: usize,
    /// Parked entities: they failed again and again.
    pub parked: usize,
    /// Quarantined entities: their log cannot be applied.
    pub quarantined: usize,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// The charger.
    pub charger: ChargerId,
    /// The durable session.
    pub session: ChargingSession,
}

/// What can be said of a session that is no charge record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum KnownSession {
    /// It is not settled yet.
    Open(SessionView),
    /// The account refused.
    Refused(RefusedSessionView),
}

/// A session that was asked for over the API and that the account refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSessionView {
    /// The session.
    pub session: SessionId,
    /// The charger.
    pub charger: ChargerId,
    /// Its connector.
    pub connector: ConnectorNo,
    /// Who was to pay.
    pub account: AccountId,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// Why not, and what was in force.
    pub refusal: Refusal,
}

/// A command with its charger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandView {
    /// The charger.
    pub charger: ChargerId,
    /// The durable command.
    pub command: Command,
}

/// A message that could not be handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// Its number on this node's shard: `station-001f/12`.
    pub id: String,
    /// `charger:main/c1`, `account:main/a1`, ...
    pub entity: String,
    /// What it was, shortened.
    pub message: String,
    /// Why it failed.
    pub error: String,
    /// When it was parked.
    pub at: Timestamp,
}

/// A request to start a session from outside the charger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// Where.
    pub charger: ChargerId,
    /// Which connector.
    pub connector: ConnectorNo,
    /// Who pays.
    pub account: AccountId,
    /// Idempotency key.
    pub key: String,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Operating-system process.
    pub pid: u32,
    /// Counts starts of this node on its store.
    pub incarnation: u64,
    /// When this process began to serve.
    pub started_at: Timestamp,
    /// Shards open / wanted.
    pub shards_open: usize,
    /// Shards this node should have open.
    pub shards_wanted: usize,
    /// Journal frames not yet in the read models.
    pub projection_lag: u64,
    /// Sessions that are not settled.
    pub open_sessions: usize,
    /// Program version and commit.
    pub version: String,
}

/// Whether the node serves, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// True when every wanted shard is open, the lease is good and the broker link is up.
    pub ready: bool,
    /// What is missing.
    pub reasons: Vec<String>,
}

/// How a catalogue is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Only tell what would change.
    pub dry_run: bool,
    /// A catalogue without a station is meant, also where there are some.
    pub allow_empty: bool,
}

/// What applying a catalogue changes: lines such as `+ charger main/c1`, `~ station main/s1: limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueDiff {
    /// Version before.
    pub from_version: u64,
    /// Version after (the same on a dry run or when nothing changes).
    pub to_version: u64,
    /// Lines of difference.
    pub changes: Vec<String>,
}

/// What an enrolment hands out, once. Never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The gateway.
    pub gateway: GatewayId,
    /// Its number in envelope headers.
    pub number: u64,
    /// Its station's shard, four hex digits.
    pub shard: String,
    /// The key's epoch.
    pub key_epoch: u32,
    /// Enrolment counter.
    pub incarnation: u32,
    /// Root key, 64 hex digits.
    pub key: String,
    /// Broker user name.
    pub username: String,
    /// Broker password.
    pub password: String,
    /// MQTT client id to use.
    pub client_id: String,
    /// Its chargers: child, charger, and what the catalogue says of it that a gateway must know.
    pub children: Vec<(u16, ChargerId, ChildTerms)>,
}

/// What a gateway must know of a charger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildTerms {
    /// Most power it can give.
    pub rated: Watts,
    /// Least power it can charge with.
    pub min: Watts,
    /// What it falls to when its grants have ended while it charges.
    pub fallback: Watts,
    /// Number of connectors, from 1.
    pub connectors: u8,
}
