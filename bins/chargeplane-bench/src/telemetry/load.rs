//! The node under load, in a process of its own until the parent kills it.
//!
//! One thread makes sealed batches, two hand them to the node's bridge, as the task of a link to a broker would; what
//! the node sends down is opened with the gateways' keys and counted. The maker stops while the node has much in
//! hand, so that a run without a rate finds the rate by itself.

use super::broker::{self, Gateways};
use super::curve::{Curve, TYPICAL};
use super::world::{self, BATCH, CHILDREN, LATE_BY, RUN};
use anyhow::Context;
use bytes::Bytes;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::NodeConfig;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::units::Timestamp;
use chargeplane_mqtt::MqttLink;
use chargeplane_protocol::envelope::{Header, Keyring};
use chargeplane_protocol::link::{Link, LinkEvent, LinkRefused, LinkSink};
use chargeplane_protocol::message::{Down, GatewayEvent, NumberedEvent, SampleRun, Stream, UpBatch};
use chargeplane_protocol::{topic, wire};
use hdrhistogram::Histogram;
use metrics::{Counter, Gauge, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the child writes down what was acknowledged.
const NOTE_EVERY: Duration = Duration::from_millis(200);

/// Samples on their way through the actors' mailboxes at most: half of what the lanes let in.
const IN_MAILBOXES: u64 = 200_000;

/// Samples that were taken in and are not durable, at most: below what the node refuses at.
const IN_MEMORY: u64 = 12_000_000;

/// Events a second while events are timed.
const EVENTS_PER_S: u64 = 100;

#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    #[arg(long)]
    data_dir: PathBuf,
    /// Where the acknowledged sequences are noted
    #[arg(long)]
    acknowledged: PathBuf,
    #[arg(long)]
    chargers: usize,
    /// Samples a second; 0 is as many as it takes
    #[arg(long)]
    rate: u64,
    /// Seconds before the measurement
    #[arg(long)]
    warm: u64,
    /// Seconds of the measurement
    #[arg(long)]
    seconds: u64,
    /// Time events as well
    #[arg(long)]
    events: bool,
    /// `host:port` of a broker between the gateways and the node
    #[arg(long)]
    broker: Option<String>,
}

/// What the child says of its run.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    pub start_ms: i64,
    pub samples_per_s: f64,
    pub offered_per_s: f64,
    pub shed: u64,
    pub duplicates: u64,
    pub chunks_per_s: f64,
    /// Processor time of the process, without that of the thread that makes batches, in cores.
    pub node_cores: f64,
    pub maker_cores: f64,
    pub disk_busy_ratio: Option<f64>,
    pub disk_flushes_per_s: Option<f64>,
    pub rss_bytes_per_charger: f64,
    pub sample_ack_ms_p50: f64,
    pub sample_ack_ms_p99: f64,
    pub event_ack_ms_p50: Option<f64>,
    pub event_ack_ms_p99: Option<f64>,
    pub events: u64,
}

/// The child: load until it is killed.
pub fn run_node(args: &NodeArgs) -> anyhow::Result<()> {
    let counters: &'static Counters = Box::leak(Box::default());
    metrics::set_global_recorder(counters).map_err(|_| anyhow::anyhow!("a recorder is there already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(load(args, counters))
}

async fn load(args: &NodeArgs, counters: &'static Counters) -> anyhow::Result<()> {
    let ports = world::ports(&args.data_dir).await?;
    world::populate(&*ports.catalogue, args.chargers).await?;
    let node = Node::start(NodeConfig::new("bench"), ports).await?;
    world::ready(&node).await?;
    let gateways = args.chargers.div_ceil(CHILDREN);
    let down = Arc::new(Acknowledged::new(gateways)?);
    let link: Arc<dyn Link> = match &args.broker {
        Some(address) => broker::connect(address, "bench-node", node.link_sink())?,
        None => Arc::new(Downstream(Arc::clone(&down))),
    };
    node.attach_link(link)?;
    let lines = lines(&node, args, &down)?;
    let empty_rss = rss_bytes();
    // An hour ago: stamps run ahead of the clock when chargers are sampled faster than they would be.
    let start_ms = wall_ms()? - 3_600_000;
    let sent = Arc::new(Sent::default());
    start_load(lines, args, start_ms, counters, &down, &sent)?;
    note(Arc::clone(&down), args.acknowledged.clone());
    if args.events {
        tokio::spawn(send_events(node.link_sink(), Arc::clone(&down), gateways));
    }
    tokio::time::sleep(Duration::from_secs(args.warm)).await;
    down.reset_times();
    let disk = Disk::of(&args.data_dir);
    let before = Reading::take(&down, counters, &sent, disk.as_ref());
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let after = Reading::take(&down, counters, &sent, disk.as_ref());
    let figures = figures(&before, &after, &down, counters, start_ms, (rss_bytes() - empty_rss) / args.chargers as f64);
    println!("{}", serde_json::to_string(&figures)?);
    std::future::pending::<()>().await;
    Ok(())
}

fn wall_ms() -> anyhow::Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_millis())?)
}

