//! What one run of the fleet is made of: a JSON file, written by the drill, read once, checked as a whole.
//!
//! ```json
//! {
//!   "version": 1,
//!   "brokers": ["127.0.0.1:18830"],
//!   "seed": 1, "seconds": 120, "time_compression": 60, "keep": false,
//!   "out_dir": "/tmp/run/fleet", "sessions_csv": "scenarios/data/caltech-2019-03-sessions.csv",
//!   "gateways": [{"id": "main/gw-01", "shard": "001f", "key": "<64 hex digits>", "key_epoch": 1,
//!                 "password": "...", "ring_dir": "/tmp/run/rings/gw-01"}],
//!   "chargers": [{"id": "main/c-0001", "gateway": "main/gw-01", "child": 0, "rated_w": 120000, "min_w": 12000,
//!                 "fallback_w": 0, "limit": "cabinet-01"}],
//!   "limits": [{"id": "grid", "parent": null, "limit_w": 60000000, "base_w": 0}],
//!   "rich_accounts": ["main/a-1"],
//!   "poor_accounts": [{"account": "main/p-1", "balance": 4500}],
//!   "max_price": 18000, "min_price": 12000,
//!   "cuts": [{"gateway": "main/gw-01", "at_s": 50, "for_s": 10}],
//!   "plan": {"faults": 30, "poor": 30, "late": 20, "late_stop_ms": 15000, "next_per_second": 16}
//! }
//! ```
//!
//! Money is in 1/10,000 of the currency unit, prices are per kWh (energy and service fee together), `key` is the
//! gateway's enrolment key. Unknown members are refused.

use chargeplane_domain::catalogue::LimitNode;
use chargeplane_domain::ids::{AccountId, ChargerId, GatewayId};
use chargeplane_domain::units::{Money, WattHours, Watts};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The schema this program reads.
pub const CONFIG_VERSION: u32 = 1;

/// The run the windows of the schedule are drawn for, in seconds. Shorter runs are drawn closer together.
pub const NOMINAL_SECONDS: u32 = 120;

/// The fleet the counts of the schedule are given for.
pub const NOMINAL_CHARGERS: u32 = 2_000;

/// What a poor driver's balance should buy at the highest price in a run of [`NOMINAL_SECONDS`], in Wh: enough to
/// be still charging when everybody is on, too little to get through. See [`poor_energy`].
pub const POOR_WH: i64 = 250;

/// Everything a run needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// Schema version, [`CONFIG_VERSION`].
    pub version: u32,
    /// Broker addresses, `host:port`; gateway `i` uses number `i` modulo their count.
    pub brokers: Vec<String>,
    /// Seed of arrivals, needs, faults and driver's patience.
    pub seed: u64,
    /// Length of the run before it closes, in seconds, from 5.
    #[serde(default = "default_seconds")]
    pub seconds: u32,
    /// How many times faster than life stays and energies go. Power and protocol timing are never compressed.
    #[serde(default = "default_compression")]
    pub time_compression: u32,
    /// Where the evidence is written. Created when missing.
    pub out_dir: PathBuf,
    /// The recorded sessions.
    pub sessions_csv: PathBuf,
    /// Stay after the drain and serve remote starts until standard input closes.
    #[serde(default)]
    pub keep: bool,
    /// How long the drain waits without any progress before it gives up, in seconds.
    #[serde(default = "default_drain")]
    pub drain_s: u64,
    /// Whether samples in the rings are synced to disk every second, as on a gateway with a disk of its own. Events
    /// and commands always are.
    #[serde(default)]
    pub sync_samples: bool,
    /// The gateways.
    pub gateways: Vec<GatewayConfig>,
    /// The chargers. Their order here is their number in the schedule.
    pub chargers: Vec<ChargerConfig>,
    /// The station's tree of limits, for measuring load. Exactly one node has no parent.
    pub limits: Vec<LimitNode>,
    /// Accounts whose money never ends, handed out in turn.
    pub rich_accounts: Vec<AccountId>,
    /// Accounts whose money ends in mid-session, one driver each.
    #[serde(default)]
    pub poor_accounts: Vec<PoorAccount>,
    /// Highest price of a kWh in the tariff.
    pub max_price: Money,
    /// Lowest price of a kWh in the tariff; the highest one when left out.
    #[serde(default)]
    pub min_price: Option<Money>,
    /// Link cuts.
    #[serde(default)]
    pub cuts: Vec<Cut>,
    /// How much of what the schedule holds.
    #[serde(default)]
    pub plan: Plan,
}

