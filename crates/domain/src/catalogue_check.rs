//! What makes a catalogue acceptable, and how two of them differ.
//!
//! Owns the rules that no single field can check: references, numbers that must be unique, the tree of
//! limits, and that a station whose gateways are all cut off stays within every limit by itself (POWER-2).
//! A problem names the path, what is wrong there, and what to write instead. Everything is checked in one
//! pass, so that one reading of the answer repairs the whole file.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod book;
mod power;

use crate::allocation::{Tree, TreeError};
use crate::catalogue::{Catalogue, Charger, LimitNode, Station};
use crate::ids::{ChargerId, StationId, TariffId};
use crate::tariff::fees::{Fees, MAX_GRACE_S};
use crate::tariff::{MAX_PRICE, PERIOD_NAMES, Tariff};
use crate::units::Watts;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Session and command ids append `.` and a number to the charger's local part, within 64 characters.
pub const MAX_CHARGER_LOCAL_LEN: usize = 42;

/// A tick solves one station: more chargers than this behind one grid connection are refused.
pub const MAX_CHARGERS_PER_STATION: usize = 10_000;

/// Nodes in one station's tree of limits.
pub const MAX_LIMIT_NODES: usize = 10_000;

/// Nodes from a leaf to the grid connection.
pub const MAX_TREE_DEPTH: usize = 32;

/// Most power of one node or charger, 10 GW: sums of 10,000 of them still fit an `i64` by far.
pub const MAX_WATTS: Watts = Watts(10_000_000_000);

/// Share weights.
pub const MAX_WEIGHT: u32 = 10_000;

/// Problems reported at once; the rest is counted.
pub const MAX_PROBLEMS: usize = 100;

/// One thing that is wrong in a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueProblem {
    /// Where: `chargers.main/c1.limit`.
    pub path: String,
    /// What is wrong there.
    pub what: String,
    /// What to write instead.
    pub write_instead: String,
}

impl fmt::Display for CatalogueProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.what, self.write_instead)
    }
}

/// Collects problems up to [`MAX_PROBLEMS`] and counts the rest.
#[derive(Default)]
struct Findings {
    problems: Vec<CatalogueProblem>,
    beyond: usize,
}

impl Findings {
    fn add(&mut self, path: impl Into<String>, what: impl Into<String>, write_instead: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            let (path, what, write_instead) = (path.into(), what.into(), write_instead.into());
            self.problems.push(CatalogueProblem { path, what, write_instead });
        } else {
            self.beyond = self.beyond.saturating_add(1);
        }
    }

    fn count(&self) -> usize {
        self.problems.len().saturating_add(self.beyond)
    }

    fn into_result(mut self) -> Result<(), Vec<CatalogueProblem>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        if self.beyond > 0 {
            self.problems.push(CatalogueProblem {
                path: "(more)".to_owned(),
                what: format!("{} more problems are not shown", self.beyond),
                write_instead: "repair those above and try again".to_owned(),
            });
        }
        Err(self.problems)
    }
}

/// Checks a whole catalogue.
///
/// # Errors
///
/// Everything that is wrong, at most [`MAX_PROBLEMS`] entries and one that counts the rest.
pub fn validate(catalogue: &Catalogue) -> Result<(), Vec<CatalogueProblem>> {
    let mut findings = Findings::default();
    for (id, tariff) in &catalogue.tariffs {
        check_tariff(id, tariff, &mut findings);
    }
    for (id, station) in &catalogue.stations {
        check_station(id, station, catalogue, &mut findings);
    }
    book::check_book(catalogue, &mut findings);
    check_gateways(catalogue, &mut findings);
    check_chargers(catalogue, &mut findings);
    check_fallbacks(catalogue, &mut findings);
    power::check_floors(catalogue, &mut findings);
    findings.into_result()
}

fn check_tariff(id: &TariffId, tariff: &Tariff, findings: &mut Findings) {
    for (period, price) in PERIOD_NAMES.iter().zip(&tariff.prices) {
        for (part, amount) in [("energy", price.energy), ("service", price.service)] {
            if amount.0 < 0 || amount > MAX_PRICE {
                findings.add(
                    format!("tariffs.{id}.prices.{period}.{part}"),
                    format!("{amount} is not a price"),
                    format!("write 0 to {MAX_PRICE} a kWh"),
                );
            }
        }
    }
    check_fees(id, &tariff.fees, findings);
}

