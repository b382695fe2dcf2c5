//! The charger actor: one charger's sessions and commands.
//!
//! Supervised by its station's shard. Holds the durable machine [`Charger`] with everything applied that was
//! handed to the journal, and one soft [`Billing`] for the session in progress. Everything that leaves the
//! actor (a hold, a debit, a command, an answer) leaves after the commit it rests on (CMD-1, SESS-1); when the
//! last commit is done the actor advances: it looks at its state and does what is due. A restart reloads
//! the machine from the shard's map and asks the account what was billed; what was under way is asked again
//! under the same ids.

mod billing;
mod inputs;
mod starts;

pub use billing::Billing;

use crate::account::AccountMessage;
use crate::admission::{Lane, Permit};
use crate::family::{StationFamily, StationFamilyEvent, StationKey, StationMember};
use crate::gateway::{GatewayMessage, to_gateway};
use crate::handle::CallError;
use crate::metric;
use crate::reply::{Answer, Reply};
use crate::shard::{AfterCommit, EntityLink, EntityMessage, ShardMessage};
use crate::shared::NodeShared;
use crate::station::StationMessage;
use crate::views::StartRequest;
use billing::Step;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, SessionAccount};
use chargeplane_domain::charger::{Charger, ChargerCommand, ChargerEvent, ChargerRejection};
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{ChargerId, CommandId, GatewayId, SessionId, StationId};
use chargeplane_domain::session::{Origin, SessionState, StopReason};
use chargeplane_domain::tariff;
use chargeplane_domain::units::{Timestamp, WattHours};
use chargeplane_protocol::message::{Down, GatewayEvent, Notice, Stream, UpBatch};
use chargeplane_protocol::wire;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// While something is open the actor looks at it this often.
const WAKE_EVERY: Duration = Duration::from_secs(1);

/// A command without an answer is sent again after this.
const SEND_AGAIN: Duration = Duration::from_secs(5);

/// After a command's deadline its end is waited for this long before it is told as unconfirmed: the gateway's
/// clock may differ and its answer may be on the way.
const DEADLINE_GRACE_MS: i64 = 10_000;

/// Longest detail of a notice, in characters: the wire takes 256 bytes.
const MAX_DETAIL: usize = 200;

/// A stop for lack of funds that did not end the session is repeated after this.
const STOP_AGAIN: Duration = Duration::from_secs(30);

/// Messages of the charger actor.
#[derive(Debug)]
pub enum ChargerMessage {
    /// An event from the gateway; `done` answers when what it means is durable.
    FromGateway { event: GatewayEvent, done: Reply<()>, permit: Permit },
    /// The newest sample, at most once a second.
    Digest { at: Timestamp, register: WattHours, permit: Permit },
    /// The account answered a step of billing.
    Account { session: SessionId, result: Answer<AccountAnswer> },
    /// The account said what it billed to a session.
    Position { session: SessionId, result: Answer<Option<Box<SessionAccount>>> },
    /// Start a session from outside the charger.
    Start { request: StartRequest, reply: Reply<SessionId>, permit: Permit },
    /// Stop a session from outside the charger.
    Stop { session: SessionId, key: String, reply: Reply<()>, permit: Permit },
    /// Send a command.
    Request { action: Action, key: String, reply: Reply<CommandId>, permit: Permit },
    /// A start that waits for the account has waited long enough.
    StartDue,
    /// A commit of this actor is done.
    Durable,
    /// Look whether something is due.
    Wake,
}

impl EntityMessage for ChargerMessage {
    fn refuse(self, why: CallError) {
        match self {
            Self::FromGateway { done, .. } => done.answer(Err(why)),
            Self::Start { reply, .. } => reply.answer(Err(why)),
            Self::Stop { reply, .. } => reply.answer(Err(why)),
            Self::Request { reply, .. } => reply.answer(Err(why)),
            Self::Digest { .. } | Self::Account { .. } | Self::Position { .. } => {}
            Self::StartDue | Self::Durable | Self::Wake => {}
        }
    }

