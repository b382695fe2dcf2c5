//! `chargeplane record ...`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Which charge records.
#[derive(Debug, Clone, Default, Args)]
pub struct RecordFilters {
    /// Only of this tenant
    #[arg(long)]
    pub tenant: Option<String>,
    /// Only of stations of this city
    #[arg(long)]
    pub city: Option<String>,
    /// Only of this month, such as 2026-01: that of the session's end on the station's wall clock
    #[arg(long)]
    pub month: Option<String>,
    /// Only of this charger
    #[arg(long)]
    pub charger: Option<String>,
    /// Only of this account
    #[arg(long)]
    pub account: Option<String>,
    /// Only this session
    #[arg(long)]
    pub session: Option<String>,
    /// Ended at or after this moment: RFC 3339 or milliseconds since 1970
    #[arg(long)]
    pub from: Option<String>,
    /// Ended before this moment
    #[arg(long)]
    pub to: Option<String>,
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecordFormat {
    /// RFC 4180, with a header row
    Csv,
    /// An array
    Json,
    /// A record a line
    JsonLines,
    /// An array of OCPI 2.2.1 CDRs
    Ocpi,
    /// A CDR a line
    OcpiLines,
}

/// A read model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ReadModel {
    /// Charge records
    #[default]
    Records,
    /// Statements of accounts
    Statements,
}

/// `chargeplane record`.
#[derive(Debug, Subcommand)]
pub enum RecordCommand {
    /// Charge records, newest first
    List {
        /// Which
        #[command(flatten)]
        filters: RecordFilters,
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// All of them as one file
    Export {
        /// Which
        #[command(flatten)]
        filters: RecordFilters,
        /// How
        #[arg(long, value_enum)]
        format: RecordFormat,
        /// Where to; it appears when it is whole. Standard output when left out
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Build them from the journal again while the present ones are served, and say whether the two are equal
    Rebuild {
        /// What
        #[arg(long, value_enum, default_value_t)]
        model: ReadModel,
        /// Compare only: the present ones stay
        #[arg(long)]
        check: bool,
    },
}
