//! The station actor: shares the grid connection among the chargers, once a second and when a limit falls.
//!
//! Supervised by its shard. Holds the soft machine [`StationPower`], the durable ceilings and the limits that
//! an operator set. A tick poses the problem, gives it to the solver's threads and goes on with its mailbox; the answer, or the end of the time
//! allowed, comes back as a message and turns into grants (POWER-1). Water-filling answers whenever the solver
//! does not. A restart reloads the limits and the ceilings, and counts these until beats tell the grants in force.

mod limits;
mod report;

pub use report::{ChargerStatus, LimitsReport, NodeLimits, NodeReport, StationReport};

use crate::admission::Permit;
use crate::bridge::count_not_used;
use crate::downlink::SealingCounter;
use crate::family::{StationFamily, StationFamilyEvent};
use crate::handle::CallError;
use crate::metric;
use crate::reply::Reply;
use crate::shard::EntityLink;
use crate::shared::NodeShared;
use chargeplane_domain::allocation::Problem;
use chargeplane_domain::allocation::lp::{Fallback, Programme, SolveOutcome, Source, allocate_with};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{ChargerId, GatewayId, StationId};
use chargeplane_domain::presence::{OFFLINE_AFTER_MS, Presence};
use chargeplane_domain::station::{
    BeatReport, BeatVerdict, ChargerBeat, LimitCommand, LimitInEffect, LimitSchedule, PowerConfig, PowerExplanation,
    StationEffect, StationEvent, StationPower, StationState,
};
use chargeplane_domain::units::{Mono, WattHours, Watts};
use chargeplane_protocol::message::{Beat, Down, GrantEntry, Grants};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A tick a second.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// The tick waits for the solver's answer this much longer than the solver's own time limit.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// Messages of the station actor.
#[derive(Debug)]
pub enum StationMessage {
    /// A gateway's heartbeat.
    Beat { gateway: GatewayId, boot: BootId, beat: Beat, permit: Permit },
    /// A start command may be sent to this charger.
    SessionExpected { charger: ChargerId },
    /// The charger's session is over.
    SessionEnded { charger: ChargerId },
    /// How much energy the charger's session may take.
    Allowance { charger: ChargerId, allowance: WattHours },
    /// Somebody sets or lifts the limit of a node of the tree, now, from a moment on or for a time.
    SetLimit { command: LimitCommand, reply: Reply<()>, permit: Permit },
    /// That is durable; without an event when it changed nothing.
    LimitDurable { event: Option<StationEvent>, reply: Reply<()>, permit: Permit },
    /// What was set and scheduled, and who did what.
    Limits { reply: Reply<Box<LimitsReport>>, permit: Permit },
    /// The station as it is, with the nodes of its tree or without.
    View { tree: bool, reply: Reply<Box<StationReport>>, permit: Permit },
    /// What was last heard of these chargers.
    Statuses { of: Vec<ChargerId>, reply: Reply<BTreeMap<ChargerId, ChargerStatus>>, permit: Permit },
    /// Why a charger has the power it has; none when the station has no such charger.
    Explain { charger: ChargerId, reply: Reply<Option<Box<Explained>>>, permit: Permit },
    /// The gateways that are online.
    Online { reply: Reply<BTreeSet<GatewayId>>, permit: Permit },
    /// The catalogue changed. Without it the next tick notices.
    CatalogueChanged { permit: Permit },
    /// Once a second.
    Tick,
    /// The solver answered.
    Solved { tick: u64, outcome: Box<SolveOutcome> },
    /// The solver had its time.
    SolverLate { tick: u64 },
    /// Ceilings are durable.
    CeilingsDurable { ceilings: Vec<(ChargerId, Watts)> },
}

impl StationMessage {
    /// Answers that it was not handled.
    pub fn refuse(self, why: CallError) {
        match self {
            Self::SetLimit { reply, .. } => reply.answer(Err(why)),
            Self::Limits { reply, .. } => reply.answer(Err(why)),
            Self::View { reply, .. } => reply.answer(Err(why)),
            Self::Statuses { reply, .. } => reply.answer(Err(why)),
            Self::Explain { reply, .. } => reply.answer(Err(why)),
            Self::Online { reply, .. } => reply.answer(Err(why)),
            _ => {}
        }
    }
}

