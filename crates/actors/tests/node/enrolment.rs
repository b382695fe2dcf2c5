//! Gateways that are enrolled anew: with an empty ring they number boots, batches and samples from the beginning
//! again, and everything of it is stored, handled and granted; what a revoked key sealed is never read.

use crate::support::*;
use chargeplane_actors::node::Node;
use chargeplane_actors::ports::{CatalogueStore, GatewayCredentials, StoreError};
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_actors::testing::{MemoryCatalogue, MemoryStores};
use chargeplane_actors::views::{Enrolment, PageOf};
use chargeplane_domain::catalogue::{Catalogue, Gateway};
use chargeplane_domain::ids::{GatewayId, StationId};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Mono, Timestamp, WattHours};
use chargeplane_protocol::envelope::Header;
use chargeplane_protocol::message::{Beat, Down, GatewayEvent, Notice, Refusal, SampleRun, Stream, UpBatch};
use futures_core::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

fn stopped(session: &chargeplane_domain::ids::SessionId, register: i64) -> GatewayEvent {
    let (session, register) = (session.clone(), WattHours(register));
    GatewayEvent::SessionStopped { child: 0, session, register, at: now(), reason: StopReason::Driver }
}

#[tokio::test]
async fn a_gateway_with_a_new_disk_is_stored_handled_and_granted_from_its_first_batch() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut old = TestGateway::new(&node, link.clone(), &enrolment);
    old.beat(Beat { mono: Mono(900_000), ..Beat::default() });
    let session = start(&mut old, "a1", 0).await;
    for number in 0..4 {
        let seq = old.samples(0, number, vec![sample(now(), 10 + i64::try_from(number).expect("small"))]);
        old.until_acked(Stream::Fast, seq).await;
    }

    let enrolment = handle.enroll(id("g1")).await.expect("enrols again");
    link.take();
    let mut new = TestGateway::new(&node, link.clone(), &enrolment);
    assert_eq!((new.boot, new.key_epoch), (1, 2));
    let nonce = new.beat(Beat { mono: Mono(50), ..Beat::default() });
    let granted = |down: &Down| matches!(down, Down::Grants(grants) if grants.answers_nonce == nonce).then_some(());
    new.until("grants", granted).await;
    let seq = new.samples(0, 0, vec![sample(now(), 90)]);
    assert_eq!(seq, 1);
    new.until_acked(Stream::Fast, seq).await;
    let (seq, _) = new.event(stopped(&session, 400));
    assert_eq!(seq, 1);
    new.until_acked(Stream::Events, seq).await;
    assert_eq!(record_of(&node, &session).await.energy, WattHours(400), "the first event was handled");

    let raw = handle.telemetry_raw(&id("c0"), Timestamp(0), now().plus_ms(10_000), 100).await.expect("raw");
    let read: Vec<_> = raw.iter().map(|sample| (sample.number, sample.sample.register.0)).collect();
    assert_eq!(read, [(0, 10), (1, 11), (2, 12), (3, 13), (0, 90)], "each enrolment's numbers are its own");

    // The same after a restart: what was restored is told apart as well.
    let (second, link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    drop(node);
    let enrolment = second.handle().enroll(id("g1")).await.expect("enrols a third time");
    link.take();
    let mut third = TestGateway::new(&second, link, &enrolment);
    let seq = third.samples(0, 0, vec![sample(now(), 500)]);
    third.until_acked(Stream::Fast, seq).await;
    let raw = second.handle().telemetry_raw(&id("c0"), Timestamp(0), now().plus_ms(10_000), 100).await.expect("raw");
    assert_eq!(raw.len(), 6);
}

