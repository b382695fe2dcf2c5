//! `chargeplane telemetry ...`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A stretch of time.
#[derive(Debug, Clone, Args)]
pub struct RangeArgs {
    /// From this moment: RFC 3339 (2026-01-05T08:00:00Z) or milliseconds since 1970
    #[arg(long)]
    pub from: String,
    /// To before this moment
    #[arg(long)]
    pub to: String,
}

/// Whose telemetry: a charger's, or that of all chargers of a station.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct OfArgs {
    /// The charger
    pub charger: Option<String>,
    /// All chargers of this station
    #[arg(long)]
    pub station: Option<String>,
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadingFormat {
    /// RFC 4180, with a header row
    Csv,
    /// A JSON document a line
    JsonLines,
    /// Arrow IPC, the streaming format
    Arrow,
}

/// `chargeplane telemetry`.
#[derive(Debug, Subcommand)]
pub enum TelemetryCommand {
    /// Readings
    Raw {
        /// The charger
        charger: String,
        /// The range
        #[command(flatten)]
        range: RangeArgs,
        /// Refuse a range with more readings than this, up to 100000
        #[arg(long, default_value_t = 10_000)]
        limit: usize,
        /// Thin to about so many, which keep the least and greatest value of each stretch of time
        #[arg(long)]
        points: Option<usize>,
        /// Whose extremes are kept: voltage, current, temperature, soc, power, register, with commas between
        #[arg(long, requires = "points")]
        columns: Option<String>,
    },
    /// The newest reading of each charger
    Latest {
        /// Whose
        #[command(flatten)]
        of: OfArgs,
    },
    /// Hours
    Hourly {
        /// Whose
        #[command(flatten)]
        of: OfArgs,
        /// The range
        #[command(flatten)]
        range: RangeArgs,
    },
    /// All readings of a range as one file, charger after charger, each by time
    Export {
        /// Whose
        #[command(flatten)]
        of: OfArgs,
        /// The range
        #[command(flatten)]
        range: RangeArgs,
        /// How
        #[arg(long, value_enum)]
        format: ReadingFormat,
        /// Where to; it appears when it is whole. Standard output when left out
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Refuse a range with more readings than this
        #[arg(long)]
        limit: Option<u64>,
        /// Thin each charger to about so many
        #[arg(long)]
        points: Option<usize>,
    },
    /// Draw the readings of a charger, thinned to what a picture shows: an SVG or a PNG
    Plot(TelemetryPlotArgs),
    /// Read the store itself, beside the node or without it, and account for every sample: stored, lost, open
    Audit(TelemetryAuditArgs),
}

/// `chargeplane telemetry plot`.
#[derive(Debug, Args)]
pub struct TelemetryPlotArgs {
    /// The charger
    pub charger: String,
    /// The range
    #[command(flatten)]
    pub range: RangeArgs,
    /// The file, FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A panel for each: power, voltage, current, soc, temperature, register, with commas between
    #[arg(long, default_value = "power,voltage,current,soc")]
    pub columns: String,
    /// Width in pixels
    #[arg(long, default_value_t = 1_200)]
    pub width: u32,
    /// Height in pixels
    #[arg(long, default_value_t = 900)]
    pub height: u32,
    /// TrueType font of a PNG's letters, where none is found
    #[arg(long, value_name = "FILE")]
    pub font: Option<PathBuf>,
}

/// `chargeplane telemetry audit`.
#[derive(Debug, Default, Args)]
pub struct TelemetryAuditArgs {
    /// Configuration file of the node, where its telemetry is not in the data directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What gateways were promised, as a run's fleet/gateways.jsonl has it: all of it must be there
    #[arg(long, value_name = "FILE")]
    pub evidence: Vec<PathBuf>,
    /// Nothing is on its way any more: a number below the highest that is neither stored nor declared is a difference
    #[arg(long)]
    pub complete: bool,
    /// Also print the account of each gateway and day
    #[arg(long)]
    pub by_day: bool,
}
