//! Faults planted into the node's own code, so that the simulation of account shards can show that it finds them.
//!
//! A plant is of the thread that sets it: a simulated run lives on one thread, and others run beside it.

use crate::account::AccountMessage;
use crate::admission::Permit;
use crate::entry::EncodedEntries;
use crate::family::AccountFamily;
use crate::handle::CallError;
use crate::reply::Reply;
use crate::shard::EntityLink;
use chargeplane_cluster::frame::Frame;
use chargeplane_domain::account::{
    self, Account, AccountAnswer, AccountCommand, AccountEvent, ApplyError, DebitAnswer,
};
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::Money;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// A fault of the node's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePlant {
    /// An answer leaves when it was decided.
    AckBeforeDurable,
    /// A decision does not see what is on its way to the journal.
    CommittedStateOnly,
    /// A debit that is repeated is taken again.
    DebitTwice,
    /// After an unknown outcome the number is used for another frame, and that one's outcome is taken for the first's.
    AnotherFrame,
    /// All accounts of a shard spend from the sum of their balances.
    SharedBalance,
}

/// The opening of a shard: what a plant remembers does not outlive it.
type Opening = (ShardId, u64);

thread_local! {
    static PLANTED: Cell<Option<NodePlant>> = const { Cell::new(None) };
    static COMMITTED: RefCell<BTreeMap<(Opening, AccountId), Option<Account>>> = const { RefCell::new(BTreeMap::new()) };
    static POSTED: RefCell<BTreeMap<Opening, BTreeMap<AccountId, Money>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Plants a fault into all nodes of this thread, in place of the one before.
pub fn plant(plant: Option<NodePlant>) {
    PLANTED.set(plant);
    COMMITTED.take();
    POSTED.take();
}

/// True when this fault is planted here.
pub(crate) fn is_planted(plant: NodePlant) -> bool {
    PLANTED.get() == Some(plant)
}

/// True when some fault is planted here.
pub(crate) fn is_any() -> bool {
    PLANTED.get().is_some()
}

/// What a planted fault makes of a message to an account: handled wrongly, or handed back to be handled.
pub(crate) fn handle(
    link: &EntityLink<AccountFamily>,
    state: &mut Option<Account>,
    message: AccountMessage,
) -> Result<Option<AccountMessage>, ApplyError> {
    let AccountMessage::Command { command, reply, permit } = message else { return Ok(Some(message)) };
    let id = &link.key.0;
    match PLANTED.get() {
        Some(NodePlant::AckBeforeDurable) => {
            let decision = account::decide(state.as_ref(), id, &command);
            if let Some(event) = &decision.event {
                account::apply(state, id, event)?;
            }
            reply.answer(decision.answer.map_err(CallError::Account));
            link.persist(decision.event.into_iter().collect(), Box::new(move || drop(permit)));
        }
        Some(NodePlant::CommittedStateOnly) => decide_on_committed(link, state, &command, reply, permit),
        Some(NodePlant::SharedBalance) => decide_on_shared(link, state, &command, reply, permit)?,
        Some(NodePlant::DebitTwice) => match again(state.as_ref(), &command) {
            Some((event, answer)) => {
                account::apply(state, id, &event)?;
                persist(link, vec![event], Ok(answer), reply, permit);
            }
            None => return Ok(Some(AccountMessage::Command { command, reply, permit })),
        },
        Some(NodePlant::AnotherFrame) | None => return Ok(Some(AccountMessage::Command { command, reply, permit })),
    }
    Ok(None)
}

fn persist(
    link: &EntityLink<AccountFamily>,
    events: Vec<AccountEvent>,
    answer: Result<AccountAnswer, CallError>,
    reply: Reply<AccountAnswer>,
    permit: Permit,
) {
    let after = move || {
        reply.answer(answer);
        drop(permit);
    };
    link.persist(events, Box::new(after));
}

fn decide_on_committed(
    link: &EntityLink<AccountFamily>,
    state: &Option<Account>,
    command: &AccountCommand,
    reply: Reply<AccountAnswer>,
    permit: Permit,
) {
    let (id, key) = (link.key.0.clone(), ((link.shard_id, link.epoch), link.key.0.clone()));
    let committed = COMMITTED.with_borrow_mut(|all| all.entry(key.clone()).or_insert_with(|| state.clone()).clone());
    let decision = account::decide(committed.as_ref(), &id, command);
    let (event, answer) = (decision.event.clone(), decision.answer.map_err(CallError::Account));
    let after = move || {
        COMMITTED.with_borrow_mut(|all| {
            if let (Some(account), Some(event)) = (all.get_mut(&key), event) {
                // What does not follow any more is taken nevertheless by the log: that is the fault.
                let _ = account::apply(account, &id, &event);
            }
        });
        reply.answer(answer);
        drop(permit);
    };
    link.persist(decision.event.into_iter().collect(), Box::new(after));
}

fn decide_on_shared(
    link: &EntityLink<AccountFamily>,
    state: &mut Option<Account>,
    command: &AccountCommand,
    reply: Reply<AccountAnswer>,
    permit: Permit,
) -> Result<(), ApplyError> {
    let id = &link.key.0;
    let mut seen = state.clone();
    if let Some(account) = &mut seen {
        account.posted = POSTED.with_borrow_mut(|all| {
            let posted = all.entry((link.shard_id, link.epoch)).or_default();
            posted.insert(id.clone(), account.posted);
            posted.values().fold(Money::ZERO, |sum, one| sum.saturating_add(*one))
        });
    }
    let decision = account::decide(seen.as_ref(), id, command);
    if let Some(event) = &decision.event {
        account::apply(state, id, event)?;
    }
    persist(link, decision.event.into_iter().collect(), decision.answer.map_err(CallError::Account), reply, permit);
    Ok(())
}

/// The last debit of a session once more, under the next sequence, when it is repeated.
fn again(state: Option<&Account>, command: &AccountCommand) -> Option<(AccountEvent, AccountAnswer)> {
    let AccountCommand::Debit { session: id, sequence, at, .. } = command else { return None };
    let account = state?;
    let session = account.position(id).filter(|session| session.closed.is_none())?;
    let last = session.last_debit.filter(|last| last.sequence == *sequence)?;
    let funds = session.hold.saturating_add(account.available());
    let paid = last.cumulative.capped(funds);
    let from_hold = paid.total().min(session.hold);
    let hold = session.hold.saturating_sub(from_hold);
    let answer = DebitAnswer { hold_left: hold, available: funds.saturating_sub(paid.total()), ..last };
    let event = AccountEvent::Debited {
        session: id.clone(),
        operator: session.operator.clone(),
        currency: account.currency,
        sequence: session.next_sequence(),
        meter: last.meter,
        by_period: last.by_period,
        time: last.time,
        cumulative: last.cumulative,
        energy: paid.energy,
        service: paid.service,
        fees: paid.fees,
        hold,
        at: *at,
    };
    Some((event, AccountAnswer::Debited(answer)))
}

/// Frames under the same numbers with nothing in them.
pub(crate) fn other_frames(frames: Vec<Frame>) -> Vec<Frame> {
    let empty = |frame| Frame { payload: EncodedEntries::default().into_payload(), ..frame };
    frames.into_iter().map(empty).collect()
}
