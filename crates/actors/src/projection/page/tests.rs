use super::*;
use crate::entry::{EncodedEntries, Entry};
use chargeplane_cluster::frame::FrameHash;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SHARD: ShardId = ShardId { family: Family::Account, index: 1 };

/// As a later program, or a fault, might write a debit.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Other {
    Debited { session: String, operator: String, energy: i64 },
    Unheard { of: u32 },
}

#[derive(Debug, Clone)]
enum Written {
    Known(AccountEvent),
    Other(Other),
}

fn debit(session: &str, [energy, service, fees]: [i64; 3], at: i64) -> AccountEvent {
    let (energy, service, fees) = (Money(energy), Money(service), Money(fees));
    AccountEvent::Debited {
        session: session.parse().expect("an id"),
        operator: "op".parse().expect("an id"),
        currency: Currency::new("CNY").expect("a currency"),
        sequence: 7,
        meter: WattHours(at),
        by_period: [WattHours(1), WattHours(-1), WattHours(i64::MAX), WattHours(0)],
        time: MeteredTime { charging_ms: at.max(0), idle_ms: 0 },
        cumulative: Priced { energy, service, fees },
        energy,
        service,
        fees,
        hold: Money(i64::MIN),
        at: Timestamp(at),
    }
}

fn events() -> impl Strategy<Value = Vec<(String, Written)>> {
    let amount = prop_oneof![Just(0i64), Just(i64::MAX), -5_000i64..5_000];
    let debit = (0u8..3, proptest::array::uniform3(amount), any::<i64>())
        .prop_map(|(session, amounts, at)| Written::Known(debit(&format!("acme/c1.{session}"), amounts, at)));
    let top_up = (any::<i64>(), "[a-z]{1,9}").prop_map(|(amount, key)| {
        let (currency, amount) = (Currency::new("CNY").expect("a currency"), Money(amount));
        Written::Known(AccountEvent::ToppedUp { key, currency, amount, at: Timestamp(3) })
    });
    let frozen = Just(AccountEvent::Frozen { key: "k".into(), reason: "r".into(), at: Timestamp(4) });
    let short = Other::Debited { session: "c1.1".into(), operator: "op".into(), energy: 5 };
    let other = prop_oneof![Just(short), Just(Other::Unheard { of: 1 })].prop_map(Written::Other);
    let event = prop_oneof![6 => debit, 2 => top_up, 1 => frozen.prop_map(Written::Known), 1 => other];
    let key = prop_oneof![Just("account:main/a1"), Just("account:acme/a2"), Just("account:a b"), Just("station:s1")];
    proptest::collection::vec((key.prop_map(str::to_owned), event), 0..40)
}

fn frame(lsn: u64, events: &[(String, Written)]) -> Frame {
    let mut entries = EncodedEntries::default();
    for (key, event) in events {
        let key = key.clone();
        match event {
            Written::Known(event) => entries.push(&Entry::Entity { key, event }),
            Written::Other(event) => entries.push(&Entry::Entity { key, event }),
        }
        .expect("encodes");
    }
    Frame::following(SHARD, 1, lsn - 1, FrameHash::genesis(SHARD), Timestamp(1), entries.into_payload())
}

/// Every event decoded whole, and its line by the domain's own words.
fn naive(lsn: u64, events: &[(String, Written)]) -> Vec<LedgerEntry> {
    let line = |(index, (key, event)): (u32, &(String, Written))| {
        let AccountKey(account) = key.parse().ok()?;
        let Written::Known(event) = event else { return None };
        let line = account::statement_entries(event).pop()?;
        Some(LedgerEntry {
            shard: SHARD,
            lsn,
            index,
            account,
            kind: line.kind.code().into(),
            amount: line.amount,
            balance: Money::ZERO,
            session: line.session,
            key: line.key,
            at: line.at,
        })
    };
    (0u32..).zip(events).filter_map(line).collect()
}

/// What the events of accounts earned an operator, by kind.
fn naive_sums(events: &[(String, Written)]) -> BTreeMap<String, i128> {
    let mut sums = BTreeMap::<String, i128>::new();
    for (key, event) in events {
        let (Ok(AccountKey(account)), Written::Known(event)) = (key.parse(), event) else { continue };
        account::operator_lines(&account, event, |_, kind, amount| {
            *sums.entry(kind.to_owned()).or_default() += i128::from(amount.0);
        });
    }
    sums.retain(|_, sum| *sum != 0);
    sums
}

proptest! {
    #[test]
    fn lines_are_those_of_events_that_are_read_whole(first in events(), second in events()) {
        let frames = [frame(5, &first), frame(6, &second)];
        let (tills, lines): (Vec<_>, Vec<_>) =
            lines_of(&frames).expect("reads").into_iter().partition(|line| line.account.is_till());
        prop_assert_eq!(lines, [naive(5, &first), naive(6, &second)].concat());
        for (lsn, events) in [(5, &first), (6, &second)] {
            let ours = tills.iter().filter(|line| line.lsn == lsn);
            let mut sums = BTreeMap::<String, i128>::new();
            for line in ours {
                *sums.entry(line.kind.to_string()).or_default() += i128::from(line.amount.0);
            }
            sums.retain(|_, sum| *sum != 0);
            prop_assert_eq!(sums, naive_sums(events));
        }
    }
}

#[test]
fn an_id_that_is_none_is_no_debit() {
    let good = debit("c1.1", [5, 0, 0], 1);
    let payload = frame(1, &[("account:a1".to_owned(), Written::Known(good))]).payload;
    let at = payload.windows(9).position(|window| window == b"main/c1.1").expect("the session's id");
    let mut bytes = payload.to_vec();
    bytes[at] = b' ';
    let spoilt = Frame::following(SHARD, 1, 0, FrameHash::genesis(SHARD), Timestamp(1), bytes.into());
    assert_eq!(lines_of(&[spoilt]), Ok(vec![]));
}

#[test]
fn settlements_are_told_by_their_names() {
    let charger = |event: ChargerEvent| {
        let entry = Entry::Entity { key: "charger:c1".to_owned(), event: StationFamilyEvent::Charger(event) };
        let mut entries = EncodedEntries::default();
        entries.push(&entry).expect("encodes");
        entries.into_payload()
    };
    let refused = charger(ChargerEvent::SessionRefused {
        session: "c1.1".parse().expect("an id"),
        code: "session_settled".to_owned(),
        at: Timestamp(1),
    });
    let read = entry::read(&refused).expect("reads");
    let [StoredEntry::Entity { event, .. }] = read[..] else { panic!("one entry") };
    assert!(!settles(event));
    assert_eq!(event.variant().map(|(family, _)| family), Some("charger"));
}
