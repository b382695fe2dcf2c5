//! What makes a station's power settings acceptable, and how two of them differ.

use super::{Findings, least_limits, nearest, shown};
use crate::catalogue::{Catalogue, Charger, ScheduledLimit, Station};
use crate::ids::StationId;
use crate::units::Watts;
use std::collections::BTreeMap;

/// Windows in one station's schedule.
pub const MAX_WINDOWS: usize = 1_000;

/// Windows name nodes of the tree, last for some time, and are limits the node's own allows.
pub(super) fn check_schedule(id: &StationId, station: &Station, findings: &mut Findings) {
    let windows = &station.power.schedule;
    let path = format!("stations.{id}.power.schedule");
    if windows.len() > MAX_WINDOWS {
        let what = format!("{} windows are more than {MAX_WINDOWS}", windows.len());
        return findings.add(path, what, "schedule a node above instead of every node below it");
    }
    let nodes: BTreeMap<&str, Watts> = station.limits.iter().map(|node| (node.id.as_str(), node.limit_w)).collect();
    for (index, window) in windows.iter().enumerate() {
        let path = |field: &str| format!("{path}[{index}].{field}");
        let ScheduledLimit { node, from, until, limit_w } = window;
        if from == until {
            let what = format!("a window from {from} until {until} has no length");
            findings.add(path("until"), what, "write another time of day; for the whole day lower the node's limit_w");
        }
        match nodes.get(node.as_str()) {
            None => {
                let write = nearest("node", &shown(node), nodes.keys());
                findings.add(path("node"), format!("the station has no node {:?}", shown(node)), write);
            }
            Some(limit) if !(Watts::ZERO..=*limit).contains(limit_w) => {
                let what = format!("{limit_w} at node {:?} of {limit}", shown(node));
                findings.add(path("limit_w"), what, format!("write 0 to {}, the node's own limit", limit.0));
            }
            Some(_) => {}
        }
    }
}

/// A scheduled limit leaves room for base load and fallbacks, as every limit does (POWER-2).
pub(super) fn check_floors(catalogue: &Catalogue, findings: &mut Findings) {
    let scheduled = || catalogue.stations.iter().filter(|(_, station)| !station.power.schedule.is_empty());
    if scheduled().next().is_none() {
        return;
    }
    let mut chargers: BTreeMap<&StationId, Vec<&Charger>> = BTreeMap::new();
    for charger in catalogue.chargers.values() {
        if let Some(gateway) = catalogue.gateways.get(&charger.gateway) {
            chargers.entry(&gateway.station).or_default().push(charger);
        }
    }
    for (id, station) in scheduled() {
        let least = least_limits(station, chargers.get(id).into_iter().flatten().copied());
        for (index, window) in station.power.schedule.iter().enumerate() {
            let Some(least) =
                least.get(window.node.as_str()).filter(|least| (Watts::ZERO..**least).contains(&window.limit_w))
            else {
                continue;
            };
            let what = format!("base load and fallbacks below node {:?} add up to {least}", shown(&window.node));
            let write = format!("write {} or more, or lower fallback_w of its chargers", least.0);
            findings.add(format!("stations.{id}.power.schedule[{index}].limit_w"), what, write);
        }
    }
}

/// What differs, in words.
pub(super) fn changes(old: &Station, new: &Station) -> Vec<String> {
    let (old, new) = (&old.power, &new.power);
    let mut changes = Vec::new();
    if old.policy != new.policy {
        changes.push(format!("power.policy {:?} -> {:?}", old.policy, new.policy));
    }
    if old.schedule != new.schedule {
        changes.push(format!("power.schedule {} -> {} windows", old.schedule.len(), new.schedule.len()));
    }
    changes
}