fn check_fees(id: &TariffId, fees: &Fees, findings: &mut Findings) {
    let path = |fee: &str| format!("tariffs.{id}.fees.{fee}");
    let amounts = [
        ("flat", Some(fees.flat), "a session"),
        ("per_minute", Some(fees.per_minute), "a minute"),
        ("idle_per_minute", Some(fees.idle_per_minute), "a minute"),
        ("min", Some(fees.min), "a session"),
        ("max", fees.max, "a session"),
    ];
    for (fee, amount, of) in amounts {
        if let Some(amount) = amount.filter(|amount| amount.0 < 0 || *amount > MAX_PRICE) {
            findings.add(path(fee), format!("{amount} is not a fee"), format!("write 0 to {MAX_PRICE} {of}"));
        }
    }
    if !(0..=MAX_GRACE_S).contains(&fees.idle_grace_s) {
        findings.add(
            path("idle_grace_s"),
            format!("{} s are not a grace", fees.idle_grace_s),
            format!("write 0 to {MAX_GRACE_S} seconds"),
        );
    }
    if let Some(max) = fees.max.filter(|max| *max < fees.min) {
        findings.add(
            path("min"),
            format!("{} is above the most that a session may cost, {max}", fees.min),
            "write a min that is at most max".to_owned(),
        );
    }
}

fn check_station(id: &StationId, station: &Station, catalogue: &Catalogue, findings: &mut Findings) {
    let path = |field: &str| format!("stations.{id}.{field}");
    if let Err(error) = crate::tariff::zone::parse(&station.time_zone) {
        findings.add(path("time_zone"), error.to_string(), "write an IANA time zone, such as Asia/Shanghai");
    }
    if station.operator.tenant() != id.tenant() {
        findings.add(
            path("operator"),
            format!("{} belongs to another tenant", station.operator),
            format!("write an operator of tenant {}", id.tenant()),
        );
    }
    if !catalogue.tariffs.contains_key(&station.tariff) {
        findings.add(
            path("tariff"),
            format!("there is no tariff {}", station.tariff),
            nearest("tariff", &station.tariff, catalogue.tariffs.keys()),
        );
    } else if station.tariff.tenant() != id.tenant() {
        findings.add(
            path("tariff"),
            format!("{} belongs to another tenant", station.tariff),
            format!("write a tariff of tenant {}", id.tenant()),
        );
    }
    check_split(id, station, findings);
    check_tree(id, &station.limits, findings);
    power::check_schedule(id, station, findings);
}

fn check_split(id: &StationId, station: &Station, findings: &mut Findings) {
    let Some(split) = &station.split else { return };
    let path = format!("stations.{id}.split");
    if let Err(error) = split.check() {
        findings.add(
            &*path,
            error.to_string(),
            "write shares in basis points that sum to 10000, and one of the parties as remainder",
        );
    }
    if let Some(party) = split.shares.keys().find(|party| party.tenant() != id.tenant()) {
        findings.add(
            &*path,
            format!("{party} belongs to another tenant"),
            format!("write a party of tenant {}", id.tenant()),
        );
    }
}