    /// Only what a gateway will not send again once its batch is acknowledged is worth keeping.
    fn keep(&self) -> Option<Self> {
        let Self::FromGateway { event, .. } = self else { return None };
        let (event, done) = (event.clone(), Reply::ignored());
        Some(Self::FromGateway { event, done, permit: Permit::internal() })
    }

    /// A gateway forgets an event once its batch is acknowledged, and a parked charger must not hold that up.
    fn is_sent_once(&self) -> bool {
        matches!(self, Self::FromGateway { .. })
    }

    fn to_body(&self) -> Option<Vec<u8>> {
        let Self::FromGateway { event, .. } = self else { return None };
        let event = chargeplane_protocol::message::NumberedEvent { number: 1, event: event.clone() };
        Some(wire::encode_up(&UpBatch::Events(vec![event])))
    }

    fn from_body(body: &[u8], done: Reply<()>) -> Result<Self, Reply<()>> {
        let Ok(UpBatch::Events(events)) = wire::decode_up(Stream::Events, body) else { return Err(done) };
        let Some(first) = events.into_iter().next() else { return Err(done) };
        Ok(Self::FromGateway { event: first.event, done, permit: Permit::internal() })
    }
}

/// The charger actor.
pub struct ChargerActor;

/// What it is started with.
pub struct ChargerArguments {
    /// The node.
    pub shared: Arc<NodeShared>,
    /// Its shard.
    pub link: EntityLink<StationFamily>,
    /// Its id.
    pub id: ChargerId,
    /// Its last durable state.
    pub charger: Charger,
}

/// State of the charger actor.
pub struct ChargerState {
    shared: Arc<NodeShared>,
    link: EntityLink<StationFamily>,
    id: ChargerId,
    /// With everything applied that was handed to the shard.
    charger: Charger,
    /// Commits under way. Nothing leaves while there is one.
    uncommitted: usize,
    /// Money of the session in progress.
    billing: Option<Billing>,
    /// When each unresolved command was last sent.
    sent: BTreeMap<CommandId, Instant>,
    /// When the session in progress was last told to stop for lack of funds.
    stopped_for_funds: Option<(SessionId, Instant)>,
    /// Starts whose callers wait for what the account says.
    starts: Vec<starts::WaitingStart>,
    wake_armed: bool,
}

