//! What the link does when a broker misbehaves: a few lines of TCP play the broker, byte by byte.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::{Client, PATIENCE, pattern};
use chargeplane_mqtt::Options;
use chargeplane_protocol::link::{Link, LinkEvent};

/// CONNACK: success, no properties.
const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];
/// CONNACK: not authorised (0x87).
const CONNACK_REFUSED: [u8; 5] = [0x20, 3, 0, 0x87, 0];
/// First byte of the packets that the link sends.
const CONNECT: u8 = 0x10;
const SUBSCRIBE: u8 = 0x82;
const PUBLISH_QOS1: u8 = 0x32;

/// A broker that does what the test says.
struct Puppet(TcpListener);

impl Puppet {
    fn start() -> (Self, Options) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self(listener), Options::new(vec![address], "main:gw-1", "main/gw-1", "any"))
    }

    /// Waits for the next connection and its CONNECT.
    fn accept(&self) -> Wire {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire(stream);
        wire.expect(CONNECT);
        wire
    }
}

struct Wire(TcpStream);

impl Wire {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads one packet of this kind and returns what follows its length.
    fn expect(&mut self, first_byte: u8) -> Vec<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], first_byte, "another packet than expected");
        let mut length = 0usize;
        for shift in [0, 7, 14, 21] {
            self.0.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut rest = vec![0; length];
        self.0.read_exact(&mut rest).unwrap();
        rest
    }

    /// Reads a SUBSCRIBE and answers its one filter with `code`.
    fn confirm_subscription(&mut self, code: u8) {
        let subscribe = self.expect(SUBSCRIBE);
        self.send(&[0x90, 4, subscribe[0], subscribe[1], 0, code]);
    }

    /// PUBLISH at QoS 0 of an empty payload to the topic `t`.
    fn publish(&mut self) {
        self.send(&[0x30, 4, 0, 1, b't', 0]);
    }
}

fn message() -> LinkEvent {
    LinkEvent::Message { topic: "t".into(), payload: bytes::Bytes::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connected_waits_for_the_subscriptions_and_messages_wait_for_connected() {
    let (puppet, options) = Puppet::start();
    let mut client = Client::start_with(options, &["t"]);
    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    let subscribe = wire.expect(SUBSCRIBE);
    wire.publish();
    client.expect_silence(std::time::Duration::from_millis(200)).await;
    wire.send(&[0x90, 4, subscribe[0], subscribe[1], 0, 1]);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
    assert_eq!(client.event().await, message());
    wire.publish();
    assert_eq!(client.event().await, message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_added_while_connecting_belong_to_the_first_session() {
    let (puppet, options) = Puppet::start();
    let mut client = Client::start_with(options, &["t"]);
    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    let subscribe = wire.expect(SUBSCRIBE);
    client.link.subscribe("late").unwrap();
    wire.send(&[0x90, 4, subscribe[0], subscribe[1], 0, 1]);
    let late = wire.expect(SUBSCRIBE);
    assert!(late.windows(4).any(|window| window == b"late"));
    client.expect_silence(std::time::Duration::from_millis(100)).await;
    wire.send(&[0x90, 4, late[0], late[1], 0, 1]);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_subscription_is_told_with_its_filter() {
    let (puppet, options) = Puppet::start();
    let mut client = Client::start_with(options, &["cp/v1/+/001f/+/up/+"]);
    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    wire.confirm_subscription(0x87);
    let reason = client.disconnected().await;
    assert!(reason.contains("cp/v1/+/001f/+/up/+") && reason.contains("NotAuthorized"), "{reason}");
    // The next attempt may be allowed.
    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    wire.confirm_subscription(1);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connection_is_told() {
    let (puppet, options) = Puppet::start();
    let mut client = Client::start_with(options, &[]);
    puppet.accept().send(&CONNACK_REFUSED);
    let reason = client.disconnected().await;
    assert!(reason.contains("NotAuthorized") && reason.contains("password"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unconfirmed_publishes_are_counted_and_not_repeated() {
    let (puppet, mut options) = Puppet::start();
    options.in_flight = 3;
    let mut client = Client::start_with(options, &["t"]);
    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    wire.confirm_subscription(1);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
    for number in 0..5 {
        client.link.publish("u", pattern(number), true).unwrap();
    }
    // Three in flight, of which one is confirmed and makes room for a fourth; one stays queued.
    let first = wire.expect(PUBLISH_QOS1);
    wire.send(&[0x40, 2, first[3], first[4]]);
    for _ in 0..3 {
        wire.expect(PUBLISH_QOS1);
    }
    drop(wire);
    let reason = client.disconnected().await;
    assert!(reason.contains("4 publishes were not confirmed"), "{reason}");

    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    wire.confirm_subscription(1);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 2 });
    client.link.publish("u", pattern(100), true).unwrap();
    let publish = wire.expect(PUBLISH_QOS1);
    assert_eq!(publish[publish.len() - 100..], pattern(100), "something of the old session came first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_never_blocks_and_is_refused_when_the_queue_is_full() {
    let (puppet, mut options) = Puppet::start();
    (options.queue, options.in_flight) = (10, 1);
    let mut client = Client::start_with(options, &[]);
    let mut wire = puppet.accept();
    wire.send(&CONNACK);
    assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
    // Nothing is confirmed: one is in flight, ten are queued, the rest is refused.
    let taken = (0..100).filter(|_| client.link.publish("u", pattern(1), true).is_ok()).count();
    assert!((10..=11).contains(&taken), "{taken} were taken");
}
