//! How the revenue of a station is shared by agreement: between who owns the site, an agent, the operator.
//!
//! Shares are in basis points of what a session's energy costs, energy and service together. Each party gets its
//! share rounded down to the ledger's unit, and one named party also what that leaves: so the parts always sum
//! to the whole. What no driver paid is borne by the operator alone, who grants the holds.
//!
//! ```
//! use chargeplane_domain::split::Split;
//! use chargeplane_domain::units::Money;
//! let split: Split = serde_json::from_str(
//!     r#"{"shares": {"main/owner": 6000, "main/agent": 1500, "main/op1": 2500}, "remainder": "main/op1"}"#,
//! )
//! .unwrap();
//! split.check().unwrap();
//! let parts: Vec<i64> = split.divide(Money(1_001)).iter().map(|(_, part)| part.0).collect();
//! assert_eq!(parts, [150, 251, 600]); // agent, op1 with the unit that rounding left, owner
//! ```
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::ids::OperatorId;
use crate::units::Money;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole, in basis points.
pub const WHOLE: u32 = 10_000;

/// Most parties of an agreement: each settlement posts to all of them.
pub const MAX_PARTIES: usize = 8;

/// An agreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Basis points by party; 10,000 in all.
    pub shares: BTreeMap<OperatorId, u32>,
    /// The party that gets what rounding leaves.
    pub remainder: OperatorId,
}

/// A party's part of a settled session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyShare {
    /// Who gets it.
    pub party: OperatorId,
    /// How much.
    pub amount: Money,
}

/// Why an agreement cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// None, or too many.
    #[error("{0} parties: 1 to {MAX_PARTIES} share a station's revenue")]
    Parties(usize),
    /// A party without a share.
    #[error("{0} has a share of 0: leave it out")]
    Nothing(OperatorId),
    /// Not the whole.
    #[error("the shares sum to {0} basis points, not to {WHOLE}")]
    Sum(u64),
    /// The remainder would be nobody's.
    #[error("the remainder goes to {0}, which is none of the parties")]
    Remainder(OperatorId),
}

impl Split {
    /// Whether the shares are of one whole, and the remainder somebody's.
    pub fn check(&self) -> Result<(), SplitError> {
        if !(1..=MAX_PARTIES).contains(&self.shares.len()) {
            return Err(SplitError::Parties(self.shares.len()));
        }
        if let Some((party, _)) = self.shares.iter().find(|(_, share)| **share == 0) {
            return Err(SplitError::Nothing(party.clone()));
        }
        let sum = self.shares.values().fold(0_u64, |sum, share| sum.saturating_add(u64::from(*share)));
        if sum != u64::from(WHOLE) {
            return Err(SplitError::Sum(sum));
        }
        if !self.shares.contains_key(&self.remainder) {
            return Err(SplitError::Remainder(self.remainder.clone()));
        }
        Ok(())
    }

    /// The parts of an amount that is not negative, by party: they sum to it.
    pub fn divide(&self, amount: Money) -> Vec<(OperatorId, Money)> {
        let part = |share: u32| {
            let exact = i128::from(amount.0).saturating_mul(i128::from(share));
            let floor = exact.checked_div_euclid(i128::from(WHOLE)).unwrap_or(0);
            Money(i64::try_from(floor).unwrap_or(0))
        };
        let mut left = amount;
        let mut parts: Vec<(OperatorId, Money)> = Vec::with_capacity(self.shares.len());
        for (party, share) in &self.shares {
            let part = part(*share);
            left = left.saturating_sub(part);
            parts.push((party.clone(), part));
        }
        if let Some((_, part)) = parts.iter_mut().find(|(party, _)| *party == self.remainder) {
            *part = part.saturating_add(left);
        }
        parts
    }

    /// What others than the operator get of a settled session that costs `amount`.
    pub fn owed(&self, operator: &OperatorId, amount: Money) -> Vec<PartyShare> {
        let others = self.divide(amount).into_iter().filter(|(party, part)| party != operator && part.is_positive());
        others.map(|(party, amount)| PartyShare { party, amount }).collect()
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(shares: &[u32], remainder: usize) -> Split {
        let party = |n: usize| -> OperatorId { format!("p{n}").parse().unwrap() };
        let shares = shares.iter().enumerate().map(|(n, share)| (party(n), *share)).collect();
        Split { shares, remainder: party(remainder) }
    }

    #[test]
    fn an_agreement_is_of_one_whole() {
        assert_eq!(split(&[6_000, 4_000], 1).check(), Ok(()));
        assert_eq!(split(&[10_000], 0).check(), Ok(()));
        assert_eq!(split(&[], 0).check(), Err(SplitError::Parties(0)));
        assert_eq!(split(&[1_111; 9], 0).check(), Err(SplitError::Parties(9)));
        assert_eq!(split(&[6_000, 4_001], 0).check(), Err(SplitError::Sum(10_001)));
        assert_eq!(split(&[u32::MAX, u32::MAX], 0).check(), Err(SplitError::Sum(8_589_934_590)));
        assert_eq!(split(&[10_000, 0], 0).check(), Err(SplitError::Nothing("p1".parse().unwrap())));
        assert_eq!(split(&[6_000, 4_000], 2).check(), Err(SplitError::Remainder("p2".parse().unwrap())));
    }

    proptest! {
        /// The parts sum to the whole, each within a unit of its exact share but the one that takes what is left.
        #[test]
        fn parts_sum_to_the_whole(
            cuts in prop::collection::btree_set(1_u32..10_000, 0..7),
            pick in 0_usize..8,
            amount in prop_oneof![0_i64..20_000, 0..=i64::MAX],
        ) {
            let mut ends: Vec<u32> = cuts.into_iter().collect();
            ends.push(WHOLE);
            let shares: Vec<u32> = ends.iter().scan(0, |last, end| Some(end - std::mem::replace(last, *end))).collect();
            let split = split(&shares, pick % shares.len());
            prop_assert_eq!(split.check(), Ok(()));
            let parts = split.divide(Money(amount));
            prop_assert_eq!(parts.iter().map(|(_, part)| i128::from(part.0)).sum::<i128>(), i128::from(amount));
            for ((party, part), share) in parts.iter().zip(&shares) {
                let off = i128::from(part.0) * 10_000 - i128::from(amount) * i128::from(*share);
                let most = if *party == split.remainder { 10_000 * shares.len() as i128 } else { 0 };
                prop_assert!((-9_999..=most).contains(&off), "{} {} {}", party, part, off);
            }
            let owed = split.owed(&split.remainder, Money(amount));
            prop_assert!(owed.iter().all(|share| share.party != split.remainder && share.amount.0 > 0));
        }
    }
}
