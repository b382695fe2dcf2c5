//! A small run that holds in every respect, as files and SQLite stores made by hand, to plant violations in.

use super::bounds::{self, Bounds};
use super::findings::Findings;
use super::telemetry::digest;
use super::{Tally, judge};
use crate::evidence::{self, Line};
use crate::finish::{BALANCES, METRICS, NodeFigures, RECORDS, ReadBack, TELEMETRY};
use crate::fleet::{CONFIG, ENROLMENTS, OUT};
use rmpv::Value as Mp;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// One frame to be written: epoch, log number and what its entries are.
#[derive(Debug, Clone)]
pub struct FrameSpec {
    pub epoch: u64,
    pub lsn: u64,
    /// (entity key, event)
    pub entries: Vec<(String, Value)>,
    /// Names this as the hash before it instead of the true one.
    pub prev: Option<[u8; 32]>,
    /// Flips a bit after the checksum was made.
    pub rotten: bool,
}

/// A run of one charger and one car.
#[derive(Debug, Clone)]
pub struct Story {
    /// Frames by shard: (code, name).
    pub shards: BTreeMap<(i64, &'static str), Vec<FrameSpec>>,
    /// Chunks: (charger, incarnation, epoch, first number, register values).
    pub chunks: Vec<(String, u32, u64, u64, Vec<i64>)>,
    /// Gaps: (charger, incarnation, first, last).
    pub gaps: Vec<(String, u32, u64, u64)>,
    pub sessions: Vec<Value>,
    pub commands: Vec<Value>,
    pub gateways: Vec<Value>,
    pub load: Vec<Value>,
    pub promises: Vec<Line>,
    pub balances: Vec<Value>,
    pub records: Vec<Value>,
    pub telemetry: Vec<ReadBack>,
    pub node: NodeFigures,
    pub bounds: Bounds,
}

pub const ACCOUNT: (i64, &str) = (1 << 16 | 3, "account-0003");
pub const STATION: (i64, &str) = (0x1f, "station-001f");
pub const CHARGER: &str = "main/c1";
pub const SESSION: &str = "main/c1.1";
/// A session over the API of somebody whose money ended.
pub const OVERSHOT: &str = "main/c1.2";

fn frame(epoch: u64, lsn: u64, key: &str, events: &[Value]) -> FrameSpec {
    let entries = events.iter().map(|event| (key.to_owned(), event.clone())).collect();
    FrameSpec { epoch, lsn, entries, prev: None, rotten: false }
}

fn reading(sequence: u32, wh: i64) -> Value {
    // 1.0000 for energy and 0.5000 for service a kWh, all in the third period.
    json!({ "sequence": sequence, "meter": wh, "by_period": [0, 0, wh, 0],
            "cumulative": { "energy": wh * 10, "service": wh * 5 } })
}

fn overshot_account(tariff: &Value) -> [Vec<Value>; 3] {
    [
        vec![
            json!({ "opened": { "key": "k2", "currency": "CNY", "kind": "prepaid", "at": 5 } }),
            json!({ "topped_up": { "key": "k3", "currency": "CNY", "amount": 1_000, "at": 5 } }),
        ],
        vec![json!({ "held": { "session": OVERSHOT, "operator": "main/op", "tariff": tariff,
                               "hold": 1_000, "reserve": 540, "at": 6 } })],
        vec![json!({ "settled": { "session": OVERSHOT, "operator": "main/op", "currency": "CNY",
            "energy": 1_000, "service": 500, "settled": merged(reading(1, 100), json!({ "billed": 1_000,
                "billed_wh": 66, "overshoot": 500, "overshoot_wh": 34, "released": 0, "at": 7 })) } })],
    ]
}

fn overshot_station() -> [Value; 5] {
    let record = json!({ "session": OVERSHOT, "account": "main/a2", "charger": CHARGER, "meter_start": 6_000,
        "meter_stop": 6_100, "energy": 100, "billed_wh": 66, "overshoot_wh": 34, "billed": 1_000,
        "overshoot": 500, "stop_reason": "funds", "fees_amount": 0, "time": { "charging_ms": 0, "idle_ms": 0 } });
    let start = json!({ "start": { "session": OVERSHOT, "connector": 1, "allowance": 25 } });
    [
        json!({ "session_requested": { "session": { "id": OVERSHOT, "account": "main/a2" } } }),
        json!({ "command_accepted": { "command": { "id": "main/c1.c2", "action": start } } }),
        json!({ "command_resolved": { "command": "main/c1.c2", "outcome": "done", "at": 6 } }),
        json!({ "session_started": { "session": OVERSHOT, "register": 6_000, "at": 6 } }),
        json!({ "session_settled": { "session": OVERSHOT, "record": record } }),
    ]
}

/// Samples as [`chunk`] stores them.
fn made(first: u64, registers: &[i64]) -> Vec<(u64, [i64; 7])> {
    (first..).zip(registers).map(|(number, register)| (number, [0, 1, 2, 3, 4, 5, *register])).collect()
}

fn hash(first: u64, registers: &[i64]) -> String {
    let made = made(first, registers);
    format!("{:016x}", digest(made.iter().map(|(number, values)| (number, values))))
}

fn merged(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

impl Story {
    /// Tops up 10.00, charges 1,000 Wh for 1.50 in one debit and a settlement, stores 300 samples. Somebody else
    /// tops up 0.10 and charges 100 Wh for 0.15: 0.05 are his operator's.
    pub fn new() -> Self {
        let tariff = json!({ "currency": "CNY", "slots": "2".repeat(48), "prices": [
            { "energy": 0, "service": 0 }, { "energy": 0, "service": 0 },
            { "energy": 10_000, "service": 5_000 }, { "energy": 0, "service": 0 } ] });
        let own = json!({ "session": SESSION, "operator": "main/op", "currency": "CNY" });
        let account = [
            vec![
                json!({ "opened": { "key": "k0", "currency": "CNY", "kind": "prepaid", "at": 1 } }),
                json!({ "topped_up": { "key": "k1", "currency": "CNY", "amount": 100_000, "at": 1 } }),
            ],
            vec![json!({ "held": { "session": SESSION, "operator": "main/op", "tariff": tariff.clone(),
                                   "hold": 20_000, "reserve": 540, "at": 2 } })],
            vec![json!({ "debited": merged(merged(own.clone(), reading(1, 600)),
                json!({ "energy": 6_000, "service": 3_000, "hold": 20_000, "at": 3 })) })],
            vec![json!({ "settled": merged(own, json!({ "energy": 4_000, "service": 2_000,
                "settled": merged(reading(2, 1_000), json!({ "billed": 15_000, "billed_wh": 1_000,
                    "overshoot": 0, "overshoot_wh": 0, "released": 14_000, "at": 4 })) })) })],
        ];
        let record = json!({ "session": SESSION, "account": "main/a1", "charger": CHARGER, "meter_start": 5_000,
            "meter_stop": 6_000, "energy": 1_000, "billed_wh": 1_000, "overshoot_wh": 0, "billed": 15_000,
            "overshoot": 0, "stop_reason": "target_reached", "fees_amount": 0,
            "time": { "charging_ms": 0, "idle_ms": 0 } });
        let start = json!({ "start": { "session": SESSION, "connector": 1, "allowance": 900 } });
        let station = [
            json!({ "session_requested": { "session": { "id": SESSION, "account": "main/a1" } } }),
            json!({ "command_accepted": { "command": { "id": "main/c1.c1", "action": start } } }),
            json!({ "command_resolved": { "command": "main/c1.c1", "outcome": "done", "at": 2 } }),
            json!({ "session_started": { "session": SESSION, "register": 5_000, "at": 2 } }),
            json!({ "session_settled": { "session": SESSION, "record": record } }),
        ];
        let frames = account.iter().zip(1..).map(|(events, n)| frame(1, n, "account:main/a1", events));
        let second = overshot_account(&tariff);
        let seconds = second.iter().zip(5..).map(|(events, n)| frame(1, n, "account:main/a2", events));
        let wrapped = |event: &Value| json!({ "charger": event });
        let mut stations: Vec<FrameSpec> = station
            .iter()
            .zip(1..)
            .map(|(e, n)| frame(u64::from(n > 2) + 1, n, "charger:main/c1", &[wrapped(e)]))
            .collect();
        let more = overshot_station().map(|event| ("charger:main/c1".to_owned(), wrapped(&event)));
        stations.last_mut().expect("a frame").entries.extend(more);
        let shards = BTreeMap::from([(ACCOUNT, frames.chain(seconds).collect()), (STATION, stations)]);
        let registers: Vec<i64> = (0..300).map(|n| 5_700 + n).collect();
        Self {
            shards,
            chunks: vec![
                (CHARGER.into(), 1, 1, 0, registers[..256].to_vec()),
                (CHARGER.into(), 1, 1, 256, registers[256..280].to_vec()),
                (CHARGER.into(), 1, 2, 256, registers[256..].to_vec()),
            ],
            gaps: Vec::new(),
            sessions: vec![json!({ "session": SESSION, "charger": CHARGER, "account": "main/a1", "reason": "target_reached",
                "meter_start_wh": 5_000, "meter_stop_wh": 6_000 }),
                json!({ "session": OVERSHOT, "charger": CHARGER, "account": null, "reason": "funds",
                "meter_start_wh": 6_000, "meter_stop_wh": 6_100 })],
            commands: vec![json!({ "command": "main/c1.c1", "end": "done" }), json!({ "command": "main/c1.c2", "end": "done" })],
            gateways: vec![json!({ "gateway": "main/gw-01", "chargers": [
                { "charger": CHARGER, "register_wh": 5_999, "last_number": 299, "acked": [[0, 299]],
                  "digests": [[0, 255, hash(0, &registers[..256])], [256, 299, hash(256, &registers[256..])]] } ] })],
            load: (0..60).map(|t| load_row(t, 40_000)).collect(),
            promises: promises(),
            balances: [
                ("driver:main/a1", 85_000),
                ("top-up:main:CNY", -101_000),
                ("energy:main/op:CNY", 11_000),
                ("service:main/op:CNY", 5_500),
                ("overshoot:main/op:CNY", -500),
            ]
            .map(|(account, balance)| {
                json!({ "shard": "account-0003", "account": account, "currency": "CNY", "balance": balance })
            })
            .to_vec(),
            records: vec![json!({ "session": SESSION, "energy_wh": 1_000, "billed_wh": 1_000, "overshoot_wh": 0,
                "billed": "1.5000", "overshoot": "0.0000", "fees_amount": "0.0000", "charging_ms": 0, "idle_ms": 0 }),
                json!({ "session": OVERSHOT, "energy_wh": 100, "billed_wh": 66, "overshoot_wh": 34,
                "billed": "0.1000", "overshoot": "0.0500", "fees_amount": "0.0000", "charging_ms": 0, "idle_ms": 0 })],
            telemetry: vec![ReadBack { charger: CHARGER.into(), from: 0, to: 1, samples: made(0, &registers) }],
            bounds: Bounds {
                rated_w: 120_000,
                max_price: 15_000,
                stop_time_ms: 1_000,
                worst_stop_ms: 18_000,
                max_in_flight: 30,
                max_resident_kib: 1_000,
            },
            node: NodeFigures {
                resident_peak_kib: 900,
                lanes: BTreeMap::from([("money".to_owned(), (7.0, 100.0))]),
                violations: BTreeMap::from([("POWER-1".to_owned(), 0.0)]),
                ..NodeFigures::default()
            },
        }
    }

    /// The first session costs 0.06 a minute, 0.60 an idle minute and at least 1.60. It charges for a minute, is
    /// paused for one and full for half of one; the debit had not heard of the pause.
    pub fn with_fees(mut self) -> Self {
        let fees = json!({ "flat": 0, "per_minute": 600, "idle_per_minute": 6_000, "idle_grace_s": 0,
                           "min": 16_000, "max": null });
        self.account_event(2, "held")["tariff"]["fees"] = fees;
        let debit = self.account_event(3, "debited");
        debit["time"] = json!({ "charging_ms": 120_000, "idle_ms": 0 });
        debit["cumulative"]["fees"] = json!(1_200);
        debit["fees"] = json!(1_200);
        let settled = self.account_event(4, "settled");
        settled["fees"] = json!(2_400);
        settled["settled"]["time"] = json!({ "charging_ms": 60_000, "idle_ms": 30_000 });
        settled["settled"]["cumulative"]["fees"] = json!(3_600);
        settled["settled"]["billed"] = json!(18_600);
        let frames = self.shards.get_mut(&STATION).expect("the shard");
        let told = [("paused", 60_002), ("full", 120_002)].map(|(flow, at)| {
            let event = json!({ "flow_changed": { "session": SESSION, "flow": flow, "at": at } });
            ("charger:main/c1".to_owned(), json!({ "charger": event }))
        });
        let stopped = json!({ "session_stopped": { "session": SESSION, "register": 6_000, "at": 150_002 } });
        let settled_in = frames.iter_mut().find(|frame| {
            frame.entries.iter().any(|(_, event)| event["charger"]["session_settled"]["session"] == SESSION)
        });
        let entries = &mut settled_in.expect("a frame").entries;
        let ended = ("charger:main/c1".to_owned(), json!({ "charger": stopped }));
        entries.splice(0..0, told.into_iter().chain([ended]));
        let record = &mut self.station_event("session_settled")["record"];
        (record["billed"], record["fees_amount"]) = (json!(18_600), json!(3_600));
        record["time"] = json!({ "charging_ms": 60_000, "idle_ms": 30_000 });
        (self.records[0]["billed"], self.records[0]["fees_amount"]) = (json!("1.8600"), json!("0.3600"));
        (self.records[0]["charging_ms"], self.records[0]["idle_ms"]) = (json!(60_000), json!(30_000));
        self.balances[0]["balance"] = json!(81_400);
        self.balances.push(json!({ "shard": "account-0003", "account": "fees:main/op:CNY", "currency": "CNY",
                                   "balance": 3_600 }));
        self
    }

    /// The event of an account frame, to change it.
    pub fn account_event(&mut self, lsn: usize, kind: &str) -> &mut Value {
        let frames = self.shards.get_mut(&ACCOUNT).expect("the shard");
        &mut frames[lsn - 1].entries.iter_mut().find(|(_, e)| e.get(kind).is_some()).expect("the event").1[kind]
    }

    /// The event of a station frame, to change it.
    pub fn station_event(&mut self, kind: &str) -> &mut Value {
        let frames = self.shards.get_mut(&STATION).expect("the shard");
        let mut events = frames.iter_mut().flat_map(|frame| frame.entries.iter_mut());
        let found = events.find(|(_, event)| event["charger"].get(kind).is_some());
        &mut found.expect("the event").1["charger"][kind]
    }

    /// Writes everything and judges it.
    pub fn judge(&self) -> (Findings, Tally) {
        let dir = tempfile::tempdir().expect("a directory");
        self.write(dir.path());
        judge(dir.path(), &dir.path().join("data")).expect("can be judged")
    }

    /// The violations of one invariant; nothing else may be violated.
    pub fn violations(&self, id: &str) -> Vec<String> {
        let (findings, _) = self.judge();
        for (other, outcome) in findings.all() {
            assert!(other == id || outcome.violations == 0, "{other}: {:?}", outcome.first);
        }
        findings.of(id).first
    }

    /// Writes everything into a run directory, the node's stores below it.
    pub fn write(&self, dir: &Path) {
        let (out, data) = (dir.join(OUT), dir.join("data"));
        std::fs::create_dir_all(&out).expect("made");
        std::fs::create_dir_all(&data).expect("made");
        let json = |name: &Path, value: &Value| std::fs::write(name, value.to_string()).expect("written");
        let lines = |name: &str, lines: &[Value]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(out.join(name), text).expect("written");
        };
        json(&dir.join(CONFIG), &fleet_config());
        json(&dir.join(ENROLMENTS), &json!({ "main/gw-01": 1 }));
        json(&dir.join(BALANCES), &json!(self.balances));
        json(&dir.join(RECORDS), &json!(self.records));
        json(&dir.join(TELEMETRY), &serde_json::to_value(&self.telemetry).expect("plain"));
        json(&dir.join(bounds::FILE), &serde_json::to_value(self.bounds).expect("plain"));
        json(&dir.join(METRICS), &serde_json::to_value(&self.node).expect("plain"));
        let promises: Vec<String> = self.promises.iter().map(|l| serde_json::to_string(l).expect("plain")).collect();
        std::fs::write(dir.join(evidence::FILE), promises.join("\n")).expect("written");
        lines("sessions.jsonl", &self.sessions);
        lines("commands.jsonl", &self.commands);
        lines("gateways.jsonl", &self.gateways);
        let limits = json!({ "limits": { "grid": 100_000, "cabinet": 50_000 } });
        lines("load.jsonl", &[vec![limits], self.load.clone()].concat());
        self.write_journal(&data);
        self.write_telemetry(&data);
    }

    fn write_journal(&self, data: &Path) {
        let db = Connection::open(data.join("journal.sqlite")).expect("opens");
        let tables = "CREATE TABLE heads(shard INTEGER, owner TEXT, epoch INTEGER, last_lsn INTEGER, last_hash BLOB);
            CREATE TABLE frames(shard INTEGER, lsn INTEGER, frame BLOB);";
        db.execute_batch(tables).expect("made");
        for ((code, name), frames) in &self.shards {
            let mut hash: [u8; 32] = Sha256::digest(format!("chargeplane/journal/{name}")).into();
            let (mut epoch, mut lsn) = (1, 0);
            for spec in frames {
                let (bytes, own) = encode(*code, spec, spec.prev.unwrap_or(hash));
                db.execute("INSERT INTO frames VALUES (?1, ?2, ?3)", params![code, spec.lsn as i64, bytes])
                    .expect("in");
                (hash, epoch, lsn) = (own, spec.epoch.max(epoch), spec.lsn);
            }
            let head = params![code, epoch as i64, lsn as i64, &hash[..]];
            db.execute("INSERT INTO heads VALUES (?1, 'n1', ?2, ?3, ?4)", head).expect("in");
        }
    }

    fn write_telemetry(&self, data: &Path) {
        // Chunks alternate between two days' files, as when a day ends while they grow.
        let days = ["20260101", "20260102"].map(|day| {
            let db = Connection::open(data.join(format!("telemetry-{day}.sqlite"))).expect("opens");
            db.execute_batch(DAY_TABLES).expect("made");
            db
        });
        for (at, (charger, incarnation, epoch, first, registers)) in self.chunks.iter().enumerate() {
            let day = &days[at % 2];
            day.execute("INSERT OR IGNORE INTO chargers(charger) VALUES (?1)", [charger]).expect("in");
            let row = params![charger, incarnation, (first / 256) as i64, *epoch as i64, chunk(*first, registers)];
            let insert = "INSERT INTO chunks SELECT number, ?2, ?3, ?4, ?5 FROM chargers WHERE charger = ?1";
            day.execute(insert, row).expect("in");
        }
        let db = Connection::open(data.join("telemetry.sqlite")).expect("opens");
        db.execute_batch(TELEMETRY_TABLES).expect("made");
        for (charger, incarnation, first, last) in &self.gaps {
            let row = params![charger, incarnation, *first as i64, *last as i64];
            db.execute("INSERT INTO gaps VALUES (?1, ?2, ?3, ?4)", row).expect("in");
        }
    }
}

const DAY_TABLES: &str = "
    CREATE TABLE chargers(number INTEGER PRIMARY KEY, charger TEXT UNIQUE);
    CREATE TABLE chunks(charger INTEGER, incarnation INTEGER, range INTEGER, epoch INTEGER, chunk BLOB);";

const TELEMETRY_TABLES: &str = "
    CREATE TABLE gaps(charger TEXT, incarnation INTEGER, first INTEGER, last INTEGER);";

/// A second in which the cut-off cabinet and the grid draw `watts`.
pub fn load_row(t: u64, watts: i64) -> Value {
    json!({ "t": t, "steps": 10, "load_w": watts, "limit_w": 100_000, "violations": 0,
            "nodes": { "grid": watts, "cabinet": watts },
            "over_granted": 0, "granted": { "grid": watts, "cabinet": watts } })
}

fn fleet_config() -> Value {
    json!({
        "limits": [{ "id": "grid", "limit_w": 100_000 }, { "id": "cabinet", "parent": "grid", "limit_w": 50_000 }],
        "chargers": [{ "id": CHARGER, "gateway": "main/gw-01", "child": 0, "fallback_w": 40_000, "limit": "cabinet" }],
        "cuts": [{ "gateway": "main/gw-01", "at_s": 5, "for_s": 45 }],
    })
}

fn promises() -> Vec<Line> {
    let answer = json!({ "account": "main/a1", "balance": "10.0000" });
    vec![
        Line::Opened { account: "main/a1".into(), key: "k0".into() },
        Line::TopUp { key: "k1".into(), account: "main/a1".into(), amount: 100_000, answer: answer.clone() },
        Line::Repeat { key: "k1".into(), first: answer.clone(), status: 200, again: answer },
        Line::Conflict { key: "k1".into(), status: 422, problem: "key_reused".into() },
        Line::Burst { sent: 50, done: 30, shed: 20, other: 0, unanswered: 0, in_hand: 30, node_changed: false },
        Line::Opened { account: "main/a2".into(), key: "k2".into() },
        Line::TopUp { key: "k3".into(), account: "main/a2".into(), amount: 1_000, answer: json!({}) },
        Line::Start {
            key: "s1".into(),
            charger: CHARGER.into(),
            account: "main/a2".into(),
            status: 201,
            session: Some(OVERSHOT.into()),
        },
        Line::StartRepeat { key: "s1".into(), session: OVERSHOT.into(), status: 201, again: Some(OVERSHOT.into()) },
        Line::Stop { key: "s2".into(), session: OVERSHOT.into(), status: 202 },
    ]
}

fn encode(code: i64, spec: &FrameSpec, prev: [u8; 32]) -> (Vec<u8>, [u8; 32]) {
    let entries = spec.entries.iter().map(|(key, event)| json!({ "entity": { "key": key, "event": event } }));
    let payload = packed(&json!({ "v": 1, "entries": entries.collect::<Vec<Value>>() }));
    let mut bytes = vec![1, (code >> 16) as u8];
    bytes.extend(((code & 0xffff) as u16).to_le_bytes());
    bytes.extend(spec.epoch.to_le_bytes());
    bytes.extend(spec.lsn.to_le_bytes());
    bytes.extend(0i64.to_le_bytes());
    bytes.extend(prev);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    let hash = Sha256::digest(&bytes).into();
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    if spec.rotten {
        bytes[70] ^= 1;
    }
    (bytes, hash)
}

fn packed(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &to_mp(value)).expect("a vector takes everything");
    bytes
}

