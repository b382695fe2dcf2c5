//! `chargeplane telemetry audit`: what the telemetry store holds, charger by charger, against DATA-1.
//!
//! Reads the store itself, in a process of its own, with none of the code that takes samples in: every chunk is decoded
//! and verified, the versions of each range are united by number, and every number up to the highest is stored, or
//! declared lost, or *open*: neither. What gateways were promised ([`evidence`]) must be stored or declared. Works on
//! the data directory of a node that was stopped, was killed, or runs.

mod account;
mod evidence;
mod source;
#[cfg(test)]
mod tests;

use crate::assemble;
use crate::cli::{Connection, Output, TelemetryAuditArgs};
use crate::exit::{Code, Failure};
use crate::output;
use account::{Account, Losses};
use chargeplane_domain::units::Timestamp;
use evidence::Evidence;
use serde_json::{Value, json};
use source::Source;
use std::collections::BTreeMap;

/// Differences that are printed, the first first.
const SHOWN: usize = 10;

/// Gateway (empty when the catalogue does not know the charger) and day of gateway time.
type Key = (String, i64);

/// What an audit found.
#[derive(Debug, Default)]
struct Report {
    chargers: u64,
    chunks: u64,
    total: Losses,
    by_day: BTreeMap<Key, Losses>,
    /// Numbers that gateways were promised, and that were looked for.
    promised: u64,
    differences: u64,
    first: Vec<String>,
}

impl Report {
    fn differs(&mut self, what: String) {
        self.differences = self.differences.saturating_add(1);
        if self.first.len() < SHOWN {
            self.first.push(what);
        }
    }
}

/// Runs the command.
pub fn run(connection: &Connection, args: &TelemetryAuditArgs) -> Result<(), Failure> {
    let config = assemble::loaded(connection, args.config.as_deref())?.config;
    let mut evidence = Evidence::default();
    for file in &args.evidence {
        evidence.read(file)?;
    }
    let mut source = Source::open(&config)?;
    let report = check(&mut source, &evidence, args.complete)?;
    print(&report, args, connection.output)?;
    if report.differences == 0 {
        return Ok(());
    }
    let more = report.differences.saturating_sub(report.first.len() as u64);
    let more = if more == 0 { String::new() } else { format!("\n... and {more} more") };
    Err(Failure::new(
        Code::Refused,
        format!("{} differences (DATA-1):\n{}{more}", report.differences, report.first.join("\n")),
    ))
}

/// Looks at every charger of the store, and at every promise.
fn check(source: &mut Source, evidence: &Evidence, complete: bool) -> Result<Report, Failure> {
    let mut report = Report::default();
    let gateways = source.gateways()?;
    let mut chargers = source.chargers()?;
    chargers.extend(evidence.chargers());
    for charger in chargers {
        let mut account = Account::default();
        for stored in source.chunks(&charger)? {
            report.chunks = report.chunks.saturating_add(1);
            if let Err(what) = account.take(&stored) {
                report.differs(format!("{charger}, enrolment {}: {what}", stored.incarnation));
            }
        }
        for (incarnation, gap) in source.gaps(&charger)? {
            account.take_gap(incarnation, gap);
        }
        report.chargers = report.chargers.saturating_add(1);
        for promise in evidence.of(&charger) {
            let incarnation = promise.incarnation.or(account.newest()).unwrap_or(1);
            report.promised = report.promised.saturating_add(promise.numbers());
            if let Some((first, count)) = account.missing(incarnation, promise.first, promise.last) {
                report.differs(format!(
                    "{charger}, enrolment {incarnation}: {count} numbers that were acknowledged ({} to {}) are neither \
                     stored nor declared lost, the first is {first}",
                    promise.first, promise.last
                ));
            }
        }
        let gateway = gateways.get(&charger).cloned().unwrap_or_default();
        for (day, losses) in account.by_day() {
            report.total.add(&losses);
            report.by_day.entry((gateway.clone(), day)).or_default().add(&losses);
        }
        for (incarnation, first, last) in account.open().into_iter().filter(|_| complete) {
            report.differs(format!(
                "{charger}, enrolment {incarnation}: numbers {first} to {last} are neither stored nor declared lost"
            ));
        }
    }
    Ok(report)
}

fn row(losses: &Losses) -> Value {
    json!({
        "sent": losses.sent(), "stored": losses.stored, "thinned": losses.thinned, "dropped": losses.dropped,
        "refused": losses.refused, "open": losses.open, "late": losses.late, "stored_twice": losses.twice,
    })
}

fn print(report: &Report, args: &TelemetryAuditArgs, output: Output) -> Result<(), Failure> {
    let day = |day: i64| {
        let at = chargeplane_api::extract::rfc3339(Timestamp(day.saturating_mul(account::DAY_MS)));
        at.split('T').next().unwrap_or_default().to_owned()
    };
    let days = report.by_day.iter().map(|((gateway, of), losses)| {
        let mut value = row(losses);
        value["gateway"] = if gateway.is_empty() { Value::Null } else { json!(gateway) };
        value["day"] = json!(day(*of));
        value
    });
    let days: Vec<Value> = days.collect();
    let mut total = row(&report.total);
    total["chargers"] = json!(report.chargers);
    total["chunks"] = json!(report.chunks);
    total["promised"] = json!(report.promised);
    total["differences"] = json!(report.differences);
    if output == Output::Json {
        total["by_day"] = json!(days);
        return output::json(&total);
    }
    if args.by_day {
        output::list(output, &days, BY_DAY)?;
    }
    output::item(output, &total)?;
    if report.differences == 0 { output::write("no difference\n") } else { Ok(()) }
}

const BY_DAY: &[output::Column] = &[
    ("GATEWAY", "gateway"),
    ("DAY", "day"),
    ("SENT", "sent"),
    ("STORED", "stored"),
    ("THINNED", "thinned"),
    ("DROPPED", "dropped"),
    ("REFUSED", "refused"),
    ("OPEN", "open"),
    ("LATE", "late"),
    ("STORED TWICE", "stored_twice"),
];
