//! `chargeplane operator`, as clap reads it.

use super::KeyArg;
use clap::{Args, Subcommand};

/// `chargeplane operator`.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// By currency, over all shards
    Balance {
        /// The operator or another party of an agreement, `tenant/local` or `local`
        operator: String,
    },
    /// What changed it, oldest first: each hour's revenue and shares, and each payout
    Statement(StatementArgs),
    /// Pay out what was earned, to an account or to a bank: all of the amount or nothing
    Payout(PayoutArgs),
}

/// Which part of a statement.
#[derive(Debug, Args)]
pub struct StatementArgs {
    /// The operator or another party of an agreement
    pub operator: String,
    /// ISO 4217 code; may be left out where there is money of one currency only
    #[arg(long)]
    pub currency: Option<String>,
    /// Only lines at or after this moment, such as 2026-01-05T08:00:00Z
    #[arg(long)]
    pub from: Option<String>,
    /// Only lines before this moment
    #[arg(long)]
    pub to: Option<String>,
    /// The lines of each journal frame instead of each hour's, with the ENTRY that `account audit TILL --entry` follows
    #[arg(long)]
    pub frames: bool,
    /// One page of about so many lines, and the cursor of the next one; everything without it
    #[arg(long, value_name = "LINES")]
    pub limit: Option<usize>,
    /// The cursor that the page before gave
    #[arg(long, requires = "limit")]
    pub cursor: Option<String>,
}

/// A payout.
#[derive(Debug, Args)]
pub struct PayoutArgs {
    /// The operator or another party of an agreement
    pub operator: String,
    /// A decimal amount, such as 12.50
    pub amount: String,
    /// The account of the tenant that gets it
    #[arg(long, value_name = "ACCOUNT", required_unless_present = "to_bank", conflicts_with = "to_bank")]
    pub to: Option<String>,
    /// Who gets it outside, such as a bank's reference: it leaves the system and stays in the books
    #[arg(long, value_name = "REFERENCE")]
    pub to_bank: Option<String>,
    /// ISO 4217 code; may be left out where there is money of one currency only
    #[arg(long)]
    pub currency: Option<String>,
    /// The key
    #[command(flatten)]
    pub key: KeyArg,
}
