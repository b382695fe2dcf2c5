//! More telemetry than the store takes: memory stays within its bound, replay is told to pause and to go on, and in
//! the end everything is durable.

#[path = "node/support/mod.rs"]
mod support;

use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::message::{Down, SampleRun, Stream, UpBatch};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::*;

/// Samples that may be in memory.
const LIMIT: u64 = 1_000;

/// Samples of a batch, and batches: four times the limit.
const BATCH: u64 = 100;
const BATCHES: u64 = 40;

#[derive(Default)]
struct Counts {
    accepted: Arc<AtomicU64>,
    stored: Arc<AtomicU64>,
    shed: Arc<AtomicU64>,
}

impl Recorder for &'static Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "chargeplane_samples_accepted_total" => Counter::from_arc(Arc::clone(&self.accepted)),
            "chargeplane_samples_stored_total" => Counter::from_arc(Arc::clone(&self.stored)),
            "chargeplane_shed_total" => Counter::from_arc(Arc::clone(&self.shed)),
            _ => Counter::noop(),
        }
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn acks(gateway: &TestGateway) -> Vec<(u64, u32)> {
    let ack = |down: &Down| match down {
        Down::Ack(ack) if ack.stream == Stream::Replay => Some((ack.upto_seq, ack.credit)),
        _ => None,
    };
    gateway.down.iter().filter_map(ack).collect()
}

#[tokio::test]
async fn memory_is_bounded_and_the_pressure_reaches_the_gateway() {
    let counts: &'static Counts = Box::leak(Box::default());
    metrics::set_global_recorder(counts).expect("the first recorder");
    let stores = MemoryStores::default();
    let settings = |config: &mut chargeplane_actors::shared::NodeConfig| {
        config.max_buffered_samples = LIMIT as usize;
        config.flush_every = Duration::from_secs(3_600);
    };
    let (node, link) = stores.start(settings).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    *stores.telemetry.delay.lock().expect("not poisoned") = Duration::from_millis(200);
    let batch = |seq: u64| {
        let register = |number: u64| sample(now(), i64::try_from(number).expect("small"));
        let first_number = (seq - 1) * BATCH;
        let samples = (first_number..first_number + BATCH).map(register).collect();
        UpBatch::Samples { runs: vec![SampleRun { child: 0, first_number, samples }], gaps: Vec::new() }
    };
    let sealed: Vec<_> = (1..=BATCHES).map(|seq| gateway.seal(Stream::Replay, 1, seq, &batch(seq))).collect();
    let mut most = 0;
    let mut acked = 0;
    for _ in 0..2_000 {
        // A gateway that does not care for its credit: it sends everything again that is not acknowledged.
        for payload in sealed.iter().skip(usize::try_from(acked).expect("small")) {
            gateway.publish(Stream::Replay, payload.clone());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stored = counts.stored.load(Ordering::Relaxed);
        most = most.max(counts.accepted.load(Ordering::Relaxed).saturating_sub(stored));
        gateway.receive();
        acked = acks(&gateway).iter().map(|(upto, _)| *upto).max().unwrap_or(0);
        if acked == BATCHES {
            break;
        }
    }
    assert_eq!(acked, BATCHES, "everything is durable in the end");
    assert!((BATCH..=LIMIT).contains(&most), "{most} samples were in memory");
    assert!(counts.shed.load(Ordering::Relaxed) > 0, "there was more than the bound lets in");
    let credits: Vec<u32> = acks(&gateway).iter().map(|(_, credit)| *credit).collect();
    assert!(credits.contains(&0), "a full node lets replay pause: {credits:?}");
    assert_eq!(credits.last(), Some(&64), "and go on: {credits:?}");
    let all = node.handle().telemetry_raw(&id("c0"), Timestamp(0), Timestamp(i64::MAX), 10_000).await.expect("reads");
    let numbers: Vec<u64> = all.iter().map(|sample| sample.number).collect();
    assert_eq!(numbers, (0..BATCH * BATCHES).collect::<Vec<u64>>(), "each once");
}
