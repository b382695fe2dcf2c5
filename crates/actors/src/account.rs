//! The account actor: one account's mailbox. Debits are serialised by it, without locks.
//!
//! Supervised by its shard. Decides on its state with everything applied that it has handed to the journal,
//! durable or not, so two debits in one commit window see each other; every answer leaves behind the commit
//! that covers it, an answer without an event too, because it may repeat one that is not durable yet
//! (MONEY-2, MONEY-3, MONEY-4). A restart reloads the last durable state from the shard's map.

mod transfers;

use crate::admission::Permit;
use crate::family::AccountFamily;
use crate::handle::CallError;
use crate::reply::{Answer, Reply};
use crate::shard::{EntityLink, EntityMessage};
use crate::shared::NodeShared;
use crate::views::AccountView;
use chargeplane_domain::account::{
    self, Account, AccountAnswer, AccountCommand, AccountEvent, SessionAccount, Transfer,
};
use chargeplane_domain::ids::SessionId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;

/// Messages of the account actor.
#[derive(Debug)]
pub enum AccountMessage {
    /// Decide and make durable.
    Command { command: AccountCommand, reply: Reply<AccountAnswer>, permit: Permit },
    /// What was billed to a session: the truth that a recovered session goes on from.
    Position { session: SessionId, reply: Reply<Option<Box<SessionAccount>>>, permit: Permit },
    /// The account as it stands.
    View { reply: Reply<AccountView>, permit: Permit },
    /// A transfer that leaves this account.
    Transfer { number: u64, reply: Reply<Transfer>, permit: Permit },
    /// The target of a transfer answered, or nobody did.
    TransferAnswered { number: u64, result: Answer<AccountAnswer> },
    /// Time to look after the transfers that are under way.
    Wake,
}

impl EntityMessage for AccountMessage {
    fn refuse(self, why: CallError) {
        match self {
            Self::Command { reply, .. } => reply.answer(Err(why)),
            Self::Position { reply, .. } => reply.answer(Err(why)),
            Self::View { reply, .. } => reply.answer(Err(why)),
            Self::Transfer { reply, .. } => reply.answer(Err(why)),
            Self::TransferAnswered { .. } | Self::Wake => {}
        }
    }

    fn keep(&self) -> Option<Self> {
        match self {
            Self::Command { command, .. } => {
                let (command, reply) = (command.clone(), Reply::ignored());
                Some(Self::Command { command, reply, permit: Permit::internal() })
            }
            Self::Position { .. }
            | Self::View { .. }
            | Self::Transfer { .. }
            | Self::TransferAnswered { .. }
            | Self::Wake => None,
        }
    }

    /// Callers are told, and chargers ask again under the same ids.
    fn is_sent_once(&self) -> bool {
        false
    }

    fn to_body(&self) -> Option<Vec<u8>> {
        match self {
            Self::Command { command, .. } => rmp_serde::to_vec_named(command).ok(),
            _ => None,
        }
    }

    fn from_body(body: &[u8], done: Reply<()>) -> Result<Self, Reply<()>> {
        let Ok(command) = rmp_serde::from_slice(body) else { return Err(done) };
        let reply = Reply::new(move |answer: Answer<AccountAnswer>| done.answer(answer.map(drop)));
        Ok(Self::Command { command, reply, permit: Permit::internal() })
    }
}

/// The account actor.
pub struct AccountActor;

/// What it is started with.
pub struct AccountArguments {
    /// The node.
    pub shared: Arc<NodeShared>,
    /// Its shard.
    pub link: EntityLink<AccountFamily>,
    /// Its last durable state; none when it was never opened.
    pub account: Option<Account>,
}

/// State of the account actor.
pub struct AccountState {
    shared: Arc<NodeShared>,
    link: EntityLink<AccountFamily>,
    account: Option<Account>,
    sending: transfers::Sending,
}

impl Actor for AccountActor {
    type Msg = AccountMessage;
    type State = AccountState;
    type Arguments = AccountArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<AccountMessage>,
        arguments: AccountArguments,
    ) -> Result<AccountState, ActorProcessingErr> {
        let AccountArguments { shared, link, account } = arguments;
        if account.as_ref().is_some_and(|account| !account.outgoing.open.is_empty()) {
            myself.cast(AccountMessage::Wake)?;
        }
        Ok(AccountState { shared, link, account, sending: transfers::Sending::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<AccountMessage>,
        message: AccountMessage,
        state: &mut AccountState,
    ) -> Result<(), ActorProcessingErr> {
        state.link.begin(&message, message.keep())?;
        match message {
            AccountMessage::Command { command, reply, permit } => on_command(state, &myself, command, reply, permit),
            AccountMessage::Position { session, reply, permit } => {
                let found = state.account.as_ref().and_then(|account| account.position(&session));
                let found = found.cloned().map(Box::new);
                answer_behind_commits(state, reply, Ok(found), permit);
                Ok(())
            }
            AccountMessage::View { reply, permit } => {
                let missing = || CallError::NotFound(state.link.key.to_string());
                let found = state.account.as_ref().map(view).ok_or_else(missing);
                answer_behind_commits(state, reply, found, permit);
                Ok(())
            }
            AccountMessage::Transfer { number, reply, permit } => {
                let found = state.account.as_ref().and_then(|account| account.outgoing.get(number)).cloned();
                let missing = || CallError::NotFound(format!("transfer {}.t{number}", state.link.key.0));
                answer_behind_commits(state, reply, found.ok_or_else(missing), permit);
                Ok(())
            }
            AccountMessage::TransferAnswered { number, result } => {
                transfers::on_answered(state, &myself, number, result)
            }
            AccountMessage::Wake => {
                transfers::on_wake(state, &myself);
                Ok(())
            }
        }
    }
}

fn on_command(
    state: &mut AccountState,
    myself: &ActorRef<AccountMessage>,
    command: AccountCommand,
    reply: Reply<AccountAnswer>,
    permit: Permit,
) -> Result<(), ActorProcessingErr> {
    let id = &state.link.key.0;
    let decision = account::decide(state.account.as_ref(), id, &command);
    if let Some(event) = &decision.event {
        account::apply(&mut state.account, id, event)?;
    }
    let answer = decision.answer.map_err(CallError::Account);
    let after = Box::new(move || {
        reply.answer(answer);
        drop(permit);
    });
    let moves =
        matches!(decision.event, Some(AccountEvent::TransferredOut { .. } | AccountEvent::TransferArrived { .. }));
    state.link.persist(decision.event.into_iter().collect(), after);
    if moves {
        transfers::advance(state, myself);
    }
    Ok(())
}

/// A strong read: what it saw is durable when it leaves.
fn answer_behind_commits<T: Send + 'static>(
    state: &AccountState,
    reply: Reply<T>,
    answer: Result<T, CallError>,
    permit: Permit,
) {
    let after = move || {
        reply.answer(answer);
        drop(permit);
    };
    state.link.persist(Vec::new(), Box::new(after));
}

/// The account as the API shows it.
pub(crate) fn view(account: &Account) -> AccountView {
    let open = account.holds.iter().filter(|(_, session)| session.is_open());
    AccountView {
        id: account.id.clone(),
        currency: account.currency,
        kind: account.kind,
        holder: account.holder,
        status: account.status.clone(),
        refundable: account.refundable(),
        balance: account.posted,
        held: account.held,
        available: account.available(),
        open_sessions: open.map(|(session, _)| session.clone()).collect(),
        opened_at: account.opened_at,
    }
}
