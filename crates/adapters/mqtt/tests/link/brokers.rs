//! The same promises of the link, kept on the embedded broker and on Mosquitto.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Client, Embedded, Mosquitto, PASSWORD, PATIENCE, TestBroker, free_port, pattern};
use chargeplane_mqtt::{Options, client_id_of};
use chargeplane_protocol::limits::MAX_PACKET;
use chargeplane_protocol::link::{Link, LinkEvent, LinkRefused};

const UP: &str = "cp/v1/+/001f/+/up/+";
const UP_GW_1: &str = "cp/v1/main/001f/gw-1/up/fast";
const DOWN_GW_1: &str = "cp/v1/main/001f/gw-1/down";
const DOWN_GW_2: &str = "cp/v1/main/001f/gw-2/down";

/// Each scenario once for every broker.
macro_rules! on_both_brokers {
    ($($scenario:ident)*) => {
        mod embedded {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() { super::$scenario::<super::Embedded>().await }
        )*}
        mod mosquitto {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() { super::$scenario::<super::Mosquitto>().await }
        )*}
    };
}

on_both_brokers! {
    payloads_arrive_unchanged
    too_large_is_refused_before_it_is_sent
    restart_of_the_broker_is_survived
    wrong_password_is_refused_and_told_once
    wrong_password_does_not_disturb_others
    each_gateway_gets_only_its_own
    subscription_of_a_live_session_works
    next_broker_is_tried
    close_delivers_what_was_queued
    many_publishers_keep_their_order
}

async fn payloads_arrive_unchanged<B: TestBroker>() {
    let broker = B::start();
    let mut node = Client::connected(&broker, "main/node-1", &[UP]).await;
    let gateway = Client::connected(&broker, "main/gw-1", &[DOWN_GW_1]).await;
    for len in [0, 1, 5_000, 200_000, MAX_PACKET] {
        for qos1 in [true, false] {
            gateway.link.publish(UP_GW_1, pattern(len), qos1).unwrap();
            let (topic, payload) = node.message().await;
            assert_eq!(topic, UP_GW_1);
            assert!(payload == pattern(len), "{len} bytes, QoS 1 {qos1}: other bytes arrived");
        }
    }
}

async fn too_large_is_refused_before_it_is_sent<B: TestBroker>() {
    let broker = B::start();
    let mut gateway = Client::connected(&broker, "main/gw-1", &[]).await;
    assert!(gateway.link.publish(UP_GW_1, pattern(MAX_PACKET + 1), true).is_err());
    assert!(gateway.link.publish(&"t".repeat(300), pattern(1), true).is_err());
    // The session was not harmed: a broker ends it when it gets more than it allows.
    gateway.expect_silence(Duration::from_millis(200)).await;
    gateway.link.publish(UP_GW_1, pattern(1), true).unwrap();
}

async fn restart_of_the_broker_is_survived<B: TestBroker>() {
    let mut broker = B::start();
    let mut node = Client::connected(&broker, "main/node-1", &[UP]).await;
    let mut gateway = Client::connected(&broker, "main/gw-1", &[DOWN_GW_1]).await;
    gateway.link.subscribe("cp/v1/main/001f/gw-1/later").unwrap();

    broker.kill();
    for client in [&mut node, &mut gateway] {
        let reason = client.disconnected().await;
        assert!(reason.starts_with("lost "), "{reason}");
    }
    assert_eq!(gateway.link.publish(UP_GW_1, pattern(9), true), Err(LinkRefused::Full));
    let reason = gateway.disconnected().await;
    assert!(reason.starts_with("cannot connect "), "{reason}");
    assert!(node.disconnected().await.starts_with("cannot connect "));

    broker.start_again();
    for client in [&mut node, &mut gateway] {
        assert_eq!(client.event().await, LinkEvent::Connected { session: 2 });
    }
    gateway.link.publish(UP_GW_1, pattern(7), true).unwrap();
    assert_eq!(node.message().await, (UP_GW_1.into(), pattern(7)));
    for topic in [DOWN_GW_1, "cp/v1/main/001f/gw-1/later"] {
        node.link.publish(topic, pattern(8), true).unwrap();
        assert_eq!(gateway.message().await, (topic.into(), pattern(8)));
    }
}

