//! Examples here; random histories in the module below.

use super::*;
use crate::ids::{ChargerId, ConnectorNo};
use crate::tariff::fees::{Fees, MeteredTime};
use crate::tariff::{MAX_METER, PERIODS, Price, Priced, Slots};
use crate::units::{Currency, Money};

mod commands;
mod properties;

pub(super) fn tariff() -> Tariff {
    Tariff {
        currency: Currency::new("CNY").unwrap(),
        prices: [Price { energy: Money(7_000), service: Money(4_000) }; PERIODS],
        slots: Slots::uniform(2).unwrap(),
        fees: Fees { per_minute: Money(600), idle_per_minute: Money(6_000), ..Fees::NONE },
    }
}

/// A charger with its log.
pub(super) struct Pile {
    pub id: ChargerId,
    pub charger: Charger,
    pub log: Vec<ChargerEvent>,
}

impl Pile {
    pub(super) fn new() -> Self {
        Self { id: "c1".parse().unwrap(), charger: Charger::default(), log: vec![] }
    }

    pub(super) fn tell(&mut self, command: &ChargerCommand) -> Result<Vec<ChargerEvent>, ChargerRejection> {
        let events = self.charger.decide(&self.id, command)?;
        for event in &events {
            self.charger.apply(event).unwrap();
        }
        self.log.extend(events.iter().cloned());
        Ok(events)
    }

    /// Names of the events that a command causes.
    fn kinds(&mut self, command: &ChargerCommand) -> Vec<&'static str> {
        self.tell(command).unwrap().iter().map(kind).collect()
    }

    /// The same, without its effects.
    fn clone_told(&self, command: &ChargerCommand) -> Vec<&'static str> {
        self.charger.decide(&self.id, command).unwrap().iter().map(kind).collect()
    }

    fn state(&self) -> Option<SessionState> {
        self.charger.open_session().map(|session| session.state)
    }

    /// A charger whose first session charges since register 1,000.
    fn charging() -> Self {
        let mut pile = Self::new();
        pile.tell(&start(1)).unwrap();
        pile.tell(&authorised(1)).unwrap();
        pile.tell(&started(1, 1_000)).unwrap();
        pile
    }
}

fn kind(event: &ChargerEvent) -> &'static str {
    match event {
        ChargerEvent::SessionRequested { .. } => "requested",
        ChargerEvent::SessionAuthorised { .. } => "authorised",
        ChargerEvent::SessionRefused { .. } => "refused",
        ChargerEvent::CommandAccepted { .. } => "accepted",
        ChargerEvent::CommandResolved { .. } => "resolved",
        ChargerEvent::SessionStarted { .. } => "started",
        ChargerEvent::SessionStopped { .. } => "stopped",
        ChargerEvent::SessionSettled { .. } => "settled",
        ChargerEvent::StatusChanged { .. } => "status",
        ChargerEvent::FlowChanged { .. } => "flow",
    }
}

pub(super) fn session(number: u64) -> SessionId {
    format!("c1.{number}").parse().unwrap()
}

pub(super) fn command(number: u64) -> CommandId {
    format!("c1.c{number}").parse().unwrap()
}

pub(super) fn start_by(origin: Origin) -> ChargerCommand {
    ChargerCommand::RequestStart {
        account: "a1".parse().unwrap(),
        connector: ConnectorNo(1),
        connectors: 2,
        origin,
        tariff: tariff(),
        split: None,
        operator: "op1".parse().unwrap(),
        station: "s1".parse().unwrap(),
        city: "Beijing".into(),
        time_zone: "Asia/Shanghai".into(),
        at: Timestamp(10),
    }
}

pub(super) fn start(request: u64) -> ChargerCommand {
    start_by(Origin::Driver { request })
}

fn start_key(key: &str) -> ChargerCommand {
    start_by(Origin::Api { key: key.into() })
}

pub(super) fn authorised(number: u64) -> ChargerCommand {
    ChargerCommand::Authorised {
        session: session(number),
        allowance: WattHours(5_000),
        deadline: Timestamp(99),
        at: Timestamp(11),
    }
}

pub(super) fn refused(number: u64) -> ChargerCommand {
    let code = "insufficient_funds".into();
    ChargerCommand::AuthorisationRefused { session: session(number), code, at: Timestamp(11) }
}

