//! `chargeplane-drill`: runs scenarios with faults and judges them from outside the node.

mod burst;
mod catalogue;
mod cli;
mod evidence;
mod finish;
mod fleet;
mod http;
mod journal;
mod judge;
mod live;
mod metrics;
mod node;
mod report;
mod run;
mod scenario;
mod setup;
mod traffic;
mod watch;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Plan { scenario, flags } => scenario::read(&scenario)
            .and_then(|s| scenario::plan(&scenario, s, &(&flags).into()))
            .map(|plan| print!("{}", plan.describe()))
            .map(|()| true),
        Command::Validate { scenario } => {
            scenario::read(&scenario).map(|s| println!("{}: valid", s.name)).map(|()| true)
        }
        Command::Judge { run, report } => run::judge_again(&run, report.as_deref()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("chargeplane-drill: {error:#}");
            ExitCode::from(3)
        }
    }
}
