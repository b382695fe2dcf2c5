//! A gateway that is enrolled anew, with the ring it had or with an empty one.

use super::*;

/// The gateway of `ring`, enrolled anew: the node has another key for it, and reads the former one's batches or not.
fn enrolled_anew(ring: &MemoryRing) -> Rig {
    let key = GatewayKey { root: [7; 32], key_epoch: 2 };
    let core = GatewayCore::new(GatewayConfig { key: key.clone(), ..config() }, Box::new(ring.clone()), at(0)).unwrap();
    let keys = Keyring::new(&gateway(), &key);
    Rig { core, ring: ring.clone(), keys, now: 0, counter: 0, sent: vec![], other: vec![] }
}

/// Publications, without opening them: some are sealed under another key.
fn published(rig: &mut Rig) -> Vec<Header> {
    let mut effects = Vec::new();
    rig.core.drain(at(rig.now), &mut effects).unwrap();
    let (packets, other): (Vec<_>, Vec<_>) = effects.into_iter().partition(|e| matches!(e, Effect::Publish { .. }));
    rig.other.extend(other);
    let header = |effect: &Effect| match effect {
        Effect::Publish { payload, .. } => Header::peek(payload).unwrap(),
        _ => unreachable!(),
    };
    packets.iter().map(header).filter(|header| header.stream != Stream::Beat.as_u8()).collect()
}

fn say(rig: &mut Rig, message: &Down) {
    rig.counter += 1;
    let packet = rig.keys.seal_down(1, rig.counter, 1, WALL, &wire::encode_down(message)).unwrap();
    rig.core.on_message(at(rig.now), "cp/v1/main/0003/g1/down", &packet);
}

#[test]
fn a_backlog_under_a_revoked_key_is_declared_lost_and_what_is_new_gets_through() {
    let mut rig = Rig::new();
    for _ in 0..40 {
        rig.fault();
        rig.drain();
    }
    rig.samples(1, 200);
    rig.drain();
    rig.core.flush(at(0)).unwrap();
    let mut rig = enrolled_anew(&rig.ring);
    rig.core.on_connected(at(0));
    rig.fault();
    let sent = published(&mut rig);
    assert!(sent.iter().all(|header| header.key_epoch == 1), "the window is full of what nobody can open");
    let notice = |revoked_upto| {
        Down::Notice(Notice { code: "packet_key_epoch".to_owned(), detail: String::new(), revoked_upto })
    };
    say(&mut rig, &notice(0));
    assert_eq!(published(&mut rig), [], "a notice of something else frees nothing");
    say(&mut rig, &notice(1));
    rig.now = 500;
    let sent = published(&mut rig);
    assert!(sent.iter().all(|header| header.key_epoch == 2), "{sent:?}");
    assert!(sent.iter().any(|header| header.stream == Stream::Events.as_u8()), "{sent:?}");
    let stats = rig.core.stats();
    assert_eq!((stats.events_refused, stats.gap_samples.get("refused")), (40, Some(&200)), "nothing vanishes silently");
    let told = rig.effects();
    let refused = |e: &&Effect| matches!(e, Effect::EventsRefused { reason, .. } if reason == "key_revoked");
    assert_eq!(told.iter().filter(refused).count(), 40);
    // The declaration of the samples is a batch under the present key.
    assert!(rig.core.lanes[1..].iter().any(|lane| lane.len() > 0));
    // Its own key is never given up, whatever is said.
    say(&mut rig, &notice(9));
    published(&mut rig);
    assert_eq!(rig.core.stats().events_refused, 40);
}

/// The former ring counted boots and sequences from 1 as well.
#[test]
fn an_acknowledgement_of_a_former_enrolment_frees_nothing() {
    let mut rig = enrolled_anew(&MemoryRing::new());
    rig.core.on_connected(at(0));
    rig.fault();
    published(&mut rig);
    let ack = |key_epoch, refused| {
        let boot = BootId::new(key_epoch, 1);
        Down::Ack(Ack { stream: Stream::Events, boot, epoch: 1, upto_seq: 500, refused, credit: 0 })
    };
    let refused = vec![Refusal { seq: 1, reason: "x".to_owned() }];
    say(&mut rig, &ack(1, refused));
    published(&mut rig);
    assert_eq!((rig.core.stats().events_acked(), rig.core.stats().events_refused, rig.ring.len()), (0, 0, 1));
    say(&mut rig, &ack(2, vec![]));
    published(&mut rig);
    assert_eq!((rig.core.stats().events_acked(), rig.ring.len()), (1, 0));
}

/// A ring that is kept over an enrolment: what the former key sealed is named by that key.
#[test]
fn floors_and_acknowledgements_name_the_key_that_the_batches_are_sealed_under() {
    let mut rig = Rig::new();
    rig.fault();
    rig.drain();
    let mut rig = enrolled_anew(&rig.ring);
    let floors = rig.core.lanes[0].floors(rig.core.boot_id());
    let boots: Vec<_> = floors.into_iter().map(|cursor| (cursor.boot, cursor.seq)).collect();
    assert_eq!(boots, [(BootId::new(1, 1), 1), (BootId::new(2, 2), 1)]);
    let boot = BootId::new(1, 1);
    say(&mut rig, &Down::Ack(Ack { stream: Stream::Events, boot, epoch: 1, upto_seq: 1, refused: vec![], credit: 0 }));
    assert_eq!(rig.core.stats().events_acked(), 1);
}