/// An old device that goes on under its former key, beside the new one.
#[tokio::test]
async fn a_former_key_moves_nothing_of_a_later_one() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let enrolment = set_up(&node.handle()).await;
    let mut old = TestGateway::new(&node, link.clone(), &enrolment);
    let enrolment = node.handle().enroll(id("g1")).await.expect("enrols again");
    link.take();
    let boot = chargeplane_domain::gateway::BootId::new(2, 1);
    let floors = vec![chargeplane_protocol::message::Cursor { stream: Stream::Fast, boot, seq: 1_000 }];
    old.beat(Beat { floors, ..Beat::default() });
    let mut new = TestGateway::new(&node, link, &enrolment);
    let seq = new.samples(0, 0, vec![sample(now(), 1)]);
    new.until_acked(Stream::Fast, seq).await;
    let raw = node.handle().telemetry_raw(&id("c0"), Timestamp(0), now().plus_ms(10_000), 100).await.expect("raw");
    assert_eq!(raw.len(), 1, "a floor from the former key would have passed it as never to come");
}

#[tokio::test]
async fn what_a_revoked_key_sealed_is_not_read_and_the_gateway_is_told_which_keys_those_are() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut old = TestGateway::new(&node, link.clone(), &enrolment);
    let session = start(&mut old, "a1", 0).await;
    handle.revoke(id("g1")).await.expect("revokes");
    let (_, backlog) = old.event(stopped(&session, 400));
    tokio::time::sleep(Duration::from_millis(50)).await;
    link.take();

    let enrolment = handle.enroll(id("g1")).await.expect("enrols again");
    let mut new = TestGateway::new(&node, link.clone(), &enrolment);
    new.publish(Stream::Events, backlog);
    let told = new.until("notice", |down| match down {
        Down::Notice(Notice { code, revoked_upto, .. }) => Some((code.clone(), *revoked_upto)),
        _ => None,
    });
    assert_eq!(told.await, ("packet_key_epoch".to_owned(), 1));
    let open = handle.charger(&id("c0")).await.expect("the charger").session.is_some();
    assert!(open, "a forged end of the session is not believed");
    // What the gateway says under its present key is.
    let (seq, _) = new.event(stopped(&session, 300));
    new.until_acked(Stream::Events, seq).await;
    assert_eq!(record_of(&node, &session).await.energy, WattHours(300));
}

/// Owners follow each other, and the former ones still talk: nobody seals under a nonce that anybody used.
#[tokio::test]
async fn no_owner_seals_down_under_a_nonce_of_another() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(50)).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link.clone(), &enrolment);
    let mut owners = vec![(node, link)];
    let mut used = BTreeSet::new();
    let mut by_epoch: BTreeMap<u32, usize> = BTreeMap::new();
    for round in 0..4u64 {
        if round > 0 {
            let name = chargeplane_domain::ids::NodeId(format!("n{}", round + 1).into());
            owners.push(stores.start(|config| config.node = name).await);
        }
        // All of them hear it, the paused ones as well.
        for (node, link) in &owners {
            gateway.reconnect_silently(node, link.clone());
            for _ in 0..3 {
                gateway.beat(Beat::default());
            }
            gateway.event(GatewayEvent::Fault { child: 0, code: "f".to_owned(), at: now() });
            gateway.samples(0, round, vec![sample(now(), 1)]);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (_, payload) in owners.iter().flat_map(|(_, link)| link.take()) {
            let header = Header::peek(&payload).expect("a packet");
            *by_epoch.entry(header.boot).or_default() += 1;
            assert!(used.insert((header.key_epoch, header.boot, header.seq)), "used twice: {header:?}");
        }
    }
    assert!(by_epoch.len() >= 4 && used.len() >= 20, "{by_epoch:?}");
}