/// Why a charger has the power it has, and whose limits the nodes above it have where they are not the catalogue's.
pub type Explained = (PowerExplanation, Vec<Option<LimitInEffect>>);

/// The station actor.
pub struct StationActor;

/// What it is started with.
pub struct StationArguments {
    /// The node.
    pub shared: Arc<NodeShared>,
    /// Its shard.
    pub link: EntityLink<StationFamily>,
    /// Its id.
    pub id: StationId,
    /// Its durable ceilings and limits.
    pub state: StationState,
    /// Chargers of the shard that may draw power now.
    pub may_draw: BTreeSet<ChargerId>,
    /// The shard's sealing counter.
    pub counter: Arc<SealingCounter>,
}

/// A tick whose allocation is being computed.
struct Posed {
    tick: u64,
    started: Instant,
    problem: Problem,
}

/// State of the station actor.
pub struct StationActorState {
    shared: Arc<NodeShared>,
    link: EntityLink<StationFamily>,
    id: StationId,
    durable: StationState,
    counter: Arc<SealingCounter>,
    power: Option<StationPower>,
    may_draw: BTreeSet<ChargerId>,
    statuses: BTreeMap<ChargerId, ChargerStatus>,
    presence: Presence<GatewayId>,
    disobeying: BTreeSet<ChargerId>,
    allowances: BTreeMap<ChargerId, WattHours>,
    limits: limits::Limits,
    /// Which catalogue the machine was made from.
    catalogue_version: u64,
    /// A node is over its limit, and that was said.
    in_deficit: bool,
    posed: Option<Posed>,
    ticks: u64,
    longest_tick: Duration,
    longest_solve_us: u64,
}

impl Actor for StationActor {
    type Msg = StationMessage;
    type State = StationActorState;
    type Arguments = StationArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<StationMessage>,
        arguments: StationArguments,
    ) -> Result<StationActorState, ActorProcessingErr> {
        let StationArguments { shared, link, id, state, may_draw, counter } = arguments;
        let mut actor = StationActorState {
            shared,
            link,
            id,
            durable: state,
            counter,
            power: None,
            may_draw,
            statuses: BTreeMap::new(),
            presence: Presence::new(OFFLINE_AFTER_MS),
            disobeying: BTreeSet::new(),
            allowances: BTreeMap::new(),
            limits: limits::Limits::default(),
            catalogue_version: 0,
            in_deficit: false,
            posed: None,
            ticks: 0,
            longest_tick: Duration::ZERO,
            longest_solve_us: 0,
        };
        // All that a restart finds is durable.
        actor.limits.committed = limits::limits_of(&actor.durable);
        build(&mut actor);
        myself.send_interval(TICK_EVERY, || StationMessage::Tick);
        Ok(actor)
    }

    async fn handle(
        &self,
        myself: ActorRef<StationMessage>,
        message: StationMessage,
        state: &mut StationActorState,
    ) -> Result<(), ActorProcessingErr> {
        state.link.begin(&message, None)?;
        match message {
            StationMessage::Beat { gateway, boot, beat, permit: _ } => on_beat(state, &myself, &gateway, boot, &beat),
            StationMessage::SessionExpected { charger } => on_session_expected(state, &charger),
            StationMessage::SessionEnded { charger } => on_session_ended(state, &charger),
            StationMessage::Allowance { charger, allowance } => {
                state.allowances.insert(charger, allowance);
            }
            StationMessage::SetLimit { command, reply, permit } => {
                limits::on_change_limit(state, &myself, &command, reply, permit);
            }
            StationMessage::LimitDurable { event, reply, permit: _ } => {
                limits::on_durable(state, &myself, event.as_ref());
                reply.answer(Ok(()));
            }
            StationMessage::Limits { reply, permit: _ } => reply.answer(Ok(Box::new(report::limits(state)))),
            StationMessage::View { tree, reply, permit: _ } => reply.answer(Ok(Box::new(report::station(state, tree)))),
            StationMessage::Statuses { of, reply, permit: _ } => reply.answer(Ok(report::statuses(state, of))),
            StationMessage::Explain { charger, reply, permit: _ } => {
                reply.answer(Ok(report::explain(state, &charger).map(Box::new)));
            }
            StationMessage::Online { reply, permit: _ } => reply.answer(Ok(report::online(state))),
            StationMessage::CatalogueChanged { permit: _ } => on_catalogue(state),
            StationMessage::Tick => {
                on_catalogue(state);
                on_tick(state, &myself);
            }
            StationMessage::Solved { tick, outcome } => on_solved(state, &myself, tick, Some(&outcome)),
            StationMessage::SolverLate { tick } => on_solved(state, &myself, tick, None),
            StationMessage::CeilingsDurable { ceilings } => on_ceilings_durable(state, &myself, &ceilings),
        }
        Ok(())
    }
}

