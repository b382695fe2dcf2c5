//! What an account answers, and what happens to it. Nothing is changed here: [`apply`](super::apply()) does.

mod metered;
mod operated;
mod till;
mod transfers;

use crate::account::{
    Account, AccountAnswer, AccountCommand, AccountEvent, AccountKind, AccountRejection, AccountStatus, AccountSummary,
    Holder, KEYS_REMEMBERED, KeyContent, MAX_BALANCE, MAX_KEY_LEN, MIN_START, RefusedSubject,
};
use crate::ids::{AccountId, OperatorId, SessionId};
use crate::split::Split;
use crate::tariff::Tariff;
use crate::units::{Currency, Money, Timestamp};
use metered::Reading;
use transfers::Arriving;

/// A decision: what to write, if anything, and what to answer once that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// To be applied and made durable; none when nothing changes.
    pub event: Option<AccountEvent>,
    /// To be answered, after the event is durable.
    pub answer: Result<AccountAnswer, AccountRejection>,
}

/// Decides a command. `state` is none for an account that was never opened.
pub fn decide(state: Option<&Account>, id: &AccountId, command: &AccountCommand) -> Decision {
    if command.is_for_tills().is_some_and(|till| till != id.is_till()) {
        return refuse(AccountRejection::OperatorsTill);
    }
    match (state, command) {
        (None, AccountCommand::Open { key, currency, kind, holder, at }) => {
            open(id, key, *currency, *kind, *holder, *at)
        }
        (None, _) => refuse(AccountRejection::UnknownAccount),
        (Some(account), AccountCommand::Open { key, currency, kind, holder, at }) => {
            let content = KeyContent::Open { currency: *currency, kind: *kind, holder: *holder };
            let refused = |_: &Account| Err(AccountRejection::AlreadyOpen);
            account.keyed(key, content, *at, refused)
        }
        (Some(account), AccountCommand::TopUp { key, amount, currency, at }) => {
            account.in_currency(*currency, |account| account.top_up(key, *amount, *at))
        }
        (Some(account), AccountCommand::Refund { key, amount, currency, at }) => {
            account.in_currency(*currency, |account| account.refund(key, *amount, *at))
        }
        (Some(account), AccountCommand::Adjust { key, amount, currency, reason, at }) => {
            account.in_currency(*currency, |account| account.adjust(key, *amount, reason, *at))
        }
        (Some(account), AccountCommand::Freeze { key, reason, at }) => account.freeze(key, reason, *at),
        (Some(account), AccountCommand::Unfreeze { key, at }) => account.unfreeze(key, *at),
        (Some(account), AccountCommand::Release { key, session, at }) => account.release(key, session, *at),
        (Some(account), AccountCommand::Close { key, at }) => account.close(key, *at),
        (Some(account), AccountCommand::TransferOut { key, to, amount, currency, target, at }) => {
            account.in_currency(*currency, |account| account.transfer_out(key, to, *amount, *target, *at))
        }
        (Some(account), AccountCommand::TransferIn { transfer, ended_below, currency, amount, at }) => {
            let (ended_below, currency, amount) = (*ended_below, *currency, *amount);
            account.transfer_in(&Arriving { transfer, ended_below, currency, amount }, *at)
        }
        (Some(account), AccountCommand::EndTransfer { number, refused, at }) => {
            account.end_transfer_with(*number, refused.as_ref(), *at)
        }
        (Some(account), AccountCommand::Collect { key, amount, at }) => account.collect(key, *amount, *at),
        (Some(account), AccountCommand::PayOut { key, reference, amount, currency, at }) => {
            account.in_currency(*currency, |account| account.pay_out(key, reference, *amount, *at))
        }
        (Some(account), AccountCommand::EndHold { session, quiet_since, at }) => {
            account.end_hold(session, *quiet_since, *at)
        }
        (Some(account), AccountCommand::Authorise { session, operator, tariff, split, want, reserve, at }) => {
            account.authorise(session, operator, tariff, split.as_ref(), *want, *reserve, *at)
        }
        (
            Some(account),
            AccountCommand::Debit { session, sequence, meter, by_period, time, cumulative, hold_target, at },
        ) => {
            let (sequence, meter, cumulative) = (*sequence, *meter, *cumulative);
            let reading = Reading { session, sequence, meter, by_period, time, cumulative, last: false };
            account.debit(&reading, *hold_target, *at)
        }
        (Some(account), AccountCommand::Settle { session, sequence, meter, by_period, time, cumulative, at }) => {
            let (sequence, meter, cumulative) = (*sequence, *meter, *cumulative);
            let reading = Reading { session, sequence, meter, by_period, time, cumulative, last: true };
            account.settle(&reading, *at)
        }
    }
}