fn figures(
    before: &Reading,
    after: &Reading,
    down: &Acknowledged,
    counters: &Counters,
    start_ms: i64,
    rss_bytes_per_charger: f64,
) -> Figures {
    let seconds = (after.at - before.at).as_secs_f64();
    let rate = |of: fn(&Reading) -> u64| (of(after) - of(before)) as f64 / seconds;
    let maker = (after.maker_s - before.maker_s) / seconds;
    let ms = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    let lock = |times: &Mutex<Histogram<u64>>| times.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (of_samples, of_events) = (lock(&down.sample_times), lock(&down.event_times));
    let of_event = |quantile| (!of_events.is_empty()).then(|| ms(&of_events, quantile));
    let of_disk =
        |of: fn(&DiskReading) -> u64| Some((of(after.disk.as_ref()?) - of(before.disk.as_ref()?)) as f64 / seconds);
    Figures {
        start_ms,
        samples_per_s: rate(|reading| reading.acknowledged),
        offered_per_s: rate(|reading| reading.sent),
        shed: counters.shed.load(Ordering::Relaxed),
        duplicates: counters.duplicate.load(Ordering::Relaxed),
        chunks_per_s: rate(|reading| reading.chunks),
        node_cores: (after.process_s - before.process_s) / seconds - maker,
        maker_cores: maker,
        disk_busy_ratio: of_disk(|disk| disk.busy_ms).map(|ms| ms / 1e3),
        disk_flushes_per_s: of_disk(|disk| disk.flushes),
        rss_bytes_per_charger,
        sample_ack_ms_p50: ms(&of_samples, 0.5),
        sample_ack_ms_p99: ms(&of_samples, 0.99),
        event_ack_ms_p50: of_event(0.5),
        event_ack_ms_p99: of_event(0.99),
        events: of_events.len(),
    }
}

/// What the generator counts.
#[derive(Default)]
struct Sent {
    samples: AtomicU64,
    /// Processor time of the thread that makes batches, in microseconds.
    maker_us: AtomicU64,
}

/// A moment's counts.
struct Reading {
    at: Instant,
    acknowledged: u64,
    sent: u64,
    chunks: u64,
    process_s: f64,
    maker_s: f64,
    disk: Option<DiskReading>,
}

impl Reading {
    fn take(down: &Acknowledged, counters: &Counters, sent: &Sent, disk: Option<&Disk>) -> Self {
        Self {
            at: Instant::now(),
            acknowledged: down.samples.load(Ordering::Relaxed),
            sent: sent.samples.load(Ordering::Relaxed),
            chunks: counters.chunks.load(Ordering::Relaxed),
            process_s: cpu_s("/proc/self/stat"),
            maker_s: sent.maker_us.load(Ordering::Relaxed) as f64 / 1e6,
            disk: disk.and_then(Disk::read),
        }
    }
}

/// User and system time in a stat file, which counts hundredths of a second.
fn cpu_s(stat: &str) -> f64 {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn rss_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// The block device below a directory, where it has one.
struct Disk(String);

struct DiskReading {
    busy_ms: u64,
    flushes: u64,
}

impl Disk {
    fn of(dir: &Path) -> Option<Self> {
        let device = rustix::fs::stat(dir).ok()?.st_dev;
        let name = format!("{} {}", rustix::fs::major(device), rustix::fs::minor(device));
        let disk = Self(name);
        disk.read().map(|_| disk)
    }

    /// Columns of `/proc/diskstats`: milliseconds doing I/O, and flush requests.
    fn read(&self) -> Option<DiskReading> {
        let text = std::fs::read_to_string("/proc/diskstats").ok()?;
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let device = format!("{} {}", fields.first()?, fields.get(1)?);
            let field = |at: usize| fields.get(at)?.parse().ok();
            (device == self.0).then_some(DiskReading { busy_ms: field(12)?, flushes: field(18)? })
        })
    }
}

