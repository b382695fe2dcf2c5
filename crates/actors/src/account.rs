//! The account actor: one account's mailbox. Debits are serialised by it, without locks.
//!
//! Supervised by its shard. Decides on its state with everything applied that it has handed to the journal,
//! durable or not, so two debits in one commit window see each other; every answer leaves behind the commit
//! that covers it, an answer without an event too, because it may repeat one that is not durable yet
//! (MONEY-2, MONEY-3, MONEY-4). A restart reloads the last durable state from the shard's map.

mod collect;
pub(crate) mod holds;
mod transfers;

use crate::admission::Permit;
use crate::family::AccountFamily;
use crate::handle::CallError;
use crate::reply::{Answer, Reply};
use crate::shard::{EntityLink, EntityMessage};
use crate::shared::NodeShared;
use crate::views::AccountView;
use chargeplane_domain::account::{
    self, Account, AccountAnswer, AccountCommand, AccountEvent, Decision, KeyOutcome, SessionAccount, Transfer,
};
use chargeplane_domain::ids::SessionId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Messages of the account actor.
#[derive(Debug)]
pub enum AccountMessage {
    /// Decide and make durable.
    Command { command: Box<AccountCommand>, reply: Reply<AccountAnswer>, permit: Permit },
    /// What was billed to a session: the truth that a recovered session goes on from.
    Position { session: SessionId, reply: Reply<Option<Box<SessionAccount>>>, permit: Permit },
    /// The account as it stands.
    View { reply: Reply<AccountView>, permit: Permit },
    /// A transfer that leaves this account.
    Transfer { number: u64, reply: Reply<Transfer>, permit: Permit },
    /// The target of a transfer answered, or nobody did.
    TransferAnswered { number: u64, result: Answer<AccountAnswer> },
    /// What a key was used for and answered; none when it was not used, or is forgotten.
    Known { key: String, reply: Reply<Option<Box<KeyOutcome>>>, permit: Permit },
    /// The shard's word whether what this till wants to collect is there.
    Covered(bool),
    /// Time to look after the transfers that are under way.
    Wake,
}

/// Messages of the account actor, as many as were waiting: they are decided one after the other and made durable
/// together.
#[derive(Debug)]
pub struct AccountBatch(pub Vec<AccountMessage>);

impl EntityMessage for AccountMessage {
    fn refuse(self, why: CallError) {
        match self {
            Self::Command { reply, .. } => reply.answer(Err(why)),
            Self::Position { reply, .. } => reply.answer(Err(why)),
            Self::View { reply, .. } => reply.answer(Err(why)),
            Self::Transfer { reply, .. } => reply.answer(Err(why)),
            Self::Known { reply, .. } => reply.answer(Err(why)),
            Self::TransferAnswered { .. } | Self::Covered(_) | Self::Wake => {}
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
            | Self::Known { .. }
            | Self::Covered(_)
            | Self::Wake => None,
        }
    }

    /// Callers are told, and chargers ask again under the same ids.
    fn is_sent_once(&self) -> bool {
        false
    }

    fn to_body(&self) -> Option<Vec<u8>> {
        match self {
            Self::Command { command, .. } => rmp_serde::to_vec_named(&**command).ok(),
            _ => None,
        }
    }

    fn from_body(body: &[u8], done: Reply<()>) -> Result<Self, Reply<()>> {
        let Ok(command) = rmp_serde::from_slice::<AccountCommand>(body) else { return Err(done) };
        let command = Box::new(command);
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
    collecting: collect::Collecting,
}

/// An answer that waits for the commit which covers it.
enum Told {
    Command(Reply<AccountAnswer>, Result<AccountAnswer, CallError>),
    Position(Reply<Option<Box<SessionAccount>>>, Option<Box<SessionAccount>>),
    View(Reply<AccountView>, Result<AccountView, CallError>),
    Transfer(Reply<Transfer>, Result<Transfer, CallError>),
    Known(Reply<Option<Box<KeyOutcome>>>, Option<Box<KeyOutcome>>),
}

impl Told {
    fn tell(self) {
        match self {
            Self::Command(reply, answer) => reply.answer(answer),
            Self::Position(reply, found) => reply.answer(Ok(found)),
            Self::View(reply, found) => reply.answer(found),
            Self::Transfer(reply, found) => reply.answer(found),
            Self::Known(reply, found) => reply.answer(Ok(found)),
        }
    }
}

/// What a batch comes to.
struct Outcome {
    events: Vec<AccountEvent>,
    told: Vec<(Told, Permit)>,
    /// Transfers are to be looked after.
    moves: bool,
}

impl Outcome {
    fn of(messages: usize) -> Self {
        Self { events: Vec::with_capacity(messages), told: Vec::with_capacity(messages), moves: false }
    }
}

impl Actor for AccountActor {
    type Msg = AccountBatch;
    type State = AccountState;
    type Arguments = AccountArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<AccountBatch>,
        arguments: AccountArguments,
    ) -> Result<AccountState, ActorProcessingErr> {
        let AccountArguments { shared, link, account } = arguments;
        if account.as_ref().is_some_and(|account| !account.outgoing.open.is_empty()) {
            myself.cast(AccountBatch(vec![AccountMessage::Wake]))?;
        }
        let (sending, collecting) = (transfers::Sending::default(), collect::Collecting::default());
        Ok(AccountState { shared, link, account, sending, collecting })
    }

