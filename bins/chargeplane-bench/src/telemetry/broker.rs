//! The way through a real Mosquitto: a broker of our own, and the gateways' side of it.

use super::load::Acknowledged;
use super::world;
use anyhow::Context;
use bytes::Bytes;
use chargeplane_domain::placement::{DEFAULT_SHARDS, Family, shard_of};
use chargeplane_mqtt::{MqttLink, Options};
use chargeplane_protocol::link::{Link, LinkEvent, LinkRefused, LinkSink};
use chargeplane_protocol::topic;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// Publishes of a connection that wait to be written, and that are not confirmed.
const QUEUE: usize = 1_024;
const IN_FLIGHT: u16 = 1_000;

/// A Mosquitto process, with its queue limits raised: by default it confirms publishes and then drops them.
pub struct Mosquitto {
    child: Child,
    port: u16,
}

impl Mosquitto {
    /// Starts one, with its configuration in `dir`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n\
             max_queued_messages 0\nmax_inflight_messages 0\nmax_packet_size 300000\n"
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{MOSQUITTO} does not start; is it installed?"))?;
        let broker = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            anyhow::ensure!(Instant::now() < deadline, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(broker)
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It is ours alone; when it has ended by itself there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects to the broker; the runtime's task serves the link.
pub fn connect(broker: &str, name: &str, sink: Arc<dyn LinkSink>) -> anyhow::Result<Arc<MqttLink>> {
    let options = Options { queue: QUEUE, in_flight: IN_FLIGHT, ..Options::new(vec![broker.to_owned()], name, "", "") };
    Ok(Arc::new(MqttLink::start(options, sink)?))
}

/// The gateways' connection: what the node sends down is counted.
pub struct Gateways(pub Arc<Acknowledged>);

impl LinkSink for Gateways {
    fn on_event(&self, event: LinkEvent) {
        if let LinkEvent::Message { topic, payload } = event {
            self.0.take(&topic, &payload);
        }
    }
}

/// Subscribes to what goes down to the gateways of one connection of `of`.
pub fn subscribe(link: &MqttLink, part: usize, of: usize, gateways: usize) -> anyhow::Result<()> {
    for number in (0..gateways).filter(|number| number % of == part) {
        let shard = shard_of(Family::Station, &format!("main/s{number:04}"), DEFAULT_SHARDS);
        link.subscribe(&topic::down(&world::gateway(number)?, shard.index))?;
    }
    Ok(())
}

/// Publishes as a gateway does, as soon as there is room.
pub fn publish(link: &MqttLink, topic: &str, payload: &Bytes) -> bool {
    loop {
        match link.publish(topic, payload.clone(), true) {
            Ok(()) => return true,
            Err(LinkRefused::Full) => std::thread::sleep(Duration::from_micros(500)),
            Err(LinkRefused::Closed) => return false,
        }
    }
}
