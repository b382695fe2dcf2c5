//! Billing against a real account: what it asks for must be taken.

use super::*;
use chargeplane_domain::account::{self, AccountKind, Holder};
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::session::{Flow, Origin, SessionState};
use chargeplane_domain::tariff::fees::Fees;
use chargeplane_domain::tariff::{Price, Slots, zone};
use chargeplane_domain::units::Currency;

/// Half past midnight changes from the first period to the second.
fn tariff() -> Tariff {
    let mut slots = [1; 48];
    slots[0] = 0;
    let price = |energy| Price { energy: Money(energy), service: Money(0) };
    Tariff {
        currency: Currency::new("CNY").expect("a code"),
        prices: [price(20_000), price(10_000), price(5_000), price(5_000)],
        slots: Slots::new(slots).expect("periods"),
        fees: Fees::NONE,
    }
}

fn session() -> ChargingSession {
    ChargingSession {
        id: "c1.1".parse().expect("an id"),
        account: "a1".parse().expect("an id"),
        connector: ConnectorNo(1),
        operator: "op1".parse().expect("an id"),
        tariff: tariff(),
        split: None,
        time_zone: "UTC".to_owned(),
        city: String::new(),
        station: "s1".parse().expect("an id"),
        origin: Origin::Driver { request: 1 },
        requested_at: Timestamp(0),
        state: SessionState::Charging,
        allowance: Some(WattHours(50_000)),
        meter_start: Some(WattHours(0)),
        started_at: Some(Timestamp(0)),
        clock: Some(SessionClock::begin(Timestamp(0))),
        meter_stop: None,
        meter_refused: None,
        stopped_at: None,
        stop_reason: None,
    }
}

fn billing(now: Timestamp) -> Billing {
    let zone = zone::parse("UTC").ok();
    Billing::new(&session(), zone, Some(Watts(120_000)), &NodeConfig::new("n1"), now)
}

/// What the account has billed after `command`.
fn billed(commands: &[AccountCommand]) -> SessionAccount {
    let (id, mut state) = ("a1".parse().expect("an id"), None);
    let currency = tariff().currency;
    let kind = AccountKind::Credit { limit: Money(10_000_000) };
    let open = AccountCommand::Open { key: "k".to_owned(), currency, kind, holder: Holder::Fleet, at: Timestamp(0) };
    let hold = AccountCommand::Authorise {
        session: session().id,
        operator: session().operator,
        tariff: tariff(),
        split: None,
        want: Money(500_000),
        reserve: Money(0),
        at: Timestamp(0),
    };
    for command in [open, hold].iter().chain(commands) {
        let decision = account::decide(state.as_ref(), &id, command);
        let event = decision.event.unwrap_or_else(|| panic!("{command:?}: {:?}", decision.answer));
        account::apply(&mut state, &id, &event).expect("applies");
    }
    state.and_then(|account| account.position(&session().id).cloned()).expect("held")
}

#[tokio::test]
async fn a_reading_before_the_account_has_answered_is_split_where_the_period_changed() {
    let minute = |n: i64| Timestamp(n * 60_000);
    let mut before = billing(minute(0));
    before.on_authorised(Money(500_000));
    before.on_reading(minute(0), minute(20), WattHours(30_000), minute(20)).expect("plausible");
    let debit = before.debit_if_due(Duration::ZERO, WattHours(1), minute(20)).expect("due");
    let position = billed(std::slice::from_ref(&debit));
    // A restart; the next period has begun, and a reading is there before the account's answer.
    let mut after = billing(minute(35));
    after.on_reading(minute(0), minute(40), WattHours(50_000), minute(40)).expect("plausible");
    after.on_position(&position);
    let settle = after.settle(None, minute(41), WattHours(51_000), minute(41)).expect("free");
    let settled = billed(&[debit, settle]);
    assert_eq!(settled.by_period, [30_000, 21_000, 0, 0].map(WattHours));
    assert!(settled.closed.is_some());
}

#[tokio::test]
async fn a_settlement_below_what_was_billed_lowers_the_last_period_first() {
    let minute = |n: i64| Timestamp(n * 60_000);
    let mut billing = billing(minute(0));
    billing.on_authorised(Money(500_000));
    let mut commands = Vec::new();
    for (at, energy) in [(20, 20_000), (50, 60_000)] {
        billing.on_reading(minute(0), minute(at), WattHours(energy), minute(at)).expect("plausible");
        let debit = billing.debit_if_due(Duration::ZERO, WattHours(1), minute(at)).expect("due");
        commands.push(debit);
        billing.end();
        billing.on_position(&billed(&commands));
    }
    let refused = billing.on_reading(minute(0), minute(51), WattHours(110_000), minute(51));
    assert!(refused.is_err() && billing.last_reading() == WattHours(60_000));
    commands.push(billing.settle(None, minute(51), WattHours(45_000), minute(51)).expect("free"));
    let settled = billed(&commands);
    assert_eq!(settled.by_period, [20_000, 25_000, 0, 0].map(WattHours));
    assert_eq!(settled.closed.map(|closed| closed.billed), Some(Money(650_000)));
}

/// The session under a tariff with fees, and its money.
fn billing_for(fees: Fees, now: Timestamp) -> Billing {
    let mut session = session();
    session.tariff.fees = fees;
    Billing::new(&session, zone::parse("UTC").ok(), Some(Watts(120_000)), &NodeConfig::new("n1"), now)
}

