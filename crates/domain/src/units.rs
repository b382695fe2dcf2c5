//! Quantities. Integers all the way: money in 1/10,000 of the currency unit, energy in Wh, power in W.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident, $unit:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// Sum, or `None` when it does not fit.
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// Difference, or `None` when it does not fit.
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }

            /// Sum, held at the type's bounds.
            pub fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// Difference, held at the type's bounds.
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The negative, held at the type's bounds.
            pub fn negated(self) -> Self {
                Self(self.0.saturating_neg())
            }

            /// True for nothing: such a field need not be stored.
            pub fn is_zero(&self) -> bool {
                self.0 == 0
            }

            /// True above zero.
            pub fn is_positive(self) -> bool {
                self.0 > 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.0, $unit)
            }
        }
    )*};
}

quantities! {
    /// An amount of money in 1/10,000 of the currency unit.
    Money, "e-4";
    /// Energy in watt-hours.
    WattHours, "Wh";
    /// Power in watts.
    Watts, "W";
}

/// Units of [`Money`] in one unit of the currency.
pub const MONEY_SCALE: i64 = 10_000;

impl fmt::Display for Money {
    /// `-12.3400`: always four decimals, so that columns align and parse back exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let scale = MONEY_SCALE.unsigned_abs();
        let (whole, part) = (magnitude.checked_div(scale), magnitude.checked_rem(scale));
        write!(f, "{sign}{}.{:04}", whole.unwrap_or(0), part.unwrap_or(0))
    }
}

impl fmt::Display for WattHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Wh", self.0)
    }
}

impl fmt::Display for Watts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} W", self.0)
    }
}

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("amount {0:?}: expected a decimal number with at most four decimals, such as 12.50")]
pub struct MoneyParseError(pub String);

impl std::str::FromStr for Money {
    type Err = MoneyParseError;

    fn from_str(text: &str) -> Result<Self, MoneyParseError> {
        let fail = || MoneyParseError(text.chars().take(40).collect());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(part) || part.len() > 4 {
            return Err(fail());
        }
        let whole: i64 = whole.parse().map_err(|_| fail())?;
        let part: i64 = format!("{part:0<4}").parse().map_err(|_| fail())?;
        let amount = whole.checked_mul(MONEY_SCALE).and_then(|w| w.checked_add(part)).ok_or_else(fail)?;
        Ok(Self(if negative { amount.saturating_neg() } else { amount }))
    }
}

/// ISO 4217 code of a currency, three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// Why a text is not a currency code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("currency {0:?}: expected three capital letters, such as CNY")]
pub struct CurrencyError(pub String);

impl Currency {
    /// Checks and wraps a code.
    pub fn new(code: &str) -> Result<Self, CurrencyError> {
        match code.as_bytes() {
            [a, b, c] if [a, b, c].iter().all(|x| x.is_ascii_uppercase()) => Ok(Self([*a, *b, *c])),
            _ => Err(CurrencyError(code.chars().take(20).collect())),
        }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;
    fn from_str(code: &str) -> Result<Self, CurrencyError> {
        Self::new(code)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

/// A moment in milliseconds since 1970-01-01 00:00 UTC, by some named clock (the gateway's, the node's).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment plus `ms`, held at the bounds.
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A reading of a monotonic clock in milliseconds. Readings of two machines, or of two boots, do not compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// This reading plus `ms`, held at the bound.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this reading; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