fn to_mp(value: &Value) -> Mp {
    match value {
        Value::Null => Mp::Nil,
        Value::Bool(b) => Mp::from(*b),
        Value::Number(n) => Mp::from(n.as_i64().expect("integers only")),
        Value::String(text) => Mp::from(text.as_str()),
        Value::Array(items) => Mp::Array(items.iter().map(to_mp).collect()),
        Value::Object(map) => Mp::Map(map.iter().map(|(k, v)| (Mp::from(k.as_str()), to_mp(v))).collect()),
    }
}

fn varint(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn zigzag(value: i64) -> u128 {
    u128::from(((value << 1) ^ (value >> 63)).cast_unsigned())
}

/// A chunk whose registers are stored as deltas and whose other columns are constant.
pub fn chunk(first: u64, registers: &[i64]) -> Vec<u8> {
    let constant = |value| vec![value; registers.len()];
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(constant);
    let run = [0, (first % 256) as u8, (registers.len() - 1) as u8];
    chunk_of(first / 256, &run, &[a, b, c, d, e, f, registers.to_vec()], None)
}

/// A chunk of any presence and columns; columns that are not constant as deltas, or as Rice codes of this predictor.
pub fn chunk_of(range: u64, presence: &[u8], columns: &[Vec<i64>; 7], rice: Option<Rice<'_>>) -> Vec<u8> {
    let mut bytes = vec![2];
    varint(&mut bytes, u128::from(range));
    bytes.extend(presence);
    let least = |column: &Vec<i64>| column.iter().min().copied().unwrap_or(0);
    for column in columns {
        let (min, max) = (least(column), column.iter().max().copied().unwrap_or(0));
        varint(&mut bytes, zigzag(min));
        varint(&mut bytes, u128::from(max.abs_diff(min)));
        varint(&mut bytes, column.iter().map(|value| u128::from(value.abs_diff(min))).sum());
    }
    for (index, column) in columns.iter().enumerate() {
        let min = least(column);
        if column.iter().all(|value| *value == min) {
            bytes.push(0);
            continue;
        }
        let of_power: Vec<i64> = columns[1].iter().zip(&columns[2]).map(|(v, i)| v * i / 100).collect();
        let (method, packed) = match rice {
            None => (1, deltas(column, min)),
            Some(rice) => (2, rice.codes(column, min, (index == 5 && rice.product).then_some(&of_power))),
        };
        bytes.push(method);
        varint(&mut bytes, packed.len() as u128);
        bytes.extend(packed);
    }
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// How a test writes Rice codes: any predictor and slope give the same values back.
#[derive(Clone, Copy)]
pub struct Rice<'a> {
    pub places: &'a [u64],
    pub predictor: u8,
    pub slope: i64,
    pub product: bool,
    pub k: u64,
}

impl Rice<'_> {
    fn codes(&self, column: &[i64], min: i64, product: Option<&Vec<i64>>) -> Vec<u8> {
        let mut bytes = vec![self.predictor | if product.is_some() { 128 } else { 0 }];
        if self.predictor > 0 {
            varint(&mut bytes, zigzag(self.slope));
        }
        if product.is_some() {
            varint(&mut bytes, zigzag(-3));
        }
        let (line, count) = (self.predictor == 2, column.len() as i64);
        let rest = |at: usize| column[at].wrapping_sub(product.map_or(if line { min } else { 0 }, |p| p[at]));
        let places: i64 = self.places.iter().map(|place| *place as i64).sum();
        let above = (0..column.len()).fold(0i64, |sum, at| sum.wrapping_add(column[at].wrapping_sub(min)));
        let level = match (product, line) {
            (Some(_), true) => -3 * 4_096,
            (Some(_), false) => -3,
            (None, true) => (above.wrapping_mul(4_096).wrapping_sub(self.slope * places)).div_euclid(count) + 2_048,
            (None, false) => min,
        };
        let mut bits: Vec<bool> = Vec::new();
        for at in 0..column.len() {
            if at % 64 == 0 {
                bits.extend((0..6).map(|place| self.k >> place & 1 == 1));
            }
            let place = self.places[at] as i64;
            let predicted = match (self.predictor, at) {
                (2, _) => level.wrapping_add(self.slope * place) >> 12,
                (_, 0) => level,
                (1, _) => rest(at - 1).wrapping_add((self.slope * (place - self.places[at - 1] as i64)) >> 12),
                _ => rest(at - 1),
            };
            let missed = zigzag(rest(at).wrapping_sub(predicted)) as u64;
            if missed >> self.k < 24 {
                bits.extend((0..missed >> self.k).map(|_| true));
                bits.push(false);
                bits.extend((0..self.k).map(|place| missed >> place & 1 == 1));
            } else {
                bits.extend([true; 24]);
                bits.extend((0..64).map(|place| missed >> place & 1 == 1));
            }
        }
        let byte = |bits: &[bool]| bits.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit) << at);
        bytes.extend(bits.chunks(8).map(byte));
        bytes
    }
}

fn deltas(values: &[i64], min: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut before = min;
    for value in values {
        varint(&mut bytes, zigzag(value.wrapping_sub(before)));
        before = *value;
    }
    bytes
}
