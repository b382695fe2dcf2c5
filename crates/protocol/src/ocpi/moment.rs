//! OCPI's `DateTime` (UTC), and the local times and dates of tariff restrictions.

use jiff::civil;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A moment, as RFC 3339 in UTC. The `Z` may be missing, as OCPI allows; fractions of a second may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DateTime(pub jiff::Timestamp);

/// A time of the day, `HH:MM`, in the location's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(pub civil::Time);

/// A date, `YYYY-MM-DD`, in the location's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalDate(pub civil::Date);

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?}: expected {expected}")]
pub struct MomentError {
    /// What was there, shortened.
    pub found: String,
    /// What should be there.
    pub expected: &'static str,
}

fn wrong(found: &str, expected: &'static str) -> MomentError {
    MomentError { found: found.chars().take(40).collect(), expected }
}

impl FromStr for DateTime {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let fail = || wrong(text, "a moment in UTC such as 2015-06-29T20:39:09Z");
        if !text.contains('T') {
            return Err(fail());
        }
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(moment));
        }
        let civil = text.parse::<civil::DateTime>().map_err(|_| fail())?;
        jiff::tz::TimeZone::UTC.to_timestamp(civil).map(Self).map_err(|_| fail())
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LocalTime {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let fail = || wrong(text, "a time of the day such as 09:30");
        let two = |part: &str| (part.len() == 2).then(|| part.parse::<i8>().ok()).flatten();
        let (hour, minute) = text.split_once(':').ok_or_else(fail)?;
        let all_digits = text.bytes().all(|b| b.is_ascii_digit() || b == b':');
        let (hour, minute) = two(hour).zip(two(minute)).filter(|_| all_digits).ok_or_else(fail)?;
        civil::Time::new(hour, minute, 0, 0).map(Self).map_err(|_| fail())
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

impl FromStr for LocalDate {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let fail = || wrong(text, "a date such as 2015-12-24");
        if text.len() != 10 {
            return Err(fail());
        }
        text.parse().map(Self).map_err(|_| fail())
    }
}

impl fmt::Display for LocalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(DateTime, LocalTime, LocalDate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_z_may_be_missing() {
        let shown = |text: &str| text.parse::<DateTime>().map(|m| m.to_string()).ok();
        let expected = Some("2015-06-29T20:39:09Z".to_owned());
        assert_eq!(shown("2015-06-29T20:39:09Z"), expected);
        assert_eq!(shown("2015-06-29T20:39:09"), expected);
        assert_eq!(shown("2016-12-29T17:45:09.2Z"), Some("2016-12-29T17:45:09.2Z".to_owned()));
        assert_eq!(["2015-06-29", "", "yesterday", "2015-13-01T00:00:00Z"].map(shown), [None, None, None, None]);
    }

    #[test]
    fn times_and_dates_have_one_form() {
        let time = |text: &str| text.parse::<LocalTime>().map(|t| t.to_string()).ok();
        assert_eq!(time("09:30"), Some("09:30".to_owned()));
        assert_eq!(["24:00", "9:30", "09:60", "09:30:00", "+9:30", ""].map(time), [const { None }; 6]);
        let date = |text: &str| text.parse::<LocalDate>().map(|t| t.to_string()).ok();
        assert_eq!(date("2015-12-24"), Some("2015-12-24".to_owned()));
        assert_eq!(["2015-02-30", "20151224", "15-12-24", "2015-12-24T00:00"].map(date), [const { None }; 4]);
    }
}