impl Actor for ChargerActor {
    type Msg = ChargerMessage;
    type State = ChargerState;
    type Arguments = ChargerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ChargerMessage>,
        arguments: ChargerArguments,
    ) -> Result<ChargerState, ActorProcessingErr> {
        let ChargerArguments { shared, link, id, charger } = arguments;
        myself.cast(ChargerMessage::Wake)?;
        let (billing, sent) = (None, BTreeMap::new());
        let stopped_for_funds = None;
        Ok(ChargerState {
            shared,
            link,
            id,
            charger,
            uncommitted: 0,
            billing,
            sent,
            stopped_for_funds,
            starts: Vec::new(),
            wake_armed: true,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ChargerMessage>,
        message: ChargerMessage,
        state: &mut ChargerState,
    ) -> Result<(), ActorProcessingErr> {
        state.link.begin(&message, message.keep().map(StationMember::Charger))?;
        match message {
            ChargerMessage::FromGateway { event, done, permit } => {
                inputs::on_gateway_event(state, &myself, event, done, permit)?;
            }
            ChargerMessage::Digest { at, register, permit: _ } => on_digest(state, at, register),
            ChargerMessage::Account { session, result } => on_account(state, &myself, &session, result)?,
            ChargerMessage::Position { session, result } => on_position(state, &myself, &session, result)?,
            ChargerMessage::Start { request, reply, permit } => {
                inputs::on_start(state, &myself, request, reply, permit)?;
            }
            ChargerMessage::Stop { session, key, reply, permit } => {
                inputs::on_stop(state, &myself, session, key, reply, permit)?;
            }
            ChargerMessage::Request { action, key, reply, permit } => {
                inputs::on_request(state, &myself, action, key, reply, permit)?;
            }
            ChargerMessage::StartDue => {}
            ChargerMessage::Durable => state.uncommitted = state.uncommitted.saturating_sub(1),
            ChargerMessage::Wake => state.wake_armed = false,
        }
        advance(state, &myself)?;
        Ok(())
    }
}

/// A refused command, and what was to run after its commit.
type Refused = (ChargerRejection, AfterCommit);

/// Decides, applies and makes durable; `after` runs behind the commit, also when there is nothing new. A
/// refusal changes nothing and hands `after` back.
fn commit(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    command: &ChargerCommand,
    after: AfterCommit,
) -> Result<Result<(), Refused>, ActorProcessingErr> {
    let events = match state.charger.decide(&state.id, command) {
        Ok(events) => events,
        Err(rejection) => return Ok(Err((rejection, after))),
    };
    let mut ended = false;
    for event in &events {
        state.charger.apply(event)?;
        match event {
            // Counted from before the start command may leave.
            ChargerEvent::SessionAuthorised { .. } => {
                tell_station(state, |charger| StationMessage::SessionExpected { charger })
            }
            ChargerEvent::SessionStopped { .. } | ChargerEvent::SessionRefused { .. } => ended = true,
            _ => {}
        }
    }
    if !events.is_empty() {
        state.uncommitted = state.uncommitted.saturating_add(1);
    }
    let (actor, durable) = (myself.clone(), !events.is_empty());
    let (shard, station, charger) = (state.link.shard.clone(), station_of(state), state.id.clone());
    let after = Box::new(move || {
        after();
        if ended && let Some(station) = station {
            send_station(&shard, station, StationMessage::SessionEnded { charger });
        }
        if durable {
            let _ = actor.cast(ChargerMessage::Durable);
        }
    });
    state.link.persist(events.into_iter().map(StationFamilyEvent::Charger).collect(), after);
    Ok(Ok(()))
}

/// Commits a step the node takes by itself. A rejection is a defect or a race: said, and looked at again.
fn commit_own(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    command: &ChargerCommand,
) -> Result<(), ActorProcessingErr> {
    if let Err((rejection, _)) = commit(state, myself, command, Box::new(|| ()))? {
        tracing::warn!(charger = %state.id, %rejection, "the charger's machine refused the node's step");
    }
    Ok(())
}

fn station_of(state: &ChargerState) -> Option<StationId> {
    state.shared.directory.load().charger(&state.id).map(|(_, station)| station.clone())
}

fn gateway_of(state: &ChargerState) -> Option<GatewayId> {
    state.shared.directory.load().charger(&state.id).map(|(charger, _)| charger.gateway.clone())
}

fn send_station(shard: &ActorRef<ShardMessage<StationFamily>>, station: StationId, message: StationMessage) {
    let key = StationKey::Station(station);
    // The shard is gone only when everything opens anew.
    let _ = shard.cast(ShardMessage::Deliver { key, message: StationMember::Station(message) });
}

fn tell_station(state: &ChargerState, message: impl FnOnce(ChargerId) -> StationMessage) {
    if let Some(station) = station_of(state) {
        send_station(&state.link.shard, station, message(state.id.clone()));
    }
}

/// Does what the durable state asks for. Called after every message; leaves at once while a commit is under
/// way, because then the state is ahead of the journal.
fn advance(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) -> Result<(), ActorProcessingErr> {
    if state.uncommitted > 0 {
        return Ok(());
    }
    starts::answer_decided(state);
    send_commands(state);
    expire_commands(state, myself)?;
    match state.charger.open_session().map(|session| session.state) {
        None => state.billing = None,
        Some(SessionState::Requested) => authorise(state, myself),
        Some(SessionState::Charging) => bill(state, myself)?,
        Some(SessionState::Stopped) => settle(state, myself),
        Some(SessionState::Authorised | SessionState::Settled | SessionState::Refused) => {}
    }
    let open = state.charger.open_session().is_some() || !state.charger.unresolved_commands().is_empty();
    if open && !state.wake_armed {
        state.wake_armed = true;
        myself.send_after(WAKE_EVERY, || ChargerMessage::Wake);
    }
    Ok(())
}

/// Sends unresolved commands, and again when no answer came.
fn send_commands(state: &mut ChargerState) {
    let Some(gateway) = gateway_of(state) else { return };
    let now = Instant::now();
    let due: Vec<_> = state
        .charger
        .unresolved_commands()
        .into_iter()
        .filter(|command| {
            let sent = state.sent.get(&command.id);
            sent.is_none_or(|sent| now.saturating_duration_since(*sent) >= SEND_AGAIN)
        })
        .cloned()
        .collect();
    for command in due {
        state.sent.insert(command.id.clone(), now);
        let charger = state.id.clone();
        to_gateway(&state.link.shard, &gateway, GatewayMessage::Send { charger, command });
    }
    let unresolved = state.charger.unresolved_commands();
    state.sent.retain(|id, _| unresolved.iter().any(|command| command.id == *id));
}

/// Tells commands whose deadline is well past as unconfirmed.
fn expire_commands(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) -> Result<(), ActorProcessingErr> {
    let now = state.shared.clock.wall();
    let late = state
        .charger
        .unresolved_commands()
        .into_iter()
        .find(|command| command.outcome.is_none() && now.since(command.deadline) > DEADLINE_GRACE_MS);
    let Some(command) = late.map(|command| command.id.clone()) else { return Ok(()) };
    commit_own(state, myself, &ChargerCommand::ExpireCommand { command, at: now, heard: false })
}

/// The billing of the session in progress, made when it is first needed.
fn billing(state: &mut ChargerState) -> Option<&mut Billing> {
    let session = state.charger.open_session()?;
    if state.billing.as_ref().is_none_or(|billing| billing.session != session.id) {
        let directory = state.shared.directory.load();
        let rated = directory.charger(&state.id).map(|(charger, _)| charger.rated_w);
        let zone = tariff::zone::parse(&session.time_zone).ok();
        let now = state.shared.clock.wall();
        state.billing = Some(Billing::new(session, zone, rated, &state.shared.config, now));
    }
    state.billing.as_mut()
}

/// Asks the account for a hold.
fn authorise(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) {
    let now = state.shared.clock.wall();
    let Some(session) = state.charger.needs_authorisation() else { return };
    let (account, operator, tariff) = (session.account.clone(), session.operator.clone(), session.tariff.clone());
    let split = session.split.clone();
    let Some(billing) = billing(state) else { return };
    if !billing.begin(Step::Authorise) {
        return;
    }
    let command = AccountCommand::Authorise {
        session: billing.session.clone(),
        operator,
        tariff,
        split,
        want: billing.hold_target,
        reserve: billing.reserve,
        at: now,
    };
    let session = billing.session.clone();
    ask_account(state, myself, &account, session, command);
}

fn ask_account(
    state: &ChargerState,
    myself: &ActorRef<ChargerMessage>,
    account: &chargeplane_domain::ids::AccountId,
    session: SessionId,
    command: AccountCommand,
) {
    let charger = myself.clone();
    let reply = Reply::new(move |result| drop(charger.cast(ChargerMessage::Account { session, result })));
    state.shared.router.account(account, Lane::Money, 256, move |permit| AccountMessage::Command {
        command: Box::new(command),
        reply,
        permit,
    });
}

/// Learns from the account what was billed; a recovered session goes on from there.
fn ask_position(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) {
    let Some(account) = state.charger.open_session().map(|session| session.account.clone()) else { return };
    let Some(billing) = billing(state) else { return };
    if !billing.begin(Step::Position) {
        return;
    }
    let (session, charger) = (billing.session.clone(), myself.clone());
    let asked = session.clone();
    let reply = Reply::new(move |result| drop(charger.cast(ChargerMessage::Position { session: asked, result })));
    state.shared.router.account(&account, Lane::Money, 64, move |permit| AccountMessage::Position {
        session,
        reply,
        permit,
    });
}

/// Takes a reading for billing. One that cannot be true is stored like every sample, and is not used for money.
fn on_digest(state: &mut ChargerState, at: Timestamp, register: WattHours) {
    let now = state.shared.clock.wall();
    let Some(session) = state.charger.charging() else { return };
    let (energy, started_at) = (session.energy_at(register), session.started_at.unwrap_or(at));
    let Some(billing) = billing(state) else { return };
    let (reason, what) = match energy.map(|energy| billing.on_reading(started_at, at, energy, now)) {
        Some(Ok(())) => return,
        Some(Err(implausible)) => ("implausible", implausible.to_string()),
        None => ("below_start", format!("the register {register} is below that of the start")),
    };
    metrics::counter!(metric::READINGS_REFUSED_TOTAL, "reason" => reason).increment(1);
    if billing.should_say() {
        let session = billing.session.clone();
        tracing::warn!(charger = %state.id, %session, %what, "a reading is not used for money: look at the meter");
        let detail = format!("session {session}: {what}").chars().take(MAX_DETAIL).collect();
        let code = "reading_refused".to_owned();
        send_down(state, Down::Notice(Notice { code, detail, revoked_upto: 0 }));
    }
}

/// Debits what has flowed, when it is due.
fn bill(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) -> Result<(), ActorProcessingErr> {
    let (every, least) = (state.shared.config.debit_every, WattHours(state.shared.config.debit_wh));
    let now = state.shared.clock.wall();
    let Some(session) = state.charger.charging() else { return Ok(()) };
    let (account, clock) = (session.account.clone(), session.clock);
    let Some(billing) = billing(state) else { return Ok(()) };
    if !billing.is_synced() {
        ask_position(state, myself);
        return Ok(());
    }
    if let Some(clock) = &clock {
        billing.count_time(clock, now);
    }
    if billing.is_spent() {
        return stop_for_funds(state, myself);
    }
    if let Some(command) = billing.debit_if_due(every, least, now) {
        let session = billing.session.clone();
        ask_account(state, myself, &account, session, command);
    }
    Ok(())
}

/// Stops the charger before the money ends.
fn stop_for_funds(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) -> Result<(), ActorProcessingErr> {
    let Some(session) = state.charger.charging().map(|session| session.id.clone()) else { return Ok(()) };
    let stopping = state.charger.commands.values().any(|command| {
        matches!(&command.action, Action::Stop { session: of, .. } if *of == session) && command.is_unresolved()
    });
    let lately = |(of, since): &(SessionId, Instant)| *of == session && since.elapsed() < STOP_AGAIN;
    if stopping || state.stopped_for_funds.as_ref().is_some_and(lately) {
        return Ok(());
    }
    state.stopped_for_funds = Some((session.clone(), Instant::now()));
    let at = state.shared.clock.wall();
    let deadline = inputs::deadline(state, at);
    let (origin, reason) = (Origin::Node, StopReason::Funds);
    commit_own(state, myself, &ChargerCommand::RequestStop { session, origin, reason, at, deadline })
}

/// Settles a stopped session.
fn settle(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>) {
    let now = state.shared.clock.wall();
    let Some(session) = state.charger.needs_settlement() else { return };
    let (account, metered, clock) = (session.account.clone(), session.metered(), session.clock);
    let stopped_at = session.stopped_at.unwrap_or(now);
    let Some(metered) = metered else {
        tracing::error!(charger = %state.id, "a stopped session without a meter difference");
        return;
    };
    let Some(billing) = billing(state) else { return };
    if !billing.is_synced() {
        return ask_position(state, myself);
    }
    if let Some(command) = billing.settle(clock.as_ref(), stopped_at, metered, now) {
        let session = billing.session.clone();
        ask_account(state, myself, &account, session, command);
    }
}

fn on_account(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    session: &SessionId,
    result: Answer<AccountAnswer>,
) -> Result<(), ActorProcessingErr> {
    let at = state.shared.clock.wall();
    let Some(billing) = state.billing.as_mut().filter(|billing| billing.session == *session) else {
        return Ok(());
    };
    let step = billing.end();
    match result {
        Ok(AccountAnswer::Authorised { hold }) => {
            let allowance = billing.on_authorised(hold);
            let deadline = inputs::deadline(state, at);
            let session = session.clone();
            commit_own(state, myself, &ChargerCommand::Authorised { session, allowance, deadline, at })
        }
        Ok(AccountAnswer::Debited(answer)) => {
            if let Some(allowance) = billing.on_debited(&answer) {
                tell_station(state, |charger| StationMessage::Allowance { charger, allowance });
            }
            Ok(())
        }
        Ok(AccountAnswer::Settled(settled)) => {
            let session = session.clone();
            commit_own(state, myself, &ChargerCommand::Settled { session, settled, at })
        }
        Ok(other) => {
            tracing::error!(charger = %state.id, ?other, "an answer to another question");
            Ok(())
        }
        Err(CallError::Account(rejection)) if step == Some(Step::Authorise) => {
            let (session, code) = (session.clone(), rejection.code().to_owned());
            inputs::deny(state, &session, &code);
            commit_own(state, myself, &ChargerCommand::AuthorisationRefused { session, code, at })
        }
        Err(CallError::Account(rejection)) => {
            // Its log is ahead of this actor's memory, or the two contradict each other.
            tracing::warn!(charger = %state.id, %session, %rejection, ?step, "the account refused; asking where it stands");
            billing.lose_sync();
            Ok(())
        }
        Err(error) => {
            // Maybe executed: the account's log is the truth. Asked at the next wake.
            tracing::debug!(charger = %state.id, %session, %error, ?step, "billing step without an answer");
            billing.lose_sync();
            Ok(())
        }
    }
}

fn on_position(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    session: &SessionId,
    result: Answer<Option<Box<SessionAccount>>>,
) -> Result<(), ActorProcessingErr> {
    let ended = state.charger.needs_settlement().filter(|ended| ended.id == *session);
    let (has_ended, never_held) = (ended.is_some(), ended.is_some_and(|ended| ended.allowance.is_none()));
    let Some(billing) = state.billing.as_mut().filter(|billing| billing.session == *session) else { return Ok(()) };
    billing.end();
    match result {
        Ok(Some(position)) => match position.closed.filter(|_| has_ended) {
            // Settled already, and the answer was lost with a former life of this actor.
            Some(settled) => {
                let (session, at) = (session.clone(), state.shared.clock.wall());
                return commit_own(state, myself, &ChargerCommand::Settled { session, settled, at });
            }
            None => billing.on_position(&position),
        },
        // Stopped before it was authorised: the settlement of nothing makes sure that it never will be.
        Ok(None) if never_held => billing.on_nothing_held(),
        Ok(None) => tracing::error!(charger = %state.id, %session, "the account does not know the session"),
        Err(error) => tracing::debug!(charger = %state.id, %session, %error, "no position; asking again"),
    }
    Ok(())
}

/// A message down to the charger's gateway.
fn send_down(state: &ChargerState, down: Down) {
    if let Some(gateway) = gateway_of(state) {
        to_gateway(&state.link.shard, &gateway, GatewayMessage::SendDown { down, permit: Permit::internal() });
    }
}
