//! Exact arithmetic for prices: fractions of `i128`, every step checked, rounded once at the end.
//!
//! A decimal fraction cannot hold a third of an hour; a fraction can. Where a result does not fit, the
//! operation says so (`None`): nothing wraps, nothing is approximated.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use std::cmp::Ordering;

/// A fraction in lowest terms with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    numerator: i128,
    denominator: i128,
}

impl Exact {
    /// Nothing.
    pub const ZERO: Self = Self { numerator: 0, denominator: 1 };

    /// `numerator / denominator` in lowest terms. `None` for a denominator that is not positive.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator <= 0 || numerator == i128::MIN {
            return None;
        }
        let common = common_divisor(numerator, denominator);
        Some(Self { numerator: numerator.checked_div(common)?, denominator: denominator.checked_div(common)? })
    }

    /// A whole number.
    pub fn whole(number: i128) -> Option<Self> {
        Self::new(number, 1)
    }

    /// The sum, or `None` when it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let common = common_divisor(self.denominator, other.denominator);
        let left = other.denominator.checked_div(common)?;
        let right = self.denominator.checked_div(common)?;
        let sum = self.numerator.checked_mul(left)?.checked_add(other.numerator.checked_mul(right)?)?;
        Self::new(sum, self.denominator.checked_mul(left)?)
    }

    /// The difference, or `None` when it does not fit.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self { numerator: other.numerator.checked_neg()?, denominator: other.denominator })
    }

    /// The product, or `None` when it does not fit. Common factors are taken out before, not after.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let left = common_divisor(self.numerator, other.denominator);
        let right = common_divisor(other.numerator, self.denominator);
        let numerator = self.numerator.checked_div(left)?.checked_mul(other.numerator.checked_div(right)?)?;
        let denominator = self.denominator.checked_div(right)?.checked_mul(other.denominator.checked_div(left)?)?;
        Self::new(numerator, denominator)
    }

    /// Which is larger, or `None` when the comparison does not fit.
    pub fn checked_cmp(self, other: Self) -> Option<Ordering> {
        Some(self.checked_sub(other)?.numerator.cmp(&0))
    }

    /// As a whole number of `1 / per_unit`, rounded half to even: `rounded(10_000)` is in 1/10,000.
    pub fn rounded(self, per_unit: i128) -> Option<i128> {
        round_half_even(self.numerator.checked_mul(per_unit)?, self.denominator)
    }
}

/// The quotient to the nearest whole number, from the middle to the even neighbour. `None` when it does not
/// fit or the denominator is not positive.
pub fn round_half_even(numerator: i128, denominator: i128) -> Option<i128> {
    if denominator <= 0 {
        return None;
    }
    let floor = numerator.checked_div_euclid(denominator)?;
    let rest = numerator.checked_rem_euclid(denominator)?;
    let to_next = denominator.checked_sub(rest)?;
    let up = match rest.cmp(&to_next) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => floor.checked_rem(2)? != 0,
    };
    if up { floor.checked_add(1) } else { Some(floor) }
}

/// The smallest multiple of `step` that is not below `amount`. `None` when it does not fit.
pub fn round_up(amount: i128, step: i128) -> Option<i128> {
    match amount.checked_rem_euclid(step)? {
        0 => Some(amount),
        rest => amount.checked_add(step.checked_sub(rest)?),
    }
}

/// Ten to the power of `exponent`, or `None` when it does not fit.
pub fn power_of_ten(exponent: u32) -> Option<i128> {
    10_i128.checked_pow(exponent)
}

/// The greatest common divisor, at least 1.
fn common_divisor(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    i128::try_from(a).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(numerator: i128, denominator: i128) -> Exact {
        Exact::new(numerator, denominator).unwrap()
    }

    #[test]
    fn fractions_are_exact() {
        let third = exact(1, 3);
        let one = third.checked_add(third).and_then(|x| x.checked_add(third)).unwrap();
        assert_eq!(one, exact(1, 1));
        assert_eq!(exact(2, 3).checked_mul(exact(9, 4)), Some(exact(3, 2)));
        assert_eq!(exact(1, 2).checked_sub(exact(1, 3)), Some(exact(1, 6)));
        assert_eq!(exact(-1, 3).checked_cmp(exact(-1, 4)), Some(Ordering::Less));
        assert_eq!(Exact::new(1, 0), None);
    }

    #[test]
    fn the_middle_goes_to_the_even_neighbour() {
        let rounded = |n| exact(n, 100_000).rounded(10_000).unwrap();
        assert_eq!([5, 15, 25, 26, -5, -15, -25].map(rounded), [0, 2, 2, 3, 0, -2, -2]);
        assert_eq!([0, 1, 900, 901].map(|n| round_up(n, 900).unwrap()), [0, 900, 900, 1_800]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let large = exact(i128::MAX, 1);
        assert_eq!(large.checked_add(large), None);
        assert_eq!(large.checked_mul(large), None);
        assert_eq!(large.rounded(10_000), None);
    }
}
