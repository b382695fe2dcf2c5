//! Readings as files: CSV, a JSON document a line, Arrow IPC; charger after charger, each by time.
//!
//! A range is read part after part, so that memory is bounded whatever its length; with `points` each charger is
//! thinned first.

use super::{AHEAD, Chunks, Exports, STALL};
use crate::dto::ReadingDto;
use crate::extract::rfc3339;
use crate::problem::Problem;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chargeplane_actors::handle::{NodeHandle, ReadingRange};
use chargeplane_columnar::{ColumnarWriter, Format as Columnar};
use chargeplane_domain::chunk::Column;
use chargeplane_domain::sample::Reading;
use chargeplane_domain::thinning::Thinner;
use chargeplane_domain::units::Timestamp;
use serde::Deserialize;
use std::fmt::Write;
use std::io;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The form of an export of readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadingFormat {
    /// RFC 4180, with a header row.
    Csv,
    /// A JSON document a line.
    JsonLines,
    /// Arrow IPC, the streaming format.
    Arrow,
}

const CSV_HEADER: &str = "charger,incarnation,number,at,voltage_dv,current_da,temperature_dc,soc_permille,power_w,\
register_wh\r\n";

impl ReadingFormat {
    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::JsonLines => "application/x-ndjson",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"telemetry.csv\"",
            Self::JsonLines => "attachment; filename=\"telemetry.jsonl\"",
            Self::Arrow => "attachment; filename=\"telemetry.arrows\"",
        }
    }
}

/// Which readings: of which chargers, from when to before when, and to how many points each charger is thinned.
pub(crate) struct Wanted {
    pub ranges: Vec<ReadingRange>,
    pub from: Timestamp,
    pub to: Timestamp,
    pub points: Option<usize>,
    pub columns: Vec<Column>,
}

impl Exports {
    /// Answers with readings.
    pub(crate) fn readings(
        &self,
        handle: &NodeHandle,
        wanted: Wanted,
        format: ReadingFormat,
    ) -> Result<Response, Problem> {
        let room = self.room()?;
        let (chunks, received) = mpsc::channel(AHEAD);
        let handle = handle.clone();
        tokio::spawn(async move { run(handle, wanted, format, chunks, room).await });
        let mut response = Body::from_stream(Chunks(received)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(format.file_name()));
        Ok(response)
    }
}

type Sender = mpsc::Sender<io::Result<Bytes>>;

async fn run(handle: NodeHandle, wanted: Wanted, format: ReadingFormat, chunks: Sender, _room: OwnedSemaphorePermit) {
    if let Err(error) = write(&handle, &wanted, format, &chunks).await {
        tracing::warn!(%error, "an export of telemetry broke off");
        // The body ends without its end. Should nobody listen, it has ended already.
        let _ = chunks.send_timeout(Err(io::Error::other(error)), STALL).await;
    }
}

async fn write(handle: &NodeHandle, wanted: &Wanted, format: ReadingFormat, chunks: &Sender) -> Result<(), String> {
    let mut file = File::begin(format)?;
    for range in &wanted.ranges {
        let charger = &range.charger;
        let mut thinner = wanted.points.map(|points| Thinner::new(wanted.from, wanted.to, points, &wanted.columns));
        for (from, to) in &range.parts {
            let part = handle.telemetry_part(charger, *from, *to).await.map_err(|error| error.to_string())?;
            match &mut thinner {
                Some(thinner) => part.into_iter().for_each(|reading| thinner.push(reading)),
                None => {
                    if !send(chunks, file.write(charger.as_str(), &part)?).await {
                        return Ok(());
                    }
                }
            }
        }
        if let Some(thinner) = thinner
            && !send(chunks, file.write(charger.as_str(), &thinner.finish())?).await
        {
            return Ok(());
        }
    }
    send(chunks, file.end()?).await;
    Ok(())
}

/// False when the client went away, or takes nothing.
async fn send(chunks: &Sender, bytes: Vec<u8>) -> bool {
    bytes.is_empty() || chunks.send_timeout(Ok(Bytes::from(bytes)), STALL).await.is_ok()
}

enum File {
    Csv { begun: bool },
    JsonLines,
    Columnar(Box<ColumnarWriter>),
}

impl File {
    fn begin(format: ReadingFormat) -> Result<Self, String> {
        let columnar = |format| {
            let writer = ColumnarWriter::new(format).map_err(|error| error.to_string())?;
            Ok::<_, String>(Self::Columnar(Box::new(writer)))
        };
        match format {
            ReadingFormat::Csv => Ok(Self::Csv { begun: false }),
            ReadingFormat::JsonLines => Ok(Self::JsonLines),
            ReadingFormat::Arrow => columnar(Columnar::ArrowStream),
        }
    }

    fn write(&mut self, charger: &str, readings: &[Reading]) -> Result<Vec<u8>, String> {
        match self {
            Self::Csv { begun } => {
                let mut text = if std::mem::replace(begun, true) { String::new() } else { CSV_HEADER.to_owned() };
                readings.iter().for_each(|reading| csv_row(&mut text, charger, reading));
                Ok(text.into_bytes())
            }
            Self::JsonLines => {
                let mut lines = Vec::new();
                for reading in readings {
                    let line = ReadingDto { charger: charger.to_owned(), sample: (*reading).into() };
                    serde_json::to_writer(&mut lines, &line).map_err(|error| error.to_string())?;
                    lines.push(b'\n');
                }
                Ok(lines)
            }
            Self::Columnar(writer) => writer.write(charger, readings).map_err(|error| error.to_string()),
        }
    }

    fn end(self) -> Result<Vec<u8>, String> {
        match self {
            Self::Csv { begun: false } => Ok(CSV_HEADER.as_bytes().to_vec()),
            Self::Csv { .. } | Self::JsonLines => Ok(Vec::new()),
            Self::Columnar(writer) => writer.finish().map_err(|error| error.to_string()),
        }
    }
}

/// Ids have no comma, quote or line end, and nothing that a spreadsheet takes for a formula.
fn csv_row(text: &mut String, charger: &str, reading: &Reading) {
    let Reading { incarnation, number, sample } = reading;
    let at = rfc3339(sample.at);
    // Writing into a string does not fail.
    let _ = write!(
        text,
        "{charger},{incarnation},{number},{at},{},{},{},{},{},{}\r\n",
        sample.voltage_dv,
        sample.current_da,
        sample.temperature_dc,
        sample.soc_permille,
        sample.power.0,
        sample.register.0
    );
}
