//! `chargeplane account ...`.

use clap::{Args, Subcommand};

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
    /// Its entries with what caused each: request, or session, reading, charge record and samples; of an operator's till
    /// the drivers' entries that a line sums up
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