fn default_seconds() -> u32 {
    NOMINAL_SECONDS
}

fn default_compression() -> u32 {
    60
}

fn default_drain() -> u64 {
    60
}

/// A gateway as it was enrolled.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its id.
    pub id: GatewayId,
    /// The station's shard, four hex digits, as in topics.
    pub shard: String,
    /// Its root key, 64 hex digits.
    pub key: String,
    /// The epoch of the key.
    pub key_epoch: u32,
    /// Its password at the broker.
    pub password: String,
    /// Directory of its ring; created when missing.
    pub ring_dir: PathBuf,
}

/// Not the key: a configuration may end up in a log.
impl std::fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayConfig {{ id: {}, shard: {}, .. }}", self.id, self.shard)
    }
}

impl GatewayConfig {
    /// The shard's number.
    pub fn shard_number(&self) -> Option<u16> {
        Some(&self.shard).filter(|shard| shard.len() == 4).and_then(|shard| u16::from_str_radix(shard, 16).ok())
    }

    /// The bytes of the root key.
    pub fn root(&self) -> Option<[u8; 32]> {
        let mut root = [0; 32];
        if self.key.len() != 64 || !self.key.is_ascii() {
            return None;
        }
        for (i, byte) in root.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&self.key[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(root)
    }
}

/// A charger, as in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargerConfig {
    /// Its id.
    pub id: ChargerId,
    /// Its gateway.
    pub gateway: GatewayId,
    /// Its number at the gateway.
    pub child: u16,
    /// Most power it can give.
    pub rated_w: Watts,
    /// Least power it can charge with.
    pub min_w: Watts,
    /// What it falls to when its grants have ended.
    #[serde(default)]
    pub fallback_w: Watts,
    /// The node of the tree it hangs from.
    pub limit: String,
}

/// An account with little money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoorAccount {
    /// The account.
    pub account: AccountId,
    /// What is on it.
    pub balance: Money,
}

/// A gateway loses its link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Which one.
    pub gateway: GatewayId,
    /// When, in seconds from the start.
    pub at_s: u32,
    /// For how long, in seconds.
    pub for_s: u32,
}

/// Counts of the schedule; what is left out follows from the size and length of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Faults to inject.
    pub faults: Option<u32>,
    /// Drivers whose money ends.
    pub poor: Option<u32>,
    /// Of them, those whose charger stops late when the money ends.
    #[serde(default)]
    pub late: u32,
    /// How late, ms.
    #[serde(default)]
    pub late_stop_ms: u64,
    /// Drivers a second that come for the chargers that become free, for a fleet of [`NOMINAL_CHARGERS`].
    pub next_per_second: Option<u32>,
}

/// A configuration that cannot be run: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the member.
    pub at: String,
    /// What is wrong and what to write.
    pub what: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl std::error::Error for ConfigError {}

fn fail(at: impl Into<String>, what: impl Into<String>) -> ConfigError {
    ConfigError { at: at.into(), what: what.into() }
}

/// Energy that a poor driver's balance should buy at the highest price, for a run of `seconds`. Short runs give a
/// car little energy, but the node wants a reserve in every hold, so it never falls below 120 Wh.
pub fn poor_energy(seconds: u32) -> WattHours {
    let share = i64::from(seconds.min(NOMINAL_SECONDS));
    WattHours((POOR_WH * share / i64::from(NOMINAL_SECONDS)).max(120))
}

impl FleetConfig {
    /// Reads and checks a configuration.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(text).map_err(|e| fail("configuration", e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Numbers of the run: (seconds of the run) / [`NOMINAL_SECONDS`], at most one, in 1/1000. Windows and energies
    /// of the schedule are multiplied by it.
    pub fn pace_permille(&self) -> i64 {
        i64::from(self.seconds.min(NOMINAL_SECONDS)) * 1_000 / i64::from(NOMINAL_SECONDS)
    }

    /// A count given for the nominal fleet, scaled to this one, at least one.
    pub fn scaled(&self, nominal: u32) -> u32 {
        let chargers = u32::try_from(self.chargers.len()).unwrap_or(u32::MAX);
        (u64::from(nominal) * u64::from(chargers)).div_ceil(u64::from(NOMINAL_CHARGERS)).max(1) as u32
    }

