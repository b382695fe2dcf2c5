//! Commands of an operator's till: take revenue in, pay it out.

use super::operated::{check_amount, check_reason};
use super::{Decision, refuse};
use crate::account::{
    Account, AccountAnswer, AccountCommand, AccountEvent, AccountRejection, KeyContent, MAX_BALANCE, MAX_REASON_LEN,
};
use crate::units::{Money, Timestamp};

impl AccountCommand {
    /// Whether only tills (`true`) or only other accounts (`false`) are asked so; none for what any account does.
    pub(super) fn is_for_tills(&self) -> Option<bool> {
        match self {
            Self::Collect { .. } | Self::PayOut { .. } => Some(true),
            Self::TopUp { .. }
            | Self::Refund { .. }
            | Self::Adjust { .. }
            | Self::Authorise { .. }
            | Self::Close { .. } => Some(false),
            _ => None,
        }
    }
}

impl Account {
    /// The till's side of it. What there is to collect only the books of the shard know.
    pub(super) fn collect(&self, key: &str, amount: Money, at: Timestamp) -> Decision {
        let Some(till) = self.id.till() else { return refuse(AccountRejection::OperatorsTill) };
        self.keyed(key, KeyContent::Collect { amount }, at, |account| {
            check_amount(amount)?;
            if account.posted.checked_add(amount).is_none_or(|balance| balance > MAX_BALANCE) {
                return Err(AccountRejection::BalanceLimit);
            }
            let (key, operator, currency) = (key.to_owned(), till.operator, account.currency);
            let event = AccountEvent::Collected { key, operator, currency, amount, at };
            Ok((event, AccountAnswer::Collected { amount }))
        })
    }

    pub(super) fn pay_out(&self, key: &str, reference: &str, amount: Money, at: Timestamp) -> Decision {
        // What is refused for its length is not remembered at its length.
        let kept = reference.chars().take(MAX_REASON_LEN.saturating_add(1)).collect();
        self.keyed(key, KeyContent::PayOut { amount, reference: kept }, at, |account| {
            check_amount(amount)?;
            check_reason(reference)?;
            if account.is_frozen() {
                return Err(AccountRejection::AccountFrozen);
            }
            if amount > account.posted {
                return Err(AccountRejection::InsufficientFunds { available: account.posted });
            }
            let (key, reference, currency) = (key.to_owned(), reference.to_owned(), account.currency);
            let event = AccountEvent::PaidOut { key, reference, currency, amount, at };
            Ok((event, AccountAnswer::PaidOut { balance: account.posted.saturating_sub(amount) }))
        })
    }
}