/// Builds anew when the catalogue is another one.
fn on_catalogue(state: &mut StationActorState) {
    if state.shared.directory.load().version != state.catalogue_version {
        build(state);
    }
}

/// Makes the machine from the catalogue, with the limits that an operator set. What chargers may draw is taken over from the ceilings: the machine
/// counts them until the next beats, as after a restart.
fn build(state: &mut StationActorState) {
    let directory = state.shared.directory.load();
    state.catalogue_version = directory.version;
    let Some(station) = directory.catalogue.stations.get(&state.id) else {
        (state.power, state.limits.catalogue) = (None, None);
        return;
    };
    let chargers = directory.chargers_of(&state.id);
    let lease_ms = u64::try_from(state.shared.config.lease.as_millis()).unwrap_or(u64::MAX);
    let config = PowerConfig { lease_ms, ..PowerConfig::default() };
    let now = state.shared.clock.mono();
    match StationPower::new(now, state.link.epoch, station, &chargers, config) {
        Ok(mut power) => {
            power.on_ceilings(now, &state.durable);
            for charger in &state.may_draw {
                power.on_session_restored(now, charger);
            }
            state.limits.catalogue = Some(power.tree().clone());
            state.limits.schedule = LimitSchedule::of(station);
            state.limits.lead_ms = limits::Limits::lead_for(&config);
            state.statuses.retain(|charger, _| chargers.contains_key(charger));
            let gone = |gateway: &GatewayId| directory.gateway(gateway).is_none_or(|known| known.station != state.id);
            let gone: Vec<GatewayId> = state.presence.known().filter(|gateway| gone(gateway)).cloned().collect();
            gone.iter().for_each(|gateway| state.presence.on_removed(gateway));
            state.power = Some(power);
            // After the ceilings and the open sessions: what is on its way down to a lower limit is a deficit for at
            // most a lease, as after the cut itself.
            limits::follow(state);
        }
        // The catalogue is checked before it is applied, so this is a defect: grant nothing.
        Err(error) => {
            tracing::error!(station = %state.id, %error, "the tree of limits is not usable: no grants");
            (state.power, state.limits.catalogue) = (None, None);
        }
    }
}

fn on_beat(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    gateway: &GatewayId,
    boot: BootId,
    beat: &Beat,
) {
    let directory = state.shared.directory.load();
    let Some(entry) = directory.gateway(gateway) else { return };
    let now = state.shared.clock.mono();
    let mut changes = Vec::new();
    state.presence.on_heard(now, gateway, &mut changes);
    report::log(state, &changes);
    for seen in &beat.chargers {
        let Some(charger) = entry.children.get(&seen.child) else { continue };
        let status = ChargerStatus {
            online: true,
            power: seen.power,
            demand: seen.demand,
            granted: seen.granted,
            register: seen.register,
            disobeying: false,
        };
        state.statuses.insert(charger.clone(), status);
    }
    let charger = |seen: &chargeplane_protocol::message::BeatCharger| ChargerBeat {
        child: seen.child,
        granted: seen.granted,
        demand: seen.demand,
        power: seen.power,
        charging: seen.charging,
    };
    let report = BeatReport {
        mono: beat.mono.0,
        nonce: beat.nonce,
        boot,
        epoch: beat.epoch_seen,
        applied_seq: beat.applied_grant_seq,
        chargers: beat.chargers.iter().map(charger).collect(),
    };
    let Some(power) = &mut state.power else { return };
    let mut effects = Vec::new();
    let verdict = power.on_beat(now, gateway, &report, &mut effects);
    match verdict {
        BeatVerdict::Taken => {}
        BeatVerdict::Stale => count_not_used("repeated"),
        BeatVerdict::UnknownGateway => count_not_used("unknown_gateway"),
        BeatVerdict::Fenced => {
            tracing::warn!(%gateway, seen = beat.epoch_seen, mine = state.link.epoch, "the gateway obeys a later owner");
        }
    }
    carry_out(state, myself, effects);
}

