//! Billing against a real account: what it asks for must be taken.

use super::*;
use chargeplane_domain::account::{self, AccountKind, Holder};
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::session::{Origin, SessionState};
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
    let settle = after.settle(minute(41), WattHours(51_000), minute(41)).expect("free");
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
    commands.push(billing.settle(minute(51), WattHours(45_000), minute(51)).expect("free"));
    let settled = billed(&commands);
    assert_eq!(settled.by_period, [20_000, 25_000, 0, 0].map(WattHours));
    assert_eq!(settled.closed.map(|closed| closed.billed), Some(Money(650_000)));
}