pub(super) fn started(number: u64, register: i64) -> ChargerCommand {
    let (session, register) = (session(number), WattHours(register));
    ChargerCommand::GatewayStarted { session, register, at: Timestamp(12) }
}

pub(super) fn stopped(number: u64, register: i64) -> ChargerCommand {
    let (session, register, reason) = (session(number), WattHours(register), StopReason::TargetReached);
    ChargerCommand::GatewayStopped { session, register, reason, most: MAX_METER, at: Timestamp(13) }
}

/// The end of a session whose register is refused, last read at `energy`.
pub(super) fn closed(number: u64, energy: i64, refused: i64) -> ChargerCommand {
    let (session, energy, refused) = (session(number), WattHours(energy), WattHours(refused));
    ChargerCommand::CloseAtLastReading { session, energy, refused, at: Timestamp(13) }
}

pub(super) fn result(number: u64, outcome: CommandOutcome) -> ChargerCommand {
    ChargerCommand::GatewayResult { command: command(number), outcome, at: Timestamp(14) }
}

pub(super) fn expire(number: u64, heard: bool) -> ChargerCommand {
    ChargerCommand::ExpireCommand { command: command(number), at: Timestamp(100), heard }
}

pub(super) fn stop(number: u64, origin: Origin) -> ChargerCommand {
    ChargerCommand::RequestStop {
        session: session(number),
        origin,
        reason: StopReason::Remote,
        at: Timestamp(15),
        deadline: Timestamp(99),
    }
}

fn order(action: Action, key: Option<&str>) -> ChargerCommand {
    let key = key.map(str::to_owned);
    ChargerCommand::RequestCommand { action, key, at: Timestamp(16), deadline: Timestamp(99) }
}

pub(super) fn flow(number: u64, flow: Flow, at: i64) -> ChargerCommand {
    ChargerCommand::GatewayFlow { session: session(number), flow, at: Timestamp(at) }
}

/// The account's settlement of an energy, all of it paid.
pub(super) fn settled(number: u64, energy: i64) -> ChargerCommand {
    settled_for(number, energy, MeteredTime::NONE)
}

fn settled_for(number: u64, energy: i64, time: MeteredTime) -> ChargerCommand {
    let by_period = [0, 0, energy, 0].map(WattHours);
    let cumulative: Priced = tariff().price(&by_period, &time);
    let settled = Settled {
        sequence: 1,
        meter: WattHours(energy),
        by_period,
        time,
        cumulative,
        billed: cumulative.total(),
        billed_wh: WattHours(energy),
        overshoot: Money(0),
        overshoot_wh: WattHours(0),
        released: Money(0),
        at: Timestamp(17),
    };
    ChargerCommand::Settled { session: session(number), settled, at: Timestamp(17) }
}

fn hardware_refuses() -> CommandOutcome {
    CommandOutcome::Refused { reason: "not_plugged".into() }
}

fn code(answer: Result<Vec<ChargerEvent>, ChargerRejection>) -> &'static str {
    answer.unwrap_err().code()
}

