//! What the embedded broker lets a gateway do, tried with real clients.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chargeplane_mqtt::{EmbeddedBroker, Options, Rights, client_id_of};
use chargeplane_protocol::link::{Link, LinkEvent};

use crate::support::{Client, PASSWORD};

const NODE: &str = "node/n1";
const UP: &str = "cp/v1/+/+/+/up/+";

fn up(gateway: &str, stream: &str) -> String {
    format!("cp/v1/main/001f/{gateway}/up/{stream}")
}

fn down(gateway: &str) -> String {
    format!("cp/v1/main/001f/{gateway}/down")
}

fn broker() -> EmbeddedBroker {
    let rights = |_: &str, user: &str, password: &str| {
        if password != PASSWORD {
            return None;
        }
        let Some(gateway) = user.strip_prefix("main/") else { return Some(Rights::Everything) };
        let publish = ["events", "fast", "beat"].map(|stream| up(gateway, stream)).to_vec();
        Some(Rights::Topics { publish, subscribe: vec![down(gateway)] })
    };
    EmbeddedBroker::start("127.0.0.1:0".parse().unwrap(), Arc::new(rights)).unwrap()
}

async fn connected(broker: &EmbeddedBroker, user: &str, filters: &[&str]) -> Client {
    let mut client = Client::start(vec![broker.address().to_string()], user, filters);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
    client
}

/// A node hears what is published by right, and nothing else.
async fn hears(node: &mut Client, gateway: &Client, name: &str) {
    let mine = Bytes::from_static(b"mine");
    gateway.publish(&up(name, "fast"), mine.clone()).await;
    assert_eq!(node.message().await, (up(name, "fast"), mine));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_uses_its_own_topics() {
    let broker = broker();
    let mut node = connected(&broker, NODE, &[UP]).await;
    let mut gateway = connected(&broker, "main/gw-1", &[&down("gw-1")]).await;
    hears(&mut node, &gateway, "gw-1").await;
    let answer = Bytes::from_static(b"answer");
    node.publish(&down("gw-1"), answer.clone()).await;
    assert_eq!(gateway.message().await, (down("gw-1"), answer));
    assert_eq!(broker.forbidden(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_in_anothers_name_is_disconnected_and_nobody_hears_it() {
    let broker = broker();
    let mut node = connected(&broker, NODE, &[UP, "cp/v1/+/+/+/down"]).await;
    let honest = connected(&broker, "main/gw-1", &[]).await;
    for topic in [up("gw-1", "fast"), down("gw-1"), down("gw-2"), up("gw-2", "unheard-of"), "other".to_owned()] {
        let mut thief = connected(&broker, "main/gw-2", &[]).await;
        thief.link.publish(&topic, Bytes::from_static(b"forged"), true).unwrap();
        thief.disconnected().await;
        thief.link.close().await;
    }
    assert!(broker.forbidden() >= 5, "{}", broker.forbidden());
    // The first that the node hears is what was published by right, after all that was not.
    hears(&mut node, &honest, "gw-1").await;
    node.expect_silence(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_to_another_is_disconnected() {
    let broker = broker();
    let listened = [down("gw-1"), "#".to_owned(), "cp/v1/main/+/+/down".to_owned(), UP.to_owned()];
    for filter in listened {
        // Its own one with it does not help.
        let mut thief = Client::start(vec![broker.address().to_string()], "main/gw-2", &[&down("gw-2"), &filter]);
        while !matches!(thief.event().await, LinkEvent::Disconnected { .. }) {}
        thief.link.close().await;
    }
    assert!(broker.forbidden() >= 4, "{}", broker.forbidden());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_is_disconnected_at_once_and_nobody_else() {
    let broker = broker();
    let mut node = connected(&broker, NODE, &[UP]).await;
    let mut revoked = connected(&broker, "main/gw-1", &[&down("gw-1")]).await;
    let other = connected(&broker, "main/gw-11", &[]).await;
    let cut = broker.cutter();
    assert_eq!(cut(Some(&client_id_of("main/gw-1"))), 1);
    revoked.disconnected().await;
    hears(&mut node, &other, "gw-11").await;
    assert_eq!(cut(Some(&client_id_of("main/gw-7"))), 0);
    // A client with a wrong password claims an id and takes nothing from who has it.
    let wrong = Options::new(vec![broker.address().to_string()], "main:gw-11", "main/gw-11", "wrong");
    let mut stranger = Client::start_with(wrong, &[]);
    stranger.disconnected().await;
    assert!(cut(Some("main:gw-11")) >= 1);
}
