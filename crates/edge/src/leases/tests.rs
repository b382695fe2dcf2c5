use super::*;

const BOOT: u32 = 3;
const WAIT: u64 = 30_000;

fn leases() -> Leases {
    let config = ChildConfig { fallback: Watts(5_000), rated: Watts(120_000) };
    Leases::new(BOOT, &BTreeMap::from([(1, config), (2, config)]))
}

fn session() -> SessionId {
    "main/c1.1".parse().unwrap()
}

fn grants(nonce: u64, epoch: u64, seq: u64, entries: &[(u16, i64)]) -> Grants {
    let entry = |(child, w): &(u16, i64)| GrantEntry { child: *child, w: Watts(*w), allowance: None };
    Grants {
        answers_nonce: nonce,
        boot: BOOT,
        epoch,
        seq,
        lease_ms: 30_000,
        entries: entries.iter().map(entry).collect(),
    }
}

fn limit(leases: &Leases, now: u64, child: u16) -> i64 {
    leases.in_force(Mono(now), child).0.0
}

/// Charger 1 with an open session, a beat at 1,000 and a grant that answers it.
fn charging(w: i64) -> Leases {
    let mut leases = leases();
    leases.on_session_started(Mono(500), 1, &session(), WattHours(100), None, WAIT);
    leases.on_charging(1, true);
    leases.on_beat(Mono(1_000), 7);
    assert_eq!(leases.on_grants(Mono(1_200), &grants(7, 4, 1, &[(1, w)])), Verdict::Applied);
    leases
}

#[test]
fn a_lease_counts_from_the_beat_and_ends_in_the_fallback() {
    let mut leases = charging(60_000);
    assert_eq!(leases.in_force(Mono(1_200), 1), (Watts(60_000), 29_800));
    assert_eq!(leases.deadline(), Some(Mono(31_000)));
    assert_eq!(limit(&leases, 30_999, 1), 60_000);
    assert_eq!(limit(&leases, 31_000, 1), 5_000);
    leases.refresh(Mono(31_000));
    assert_eq!((leases.expired(), leases.deadline()), (1, None));
}

#[test]
fn the_hardware_is_told_every_change_once() {
    let mut leases = leases();
    let zero = |child| Limit { child, watts: Watts(0), allowance: None };
    assert_eq!(leases.refresh(Mono(0)), [zero(1), zero(2)]);
    assert_eq!(leases.refresh(Mono(1)), []);
    leases.on_beat(Mono(10), 1);
    leases.on_grants(Mono(20), &grants(1, 1, 1, &[(2, 11_000)]));
    assert_eq!(leases.refresh(Mono(20)), [Limit { watts: Watts(11_000), ..zero(2) }]);
    assert_eq!(leases.refresh(Mono(30_010)), [zero(2)], "nothing charges: nothing, not the fallback");
}

#[test]
fn a_session_without_a_grant_waits_at_nothing_and_then_takes_the_fallback() {
    let mut leases = leases();
    leases.on_session_started(Mono(500), 1, &session(), WattHours(100), None, WAIT);
    assert_eq!(limit(&leases, 500, 1), 0);
    assert_eq!(leases.deadline(), Some(Mono(30_500)));
    assert_eq!(limit(&leases, 30_500, 1), 5_000);
    leases.refresh(Mono(30_500));
    assert_eq!(leases.deadline(), None);
    leases.on_session_stopped(1, &session());
    assert_eq!(limit(&leases, 30_501, 1), 0);
}

#[test]
fn former_owners_and_old_messages_are_dropped() {
    let mut leases = charging(60_000);
    assert_eq!(leases.on_grants(Mono(1_300), &grants(7, 3, 99, &[(1, 10)])), Verdict::LowerEpoch);
    assert_eq!(leases.on_grants(Mono(1_300), &grants(7, 4, 1, &[(1, 10)])), Verdict::Stale);
    assert_eq!(limit(&leases, 1_300, 1), 60_000);
    assert_eq!(leases.applied_seq(), 1);
    assert_eq!(leases.on_grants(Mono(1_300), &grants(7, 5, 1, &[(1, 40_000)])), Verdict::Applied);
    assert_eq!((leases.epoch_seen(), leases.applied_seq()), (5, 1));
    leases.see_epoch(6);
    assert_eq!(leases.applied_seq(), 0, "nothing was taken under the newest epoch");
}

