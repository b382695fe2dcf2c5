//! Heartbeats, grants, and a gateway that nobody answers.

use super::*;

#[test]
fn beats_are_busy_while_something_charges() {
    let mut rig = Rig::live();
    let count = |rig: &mut Rig| rig.take(Stream::Beat).len();
    count(&mut rig);
    rig.to(4_999);
    assert_eq!(count(&mut rig), 0);
    rig.to(5_000);
    assert_eq!(count(&mut rig), 1);
    rig.charge(1);
    rig.to(5_249);
    assert_eq!(count(&mut rig), 0);
    rig.to(5_250);
    let beat = rig.beat();
    assert_eq!((beat.mono, beat.chargers.len(), beat.epoch_seen), (Mono(5_250), 1, 1));
    assert_eq!(beat.chargers[0].demand, Watts(60_000));
    rig.to(6_249);
    assert_eq!(count(&mut rig), 0);
    rig.to(6_250);
    assert_eq!(count(&mut rig), 1);
}

#[test]
fn nobody_answers_for_three_seconds() {
    let mut rig = Rig::live();
    rig.to(5_000);
    rig.to(7_999);
    assert!(!rig.core.is_local());
    rig.to(8_000);
    assert!(rig.core.is_local() && rig.effects().contains(&Effect::ModeChanged { local: true }));
    rig.samples(1, 200);
    rig.drain();
    assert_eq!(rig.take(Stream::Replay).len(), 1, "what is made now does not crowd the live streams");
    rig.ack(Stream::Slow, 0);
    assert!(!rig.core.is_local());
    rig.core.on_disconnected(at(8_000));
    rig.to(11_000);
    assert!(rig.core.is_local());
    assert_eq!(rig.core.stats().local_entries, 2);
}

fn grant(rig: &mut Rig, answers_nonce: u64, seq: u64, w: i64) {
    let entries = vec![GrantEntry { child: 1, w: Watts(w), allowance: None }];
    let grants = Grants { answers_nonce, boot: rig.core.boot(), epoch: 1, seq, lease_ms: 30_000, entries };
    rig.down(1, &Down::Grants(grants));
}

#[test]
fn a_grant_is_told_to_the_hardware_and_ends_on_the_gateways_clock() {
    let mut rig = Rig::live();
    rig.charge(1);
    rig.to(5_000);
    let nonce = rig.beat().nonce;
    rig.to(5_400);
    rig.effects();
    grant(&mut rig, nonce, 1, 60_000);
    let limit = |w| Effect::SetLimit { child: 1, watts: Watts(w), allowance: None };
    assert_eq!(rig.effects(), [limit(60_000)]);
    assert_eq!(rig.core.next_deadline().map(|d| d <= Mono(35_000)), Some(true));
    rig.to(6_000);
    let beat = rig.beat();
    assert_eq!(
        (beat.chargers[0].granted, beat.chargers[0].lease_left_ms, beat.applied_grant_seq),
        (Watts(60_000), 29_000, 1)
    );
    grant(&mut rig, 12_345, 2, 20_000);
    assert_eq!(rig.effects(), [limit(20_000)], "a decrease that answers no beat is obeyed");
    grant(&mut rig, 12_345, 3, 90_000);
    assert_eq!(rig.effects(), []);
    rig.to(34_999);
    rig.effects();
    rig.to(35_000);
    assert!(rig.effects().contains(&limit(5_000)));
    assert_eq!(rig.core.stats().leases_expired, 1);
}