fn on_session_expected(state: &mut StationActorState, charger: &ChargerId) {
    state.may_draw.insert(charger.clone());
    state.allowances.remove(charger);
    let now = state.shared.clock.mono();
    if let Some(power) = &mut state.power {
        power.on_session_expected(now, charger);
    }
}

fn on_session_ended(state: &mut StationActorState, charger: &ChargerId) {
    state.may_draw.remove(charger);
    state.allowances.remove(charger);
    let now = state.shared.clock.mono();
    if let Some(power) = &mut state.power {
        power.on_session_ended(now, charger);
    }
}

/// Poses the tick's problem to the solver.
fn on_tick(state: &mut StationActorState, myself: &ActorRef<StationMessage>) {
    let started = Instant::now();
    let now = state.shared.clock.mono();
    limits::follow(state);
    self_check(state, now);
    if state.posed.is_some() {
        // The tick before still waits; its deadline message will end it.
        return;
    }
    let Some(problem) = state.power.as_mut().and_then(|power| power.on_tick(now)) else { return };
    state.ticks = state.ticks.saturating_add(1);
    metrics::counter!(metric::TICKS_TOTAL).increment(1);
    let tick = state.ticks;
    let limit = state.shared.config.solve_limit;
    if !problem.wants_solver() {
        state.posed = Some(Posed { tick, started, problem });
        on_solved(state, myself, tick, None);
        return;
    }
    let programme = Programme::build(&problem);
    state.posed = Some(Posed { tick, started, problem });
    let actor = myself.clone();
    let done = Box::new(move |outcome| {
        drop(actor.cast(StationMessage::Solved { tick, outcome: Box::new(outcome) }));
    });
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    match state.shared.ports.solver.submit(programme, limit_ms, done) {
        Ok(()) => {
            myself.send_after(limit.saturating_add(ANSWER_MARGIN), move || StationMessage::SolverLate { tick });
        }
        Err(_busy) => on_solved(state, myself, tick, None),
    }
}

/// Turns the solver's answer, or water-filling's, into grants.
fn on_solved(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    tick: u64,
    outcome: Option<&SolveOutcome>,
) {
    let Some(posed) = state.posed.take_if(|posed| posed.tick == tick) else { return };
    if let Some(outcome) = outcome {
        metrics::histogram!(metric::SOLVE_SECONDS).record(micros(outcome.solve_us));
        state.longest_solve_us = state.longest_solve_us.max(outcome.solve_us);
        metrics::gauge!(metric::SOLVE_MAX_SECONDS).set(micros(state.longest_solve_us));
    }
    let (allocation, source) = allocate_with(&posed.problem, outcome);
    match source {
        Source::Solver => metrics::counter!(metric::SOLVES_TOTAL).increment(1),
        Source::WaterFilling(why) => {
            metrics::counter!(metric::SOLVER_FALLBACKS_TOTAL, "reason" => fallback_label(why)).increment(1);
        }
    }
    let now = state.shared.clock.mono();
    let mut effects = Vec::new();
    if let Some(power) = &mut state.power {
        power.on_allocation(now, &posed.problem, &allocation, &mut effects);
    }
    carry_out(state, myself, effects);
    let took = posed.started.elapsed();
    state.longest_tick = state.longest_tick.max(took);
    metrics::histogram!(metric::TICK_SECONDS).record(took.as_secs_f64());
    metrics::gauge!(metric::TICK_MAX_SECONDS).set(state.longest_tick.as_secs_f64());
}