fn answer(answer: AccountAnswer) -> Decision {
    Decision { event: None, answer: Ok(answer) }
}

fn refuse(rejection: AccountRejection) -> Decision {
    Decision { event: None, answer: Err(rejection) }
}

fn check_key(key: &str) -> Result<(), AccountRejection> {
    if key.is_empty() || key.len() > MAX_KEY_LEN { Err(AccountRejection::InvalidKey) } else { Ok(()) }
}

/// Opens an account. A refusal leaves no trace, because there is no account to remember it; it is a
/// function of the content alone, so its repetition is answered the same.
fn open(id: &AccountId, key: &str, currency: Currency, kind: AccountKind, holder: Holder, at: Timestamp) -> Decision {
    if let Err(rejection) = check_key(key) {
        return refuse(rejection);
    }
    if id.till().is_some_and(|till| till.currency != currency || kind != AccountKind::Prepaid) {
        return refuse(AccountRejection::OperatorsTill);
    }
    let limit = kind.limit();
    if !(Money::ZERO..=MAX_BALANCE).contains(&limit) {
        return refuse(AccountRejection::InvalidAmount { amount: limit });
    }
    Decision {
        event: Some(AccountEvent::Opened { key: key.to_owned(), currency, kind, holder, at }),
        answer: Ok(AccountAnswer::Opened(AccountSummary::opened(id, currency, kind, holder, at))),
    }
}

impl AccountSummary {
    /// An account as it is opened: the answer that its key gives ever after.
    pub(super) fn opened(id: &AccountId, currency: Currency, kind: AccountKind, holder: Holder, at: Timestamp) -> Self {
        Self {
            id: id.clone(),
            currency,
            kind,
            holder,
            status: AccountStatus::Active,
            balance: Money::ZERO,
            held: Money::ZERO,
            available: kind.limit(),
            open_sessions: 0,
            opened_at: at,
        }
    }
}

impl Account {
    /// A keyed command: what its key was answered, or what `decide` says, remembered even when it refuses.
    fn keyed(
        &self,
        key: &str,
        content: KeyContent,
        at: Timestamp,
        decide: impl FnOnce(&Self) -> Result<(AccountEvent, AccountAnswer), AccountRejection>,
    ) -> Decision {
        if let Err(rejection) = check_key(key) {
            return refuse(rejection);
        }
        if let Some(known) = self.keys.get(&key.to_owned()) {
            if known.content != content {
                return refuse(AccountRejection::KeyReused);
            }
            return Decision { event: None, answer: known.answer.clone() };
        }
        // Nothing is remembered from here on, and nothing need be: this answer never changes.
        if self.is_closed() {
            return refuse(AccountRejection::AccountClosed);
        }
        if self.keys.len() >= KEYS_REMEMBERED && self.keys.oldest().is_some_and(|oldest| oldest.is_kept_at(at)) {
            return refuse(AccountRejection::TooManyKeys);
        }
        match decide(self) {
            Ok((event, answer)) => Decision { event: Some(event), answer: Ok(answer) },
            // Revenue of other shards may be on its way: the same key may ask again.
            Err(rejection @ AccountRejection::InsufficientFunds { .. }) if self.id.is_till() => refuse(rejection),
            Err(rejection) => {
                let subject = RefusedSubject::Key { key: key.to_owned(), content };
                refuse_and_remember(subject, rejection, at)
            }
        }
    }