/// The gateway goes on charging and sending while its key changes, and the numbering of its samples goes on.
#[tokio::test]
async fn a_rotated_key_takes_over_when_the_gateway_was_heard_under_it() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let handle = node.handle();
    let first = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link.clone(), &first);
    let session = start(&mut gateway, "a1", 0).await;
    let authenticate = node.authenticator();
    let let_in =
        |enrolment: &Enrolment| authenticate(&enrolment.client_id, &enrolment.username, &enrolment.password).is_some();
    let mut cut_off = node.cut_off();

    let second = handle.rotate(id("g1")).await.expect("rotates");
    assert_eq!((second.key_epoch, second.incarnation), (2, first.incarnation));
    assert!(let_in(&first) && let_in(&second), "either, until the new key was heard");
    // The gateway knows nothing of it yet: it is read and answered as before.
    let nonce = gateway.beat(Beat { mono: Mono(50), ..Beat::default() });
    let granted = |down: &Down| matches!(down, Down::Grants(grants) if grants.answers_nonce == nonce).then_some(());
    gateway.until("grants under the key before", granted).await;
    let seq = gateway.samples(0, 0, vec![sample(now(), 10)]);
    gateway.until_acked(Stream::Fast, seq).await;

    // A forger has neither key: nothing changes.
    let forged = Enrolment { key: "ab".repeat(32), ..second.clone() };
    TestGateway::new(&node, link.clone(), &forged);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(let_in(&first), "not confirmed by whoever says so");

    // It switches, with its ring: a new boot, the numbers go on.
    let mut switched = TestGateway::new(&node, link.clone(), &second);
    switched.boot = 2;
    for _ in 0..1_000 {
        if !let_in(&first) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!let_in(&first) && let_in(&second), "the password before has ended");
    link.take();
    let nonce = switched.beat(Beat { mono: Mono(60), ..Beat::default() });
    let granted = |down: &Down| matches!(down, Down::Grants(grants) if grants.answers_nonce == nonce).then_some(());
    switched.until("grants under the new key", granted).await;
    let backlog = gateway.seal(
        Stream::Fast,
        1,
        2,
        &UpBatch::Samples {
            runs: vec![SampleRun { child: 0, first_number: 1, samples: vec![sample(now(), 20)] }],
            gaps: Vec::new(),
        },
    );
    switched.publish(Stream::Fast, backlog);
    let seq = switched.samples(0, 2, vec![sample(now(), 30)]);
    switched.until_acked(Stream::Fast, seq).await;
    let (seq, _) = switched.event(stopped(&session, 40));
    switched.until_acked(Stream::Events, seq).await;
    assert_eq!(record_of(&node, &session).await.energy, WattHours(40), "the session went on through the rotation");
    let numbers = || async {
        let raw = handle.telemetry_raw(&id("c0"), Timestamp(0), now().plus_ms(10_000), 100).await.expect("raw");
        raw.iter().map(|sample| (sample.number, sample.sample.register.0)).collect::<Vec<_>>()
    };
    for _ in 0..1_000 {
        if numbers().await.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(numbers().await, [(0, 10), (1, 20), (2, 30)], "one numbering, and the backlog is read");
    assert!(cut_off.try_recv().is_err(), "nobody was cut off");
    handle.revoke(id("g1")).await.expect("revokes");
    assert_eq!(cut_off.try_recv().expect("told"), id("g1"));
    assert!(!let_in(&first) && !let_in(&second));
    let refused = handle.rotate(id("g1")).await;
    assert!(refused.is_err(), "what is revoked is enrolled anew, not rotated");

    // Durable: a node that starts again knows which key is the present one.
    let third = handle.enroll(id("g1")).await.expect("enrols");
    assert_eq!((third.key_epoch, third.incarnation), (3, first.incarnation + 1));
    drop(node);
    let (second_node, _) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    let authenticate = second_node.authenticator();
    let let_in =
        |enrolment: &Enrolment| authenticate(&enrolment.client_id, &enrolment.username, &enrolment.password).is_some();
    assert!(let_in(&third) && !let_in(&second));
}

#[tokio::test]
async fn a_refused_batch_of_events_is_still_refused_after_a_crash() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let foreign = GatewayEvent::Fault { child: 77, code: "x".to_owned(), at: now() };
    let (refused, sealed) = gateway.event(foreign);
    let (good, good_sealed) = gateway.event(GatewayEvent::Fault { child: 0, code: "x".to_owned(), at: now() });
    gateway.until_acked(Stream::Events, good).await;
    // The acknowledgement never reached the gateway, and the node is gone.
    let (second, link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    drop(node);
    gateway.reconnect(&second, link);
    gateway.publish(Stream::Events, sealed);
    gateway.publish(Stream::Events, good_sealed);
    let acked = gateway.until("acknowledgement", |down| match down {
        Down::Ack(ack) if ack.stream == Stream::Events && ack.upto_seq >= good => Some(ack.refused.clone()),
        _ => None,
    });
    assert_eq!(acked.await, [Refusal { seq: refused, reason: "unknown_child".to_owned() }]);
}

