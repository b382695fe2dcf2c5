//! `chargeplane telemetry`: readings, the newest ones, hours, exports.

use super::{Call, Column};
use crate::cli::{OfArgs, RangeArgs, ReadingFormat, TelemetryCommand};
use crate::client::encode;
use crate::exit::Failure;
use crate::output;

const SAMPLES: &[Column] = &[
    ("NUMBER", "number"),
    ("AT", "at"),
    ("0.1 V", "voltage_dv"),
    ("0.1 A", "current_da"),
    ("0.1 C", "temperature_dc"),
    ("SOC 0.1%", "soc_permille"),
    ("POWER W", "power_w"),
    ("REGISTER WH", "register_wh"),
];
const LATEST: &[Column] = &[
    ("CHARGER", "charger"),
    ("AT", "at"),
    ("0.1 V", "voltage_dv"),
    ("0.1 A", "current_da"),
    ("0.1 C", "temperature_dc"),
    ("SOC 0.1%", "soc_permille"),
    ("POWER W", "power_w"),
    ("REGISTER WH", "register_wh"),
];
const HOURS: &[Column] = &[
    ("CHARGER", "charger"),
    ("HOUR", "hour"),
    ("SAMPLES", "samples"),
    ("ENERGY WH", "energy_wh"),
    ("POWER W", "power_w"),
    ("SOC 0.1%", "soc_permille"),
];

impl Call {
    pub(super) fn telemetry(&self, command: &TelemetryCommand) -> Result<(), Failure> {
        match command {
            TelemetryCommand::Raw { charger, range, limit, points, columns } => {
                let mut path = format!("/chargers/{}/telemetry?{}&limit={limit}", encode(charger), between(range));
                if let Some(points) = points {
                    path.push_str(&format!("&points={points}"));
                }
                if let Some(columns) = columns {
                    path.push_str(&format!("&columns={}", encode(columns)));
                }
                let answer = self.api.get(&path)?;
                output::list(self.output, answer["samples"].as_array().map_or(&[], Vec::as_slice), SAMPLES)
            }
            TelemetryCommand::Latest { of } => self.items(&format!("{}/telemetry/latest", whose(of)), LATEST),
            TelemetryCommand::Hourly { of, range } => {
                self.items(&format!("{}/telemetry/hourly?{}", whose(of), between(range)), HOURS)
            }
            TelemetryCommand::Export { of, range, format, out, limit, points } => {
                let format = match format {
                    ReadingFormat::Csv => "csv",
                    ReadingFormat::JsonLines => "json_lines",
                    ReadingFormat::Arrow => "arrow",
                };
                let mut path = format!("{}/telemetry/export?format={format}&{}", whose(of), between(range));
                if let Some(limit) = limit {
                    path.push_str(&format!("&limit={limit}"));
                }
                if let Some(points) = points {
                    path.push_str(&format!("&points={points}"));
                }
                self.download(&path, out.as_deref())
            }
            TelemetryCommand::Plot(args) => self.plot(args),
            TelemetryCommand::Audit(_) => Err(Failure::internal("this command does not talk to a node")),
        }
    }

    /// A list that comes in one answer.
    fn items(&self, path: &str, columns: &[Column]) -> Result<(), Failure> {
        let answer = self.api.get(path)?;
        output::list(self.output, answer["items"].as_array().map_or(&[], Vec::as_slice), columns)
    }
}

pub(super) fn between(range: &RangeArgs) -> String {
    format!("from={}&to={}", encode(&range.from), encode(&range.to))
}

fn whose(of: &OfArgs) -> String {
    match (&of.charger, &of.station) {
        (Some(charger), _) => format!("/chargers/{}", encode(charger)),
        (None, station) => format!("/stations/{}", encode(station.as_deref().unwrap_or(""))),
    }
}