fn check_tree(id: &StationId, limits: &[LimitNode], findings: &mut Findings) {
    let found_before = findings.count();
    let path = |node: &str, field: &str| format!("stations.{id}.limits.{node}{field}");
    if limits.len() > MAX_LIMIT_NODES {
        let what = format!("{} nodes are more than {MAX_LIMIT_NODES}", limits.len());
        findings.add(format!("stations.{id}.limits"), what, "split the station");
        return;
    }
    let mut parents: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for node in limits {
        if node.id.is_empty() || node.id.len() > crate::ids::MAX_PART_LEN {
            let what = format!("the name has {} characters", node.id.len());
            findings.add(path(&shown(&node.id), ".id"), what, "write a name of 1 to 64 characters");
        }
        if parents.insert(&node.id, node.parent.as_deref()).is_some() {
            let what = format!("two nodes are called {:?}", shown(&node.id));
            findings.add(path(&shown(&node.id), ".id"), what, "give each node of a station its own name");
        }
        check_node_power(id, node, findings);
    }
    let roots: Vec<&str> = limits.iter().filter(|n| n.parent.is_none()).map(|n| n.id.as_str()).collect();
    match roots.as_slice() {
        [_] => {}
        [] => findings.add(
            format!("stations.{id}.limits"),
            "no node without a parent",
            "leave `parent` out of the grid connection, and only there",
        ),
        several => findings.add(
            format!("stations.{id}.limits"),
            format!("{} nodes have no parent: {}", several.len(), several.join(", ")),
            "keep one of them as the grid connection and give the others a `parent`",
        ),
    }
    for node in limits {
        let Some(parent) = &node.parent else { continue };
        if !parents.contains_key(parent.as_str()) {
            let write = nearest("node of this station", parent, parents.keys());
            findings.add(path(&shown(&node.id), ".parent"), format!("there is no node {:?}", shown(parent)), write);
        } else if !reaches_the_root(&node.id, &parents) {
            let what = format!("the way up from here goes in a circle, or over more than {MAX_TREE_DEPTH} nodes");
            findings.add(
                path(&shown(&node.id), ".parent"),
                what,
                "name a parent that is nearer to the grid connection",
            );
        }
    }
    if findings.count() > found_before {
        return;
    }
    // The tree that will be served has the last word. Base loads are summed, with the fallbacks, below.
    match Tree::build(limits) {
        Ok(_) | Err(TreeError::BaseOverLimit { .. }) => {}
        Err(error) => findings.add(format!("stations.{id}.limits"), error.to_string(), "repair the tree of limits"),
    }
}

fn check_node_power(id: &StationId, node: &LimitNode, findings: &mut Findings) {
    let path = |field: &str| format!("stations.{id}.limits.{}.{field}", shown(&node.id));
    if node.limit_w.0 <= 0 || node.limit_w > MAX_WATTS {
        let what = format!("{} is not a limit", node.limit_w);
        findings.add(path("limit_w"), what, format!("write 1 to {} (watts)", MAX_WATTS.0));
    }
    if node.base_w.0 < 0 || node.base_w > node.limit_w {
        let what = format!("the base load {} is below zero or over the limit {}", node.base_w, node.limit_w);
        findings.add(path("base_w"), what, format!("write 0 to {} (watts)", node.limit_w.0));
    }
}

/// True when the way up from `start` ends at a node without a parent. A parent that does not exist is
/// reported at the node that names it, and counts as an end here.
fn reaches_the_root(start: &str, parents: &BTreeMap<&str, Option<&str>>) -> bool {
    let mut at = start;
    for _ in 0..MAX_TREE_DEPTH {
        match parents.get(at).copied().flatten() {
            Some(parent) => at = parent,
            None => return true,
        }
    }
    false
}

fn check_gateways(catalogue: &Catalogue, findings: &mut Findings) {
    for (id, gateway) in &catalogue.gateways {
        let path = format!("gateways.{id}.station");
        if !catalogue.stations.contains_key(&gateway.station) {
            let write = nearest("station", &gateway.station, catalogue.stations.keys());
            findings.add(path, format!("there is no station {}", gateway.station), write);
        } else if gateway.station.tenant() != id.tenant() {
            let what = format!("{} belongs to another tenant", gateway.station);
            findings.add(path, what, format!("write a station of tenant {}", id.tenant()));
        }
    }
}

