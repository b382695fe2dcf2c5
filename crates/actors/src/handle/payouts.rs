//! Payouts: what an operator, or another party of an agreement, has earned leaves the books.
//!
//! A payout is one entry of one till, the operator's home till, under the caller's key; so it is whole or not at all,
//! and once. When the home till has too little, revenue is collected shard by shard and sent there before: that moves
//! the operator's money between his own tills, and should it be interrupted nothing is lost and nothing is paid. The
//! same request again goes on from wherever it is. See docs/decisions/0015-payouts-out-of-tills.md.

use super::accounts::under_way_to;
use super::*;
use chargeplane_domain::account::{AccountKind, Holder, KeyOutcome, TransferTarget};
use chargeplane_domain::ids::{OperatorId, Till};
use chargeplane_domain::placement::shard_of;
use chargeplane_domain::units::{Currency, Money};
use tokio::time::Instant;

/// Who gets a payout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payee {
    /// Somebody outside: what the books say about it, for people.
    Bank(String),
    /// An account of the tenant.
    Account(AccountId),
}

/// A payout that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidOut {
    /// The till that paid.
    pub till: AccountId,
    /// The account's answer: paid out, or on its way to the account.
    pub answer: AccountAnswer,
}

/// How often it is looked whether what was sent to the home till has arrived.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(10);

/// What one shard has of an operator's money in one currency.
#[derive(Debug, Clone, Copy)]
struct Funds {
    /// In the books and not collected. Negative when he bears more than he earned here.
    earned: Money,
    /// In his till.
    till: Money,
    /// On its way to another till of his.
    on_way: Money,
}

impl NodeHandle {
    /// Pays out. Refused as a whole when the operator has not so much (`insufficient_funds`); that answer is not
    /// remembered, every other is the answer of the key ever after.
    ///
    /// # Errors
    ///
    /// [`CallError::Account`] refusals; [`CallError::Invalid`] without a currency where there is not just one. After
    /// any other error repeat with the same key.
    pub async fn pay_out(
        &self,
        operator: &OperatorId,
        currency: Option<Currency>,
        payee: Payee,
        key: String,
        amount: Money,
    ) -> Result<PaidOut, CallError> {
        let currency = match currency {
            Some(currency) => currency,
            None => self.only_currency(operator).await?,
        };
        if !amount.is_positive() {
            return Err(CallError::Account(AccountRejection::InvalidAmount { amount }));
        }
        let (home, until) = (self.home_till(operator, currency), Instant::now() + self.shared.config.call_timeout);
        loop {
            if self.known(&home, &key).await?.is_none() {
                self.gather(operator, &home, &key, amount, until).await?;
            }
            match self.pay_from(&home, &payee, key.clone(), amount).await {
                // Another payout was faster: what is in other shards may do.
                Err(CallError::Account(AccountRejection::InsufficientFunds { .. })) if Instant::now() < until => {}
                answer => return Ok(PaidOut { till: home.account(), answer: answer? }),
            }
        }
    }

    /// The payout itself, out of what is in the home till.
    async fn pay_from(
        &self,
        home: &Till,
        payee: &Payee,
        key: String,
        amount: Money,
    ) -> Result<AccountAnswer, CallError> {
        match payee {
            Payee::Account(to) => self.transfer(home.account(), to.clone(), key, amount, Some(home.currency)).await,
            Payee::Bank(reference) => {
                let (reference, currency, at) = (reference.clone(), Some(home.currency), self.shared.clock.wall());
                let command = AccountCommand::PayOut { key, reference, amount, currency, at };
                self.account_command(home.account(), command).await
            }
        }
    }

    /// The till that pays an operator's money out: always the same one.
    pub fn home_till(&self, operator: &OperatorId, currency: Currency) -> Till {
        let shard = shard_of(Family::Account, operator.as_str(), self.shared.config.shards).index;
        Till { operator: operator.clone(), currency, shard }
    }

    /// The currency of an operator's money, where there is just one.
    pub async fn only_currency(&self, operator: &OperatorId) -> Result<Currency, CallError> {
        match self.operator_balance(operator).await?[..] {
            [OperatorBalance { currency, .. }] => Ok(currency),
            [] => Err(CallError::NotFound(format!("money of {operator}"))),
            _ => Err(CallError::Invalid(format!("{operator} has money of several currencies: say which (`currency`)"))),
        }
    }

    /// What a key of a till was used for: a strong read.
    async fn known(&self, till: &Till, key: &str) -> Result<Option<Box<KeyOutcome>>, CallError> {
        let (reply, wait) = self.reply();
        let key = key.to_owned();
        let message = move |permit| AccountMessage::Known { key, reply, permit };
        self.shared.router.account(&till.account(), Lane::Status, 64, message);
        wait.await
    }

