//! A calendar month, as records are kept and asked for.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::units::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// No wall clock is further from UTC than this: 26 hours, in milliseconds.
const WIDEST_OFFSET_MS: i64 = 26 * 3_600_000;

/// A month of the local calendar, written `2026-01`. Years 1 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Month {
    year: i16,
    month: i8,
}

/// Why a text is not a month.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("month {0:?}: expected a year and a month, such as 2026-01")]
pub struct MonthError(pub String);

impl Month {
    /// The month that the wall clock of `zone` shows at a moment. Moments outside the years 1 to 9999 count as the
    /// first or the last month there is.
    pub fn of(at: Timestamp, zone: &TimeZone) -> Self {
        let bound = if at.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let local = zone.to_datetime(jiff::Timestamp::from_millisecond(at.0).unwrap_or(bound));
        match local.year() {
            ..=0 => Self { year: 1, month: 1 },
            year => Self { year, month: local.month() },
        }
    }

    /// As a number that orders months: 202601.
    pub fn number(self) -> i64 {
        i64::from(self.year).saturating_mul(100).saturating_add(i64::from(self.month))
    }

    /// From before the first moment to after the last moment that is in this month in *any* time zone.
    pub fn span(self) -> (Timestamp, Timestamp) {
        let start = |month: Self| {
            let first = jiff::civil::date(month.year, month.month, 1).at(0, 0, 0, 0);
            TimeZone::UTC.to_timestamp(first).map_or(i64::MAX, jiff::Timestamp::as_millisecond)
        };
        let from = if self == (Self { year: 1, month: 1 }) { i64::MIN } else { start(self) };
        let to = if self == (Self { year: 9_999, month: 12 }) { i64::MAX } else { start(self.next()) };
        (Timestamp(from.saturating_sub(WIDEST_OFFSET_MS)), Timestamp(to.saturating_add(WIDEST_OFFSET_MS)))
    }

    fn next(self) -> Self {
        match self.month {
            12 => Self { year: self.year.saturating_add(1).min(9_999), month: 1 },
            month => Self { month: month.saturating_add(1), ..self },
        }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Month {
    type Err = MonthError;

    fn from_str(text: &str) -> Result<Self, MonthError> {
        let fail = || MonthError(text.chars().take(20).collect());
        let (year, month) = text.split_once('-').ok_or_else(fail)?;
        let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(year, 4) || !digits(month, 2) {
            return Err(fail());
        }
        let read = Self { year: year.parse().map_err(|_| fail())?, month: month.parse().map_err(|_| fail())? };
        if read.year < 1 || !(1..=12).contains(&read.month) { Err(fail()) } else { Ok(read) }
    }
}

impl TryFrom<String> for Month {
    type Error = MonthError;
    fn try_from(text: String) -> Result<Self, MonthError> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tariff::zone;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn the_month_is_the_one_on_the_wall() {
        let shanghai = zone::parse("Asia/Shanghai").unwrap();
        assert_eq!(Month::of(at("2026-01-31T15:59:59.999Z"), &shanghai).to_string(), "2026-01");
        assert_eq!(Month::of(at("2026-01-31T16:00:00Z"), &shanghai).to_string(), "2026-02");
        assert_eq!(Month::of(at("2026-01-31T16:00:00Z"), &TimeZone::UTC).to_string(), "2026-01");
        assert_eq!(Month::of(Timestamp(i64::MIN), &shanghai).to_string(), "0001-01");
        assert_eq!(Month::of(Timestamp(i64::MAX), &TimeZone::UTC).to_string(), "9999-12");
    }

    #[test]
    fn months_read_back_and_others_are_refused() {
        let month: Month = "2026-12".parse().unwrap();
        assert_eq!((month.to_string().as_str(), month.number()), ("2026-12", 202_612));
        assert_eq!(month.next().to_string(), "2027-01");
        for wrong in ["2026-13", "2026-00", "2026-1", "26-01", "2026/01", "0000-01", "+026-01", "2026-01-01", ""] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Whatever the zone, a moment is inside the span of its month.
        #[test]
        fn a_moment_is_in_the_span_of_its_month(ms in any::<i64>(), which in 0usize..5) {
            let names = ["Pacific/Kiritimati", "Pacific/Niue", "Asia/Shanghai", "Europe/Berlin", "UTC"];
            for ms in [ms, ms % 4_000_000_000_000] {
                let month = Month::of(Timestamp(ms), &zone::parse(names[which]).unwrap());
                let (from, to) = month.span();
                prop_assert!(from.0 <= ms && (ms < to.0 || to.0 == i64::MAX), "{ms} {month} {from:?} {to:?}");
                prop_assert_eq!(month.to_string().parse::<Month>(), Ok(month));
            }
        }
    }
}