fn check_chargers(catalogue: &Catalogue, findings: &mut Findings) {
    let mut children = BTreeMap::new();
    let nodes: BTreeMap<&StationId, BTreeSet<&str>> =
        catalogue.stations.iter().map(|(id, s)| (id, s.limits.iter().map(|n| n.id.as_str()).collect())).collect();
    let mut per_station: BTreeMap<&StationId, usize> = BTreeMap::new();
    for (id, charger) in &catalogue.chargers {
        check_charger_alone(id, charger, findings);
        if let Some(other) = children.insert((&charger.gateway, charger.child), id) {
            findings.add(
                format!("chargers.{id}.child"),
                format!("{other} is already number {} of gateway {}", charger.child, charger.gateway),
                "give each charger of a gateway its own number",
            );
        }
        let Some(gateway) = catalogue.gateways.get(&charger.gateway) else {
            findings.add(
                format!("chargers.{id}.gateway"),
                format!("there is no gateway {}", charger.gateway),
                nearest("gateway", &charger.gateway, catalogue.gateways.keys()),
            );
            continue;
        };
        if charger.gateway.tenant() != id.tenant() {
            findings.add(
                format!("chargers.{id}.gateway"),
                format!("{} belongs to another tenant", charger.gateway),
                format!("write a gateway of tenant {}", id.tenant()),
            );
        }
        let count = per_station.entry(&gateway.station).or_default();
        *count = count.saturating_add(1);
        let Some(names) = nodes.get(&gateway.station) else { continue };
        if !names.contains(charger.limit.as_str()) {
            findings.add(
                format!("chargers.{id}.limit"),
                format!("station {} has no node {:?}", gateway.station, shown(&charger.limit)),
                nearest("node of this station", &charger.limit, names.iter()),
            );
        }
    }
    for (station, count) in per_station {
        if count > MAX_CHARGERS_PER_STATION {
            let what = format!("{count} chargers are more than {MAX_CHARGERS_PER_STATION}");
            findings.add(format!("stations.{station}"), what, "split the station");
        }
    }
}

fn check_charger_alone(id: &ChargerId, charger: &Charger, findings: &mut Findings) {
    let path = |field: &str| format!("chargers.{id}.{field}");
    if id.local().len() > MAX_CHARGER_LOCAL_LEN {
        findings.add(
            format!("chargers.{id}"),
            format!("the name has {} characters; sessions and commands append a number to it", id.local().len()),
            format!("write a name of at most {MAX_CHARGER_LOCAL_LEN} characters"),
        );
    }
    let (rated, min, fallback) = (charger.rated_w, charger.min_w, charger.fallback_w);
    if rated.0 <= 0 || rated > MAX_WATTS {
        findings.add(
            path("rated_w"),
            format!("{rated} is not a rating"),
            format!("write 1 to {} (watts)", MAX_WATTS.0),
        );
    }
    if min.0 <= 0 || min > rated {
        let what = format!("the minimum {min} is not within 1 W and the rating {rated}");
        findings.add(path("min_w"), what, format!("write 1 to {} (watts)", rated.0));
    }
    if charger.step_w.0 <= 0 || charger.step_w > rated {
        let what = format!("the step {} is not within 1 W and the rating {rated}", charger.step_w);
        findings.add(path("step_w"), what, format!("write 1 to {} (watts); 100 is usual", rated.0));
    }
    if fallback.0 != 0 && (fallback < min || fallback > rated) {
        let what = format!("the fallback {fallback} is neither 0 nor within the minimum {min} and the rating {rated}");
        findings.add(path("fallback_w"), what, format!("write 0, or {} to {} (watts)", min.0, rated.0));
    }
    if charger.weight == 0 || charger.weight > MAX_WEIGHT {
        let what = format!("{} is not a weight", charger.weight);
        findings.add(path("weight"), what, format!("write 1 to {MAX_WEIGHT}; 100 is normal"));
    }
    if charger.connectors == 0 {
        findings.add(path("connectors"), "a charger without a connector", "write 1 or more");
    }
}

/// POWER-2: when every gateway is cut off, fallbacks and base load fit every node by themselves.
fn check_fallbacks(catalogue: &Catalogue, findings: &mut Findings) {
    let mut by_station: BTreeMap<&StationId, Vec<&Charger>> = BTreeMap::new();
    for charger in catalogue.chargers.values() {
        if let Some(gateway) = catalogue.gateways.get(&charger.gateway) {
            by_station.entry(&gateway.station).or_default().push(charger);
        }
    }
    for (id, station) in &catalogue.stations {
        let worst = least_limits(station, by_station.get(id).into_iter().flatten().copied());
        for node in &station.limits {
            let load = worst.get(node.id.as_str()).copied().unwrap_or_default();
            // A base load that is over the limit of its own node was reported with that node.
            if load > node.limit_w && node.base_w <= node.limit_w {
                findings.add(
                    format!("stations.{id}.limits.{}.limit_w", shown(&node.id)),
                    format!("fallbacks and base load below it add up to {load}, over its limit {}", node.limit_w),
                    "lower `fallback_w` of chargers below it, or their `base_w`: a station that is cut off \
                     must stay within its limits by itself (POWER-2)",
                );
            }
        }
    }
}