#[test]
fn a_newer_decrease_is_obeyed_whatever_it_answers() {
    let mut leases = charging(60_000);
    assert_eq!(leases.on_grants(Mono(2_000), &grants(99, 4, 2, &[(1, 20_000)])), Verdict::DecreasesOnly);
    assert_eq!(leases.in_force(Mono(2_000), 1), (Watts(20_000), 29_000), "the lease keeps its end");
    assert_eq!(leases.on_grants(Mono(2_000), &grants(99, 4, 3, &[(1, 70_000)])), Verdict::DecreasesOnly);
    assert_eq!(limit(&leases, 2_000, 1), 20_000, "an increase that answers nothing is not");
    let other_boot = Grants { boot: BOOT - 1, ..grants(7, 4, 4, &[(1, 50_000)]) };
    assert_eq!(leases.on_grants(Mono(2_000), &other_boot), Verdict::DecreasesOnly);
    assert_eq!(limit(&leases, 2_000, 1), 20_000);
    // An answer that came after its own end grants nothing more either.
    assert_eq!(leases.on_grants(Mono(31_000), &grants(7, 4, 5, &[(1, 50_000)])), Verdict::DecreasesOnly);
    assert_eq!(limit(&leases, 31_000, 1), 5_000);
    assert_eq!(leases.on_grants(Mono(31_000), &grants(99, 4, 6, &[(1, 1_000)])), Verdict::DecreasesOnly);
    assert_eq!(limit(&leases, 31_000, 1), 1_000, "also below the fallback");
}

#[test]
fn a_grant_never_exceeds_the_rating_and_unlisted_chargers_keep_theirs() {
    let mut leases = charging(900_000);
    assert_eq!(limit(&leases, 1_300, 1), 120_000);
    leases.on_grants(Mono(1_300), &grants(7, 4, 2, &[(2, 9_000), (77, 1)]));
    assert_eq!((limit(&leases, 1_300, 1), limit(&leases, 1_300, 2)), (120_000, 9_000));
}

#[test]
fn an_allowance_stops_its_session_once() {
    let mut leases = leases();
    leases.on_start_ordered(1, &session(), WattHours(500));
    leases.on_session_started(Mono(500), 1, &session(), WattHours(1_000), None, WAIT);
    assert_eq!(leases.on_register(1, WattHours(1_499)), None);
    leases.on_beat(Mono(1_000), 7);
    let mut raise = grants(7, 4, 1, &[(1, 9_000)]);
    raise.entries[0].allowance = Some(WattHours(700));
    leases.on_grants(Mono(1_100), &raise);
    assert_eq!(leases.on_register(1, WattHours(1_699)), None);
    assert_eq!(leases.on_register(1, WattHours(1_700)), Some(session()));
    assert_eq!(leases.on_register(1, WattHours(1_800)), None);
    assert_eq!(leases.on_register(2, WattHours(1_800)), None);
}

#[test]
fn an_allowance_for_the_session_before_is_not_taken() {
    let mut leases = leases();
    leases.on_beat(Mono(400), 7);
    leases.on_start_ordered(1, &session(), WattHours(500));
    leases.on_session_started(Mono(500), 1, &session(), WattHours(1_000), None, WAIT);
    let mut stale = grants(7, 4, 1, &[(1, 9_000)]);
    stale.entries[0].allowance = Some(WattHours(1 << 40));
    leases.on_grants(Mono(600), &stale);
    assert_eq!(limit(&leases, 600, 1), 9_000);
    assert_eq!(leases.on_register(1, WattHours(1_500)), Some(session()));
}

#[test]
fn beats_are_forgotten_in_time() {
    let mut leases = leases();
    for n in 0..3_000 {
        leases.on_beat(Mono(n * 1_000), n);
    }
    assert!(leases.beats.len() <= 601);
}
