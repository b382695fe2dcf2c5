//! What makes the tariff book of a catalogue acceptable.

use super::{Findings, nearest, shown};
use crate::catalogue::Catalogue;
use crate::ids::MAX_PART_LEN;
use crate::tariff::book::{MAX_RULES, TariffBook, TariffRule};

/// Checks groups and rules. Accounts are not part of a catalogue: whether a group's accounts exist is not known here.
pub(super) fn check_book(catalogue: &Catalogue, findings: &mut Findings) {
    let book = &catalogue.tariff_book;
    for (kind, name) in names(book) {
        if name.is_empty() || name.len() > MAX_PART_LEN {
            let path = format!("tariff_book.{kind}.{}", shown(name));
            findings.add(path, format!("the name has {} characters", name.len()), "write a name of 1 to 64 characters");
        }
    }
    for (name, stations) in &book.station_groups {
        for station in stations.iter().filter(|station| !catalogue.stations.contains_key(*station)) {
            let write = nearest("station", station, catalogue.stations.keys());
            let path = format!("tariff_book.station_groups.{}", shown(name));
            findings.add(path, format!("there is no station {station}"), write);
        }
    }
    if book.rules.len() > MAX_RULES {
        let what = format!("{} rules are more than {MAX_RULES}", book.rules.len());
        findings.add("tariff_book.rules", what, "put stations and accounts that pay the same into groups");
    }
    for (index, rule) in book.rules.iter().enumerate().take(MAX_RULES) {
        check_rule(index, rule, catalogue, findings);
    }
}

fn names(book: &TariffBook) -> impl Iterator<Item = (&'static str, &String)> {
    let stations = book.station_groups.keys().map(|name| ("station_groups", name));
    stations.chain(book.customer_groups.keys().map(|name| ("customer_groups", name)))
}

fn check_rule(index: usize, rule: &TariffRule, catalogue: &Catalogue, findings: &mut Findings) {
    let path = |field: &str| format!("tariff_book.rules[{index}].{field}");
    let book = &catalogue.tariff_book;
    if !catalogue.tariffs.contains_key(&rule.tariff) {
        let write = nearest("tariff", &rule.tariff, catalogue.tariffs.keys());
        findings.add(path("tariff"), format!("there is no tariff {}", rule.tariff), write);
    }
    if let Some(group) = rule.station_group.as_ref() {
        match book.station_groups.get(group) {
            None => {
                let write = nearest("station group", &shown(group), book.station_groups.keys());
                findings.add(path("station_group"), format!("there is no station group {:?}", shown(group)), write);
            }
            Some(stations) if !stations.iter().any(|station| station.tenant() == rule.tariff.tenant()) => {
                let what = format!("no station of group {:?} is of the tariff's tenant", shown(group));
                findings.add(path("station_group"), what, format!("write stations of tenant {}", rule.tariff.tenant()));
            }
            Some(_) => {}
        }
    }
    if let Some(group) = rule.customer_group.as_ref().filter(|group| !book.customer_groups.contains_key(*group)) {
        let write = nearest("customer group", &shown(group), book.customer_groups.keys());
        findings.add(path("customer_group"), format!("there is no customer group {:?}", shown(group)), write);
    }
    if let (Some(from), Some(until)) = (rule.valid_from, rule.valid_until)
        && from >= until
    {
        findings.add(path("valid_until"), format!("{until} is not after {from}"), "write a moment after valid_from");
    }
}