/// What fallbacks and base load below each node of a station add up to: a lower limit could not be kept by a station
/// that is cut off. Nodes without any are left out.
pub fn least_limits<'a>(
    station: &'a Station,
    chargers: impl IntoIterator<Item = &'a Charger>,
) -> BTreeMap<&'a str, Watts> {
    let parents: BTreeMap<&str, Option<&str>> =
        station.limits.iter().map(|n| (n.id.as_str(), n.parent.as_deref())).collect();
    let mut worst: BTreeMap<&str, Watts> = BTreeMap::new();
    for charger in chargers {
        add_upwards(&charger.limit, charger.fallback_w, &parents, &mut worst);
    }
    for node in &station.limits {
        add_upwards(&node.id, node.base_w, &parents, &mut worst);
    }
    worst
}

fn add_upwards<'a>(
    from: &'a str,
    load: Watts,
    parents: &BTreeMap<&'a str, Option<&'a str>>,
    worst: &mut BTreeMap<&'a str, Watts>,
) {
    let mut at = Some(from);
    // Bounded: a circle (reported with the tree) must not hang the check.
    for _ in 0..MAX_TREE_DEPTH {
        let Some((&node, parent)) = at.and_then(|name| parents.get_key_value(name)) else { return };
        let sum = worst.entry(node).or_default();
        *sum = sum.saturating_add(load);
        at = *parent;
    }
}

/// Foreign text, shortened for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Advice for an unknown name: the nearest known one, or what exists.
fn nearest<T: fmt::Display>(kind: &str, wanted: &impl fmt::Display, known: impl Iterator<Item = T>) -> String {
    let wanted = wanted.to_string();
    let best = known.map(|k| k.to_string()).map(|k| (distance(&wanted, &k), k)).min();
    match best {
        Some((d, name)) if d.saturating_mul(3) <= wanted.len().max(3) => format!("did you mean {name}?"),
        Some((_, name)) => format!("write the name of an existing {kind}, such as {name}"),
        None => format!("add the {kind} to this catalogue"),
    }
}

/// Edit distance of the first 64 bytes; two neighbours in the wrong order are one edit (optimal string
/// alignment), because that is how people mistype.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], &b.as_bytes()[..b.len().min(64)]);
    let cell = |rows: &[Vec<usize>], i: Option<usize>, j: Option<usize>| -> usize {
        i.zip(j).and_then(|(i, j)| rows.get(i)?.get(j).copied()).unwrap_or(usize::MAX)
    };
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let (up, left) = (i.checked_sub(1), j.checked_sub(1));
            let at = |text: &[u8], n: Option<usize>| n.and_then(|n| text.get(n).copied());
            let same = at(a, up) == at(b, left);
            let (up2, left2) = (i.checked_sub(2), j.checked_sub(2));
            let swapped = up2.is_some() && left2.is_some() && at(a, up) == at(b, left2) && at(a, up2) == at(b, left);
            let mut best = cell(&rows, up, left).saturating_add(usize::from(!same));
            best = best.min(cell(&rows, up, Some(j)).saturating_add(1));
            best = best.min(left.and_then(|left| row.get(left).copied()).unwrap_or(usize::MAX).saturating_add(1));
            if swapped {
                best = best.min(cell(&rows, up2, left2).saturating_add(1));
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

/// What changes from `old` to `new`, a line each, sorted by kind and id:
/// `+ charger main/c1`, `- gateway main/g2`, `~ charger main/c3: weight 100 -> 50`.
pub fn diff(old: &Catalogue, new: &Catalogue) -> Vec<String> {
    let mut lines = Vec::new();
    diff_maps("tariff", &old.tariffs, &new.tariffs, &mut lines, tariff_changes);
    let (before, after) = (&old.tariff_book, &new.tariff_book);
    let parts = [
        ("station_groups", before.station_groups != after.station_groups),
        ("customer_groups", before.customer_groups != after.customer_groups),
        ("rules", before.rules != after.rules),
    ];
    lines.extend(parts.iter().filter(|(_, differ)| *differ).map(|(part, _)| format!("~ tariff_book: {part}")));
    diff_maps("station", &old.stations, &new.stations, &mut lines, station_changes);
    diff_maps("gateway", &old.gateways, &new.gateways, &mut lines, |a, b| {
        changed("station", &a.station, &b.station).into_iter().collect()
    });
    diff_maps("charger", &old.chargers, &new.chargers, &mut lines, charger_changes);
    lines
}

fn diff_maps<K: Ord + fmt::Display, V: PartialEq>(
    kind: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    lines: &mut Vec<String>,
    changes: impl Fn(&V, &V) -> Vec<String>,
) {
    let mut ids: Vec<&K> = old.keys().chain(new.keys()).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        match (old.get(id), new.get(id)) {
            (None, Some(_)) => lines.push(format!("+ {kind} {id}")),
            (Some(_), None) => lines.push(format!("- {kind} {id}")),
            (Some(a), Some(b)) if a != b => lines.push(format!("~ {kind} {id}: {}", changes(a, b).join(", "))),
            _ => {}
        }
    }
}

