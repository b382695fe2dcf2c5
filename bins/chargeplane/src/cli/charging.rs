//! `chargeplane station ...`, `charger ...` and `session ...`.

use super::KeyArg;
use clap::{Subcommand, ValueEnum};

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
