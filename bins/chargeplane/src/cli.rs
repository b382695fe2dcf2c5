//! The command line, as clap reads it.

mod account;
mod charging;
mod ledger;
mod operator;
mod records;
mod telemetry;

pub use account::{AccountCommand, KeyArg};
pub use charging::{ChargerCommand, ChargerOrder, LimitCommand, Service, SessionCommand, StationCommand};
use clap::{Args, Parser, Subcommand, ValueEnum};
pub use ledger::{ArchiveArgs, LedgerCommand, TariffCommand, TariffPriceArgs, VerifyArgs};
pub use operator::{OperatorCommand, PayoutArgs, StatementArgs};
pub use records::{ReadModel, RecordCommand, RecordFilters, RecordFormat};
use std::path::PathBuf;
pub use telemetry::{OfArgs, RangeArgs, ReadingFormat, TelemetryAuditArgs, TelemetryCommand, TelemetryPlotArgs};

/// Where a development node keeps its data unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "chargeplane-data";

/// Chargeplane: control plane for EV charging.
///
/// Exit codes: 0 done, 1 refused, 2 usage or configuration, 3 unreachable, 4 a store failed, 5 port or data
/// directory in use, 70 internal.
#[derive(Debug, Parser)]
#[command(name = "chargeplane", version, propagate_version = true)]
pub struct Cli {
    /// How to reach the node and how to answer.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach the node and how to answer.
#[derive(Debug, Clone, Default, Args)]
pub struct Connection {
    /// Base URL of the node; default: what the node in the data directory wrote down, else http://127.0.0.1:8080
    #[arg(long, global = true, env = "CHARGEPLANE_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Bearer token; default: DATA_DIR/api-token
    #[arg(long, global = true, env = "CHARGEPLANE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Data directory of the node [default: ./chargeplane-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to print answers
    #[arg(short = 'o', long, global = true, value_enum, default_value_t)]
    pub output: Output,
}

impl Connection {
    /// The data directory to look into for what was not given.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
    }
}

