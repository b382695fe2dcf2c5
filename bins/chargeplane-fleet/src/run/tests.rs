//! A small fleet over a real broker against a node that is as simple as a node can be: it acknowledges at once,
//! grants everybody a fair share and starts whoever asks.

use super::*;
use crate::testing;
use bytes::Bytes;
use chargeplane_domain::command::Action;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{WattHours, Watts};
use chargeplane_mqtt::{EmbeddedBroker, MqttLink, Options};
use chargeplane_protocol::link::{Link, LinkEvent, LinkSink};
use chargeplane_protocol::message::{
    Ack, Beat, CommandEnd, Cursor, Deadline, Down, DownCommand, GatewayEvent, GrantEntry, Grants, Resume, Stream,
    UpBatch,
};
use chargeplane_protocol::topic::{self, Topic};
use chargeplane_protocol::{GatewayKey, Keyring, wire};
use serde_json::Value;
use std::sync::{Mutex, OnceLock};

/// The share of every charger, W.
const SHARE_W: i64 = 25_000;

#[derive(Default)]
struct Known {
    counter: u64,
    commands: u64,
    /// Event numbers taken, by gateway.
    events: BTreeMap<GatewayId, u64>,
    /// Boot and nonce of the last beat, by gateway.
    beats: BTreeMap<GatewayId, (u32, u64)>,
    /// Energy, by session: register at the start and at the end.
    sessions: BTreeMap<SessionId, (i64, Option<i64>, Option<StopReason>)>,
    done: u64,
    refused: u64,
    samples: u64,
    /// Denied once before they are started.
    denied: bool,
}

struct TinyNode {
    keys: BTreeMap<GatewayId, Keyring>,
    link: OnceLock<MqttLink>,
    known: Mutex<Known>,
}

impl TinyNode {
    fn send(&self, known: &mut Known, gateway: &GatewayId, shard: u16, down: &Down) {
        known.counter += 1;
        let plain = wire::encode_down(down);
        let sealed = self.keys[gateway].seal_down(1, known.counter, 1, 0, &plain).unwrap();
        self.link.get().unwrap().publish(&topic::down(gateway, shard), Bytes::from(sealed), true).unwrap();
    }

    fn on_packet(&self, topic: &str, payload: &[u8]) {
        let Ok(Topic::Up { gateway, shard, .. }) = topic::parse(topic) else { panic!("topic {topic}") };
        let (stream, opened) = self.keys[&gateway].open_up(payload).unwrap();
        let batch = wire::decode_up(stream, &opened.plain).unwrap();
        let known = &mut *self.known.lock().unwrap();
        if stream != Stream::Beat {
            let boot = BootId::new(opened.header.key_epoch, opened.header.boot);
            let upto_seq = opened.header.seq;
            let ack = Ack { stream, boot, epoch: 1, upto_seq, refused: Vec::new(), credit: 10 };
            self.send(known, &gateway, shard, &Down::Ack(ack));
        }
        match batch {
            UpBatch::Samples { runs, .. } => known.samples += runs.iter().map(|r| r.samples.len() as u64).sum::<u64>(),
            UpBatch::Beat(beat) => self.on_beat(known, &gateway, shard, opened.header.boot, &beat),
            UpBatch::Events(events) => {
                for event in events {
                    let newest = known.events.entry(gateway.clone()).or_default();
                    if event.number > *newest {
                        *newest = event.number;
                        self.on_event(known, &gateway, shard, event.event);
                    }
                }
            }
        }
    }

