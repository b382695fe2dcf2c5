//! A station's durable limits, what starts its actors, and what is shown of it.

use crate::support::*;
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::testing::MemoryStores;
use chargeplane_actors::views::PageOf;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{NodeId, StationId};
use chargeplane_domain::station::LimitOrder;
use chargeplane_domain::units::Watts;
use chargeplane_protocol::message::Stream;
use std::time::Duration;

async fn limit(handle: &NodeHandle) -> i64 {
    handle.station(&id("s1")).await.expect("known").limit_w.0
}

async fn set(handle: &NodeHandle, watts: Option<i64>) -> Result<(), CallError> {
    handle.set_limit(&id("s1"), "grid", watts.map(Watts), "main").await
}

async fn apply(handle: &NodeHandle, grid: i64) {
    let mut catalogue = catalogue();
    let station = catalogue.stations.get_mut(&id::<StationId>("s1")).expect("there");
    station.limits[0].limit_w = Watts(grid);
    handle.apply_catalogue(catalogue, false).await.expect("a good catalogue");
}

#[tokio::test]
async fn a_limit_that_was_acknowledged_survives_restarts_and_catalogues_until_it_is_lifted() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    set_up(&node.handle()).await;
    set(&node.handle(), Some(40_000)).await.expect("a cut");
    assert_eq!(limit(&node.handle()).await, 40_000);
    // Killed: another life of the shard knows it from the log alone.
    drop(node);
    let (node, _link) = stores.start(|config| config.node = NodeId("n2".into())).await;
    let handle = node.handle();
    assert_eq!(limit(&handle).await, 40_000);
    let view = handle.station(&id("s1")).await.expect("known");
    let kept = view.nodes[0].set.clone().expect("set");
    assert_eq!((kept.limit, kept.by.as_str()), (Watts(40_000), "main"));
    for (catalogue, effective) in [(80_000, 40_000), (30_000, 30_000), (100_000, 40_000)] {
        apply(&handle, catalogue).await;
        assert_eq!(limit(&handle).await, effective, "the lower one, under a catalogue of {catalogue}");
    }
    let above = set(&handle, Some(100_001)).await;
    assert!(matches!(above, Err(CallError::Invalid(_))), "{above:?}");
    let nowhere = handle.set_limit(&id("s1"), "nowhere", Some(Watts(1)), "main").await;
    assert!(matches!(nowhere, Err(CallError::NotFound(_))), "{nowhere:?}");
    set(&handle, Some(60_000)).await.expect("a rise");
    assert_eq!(limit(&handle).await, 60_000);
    set(&handle, None).await.expect("lifted");
    assert_eq!(limit(&handle).await, 100_000);
    drop(node);
    let (node, _link) = stores.start(|config| config.node = NodeId("n3".into())).await;
    assert_eq!(limit(&node.handle()).await, 100_000);
}

#[tokio::test]
async fn an_announced_limit_and_a_signal_survive_a_restart_and_are_kept_a_lease_ahead() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    set_up(&node.handle()).await;
    let handle = node.handle();
    let (soon, later) = (now().plus_ms(20_000), now().plus_ms(3_600_000));
    let announced = LimitOrder::Set { node: "grid".to_owned(), limit: Watts(60_000), from: Some(later) };
    handle.change_limit(&id("s1"), announced, "main").await.expect("announced");
    assert_eq!(limit(&handle).await, 100_000, "an hour ahead nothing is kept yet");
    let signal = |watts, from| LimitOrder::Signal {
        signal: "dr".to_owned(),
        node: "grid".to_owned(),
        limit: Watts(watts),
        from: Some(from),
        until: later,
    };
    // Twenty seconds ahead is less than a lease: it is kept from now on.
    handle.change_limit(&id("s1"), signal(40_000, soon), "main").await.expect("signalled");
    assert_eq!(limit(&handle).await, 40_000);
    drop(node);
    let (node, _link) = stores.start(|config| config.node = NodeId("n2".into())).await;
    let handle = node.handle();
    assert_eq!(limit(&handle).await, 40_000);
    let seen = handle.limits(&id("s1")).await.expect("known");
    assert_eq!((seen.nodes[0].now.from, seen.signals.len(), seen.changes.len()), (Some(soon), 1, 2));
    assert_eq!(seen.nodes[0].set.as_ref().and_then(|set| set.from), Some(later));
    handle.change_limit(&id("s1"), LimitOrder::LiftSignal { signal: "dr".to_owned() }, "main").await.expect("lifted");
    assert_eq!(limit(&handle).await, 100_000);
    let past = LimitOrder::Set { node: "grid".to_owned(), limit: Watts(1), from: Some(now()) };
    let refused = handle.change_limit(&id("s1"), past, "main").await;
    assert!(matches!(refused, Err(CallError::Invalid(_))), "{refused:?}");
    let unknown = handle.change_limit(&id("s1"), LimitOrder::LiftSignal { signal: "dr".to_owned() }, "main").await;
    assert!(matches!(unknown, Err(CallError::NotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn a_limit_that_is_not_durable_is_not_acknowledged() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    set_up(&node.handle()).await;
    assert_eq!(limit(&node.handle()).await, 100_000);
    let (_second, _link) = stores.start(|config| config.node = NodeId("n2".into())).await;
    let answer = set(&node.handle(), Some(40_000)).await;
    assert!(answer.is_err(), "a fenced node acknowledged the limit: {answer:?}");
}

#[tokio::test]
async fn a_charger_that_idles_is_a_row_and_no_actor() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let live = async || handle.shards().await.expect("shards").iter().map(|shard| shard.live).sum::<usize>();
    let before = live().await;
    for second in 0..5u64 {
        let at = now().plus_ms(i64::try_from(second).expect("small") * 1_000 - 10_000);
        let seq = gateway.samples(0, second, vec![sample(at, 700)]);
        gateway.until_acked(Stream::Fast, seq).await;
    }
    assert_eq!(live().await, before, "idle samples started an actor");
    let charger = handle.charger(&id("c0")).await.expect("known");
    assert_eq!((charger.register_wh.0, charger.soc_permille), (700, Some(500)), "what is shown stays right");
}

#[tokio::test]
async fn lists_are_asked_for_page_by_page() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    set_up(&handle).await;
    let first = handle.chargers(None, PageOf::first(1)).await.expect("chargers");
    assert_eq!(first.iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), ["main/c0"]);
    let page = PageOf { after: Some(id("c0")), limit: 9, tenant: Some("main".to_owned()) };
    let rest = handle.chargers(Some(id("s1")), page).await.expect("chargers");
    assert_eq!(rest.iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), ["main/c1"]);
    let foreign = PageOf { tenant: Some("other".to_owned()), ..PageOf::first(9) };
    assert!(handle.chargers(None, foreign).await.expect("chargers").is_empty());
    for charger in ["c0", "c1"] {
        handle.request_command(&id(charger), Action::Reset, "k".to_owned()).await.expect("accepted");
    }
    let all = handle.all_commands(PageOf::first(9)).await.expect("commands");
    let first = handle.all_commands(PageOf::first(1)).await.expect("commands");
    let page = PageOf { after: Some(first[0].command.id.clone()), ..PageOf::first(9) };
    let rest = handle.all_commands(page).await.expect("commands");
    assert_eq!(([first, rest].concat(), all.len()), (all, 2));
    assert!(handle.sessions(PageOf::first(9)).await.expect("sessions").is_empty());
    assert_eq!(handle.stations(PageOf::first(9)).await.expect("stations").len(), 1);
    assert_eq!(handle.gateways(PageOf::first(9)).await.expect("gateways").len(), 1);
}
