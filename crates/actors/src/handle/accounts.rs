//! Accounts, balances, statements, charge records.

use super::*;
use chargeplane_domain::account::{Account, AccountStatus, Transfer, TransferId, TransferTarget};
use chargeplane_domain::ids::OperatorId;
use chargeplane_domain::ledger::LedgerAccount;
use chargeplane_domain::units::{Currency, Money};
use std::ops::Bound;

impl NodeHandle {
    /// Decides a command of an account and makes it durable.
    pub async fn account_command(
        &self,
        account: AccountId,
        command: AccountCommand,
    ) -> Result<AccountAnswer, CallError> {
        let (reply, wait) = self.reply();
        self.shared.router.account(&account, Lane::Money, 256, move |permit| AccountMessage::Command {
            command: Box::new(command),
            reply,
            permit,
        });
        wait.await
    }

    /// Sends money to another account. What is known of that is asked first, so that nothing leaves for an account
    /// that cannot take it. The answer is that of the account it leaves: the transfer is under way.
    pub async fn transfer(
        &self,
        from: AccountId,
        to: AccountId,
        key: String,
        amount: Money,
        currency: Option<Currency>,
    ) -> Result<AccountAnswer, CallError> {
        let target = match self.account(&to).await {
            Ok(view) if matches!(view.status, AccountStatus::Closed { .. }) => TransferTarget::Closed,
            Ok(view) => TransferTarget::Open { currency: view.currency },
            Err(CallError::NotFound(_)) => TransferTarget::Unknown,
            Err(error) => return Err(error),
        };
        let at = self.shared.clock.wall();
        self.account_command(from, AccountCommand::TransferOut { key, to, amount, currency, target, at }).await
    }

    /// A transfer, under way or among the last that ended: a strong read.
    pub async fn transfer_state(&self, id: &TransferId) -> Result<Transfer, CallError> {
        let (reply, wait) = self.reply();
        let number = id.number;
        self.shared.router.account(&id.from, Lane::Status, 64, move |permit| AccountMessage::Transfer {
            number,
            reply,
            permit,
        });
        wait.await
    }

    /// An account: a strong read.
    pub async fn account(&self, account: &AccountId) -> Result<AccountView, CallError> {
        let (reply, wait) = self.reply();
        self.shared.router.account(account, Lane::Status, 64, move |permit| AccountMessage::View { reply, permit });
        wait.await
    }

