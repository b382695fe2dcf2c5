//! `chargeplane ledger ...` and `chargeplane tariff ...`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `chargeplane ledger`.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Check the configured journal, or an exported file, without the node: chain, epochs, log numbers, sums, doubles
    Verify(VerifyArgs),
    /// Every balance, credit side included
    Balances,
    /// Write the logs of all shards to a file, verified; the node must not run
    Export(ArchiveArgs),
    /// Read logs from such a file into an empty journal; the node must not run
    Import(ArchiveArgs),
}

/// Which journal.
#[derive(Debug, Default, Args)]
pub struct VerifyArgs {
    /// Configuration file of the node, where its journal is not the data directory's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A file of `ledger export` instead
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
}

/// Which file, and whose journal.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// The file; an export does not replace one
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Configuration file of the node, where its journal is not the data directory's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `chargeplane tariff`.
#[derive(Debug, Subcommand)]
pub enum TariffCommand {
    /// Price an OCPI 2.2.1 CDR with an OCPI 2.2.1 tariff and print it as JSON; needs no node
    Price(TariffPriceArgs),
}

/// `chargeplane tariff price`.
#[derive(Debug, Args)]
pub struct TariffPriceArgs {
    /// The Tariff object, JSON
    #[arg(long, value_name = "FILE")]
    pub tariff: PathBuf,
    /// The CDR object with its charging periods, JSON
    #[arg(long, value_name = "FILE")]
    pub cdr: PathBuf,
    /// IANA time zone of the location, for tariffs that ask for the local time; default: the CDR's or its country's
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
}