    /// Brings `amount` into the home till, from all shards in their order. What is missing as a whole is refused
    /// before anything moves.
    async fn gather(
        &self,
        operator: &OperatorId,
        home: &Till,
        key: &str,
        amount: Money,
        until: Instant,
    ) -> Result<(), CallError> {
        loop {
            let funds = self.funds(operator, home.currency).await?;
            let there = |funds: &Funds| funds.earned.saturating_add(funds.till).saturating_add(funds.on_way);
            let all = funds.iter().map(there).fold(Money::ZERO, Money::saturating_add);
            if amount > all {
                let available = all.max(Money::ZERO);
                return Err(CallError::Account(AccountRejection::InsufficientFunds { available }));
            }
            let mut missing = amount;
            if let Some(own) = funds.get(usize::from(home.shard)) {
                missing = missing.saturating_sub(own.till);
                if missing <= Money::ZERO {
                    return Ok(());
                }
                let on_way = funds.iter().map(|funds| funds.on_way).fold(Money::ZERO, Money::saturating_add);
                missing = missing.saturating_sub(on_way);
            }
            for (index, funds) in (0u16..).zip(&funds) {
                if missing <= Money::ZERO {
                    break;
                }
                let from = Till { shard: index, ..home.clone() };
                missing = missing.saturating_sub(self.send_home(&from, home, funds, key, missing).await?);
            }
            if Instant::now() >= until {
                return Err(CallError::Timeout);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Collects in one shard what is missing, as far as it is there, and sends it to the home till. Returns how much.
    async fn send_home(
        &self,
        from: &Till,
        home: &Till,
        funds: &Funds,
        key: &str,
        missing: Money,
    ) -> Result<Money, CallError> {
        let is_home = from.shard == home.shard;
        let till = if is_home { Money::ZERO } else { funds.till };
        let take = missing.min(till.saturating_add(funds.earned.max(Money::ZERO)));
        if take <= Money::ZERO {
            return Ok(Money::ZERO);
        }
        self.open_till(from).await?;
        // A key for each attempt: one that is interrupted moved money between his own, and is not repeated.
        let at = self.shared.clock.wall();
        let fresh = |what: &str| format!("{what}-{}-{key:.96}", at.0);
        let collect = take.saturating_sub(till);
        if collect.is_positive() {
            let command = AccountCommand::Collect { key: fresh("collect"), amount: collect, at };
            if !self.is_done(self.account_command(from.account(), command).await)? {
                return Ok(Money::ZERO);
            }
        }
        if is_home {
            return Ok(take);
        }
        self.open_till(home).await?;
        let command = AccountCommand::TransferOut {
            key: fresh("gather"),
            to: home.account(),
            amount: take,
            currency: None,
            target: TransferTarget::Open { currency: home.currency },
            at,
        };
        let done = self.is_done(self.account_command(from.account(), command).await)?;
        Ok(if done { take } else { Money::ZERO })
    }

    /// False when there was less than it seemed, or another request took it or the key: it is looked again.
    fn is_done(&self, answer: Result<AccountAnswer, CallError>) -> Result<bool, CallError> {
        match answer {
            Ok(_) => Ok(true),
            Err(CallError::Account(
                AccountRejection::InsufficientFunds { .. }
                | AccountRejection::KeyReused
                | AccountRejection::TooManyTransfers,
            )) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a till unless it is open.
    async fn open_till(&self, till: &Till) -> Result<(), CallError> {
        let command = AccountCommand::Open {
            key: "till".to_owned(),
            currency: till.currency,
            kind: AccountKind::Prepaid,
            holder: Holder::Fleet,
            at: self.shared.clock.wall(),
        };
        match self.account_command(till.account(), command).await {
            Ok(_) | Err(CallError::Account(AccountRejection::AlreadyOpen | AccountRejection::KeyReused)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What every shard has, in their order: each read at one moment of its own.
    async fn funds(&self, operator: &OperatorId, currency: Currency) -> Result<Vec<Funds>, CallError> {
        let mut all = Vec::with_capacity(usize::from(self.shared.config.shards));
        for index in 0..self.shared.config.shards {
            let shard = ShardId { family: Family::Account, index };
            let missing = || CallError::NotServing(shard.to_string());
            let actor = self.shared.router.account_shard(index).ok_or_else(missing)?;
            let till = Till { operator: operator.clone(), currency, shard: index };
            let found = self.ask_accounts(&actor, move |map| {
                let account = map.accounts.get(&till.account());
                Funds {
                    earned: map.books.earned(&till.operator, currency),
                    till: account.map_or(Money::ZERO, |account| account.posted),
                    on_way: account.map_or(Money::ZERO, |account| under_way_to(account, &till.operator)),
                }
            });
            all.push(found.await?);
        }
        Ok(all)
    }
}
