//! Grants as leases on the gateway's monotonic clock, and the allowances of sessions.
//!
//! The gateway's half of POWER-1: a charger's limit is its grant until the grant ends, its fallback afterwards,
//! and nothing while nothing charges. A grant counts from the sending of the beat it answers, so delay on the
//! way only shortens it. What comes from a lower epoch, or answers no beat of this boot, is dropped; a newer
//! decrease is always obeyed, because less is always safe.

use crate::config::ChildConfig;
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::units::{Mono, WattHours, Watts};
use chargeplane_protocol::limits::MAX_LEASE_MS;
use chargeplane_protocol::message::{GrantEntry, Grants};
use std::collections::BTreeMap;

/// Beats remembered at most; the oldest are too old to be answered long before.
const MAX_BEATS: usize = 1_024;

/// What became of a grants message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its entries are in force.
    Applied,
    /// It answers no beat of this boot in time: only its decreases are in force.
    DecreasesOnly,
    /// From a former owner.
    LowerEpoch,
    /// Older than one already taken.
    Stale,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    w: Watts,
    ends: Mono,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    start: WattHours,
    since: Mono,
    allowance: Option<WattHours>,
    stopping: bool,
}

#[derive(Debug)]
struct Child {
    config: ChildConfig,
    lease: Option<Lease>,
    charging: bool,
    session: Option<Session>,
    /// The allowance in a start command that is being carried out.
    ordered: Option<(SessionId, WattHours)>,
    /// Without any grant since the session began: nothing until then, the fallback afterwards.
    waits_until: Option<Mono>,
    told: Option<(Watts, Option<WattHours>)>,
}

impl Child {
    fn limit(&self, now: Mono) -> Watts {
        if let Some(lease) = self.lease
            && now < lease.ends
        {
            return lease.w.min(self.config.rated);
        }
        let active = self.charging || self.session.is_some();
        if !active || self.waits_until.is_some_and(|until| now < until) {
            return Watts::ZERO;
        }
        self.config.fallback
    }

    fn allowance(&self) -> Option<WattHours> {
        self.session.as_ref().and_then(|session| session.allowance)
    }
}

/// A change the hardware must be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub child: u16,
    pub watts: Watts,
    pub allowance: Option<WattHours>,
}

/// The grant table of a gateway.
#[derive(Debug)]
pub(crate) struct Leases {
    boot: u32,
    beats: BTreeMap<u64, Mono>,
    epoch_seen: u64,
    last: (u64, u64),
    children: BTreeMap<u16, Child>,
    expired: u64,
}

impl Leases {
    pub fn new(boot: u32, configs: &BTreeMap<u16, ChildConfig>) -> Self {
        let child = |config: &ChildConfig| Child {
            config: *config,
            lease: None,
            charging: false,
            session: None,
            ordered: None,
            waits_until: None,
            told: None,
        };
        Self {
            boot,
            beats: BTreeMap::new(),
            epoch_seen: 0,
            last: (0, 0),
            children: configs.iter().map(|(number, config)| (*number, child(config))).collect(),
            expired: 0,
        }
    }

    pub fn knows(&self, child: u16) -> bool {
        self.children.contains_key(&child)
    }

    /// Highest epoch heard of.
    pub fn epoch_seen(&self) -> u64 {
        self.epoch_seen
    }

    /// A message of this epoch was authenticated. False when it comes from a former owner.
    pub fn see_epoch(&mut self, epoch: u64) -> bool {
        self.epoch_seen = self.epoch_seen.max(epoch);
        epoch == self.epoch_seen
    }

    /// The newest grants taken under the present epoch, for the beat.
    pub fn applied_seq(&self) -> u64 {
        if self.last.0 == self.epoch_seen { self.last.1 } else { 0 }
    }

    /// A beat leaves.
    pub fn on_beat(&mut self, now: Mono, nonce: u64) {
        self.beats.insert(nonce, now);
        let oldest = |at: &Mono| now.since(*at) > u64::from(MAX_LEASE_MS);
        while self.beats.len() > MAX_BEATS || self.beats.first_key_value().is_some_and(|(_, at)| oldest(at)) {
            self.beats.pop_first();
        }
    }

    /// When a beat of this boot left; none for one of another boot, or one that is forgotten.
    pub fn beat_sent(&self, boot: u32, nonce: u64) -> Option<Mono> {
        if boot == self.boot { self.beats.get(&nonce).copied() } else { None }
    }

