//! DATA-1: what gateways numbered against what the store holds, per charger.
//!
//! Versions of one range by several owners are united by number. Every number that was sent is stored or lies
//! in a declared gap; nothing else is stored; one number never has two contents; what is stored is what was made,
//! number, time and every value, by a hash of each range that is there as a whole; and the newest stored sample
//! reads the register that the charger ended with. What the API serves of a range is what is stored, each sample
//! once and in order.

use super::chunk::{self, Chunk, REGISTER, TIME};
use super::findings::Findings;
use super::outside::ChargerSamples;
use crate::finish::ReadBack;
use std::collections::BTreeMap;

/// Numbers first to last, both included.
pub type Span = (u64, u64);

/// Values of one sample, column by column.
pub type Values = [i64; chunk::COLUMNS];

/// FNV-1a over number, time and values of each sample, each as eight bytes, little-endian: as the fleet hashes them.
pub fn digest<'a>(samples: impl Iterator<Item = (&'a u64, &'a Values)>) -> u64 {
    let words = samples.flat_map(|(number, values)| {
        std::iter::once(number.to_le_bytes()).chain(values.iter().map(|value| value.to_le_bytes()))
    });
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    words.flatten().fold(0xcbf2_9ce4_8422_2325, step)
}

/// What the store holds of one charger, of one enrolment of its gateway.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    samples: BTreeMap<u64, Values>,
    gaps: Vec<Span>,
}

/// Totals over all chargers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SampleTotals {
    /// Numbers that gateways gave.
    pub sent: u64,
    /// Numbers found in the store.
    pub stored: u64,
    /// Numbers in declared gaps and not stored.
    pub gap: u64,
    /// Ranges whose contents were compared with what the charger made.
    pub hashed: u64,
    /// Samples that the API served and that were compared.
    pub served: u64,
}

impl Stored {
    /// Takes one stored chunk of `charger`.
    pub fn take_chunk(&mut self, charger: &str, bytes: &[u8], findings: &mut Findings) {
        match chunk::decode(bytes) {
            Ok(chunk) => self.unite(charger, &chunk, findings),
            Err(error) => findings.violated("DATA-1", format!("{charger}: a chunk that cannot be read: {error}")),
        }
    }

    fn unite(&mut self, charger: &str, chunk: &Chunk, findings: &mut Findings) {
        for (at, &number) in chunk.numbers.iter().enumerate() {
            let mut values = [0; chunk::COLUMNS];
            values.iter_mut().zip(&chunk.columns).for_each(|(value, column)| *value = column[at]);
            if let Some(before) = self.samples.insert(number, values)
                && before != values
            {
                findings.violated("DATA-1", format!("{charger}: number {number} is stored with two contents"));
            }
        }
    }

    /// Takes one declared gap.
    pub fn take_gap(&mut self, span: Span) {
        self.gaps.push(span);
    }

    /// Compares with what the gateway sent for this charger.
    pub fn judge(&self, sent: &ChargerSamples, totals: &mut SampleTotals, findings: &mut Findings) {
        let name = &sent.charger;
        let in_gap = |number: u64| self.gaps.iter().any(|(first, last)| (*first..=*last).contains(&number));
        let (mut missing, mut first_missing, mut gap) = (0u64, None, 0);
        for number in (0..sent.count).filter(|number| !self.samples.contains_key(number)) {
            if in_gap(number) {
                gap += 1;
            } else {
                missing += 1;
                first_missing.get_or_insert(number);
            }
        }
        let found = self.samples.range(..sent.count).count() as u64;
        findings.held("DATA-1", sent.count - missing);
        if let Some(number) = first_missing {
            let acked = if sent.acknowledged(number) { "acknowledged" } else { "not acknowledged" };
            findings.violated("DATA-1", format!("{name}: {missing} samples missing, first number {number}, {acked}"));
        }
        let strays = self.samples.len() as u64 - found;
        findings.check("DATA-1", strays == 0, || format!("{name}: {strays} stored samples were never sent"));
        self.judge_registers(sent, missing + gap == 0, findings);
        self.judge_contents(sent, totals, findings);
        totals.sent += sent.count;
        totals.stored += found;
        totals.gap += gap;
    }

    /// Ranges that are stored as a whole against the hashes of what the charger made.
    fn judge_contents(&self, sent: &ChargerSamples, totals: &mut SampleTotals, findings: &mut Findings) {
        let mut next = 0;
        for (first, last, hash) in &sent.digests {
            let follows = *first == next && first <= last && *last < sent.count;
            findings.check("DATA-1", follows, || {
                format!("{}: the fleet hashed {first} to {last} after {next}", sent.charger)
            });
            next = last.saturating_add(1);
            let samples = || self.samples.range(*first..=*last);
            if !follows || samples().count() as u64 != last - first + 1 {
                continue;
            }
            totals.hashed += 1;
            findings.check("DATA-1", Some(digest(samples())) == *hash, || {
                format!("{}: numbers {first} to {last} are stored otherwise than they were made", sent.charger)
            });
        }
        findings.check("DATA-1", next == sent.count, || {
            format!("{}: {next} samples were hashed, {} were sent", sent.charger, sent.count)
        });
    }

    /// What the API served of a range of time: what is stored of it, each sample once, by number.
    pub fn judge_served(&self, served: &ReadBack, totals: &mut SampleTotals, findings: &mut Findings) {
        let within = |(_, values): &(&u64, &Values)| (served.from..served.to).contains(&values[TIME]);
        let stored: Vec<(u64, Values)> = self.samples.iter().filter(within).map(|(n, values)| (*n, *values)).collect();
        totals.served += served.samples.len() as u64;
        let same = served.samples.iter().zip(&stored).take_while(|(served, stored)| served == stored).count();
        findings.held("DATA-1", same as u64);
        findings.check("DATA-1", served.samples == stored, || {
            let (theirs, ours) = (served.samples.get(same), stored.get(same));
            format!("{}: served {theirs:?} where {ours:?} is stored, sample {same} of the range", served.charger)
        });
    }

    /// Registers never go back, and the newest sample reads what the charger ended with.
    fn judge_registers(&self, sent: &ChargerSamples, complete: bool, findings: &mut Findings) {
        let name = &sent.charger;
        let mut registers = self.samples.iter().map(|(number, values)| (*number, values[REGISTER]));
        let Some(mut before) = registers.next() else {
            return;
        };
        for now in registers {
            if now.1 < before.1 {
                let words = format!("{name}: register {} at number {}, {} at {}", before.1, before.0, now.1, now.0);
                findings.violated("DATA-1", words);
            }
            before = now;
        }
        if complete {
            findings.check("DATA-1", before.1 == sent.register_wh, || {
                format!("{name}: the newest sample reads {} Wh, the charger ended at {}", before.1, sent.register_wh)
            });
        }
    }
}
