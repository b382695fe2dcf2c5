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
}

/// `chargeplane limit`.
#[derive(Debug, Subcommand)]
pub enum LimitCommand {
    /// Every node's limit now, whose it is, and what will change
    List {
        /// The station
        station: String,
    },
    /// Set the limit of a node of the tree, until it is lifted
    Set {
        /// The station
        station: String,
        /// The node, such as `grid`
        node: String,
        /// The limit in W
        watts: i64,
        /// In effect from this moment on (RFC 3339) instead of at once
        #[arg(long, conflicts_with = "within")]
        at: Option<String>,
        /// In effect so many seconds from now
        #[arg(long, value_name = "SECONDS")]
        within: Option<u32>,
    },
    /// Lift what was set for a node: the catalogue's limit is in effect again
    Lift {
        /// The station
        station: String,
        /// The node, such as `grid`
        node: String,
    },
    /// Set a limit for a time, as a grid operator signals it (demand response); it ends by itself
    Signal {
        /// The station
        station: String,
        /// A name for it: the same name again replaces it
        signal: String,
        /// The limit in W
        watts: i64,
        /// The node; the grid connection when left out
        #[arg(long)]
        node: Option<String>,
        /// From this moment on (RFC 3339); at once when left out
        #[arg(long)]
        from: Option<String>,
        /// Until this moment
        #[arg(long)]
        until: String,
    },
    /// End a signal now
    EndSignal {
        /// The station
        station: String,
        /// Its name
        signal: String,
    },
    /// The windows of the catalogue's schedule
    Schedule {
        /// The station
        station: String,
    },
    /// The latest changes of limits, and whose they were
    History {
        /// The station
        station: String,
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
    /// Why a charger has the power it has, and what would give it more
    Explain {
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
