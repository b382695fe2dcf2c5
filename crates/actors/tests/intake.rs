//! What comes in: floods are bounded, bad input is counted and told, and a drain ends the intake.

#[path = "node/support/mod.rs"]
mod support;

use chargeplane_actors::admission::SHARD_BUDGETS;
use chargeplane_actors::handle::CallError;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_actors::views::{PageOf, StartRequest};
use chargeplane_domain::account::AccountCommand;
use chargeplane_domain::catalogue::{Charger, Gateway};
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::units::{Money, Mono, Timestamp, Watts};
use chargeplane_protocol::limits::MAX_PACKET;
use chargeplane_protocol::message::{Beat, BeatCharger, Down, GatewayEvent, NumberedEvent, SampleRun, Stream, UpBatch};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use support::*;

/// Counts refused batches by reason.
#[derive(Default)]
struct Reasons(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Reasons {
    fn get(&self, reason: &str) -> Arc<AtomicU64> {
        let mut counters = self.0.lock().expect("not poisoned");
        Arc::clone(counters.entry(reason.to_owned()).or_default())
    }
}

impl Recorder for &'static Reasons {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let reason = key.labels().find(|label| label.key() == "reason");
        match reason.filter(|_| key.name() == "chargeplane_batches_refused_total") {
            Some(reason) => Counter::from_arc(self.get(reason.value())),
            None => Counter::noop(),
        }
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// How often batches were refused for this reason, by all tests of this program together.
fn refused(reason: &str) -> u64 {
    static REASONS: OnceLock<Reasons> = OnceLock::new();
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let reasons = REASONS.get_or_init(Reasons::default);
    INSTALLED.get_or_init(|| metrics::set_global_recorder(reasons).expect("the first recorder"));
    reasons.get(reason).load(Ordering::Relaxed)
}

fn samples_of(child: u16, number: u64) -> UpBatch {
    let samples = vec![sample(now(), i64::try_from(number).expect("small"))];
    UpBatch::Samples { runs: vec![SampleRun { child, first_number: number, samples }], gaps: Vec::new() }
}

fn event_of(child: u16) -> UpBatch {
    let (account, connector) = (id("a1"), ConnectorNo(1));
    let event = GatewayEvent::StartRequested { child, connector, account, request: 1, at: now() };
    UpBatch::Events(vec![NumberedEvent { number: 1, event }])
}

fn acks(gateway: &TestGateway, of: Stream) -> usize {
    gateway.down.iter().filter(|down| matches!(down, Down::Ack(ack) if ack.stream == of)).count()
}

/// Waits until nothing more comes down.
async fn settle(gateway: &mut TestGateway) {
    let mut still = 0;
    while still < 20 {
        let before = gateway.down.len();
        tokio::time::sleep(Duration::from_millis(10)).await;
        gateway.receive();
        still = if gateway.down.len() == before { still + 1 } else { 0 };
    }
}

async fn notice(gateway: &mut TestGateway, code: &str) {
    let what = format!("notice {code}");
    gateway.until(&what, |down| matches!(down, Down::Notice(told) if told.code == code).then_some(())).await;
}

#[tokio::test]
async fn a_flood_of_unusable_batches_stays_within_the_lanes() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    // Authentic batches of an unknown child. Nothing is handled while they come: this is the only thread.
    for (stream, batch, lane) in [(Stream::Fast, samples_of(77, 0), 4), (Stream::Events, event_of(77), 2)] {
        settle(&mut gateway).await;
        gateway.down.clear();
        let bound = SHARD_BUDGETS[lane].messages;
        let sealed = gateway.seal(stream, 1, 1, &batch);
        for _ in 0..bound + 2_000 {
            gateway.publish(stream, sealed.clone());
        }
        gateway.until("an answer", |down| matches!(down, Down::Ack(ack) if ack.stream == stream).then_some(())).await;
        settle(&mut gateway).await;
        let handled = acks(&gateway, stream);
        assert!((1..=bound).contains(&handled), "{stream}: {handled} were queued, the lane has {bound}");
    }
    // The places are free again.
    gateway.send(Stream::Fast, &samples_of(77, 0));
    let (seq, _) = gateway.send(Stream::Fast, &samples_of(0, 0));
    gateway.until_acked(Stream::Fast, seq).await;
}

#[tokio::test]
async fn what_is_too_large_is_counted_and_told() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let before = refused("packet_too_large");
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    gateway.publish(Stream::Fast, vec![0; MAX_PACKET + 1]);
    notice(&mut gateway, "packet_too_large").await;
    assert!(refused("packet_too_large") > before);
}

