//! The location's time zone. A CDR of 2.2.1 has no field for it, so it is given, or follows from the country.

use super::conditions::asks_local_time;
use crate::ocpi::cdr::Cdr;
use crate::ocpi::read::{Document, DocumentError};
use crate::ocpi::tariff::Tariff;
use chargeplane_domain::tariff::zone::parse;
use jiff::tz::TimeZone;

/// A zone, and where it is from.
pub(super) struct Zone {
    pub zone: TimeZone,
    pub name: String,
    pub source: &'static str,
}

/// ISO 3166-1 alpha-3 codes of countries whose chargers are in one zone.
const COUNTRIES: &[(&str, &str)] = &[
    ("AUT", "Europe/Vienna"),
    ("BEL", "Europe/Brussels"),
    ("BGR", "Europe/Sofia"),
    ("CHE", "Europe/Zurich"),
    ("CHN", "Asia/Shanghai"),
    ("CZE", "Europe/Prague"),
    ("DEU", "Europe/Berlin"),
    ("DNK", "Europe/Copenhagen"),
    ("EST", "Europe/Tallinn"),
    ("FIN", "Europe/Helsinki"),
    ("FRA", "Europe/Paris"),
    ("GBR", "Europe/London"),
    ("GRC", "Europe/Athens"),
    ("HKG", "Asia/Hong_Kong"),
    ("HRV", "Europe/Zagreb"),
    ("HUN", "Europe/Budapest"),
    ("IND", "Asia/Kolkata"),
    ("IRL", "Europe/Dublin"),
    ("ISR", "Asia/Jerusalem"),
    ("ITA", "Europe/Rome"),
    ("JPN", "Asia/Tokyo"),
    ("KOR", "Asia/Seoul"),
    ("LTU", "Europe/Vilnius"),
    ("LUX", "Europe/Luxembourg"),
    ("LVA", "Europe/Riga"),
    ("NLD", "Europe/Amsterdam"),
    ("NOR", "Europe/Oslo"),
    ("POL", "Europe/Warsaw"),
    ("ROU", "Europe/Bucharest"),
    ("SGP", "Asia/Singapore"),
    ("SVK", "Europe/Bratislava"),
    ("SVN", "Europe/Ljubljana"),
    ("SWE", "Europe/Stockholm"),
    ("THA", "Asia/Bangkok"),
    ("TUR", "Europe/Istanbul"),
    ("TWN", "Asia/Taipei"),
];

/// The zone, if the tariff asks for the local time.
pub(super) fn choose(tariff: &Tariff, cdr: &Cdr, given: Option<&str>) -> Result<Option<Zone>, DocumentError> {
    let country = || COUNTRIES.iter().find(|(code, _)| code.eq_ignore_ascii_case(&cdr.cdr_location.country));
    let candidates = [
        given.map(|name| (name, "argument")),
        cdr.cdr_location.time_zone.as_deref().map(|name| (name, "cdr_location.time_zone")),
        country().map(|(_, name)| (*name, "cdr_location.country")),
    ];
    let wrong =
        |field: &str, message: String| DocumentError::at(Document::Cdr, format!("cdr_location.{field}"), message);
    if !asks_local_time(tariff) {
        return Ok(None);
    }
    let Some((name, source)) = candidates.into_iter().flatten().next() else {
        let country: String = cdr.cdr_location.country.chars().take(10).collect();
        let message = format!(
            "the tariff asks for the local time and {country:?} alone does not say the zone: expected --time-zone, \
             such as Europe/Berlin"
        );
        return Err(wrong("country", message));
    };
    let zone = parse(name).map_err(|error| wrong("time_zone", error.to_string()))?;
    Ok(Some(Zone { zone, name: name.to_owned(), source }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_country_has_a_zone_that_exists() {
        for (country, zone) in super::COUNTRIES {
            assert!(super::parse(zone).is_ok(), "{country} {zone}");
        }
    }
}