/// A catalogue store whose every call lets everybody else go first.
struct Slow(Arc<MemoryCatalogue>);

async fn others_first() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl CatalogueStore for Slow {
    fn load(&self) -> BoxFuture<'_, Result<(u64, Catalogue), StoreError>> {
        self.0.load()
    }

    fn save(&self, expected: u64, catalogue: Catalogue) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            others_first().await;
            let saved = self.0.save(expected, catalogue).await;
            others_first().await;
            saved
        })
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<GatewayCredentials>, StoreError>> {
        Box::pin(async move {
            let read = self.0.credentials().await;
            others_first().await;
            read
        })
    }

    fn save_credentials(&self, credentials: GatewayCredentials) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            others_first().await;
            self.0.save_credentials(credentials).await
        })
    }
}

fn with_gateway(mut catalogue: Catalogue, gateway: &str) -> Catalogue {
    catalogue.gateways.insert(id::<GatewayId>(gateway), Gateway { station: id::<StationId>("s1") });
    catalogue
}

#[tokio::test]
async fn changes_of_the_catalogue_and_of_keys_do_not_undo_each_other() {
    let stores = MemoryStores::default();
    let mut config = NodeConfig::new("n1");
    config.shards = 2;
    let ports = Ports { catalogue: Arc::new(Slow(Arc::clone(&stores.catalogue))), ..stores.ports() };
    let node = Node::start(config, ports).await.expect("starts");
    let handle = node.handle();
    let both = with_gateway(catalogue(), "g2");
    handle.apply_catalogue(both.clone(), false).await.expect("version 1");

    let larger = with_gateway(both, "g3");
    let (first, second, other, applied, revoked) = tokio::join!(
        handle.enroll(id("g1")),
        handle.enroll(id("g1")),
        handle.enroll(id("g2")),
        handle.apply_catalogue(larger.clone(), false),
        handle.revoke(id("g2")),
    );
    let epochs = [first.expect("enrols").key_epoch, second.expect("enrols again").key_epoch];
    assert_eq!(epochs, [1, 2], "two keys of one gateway are two");
    assert_eq!((other.expect("enrols").key_epoch, applied.expect("applies").to_version), (1, 2));
    revoked.expect("revokes what was enrolled before");
    assert_eq!(handle.catalogue().0, 2, "the node runs on what is stored");
    let gateways = handle.gateways(PageOf::first(10)).await.expect("gateways");
    let enrolled: Vec<_> = gateways.into_iter().map(|gateway| (gateway.id, gateway.enrolled)).collect();
    assert_eq!(enrolled, [(id("g1"), true), (id("g2"), false), (id("g3"), false)]);
    let again = handle.apply_catalogue(with_gateway(larger, "g4"), false).await;
    assert_eq!(again.expect("no conflict").to_version, 3);
}

/// The caller of an interface may go away at any moment.
#[tokio::test]
async fn a_change_whose_caller_left_ends_all_the_same() {
    let stores = MemoryStores::default();
    let mut config = NodeConfig::new("n1");
    config.shards = 2;
    let ports = Ports { catalogue: Arc::new(Slow(Arc::clone(&stores.catalogue))), ..stores.ports() };
    let node = Node::start(config, ports).await.expect("starts");
    let handle = node.handle();
    let mut change = Box::pin(handle.apply_catalogue(catalogue(), false));
    let ended = std::future::poll_fn(|context| Poll::Ready(change.as_mut().poll(context).is_ready())).await;
    assert!(!ended, "it has only begun");
    drop(change);
    let then = handle.apply_catalogue(with_gateway(catalogue(), "g2"), false).await.expect("no conflict");
    assert_eq!((then.from_version, then.to_version), (1, 2));
}