/// The node's counters that the load is steered and judged by.
#[derive(Default)]
struct Counters {
    accepted: Arc<AtomicU64>,
    duplicate: Arc<AtomicU64>,
    stored: Arc<AtomicU64>,
    chunks: Arc<AtomicU64>,
    shed: Arc<AtomicU64>,
}

impl Recorder for &'static Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let counter = match key.name() {
            "chargeplane_samples_accepted_total" => &self.accepted,
            "chargeplane_samples_duplicate_total" => &self.duplicate,
            "chargeplane_samples_stored_total" => &self.stored,
            "chargeplane_chunks_written_total" => &self.chunks,
            "chargeplane_shed_total" => &self.shed,
            _ => return Counter::noop(),
        };
        Counter::from_arc(Arc::clone(counter))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

/// One gateway as the generator drives it.
struct Source {
    number: usize,
    keys: Arc<Keyring>,
    fast: Arc<str>,
    replay: Arc<str>,
    curves: Vec<Curve>,
    turn: u64,
    fast_seq: u64,
    replay_seq: u64,
    late: VecDeque<(u64, UpBatch)>,
}

struct Packet {
    gateway: usize,
    topic: Arc<str>,
    bytes: Bytes,
    /// For the time to its acknowledgement: sequence and stream of a batch that is sent for the first time.
    first: Option<(Stream, u64)>,
}

impl Source {
    fn new(number: usize, keys: Arc<Keyring>, start_ms: i64) -> anyhow::Result<Self> {
        Ok(Self {
            number,
            keys,
            fast: world::topic_of(number, Stream::Fast)?.into(),
            replay: world::topic_of(number, Stream::Replay)?.into(),
            curves: (0..CHILDREN).map(|child| Curve::new(number * CHILDREN + child, TYPICAL, start_ms)).collect(),
            turn: 0,
            fast_seq: 0,
            replay_seq: 0,
            late: VecDeque::new(),
        })
    }

    /// Makes the next batch, and hands out what is due: it, a late one, one of them again.
    fn turn(&mut self, out: &mut Vec<Packet>) -> anyhow::Result<()> {
        let turn = self.turn;
        self.turn += 1;
        let (children, first_number) = world::content(turn);
        let curves = self.curves.get_mut(children.clone()).context("children")?;
        let runs = children.zip(curves).map(|(child, curve)| {
            let samples = (0..RUN).map(|_| curve.next()).collect();
            SampleRun { child: child as u16, first_number, samples }
        });
        let batch = UpBatch::Samples { runs: runs.collect(), gaps: Vec::new() };
        if world::is_late(self.number, turn) {
            self.late.push_back((turn, batch));
        } else {
            self.fast_seq += 1;
            self.send(Stream::Fast, self.fast_seq, turn, &batch, out)?;
        }
        while self.late.front().is_some_and(|(late, _)| late + LATE_BY <= turn) {
            if let Some((late, batch)) = self.late.pop_front() {
                self.replay_seq += 1;
                self.send(Stream::Replay, self.replay_seq, late, &batch, out)?;
            }
        }
        Ok(())
    }

    fn send(&self, stream: Stream, seq: u64, turn: u64, batch: &UpBatch, out: &mut Vec<Packet>) -> anyhow::Result<()> {
        let header = Header { boot: world::BOOT, seq, items: BATCH as u16, ..Header::default() };
        let bytes = Bytes::from(self.keys.seal_up(stream, header, &wire::encode_up(batch))?);
        let topic = if stream == Stream::Fast { &self.fast } else { &self.replay };
        let packet = |first| Packet { gateway: self.number, topic: Arc::clone(topic), bytes: bytes.clone(), first };
        out.push(packet(Some((stream, seq))));
        if world::is_repeated(self.number, turn) {
            out.push(packet(None));
        }
        Ok(())
    }
}

/// Where a feeder hands its batches.
enum Line {
    /// Straight to the node's bridge.
    Bridge(Arc<dyn LinkSink>),
    /// To a broker.
    Broker(Arc<MqttLink>),
}

impl Line {
    fn hand(&self, topic: &str, payload: Bytes) {
        match self {
            Self::Bridge(sink) => sink.on_event(LinkEvent::Message { topic: topic.to_owned(), payload }),
            Self::Broker(link) => {
                broker::publish(link, topic, &payload);
            }
        }
    }
}

/// Feeders of a run.
const FEEDERS: usize = 2;

