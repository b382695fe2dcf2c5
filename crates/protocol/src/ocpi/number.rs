//! OCPI's `number`: a JSON number, read digit by digit and kept as it was written, never through a float.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use super::exact::{Exact, power_of_ten, round_half_even};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;
use std::fmt;
use std::str::FromStr;

/// Most significant digits of a number. Programs that write floats write up to 17.
pub const MAX_DIGITS: usize = 24;

/// Most decimals of a number.
pub const MAX_DECIMALS: u32 = 24;

/// A decimal number: `mantissa / 10^decimals`, without trailing zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Number {
    mantissa: i128,
    decimals: u32,
}

/// A text that is not a number that can be kept exactly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}: expected a JSON number of at most {MAX_DIGITS} digits and {MAX_DECIMALS} decimals, such as 0.25")]
pub struct NumberError {
    /// What was there, shortened.
    pub found: String,
}

impl Number {
    /// `mantissa / 10^decimals`.
    pub fn new(mantissa: i128, decimals: u32) -> Self {
        let (mut mantissa, mut decimals) = (mantissa, decimals);
        while decimals > 0 && mantissa.checked_rem(10) == Some(0) {
            mantissa = mantissa.checked_div(10).unwrap_or(0);
            decimals = decimals.saturating_sub(1);
        }
        Self { mantissa, decimals }
    }

    /// A whole number.
    pub fn whole(number: i128) -> Self {
        Self::new(number, 0)
    }

    /// Decimals it was written with, trailing zeros left out.
    pub fn decimals(&self) -> u32 {
        self.decimals
    }

    /// The same value as a fraction.
    pub fn exact(&self) -> Option<Exact> {
        Exact::new(self.mantissa, power_of_ten(self.decimals)?)
    }

    /// As a whole number of `1 / per_unit`, rounded half to even.
    pub fn scaled(&self, per_unit: i128) -> Option<i128> {
        round_half_even(self.mantissa.checked_mul(per_unit)?, power_of_ten(self.decimals)?)
    }
}

impl FromStr for Number {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        parse(text).ok_or_else(|| NumberError { found: text.chars().take(40).collect() })
    }
}

/// `-? digits [. digits] [e [+-] digits]`, as JSON has it.
fn parse(text: &str) -> Option<Number> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let decimals = i64::try_from(fraction.len()).ok()?.checked_sub(i64::from(exponent))?;
    let mantissa = if negative { mantissa.checked_neg()? } else { mantissa };
    let number = match u32::try_from(decimals) {
        _ if mantissa == 0 => Number::default(),
        Ok(decimals) if decimals <= 2 * MAX_DECIMALS => Number::new(mantissa, decimals),
        Ok(_) => return None,
        Err(_) => {
            let zeros = u32::try_from(decimals.checked_neg()?).ok()?;
            Number::whole(mantissa.checked_mul(power_of_ten(zeros)?)?)
        }
    };
    let fits =
        number.decimals <= MAX_DECIMALS && number.mantissa.unsigned_abs() < power_of_ten(MAX_DECIMALS)?.unsigned_abs();
    fits.then_some(number)
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        let decimals = usize::try_from(self.decimals).unwrap_or(0);
        if decimals == 0 {
            return write!(f, "{sign}{digits}");
        }
        let padded = format!("{digits:0>width$}", width = decimals.saturating_add(1));
        let (whole, fraction) = padded.split_at(padded.len().saturating_sub(decimals));
        write!(f, "{sign}{whole}.{fraction}")
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_digits(&self.to_string(), serializer)
    }
}

/// Writes digits as a JSON number. Only `serde_json` can take them.
pub(super) fn serialize_digits<S: Serializer>(digits: &str, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(digits.to_owned()).map_err(ser::Error::custom)?.serialize(serializer)
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        raw.get().parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        text.parse::<Number>().ok().map(|n| n.to_string())
    }

    #[test]
    fn what_is_written_is_what_is_kept() {
        let read = ["0", "-0.0", "0.25", "20.450", "1e3", "12.5e-2", "1.9730555555555556", "-0.001", "100"];
        let kept = ["0", "0", "0.25", "20.45", "1000", "0.125", "1.9730555555555556", "-0.001", "100"];
        assert_eq!(read.map(shown), kept.map(|k| Some(k.to_owned())));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let wrong = ["", "-", ".5", "5.", "01", "1e", "1e99", "1e-99", "0x1", "\"1\"", "null", "1 2", "+1", "NaN"];
        assert_eq!(wrong.map(shown), wrong.map(|_| None));
        assert_eq!(shown(&"9".repeat(25)), None);
        assert_eq!(shown("1e2147483648"), None);
        assert_eq!(shown("1e-2147483648"), None);
    }

    #[test]
    fn json_numbers_go_in_and_out_unchanged() {
        let numbers: Vec<Number> =
            serde_json::from_str("[0.1, 0.30000000000000004, 12345678901234567890.123]").unwrap();
        assert_eq!(serde_json::to_string(&numbers).unwrap(), "[0.1,0.30000000000000004,12345678901234567890.123]");
        assert_eq!(numbers.first().and_then(|n| n.scaled(1_000)), Some(100));
        assert!(serde_json::from_str::<Number>("\"0.1\"").unwrap_err().to_string().contains("expected a JSON number"));
    }
}