    fn on_beat(&self, known: &mut Known, gateway: &GatewayId, shard: u16, boot: u32, beat: &Beat) {
        known.beats.insert(gateway.clone(), (boot, beat.nonce));
        if beat.epoch_seen == 0 {
            let of = BootId::new(self.keys[gateway].key_epoch(), boot);
            let cursors = Stream::ALL.map(|stream| Cursor { stream, boot: of, seq: 0 });
            self.send(known, gateway, shard, &Down::Resume(Resume { epoch: 1, cursors: cursors[..4].to_vec() }));
        }
        let charging = beat.chargers.iter().filter(|c| c.charging);
        let entries = charging.map(|c| GrantEntry { child: c.child, w: Watts(SHARE_W), allowance: None }).collect();
        let seq = known.counter;
        let grants = Grants { answers_nonce: beat.nonce, boot, epoch: 1, seq, lease_ms: 30_000, entries };
        self.send(known, gateway, shard, &Down::Grants(grants));
    }

    fn on_event(&self, known: &mut Known, gateway: &GatewayId, shard: u16, event: GatewayEvent) {
        match event {
            GatewayEvent::StartRequested { child, request, .. } if !known.denied => {
                known.denied = true;
                let code = "insufficient_funds".to_owned();
                self.send(known, gateway, shard, &Down::Deny { child, request, code });
            }
            GatewayEvent::StartRequested { child, connector, account, .. } => {
                // A gateway beats before it sends anything else.
                let (boot, answers_nonce) = known.beats[gateway];
                known.commands += 1;
                let n = known.commands;
                let session: SessionId = format!("{}-{child}.{n}", gateway.local()).parse().unwrap();
                // Poor accounts may take next to nothing.
                let allowance = WattHours(if account.local().starts_with("poor") { 3 } else { 10_000 });
                let command = DownCommand {
                    id: format!("{}-{child}.c{n}", gateway.local()).parse().unwrap(),
                    child,
                    action: Action::Start { session, connector, allowance },
                    deadline: Deadline { answers_nonce, boot, within_ms: 30_000 },
                };
                self.send(known, gateway, shard, &Down::Commands(vec![command]));
            }
            GatewayEvent::SessionStarted { session, register, .. } => {
                assert_eq!(known.sessions.insert(session, (register.0, None, None)), None, "started twice");
            }
            GatewayEvent::SessionStopped { session, register, reason, .. } => {
                let known = known.sessions.get_mut(&session).expect("stopped before it started");
                assert_eq!(known.1, None, "stopped twice");
                (known.1, known.2) = (Some(register.0), Some(reason));
            }
            GatewayEvent::CommandResult { outcome: CommandEnd::Done, .. } => known.done += 1,
            GatewayEvent::CommandResult { .. } => known.refused += 1,
            GatewayEvent::Gap { .. }
            | GatewayEvent::Fault { .. }
            | GatewayEvent::StatusChanged { .. }
            | GatewayEvent::FlowChanged { .. } => {}
        }
    }
}

struct Sink(Arc<TinyNode>);