#[tokio::test]
async fn a_beat_is_used_without_the_children_that_are_not_known() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let before = refused("unknown_child");
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    // Before the gateway connects: it beats at once then.
    assert!(!handle.gateways(PageOf::first(10)).await.expect("gateways")[0].online);
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let of = |child| BeatCharger { child, power: Watts(5_000), ..BeatCharger::default() };
    gateway.beat(Beat { mono: Mono(1), chargers: vec![of(77), of(0)], ..Beat::default() });
    notice(&mut gateway, "unknown_child").await;
    assert!(refused("unknown_child") > before);
    let charger = handle.charger(&id("c0")).await.expect("known");
    assert_eq!((charger.online, charger.power_w), (true, Watts(5_000)));
    assert!(handle.gateways(PageOf::first(10)).await.expect("gateways")[0].online);
}

#[tokio::test]
async fn what_comes_again_is_answered_and_counted() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    for (stream, batch) in [(Stream::Fast, samples_of(0, 0)), (Stream::Events, event_of(0))] {
        let before = refused("repeated");
        let (seq, sealed) = gateway.send(stream, &batch);
        gateway.until_acked(stream, seq).await;
        gateway.down.clear();
        gateway.publish(stream, sealed);
        gateway.until_acked(stream, seq).await;
        assert!(refused("repeated") > before, "{stream}");
    }
    let beat = Beat { mono: Mono(5), nonce: 1, ..Beat::default() };
    let sealed = gateway.seal(Stream::Beat, 1, 1, &UpBatch::Beat(beat));
    let before = refused("repeated");
    for _ in 0..2 {
        gateway.publish(Stream::Beat, sealed.clone());
    }
    for _ in 0..400 {
        if refused("repeated") > before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("a repeated beat is not counted");
}

#[tokio::test]
async fn a_noisy_gateway_does_not_silence_what_another_is_told() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let handle = node.handle();
    let mut catalogue = catalogue();
    let other = Charger { gateway: id("g2"), child: 0, ..catalogue.chargers[&id("c0")].clone() };
    catalogue.gateways.insert(id("g2"), Gateway { station: id("s1") });
    catalogue.chargers.insert(id("c2"), other);
    handle.apply_catalogue(catalogue, false).await.expect("a good catalogue");
    for name in ["g1", "g2"] {
        let enrolment = handle.enroll(id(name)).await.expect("in the catalogue");
        let mut gateway = TestGateway::new(&node, link.clone(), &enrolment);
        for _ in 0..10 {
            gateway.publish(Stream::Fast, vec![0; 70]);
        }
        gateway.until("notice", |down| matches!(down, Down::Notice(_)).then_some(())).await;
        settle(&mut gateway).await;
        let told = gateway.down.iter().filter(|down| matches!(down, Down::Notice(_))).count();
        assert_eq!(told, 1, "{name} is told once in a while");
    }
}

#[tokio::test]
async fn a_drain_under_a_steady_flow_ends_soon_and_keeps_what_was_acknowledged() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    *stores.telemetry.delay.lock().expect("not poisoned") = Duration::from_millis(50);
    let mut number = 0;
    let mut feed = |gateway: &mut TestGateway| {
        gateway.send(Stream::Fast, &samples_of(0, number));
        number += 1;
    };
    (0..100).for_each(|_| feed(&mut gateway));
    gateway.until_acked(Stream::Fast, 50).await;

    let started = Instant::now();
    let drain = node.drain();
    tokio::pin!(drain);
    let mut asked = false;
    let clean = loop {
        tokio::select! {
            biased;
            clean = &mut drain => break clean,
            () = tokio::time::sleep(Duration::from_millis(1)) => feed(&mut gateway),
        }
        if !asked {
            asked = true;
            let request =
                StartRequest { charger: id("c0"), connector: ConnectorNo(1), account: id("a1"), key: "k".to_owned() };
            let start = handle.start_session(request).await;
            assert!(matches!(start, Err(CallError::NotServing(_))), "{start:?}");
            let top_up = AccountCommand::TopUp { key: "k".to_owned(), amount: Money(1), currency: None, at: now() };
            let money = handle.account_command(id("a1"), top_up).await;
            assert!(matches!(money, Err(CallError::NotServing(_))), "{money:?}");
        }
    };
    assert!(clean, "everything was flushed");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    gateway.receive();
    let acked = |down: &Down| match down {
        Down::Ack(ack) if ack.stream == Stream::Fast => ack.upto_seq,
        _ => 0,
    };
    let acked = gateway.down.iter().map(acked).max().unwrap_or(0);
    assert!(acked >= 100, "what was admitted before is flushed and acknowledged: {acked}");

    let (next, _link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    let stored = next.handle().telemetry_raw(&id("c0"), Timestamp(0), Timestamp(i64::MAX), 10_000).await.expect("raw");
    let numbers: Vec<u64> = stored.iter().map(|sample| sample.number).collect();
    assert!((0..acked).all(|number| numbers.contains(&number)), "acknowledged to {acked}, stored {numbers:?}");
}