fn lines(node: &Node, args: &NodeArgs, down: &Arc<Acknowledged>) -> anyhow::Result<Vec<Line>> {
    let line = |part: usize| -> anyhow::Result<Line> {
        let Some(address) = &args.broker else { return Ok(Line::Bridge(node.link_sink())) };
        let link = broker::connect(address, &format!("bench-gateways-{part}"), Arc::new(Gateways(Arc::clone(down))))?;
        broker::subscribe(&link, part, FEEDERS, args.chargers.div_ceil(CHILDREN))?;
        Ok(Line::Broker(link))
    };
    (0..FEEDERS).map(line).collect()
}

fn start_load(
    lines: Vec<Line>,
    args: &NodeArgs,
    start_ms: i64,
    counters: &'static Counters,
    down: &Arc<Acknowledged>,
    sent: &Arc<Sent>,
) -> anyhow::Result<()> {
    let mut feeders = Vec::new();
    for (feeder, line) in lines.into_iter().enumerate() {
        let (packets, queue) = sync_channel(256);
        let down = Arc::clone(down);
        std::thread::Builder::new().name(format!("feeder-{feeder}")).spawn(move || feed(&queue, &line, &down))?;
        feeders.push(packets);
    }
    let mut sources = Vec::new();
    for (number, keys) in down.keys.iter().enumerate() {
        sources.push(Source::new(number, Arc::clone(keys), start_ms)?);
    }
    let (rate, sent) = (args.rate, Arc::clone(sent));
    std::thread::Builder::new().name("maker".to_owned()).spawn(move || {
        if let Err(error) = make(sources, &feeders, rate, counters, &sent) {
            eprintln!("the generator ended: {error:#}");
            std::process::exit(1);
        }
    })?;
    Ok(())
}

