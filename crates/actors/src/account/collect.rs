//! What a till collects: revenue of its operator that the books of the shard have, and no more.
//!
//! The account decides on its own state, but how much was earned is in the books, which every account of the shard
//! changes. So the shard has the last word, at the moment when the event gets its place in the log: from then on
//! nothing comes before it. Until that word, what else was sent to the till waits in its order.

use super::{AccountBatch, AccountMessage, AccountState, Outcome, Told, hand_over};
use crate::admission::Permit;
use crate::handle::CallError;
use crate::reply::Reply;
use chargeplane_domain::account::{self, AccountAnswer, AccountCommand, AccountEvent, AccountRejection};
use chargeplane_domain::units::Money;
use ractor::{ActorProcessingErr, ActorRef};
use std::collections::VecDeque;

/// A collection that waits for the shard's word, and what waits behind it.
#[derive(Default)]
pub(super) struct Collecting {
    asked: Option<Asked>,
    behind: VecDeque<AccountMessage>,
}

struct Asked {
    event: AccountEvent,
    reply: Reply<AccountAnswer>,
    permit: Permit,
}

/// The message when it may be handled now. While the shard's word is awaited others wait; with it they come first.
/// Each waiting message holds its place in the lanes, so these are not many.
pub(super) fn in_turn(
    state: &mut AccountState,
    message: AccountMessage,
    coming: &mut VecDeque<AccountMessage>,
) -> Option<AccountMessage> {
    let collecting = &mut state.collecting;
    if collecting.asked.is_none() {
        return Some(message);
    }
    if matches!(message, AccountMessage::Covered(_)) {
        let mut first = std::mem::take(&mut collecting.behind);
        first.append(coming);
        *coming = first;
        return Some(message);
    }
    collecting.behind.push_back(message);
    None
}

/// Decides a collection, and asks the shard when money would move.
pub(super) fn begin(
    state: &mut AccountState,
    command: &AccountCommand,
    (reply, permit): (Reply<AccountAnswer>, Permit),
    outcome: &mut Outcome,
    myself: &ActorRef<AccountBatch>,
) -> Result<(), ActorProcessingErr> {
    let decision = account::decide(state.account.as_ref(), &state.link.key.0, command);
    match decision.event {
        Some(event @ AccountEvent::Collected { .. }) => {
            // What was decided before has its place in the log before.
            let moves = outcome.moves;
            hand_over(state, std::mem::replace(outcome, Outcome::of(1)));
            outcome.moves = moves;
            let actor = myself.clone();
            let told = move |covered| drop(actor.cast(AccountBatch(vec![AccountMessage::Covered(covered)])));
            state.link.persist_if(event.clone(), Box::new(told));
            state.collecting.asked = Some(Asked { event, reply, permit });
        }
        // What is refused for other reasons than the books' is remembered like any refusal.
        other => {
            if let Some(event) = &other {
                account::apply(&mut state.account, &state.link.key.0, event)?;
            }
            outcome.events.extend(other);
            outcome.told.push((Told::Command(reply, decision.answer.map_err(CallError::Account)), permit));
        }
    }
    Ok(())
}

/// The shard's word. The answer leaves behind the commit that covers the event.
pub(super) fn end(state: &mut AccountState, covered: bool, outcome: &mut Outcome) -> Result<(), ActorProcessingErr> {
    let Some(Asked { event, reply, permit }) = state.collecting.asked.take() else { return Ok(()) };
    let AccountEvent::Collected { amount, .. } = &event else { return Ok(()) };
    let answer = if covered {
        account::apply(&mut state.account, &state.link.key.0, &event)?;
        Ok(AccountAnswer::Collected { amount: *amount })
    } else {
        // Not remembered: there may be as much a moment later.
        Err(CallError::Account(AccountRejection::InsufficientFunds { available: Money::ZERO }))
    };
    outcome.told.push((Told::Command(reply, answer), permit));
    Ok(())
}
