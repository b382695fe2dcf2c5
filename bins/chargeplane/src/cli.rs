//! The command line, as clap reads it.

mod operator;

pub use operator::{OperatorCommand, PayoutArgs, StatementArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

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
    /// Telemetry of a charger
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

/// `chargeplane station`.
#[derive(Debug, Subcommand)]
pub enum StationCommand {
    /// All stations
    List,
    /// A station with every node of its tree of limits
    Show {
        /// The station, `tenant/local` or `local`
        station: String,
    },
    /// Set the limit of a node of its tree; it holds until it is lifted
    SetLimit {
        /// The station
        station: String,
        /// The node, such as `grid`
        node: String,
        /// The limit in W
        watts: i64,
    },
    /// Lift what was set for a node: the catalogue's limit is in effect again
    LiftLimit {
        /// The station
        station: String,
        /// The node, such as `grid`
        node: String,
    },
}

/// `chargeplane charger`.
#[derive(Debug, Subcommand)]
pub enum ChargerCommand {
    /// All chargers
    List {
        /// Only of this station
        #[arg(long)]
        station: Option<String>,
    },
    /// A charger
    Show {
        /// The charger, `tenant/local` or `local`
        charger: String,
    },
}

/// A key for what moves money or sends a command.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArg {
    /// Idempotency key; a new one is made when left out. Give it to repeat a request that got no answer
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// `chargeplane account`.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Open an account
    Open {
        /// The account, `tenant/local` or `local`
        account: String,
        /// Its currency
        #[arg(long)]
        currency: String,
        /// Make it a credit account that may go so far below zero
        #[arg(long, value_name = "AMOUNT")]
        credit_limit: Option<String>,
        /// It is a fleet's: 10,000 sessions at once instead of 16
        #[arg(long)]
        fleet: bool,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// All accounts
    List,
    /// An account
    Show {
        /// The account
        account: String,
    },
    /// Pay money in
    TopUp {
        /// The account
        account: String,
        /// A decimal amount, such as 12.50
        amount: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Give money back to where it came from
    Refund {
        /// The account
        account: String,
        /// A decimal amount, such as 12.50; at most what is refundable
        amount: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Correct its balance
    Adjust {
        /// The account
        account: String,
        /// A decimal amount, such as 12.50; negative to take
        #[arg(allow_hyphen_values = true)]
        amount: String,
        /// Why; it stays in the books
        #[arg(long)]
        reason: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// No new sessions, and no money out; sessions under way go on
    Freeze {
        /// The account
        account: String,
        /// Why
        #[arg(long)]
        reason: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// End that it is frozen
    Unfreeze {
        /// The account
        account: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Give back the hold of a session that never began or was abandoned
    Release {
        /// The account
        account: String,
        /// The session
        session: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Close it for good; its balance is zero and nothing is held
    Close {
        /// The account
        account: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Send money to another account
    Transfer {
        /// The account that it leaves
        from: String,
        /// The account that it goes to
        to: String,
        /// A decimal amount, such as 12.50
        amount: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// How a transfer stands
    ShowTransfer {
        /// The transfer, such as main/a1.t7
        transfer: String,
    },
    /// Its entries with what caused each: request, or session, reading, charge record and samples
    Audit {
        /// The account
        account: String,
        /// Only this entry, as its statement names it
        #[arg(long, value_name = "SHARD/LSN/INDEX")]
        entry: Option<String>,
    },
    /// Its ledger, oldest line first
    Statement {
        /// The account
        account: String,
    },
}

/// `chargeplane session`.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Start a session
    Start {
        /// Where
        charger: String,
        /// Who pays
        #[arg(long)]
        account: String,
        /// Which connector
        #[arg(long, default_value_t = 1)]
        connector: u8,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Stop a session
    Stop {
        /// The session
        session: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Open sessions
    List,
    /// A session
    Show {
        /// The session
        session: String,
    },
}

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
    },
    /// Hours
    Hourly {
        /// The charger
        charger: String,
        /// The range
        #[command(flatten)]
        range: RangeArgs,
    },
}

/// `chargeplane command`.
#[derive(Debug, Subcommand)]
pub enum ChargerOrder {
    /// Commands of a charger, or of all
    List {
        /// Only of this charger
        #[arg(long)]
        charger: Option<String>,
    },
    /// A command with its outcome
    Show {
        /// The command
        command: String,
    },
    /// Restart a charger
    Reset {
        /// The charger
        charger: String,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Release a plug
    Unlock {
        /// The charger
        charger: String,
        /// Which connector
        #[arg(long, default_value_t = 1)]
        connector: u8,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
    /// Take a charger into or out of service
    SetAvailability {
        /// The charger
        charger: String,
        /// `in` or `out`
        #[arg(value_enum)]
        service: Service,
        /// The key
        #[command(flatten)]
        key: KeyArg,
    },
}

/// Into or out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Into service.
    In,
    /// Out of service.
    Out,
}

/// `chargeplane shard`.
#[derive(Debug, Subcommand)]
pub enum ShardCommand {
    /// The shards of the node
    List,
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
    /// Take its right to connect
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
