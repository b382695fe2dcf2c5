//! Transfers: what leaves an account, what comes in, and how it ends.

use super::operated::check_amount;
use super::{Decision, answer, refuse};
use crate::account::{
    Account, AccountAnswer, AccountEvent, AccountRejection, KeyContent, MAX_BALANCE, MAX_OPEN_TRANSFERS, TransferId,
    TransferTarget,
};
use crate::ids::AccountId;
use crate::units::{Currency, Money, Timestamp};

/// What comes in, as its source says.
pub(super) struct Arriving<'a> {
    pub transfer: &'a TransferId,
    /// All of the source's below this number have ended there.
    pub ended_below: u64,
    pub currency: Currency,
    pub amount: Money,
}

impl Account {
    pub(super) fn transfer_out(
        &self,
        key: &str,
        to: &AccountId,
        amount: Money,
        target: TransferTarget,
        at: Timestamp,
    ) -> Decision {
        self.keyed(key, KeyContent::TransferOut { to: to.clone(), amount }, at, |account| {
            check_amount(amount)?;
            if *to == account.id || to.tenant() != account.id.tenant() {
                return Err(AccountRejection::InvalidTarget);
            }
            match target {
                TransferTarget::Unknown => return Err(AccountRejection::UnknownTarget),
                TransferTarget::Closed => return Err(AccountRejection::TargetClosed),
                TransferTarget::Open { currency } if currency != account.currency => {
                    return Err(AccountRejection::OtherCurrency { account: currency, asked: account.currency });
                }
                TransferTarget::Open { .. } => {}
            }
            if account.is_frozen() {
                return Err(AccountRejection::AccountFrozen);
            }
            if account.outgoing.open.len() >= MAX_OPEN_TRANSFERS {
                return Err(AccountRejection::TooManyTransfers);
            }
            // Credit is for charging: it is not passed on.
            let available = account.posted.saturating_sub(account.held);
            if amount > available {
                return Err(AccountRejection::InsufficientFunds { available: available.max(Money::ZERO) });
            }
            let number = account.outgoing.last.saturating_add(1);
            let (key, to, currency) = (key.to_owned(), to.clone(), account.currency);
            let event = AccountEvent::TransferredOut { key, number, to, currency, amount, at };
            let transfer = TransferId { from: account.id.clone(), number };
            let balance = account.posted.saturating_sub(amount);
            Ok((event, AccountAnswer::TransferredOut { transfer, balance }))
        })
    }

    /// Takes a transfer in once. Its repetition is answered as it was the first time, while its source may
    /// still ask; afterwards it is stale.
    pub(super) fn transfer_in(&self, arriving: &Arriving<'_>, at: Timestamp) -> Decision {
        let Arriving { transfer, ended_below, currency, amount } = arriving;
        let (ended_below, currency, amount) = (*ended_below, *currency, *amount);
        let known = self.incoming.get(&transfer.from);
        if transfer.number < known.map_or(0, |known| known.below).max(ended_below) {
            return refuse(AccountRejection::StaleTransfer);
        }
        if let Some(seen) = known.and_then(|known| known.seen.get(&transfer.number)) {
            return match &seen.refused {
                _ if seen.amount != amount => refuse(AccountRejection::KeyReused),
                Some(rejection) => refuse(rejection.clone()),
                None => answer(AccountAnswer::TransferredIn),
            };
        }
        // These never change, so there is nothing to remember.
        if self.is_closed() {
            return refuse(AccountRejection::AccountClosed);
        }
        if currency != self.currency {
            return refuse(AccountRejection::OtherCurrency { account: self.currency, asked: currency });
        }
        if let Err(rejection) = check_amount(amount) {
            return refuse(rejection);
        }
        let transfer = (*transfer).clone();
        if self.posted.checked_add(amount).is_none_or(|balance| balance > MAX_BALANCE) {
            let rejection = AccountRejection::BalanceLimit;
            return Decision {
                event: Some(AccountEvent::TransferRefused {
                    transfer,
                    ended_below,
                    amount,
                    rejection: rejection.clone(),
                    at,
                }),
                answer: Err(rejection),
            };
        }
        Decision {
            event: Some(AccountEvent::TransferredIn { transfer, ended_below, currency, amount, at }),
            answer: Ok(AccountAnswer::TransferredIn),
        }
    }

    /// The target's word: it has the money, or refuses it for good.
    pub(super) fn end_transfer_with(&self, number: u64, refused: Option<&AccountRejection>, at: Timestamp) -> Decision {
        let Some(transfer) = self.outgoing.open.get(&number) else {
            // It has ended before: a repeated answer.
            return answer(AccountAnswer::TransferEnded);
        };
        let event = match refused {
            None => AccountEvent::TransferArrived { number, at },
            Some(rejection) if rejection.returns_transfer() => AccountEvent::TransferReturned {
                number,
                currency: self.currency,
                amount: transfer.amount,
                rejection: rejection.clone(),
                at,
            },
            // It may yet be taken in: the source asks again.
            Some(rejection) => return refuse(rejection.clone()),
        };
        Decision { event: Some(event), answer: Ok(AccountAnswer::TransferEnded) }
    }
}