fn changed<T: PartialEq + fmt::Display>(field: &str, old: &T, new: &T) -> Option<String> {
    (old != new).then(|| format!("{field} {old} -> {new}"))
}

fn tariff_changes(old: &Tariff, new: &Tariff) -> Vec<String> {
    let mut changes: Vec<String> = changed("currency", &old.currency, &new.currency).into_iter().collect();
    if old.prices != new.prices {
        changes.push("prices".to_owned());
    }
    if old.slots != new.slots {
        changes.push("slots".to_owned());
    }
    if old.fees != new.fees {
        changes.push("fees".to_owned());
    }
    changes
}

/// An agreement in words.
fn agreed(station: &Station) -> String {
    let Some(split) = &station.split else { return "none".to_owned() };
    let shares: Vec<String> = split.shares.iter().map(|(party, share)| format!("{party} {share}")).collect();
    format!("{}, remainder {}", shares.join(", "), split.remainder)
}

fn station_changes(old: &Station, new: &Station) -> Vec<String> {
    let mut changes = Vec::new();
    changes.extend(changed("operator", &old.operator, &new.operator));
    changes.extend(changed("city", &old.city, &new.city));
    changes.extend(changed("time_zone", &old.time_zone, &new.time_zone));
    changes.extend(changed("tariff", &old.tariff, &new.tariff));
    changes.extend(changed("split", &agreed(old), &agreed(new)));
    let by_name =
        |s: &Station| -> BTreeMap<String, LimitNode> { s.limits.iter().map(|n| (n.id.clone(), n.clone())).collect() };
    let mut nodes = Vec::new();
    diff_maps("limit", &by_name(old), &by_name(new), &mut nodes, |a, b| {
        let none = "none".to_owned();
        let mut changes = Vec::new();
        changes.extend(changed("parent", a.parent.as_ref().unwrap_or(&none), b.parent.as_ref().unwrap_or(&none)));
        changes.extend(changed("limit_w", &a.limit_w.0, &b.limit_w.0));
        changes.extend(changed("base_w", &a.base_w.0, &b.base_w.0));
        changes
    });
    if nodes.is_empty() && old.limits != new.limits {
        nodes.push("order of limits".to_owned());
    }
    changes.append(&mut nodes);
    changes.extend(power::changes(old, new));
    changes
}

fn charger_changes(old: &Charger, new: &Charger) -> Vec<String> {
    [
        changed("gateway", &old.gateway, &new.gateway),
        changed("child", &old.child, &new.child),
        changed("limit", &old.limit, &new.limit),
        changed("rated_w", &old.rated_w.0, &new.rated_w.0),
        changed("min_w", &old.min_w.0, &new.min_w.0),
        changed("step_w", &old.step_w.0, &new.step_w.0),
        changed("fallback_w", &old.fallback_w.0, &new.fallback_w.0),
        changed("weight", &old.weight, &new.weight),
        changed("connectors", &old.connectors, &new.connectors),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests;