    /// Accounts by id, of one tenant where the page says so: their last durable states.
    pub async fn accounts(&self, page: PageOf<AccountId>) -> Result<Vec<AccountView>, CallError> {
        let limit = page.limit;
        let mut found = Vec::new();
        for actor in self.shared.router.account_shards() {
            let page = page.clone();
            let shown = self.ask_accounts(&actor, move |map| {
                let after = page.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let later = map.accounts.range::<AccountId, _>((after, Bound::Unbounded));
                let covered = later.filter(|(id, _)| page.covers(id.tenant()));
                covered.take(limit).map(|(_, state)| account::view(state)).collect::<Vec<_>>()
            });
            found.extend(shown.await?);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.truncate(limit);
        Ok(found)
    }

    /// All balances as served, counter-accounts included, by (shard, account).
    pub async fn balances(&self, after: Option<(String, String)>, limit: usize) -> Result<Vec<BalanceView>, CallError> {
        let mut found = Vec::new();
        for index in 0..self.shared.config.shards {
            let shard = ShardId { family: Family::Account, index }.to_string();
            let after = match &after {
                Some((past, _)) if *past > shard => continue,
                Some((at, account)) if *at == shard => Some(account.clone()),
                _ => None,
            };
            let missing = || CallError::NotServing(shard.clone());
            let actor = self.shared.router.account_shard(index).ok_or_else(missing)?;
            let name = shard.clone();
            let mut page = self
                .ask_accounts(&actor, move |map| {
                    let lines = map.books.balances.iter().map(|(account, (currency, balance))| BalanceView {
                        shard: name.clone(),
                        account: account.to_string(),
                        currency: *currency,
                        balance: *balance,
                    });
                    lines.collect::<Vec<_>>()
                })
                .await?;
            page.sort_by(|a, b| a.account.cmp(&b.account));
            page.retain(|line| after.as_ref().is_none_or(|after| line.account > *after));
            found.extend(page);
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// What an operator has earned, by currency: the sum over the books of all shards. Each shard is read at one
    /// moment of its own, so what is settled meanwhile may or may not be in it.
    pub async fn operator_balance(&self, operator: &OperatorId) -> Result<Vec<OperatorBalance>, CallError> {
        let mut folded: BTreeMap<Currency, OperatorBalance> = BTreeMap::new();
        for index in 0..self.shared.config.shards {
            let shard = ShardId { family: Family::Account, index };
            let missing = || CallError::NotServing(shard.to_string());
            let actor = self.shared.router.account_shard(index).ok_or_else(missing)?;
            let own = operator.clone();
            let found = self.ask_accounts(&actor, move |map| {
                let tills = map.accounts.values().filter(|account| is_till_of(&account.id, &own));
                let in_tills = tills.map(|till| {
                    let on_way = under_way_to(till, &own);
                    (LedgerAccount::Driver(till.id.clone()), till.currency, till.posted.saturating_add(on_way))
                });
                let books = map.books.balances.iter().filter(|(account, _)| account.operator() == Some(&own));
                let books = books.map(|(account, (currency, balance))| (account.clone(), *currency, *balance));
                books.chain(in_tills).collect::<Vec<_>>()
            });
            for (account, currency, balance) in found.await? {
                let zero = Money::ZERO;
                let new = OperatorBalance {
                    currency,
                    energy: zero,
                    service: zero,
                    fees: zero,
                    overshoot: zero,
                    shares: zero,
                    paid_out: zero,
                };
                let sum = folded.entry(currency).or_insert(new);
                let part = match account {
                    LedgerAccount::EnergyRevenue { .. } => &mut sum.energy,
                    LedgerAccount::ServiceRevenue { .. } => &mut sum.service,
                    LedgerAccount::FeeRevenue { .. } => &mut sum.fees,
                    LedgerAccount::Share { .. } => &mut sum.shares,
                    // What he collected and has in his tills is not paid out.
                    LedgerAccount::Collected { .. } | LedgerAccount::Driver(_) => &mut sum.paid_out,
                    _ => &mut sum.overshoot,
                };
                let overflow = || StoreError::Corrupt(format!("the balances of {operator} do not fit in 64 bits"));
                *part = part.checked_add(balance).ok_or_else(overflow)?;
            }
        }
        Ok(folded.into_values().collect())
    }

    pub(super) async fn ask_accounts<T: Send + 'static>(
        &self,
        actor: &ActorRef<ShardMessage<AccountFamily>>,
        question: impl FnOnce(&AccountMap) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (reply, wait) = self.reply();
        let question = Box::new(move |map: Result<&AccountMap, CallError>| reply.answer(map.map(question)));
        // A dead shard drops the question, and its reply answers.
        let _ = actor.cast(ShardMessage::Ask(question));
        wait.await
    }

    /// An account's statement, oldest first, after (log number, index). Everything that was answered before is in
    /// it, unless the read models are so far behind that this waited in vain: then it is not complete.
    pub async fn statement(
        &self,
        account: &AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> Result<Statement, CallError> {
        // A till has lines from the first that its operator earned in its shard, and is opened when that is collected.
        if !account.is_till() {
            self.account(account).await?;
        }
        let complete = self.is_projected(self.shared.router.shard_of_account(account)).await;
        let entries = self.shared.ports.statements.lines(Generation::Served, account.clone(), after, limit).await?;
        Ok(Statement { entries, complete })
    }

    /// Waits until the read models have what a shard has let out so far; false when they do not in time.
    pub(super) async fn is_projected(&self, shard: ShardId) -> bool {
        let (reply, wait) = Reply::channel(projection::WAIT);
        self.shared.notify_projection(ProjectionMessage::Reached { shard, reply });
        wait.await.is_ok()
    }

    /// Charge records, newest first.
    pub async fn charge_records(&self, query: RecordQuery) -> Result<Vec<StoredRecord>, CallError> {
        Ok(self.shared.ports.records.page(Generation::Served, query).await?)
    }

    /// Begins to build a read model from the journal again; false when that is going on already. With `check` it is
    /// only compared with the one that is served, and dropped.
    pub fn rebuild(&self, model: Model, check: bool) -> bool {
        let shared = Arc::clone(&self.shared);
        if !shared.rebuilds.begin(model, check, shared.clock.wall()) {
            return false;
        }
        tokio::spawn(async move { rebuild::run(&shared, model, check).await });
        true
    }

    /// How the last rebuild of a read model stands; none since the start of the node.
    pub fn rebuild_status(&self, model: Model) -> Option<Rebuild> {
        self.shared.rebuilds.get(model)
    }
}

/// True for the tills of an operator.
pub(super) fn is_till_of(account: &AccountId, operator: &OperatorId) -> bool {
    let rest = account.as_str().strip_prefix(operator.as_str());
    rest.is_some_and(|rest| rest.starts_with('@'))
}

/// What has left a till for another one of its operator and is not known to have arrived.
pub(super) fn under_way_to(till: &Account, operator: &OperatorId) -> Money {
    let between = till.outgoing.open.values().filter(|transfer| is_till_of(&transfer.to, operator));
    between.fold(Money::ZERO, |sum, transfer| sum.saturating_add(transfer.amount))
}