    async fn handle(
        &self,
        myself: ActorRef<AccountBatch>,
        AccountBatch(messages): AccountBatch,
        state: &mut AccountState,
    ) -> Result<(), ActorProcessingErr> {
        let mut outcome = Outcome::of(messages.len());
        let mut result = Ok(());
        let mut messages = VecDeque::from(messages);
        while let Some(message) = messages.pop_front() {
            let Some(message) = collect::in_turn(state, message, &mut messages) else { continue };
            #[cfg(any(test, feature = "testing"))]
            let Some(message) = planted(state, &mut outcome, message)? else {
                continue;
            };
            // What failed is kept for the dead letters; what comes behind it is answered by its reply guards.
            result = take(state, message, &mut outcome, &myself);
            if result.is_err() {
                break;
            }
        }
        let moves = outcome.moves;
        hand_over(state, outcome);
        if moves {
            transfers::advance(state, &myself);
        }
        result
    }
}

/// The answers leave behind the commit that covers them.
fn hand_over(state: &AccountState, Outcome { events, told, .. }: Outcome) {
    let after = move || told.into_iter().for_each(|(told, _permit)| told.tell());
    state.link.persist(events, Box::new(after));
}

/// A fault that is planted here handles messages in their order, each alone.
#[cfg(any(test, feature = "testing"))]
fn planted(
    state: &mut AccountState,
    outcome: &mut Outcome,
    message: AccountMessage,
) -> Result<Option<AccountMessage>, ActorProcessingErr> {
    if crate::testing::plants::is_any() {
        hand_over(state, std::mem::replace(outcome, Outcome::of(1)));
    }
    Ok(crate::testing::plants::handle(&state.link, &mut state.account, message)?)
}

/// Works on one message. A failure, a panic too, leaves the message with the shard.
fn take(
    state: &mut AccountState,
    message: AccountMessage,
    outcome: &mut Outcome,
    myself: &ActorRef<AccountBatch>,
) -> Result<(), ActorProcessingErr> {
    state.link.check(&message)?;
    match message {
        AccountMessage::Command { command, reply, permit } if matches!(*command, AccountCommand::Collect { .. }) => {
            collect::begin(state, &command, (reply, permit), outcome, myself)?;
        }
        AccountMessage::Covered(covered) => collect::end(state, covered, outcome)?,
        AccountMessage::Command { command, reply, permit } => {
            let decided = catch_unwind(AssertUnwindSafe(|| on_command(state, &command)));
            match decided.unwrap_or_else(|_| Err("the account's machine panicked".into())) {
                Ok(decision) => {
                    outcome.moves |= moves(decision.event.as_ref());
                    outcome.events.extend(decision.event);
                    outcome.told.push((Told::Command(reply, decision.answer.map_err(CallError::Account)), permit));
                }
                Err(error) => {
                    let message = AccountMessage::Command { command, reply, permit };
                    state.link.failed_on(&message);
                    return Err(error);
                }
            }
        }
        AccountMessage::Position { session, reply, permit } => {
            let found = state.account.as_ref().and_then(|account| account.position(&session));
            outcome.told.push((Told::Position(reply, found.cloned().map(Box::new)), permit));
        }
        AccountMessage::View { reply, permit } => {
            let missing = || CallError::NotFound(state.link.key.to_string());
            let found = state.account.as_ref().map(view).ok_or_else(missing);
            outcome.told.push((Told::View(reply, found), permit));
        }
        AccountMessage::Transfer { number, reply, permit } => {
            let found = state.account.as_ref().and_then(|account| account.outgoing.get(number)).cloned();
            let missing = || CallError::NotFound(format!("transfer {}.t{number}", state.link.key.0));
            outcome.told.push((Told::Transfer(reply, found.ok_or_else(missing)), permit));
        }
        AccountMessage::TransferAnswered { number, result } => {
            if let Some(command) = transfers::end_of(state, number, result) {
                let (command, permit) = (Box::new(command), Permit::internal());
                let message = AccountMessage::Command { command, reply: Reply::ignored(), permit };
                return take(state, message, outcome, myself);
            }
        }
        AccountMessage::Known { key, reply, permit } => {
            let found = state.account.as_ref().and_then(|account| account.keys.get(&key));
            outcome.told.push((Told::Known(reply, found.cloned().map(Box::new)), permit));
        }
        AccountMessage::Wake => {
            transfers::on_wake(state);
            outcome.moves = true;
        }
    }
    Ok(())
}

/// True when there is something to send after this, or room to send more.
fn moves(event: Option<&AccountEvent>) -> bool {
    matches!(event, Some(AccountEvent::TransferredOut { .. } | AccountEvent::TransferArrived { .. }))
}

/// Decides, and applies at once: the next decision sees it, durable or not.
fn on_command(state: &mut AccountState, command: &AccountCommand) -> Result<Decision, ActorProcessingErr> {
    let id = &state.link.key.0;
    let decision = account::decide(state.account.as_ref(), id, command);
    if let Some(event) = &decision.event {
        account::apply(&mut state.account, id, event)?;
    }
    Ok(decision)
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
