//! `chargeplane record`: list, export, rebuild.

use super::{Call, RECORDS};
use crate::cli::{ReadModel, RecordCommand, RecordFilters, RecordFormat};
use crate::client::{Body, encode};
use crate::exit::{Code, Failure};
use crate::output;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// How often a rebuild is asked how it goes.
const POLL: Duration = Duration::from_millis(500);

impl Call {
    pub(super) fn record(&self, command: &RecordCommand) -> Result<(), Failure> {
        match command {
            RecordCommand::List { filters, limit } => {
                let query = query_of(filters);
                let path =
                    if query.is_empty() { "/charge-records".to_owned() } else { format!("/charge-records?{query}") };
                self.list_most(&path, RECORDS, *limit)
            }
            RecordCommand::Export { filters, format, out } => self.export(filters, *format, out.as_deref()),
            RecordCommand::Rebuild { model, check } => self.rebuild(*model, *check),
        }
    }

    fn export(&self, filters: &RecordFilters, format: RecordFormat, out: Option<&Path>) -> Result<(), Failure> {
        let mut path = format!("/charge-records/export?format={}", format_name(format));
        let query = query_of(filters);
        if !query.is_empty() {
            path.push_str(&format!("&{query}"));
        }
        self.download(&path, out)
    }

    /// A file of any length: standard output, or a file that appears when it is whole.
    pub(super) fn download(&self, path: &str, out: Option<&Path>) -> Result<(), Failure> {
        let Some(out) = out else {
            return self.api.download(path, &mut std::io::stdout().lock());
        };
        let fail = |e: std::io::Error| Failure::usage(format!("{} cannot be written: {e}", out.display()));
        // Under another name until it is whole.
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let mut file = File::create(&part).map_err(fail)?;
        let written = self.api.download(path, &mut file);
        let written = written.and_then(|()| file.flush().and_then(|()| file.sync_all()).map_err(fail));
        match written {
            Ok(()) => std::fs::rename(&part, out).map_err(fail),
            Err(failure) => {
                // What is left of it is of no use; the failure that matters is the first.
                let _ = std::fs::remove_file(&part);
                Err(failure)
            }
        }
    }

    fn rebuild(&self, model: ReadModel, check: bool) -> Result<(), Failure> {
        let name = match model {
            ReadModel::Records => "records",
            ReadModel::Statements => "statements",
        };
        let path = format!("/read-models/{name}/rebuild");
        let mut status = self.api.call("POST", &format!("{path}?check={check}"), None, Body::Empty)?;
        while status["state"] == "running" {
            std::thread::sleep(POLL);
            status = self.api.get(&path)?;
        }
        output::item(self.output, &status)?;
        match (status["state"].as_str(), check) {
            (Some("equal"), _) | (Some("differs"), false) => Ok(()),
            (Some("differs"), true) => Err(refused(&status, "they are not what the journal says")),
            _ => Err(refused(&status, "the rebuild failed")),
        }
    }
}

fn refused(status: &Value, what: &str) -> Failure {
    Failure::new(Code::Refused, format!("{what}: {}", status["detail"].as_str().unwrap_or("")))
}

fn format_name(format: RecordFormat) -> &'static str {
    match format {
        RecordFormat::Csv => "csv",
        RecordFormat::Json => "json",
        RecordFormat::JsonLines => "json_lines",
        RecordFormat::Ocpi => "ocpi",
        RecordFormat::OcpiLines => "ocpi_lines",
    }
}

fn query_of(filters: &RecordFilters) -> String {
    let RecordFilters { tenant, city, month, charger, account, session, from, to } = filters;
    let named = [
        ("tenant", tenant),
        ("city", city),
        ("month", month),
        ("charger", charger),
        ("account", account),
        ("session", session),
        ("from", from),
        ("to", to),
    ];
    let given =
        named.iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", encode(value))));
    given.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_a_query() {
        assert_eq!(query_of(&RecordFilters::default()), "");
        let filters = RecordFilters {
            city: Some("苏州 1".to_owned()),
            month: Some("2026-01".to_owned()),
            ..RecordFilters::default()
        };
        assert_eq!(query_of(&filters), "city=%E8%8B%8F%E5%B7%9E%201&month=2026-01");
    }
}
