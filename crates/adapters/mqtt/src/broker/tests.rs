use super::*;
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet};
use std::net::{TcpListener, TcpStream};
use std::sync::Weak;

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn gate(authenticate: impl Fn(&str, &str, &str) -> bool + Send + Sync + 'static) -> Gate {
    let authenticate = move |client: &str, user: &str, password: &str| {
        authenticate(client, user, password).then_some(Rights::Everything)
    };
    Gate { authenticate: Arc::new(authenticate), counters: Arc::default(), connections: Arc::default() }
}

#[test]
fn a_free_port_is_chosen_and_freed_again() {
    let broker = EmbeddedBroker::start(anywhere(), Arc::new(|_, _, _| Some(Rights::Everything))).unwrap();
    let address = broker.address();
    assert_ne!(address.port(), 0);
    TcpStream::connect(address).expect("accepts connections once started");
    drop(broker);
    TcpListener::bind(address).expect("the port is free after the broker was dropped");
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = EmbeddedBroker::start(address, Arc::new(|_, _, _| Some(Rights::Everything))).unwrap_err();
    assert!(matches!(error, BrokerError::PortTaken { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("taken"), "{text}");
}

#[test]
fn a_foreign_address_is_a_clear_error() {
    let error = EmbeddedBroker::start("192.0.2.1:0".parse().unwrap(), Arc::new(|_, _, _| Some(Rights::Everything)));
    assert!(matches!(error, Err(BrokerError::Listen { .. })), "{error:?}");
}

#[test]
fn the_client_id_must_be_the_users() {
    let gate = gate(|_, user, password| user == "main/gw-1" && password == "right");
    assert!(gate.admits("main:gw-1", "main/gw-1", "right").is_some());
    assert!(gate.admits("main:gw-1", "main/gw-1", "wrong").is_none());
    assert!(gate.admits("main:gw-2", "main/gw-1", "right").is_none(), "another gateway's client id");
    assert!(gate.admits("main/gw-1", "main/gw-1", "right").is_none());
    assert_eq!(gate.counters.refused.load(Ordering::Relaxed), 3);
}

#[test]
fn no_two_users_share_a_client_id() {
    let gate = gate(|_, _, _| true);
    assert!(gate.admits("a:b.c", "a/b.c", "").is_some());
    assert!(gate.admits("a:b.c", "a.b/c", "").is_none());
    assert!(gate.admits("a.b:c", "a.b/c", "").is_some());
}

#[test]
fn filters_of_a_node_get_the_large_limit() {
    use rumqttd::protocol::matches;
    assert!(matches("cp/v1/+/001f/+/up/+", UP_FILTERS));
    assert!(!matches("cp/v1/main/001f/gw-1/down", UP_FILTERS));
}

/// The present router's door, past the network.
#[derive(Default)]
pub(super) struct WayIn(Mutex<Weak<Common>>);

impl WayIn {
    pub(super) fn open(&self, common: &Arc<Common>) {
        *self.0.lock().unwrap() = Arc::downgrade(common);
    }

    /// rumqttd's router panics when a connection that is gone says that it is ready.
    fn kill_router(&self) {
        let common = self.0.lock().unwrap().upgrade().expect("started");
        let (mut sender, receiver) = (common.register)("poison").unwrap();
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        let goodbye = Packet::Disconnect(Disconnect { reason_code }, None);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(sender.send(goodbye)).unwrap();
        receiver.ready().unwrap();
    }
}

impl std::fmt::Debug for WayIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WayIn")
    }
}

#[test]
fn a_dead_router_is_replaced_on_the_same_port() {
    let broker = EmbeddedBroker::start(anywhere(), Arc::new(|_, _, _| Some(Rights::Everything))).unwrap();
    let mut connection = TcpStream::connect(broker.address()).unwrap();
    broker.counters.way_in.kill_router();

    connection.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let closed = std::io::Read::read(&mut connection, &mut [0; 1]).expect("closed, not silent");
    assert_eq!(closed, 0, "connections of the dead router are closed");
    let deadline = Instant::now() + Duration::from_secs(5);
    while broker.restarts() == 0 || TcpStream::connect(broker.address()).is_err() {
        assert!(Instant::now() < deadline, "the new router's listener never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_packet_that_is_too_large_is_counted_and_its_sender_is_told() {
    use std::io::{Read, Write};
    let broker = EmbeddedBroker::start(anywhere(), Arc::new(|_, _, _| Some(Rights::Everything))).unwrap();
    let mut connection = TcpStream::connect(broker.address()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // CONNECT of MQTT 5: user name and password, keep-alive 60 s, no properties.
    let mut connect = b"\x00\x04MQTT\x05\xc2\x00\x3c\x00".to_vec();
    for text in ["main:gw-1", "main/gw-1", "pw"] {
        connect.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        connect.extend(text.as_bytes());
    }
    connection.write_all(&[0x10, u8::try_from(connect.len()).unwrap()]).unwrap();
    connection.write_all(&connect).unwrap();
    let mut answer = [0; 2];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0x20, "CONNACK");
    connection.read_exact(&mut vec![0; usize::from(answer[1])]).unwrap();
    // PUBLISH of a megabyte: its head is enough.
    connection.write_all(&[0x30, 0x80, 0x80, 0x40]).unwrap();
    let mut goodbye = Vec::new();
    connection.read_to_end(&mut goodbye).expect("the connection is closed");
    assert_eq!(goodbye, [0xe0, 2, 0x95, 0], "DISCONNECT, packet too large");
    assert_eq!((broker.bad_packets(), broker.refused()), (1, 0));
}
