//! Limits over time: which one is in effect at a node, and which one grants must keep already.
//!
//! A node's limit is the lowest of four: the catalogue's, the catalogue's schedule by time of day, an operator's
//! (perhaps announced for later), and signals, which end by themselves. A grant outlives the moment it is given by a
//! lease. So what grants keep now is the lowest limit that will be in effect until they have ended: when an announced
//! cut comes, nothing above it can be in force any more (POWER-1).

use super::StationState;
use crate::catalogue::{ScheduledLimit, Station};
use crate::tariff::zone::{self, TimeZone};
use crate::units::{Timestamp, Watts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A minute, the grain of schedules.
const MINUTE_MS: i64 = 60_000;

/// A limit that an operator set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorLimit {
    /// Most power through the node.
    pub limit: Watts,
    /// Who set it, by the scope of the token.
    pub by: String,
    /// When it was set.
    pub at: Timestamp,
    /// In effect from then on; none: since it was set.
    pub from: Option<Timestamp>,
    /// What an operator had set before, in effect until `from`.
    pub before: Option<Watts>,
}

impl OperatorLimit {
    /// What is set at a moment; none: what the catalogue says.
    pub fn at(&self, at: Timestamp) -> Option<Watts> {
        if self.from.is_none_or(|from| from <= at) { Some(self.limit) } else { self.before }
    }
}

/// A limit for a time that ends by itself: a grid operator's or an aggregator's signal (demand response).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSignal {
    /// The node.
    pub node: String,
    /// Most power through it.
    pub limit: Watts,
    /// From then on.
    pub from: Timestamp,
    /// Until before then.
    pub until: Timestamp,
    /// Who sent it, by the scope of the token.
    pub by: String,
    /// When it came.
    pub at: Timestamp,
}

/// Whose limit is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum LimitSource {
    /// The catalogue's.
    Catalogue,
    /// The catalogue's schedule.
    Schedule,
    /// An operator's.
    Operator { by: String },
    /// A signal's, until then.
    Signal { signal: String, until: Timestamp },
}

/// A limit that grants must keep, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitInEffect {
    /// The limit.
    pub limit: Watts,
    /// Whose it is.
    pub source: LimitSource,
    /// It is in effect from then on, and kept before so that no grant outlives its beginning.
    pub from: Option<Timestamp>,
}

/// The part of a station's catalogue that says what limits are when.
#[derive(Debug, Clone, Default)]
pub struct LimitSchedule {
    windows: BTreeMap<String, Vec<ScheduledLimit>>,
    zone: Option<TimeZone>,
}

impl LimitSchedule {
    /// Reads a station. A zone that cannot be read makes every window count all day: the safe side.
    pub fn of(station: &Station) -> Self {
        let mut windows: BTreeMap<String, Vec<ScheduledLimit>> = BTreeMap::new();
        for window in &station.power.schedule {
            windows.entry(window.node.clone()).or_default().push(window.clone());
        }
        Self { windows, zone: zone::parse(&station.time_zone).ok() }
    }

    /// Whether a node has a window.
    pub fn has(&self, node: &str) -> bool {
        self.windows.contains_key(node)
    }

    /// The lowest window at a moment.
    fn at(&self, node: &str, at: Timestamp) -> Option<Watts> {
        let windows = self.windows.get(node)?;
        let minute = self.minute_of_day(at);
        let counts = |window: &&ScheduledLimit| minute.is_none_or(|minute| window.covers(minute));
        windows.iter().filter(counts).map(|window| window.limit_w).min()
    }

    fn minute_of_day(&self, at: Timestamp) -> Option<u16> {
        let moment = jiff::Timestamp::from_millisecond(at.0).ok()?;
        let time = self.zone.as_ref()?.to_datetime(moment).time();
        u16::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).ok()
    }
}

impl StationState {
    /// The limit in effect at a node at a moment. `catalogue` is the node's own limit.
    pub fn limit_at(&self, schedule: &LimitSchedule, node: &str, catalogue: Watts, at: Timestamp) -> LimitInEffect {
        let mut lowest = LimitInEffect { limit: catalogue, source: LimitSource::Catalogue, from: None };
        let mut lower = |limit: Watts, source: LimitSource| {
            if limit < lowest.limit {
                (lowest.limit, lowest.source) = (limit, source);
            }
        };
        if let Some(limit) = schedule.at(node, at) {
            lower(limit, LimitSource::Schedule);
        }
        if let Some(set) = self.limits.get(node)
            && let Some(limit) = set.at(at)
        {
            lower(limit, LimitSource::Operator { by: set.by.clone() });
        }
        for (name, signal) in self.signals.iter().filter(|(_, signal)| signal.node == node) {
            if signal.from <= at && at < signal.until {
                lower(signal.limit, LimitSource::Signal { signal: name.clone(), until: signal.until });
            }
        }
        lowest
    }

    /// The lowest limit at a node from now until `lead_ms` later: what a grant that may last so long must keep.
    pub fn limit_ahead(
        &self,
        schedule: &LimitSchedule,
        node: &str,
        catalogue: Watts,
        now: Timestamp,
        lead_ms: i64,
    ) -> LimitInEffect {
        let mut lowest = self.limit_at(schedule, node, catalogue, now);
        let end = now.plus_ms(lead_ms);
        for at in self.begins(schedule, node, now, end) {
            let then = self.limit_at(schedule, node, catalogue, at);
            if then.limit < lowest.limit {
                lowest = LimitInEffect { from: Some(at), ..then };
            }
        }
        lowest
    }

    /// The moments after `now`, until `end`, at which a lower limit may begin at a node.
    fn begins(&self, schedule: &LimitSchedule, node: &str, now: Timestamp, end: Timestamp) -> Vec<Timestamp> {
        let mut moments: Vec<Timestamp> = Vec::new();
        moments.extend(self.limits.get(node).and_then(|set| set.from));
        moments.extend(self.signals.values().filter(|signal| signal.node == node).map(|signal| signal.from));
        if schedule.has(node) {
            let mut minute = Timestamp(now.0.div_euclid(MINUTE_MS).saturating_add(1).saturating_mul(MINUTE_MS));
            while minute <= end {
                moments.push(minute);
                minute = minute.plus_ms(MINUTE_MS);
            }
        }
        moments.retain(|at| now < *at && *at <= end);
        moments.sort_unstable();
        moments
    }
}

#[cfg(test)]
mod tests;
