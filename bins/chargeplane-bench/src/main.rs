//! The benchmarks. `./dev bench NAME --json FILE` builds and runs them; methods in docs/measurements/.

mod acn;
mod ledger;
mod machine;
mod power;
mod records;
mod redis_peer;
mod report;
mod telemetry;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Messages are made on one thread and dropped on another: glibc's allocator spends a sixth of a debit's time there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Benchmarks of Chargeplane, each against its peer in the same run.
#[derive(Debug, Parser)]
#[command(name = "chargeplane-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Real sessions under a transformer that is too small: energy delivered, against the offline optimum
    Acn(acn::Args),
    /// Durable debits on one hot account, against a corrected Lua script in Redis
    Ledger(ledger::Args),
    /// Power allocations of stations of 2,000 and of 50 chargers, by HiGHS and by water-filling
    Power(power::Args),
    /// Pages of charge records out of ten million
    Records(records::Args),
    /// Samples from sealed batches to durable chunks, against a row a sample
    Telemetry(telemetry::Args),
    /// Bytes and time a value of the chunk's codec, against pco and varints
    Codec(telemetry::codec::Args),
    /// The node under load that `ledger` kills
    #[command(hide = true)]
    LedgerNode(ledger::NodeArgs),
    /// The callers of that node, when they come over TCP
    #[command(hide = true)]
    LedgerCallers(ledger::CallersArgs),
    /// The node under load that `telemetry` kills
    #[command(hide = true)]
    TelemetryNode(telemetry::NodeArgs),
    /// The look at what it left
    #[command(hide = true)]
    TelemetryAudit(telemetry::AuditArgs),
}

/// Where the result goes.
#[derive(Debug, Clone, clap::Args)]
struct Output {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Acn(args) => acn::run(&args),
        Command::Ledger(args) => ledger::run(&args),
        Command::Power(args) => power::run(&args),
        Command::Records(args) => records::run(&args),
        Command::LedgerNode(args) => ledger::run_node(&args),
        Command::LedgerCallers(args) => ledger::run_callers(&args),
        Command::Telemetry(args) => telemetry::run(&args),
        Command::Codec(args) => telemetry::codec::run(&args),
        Command::TelemetryNode(args) => telemetry::run_node(&args),
        Command::TelemetryAudit(args) => telemetry::run_audit(&args),
    }
}
