//! Transfers that leave an account: sent to their target until it answers (MONEY-1).
//!
//! What left is durable before the target hears of it. A target that took it in, or refuses it for good, ends the
//! transfer; any other answer, or none, means that it is sent again. The target takes it in once however often it
//! comes. An account with transfers under way is live from the opening of its shard on, and begins where it was.

use super::{AccountBatch, AccountMessage, AccountState};
use crate::admission::Lane;
use crate::handle::CallError;
use crate::reply::{Answer, Reply};
use chargeplane_domain::account::{AccountAnswer, AccountCommand, TransferId};
use ractor::ActorRef;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A transfer without an answer is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A target that was asked and has not answered is asked again after this.
const SEND_AGAIN: Duration = Duration::from_secs(15);

/// Sent at once by one account; the others wait for answers.
const MOST_SENT: usize = 64;

/// Which transfers were sent, and when.
#[derive(Debug, Default)]
pub(super) struct Sending {
    sent: BTreeMap<u64, Instant>,
    wake_armed: bool,
}

/// Sends what is under way and waits for no answer.
pub(super) fn advance(state: &mut AccountState, myself: &ActorRef<AccountBatch>) {
    let Some(account) = &state.account else { return };
    let open = &account.outgoing.open;
    if open.is_empty() {
        state.sending.sent.clear();
        return;
    }
    let (now, ended_below) = (Instant::now(), account.outgoing.ended_below());
    state
        .sending
        .sent
        .retain(|number, at| open.contains_key(number) && now.saturating_duration_since(*at) < SEND_AGAIN);
    for (number, transfer) in open {
        if state.sending.sent.len() >= MOST_SENT {
            break;
        }
        if state.sending.sent.contains_key(number) {
            continue;
        }
        state.sending.sent.insert(*number, now);
        let command = AccountCommand::TransferIn {
            transfer: TransferId { from: account.id.clone(), number: *number },
            ended_below,
            currency: account.currency,
            amount: transfer.amount,
            at: state.shared.clock.wall(),
        };
        let (shared, to, actor, number) = (state.shared.clone(), transfer.to.clone(), myself.clone(), *number);
        // Behind everything handed over so far: what left, and the ends that `ended_below` rests on, are durable.
        let after = move || {
            let answered = move |result| {
                let message = AccountMessage::TransferAnswered { number, result };
                drop(actor.cast(AccountBatch(vec![message])));
            };
            let reply = Reply::new(answered);
            shared.router.account(&to, Lane::Money, 256, move |permit| AccountMessage::Command {
                command: Box::new(command),
                reply,
                permit,
            });
        };
        state.link.persist(Vec::new(), Box::new(after));
    }
    if !state.sending.wake_armed {
        state.sending.wake_armed = true;
        myself.send_after(LOOK_AGAIN, || AccountBatch(vec![AccountMessage::Wake]));
    }
}

/// Time to look again.
pub(super) fn on_wake(state: &mut AccountState) {
    state.sending.wake_armed = false;
}

/// What the target's answer ends the transfer with; none when it is sent again.
pub(super) fn end_of(state: &mut AccountState, number: u64, result: Answer<AccountAnswer>) -> Option<AccountCommand> {
    let refused = match result {
        Ok(AccountAnswer::TransferredIn) => None,
        Err(CallError::Account(rejection)) if rejection.returns_transfer() => Some(rejection),
        other => {
            // Shed, interrupted, not serving or too late: it may have arrived, and is sent again.
            tracing::debug!(account = %state.link.key, number, ?other, "a transfer without a final answer");
            state.sending.sent.remove(&number);
            return None;
        }
    };
    Some(AccountCommand::EndTransfer { number, refused, at: state.shared.clock.wall() })
}
