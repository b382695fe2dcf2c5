//! `chargeplane`: the node, the development node, and the operator's commands.

mod allocate;
mod archive;
mod assemble;
mod audit;
mod cli;
mod client;
mod config;
mod data_dir;
mod exit;
mod operate;
mod output;
mod plot;
mod store;
mod tariff;
mod verify;

use clap::Parser;
use cli::{Cli, Command, ConfigCommand, LedgerCommand, StoreCommand, TariffCommand, TelemetryCommand};
use exit::Failure;
use std::process::ExitCode;

/// Messages are made on one thread and dropped on another: glibc's allocator spends a sixth of a debit's time there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exit::report(run(Cli::parse()))
}

fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Node(args) => assemble::run(assemble::Start::node(&cli.connection, args)?),
        Command::Dev(args) => assemble::run(assemble::Start::dev(&cli.connection, args)?),
        Command::Config { command: ConfigCommand::Print(args) } => config::print(args, cli.connection.output),
        Command::Config { command: ConfigCommand::Check(args) } => config::check(args),
        Command::Config { command: ConfigCommand::Reference } => config::reference(),
        Command::Ledger { command: LedgerCommand::Verify(args) } => verify::run(&cli.connection, args),
        Command::Ledger { command: LedgerCommand::Export(args) } => archive::export(&cli.connection, args),
        Command::Ledger { command: LedgerCommand::Import(args) } => archive::import(&cli.connection, args),
        Command::Allocate(args) => allocate::run(args),
        Command::Store { command: StoreCommand::Migrate(args) } => store::migrate(&cli.connection, args),
        Command::Telemetry { command: TelemetryCommand::Audit(args) } => audit::run(&cli.connection, args),
        Command::Tariff { command: TariffCommand::Price(args) } => tariff::price(args),
        command => operate::run(&cli.connection, command),
    }
}