fn answered(command: Option<AccountCommand>, hold_left: i64, available: i64) -> DebitAnswer {
    let Some(AccountCommand::Debit { sequence, meter, by_period, time, cumulative, .. }) = command else {
        panic!("not due: {command:?}")
    };
    let (hold_left, available) = (Money(hold_left), Money(available));
    DebitAnswer { sequence, meter, by_period, time, cumulative, hold_left, available }
}

#[tokio::test]
async fn time_is_billed_while_nothing_flows_and_the_end_has_the_last_word() {
    let minute = |n: i64| Timestamp(n * 60_000);
    let fees = Fees { per_minute: Money(600), idle_per_minute: Money(6_000), ..Fees::NONE };
    let mut billing = billing_for(fees, minute(0));
    billing.on_authorised(Money(500_000));
    let mut clock = SessionClock::begin(minute(0));
    billing.on_reading(minute(0), minute(10), WattHours(5_000), minute(10)).expect("plausible");
    billing.count_time(&clock, minute(10));
    let first = answered(billing.debit_if_due(Duration::ZERO, WattHours(1), minute(10)), 400_000, 0);
    assert_eq!((first.time.charging_ms, first.cumulative.fees), (600_000, Money(6_000)));
    billing.end();
    billing.on_debited(&first);
    assert!(billing.debit_if_due(Duration::ZERO, WattHours(1), minute(10)).is_none());
    // The word that it was paused from the eighth minute on comes late; then it is full.
    clock.turn(Flow::Paused, minute(8));
    clock.turn(Flow::Full, minute(12));
    billing.on_reading(minute(0), minute(13), WattHours(5_000), minute(13)).expect("plausible");
    billing.count_time(&clock, minute(13));
    let second = answered(billing.debit_if_due(Duration::ZERO, WattHours(1), minute(13)), 400_000, 0);
    assert_eq!((second.time.charging_ms, second.time.idle_ms), (600_000, 60_000), "never less");
    billing.end();
    billing.on_debited(&second);
    let end = billing.settle(Some(&clock), minute(14), WattHours(5_000), minute(14)).expect("free");
    let AccountCommand::Settle { time, cumulative, .. } = end else { panic!("{end:?}") };
    assert_eq!((time.charging_ms, time.idle_ms, cumulative.fees), (480_000, 120_000, Money(4_800 + 12_000)));
}

#[tokio::test]
async fn a_clock_ahead_counts_no_more_than_passed_at_the_node() {
    let minute = |n: i64| Timestamp(n * 60_000);
    let fees = Fees { per_minute: Money(600), ..Fees::NONE };
    let mut billing = billing_for(fees, minute(0));
    let clock = SessionClock::begin(minute(0));
    let end = billing.settle(Some(&clock), minute(500), WattHours(10), minute(3));
    let Some(AccountCommand::Settle { time, .. }) = end else { panic!("{end:?}") };
    assert_eq!(time.charging_ms, 180_000);
}

#[tokio::test]
async fn holds_cover_what_fees_may_come_and_never_more_than_the_session_may_cost() {
    let config = NodeConfig::new("n1");
    let plain = billing(Timestamp(0));
    let fees = Fees { flat: Money(5_000), per_minute: Money(6_000), min: Money(900_000), ..Fees::NONE };
    let dear = billing_for(fees, Timestamp(0));
    let stop_ms = i64::try_from(config.stop_time.as_millis()).expect("short");
    assert_eq!(dear.reserve.0, plain.reserve.0 + 6_000 * stop_ms / 60_000 + 1);
    assert_eq!(dear.hold_target, Money(900_000), "at least the least price");
    let without = billing_for(Fees { min: Money(0), ..fees }, Timestamp(0));
    assert_eq!(without.hold_target.0, plain.hold_target.0 + 5_000 + 6_000 * (HOLD_MS + stop_ms) / 60_000 + 1);
    let bounded = billing_for(Fees { min: Money(0), max: Some(Money(7_000)), ..fees }, Timestamp(0));
    assert_eq!(bounded.hold_target, Money(7_000));
}

#[tokio::test]
async fn a_session_is_stopped_when_its_time_uses_up_the_money_and_not_when_it_can_cost_no_more() {
    let minute = |n: i64| Timestamp(n * 60_000);
    let run = |max: Option<Money>, hold: i64| {
        let fees = Fees { idle_per_minute: Money(6_000), max, ..Fees::NONE };
        let mut billing = billing_for(fees, minute(0));
        billing.on_authorised(Money(100_000));
        let mut clock = SessionClock::begin(minute(0));
        clock.turn(Flow::Full, minute(1));
        billing.on_reading(minute(0), minute(1), WattHours(1_000), minute(1)).expect("plausible");
        billing.count_time(&clock, minute(1));
        let answer = answered(billing.debit_if_due(Duration::ZERO, WattHours(1), minute(1)), hold, 0);
        billing.end();
        let allowance = billing.on_debited(&answer).expect("one");
        let early = billing.is_spent();
        billing.on_reading(minute(0), minute(3), WattHours(1_000), minute(3)).expect("plausible");
        billing.count_time(&clock, minute(3));
        (early, billing.is_spent(), allowance)
    };
    // Two idle minutes cost 12,000.
    let reserve = billing(minute(0)).reserve.0;
    assert_eq!((run(None, 40_000 + reserve).0, run(None, 40_000 + reserve).1), (false, false));
    assert_eq!((run(None, 12_000 + reserve).0, run(None, 12_000 + reserve).1), (false, true));
    // 20,000 are paid for energy: 5,000 more is all that it may cost.
    let (early, late, allowance) = run(Some(Money(25_000)), 5_000);
    assert_eq!((early, late, allowance), (false, false, MAX_METER));
}
