//! Batches: when they leave, and what frees the ring of them.

use super::*;

#[test]
fn a_lone_sample_leaves_after_half_a_second_by_itself() {
    let mut rig = Rig::live();
    rig.to(100);
    rig.samples(1, 1);
    rig.drain();
    assert_eq!(rig.core.next_deadline(), Some(Mono(600)));
    rig.to(599);
    assert!(rig.take(Stream::Slow).is_empty());
    rig.to(600);
    let sent = rig.take(Stream::Slow);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].header.items, sent[0].header.seq, sent[0].header.boot), (1, 1, 1));
}

#[test]
fn two_hundred_samples_leave_at_once_on_the_stream_of_their_charger() {
    let mut rig = Rig::live();
    rig.charge(2);
    rig.samples(2, 200);
    rig.samples(1, 199);
    rig.drain();
    let fast = rig.take(Stream::Fast);
    assert_eq!(fast.len(), 1);
    assert_eq!(fast[0].header.items, 200);
    assert!(rig.take(Stream::Slow).is_empty());
    rig.samples(1, 1);
    rig.drain();
    assert_eq!(rig.take(Stream::Slow).len(), 1);
    assert_eq!(rig.core.stats().samples_created, 400);
}

#[test]
fn events_leave_at_once_and_are_in_the_ring_before() {
    let mut rig = Rig::live();
    assert_eq!((rig.fault(), rig.fault()), (1, 2));
    assert_eq!(rig.core.next_deadline(), Some(Mono(0)));
    rig.drain();
    let sent = rig.take(Stream::Events);
    assert_eq!(sent.len(), 1, "what comes together leaves together");
    assert_eq!(sent[0].header.items, 2);
    assert_eq!(rig.ring.len(), 1);
    let unknown = GatewayEvent::Fault { child: 99, code: String::new(), at: Timestamp(WALL) };
    assert_eq!(rig.core.on_event(at(0), unknown), Err(SampleRefused::UnknownChild { child: 99 }));
}

#[test]
fn only_the_nodes_word_frees_the_ring() {
    let mut rig = Rig::live();
    rig.samples(1, 600);
    rig.drain();
    assert_eq!((rig.ring.len(), seqs(&rig.take(Stream::Slow))), (3, vec![1, 2, 3]));
    rig.to(250);
    rig.ack(Stream::Slow, 2);
    assert_eq!(rig.ring.len(), 1);
    let acked: Vec<Acked> =
        rig.effects().into_iter().filter_map(|e| if let Effect::Acked(a) = e { Some(a) } else { None }).collect();
    assert_eq!(
        acked.iter().map(|a| (a.ticket.seq, a.items, a.latency_ms)).collect::<Vec<_>>(),
        [(1, 200, Some(250)), (2, 200, Some(250))]
    );
    assert_eq!(rig.core.stats().samples_acked(), 400);
    assert_eq!(rig.core.stats().stream(Stream::Slow).held_items, 200);
}

#[test]
fn a_lower_epoch_frees_nothing() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.drain();
    rig.down(5, &Down::Resume(Resume { epoch: 5, cursors: vec![] }));
    rig.ack(Stream::Slow, 1);
    assert_eq!(rig.ring.len(), 1);
    assert_eq!(rig.core.stats().lower_epoch_acks, 1);
}

#[test]
fn a_refused_batch_becomes_declared_gaps() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.samples(2, 200);
    rig.drain();
    rig.take(Stream::Slow);
    let refused = vec![Refusal { seq: 2, reason: "message_time".to_owned() }];
    let ack = Ack { stream: Stream::Slow, boot: BootId::new(1, 1), epoch: 1, upto_seq: 2, refused, credit: CREDIT };
    rig.down(1, &Down::Ack(ack.clone()));
    rig.to(500);
    let sent = rig.take(Stream::Slow);
    assert_eq!(gaps(&sent), [(2, Gap { first: 0, last: 199, reason: GapReason::Refused })]);
    assert_eq!(sent[0].header.seq, 3);
    assert_eq!(rig.core.stats().gap_samples, BTreeMap::from([("refused", 200)]));
    assert!(rig.effects().iter().any(|e| matches!(e, Effect::SamplesRefused { items: 200, .. })));
    // The same refusal again changes nothing, and the declaration itself can be refused and is made again.
    rig.down(1, &Down::Ack(ack));
    let refused = vec![Refusal { seq: 3, reason: "x".to_owned() }];
    rig.down(
        1,
        &Down::Ack(Ack {
            stream: Stream::Slow,
            boot: BootId::new(1, 1),
            epoch: 1,
            upto_seq: 3,
            refused,
            credit: CREDIT,
        }),
    );
    rig.to(1_000);
    assert_eq!(gaps(&rig.take(Stream::Slow)), [(2, Gap { first: 0, last: 199, reason: GapReason::Refused })]);
    assert_eq!(rig.core.stats().samples_gap(), 200);
}

#[test]
fn a_loss_survives_a_crash_before_its_declaration() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.drain();
    rig.to(1_000);
    let refused = vec![Refusal { seq: 1, reason: "x".to_owned() }];
    rig.down(
        1,
        &Down::Ack(Ack {
            stream: Stream::Slow,
            boot: BootId::new(1, 1),
            epoch: 1,
            upto_seq: 1,
            refused,
            credit: CREDIT,
        }),
    );
    let mut rig = rig.restart(true);
    let ticket = Ticket { stream: Stream::Slow, boot: 1, seq: 1 };
    assert!(rig.core.lanes[2].get_mut((ticket.boot, ticket.seq)).is_some(), "it is sent and refused again");
}

