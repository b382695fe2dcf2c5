//! From targets to grant messages: decreases at once, increases only into room, ceilings before both.

use super::books::{Gate, Message, Pile, UNLISTED, round_up};
use super::{StationEffect, StationPower};
use crate::units::{Mono, Watts};

/// For how long a ceiling must have been too high before it is lowered, and the shortest time between two
/// batches that only lower.
const ROOMY_MS: u64 = 60_000;

impl Pile {
    /// Ceilings come in quarters of the rating, so that the journal hears of a charger a few times a session.
    fn ceiling_for(&self, watts: i64) -> i64 {
        let quarter = round_up((self.rated / 4).max(1), self.step);
        round_up(watts, quarter).min(self.rated)
    }
}

impl StationPower {
    /// Answers a gateway's latest beat. Until the gateway has shown that it heard of this machine, without
    /// entries: its beat may be an old one, overtaken by others that only our predecessor has seen, and what
    /// it reports as in force may since have been lowered and given to somebody else.
    pub(super) fn answer(&mut self, gate: usize, effects: &mut Vec<StationEffect>) {
        let Some(now) = self.books.gates[gate].heard else { return };
        if !self.books.gates[gate].ours {
            return self.send(gate, &[], effects);
        }
        let piles = self.books.gates[gate].piles.clone();
        let offers = self.offer(now, piles);
        self.send(gate, &offers, effects);
    }

    /// Sends to every gateway that can be heard and whose grants have changed.
    pub(super) fn spread(&mut self, now: Mono, effects: &mut Vec<StationEffect>) {
        let reached = |gate: &Gate| gate.ours && gate.live(now, self.config.silent_ms);
        let live: Vec<bool> = self.books.gates.iter().map(reached).collect();
        let piles = self.books.piles.iter().enumerate();
        let reachable = piles.filter(|(_, pile)| live[pile.gate]).map(|(at, _)| at).collect();
        let mut by_gate: Vec<Vec<(usize, i64)>> = vec![Vec::new(); live.len()];
        let mut changed = vec![false; live.len()];
        for (at, watts) in self.offer(now, reachable) {
            let pile = &self.books.piles[at];
            changed[pile.gate] |= watts != UNLISTED && watts != pile.sent;
            by_gate[pile.gate].push((at, watts));
        }
        for (gate, offers) in by_gate.iter().enumerate() {
            if changed[gate] {
                self.send(gate, offers, effects);
            }
        }
    }

    /// What to tell these chargers now, with the room for it taken. Who has least for its weight is served
    /// first.
    fn offer(&mut self, now: Mono, mut piles: Vec<usize>) -> Vec<(usize, i64)> {
        let key = |at: &usize| {
            let pile = &self.books.piles[*at];
            (pile.sent / i64::from(pile.weight), *at)
        };
        piles.sort_unstable_by_key(key);
        piles
            .into_iter()
            .map(|at| {
                let watts = self.next(now, at);
                if watts > 0 {
                    let pile = &mut self.books.piles[at];
                    pile.reserved = true;
                    let worst = pile.worst.max(watts).max(pile.fallback);
                    self.books.set_worst(at, worst);
                }
                (at, watts)
            })
            .collect()
    }

    /// What to tell a charger now, or [`UNLISTED`] to leave it as it is.
    fn next(&self, now: Mono, at: usize) -> i64 {
        let pile = &self.books.piles[at];
        let known = pile.known(now, self.books.gates[pile.gate].listed(pile.slot));
        if !pile.charging {
            // Nothing is left in force for the next session, and it begins with a lease that is fresh: when a
            // lease ends, the fallback begins, and there may be no room for it yet.
            return 0;
        }
        let want = pile.target.min(pile.ceiling).div_euclid(pile.step) * pile.step;
        let want = if want < pile.least { 0 } else { want };
        if want <= known {
            return want; // down, or up to what it may have anyway
        }
        let room = self.books.room(at);
        let rise = (want.max(pile.fallback) - pile.worst).max(0);
        if room >= rise {
            return want;
        }
        let part = if room > 0 { (pile.worst + room).div_euclid(pile.step) * pile.step } else { 0 };
        let stays = known.div_euclid(pile.step) * pile.step;
        match part.min(want).max(stays) {
            give if give >= pile.least && give > 0 => give,
            _ => UNLISTED,
        }
    }

    fn send(&mut self, gate: usize, offers: &[(usize, i64)], effects: &mut Vec<StationEffect>) {
        let slots = self.books.gates[gate].piles.len();
        let mut watts = vec![UNLISTED; slots];
        let mut entries = Vec::with_capacity(offers.len());
        for (at, offered) in offers {
            if *offered != UNLISTED {
                let pile = &mut self.books.piles[*at];
                pile.sent = *offered;
                watts[pile.slot] = *offered;
                entries.push((pile.child, Watts(*offered)));
            }
        }
        entries.sort_unstable();
        let counted_ms = self.books.counted_ms;
        let to = &mut self.books.gates[gate];
        let Some(heard) = to.heard else { return };
        to.seq += 1;
        if !entries.is_empty() {
            let until = heard.plus_ms(counted_ms).0;
            to.leases_until = to.leases_until.max(until);
            to.outstanding.push(Message { seq: to.seq, until, watts });
        }
        effects.push(StationEffect::SendGrants {
            gateway: to.id.clone(),
            answers_nonce: to.nonce,
            boot: to.boot,
            seq: to.seq,
            lease_ms: self.config.lease_ms,
            entries,
        });
    }

    /// Asks for higher ceilings where the plan needs them, and takes the occasion to lower those that have
    /// long been too high: a new owner counts them until it hears more.
    pub(super) fn ask_ceilings(&mut self, now: Mono, effects: &mut Vec<StationEffect>) {
        if self.asking {
            return;
        }
        let (mut raised, mut lowered) = (Vec::new(), Vec::new());
        for (at, pile) in self.books.piles.iter_mut().enumerate() {
            if !pile.active() {
                continue;
            }
            if pile.target > pile.ceiling {
                raised.push((pile.id.clone(), Watts(pile.ceiling_for(pile.target))));
                continue;
            }
            let enough = pile.ceiling_for(pile.target.max(pile.worst));
            if enough >= pile.ceiling {
                pile.roomy_since = 0;
            } else if pile.roomy_since == 0 {
                pile.roomy_since = now.0.max(1);
            } else if now.0.saturating_sub(pile.roomy_since) >= ROOMY_MS {
                lowered.push((at, enough));
            }
        }
        if raised.is_empty() && (lowered.is_empty() || now.since(self.asked_at) < ROOMY_MS) {
            return;
        }
        for (at, enough) in lowered {
            // From here on no grant exceeds the lower one; until it is durable the higher one is kept.
            let pile = &mut self.books.piles[at];
            (pile.ceiling, pile.roomy_since) = (enough, 0);
            raised.push((pile.id.clone(), Watts(enough)));
        }
        (self.asking, self.asked_at) = (true, now);
        effects.push(StationEffect::RaiseCeilings(raised));
    }
}
