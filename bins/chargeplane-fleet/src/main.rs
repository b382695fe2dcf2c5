//! `chargeplane-fleet --config FILE`: simulates gateways, chargers, cars and drivers against a running node.

use anyhow::Context;
use chargeplane_fleet::{config::FleetConfig, run};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Simulates gateways, chargers, cars and drivers against a running node.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to simulate: a JSON file, see the documentation of the configuration.
    #[arg(long)]
    config: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new(format!("{directives},{}", chargeplane_mqtt::QUIET_LOGS)))
        .init();
    let path = arguments.config;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let config = FleetConfig::from_json(&text).with_context(|| path.display().to_string())?;
    let well = run::run(config).await?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
