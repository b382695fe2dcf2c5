//! What a client may ask of an account, and what of its command is the node's to say.

use chargeplane_domain::account::AccountCommand;
use chargeplane_domain::ids::{AccountId, OperatorId, SessionId};
use chargeplane_domain::units::Timestamp;

/// Why a command is not a client's to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Accounts tell each other this; a client would make money of it.
    #[error("`{0}` is said between accounts only")]
    Internal(&'static str),
    /// It names somebody of another tenant than the account's.
    #[error("{what} is of tenant {found}, the account is of {expected}")]
    OtherTenant {
        /// What is named.
        what: String,
        /// Its tenant.
        found: String,
        /// The account's.
        expected: String,
    },
}

/// Stamps a command with the node's time, or refuses it. Time and the state of a transfer's target are never taken
/// from a client. What a later version knows is refused here until it is named here.
pub fn admit(account: &AccountId, command: &mut AccountCommand, now: Timestamp) -> Result<(), NotAdmitted> {
    match command {
        AccountCommand::Open { at, .. }
        | AccountCommand::TopUp { at, .. }
        | AccountCommand::Refund { at, .. }
        | AccountCommand::Adjust { at, .. }
        | AccountCommand::Freeze { at, .. }
        | AccountCommand::Unfreeze { at, .. }
        | AccountCommand::Close { at, .. } => *at = now,
        AccountCommand::Release { session, at, .. }
        | AccountCommand::Debit { session, at, .. }
        | AccountCommand::Settle { session, at, .. } => {
            of_session(account, session)?;
            *at = now;
        }
        AccountCommand::Authorise { session, operator, split, at, .. } => {
            of_session(account, session)?;
            of_operator(account, operator)?;
            if let Some(split) = split {
                split.shares.keys().chain([&split.remainder]).try_for_each(|party| of_operator(account, party))?;
            }
            *at = now;
        }
        // The account itself refuses a target of another tenant, and remembers that.
        AccountCommand::TransferOut { at, .. } => *at = now,
        AccountCommand::TransferIn { .. } => return Err(NotAdmitted::Internal("transfer_in")),
        AccountCommand::EndTransfer { .. } => return Err(NotAdmitted::Internal("end_transfer")),
        #[allow(unreachable_patterns, reason = "a command that is new in the account is not a client's by itself")]
        _ => return Err(NotAdmitted::Internal("this command")),
    }
    Ok(())
}

fn of_session(account: &AccountId, session: &SessionId) -> Result<(), NotAdmitted> {
    same(account, session.tenant(), || format!("session {session}"))
}

fn of_operator(account: &AccountId, operator: &OperatorId) -> Result<(), NotAdmitted> {
    same(account, operator.tenant(), || format!("operator {operator}"))
}

fn same(account: &AccountId, tenant: &str, what: impl FnOnce() -> String) -> Result<(), NotAdmitted> {
    if account.tenant() == tenant {
        return Ok(());
    }
    Err(NotAdmitted::OtherTenant { what: what(), found: tenant.to_owned(), expected: account.tenant().to_owned() })
}
