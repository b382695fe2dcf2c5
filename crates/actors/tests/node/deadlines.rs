//! Deadlines of commands are on the gateway's monotonic clock, counted from its last beat; no wall clock of a
//! gateway has a part in them.

use crate::support::*;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::command::Action;
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::WattHours;
use chargeplane_protocol::message::{Beat, GatewayEvent, Stream};
use std::time::Duration;

#[tokio::test]
async fn a_late_unwanted_session_is_stopped_with_a_deadline_that_begins_now() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let nonce = gateway.beat(Beat::default());
    // An hour old: from a gateway that was cut off, or whose clock is wrong.
    let (session, register) = (id("c0.999"), WattHours(5));
    let started = GatewayEvent::SessionStarted { child: 0, session, register, at: now().plus_ms(-3_600_000) };
    gateway.event(started);
    let stop = gateway.until("stop", command).await;
    assert!(matches!(stop.action, Action::Stop { reason: StopReason::Unwanted, .. }), "{stop:?}");
    assert_eq!((stop.deadline.answers_nonce, stop.deadline.boot), (nonce, 1));
    assert!((50_000..=70_000).contains(&stop.deadline.within_ms), "{stop:?}");
}

#[tokio::test]
async fn a_command_waits_for_a_beat_and_leaves_with_it() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let enrolment = set_up(&node.handle()).await;
    open_account(&node.handle(), "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let (seq, _) = gateway.event(start_requested("a1", 1));
    gateway.until_acked(Stream::Events, seq).await;
    let first = gateway.until("start", command).await;

    // The next owner has an unresolved command and has heard nothing.
    let (second, link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    drop(node);
    gateway.reconnect_silently(&second, link);
    tokio::time::sleep(Duration::from_millis(300)).await;
    gateway.receive();
    assert!(!gateway.down.iter().any(|down| command(down).is_some()), "nothing to date it by");
    let nonce = gateway.beat(Beat::default());
    // Much sooner than its charger would send it again.
    let waited = tokio::time::timeout(Duration::from_secs(2), gateway.until("start again", command)).await;
    let again = waited.expect("leaves with the beat");
    assert_eq!((again.id, again.deadline.answers_nonce), (first.id, nonce));
    assert!(again.deadline.within_ms <= 60_000, "its time runs from when it was accepted");
}
