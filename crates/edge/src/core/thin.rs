//! Thinning: a ring that fills up keeps all of the newest telemetry and a part of what is older, instead of nothing of it.
//!
//! Once telemetry takes more than its share of the capacity, the oldest batches beyond an age are opened, one reading in
//! so many of each charger is kept, and the others are declared (reason thinned). What is kept goes on in batches of the
//! replay stream with sequences of their own: a sequence is sealed once. Never thinned: events, batches that are under
//! way, batches sealed under a former key. What is still too much is dropped, oldest first, as before.

use super::down::KEPT;
use super::{EdgeError, GatewayCore};
use crate::batcher::Batcher;
use crate::effect::Now;
use crate::outbox::{Held, Key, Lane};
use chargeplane_domain::sample::{Gap, GapReason};
use chargeplane_protocol::message::{SampleRun, Stream, UpBatch};
use chargeplane_protocol::wire;

/// Batches thinned at a time, once a sync: some 12,800 readings, which is more than a gateway makes between two.
const AT_ONCE: usize = 64;

impl GatewayCore {
    /// Thins the oldest batches, if it is time. What is kept is in the ring when this returns, and durable before the
    /// thinned batches are forgotten.
    pub(super) fn thin(&mut self, now: Now) -> Result<(), EdgeError> {
        let policy = self.config.thinning;
        let share = self.config.telemetry_capacity / 100 * u64::from(policy.from_percent);
        if self.telemetry_bytes() <= share {
            return Ok(());
        }
        let older_than = now.wall.0.saturating_sub(policy.after_ms).saturating_mul(1_000);
        let Ok(older_than) = u64::try_from(older_than) else { return Ok(()) };
        let old = self.oldest_whole(older_than);
        // Many at a time leave fewer and longer gaps, which cost as much as samples.
        let is_pressed = self.telemetry_bytes() > self.config.telemetry_capacity / 10 * 9;
        if old.len() < AT_ONCE && !is_pressed {
            return Ok(());
        }
        let mut thinned = Batcher::default();
        let mut eldest = None;
        for (order, lane, key) in old {
            let Some((place, key_epoch, made_us)) =
                self.lanes[lane].get_mut(key).map(|held| (held.place, held.key_epoch, held.made_us))
            else {
                continue;
            };
            let own = key_epoch == self.keys.key_epoch();
            let runs = if own { self.runs(place)? } else { Vec::new() };
            self.lanes[lane].mark_thinned(key);
            let removed = runs.iter().flat_map(|run| thinned_of(run, policy.keep_one_in)).any(|(_, kept)| !kept);
            if !removed {
                continue;
            }
            let Some(held) = self.lanes[lane].remove(key) else { continue };
            eldest.get_or_insert((order, made_us));
            self.put(now, &mut thinned, held, &runs);
        }
        let Some((order, made_us)) = eldest else { return Ok(()) };
        // They take the place of what they are left of: still the first to go.
        while let Some(contents) = thinned.take(&self.config.policy) {
            self.seal_thinned(now, contents, order, made_us)?;
        }
        Ok(())
    }

    /// The oldest batches that were not thinned and were sealed before this moment, oldest first: age, lane, key.
    fn oldest_whole(&self, before_us: u64) -> Vec<(u64, usize, Key)> {
        let of_lane = |(lane, held): (usize, &Lane)| {
            let whole = held.oldest_whole(before_us).take(AT_ONCE);
            whole.map(move |(order, key)| (order, lane, key)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.lanes.iter().enumerate().skip(1).flat_map(of_lane).collect();
        all.sort_unstable();
        all.truncate(AT_ONCE);
        all
    }

    /// What is kept of a batch, and its losses with those that it had declared itself.
    fn put(&mut self, now: Now, thinned: &mut Batcher, held: Held, runs: &[SampleRun]) {
        let mut lost = 0;
        for run in runs {
            for ((number, kept), sample) in thinned_of(run, self.config.thinning.keep_one_in).zip(&run.samples) {
                if kept {
                    thinned.push_sample(now.mono, run.child, number, *sample);
                } else {
                    lost += 1;
                    let gap = Gap { first: number, last: number, reason: GapReason::Thinned };
                    thinned.push_gap(now.mono, run.child, gap);
                }
            }
        }
        for (child, gap) in &held.meta.gaps {
            thinned.push_gap(now.mono, *child, *gap);
        }
        *self.stats.gap_samples.entry("thinned").or_default() += lost;
        self.stats.stream_mut(held.meta.ticket.stream).thinned_batches += 1;
        self.undeclared.push((held.meta.ticket, held.place));
        self.unsynced_since.get_or_insert(now.mono);
    }

    /// Opens a batch of the ring's own: nobody else seals under these keys.
    fn runs(&mut self, place: crate::ring::Place) -> Result<Vec<SampleRun>, EdgeError> {
        let sealed = self.ring.read(place)?;
        let Ok((stream, opened)) = self.keys.open_up(&sealed) else { return Ok(Vec::new()) };
        Ok(match wire::decode_up(stream, &opened.plain) {
            Ok(UpBatch::Samples { runs, .. }) => runs,
            _ => Vec::new(),
        })
    }

    pub(super) fn telemetry_bytes(&self) -> u64 {
        KEPT.iter().filter(|stream| **stream != Stream::Events).map(|stream| self.lanes[*stream as usize].bytes()).sum()
    }
}

/// The numbers of a run, and whether each is kept: by its number, so a second time keeps the same.
fn thinned_of(run: &SampleRun, keep_one_in: u64) -> impl Iterator<Item = (u64, bool)> {
    let numbers = (run.first_number..).take(run.samples.len());
    numbers.map(move |number| (number, number.is_multiple_of(keep_one_in.max(1))))
}
