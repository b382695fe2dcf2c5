//! Starts over the API: their callers wait for what the account says.
//!
//! An answer rests on durable state alone, so whoever repeats the key is told the same. A caller that is answered
//! *pending*, because the account did not speak in time, learns the rest from the session or by the same key.

use super::{ChargerMessage, ChargerState};
use crate::handle::CallError;
use crate::reply::Reply;
use chargeplane_domain::charger::StartOutcome;
use chargeplane_domain::ids::SessionId;
use ractor::ActorRef;
use tokio::time::Instant;

/// Most callers that wait at one charger. More are repetitions of one key, and are shed.
const MAX_WAITING: usize = 16;

/// A start over the API whose answer waits.
pub(super) struct WaitingStart {
    session: SessionId,
    /// Then the session is told as it is: asked for, and durable.
    until: Instant,
    reply: Reply<SessionId>,
}

/// Lets the caller wait until the start is durable and the account has said yes or no: half of the time that the
/// call has, so that the answer is there before its deadline.
pub(super) fn wait(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    session: SessionId,
    reply: Reply<SessionId>,
) {
    if state.starts.len() >= MAX_WAITING {
        return reply.answer(Err(CallError::Shed));
    }
    let patience = state.shared.config.call_timeout / 2;
    state.starts.push(WaitingStart { session, until: Instant::now() + patience, reply });
    myself.send_after(patience, || ChargerMessage::StartDue);
}

/// Answers those whose session the account has decided on, and those who have waited long enough. To be called
/// when nothing is uncommitted.
pub(super) fn answer_decided(state: &mut ChargerState) {
    let now = Instant::now();
    for start in std::mem::take(&mut state.starts) {
        let WaitingStart { session, until, reply } = start;
        match state.charger.start_outcome(&session) {
            StartOutcome::Pending if now < until => state.starts.push(WaitingStart { session, until, reply }),
            StartOutcome::Pending | StartOutcome::Accepted => reply.answer(Ok(session)),
            StartOutcome::Refused(code) => {
                reply.answer(Err(CallError::StartRefused { session, code: code.to_owned() }));
            }
        }
    }
}