#[test]
fn a_session_from_request_to_record() {
    let mut pile = Pile::new();
    assert_eq!(pile.kinds(&start(1)), ["requested"]);
    assert_eq!(pile.charger.needs_authorisation().unwrap().id, session(1));
    assert_eq!(pile.kinds(&authorised(1)), ["authorised", "accepted"]);
    assert_eq!(pile.charger.unresolved_commands().len(), 1);
    assert_eq!(pile.kinds(&started(1, 1_000)), ["resolved", "started"]);
    assert_eq!(pile.charger.charging().unwrap().meter_start, Some(WattHours(1_000)));
    assert_eq!(pile.kinds(&result(1, CommandOutcome::Done)), [""; 0]);
    assert_eq!(pile.kinds(&stopped(1, 3_500)), ["stopped"]);
    assert_eq!(pile.charger.needs_settlement().unwrap().metered(), Some(WattHours(2_500)));
    let events = pile.tell(&settled(1, 2_500)).unwrap();
    let [ChargerEvent::SessionSettled { record, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((record.meter_start, record.meter_stop), (WattHours(1_000), WattHours(3_500)));
    assert_eq!((record.energy, record.billed_wh, record.total), (WattHours(2_500), WattHours(2_500), Money(27_500)));
    assert_eq!((record.started_at, record.ended_at), (Timestamp(12), Timestamp(13)));
    assert_eq!(record.stop_reason, StopReason::TargetReached);
    assert_eq!(pile.charger.open_session(), None);
    let closed = pile.charger.closed_session(&session(1)).unwrap();
    assert_eq!((closed.state, closed.meter_stop), (SessionState::Settled, Some(WattHours(3_500))));
    // Everything once more: nothing happens.
    for late in [start(1), authorised(1), started(1, 1_000), stopped(1, 3_500), settled(1, 2_500)] {
        assert_eq!(pile.kinds(&late), [""; 0], "{late:?}");
    }
}

#[test]
fn a_start_is_refused_with_its_reason() {
    let mut pile = Pile::charging();
    assert_eq!(code(pile.tell(&start(2))), "charger_busy");
    assert_eq!(code(pile.tell(&start_by(Origin::Node))), "invalid_origin");
    assert_eq!(code(pile.tell(&start_key(""))), "invalid_key");
    let mut pile = Pile::new();
    let with = |change: fn(&mut ConnectorNo, &mut Tariff, &mut String)| {
        let mut command = start(1);
        if let ChargerCommand::RequestStart { connector, tariff, time_zone, .. } = &mut command {
            change(connector, tariff, time_zone);
        }
        command
    };
    for number in [0, 3] {
        let mut command = start(1);
        if let ChargerCommand::RequestStart { connector, .. } = &mut command {
            *connector = ConnectorNo(number);
        }
        assert_eq!(code(pile.tell(&command)), "unknown_connector");
    }
    assert_eq!(code(pile.tell(&with(|_, tariff, _| tariff.prices[0].energy = Money(-1)))), "invalid_tariff");
    assert_eq!(code(pile.tell(&with(|_, _, zone| *zone = "Nowhere".into()))), "invalid_tariff");
    pile.id = "x".repeat(63).parse().unwrap();
    assert_eq!(code(pile.tell(&start(1))), "id_too_long");
    assert!(pile.log.is_empty());
}

#[test]
fn a_faulted_charger_starts_again_when_it_says_so() {
    let mut pile = Pile::new();
    let fault = ChargerCommand::GatewayFault { code: "overheated".into(), at: Timestamp(1) };
    let status = |available| ChargerCommand::GatewayStatus { available, at: Timestamp(2) };
    assert_eq!(pile.kinds(&fault), ["status"]);
    assert_eq!(pile.kinds(&fault), [""; 0]);
    assert_eq!(code(pile.tell(&start(1))), "charger_faulted");
    assert_eq!(pile.kinds(&status(false)), ["status"]);
    assert_eq!(pile.kinds(&status(true)), ["status"]);
    assert_eq!(pile.charger.fault, None);
    assert_eq!(pile.kinds(&order(Action::SetAvailability { available: false }, None)), ["accepted"]);
    assert!(pile.charger.available, "not before it is done");
    pile.tell(&result(1, CommandOutcome::Done)).unwrap();
    assert_eq!(code(pile.tell(&start(1))), "charger_unavailable");
}

#[test]
fn a_key_makes_one_session() {
    let mut pile = Pile::new();
    assert_eq!(pile.kinds(&start_key("k")), ["requested"]);
    assert_eq!(pile.kinds(&start_key("k")), [""; 0]);
    assert_eq!(pile.charger.key_target("k"), Some(&KeyTarget::Session(session(1))));
    let mut other = start_key("k");
    if let ChargerCommand::RequestStart { connector, .. } = &mut other {
        *connector = ConnectorNo(2);
    }
    assert_eq!(code(pile.tell(&other)), "key_reused");
    pile.tell(&refused(1)).unwrap();
    assert_eq!(pile.kinds(&start_key("k")), [""; 0], "over, and still the same answer");
    assert_eq!(pile.kinds(&start_key("k2")), ["requested"]);
    assert_eq!(pile.charger.open_session().unwrap().id, session(2));
}

#[test]
fn a_young_key_is_never_forgotten() {
    let mut pile = Pile::new();
    let start_at = |key: &str, at| {
        let mut command = start_key(key);
        if let ChargerCommand::RequestStart { at: moment, .. } = &mut command {
            *moment = Timestamp(at);
        }
        command
    };
    let reset_at = |key: String, at| {
        let (action, key) = (Action::Reset, Some(key));
        ChargerCommand::RequestCommand { action, key, at: Timestamp(at), deadline: Timestamp(i64::MAX) }
    };
    assert_eq!(pile.kinds(&start_at("first", 0)), ["requested"]);
    pile.tell(&refused(1)).unwrap();
    for number in 1..u64::try_from(MAX_KEYS).unwrap() {
        pile.tell(&reset_at(format!("k{number}"), 10)).unwrap();
        pile.tell(&result(number, CommandOutcome::Done)).unwrap();
    }
    assert_eq!(pile.kinds(&start_at("first", KEYS_KEPT_MS)), [""; 0], "the same answer, all day");
    assert_eq!(code(pile.tell(&start_at("more", KEYS_KEPT_MS))), "too_many_keys");
    assert_eq!(code(pile.tell(&reset_at("more".into(), KEYS_KEPT_MS))), "too_many_keys");
    assert_eq!(pile.kinds(&start_at("more", KEYS_KEPT_MS + 1)), ["requested"], "the oldest is a day old");
    pile.tell(&refused(2)).unwrap();
    pile.tell(&start_at("tomorrow", 2 * KEYS_KEPT_MS)).unwrap();
    assert_eq!(pile.charger.keys.len(), KEYS_REMEMBERED, "old ones are forgotten but for the last few");
}

#[test]
fn a_start_that_the_account_refuses_is_remembered_with_its_key() {
    let mut pile = Pile::new();
    pile.tell(&start_key("k")).unwrap();
    assert_eq!(pile.charger.start_outcome(&session(1)), StartOutcome::Pending);
    pile.tell(&refused(1)).unwrap();
    for number in 2..20 {
        pile.tell(&start_key(&format!("k{number}"))).unwrap();
        pile.tell(&refused(number)).unwrap();
    }
    pile.tell(&start_key("good")).unwrap();
    pile.tell(&authorised(20)).unwrap();
    assert_eq!(pile.charger.start_outcome(&session(20)), StartOutcome::Accepted);
    // Long gone from the sessions that are remembered.
    assert!(pile.charger.closed_session(&session(1)).is_none());
    assert_eq!(pile.kinds(&start_key("k")), [""; 0], "no second session");
    assert_eq!(pile.charger.start_outcome(&session(1)), StartOutcome::Refused("insufficient_funds"));
    let (request, refusal) = pile.charger.refused_request(&session(1)).unwrap();
    assert_eq!((request.key.as_str(), refusal.city.as_str()), ("k", "Beijing"));
}

#[test]
fn a_drivers_request_makes_one_session() {
    let mut pile = Pile::new();
    pile.tell(&start(5)).unwrap();
    let mut other = start(5);
    if let ChargerCommand::RequestStart { account, .. } = &mut other {
        *account = "a2".parse().unwrap();
    }
    assert_eq!(code(pile.tell(&other)), "request_reused");
    pile.tell(&refused(1)).unwrap();
    assert_eq!(code(pile.tell(&other)), "request_reused");
    assert_eq!(pile.kinds(&start(4)), [""; 0], "older than one that was taken");
    assert_eq!(pile.kinds(&start(6)), ["requested"]);
}

#[test]
fn a_refused_authorisation_ends_the_session_at_once() {
    let mut pile = Pile::new();
    pile.tell(&start(1)).unwrap();
    assert_eq!(pile.kinds(&refused(1)), ["refused"]);
    let closed = pile.charger.closed_session(&session(1)).unwrap();
    assert_eq!((closed.state, closed.code.as_deref()), (SessionState::Refused, Some("insufficient_funds")));
    assert_eq!(pile.kinds(&refused(1)), [""; 0]);
    assert_eq!(pile.kinds(&authorised(1)), [""; 0]);
    assert_eq!(code(pile.tell(&refused(2))), "unknown_session");
    let mut pile = Pile::charging();
    assert_eq!(code(pile.tell(&refused(1))), "contradiction");
}

#[test]
fn a_stop_without_a_start_ends_with_zero_energy() {
    for asks_first in [false, true] {
        let mut pile = Pile::new();
        pile.tell(&start(1)).unwrap();
        if asks_first {
            pile.tell(&authorised(1)).unwrap();
        }
        assert_eq!(pile.kinds(&stopped(1, 4_321)), ["stopped"]);
        assert_eq!(pile.charger.needs_settlement().unwrap().metered(), Some(WattHours(0)));
        assert_eq!(pile.kinds(&stopped(1, 4_321)), [""; 0]);
        let events = pile.tell(&settled(1, 0)).unwrap();
        let [ChargerEvent::SessionSettled { record, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((record.meter_start, record.meter_stop), (WattHours(4_321), WattHours(4_321)));
    }
}

#[test]
fn a_session_stopped_before_it_was_sent_is_settled_or_refused() {
    let mut pile = Pile::new();
    pile.tell(&start(1)).unwrap();
    assert_eq!(pile.kinds(&stop(1, Origin::Node)), ["stopped"]);
    assert_eq!(pile.kinds(&authorised(1)), [""; 0], "the settlement releases the hold");
    assert_eq!(pile.kinds(&settled(1, 0)), ["settled"]);
    assert!(pile.charger.commands.is_empty());
    pile.tell(&start(2)).unwrap();
    pile.tell(&stop(2, Origin::Node)).unwrap();
    assert_eq!(pile.kinds(&refused(2)), ["refused"], "nothing was held: nothing to settle");
}

#[test]
fn the_time_of_a_session_is_what_its_gateway_told() {
    let mut pile = Pile::new();
    assert_eq!(pile.kinds(&flow(1, Flow::Full, 5)), [""; 0], "of a session that nobody knows");
    pile.tell(&start(1)).unwrap();
    pile.tell(&authorised(1)).unwrap();
    assert_eq!(pile.kinds(&flow(1, Flow::Full, 11)), [""; 0], "before it began");
    pile.tell(&started(1, 1_000)).unwrap(); // at 12 ms
    assert_eq!(pile.kinds(&flow(1, Flow::Charging, 20)), [""; 0], "it charges from its start on");
    assert_eq!(pile.kinds(&flow(1, Flow::Paused, 60_012)), ["flow"]);
    assert_eq!(pile.kinds(&flow(1, Flow::Paused, 60_012)), [""; 0]);
    assert_eq!(pile.kinds(&flow(1, Flow::Charging, 100_012)), ["flow"]);
    assert_eq!(pile.kinds(&flow(1, Flow::Full, 160_012)), ["flow"]);
    let clock = pile.charger.charging().and_then(|session| session.clock).unwrap();
    let time = clock.until(Timestamp(190_012));
    assert_eq!(time, MeteredTime { charging_ms: 120_000, idle_ms: 30_000 });
    pile.tell(&stopped(1, 2_000)).unwrap();
    assert_eq!(pile.kinds(&flow(1, Flow::Charging, 200_000)), [""; 0], "after its end");
    let events = pile.tell(&settled_for(1, 1_000, time)).unwrap();
    let [ChargerEvent::SessionSettled { record, .. }] = &events[..] else { panic!("{events:?}") };
    // Two minutes at 0.06 and half of one at 0.60.
    assert_eq!((record.time, record.fees_amount), (time, Money(4_200)));
    assert_eq!(record.total, Money(7_000 + 4_000 + 4_200));
}

#[test]
fn registers_and_settlements_must_fit_the_session() {
    let mut pile = Pile::charging();
    assert_eq!(pile.kinds(&started(1, 1_000)), [""; 0]);
    assert_eq!(code(pile.tell(&started(1, 1_001))), "contradiction");
    assert_eq!(code(pile.tell(&stopped(1, 999))), "meter_went_back");
    assert_eq!(code(pile.tell(&stopped(1, -1))), "meter_out_of_range");
    assert_eq!(code(pile.tell(&stopped(1, i64::MAX))), "meter_out_of_range");
    assert_eq!(code(pile.tell(&settled(1, 500))), "contradiction");
    pile.tell(&stopped(1, 1_500)).unwrap();
    assert_eq!(code(pile.tell(&stopped(1, 1_501))), "contradiction");
    for energy in [0, 499, 501] {
        assert_eq!(code(pile.tell(&settled(1, energy))), "contradiction");
    }
    let breaks: [fn(&mut Settled); 5] = [
        |settled| settled.meter = WattHours(501),
        |settled| settled.by_period[0] = WattHours(1),
        |settled| settled.overshoot_wh = WattHours(1),
        |settled| settled.overshoot = Money(1),
        |settled| settled.cumulative.energy = Money(0),
    ];
    for spoil in breaks {
        let mut unbalanced = settled(1, 500);
        if let ChargerCommand::Settled { settled, .. } = &mut unbalanced {
            spoil(settled);
        }
        assert_eq!(code(pile.tell(&unbalanced)), "contradiction");
    }
    assert_eq!(pile.kinds(&settled(1, 500)), ["settled"]);
}

#[test]
fn an_end_that_cannot_be_used_closes_at_the_last_reading() {
    let absurd = |register, most| {
        let mut command = stopped(1, register);
        if let ChargerCommand::GatewayStopped { most: bound, .. } = &mut command {
            *bound = WattHours(most);
        }
        command
    };
    let mut pile = Pile::charging();
    assert_eq!(code(pile.tell(&absurd(51_000, 49_999))), "meter_implausible");
    assert_eq!(pile.clone_told(&absurd(51_000, 50_000)), ["stopped"]);
    assert_eq!(pile.kinds(&closed(1, 2_500, 3)), ["stopped"]);
    let session_now = pile.charger.needs_settlement().unwrap();
    assert_eq!((session_now.metered(), session_now.meter_refused), (Some(WattHours(2_500)), Some(WattHours(3))));
    assert_eq!(pile.kinds(&closed(1, 2_600, 3)), [""; 0]);
    assert_eq!(pile.kinds(&stopped(1, 3)), [""; 0], "said again, and known");
    assert_eq!(code(pile.tell(&stopped(1, 4))), "contradiction");
    let events = pile.tell(&settled(1, 2_500)).unwrap();
    let [ChargerEvent::SessionSettled { record, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((record.energy, record.meter_stop), (WattHours(2_500), WattHours(3_500)));
    assert_eq!(record.stop_reason, StopReason::MeterFault);
    assert_eq!(pile.kinds(&start(2)), ["requested"], "the charger is free again");
    // One that never began ends with nothing.
    assert_eq!(pile.kinds(&closed(2, 700, -1)), ["stopped"]);
    assert_eq!(pile.charger.needs_settlement().unwrap().metered(), Some(WattHours(0)));
    assert_eq!(code(pile.tell(&closed(3, 0, 0))), "unknown_session");
}

#[test]
fn old_words_are_known_to_be_old() {
    let mut pile = Pile::new();
    for number in 1..=40_u64 {
        let register = 1_000 * i64::try_from(number).unwrap();
        pile.tell(&start(number)).unwrap();
        pile.tell(&authorised(number)).unwrap();
        pile.tell(&started(number, register)).unwrap();
        pile.tell(&stopped(number, register + 10)).unwrap();
        pile.tell(&settled(number, 10)).unwrap();
    }
    assert_eq!(pile.charger.recent.len(), SESSIONS_REMEMBERED);
    assert_eq!(pile.charger.commands.len(), COMMANDS_REMEMBERED);
    for late in [stopped(2, 2_010), settled(2, 10), authorised(2), result(2, CommandOutcome::Done), start(2)] {
        assert_eq!(pile.kinds(&late), [""; 0], "{late:?}");
    }
    assert_eq!(code(pile.tell(&started(2, 2_000))), "unwanted");
    assert_eq!(pile.kinds(&started(33, 33_000)), [""; 0]);
}

#[test]
fn events_that_do_not_follow_change_nothing() {
    let mut pile = Pile::charging();
    pile.tell(&stopped(1, 1_500)).unwrap();
    pile.tell(&settled(1, 500)).unwrap();
    let before = pile.charger.clone();
    // Its own request would begin another session: a log that repeats is caught by its frames, not here.
    for event in &pile.log[1..] {
        assert!(pile.charger.apply(event).is_err(), "{event:?}");
        assert_eq!(pile.charger, before);
    }
}