fn micros(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

fn fallback_label(why: Fallback) -> &'static str {
    match why {
        Fallback::Late => "late",
        Fallback::TimeLimit => "time_limit",
        Fallback::NotOptimal => "not_optimal",
        Fallback::Malformed => "malformed",
        Fallback::Infeasible => "infeasible",
        Fallback::Gap => "gap",
        Fallback::Unsafe => "unsafe",
        Fallback::Worse => "worse",
        Fallback::NotNeeded => "not_needed",
    }
}

fn on_ceilings_durable(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    ceilings: &[(ChargerId, Watts)],
) {
    let now = state.shared.clock.mono();
    let mut effects = Vec::new();
    if let Some(power) = &mut state.power {
        power.on_ceilings_durable(now, ceilings, &mut effects);
    }
    carry_out(state, myself, effects);
}

fn carry_out(state: &mut StationActorState, myself: &ActorRef<StationMessage>, effects: Vec<StationEffect>) {
    for effect in effects {
        match effect {
            StationEffect::SendGrants { gateway, answers_nonce, boot, seq, lease_ms, entries } => {
                let lease_ms = u32::try_from(lease_ms).unwrap_or(u32::MAX);
                let (epoch, entries) = (state.link.epoch, with_allowances(state, &gateway, entries));
                let grants = Grants { answers_nonce, boot: boot.boot, epoch, seq, lease_ms, entries };
                metrics::counter!(metric::GRANTS_TOTAL).increment(1);
                let shared = &state.shared;
                let (directory, now) = (&shared.directory, shared.clock.wall());
                shared.downlink.answer(directory, &state.counter, (&gateway, boot), now, &Down::Grants(grants));
            }
            StationEffect::RaiseCeilings(ceilings) => {
                let event = StationEvent::CeilingsSet(ceilings.clone());
                state.durable.apply(&event);
                let actor = myself.clone();
                let after = move || drop(actor.cast(StationMessage::CeilingsDurable { ceilings }));
                state.link.persist(vec![StationFamilyEvent::Station(event)], Box::new(after));
            }
            StationEffect::ReportDisobedience { charger, power, allowed } => {
                tracing::warn!(%charger, ?power, ?allowed, "draws more than it may: counted at its rating");
                state.disobeying.insert(charger);
            }
            StationEffect::ReportObedience { charger } => {
                state.disobeying.remove(&charger);
            }
        }
    }
}

fn with_allowances(state: &StationActorState, gateway: &GatewayId, entries: Vec<(u16, Watts)>) -> Vec<GrantEntry> {
    let directory = state.shared.directory.load();
    let children = directory.gateway(gateway).map(|entry| &entry.children);
    let entry = |(child, w): (u16, Watts)| {
        let charger = children.and_then(|children| children.get(&child));
        GrantEntry { child, w, allowance: charger.and_then(|charger| state.allowances.get(charger)).copied() }
    };
    entries.into_iter().map(entry).collect()
}

/// POWER-1 on the node's own state, at every tick. A deficit is no violation: after a cut, for one lease.
fn self_check(state: &mut StationActorState, now: Mono) {
    let Some(power) = &mut state.power else { return };
    let violations = power.self_check(now);
    metrics::counter!(metric::INVARIANT_CHECKS_TOTAL, "invariant" => "POWER-1").increment(1);
    for violation in &violations {
        tracing::error!(station = %state.id, ?violation, "POWER-1: worst grants are over a limit");
        metrics::counter!(metric::INVARIANT_VIOLATIONS_TOTAL, "invariant" => "POWER-1").increment(1);
    }
    let deficits = power.deficits_now(now);
    if let Some(worst) = deficits.first() {
        metrics::counter!(metric::POWER_DEFICIT_TICKS_TOTAL).increment(1);
        if !state.in_deficit {
            let (station, nodes) = (&state.id, deficits.len());
            tracing::warn!(%station, nodes, ?worst, "over a limit until grants end; loads only fall");
        }
    }
    state.in_deficit = !deficits.is_empty();
}