fn make(
    mut sources: Vec<Source>,
    feeders: &[SyncSender<Packet>],
    rate: u64,
    counters: &Counters,
    sent: &Sent,
) -> anyhow::Result<()> {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (began, mut made, mut packets) = (Instant::now(), 0u64, Vec::new());
    loop {
        for source in &mut sources {
            loop {
                let taken = load(&counters.accepted) + load(&counters.duplicate);
                let ahead = rate > 0 && made as f64 > began.elapsed().as_secs_f64() * rate as f64;
                let full = load(&sent.samples).saturating_sub(taken) > IN_MAILBOXES
                    || load(&counters.accepted).saturating_sub(load(&counters.stored)) > IN_MEMORY;
                if !ahead && !full {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            source.turn(&mut packets)?;
            made += BATCH as u64;
            for packet in packets.drain(..) {
                sent.samples.fetch_add(BATCH as u64, Ordering::Relaxed);
                let feeder = feeders.get(packet.gateway % feeders.len()).context("a feeder")?;
                feeder.send(packet)?;
            }
        }
        sent.maker_us.store((cpu_s("/proc/thread-self/stat") * 1e6) as u64, Ordering::Relaxed);
    }
}

fn feed(queue: &Receiver<Packet>, line: &Line, down: &Acknowledged) {
    while let Ok(Packet { gateway, topic, bytes, first }) = queue.recv() {
        if let Some((stream, seq)) = first {
            down.sent(gateway, stream, seq);
        }
        line.hand(&topic, bytes);
    }
}

/// What the node has acknowledged, as the gateways see it.
pub struct Acknowledged {
    keys: Vec<Arc<Keyring>>,
    numbers: HashMap<String, usize>,
    /// Highest sequence of the fast and of the replay stream.
    upto: Vec<[AtomicU64; 2]>,
    samples: AtomicU64,
    /// Every so many batches one is timed.
    probes: Vec<Mutex<VecDeque<(Stream, u64, Instant)>>>,
    sample_times: Mutex<Histogram<u64>>,
    event_times: Mutex<Histogram<u64>>,
    timing: AtomicBool,
}

/// Of so many batches one is timed.
const TIMED: u64 = 16;

impl Acknowledged {
    fn new(gateways: usize) -> anyhow::Result<Self> {
        let keys: anyhow::Result<Vec<_>> = (0..gateways).map(|number| Ok(Arc::new(world::keys(number)?))).collect();
        let number = |number| Ok((world::gateway(number)?.to_string(), number));
        let times = || Histogram::new_with_max(600_000_000, 3);
        Ok(Self {
            keys: keys?,
            numbers: (0..gateways).map(number).collect::<anyhow::Result<_>>()?,
            upto: (0..gateways).map(|_| Default::default()).collect(),
            samples: AtomicU64::new(0),
            probes: (0..gateways).map(|_| Mutex::default()).collect(),
            sample_times: Mutex::new(times()?),
            event_times: Mutex::new(times()?),
            timing: AtomicBool::new(false),
        })
    }

    fn reset_times(&self) {
        for times in [&self.sample_times, &self.event_times] {
            times.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
        self.timing.store(true, Ordering::Relaxed);
    }

    fn sent(&self, gateway: usize, stream: Stream, seq: u64) {
        if (seq.is_multiple_of(TIMED) || stream == Stream::Events)
            && let Some(probes) = self.probes.get(gateway)
        {
            probes.lock().unwrap_or_else(PoisonError::into_inner).push_back((stream, seq, Instant::now()));
        }
    }

    /// Takes what came down to a gateway.
    pub fn take(&self, topic: &str, payload: &[u8]) {
        let Ok(topic::Topic::Down { gateway, .. }) = topic::parse(topic) else { return };
        let Some(number) = self.numbers.get(gateway.as_str()).copied() else { return };
        let opened = self.keys.get(number).and_then(|keys| keys.open_down(payload).ok());
        if let Some(Ok(Down::Ack(ack))) = opened.map(|opened| wire::decode_down(&opened.plain))
            && ack.boot == BootId::new(world::KEY_EPOCH, world::BOOT)
        {
            self.acknowledged(number, ack.stream, ack.upto_seq);
        }
    }

    fn acknowledged(&self, gateway: usize, stream: Stream, upto: u64) {
        if let (Some(place), Some(cursors)) = (place_of(stream), self.upto.get(gateway)) {
            let before = cursors[place].fetch_max(upto, Ordering::Relaxed);
            self.samples.fetch_add(upto.saturating_sub(before) * BATCH as u64, Ordering::Relaxed);
        }
        let Some(probes) = self.probes.get(gateway) else { return };
        let times = if stream == Stream::Events { &self.event_times } else { &self.sample_times };
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        probes.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, seq, at)| {
            let done = *of == stream && *seq <= upto;
            if done {
                times.saturating_record(at.elapsed().as_micros() as u64);
            }
            !done
        });
    }
}

fn place_of(stream: Stream) -> Option<usize> {
    match stream {
        Stream::Fast => Some(0),
        Stream::Replay => Some(1),
        _ => None,
    }
}

/// The link, seen from the node.
struct Downstream(Arc<Acknowledged>);

impl Link for Downstream {
    fn publish(&self, topic: &str, payload: Bytes, _: bool) -> Result<(), LinkRefused> {
        self.0.take(topic, &payload);
        Ok(())
    }

    fn subscribe(&self, _: &str) -> Result<(), LinkRefused> {
        Ok(())
    }
}

/// Events beside the samples, each of another gateway, one after the other in each.
async fn send_events(sink: Arc<dyn LinkSink>, down: Arc<Acknowledged>, gateways: usize) -> anyhow::Result<()> {
    let mut seqs = vec![0u64; gateways];
    let mut every = tokio::time::interval(Duration::from_micros(1_000_000 / EVENTS_PER_S));
    for turn in 0usize.. {
        every.tick().await;
        let number = turn * 7 % gateways;
        let (Some(seq), Some(keys)) = (seqs.get_mut(number), down.keys.get(number)) else { continue };
        *seq += 1;
        let at = Timestamp(wall_ms()?);
        let event = GatewayEvent::StatusChanged { child: 0, plugged: seq.is_multiple_of(2), available: true, at };
        let batch = UpBatch::Events(vec![NumberedEvent { number: *seq, event }]);
        let header = Header { boot: world::BOOT, seq: *seq, items: 1, ..Header::default() };
        let payload = Bytes::from(keys.seal_up(Stream::Events, header, &wire::encode_up(&batch))?);
        down.sent(number, Stream::Events, *seq);
        sink.on_event(LinkEvent::Message { topic: world::topic_of(number, Stream::Events)?, payload });
    }
    Ok(())
}

/// Writes down what was acknowledged, again and again.
fn note(down: Arc<Acknowledged>, path: PathBuf) {
    tokio::task::spawn_blocking(move || {
        loop {
            let upto: Vec<[u64; 2]> =
                down.upto.iter().map(|of| [0, 1].map(|at| of[at].load(Ordering::Relaxed))).collect();
            let written = serde_json::to_vec(&upto).map_err(anyhow::Error::from).and_then(|bytes| {
                let fresh = path.with_extension("new");
                std::fs::write(&fresh, bytes)?;
                Ok(std::fs::rename(&fresh, &path)?)
            });
            if let Err(error) = written {
                eprintln!("cannot note what was acknowledged: {error:#}");
                std::process::exit(1);
            }
            std::thread::sleep(NOTE_EVERY);
        }
    });
}