/// How to print answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node
    Node(NodeArgs),
    /// Run a node for development: embedded broker, SQLite in the data directory, HTTP on loopback
    Dev(DevArgs),
    /// Stations and their limits
    Station {
        /// What to do
        #[command(subcommand)]
        command: StationCommand,
    },
    /// Limits of stations: list, set, lift, signals, schedule, history
    Limit {
        /// What to do
        #[command(subcommand)]
        command: LimitCommand,
    },
    /// Chargers
    Charger {
        /// What to do
        #[command(subcommand)]
        command: ChargerCommand,
    },
    /// Accounts: open, top up, refund, transfer, correct, freeze, close; statement
    Account {
        /// What to do
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// What operators have earned: balance, statement, payouts
    Operator {
        /// What to do
        #[command(subcommand)]
        command: OperatorCommand,
    },
    /// Charging sessions
    Session {
        /// What to do
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// Charge records: list, export, build again
    #[command(visible_alias = "records")]
    Record {
        /// What to do
        #[command(subcommand)]
        command: RecordCommand,
    },
    /// Telemetry of a charger or a station
    Telemetry {
        /// What to do
        #[command(subcommand)]
        command: TelemetryCommand,
    },
    /// Commands to chargers and how they ended
    #[command(name = "command")]
    Order {
        /// What to do
        #[command(subcommand)]
        command: ChargerOrder,
    },
    /// Shards of the node
    Shard {
        /// What to do
        #[command(subcommand)]
        command: ShardCommand,
    },
    /// Gateways and their keys
    Gateway {
        /// What to do
        #[command(subcommand)]
        command: GatewayCommand,
    },
    /// What could not be handled
    Deadletter {
        /// What to do
        #[command(subcommand)]
        command: DeadLetterCommand,
    },
    /// The books
    Ledger {
        /// What to do
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Tariffs of partners
    Tariff {
        /// What to do
        #[command(subcommand)]
        command: TariffCommand,
    },
    /// The stores of a node
    Store {
        /// What to do
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Share out power by a file of limits and connectors, as a station's tick does, and print it as JSON
    Allocate(AllocateArgs),
    /// Replace the catalogue by a file, or print what that would change
    Apply(ApplyArgs),
    /// The node's configuration
    Config {
        /// What to do
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// `chargeplane node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `chargeplane dev`.
#[derive(Debug, Default, Args)]
pub struct DevArgs {
    /// Configuration file; what is not in it has the defaults of `config print`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Port of HTTP on 127.0.0.1; 0: any free one
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Port of the embedded broker on 127.0.0.1; 0: any free one
    #[arg(long, value_name = "PORT")]
    pub mqtt_port: Option<u16>,
}

/// `chargeplane shard`.
#[derive(Debug, Subcommand)]
pub enum ShardCommand {
    /// The shards of the node
    List,
}

/// `chargeplane store`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Make the tables that a configuration needs in its database, or bring them up to date
    Migrate(MigrateArgs),
}

/// `chargeplane store migrate`.
#[derive(Debug, Default, Args)]
pub struct MigrateArgs {
    /// Configuration file of the node
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `chargeplane gateway`.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// All gateways
    List,
    /// Make a new key and broker password, printed this once; former ones end
    Enroll {
        /// The gateway
        gateway: String,
    },
    /// Make a new key and broker password, printed this once; former ones are good until it was heard under the new key
    Rotate {
        /// The gateway
        gateway: String,
    },
    /// Cut it off: nothing in its name is read until it is enrolled anew
    Revoke {
        /// The gateway
        gateway: String,
    },
}

/// `chargeplane deadletter`.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// What could not be handled, with why
    List,
    /// Hand one to its entity again
    Retry {
        /// Its id, such as station-001f/12
        id: String,
    },
    /// Give one up
    Drop {
        /// Its id
        id: String,
    },
}

/// `chargeplane allocate`.
#[derive(Debug, Args)]
pub struct AllocateArgs {
    /// The problem as JSON; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Plan ahead to the departures: needs are what delivers most before they leave, not the average until then
    #[arg(long)]
    pub ahead: bool,
}

/// `chargeplane apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The catalogue as YAML; `-` reads standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Only print what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Apply a file without any station, which removes all there are
    #[arg(long)]
    pub allow_empty: bool,
}

/// `chargeplane config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration in effect and where each value comes from; there are no secrets in it
    Print(ConfigArgs),
    /// Check a configuration, and the catalogue file it names
    Check(ConfigArgs),
    /// Print the reference page of all keys, as Markdown
    #[command(hide = true)]
    Reference,
}

/// Which configuration.
#[derive(Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file; defaults and environment alone when left out
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read_with_global_options_anywhere() {
        let cli = Cli::parse_from(["chargeplane", "account", "top-up", "a1", "12.50", "-o", "json", "--key", "k"]);
        assert_eq!(cli.connection.output, Output::Json);
        let Command::Account { command: AccountCommand::TopUp { account, amount, key } } = cli.command else {
            panic!("another command");
        };
        assert_eq!((account.as_str(), amount.as_str(), key.key.as_deref()), ("a1", "12.50", Some("k")));
        let cli = Cli::parse_from(["chargeplane", "account", "adjust", "a1", "-12.50", "--reason", "twice"]);
        let Command::Account { command: AccountCommand::Adjust { amount, reason, .. } } = cli.command else {
            panic!("another command");
        };
        assert_eq!((amount.as_str(), reason.as_str()), ("-12.50", "twice"));
        let dev = ["chargeplane", "dev", "--data-dir", "/d", "--http-port", "0", "--mqtt-port", "1884"];
        let cli = Cli::parse_from(dev);
        assert_eq!(cli.connection.data_dir(), PathBuf::from("/d"));
        assert!(matches!(cli.command, Command::Dev(DevArgs { http_port: Some(0), mqtt_port: Some(1884), .. })));
    }

    #[test]
    fn what_is_missing_is_a_usage_error() {
        for line in ["account top-up a1", "session start c1", "node", "apply", "frobnicate", "charger show"] {
            let words = ["chargeplane"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