    /// Says what is wrong first, in reading order.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.version != CONFIG_VERSION {
            return Err(fail("version", format!("is {}, this program reads {CONFIG_VERSION}", self.version)));
        }
        if self.brokers.is_empty() {
            return Err(fail("brokers", "is empty; write at least one \"host:port\""));
        }
        if !(5..=86_400).contains(&self.seconds) {
            return Err(fail("seconds", format!("is {}; write 5 to 86400", self.seconds)));
        }
        if self.time_compression == 0 || self.time_compression > 3_600 {
            return Err(fail("time_compression", format!("is {}; write 1 to 3600", self.time_compression)));
        }
        self.check_limits()?;
        self.check_hardware()?;
        self.check_money()?;
        for (i, cut) in self.cuts.iter().enumerate() {
            if !self.gateways.iter().any(|g| g.id == cut.gateway) {
                return Err(fail(format!("cuts[{i}].gateway"), format!("{} is not in gateways", cut.gateway)));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let mut parents = BTreeMap::new();
        for (i, node) in self.limits.iter().enumerate() {
            if parents.insert(node.id.as_str(), node.parent.as_deref()).is_some() {
                return Err(fail(format!("limits[{i}].id"), format!("{:?} is there twice", node.id)));
            }
        }
        if parents.values().filter(|parent| parent.is_none()).count() != 1 {
            return Err(fail("limits", "exactly one node (the grid connection) must have no parent"));
        }
        for node in &self.limits {
            let mut at = node.id.as_str();
            // A tree of n nodes is at most n deep: whoever climbs longer goes round in a circle.
            for _ in 0..=self.limits.len() {
                match parents.get(at) {
                    Some(Some(parent)) => at = parent,
                    Some(None) => break,
                    None => {
                        return Err(fail(format!("limits {:?}", node.id), format!("no node is called {at:?}")));
                    }
                }
            }
            if parents.get(at) != Some(&None) {
                return Err(fail(format!("limits {:?}", node.id), "its parents form a circle"));
            }
        }
        Ok(())
    }

    fn check_hardware(&self) -> Result<(), ConfigError> {
        let mut gateways = BTreeSet::new();
        for (i, gateway) in self.gateways.iter().enumerate() {
            if !gateways.insert(&gateway.id) {
                return Err(fail(format!("gateways[{i}].id"), format!("{} is there twice", gateway.id)));
            }
            if gateway.shard_number().is_none() {
                let what = format!("{:?}; write four hex digits, such as \"001f\"", gateway.shard);
                return Err(fail(format!("gateways[{i}].shard"), what));
            }
            if gateway.root().is_none() {
                return Err(fail(format!("gateways[{i}].key"), "must be 64 hex digits"));
            }
        }
        if self.chargers.is_empty() {
            return Err(fail("chargers", "is empty"));
        }
        let mut children = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for (i, charger) in self.chargers.iter().enumerate() {
            let at = |member: &str| format!("chargers[{i}].{member}");
            if !gateways.contains(&charger.gateway) {
                return Err(fail(at("gateway"), format!("{} is not in gateways", charger.gateway)));
            }
            if !children.insert((&charger.gateway, charger.child)) || !ids.insert(&charger.id) {
                return Err(fail(at("child"), "this id, or this child of its gateway, is there twice"));
            }
            if !self.limits.iter().any(|node| node.id == charger.limit) {
                return Err(fail(at("limit"), format!("no node of limits is called {:?}", charger.limit)));
            }
            if charger.min_w.0 < 0 || charger.rated_w < charger.min_w || charger.rated_w.0 > 1_000_000 {
                return Err(fail(at("rated_w"), "must be at least min_w and at most 1,000,000 W"));
            }
        }
        Ok(())
    }

    fn check_money(&self) -> Result<(), ConfigError> {
        if self.rich_accounts.is_empty() {
            return Err(fail("rich_accounts", "is empty; somebody has to pay"));
        }
        let lowest = self.min_price.unwrap_or(self.max_price);
        if self.max_price.0 <= 0 || lowest.0 <= 0 || lowest > self.max_price {
            return Err(fail("max_price", "prices must be above zero and min_price at most max_price"));
        }
        if let Some(i) = self.poor_accounts.iter().position(|poor| poor.balance.0 <= 0) {
            return Err(fail(format!("poor_accounts[{i}].balance"), "must be above zero"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
