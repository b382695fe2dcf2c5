//! The catalogue: what exists. Stations with their trees of limits, chargers, gateways and tariffs.
//!
//! One validated value, replaced as a whole. Validation names the path of what is wrong and what to write.

use crate::allocation::Policy;
use crate::ids::{AccountId, ChargerId, GatewayId, OperatorId, StationId, TariffId};
use crate::split::Split;
use crate::tariff::book::TariffBook;
use crate::tariff::{Tariff, zone};
use crate::units::{Timestamp, Watts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that exists, of all tenants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Tariffs by id.
    #[serde(default)]
    pub tariffs: BTreeMap<TariffId, Tariff>,
    /// Which tariff goes before a station's own: by station group, customer group and validity.
    #[serde(default, skip_serializing_if = "TariffBook::is_default")]
    pub tariff_book: TariffBook,
    /// Stations by id.
    #[serde(default)]
    pub stations: BTreeMap<StationId, Station>,
    /// Gateways by id.
    #[serde(default)]
    pub gateways: BTreeMap<GatewayId, Gateway>,
    /// Chargers by id.
    #[serde(default)]
    pub chargers: BTreeMap<ChargerId, Charger>,
}

impl Catalogue {
    /// The tariff in force at a station for an account: of the first rule of the book that fits, else the station's.
    /// None when the catalogue has no such station or tariff, or the station's time zone cannot be read while there
    /// are rules.
    pub fn tariff_for(&self, station: &StationId, account: &AccountId, at: Timestamp) -> Option<&Tariff> {
        let own = self.stations.get(station)?;
        let ruled = if self.tariff_book.is_empty() {
            None
        } else {
            self.tariff_book.select(station, account, &zone::parse(&own.time_zone).ok()?, at)
        };
        self.tariffs.get(ruled.unwrap_or(&own.tariff))
    }
}

/// A station: one grid connection and the tree of limits behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Who earns the revenue.
    pub operator: OperatorId,
    /// The city, for reports.
    #[serde(default)]
    pub city: String,
    /// IANA time zone, such as `Asia/Shanghai`. The tariff's slots are read in it.
    pub time_zone: String,
    /// The tariff in force, unless a rule of the tariff book goes before it.
    pub tariff: TariffId,
    /// How the revenue is shared by agreement; everything is the operator's when left out.
    #[serde(default)]
    pub split: Option<Split>,
    /// The tree: exactly one node has no parent (the grid connection).
    pub limits: Vec<LimitNode>,
    /// What is done with its power beyond the tree.
    #[serde(default, skip_serializing_if = "PowerSettings::is_default")]
    pub power: PowerSettings,
}

/// What a station does with its power beyond its tree of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PowerSettings {
    /// How power is shared.
    pub policy: SharePolicy,
    /// Lower limits by time of day, in the station's zone.
    pub schedule: Vec<ScheduledLimit>,
}

impl PowerSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a station's power is shared by weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharePolicy {
    /// Weighted max-min: nobody can be raised without lowering somebody who has less by weight.
    #[default]
    Fair,
    /// A little less equal, for more energy where limits cross the tree; on a pure tree the same.
    Proportional,
    /// Higher weights are served in full before lower ones get anything.
    Strict,
}

impl From<SharePolicy> for Policy {
    fn from(policy: SharePolicy) -> Self {
        match policy {
            SharePolicy::Fair => Self::Fair,
            SharePolicy::Proportional => Self::Proportional,
            SharePolicy::Strict => Self::Strict,
        }
    }
}

/// A lower limit every day between two times of the station's wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduledLimit {
    /// The node.
    pub node: String,
    /// From this time of day on, `17:00`.
    pub from: DayTime,
    /// Until before this time of day, `21:30`; at or before `from`: of the next day.
    pub until: DayTime,
    /// Most power through the node.
    pub limit_w: Watts,
}

impl ScheduledLimit {
    /// Whether it counts at a minute of the day, from 0.
    pub fn covers(&self, minute: u16) -> bool {
        let (from, until) = (self.from.0, self.until.0);
        if from < until { (from..until).contains(&minute) } else { minute >= from || minute < until }
    }
}

/// A time of day in minutes, 00:00 to 24:00, written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DayTime(pub u16);

/// Why a text is no time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time of day: write HH:MM, 00:00 to 24:00")]
pub struct DayTimeError(String);

impl TryFrom<String> for DayTime {
    type Error = DayTimeError;

    fn try_from(text: String) -> Result<Self, DayTimeError> {
        let minutes = || {
            let (hours, minutes) = text.split_once(':')?;
            let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            let (hours, minutes) = (Some(hours).filter(|h| digits(h))?, Some(minutes).filter(|m| digits(m))?);
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            let all = hours.checked_mul(60)?.checked_add(minutes)?;
            (minutes < 60 && all <= 24 * 60).then_some(Self(all))
        };
        minutes().ok_or_else(|| DayTimeError(text.chars().take(20).collect()))
    }
}

impl From<DayTime> for String {
    fn from(time: DayTime) -> Self {
        time.to_string()
    }
}

impl std::fmt::Display for DayTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// One node of a station's tree of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitNode {
    /// Name within the station.
    pub id: String,
    /// The node above, none for the grid connection.
    #[serde(default)]
    pub parent: Option<String>,
    /// Most power that may flow through this node.
    pub limit_w: Watts,
    /// Load at this node that Chargeplane does not control.
    #[serde(default)]
    pub base_w: Watts,
}

/// A gateway and the station it serves. Keys and passwords are not part of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The station whose chargers it speaks for.
    pub station: StationId,
}

/// A charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charger {
    /// The gateway that speaks for it (and so the station).
    pub gateway: GatewayId,
    /// Its number at that gateway, from 0, unique there: the `child` of wire items.
    pub child: u16,
    /// The node of the station's tree it hangs from.
    pub limit: String,
    /// Most power it can give.
    pub rated_w: Watts,
    /// Least power it can charge with.
    pub min_w: Watts,
    /// Grants are multiples of this.
    #[serde(default = "default_step")]
    pub step_w: Watts,
    /// What it may draw when its gateway is cut off and its grants have ended; 0 or at least `min_w`.
    pub fallback_w: Watts,
    /// Share weight; 100 is normal.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Number of connectors, from 1.
    #[serde(default = "default_connectors")]
    pub connectors: u8,
}

fn default_step() -> Watts {
    Watts(100)
}

fn default_weight() -> u32 {
    100
}

fn default_connectors() -> u8 {
    1
}