    /// Grants arrived and were authenticated.
    pub fn on_grants(&mut self, now: Mono, grants: &Grants) -> Verdict {
        if !self.see_epoch(grants.epoch) {
            return Verdict::LowerEpoch;
        }
        if (grants.epoch, grants.seq) <= self.last {
            return Verdict::Stale;
        }
        self.last = (grants.epoch, grants.seq);
        let beat = self.beat_sent(grants.boot, grants.answers_nonce);
        let term = u64::from(grants.lease_ms.min(MAX_LEASE_MS));
        let answered = beat.map(|sent| (sent, sent.plus_ms(term))).filter(|(_, ends)| *ends > now);
        for entry in &grants.entries {
            let Some(child) = self.children.get_mut(&entry.child) else {
                continue;
            };
            match answered {
                Some((sent, ends)) => grant(child, entry, sent, ends),
                None => decrease(child, entry, now, now.plus_ms(term)),
            }
        }
        if answered.is_some() { Verdict::Applied } else { Verdict::DecreasesOnly }
    }

    /// A start command is carried out; its session may take this much.
    pub fn on_start_ordered(&mut self, child: u16, session: &SessionId, allowance: WattHours) {
        if let Some(child) = self.children.get_mut(&child) {
            child.ordered = Some((session.clone(), allowance));
        }
    }

    /// A session began, or went on through a restart of the gateway.
    pub fn on_session_started(
        &mut self,
        now: Mono,
        child: u16,
        session: &SessionId,
        start: WattHours,
        allowance: Option<WattHours>,
        first_grant_wait_ms: u64,
    ) {
        let Some(child) = self.children.get_mut(&child) else {
            return;
        };
        let ordered = child.ordered.take().filter(|(id, _)| id == session).map(|(_, allowance)| allowance);
        let allowance = allowance.or(ordered);
        child.session = Some(Session { id: session.clone(), start, since: now, allowance, stopping: false });
        if child.lease.is_none() {
            child.waits_until = Some(now.plus_ms(first_grant_wait_ms));
        }
    }

    pub fn on_session_stopped(&mut self, child: u16, session: &SessionId) {
        if let Some(child) = self.children.get_mut(&child)
            && child.session.as_ref().is_some_and(|open| open.id == *session)
        {
            child.session = None;
            child.waits_until = None;
        }
    }

    pub fn on_charging(&mut self, child: u16, charging: bool) {
        if let Some(child) = self.children.get_mut(&child) {
            child.charging = charging;
        }
    }

    /// A reading of the register. Returns the session that must stop now, once.
    pub fn on_register(&mut self, child: u16, register: WattHours) -> Option<SessionId> {
        let session = self.children.get_mut(&child)?.session.as_mut()?;
        let taken = register.saturating_sub(session.start);
        if session.stopping || session.allowance.is_none_or(|allowance| taken < allowance) {
            return None;
        }
        session.stopping = true;
        Some(session.id.clone())
    }

    /// Ends what is over, and returns every limit that differs from what the hardware was told.
    pub fn refresh(&mut self, now: Mono) -> Vec<Limit> {
        let mut changes = Vec::new();
        for (number, child) in &mut self.children {
            if child.lease.is_some_and(|lease| lease.ends <= now) {
                child.lease = None;
                child.waits_until = None;
                self.expired += u64::from(child.charging || child.session.is_some());
            }
            child.waits_until = child.waits_until.filter(|until| now < *until);
            let limit = (child.limit(now), child.allowance());
            if child.told != Some(limit) {
                child.told = Some(limit);
                changes.push(Limit { child: *number, watts: limit.0, allowance: limit.1 });
            }
        }
        changes
    }

    /// When the next limit ends.
    pub fn deadline(&self) -> Option<Mono> {
        let ends = |child: &Child| child.lease.map(|lease| lease.ends).into_iter().chain(child.waits_until);
        self.children.values().flat_map(ends).min()
    }

    /// For the beat: the limit in force and what is left of the lease behind it.
    pub fn in_force(&self, now: Mono, child: u16) -> (Watts, u32) {
        let Some(child) = self.children.get(&child) else {
            return (Watts::ZERO, 0);
        };
        let left = child.lease.map_or(0, |lease| lease.ends.since(now));
        (child.limit(now), u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Leases that ended by time under a charging car.
    pub fn expired(&self) -> u64 {
        self.expired
    }
}

fn grant(child: &mut Child, entry: &GrantEntry, sent: Mono, ends: Mono) {
    child.lease = Some(Lease { w: entry.w, ends });
    child.waits_until = None;
    // An allowance that answers a beat from before the session is another session's.
    if let (Some(session), Some(allowance)) = (&mut child.session, entry.allowance)
        && session.since <= sent
    {
        session.allowance = Some(allowance);
    }
}

/// Takes what is less than what is in force, and nothing else. The lease keeps its end.
fn decrease(child: &mut Child, entry: &GrantEntry, now: Mono, ends: Mono) {
    if entry.w < child.limit(now) {
        let in_force = child.lease.filter(|lease| now < lease.ends);
        let ends = in_force.map_or(ends, |lease| lease.ends);
        child.lease = Some(Lease { w: entry.w, ends });
    }
}

#[cfg(test)]
mod tests;