    fn top_up(&self, key: &str, amount: Money, at: Timestamp) -> Decision {
        self.keyed(key, KeyContent::TopUp { amount }, at, |account| {
            if !amount.is_positive() || amount > MAX_BALANCE {
                return Err(AccountRejection::InvalidAmount { amount });
            }
            let balance = account.posted.checked_add(amount).filter(|balance| *balance <= MAX_BALANCE);
            let balance = balance.ok_or(AccountRejection::BalanceLimit)?;
            let event = AccountEvent::ToppedUp { key: key.to_owned(), currency: account.currency, amount, at };
            Ok((event, AccountAnswer::ToppedUp { balance }))
        })
    }

    fn authorise(
        &self,
        session: &SessionId,
        operator: &OperatorId,
        tariff: &Tariff,
        split: Option<&Split>,
        want: Money,
        reserve: Money,
        at: Timestamp,
    ) -> Decision {
        if let Some(known) = self.position(session) {
            let other = known.operator != *operator || known.tariff != *tariff || known.split.as_ref() != split;
            return if other {
                refuse(AccountRejection::SessionReused)
            } else if known.closed.is_some() {
                refuse(AccountRejection::SessionClosed)
            } else if known.released.is_some() {
                refuse(AccountRejection::SessionReleased)
            } else {
                answer(AccountAnswer::Authorised { hold: known.authorised })
            };
        }
        if let Some(refused) = self.refusals.get(session) {
            return refuse(refused.rejection.clone());
        }
        if self.is_closed() {
            return refuse(AccountRejection::AccountClosed);
        }
        match self.first_hold(tariff, split, want, reserve) {
            Ok(hold) => Decision {
                event: Some(AccountEvent::Held {
                    session: session.clone(),
                    operator: operator.clone(),
                    tariff: tariff.clone(),
                    split: split.cloned(),
                    hold,
                    reserve,
                    at,
                }),
                answer: Ok(AccountAnswer::Authorised { hold }),
            },
            Err(rejection) => refuse_and_remember(RefusedSubject::Session { session: session.clone() }, rejection, at),
        }
    }

    fn first_hold(
        &self,
        tariff: &Tariff,
        split: Option<&Split>,
        want: Money,
        reserve: Money,
    ) -> Result<Money, AccountRejection> {
        if self.is_frozen() {
            return Err(AccountRejection::AccountFrozen);
        }
        if let Some(amount) = [want, reserve].into_iter().find(|amount| *amount < Money::ZERO) {
            return Err(AccountRejection::InvalidAmount { amount });
        }
        if tariff.currency != self.currency {
            return Err(AccountRejection::CurrencyMismatch { account: self.currency, tariff: tariff.currency });
        }
        tariff.check().map_err(|_| AccountRejection::InvalidTariff)?;
        split.map_or(Ok(()), Split::check).map_err(|_| AccountRejection::InvalidSplit)?;
        let most = self.holder.max_open_sessions();
        if self.open_sessions() >= most {
            return Err(AccountRejection::TooManySessions { most });
        }
        let available = self.available();
        let hold = want.min(available);
        if !tariff.can_start(hold, reserve, MIN_START) {
            return Err(AccountRejection::InsufficientFunds { available });
        }
        Ok(hold)
    }
}

fn refuse_and_remember(subject: RefusedSubject, rejection: AccountRejection, at: Timestamp) -> Decision {
    Decision {
        event: Some(AccountEvent::Refused { subject, rejection: rejection.clone(), at }),
        answer: Err(rejection),
    }
}