async fn wrong_password_is_refused_and_told_once<B: TestBroker>() {
    let broker = B::start();
    let user = "main/gw-1";
    let options = Options::new(vec![broker.address()], &client_id_of(user), user, "wrong");
    let mut gateway = Client::start_with(options, &[DOWN_GW_1]);
    let reason = gateway.disconnected().await;
    assert!(reason.contains("password"), "{reason}");
    gateway.expect_silence(Duration::from_secs(1)).await;
    assert_eq!(gateway.link.publish(UP_GW_1, pattern(1), true), Err(LinkRefused::Full));
}

async fn wrong_password_does_not_disturb_others<B: TestBroker>() {
    let broker = B::start();
    let mut gateway = Client::connected(&broker, "main/gw-1", &[DOWN_GW_1]).await;
    let intruder = Options::new(vec![broker.address()], "main:gw-1", "main/gw-1", "guess");
    let mut intruder = Client::start_with(intruder, &[DOWN_GW_1]);
    intruder.disconnected().await;
    gateway.expect_silence(Duration::from_millis(300)).await;
    gateway.link.publish(DOWN_GW_1, pattern(3), true).unwrap();
    assert_eq!(gateway.message().await, (DOWN_GW_1.into(), pattern(3)));
}

async fn each_gateway_gets_only_its_own<B: TestBroker>() {
    let broker = B::start();
    let node = Client::connected(&broker, "main/node-1", &[UP]).await;
    let mut first = Client::connected(&broker, "main/gw-1", &[DOWN_GW_1]).await;
    let mut second = Client::connected(&broker, "main/gw-2", &[DOWN_GW_2]).await;
    for number in 0..50usize {
        node.publish(DOWN_GW_1, pattern(number)).await;
        node.publish(DOWN_GW_2, pattern(100 + number)).await;
    }
    for number in 0..50usize {
        assert_eq!(first.message().await, (DOWN_GW_1.into(), pattern(number)));
        assert_eq!(second.message().await, (DOWN_GW_2.into(), pattern(100 + number)));
    }
    first.expect_silence(Duration::from_millis(200)).await;
    second.expect_silence(Duration::from_millis(1)).await;
}

async fn subscription_of_a_live_session_works<B: TestBroker>() {
    let broker = B::start();
    let mut gateway = Client::connected(&broker, "main/gw-1", &[]).await;
    gateway.link.subscribe(DOWN_GW_1).unwrap();
    gateway.link.subscribe(DOWN_GW_1).unwrap();
    // Both travel on one connection, in order: the subscription holds when the message comes.
    gateway.link.publish(DOWN_GW_1, pattern(11), true).unwrap();
    assert_eq!(gateway.message().await, (DOWN_GW_1.into(), pattern(11)));
    gateway.expect_silence(Duration::from_millis(100)).await;
}

async fn next_broker_is_tried<B: TestBroker>() {
    let broker = B::start();
    let dead = format!("127.0.0.1:{}", free_port());
    let mut gateway = Client::start(vec![dead, broker.address()], "main/gw-1", &[DOWN_GW_1]);
    let reason = gateway.disconnected().await;
    assert!(reason.starts_with("cannot connect "), "{reason}");
    assert_eq!(gateway.event().await, LinkEvent::Connected { session: 1 });
}

async fn close_delivers_what_was_queued<B: TestBroker>() {
    let broker = B::start();
    let mut node = Client::connected(&broker, "main/node-1", &[UP]).await;
    let mut gateway = Client::connected(&broker, "main/gw-1", &[DOWN_GW_1]).await;
    for number in 0..200usize {
        gateway.link.publish(UP_GW_1, pattern(1_000 + number), true).unwrap();
    }
    gateway.link.close().await;
    assert_eq!(gateway.disconnected().await, "closed");
    assert_eq!(gateway.link.publish(UP_GW_1, pattern(1), true), Err(LinkRefused::Closed));
    assert_eq!(gateway.link.subscribe(DOWN_GW_2), Err(LinkRefused::Closed));
    for number in 0..200usize {
        let (_, payload) = node.message().await;
        assert_eq!(payload.len(), 1_000 + number);
    }
}

