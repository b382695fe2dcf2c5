//! The command line.

use crate::journal::{Backend, TelemetryBackend};
use crate::scenario::Overrides;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs scenarios against a real node and a simulated fleet, and judges the run from outside.
#[derive(Debug, Parser)]
#[command(name = "chargeplane-drill", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario and judge it. Exit code 0: all invariants held and were exercised; 1: not; 3: no run.
    Run(Box<RunArgs>),
    /// Print what a scenario will do, and when.
    Plan {
        /// The scenario file.
        scenario: PathBuf,
        /// Changes to the scenario.
        #[command(flatten)]
        flags: Flags,
    },
    /// Check a scenario file.
    Validate {
        /// The scenario file.
        scenario: PathBuf,
    },
    /// Judge a finished run again, from its directory.
    Judge {
        /// The run directory.
        run: PathBuf,
        /// Write the report as JSON to this file as well.
        #[arg(long)]
        report: Option<PathBuf>,
    },
}

/// Changes to the scenario.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Number of chargers; limits and counts scale with it.
    #[arg(long)]
    pub chargers: Option<u32>,
    /// Number of gateways; the scenario's cut takes those that POWER-2 needs, all of them when there is one.
    #[arg(long)]
    pub gateways: Option<u32>,
    /// Length of the load in seconds; the timeline scales with it, and a cut stays as long as it is.
    #[arg(long)]
    pub seconds: Option<u32>,
    /// Limit of the grid connection, kW.
    #[arg(long)]
    pub grid_kw: Option<u32>,
    /// Seed: the same seed gives the same arrivals.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Kill the node (SIGKILL) at this second and start it again; repeatable.
    #[arg(long, value_name = "S")]
    pub kill_at: Vec<u32>,
    /// Stop the node (SIGTERM, which must end with exit code 0) at this second and start it again; repeatable.
    #[arg(long, value_name = "S")]
    pub stop_at: Vec<u32>,
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The scenario file.
    pub scenario: PathBuf,
    /// Changes to the scenario.
    #[command(flatten)]
    pub flags: Flags,
    /// Print a line every ten seconds instead of the live view.
    #[arg(long)]
    pub headless: bool,
    /// Write the report as JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Leave node and fleet running after the report.
    #[arg(long)]
    pub keep: bool,
    /// Directory of the node's stores; by default within the run directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the node has its journal: a file of its data directory, a Redis server or a keyspace of the run's own.
    #[arg(long, value_enum, default_value_t, value_name = "STORE")]
    pub journal: Backend,
    /// Where the node has its telemetry: files of its data directory, or a keyspace of the run's own.
    #[arg(long, value_enum, default_value_t)]
    pub telemetry: TelemetryBackend,
    /// A node of Cassandra or ScyllaDB for `--journal cql` and `--telemetry cql`.
    #[arg(long, value_name = "HOST:PORT", env = "CHARGEPLANE_CQL")]
    pub cql_node: Option<String>,
    /// HTTP port of the node; by default one that is free.
    #[arg(long, value_name = "P")]
    pub port: Option<u16>,
}

impl From<&Flags> for Overrides {
    fn from(flags: &Flags) -> Self {
        Self {
            chargers: flags.chargers,
            gateways: flags.gateways,
            seconds: flags.seconds,
            grid_kw: flags.grid_kw,
            seed: flags.seed,
            kill_at: flags.kill_at.clone(),
            stop_at: flags.stop_at.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kills_and_stops_repeat() {
        let line = "drill run s.yaml --kill-at 40 --kill-at 80 --stop-at 60 --stop-at 70 --headless";
        let cli = Cli::parse_from(line.split(' '));
        let Command::Run(args) = cli.command else { panic!("not a run") };
        assert_eq!(args.flags.stop_at, vec![60, 70]);
        assert_eq!((args.flags.kill_at, args.headless), (vec![40, 80], true));
        assert_eq!(args.journal, Backend::Sqlite);
    }

    #[test]
    fn the_journal_is_chosen() {
        let of =
            |store: &str| Cli::try_parse_from(["drill", "run", "s.yaml", "--journal", store]).map(|cli| cli.command);
        for (store, backend) in [("sqlite", Backend::Sqlite), ("redis", Backend::Redis), ("cql", Backend::Cql)] {
            let Ok(Command::Run(args)) = of(store) else { panic!("{store}") };
            assert_eq!((args.journal, args.journal.to_string().as_str()), (backend, store));
        }
        assert!(of("etcd").is_err());
        let of = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let Ok(Command::Run(args)) = of("drill run s.yaml --telemetry cql") else { panic!("not a run") };
        assert_eq!((args.telemetry, args.journal), (TelemetryBackend::Cql, Backend::Sqlite));
        assert!(of("drill run s.yaml --telemetry redis").is_err());
    }
}
