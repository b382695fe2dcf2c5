//! Numbers, bursts, a full ring, and input that cannot be used.

use super::*;

#[test]
fn a_new_boot_leaves_numbers_out_and_declares_them() {
    let mut rig = Rig::live();
    rig.samples(1, 250);
    rig.drain();
    rig.fault();
    rig.drain();
    // 200 were sealed but not synced: with the power they go.
    let mut rig = rig.restart(true);
    assert_eq!(rig.core.boot(), 2);
    rig.connect();
    rig.to(1_000);
    let declared = gaps(&rig.take(Stream::Replay));
    assert!(declared.contains(&(1, Gap { first: 0, last: 1_023, reason: GapReason::Dropped })));
    assert_eq!(rig.core.on_sample(at(1_000), 1, sample(0)), Ok(1_024));
    assert_eq!(rig.fault(), 2, "events are never lost, so their numbers have no holes");
    // What was synced is known exactly.
    rig.samples(1, 199);
    rig.drain();
    rig.to(2_500);
    let mut rig = rig.restart(true);
    assert_eq!(rig.core.on_sample(at(3_000), 1, sample(0)), Ok(1_224 + 1_024));
}

/// Numbers of one charger enter the ring in their order: a crash loses the last ones and leaves no hole.
#[test]
fn a_charger_that_begins_to_charge_sends_its_idle_samples_first() {
    let mut rig = Rig::live();
    rig.samples(1, 1);
    rig.charge(1);
    rig.samples(1, 199);
    rig.drain();
    assert_eq!(rig.take(Stream::Slow)[0].header.items, 200);
    rig.samples(1, 200);
    rig.drain();
    assert_eq!(rig.take(Stream::Fast)[0].header.first_item, 200);
}

#[test]
fn a_burst_is_synced_before_the_slack_is_used_up() {
    let mut rig = Rig::live();
    for _ in 0..30 {
        rig.samples(1, 100);
        rig.drain();
    }
    let next = 3_000;
    let mut rig = rig.restart(true);
    let number = rig.core.on_sample(at(0), 1, sample(0)).unwrap();
    assert!(number >= next, "{number} was used before");
}

#[test]
fn a_full_ring_drops_the_oldest_samples_and_never_an_event() {
    let mut config = config();
    config.telemetry_capacity = 10_000;
    let mut rig = Rig::with(config, MemoryRing::new());
    rig.fault();
    rig.drain();
    for _ in 0..30 {
        rig.samples(1, 200);
        rig.drain();
        rig.to(rig.now + 500);
    }
    rig.core.flush(at(rig.now)).unwrap();
    let dropped = rig.core.stats().gap_samples["dropped"];
    assert!(dropped >= 2_000 && dropped.is_multiple_of(200), "{dropped}");
    assert!(rig.core.lanes[3].bytes() <= 10_000);
    rig.connect();
    rig.to(rig.now + 1_000);
    assert!(seqs(&rig.take(Stream::Events)).contains(&1));
    let sent = rig.take(Stream::Replay);
    // A declaration that was itself dropped is made again: together they cover exactly what was lost.
    let mut lost: Vec<u64> = gaps(&sent).into_iter().flat_map(|(_, gap)| gap.first..=gap.last).collect();
    lost.sort_unstable();
    assert_eq!(lost, (0..dropped).collect::<Vec<_>>());
    // The node learns that the dropped sequences will not come.
    rig.charge(1);
    rig.to(rig.now + 1_000);
    let floor = rig.beat().floors.into_iter().find(|floor| floor.stream == Stream::Replay).unwrap();
    assert_eq!(floor.seq, sent[0].header.seq);
}

#[test]
fn what_cannot_be_used_is_counted_and_changes_nothing() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.drain();
    let before = rig.core.stats().clone();
    rig.core.on_message(at(0), "cp/v1/main/0003/other/down", b"");
    rig.core.on_message(at(0), "cp/v1/main/0003/g1/down", b"nonsense");
    let up = rig.take(Stream::Slow).remove(0).bytes;
    rig.core.on_message(at(0), "cp/v1/main/0003/g1/down", &up);
    let odd = rig.keys.seal_down(9, 1, 1, 0, &[0x08, 7]).unwrap();
    rig.core.on_message(at(0), "cp/v1/main/0003/g1/down", &odd);
    let mut after = rig.core.stats().clone();
    let codes: Vec<_> = std::mem::take(&mut after.bad_messages).into_iter().collect();
    assert_eq!(codes, [("message_version", 1), ("packet_stream", 1), ("packet_too_short", 1), ("topic_not_mine", 1)]);
    assert_eq!(after, before);
    assert_eq!(rig.core.leases.epoch_seen(), 1);
}

#[test]
fn an_event_of_a_start_request_carries_what_the_driver_said() {
    let mut rig = Rig::live();
    let account: AccountId = "main/a1".parse().unwrap();
    let event =
        GatewayEvent::StartRequested { child: 1, connector: ConnectorNo(1), account, request: 3, at: Timestamp(WALL) };
    rig.core.on_event(at(0), event.clone()).unwrap();
    rig.drain();
    let UpBatch::Events(events) = &rig.take(Stream::Events)[0].batch else { panic!() };
    assert_eq!(events[0], NumberedEvent { number: 1, event });
}