#[test]
fn refused_events_are_counted_and_told() {
    let mut rig = Rig::live();
    rig.fault();
    rig.drain();
    let refused = vec![Refusal { seq: 1, reason: "message_id".to_owned() }];
    rig.down(
        1,
        &Down::Ack(Ack { stream: Stream::Events, boot: BootId::new(1, 1), epoch: 1, upto_seq: 1, refused, credit: 0 }),
    );
    assert_eq!(rig.core.stats().events_refused, 1);
    assert!(rig.effects().iter().any(|e| matches!(e, Effect::EventsRefused { numbers: (1, 1), .. })));
    assert!(rig.ring.is_empty());
}

#[test]
fn unacknowledged_batches_go_again_byte_by_byte() {
    let mut rig = Rig::live();
    rig.fault();
    rig.samples(1, 200);
    rig.drain();
    let first = (rig.take(Stream::Events), rig.take(Stream::Slow));
    rig.to(2_999);
    assert!(rig.take(Stream::Events).is_empty());
    rig.to(3_000);
    let again = rig.take(Stream::Events);
    assert_eq!(again[0].bytes, first.0[0].bytes);
    rig.ack(Stream::Events, 1);
    rig.to(60_000);
    let again = rig.take(Stream::Slow);
    assert_eq!(again[0].bytes, first.1[0].bytes);
    rig.to(64_000);
    assert!(rig.take(Stream::Events).is_empty());
}

#[test]
fn after_a_reconnection_the_rest_goes_in_order_when_the_node_has_told_where_it_is() {
    let mut rig = Rig::live();
    rig.samples(1, 600);
    rig.fault();
    rig.drain();
    let first = rig.take(Stream::Slow);
    rig.take(Stream::Events);
    rig.core.on_disconnected(at(10));
    rig.to(20);
    rig.core.on_connected(at(20));
    rig.drain();
    assert_eq!(seqs(&rig.take(Stream::Events)), [1], "events do not wait");
    assert!(rig.take(Stream::Slow).is_empty());
    let cursors = vec![Cursor { stream: Stream::Slow, boot: BootId::new(1, 1), seq: 1 }];
    rig.down(2, &Down::Resume(Resume { epoch: 2, cursors }));
    let again = rig.take(Stream::Slow);
    assert_eq!(seqs(&again), [2, 3]);
    assert_eq!(again[0].bytes, first[1].bytes);
    assert_eq!(rig.core.stats().samples_acked(), 0, "received is not durable");
    rig.ack(Stream::Slow, 1);
    assert_eq!(rig.core.stats().lower_epoch_acks, 1);
    let ack =
        Ack { stream: Stream::Slow, boot: BootId::new(1, 1), epoch: 2, upto_seq: 1, refused: vec![], credit: CREDIT };
    rig.down(2, &Down::Ack(ack));
    assert_eq!(rig.core.stats().samples_acked(), 200);
    // Without a word from the node it goes on after a second.
    rig.core.on_disconnected(at(20));
    rig.core.on_connected(at(30));
    rig.drain();
    assert!(rig.take(Stream::Slow).is_empty());
    assert!(rig.core.next_deadline().unwrap() <= Mono(1_030));
    rig.to(1_030);
    assert_eq!(seqs(&rig.take(Stream::Slow)), [2, 3]);
}

#[test]
fn a_backlog_takes_the_replay_stream_at_the_credit_granted_and_live_samples_go_first() {
    let mut rig = Rig::new();
    rig.samples(1, 2_000);
    rig.drain();
    rig.connect();
    rig.samples(1, 200);
    rig.ack(Stream::Fast, 0);
    rig.drain();
    let order: Vec<_> = rig.sent.iter().filter(|s| s.stream != Stream::Beat).map(|s| s.stream).collect();
    let replay = rig.take(Stream::Replay);
    assert_eq!(seqs(&replay), (1..=10).collect::<Vec<_>>(), "the first credit covers it");
    assert!(order.contains(&Stream::Slow));
    // With the node's credit of four, four are under way at a time.
    rig.core.on_disconnected(at(0));
    rig.core.on_connected(at(0));
    rig.drain();
    rig.down(1, &Down::Resume(Resume::default()));
    rig.take(Stream::Replay);
    rig.ack(Stream::Slow, 0);
    rig.core.on_disconnected(at(0));
    rig.core.on_connected(at(0));
    rig.to(1_000);
    assert_eq!(seqs(&rig.take(Stream::Replay)), [1, 2, 3, 4]);
    rig.ack(Stream::Replay, 3);
    assert_eq!(seqs(&rig.take(Stream::Replay)), [5, 6, 7]);
    let paused =
        Ack { stream: Stream::Replay, boot: BootId::new(1, 1), epoch: 1, upto_seq: 7, refused: vec![], credit: 0 };
    rig.down(1, &Down::Ack(paused));
    assert!(rig.take(Stream::Replay).is_empty());
    rig.ack(Stream::Events, 0);
    assert!(rig.take(Stream::Replay).is_empty(), "only telemetry's acknowledgements carry credit");
    rig.ack(Stream::Fast, 0);
    assert_eq!(seqs(&rig.take(Stream::Replay)), [8, 9, 10]);
}

#[test]
fn a_refused_publication_is_given_back() {
    let mut rig = Rig::live();
    rig.fault();
    rig.drain();
    assert_eq!(rig.take(Stream::Events).len(), 1);
    let ticket = Ticket { stream: Stream::Events, boot: 1, seq: 1 };
    rig.core.on_publish_refused(at(0), Some(ticket), LinkRefused::Full);
    rig.drain();
    assert!(rig.take(Stream::Events).is_empty());
    assert_eq!(rig.core.next_deadline(), Some(Mono(20)));
    rig.to(20);
    assert_eq!(seqs(&rig.take(Stream::Events)), [1]);
}