impl LinkSink for Sink {
    fn on_event(&self, event: LinkEvent) {
        if let LinkEvent::Message { topic, payload } = event {
            self.0.on_packet(&topic, &payload);
        }
    }
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_fleet_leaves_evidence_that_agrees_with_the_node() {
    let broker = EmbeddedBroker::start(
        "127.0.0.1:0".parse().unwrap(),
        Arc::new(|_, _, _| Some(chargeplane_mqtt::Rights::Everything)),
    )
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let mut config = testing::config(120, 8, 3);
    config.brokers = vec![broker.address().to_string()];
    config.out_dir = out.clone();
    config.sessions_csv =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/data/caltech-2019-03-sessions.csv").into();
    for (i, gateway) in config.gateways.iter_mut().enumerate() {
        gateway.ring_dir = directory.path().join(format!("ring-{i}"));
    }
    // Nobody's charger obeys at once when the money ends.
    (config.plan.late, config.plan.late_stop_ms) = (99, 1_500);
    // The second gateway is cut off for a second and a half in the middle of it all.
    config.cuts = vec![crate::config::Cut { gateway: config.gateways[1].id.clone(), at_s: 4, for_s: 1 }];

    let keys = config.gateways.iter().map(|g| {
        let key = GatewayKey { root: g.root().unwrap(), key_epoch: g.key_epoch };
        (g.id.clone(), Keyring::new(&g.id, &key))
    });
    let node = Arc::new(TinyNode { keys: keys.collect(), link: OnceLock::new(), known: Mutex::default() });
    let address = vec![broker.address().to_string()];
    let mut options = Options::new(address, "node", "node", "x");
    options.queue = 4_096;
    let link = MqttLink::start(options, Arc::new(Sink(node.clone()))).unwrap();
    link.subscribe(&topic::shard_filter(1)).unwrap();
    assert!(node.link.set(link).is_ok());

    assert!(run(config).await.unwrap(), "not drained");

    let known = node.known.lock().unwrap();
    let summary = lines(&out.join("summary.json")).remove(0);
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("{name}"));
    println!("{summary:#}");
    let sessions = lines(&out.join("sessions.jsonl"));
    assert_eq!(sessions.len() as u64, number("sessions_started"));
    assert_eq!(sessions.len(), known.sessions.len());
    for line in &sessions {
        let id: SessionId = line["session"].as_str().unwrap().parse().unwrap();
        let (start, stop, reason) = &known.sessions[&id];
        assert_eq!((line["meter_start_wh"].as_i64(), line["meter_stop_wh"].as_i64()), (Some(*start), *stop), "{line}");
        assert_eq!(line["reason"], serde_json::to_value(reason).unwrap());
    }
    let told: i64 = known.sessions.values().map(|(start, stop, _)| stop.unwrap() - start).sum();
    assert_eq!((summary["energy_wh_metered"].as_i64(), number("energy_wh_registers") as i64), (Some(told), told));
    for outcome in ["sessions_completed", "sessions_cut_for_funds", "sessions_faulted", "sessions_closed_at_end"] {
        assert!(number(outcome) > 0, "{outcome}");
    }
    assert!(number("chargers_online") >= 100);
    assert_eq!((number("limit_violations"), number("commands_twice"), number("samples_gap")), (0, 0, 0));
    assert!(number("peak_load_w") >= 100 * SHARE_W as u64 && number("limit_checks") > 80);
    assert!(number("samples_sent") > 5_000 && known.samples >= number("samples_sent"));
    assert_eq!(number("samples_acked"), number("samples_sent"));
    assert_eq!(number("events_acked"), number("events_sent"));
    assert_eq!((number("starts_denied"), summary["denials"]["insufficient_funds"].as_u64()), (1, Some(1)));
    assert_eq!(known.done, number("commands_executed"));
    assert!(number("reconnects") >= 1, "the cut was felt");
    for gateway in lines(&out.join("gateways.jsonl")) {
        let acked = |charger: &Value| charger["acked"].as_array().unwrap().clone();
        for charger in gateway["chargers"].as_array().unwrap() {
            let ranges = acked(charger);
            assert_eq!(ranges.len(), 1, "{charger}");
            assert_eq!(ranges[0][1], charger["last_number"], "{charger}");
            let digests = charger["digests"].as_array().unwrap();
            assert_eq!((&digests[0][0], &digests[digests.len() - 1][1]), (&Value::from(0), &charger["last_number"]));
        }
    }
    // 25 kW for a second and a half are 10 Wh, beyond the 3 that were paid.
    let cut = sessions.iter().filter(|line| line["outcome"] == "funds");
    assert!(cut.clone().all(|line| line["energy_wh"].as_i64() >= Some(9)), "{:?}", cut.collect::<Vec<_>>());
    let load = &lines(&out.join("load.jsonl"))[1..];
    assert!(load.iter().any(|row| row["granted"]["grid"].as_i64() >= Some(100 * SHARE_W)));
    assert!(load.iter().all(|row| row["over_granted"] == 0));
    let drivers = lines(&out.join("schedule.jsonl")).len();
    assert!(drivers > 120);
    let latency = lines(&out.join("latency.json")).remove(0);
    assert!(latency["event_ack_ms"]["count"].as_u64().unwrap() > 100, "{latency}");
}
