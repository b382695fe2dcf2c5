//! DATA-1: what gateways numbered against what the store holds, per charger.
//!
//! Versions of one range by several owners are united by number. Every number that was sent is stored or lies
//! in a declared gap; nothing else is stored; one number never has two contents; and the newest
//! stored sample reads the register that the charger ended with.

use super::chunk::{self, Chunk, REGISTER};
use super::findings::Findings;
use super::outside::ChargerSamples;
use std::collections::BTreeMap;

/// Numbers first to last, both included.
pub type Span = (u64, u64);

/// Values of one sample, column by column.
type Values = [i64; chunk::COLUMNS];

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
        totals.sent += sent.count;
        totals.stored += found;
        totals.gap += gap;
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