async fn many_publishers_keep_their_order<B: TestBroker>() {
    const PUBLISHERS: usize = 20;
    const MESSAGES: usize = 200;
    let broker = B::start();
    let mut node = Client::connected(&broker, "main/node-1", &[UP]).await;
    for publisher in 1..=PUBLISHERS {
        let client = Client::connected(&broker, &format!("main/gw-{publisher}"), &[]).await;
        tokio::spawn(async move {
            let topic = format!("cp/v1/main/001f/gw-{publisher}/up/fast");
            for number in 0..MESSAGES {
                client.publish(&topic, format!("{number:04}{}", "x".repeat(5_000)).into()).await;
            }
            client.link.close().await;
        });
    }
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..PUBLISHERS * MESSAGES {
        let (topic, payload) = node.message().await;
        let number: usize = std::str::from_utf8(&payload[..4]).unwrap().parse().unwrap();
        let expected = next.entry(topic.clone()).or_default();
        assert_eq!(number, *expected, "{topic}: lost, repeated or out of order");
        *expected += 1;
    }
    assert_eq!(next.len(), PUBLISHERS);
}

/// Gateways that only know MQTT 3.1.1 share the port and the topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_3_clients_of_the_embedded_broker_work() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

    let broker = Embedded::start();
    let mut node = Client::connected(&broker, "main/node-1", &[UP]).await;
    let (host, port) = broker.address().split_once(':').map(|(h, p)| (h.to_owned(), p.parse().unwrap())).unwrap();
    let mut options = MqttOptions::new("main:gw-1", host, port);
    options.set_credentials("main/gw-1", PASSWORD).set_max_packet_size(MAX_PACKET, MAX_PACKET);
    let (gateway, mut events) = AsyncClient::new(options, 10);
    gateway.subscribe(DOWN_GW_1, QoS::AtLeastOnce).await.unwrap();
    gateway.publish(UP_GW_1, QoS::AtLeastOnce, false, pattern(200_000).to_vec()).await.unwrap();
    let received = async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                return publish;
            }
        }
    };
    let answered = async {
        let (topic, payload) = node.message().await;
        assert_eq!((topic.as_str(), payload == pattern(200_000)), (UP_GW_1, true));
        node.link.publish(DOWN_GW_1, pattern(5_000), true).unwrap();
    };
    let (received, ()) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(received, answered) }).await.expect("both directions work");
    assert!(received.topic == DOWN_GW_1 && received.payload == pattern(5_000));
}

/// Far more than the router keeps: without a brake most of it would be lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_to_the_embedded_broker_waits_for_the_node() {
    const GATEWAYS: usize = 10;
    const MESSAGES: usize = 100;
    const SIZE: usize = 100_000;
    let broker = Embedded::start();
    let user = "main/node-1";
    let options = Options::new(vec![broker.address()], &client_id_of(user), user, PASSWORD);
    let mut node = Client::start_slow(options, &[UP], Duration::from_millis(1));
    assert_eq!(node.event().await, LinkEvent::Connected { session: 1 });
    for gateway in 1..=GATEWAYS {
        let client = Client::connected(&broker, &format!("main/gw-{gateway}"), &[]).await;
        tokio::spawn(async move {
            let topic = format!("cp/v1/main/001f/gw-{gateway}/up/replay");
            for _ in 0..MESSAGES {
                client.publish(&topic, pattern(SIZE)).await;
            }
            // Ends its session only when the test ends: a closing link gives up after a while.
            std::future::pending::<()>().await;
        });
    }
    for _ in 0..GATEWAYS * MESSAGES {
        let (_, payload) = node.message().await;
        assert!(payload.len() == SIZE);
    }
}
