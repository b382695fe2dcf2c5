//! What an operator is alerted by is exported without anybody asking for it. A process has one recorder of
//! metrics, so this test has a process of its own.

#[path = "node/support/mod.rs"]
mod support;

use chargeplane_actors::handle::CallError;
use chargeplane_actors::testing::{MemoryStores, Poison};
use chargeplane_domain::account::AccountCommand;
use chargeplane_domain::units::Money;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::*;

type Gauges = Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>;

struct GaugeRecorder(Gauges);

impl Recorder for GaugeRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut gauges = self.0.lock().expect("not poisoned");
        Gauge::from_arc(Arc::clone(gauges.entry(key.name().to_owned()).or_default()))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn dead_letters_and_parked_entities_are_gauges() {
    let gauges = Gauges::default();
    assert!(metrics::set_global_recorder(GaugeRecorder(Arc::clone(&gauges))).is_ok());
    let shown = || {
        let gauges = gauges.lock().expect("not poisoned");
        let value = |name: &str| gauges.get(name).map(|bits| f64::from_bits(bits.load(Ordering::Acquire)));
        ["chargeplane_dead_letters", "chargeplane_entities_parked", "chargeplane_entities_quarantined"].map(value)
    };
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    open_account(&node.handle(), "a1", 100).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shown(), [Some(0.0), Some(0.0), Some(0.0)]);

    let _poison = Poison::new("account:main/a1", "burnt");
    for _ in 0..5 {
        let top_up = AccountCommand::TopUp { key: "burnt".into(), amount: Money(1), currency: None, at: now() };
        assert_eq!(node.handle().account_command(id("a1"), top_up).await, Err(CallError::Interrupted));
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(shown(), [Some(1.0), Some(1.0), Some(0.0)]);
}
