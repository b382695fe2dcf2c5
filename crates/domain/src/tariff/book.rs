//! Which tariff is in force where, for whom and when.
//!
//! A station has a tariff; the book has rules that go before it. A rule names a tariff and whatever of station group,
//! customer group and validity it depends on, and the first that fits is taken. It is asked once, when a session is
//! asked for: the tariff is part of the session's start event, so a change never touches a running session.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::ids::{AccountId, StationId, TariffId};
use crate::tariff::zone::TimeZone;
use crate::units::Timestamp;
use jiff::civil;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Rules of a catalogue; each start looks through them.
pub const MAX_RULES: usize = 1_000;

/// Groups by name, and the rules in the order in which they are looked through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TariffBook {
    /// Stations by group. A station may be in several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub station_groups: BTreeMap<String, BTreeSet<StationId>>,
    /// Accounts by group. An account may be in several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub customer_groups: BTreeMap<String, BTreeSet<AccountId>>,
    /// The rules: the first that fits is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<TariffRule>,
}

/// A tariff with the conditions under which it goes before the station's own. What is left out does not matter.
/// A rule is for stations of its tariff's tenant only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TariffRule {
    /// The tariff.
    pub tariff: TariffId,
    /// Only at stations of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station_group: Option<String>,
    /// Only for accounts of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_group: Option<String>,
    /// From this moment, as a clock at the station shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<LocalMoment>,
    /// Until before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<LocalMoment>,
}

/// A date and time of a station's wall clock, `2026-01-01T00:00`. Where the clock is set forward over it, the moment is
/// as much later; where the clock shows it twice, it is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalMoment(civil::DateTime);

/// A text that is no local moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a local date and time: expected one without a zone, such as 2026-01-01T00:00")]
pub struct LocalMomentError {
    /// The text, shortened.
    pub found: String,
}

impl TryFrom<String> for LocalMoment {
    type Error = LocalMomentError;

    fn try_from(text: String) -> Result<Self, LocalMomentError> {
        // A zone in the text would be read over: the moment would be another than what was written.
        let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'T'));
        let offset = text.split_once('T').is_none_or(|(_, time)| time.contains('-'));
        let parsed = text.parse::<civil::DateTime>().ok().filter(|_| plain && !offset);
        parsed.map(Self).ok_or_else(|| LocalMomentError { found: text.chars().take(40).collect() })
    }
}

impl From<LocalMoment> for String {
    fn from(moment: LocalMoment) -> Self {
        moment.to_string()
    }
}

impl fmt::Display for LocalMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LocalMoment {
    /// When a clock in the zone shows it: a moment at the end of time that no zone can have is never reached.
    fn in_zone(self, zone: &TimeZone) -> Timestamp {
        zone.to_timestamp(self.0).map_or(Timestamp(i64::MAX), |at| Timestamp(at.as_millisecond()))
    }
}

impl TariffBook {
    /// True without groups and rules, as in a catalogue that has no book.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// True without any rule: groups alone choose nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The tariff of the first rule that fits, or none: then the station's own is in force.
    pub fn select(
        &self,
        station: &StationId,
        account: &AccountId,
        zone: &TimeZone,
        at: Timestamp,
    ) -> Option<&TariffId> {
        let fits = |rule: &&TariffRule| {
            rule.tariff.tenant() == station.tenant()
                && has(&self.station_groups, rule.station_group.as_ref(), station)
                && has(&self.customer_groups, rule.customer_group.as_ref(), account)
                && rule.valid_from.is_none_or(|from| at >= from.in_zone(zone))
                && rule.valid_until.is_none_or(|until| at < until.in_zone(zone))
        };
        self.rules.iter().find(fits).map(|rule| &rule.tariff)
    }
}

/// Whether a member is in the group that a rule asks for, if it asks.
fn has<T: Ord>(groups: &BTreeMap<String, BTreeSet<T>>, asked: Option<&String>, member: &T) -> bool {
    asked.is_none_or(|name| groups.get(name).is_some_and(|group| group.contains(member)))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
