//! A station of 2,000 chargers through a whole node and real gateway cores, in real time: how soon commands follow a
//! cut of the limit, and how much of a tight limit is used.
//!
//! The node has its stores in a temporary directory and HiGHS on a thread; gateways and node exchange sealed messages
//! over a link within the process. Cars take what is in force at their charger, at most what they want.

use anyhow::Context;
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_domain::catalogue::{Catalogue, Charger, Gateway, LimitNode, Station};
use chargeplane_domain::ids::{ChargerId, GatewayId, StationId};
use chargeplane_domain::tariff::fees::Fees;
use chargeplane_domain::tariff::{PERIODS, Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours, Watts};
use chargeplane_edge::config::ChildConfig;
use chargeplane_edge::{ChargerStatus, Effect, GatewayConfig, GatewayCore, MemoryRing, Now};
use chargeplane_highs::HighsSolver;
use chargeplane_protocol::GatewayKey;
use chargeplane_protocol::link::{Link, LinkEvent, LinkRefused, LinkSink};
use chargeplane_sqlite::{DataDir, Stores};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const GATEWAYS: usize = 20;
const CHARGERS: usize = 100;
const RATED_W: i64 = 120_000;
const MIN_W: i64 = 12_000;
const BASE_W: i64 = 400_000;

/// The catalogue's limit: all cars at once.
const GRID_W: i64 = (GATEWAYS * CHARGERS) as i64 * RATED_W + BASE_W;

/// The gateways look at their inputs so often.
const STEP: Duration = Duration::from_millis(10);

/// One in so many cars wants something else every second.
const CHANGES: u32 = 10;

/// What came of the two measurements.
pub struct Measured {
    /// From the call that cuts the limit by 30 % to the publication after which all that was granted is within it.
    pub cut_ms: Vec<f64>,
    /// Power drawn, to the limit less base load and mandatory reserve, by share of the demand in percent.
    pub use_of_limit: Vec<(u32, f64)>,
}

/// Runs a station; `cuts` of its limit are measured, and its use for `seconds` at each of some limits.
pub fn measure(cuts: u32, seconds: u32) -> anyhow::Result<Measured> {
    let dir = tempfile::tempdir()?;
    // Dropped before the directory: the node's actors end with their runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut world = World::start(dir.path()).await?;
        let measured = world.measure(cuts, seconds).await;
        world.node.drain().await;
        measured
    })
}

/// What the node publishes, with the moment it did.
struct Wire(Mutex<Sender<(Instant, String, Vec<u8>)>>);

impl Link for Wire {
    fn publish(&self, topic: &str, payload: bytes::Bytes, _qos1: bool) -> Result<(), LinkRefused> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send((Instant::now(), topic.to_owned(), payload.to_vec())).map_err(|_| LinkRefused::Closed)
    }

    fn subscribe(&self, _filter: &str) -> Result<(), LinkRefused> {
        Ok(())
    }
}

struct Car {
    demand: i64,
    in_force: i64,
}

struct World {
    node: Node,
    sink: Arc<dyn LinkSink>,
    published: Receiver<(Instant, String, Vec<u8>)>,
    gateways: Vec<GatewayCore>,
    /// Which gateway a topic is for.
    topics: BTreeMap<String, usize>,
    cars: Vec<Vec<Car>>,
    began: Instant,
    dice: ChaCha8Rng,
}

impl World {
    async fn start(data: &Path) -> anyhow::Result<Self> {
        let node = start_node(data).await?;
        let (sender, published) = channel();
        node.attach_link(Arc::new(Wire(Mutex::new(sender))))?;
        let sink = node.link_sink();
        sink.on_event(LinkEvent::Connected { session: 1 });
        let handle = node.handle();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !handle.readiness().ready {
            anyhow::ensure!(Instant::now() < deadline, "the node is not ready: {:?}", handle.readiness().reasons);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        handle.apply_catalogue(catalogue()?, false).await?;
        let (began, mut dice) = (Instant::now(), ChaCha8Rng::seed_from_u64(7));
        let (mut gateways, mut topics) = (Vec::new(), BTreeMap::new());
        for at in 0..GATEWAYS {
            let core = enroll(&handle, at, clocks(began)).await?;
            topics.insert(chargeplane_protocol::topic::down(&core.config().gateway, core.config().shard), at);
            gateways.push(core);
        }
        let car = |dice: &mut ChaCha8Rng| Car { demand: demand(dice), in_force: 0 };
        let cars = (0..GATEWAYS).map(|_| (0..CHARGERS).map(|_| car(&mut dice)).collect()).collect();
        Ok(Self { node, sink, published, gateways, topics, cars, began, dice })
    }

    async fn measure(&mut self, cuts: u32, seconds: u32) -> anyhow::Result<Measured> {
        // First grants, and the first ceilings.
        self.run(Duration::from_secs(15), &mut |_, _| ()).await?;
        let mut use_of_limit = Vec::new();
        for share in [40, 60, 80] {
            let room = self.demand() * i64::from(share) / 100;
            self.set_limit(room + BASE_W).await?;
            self.run(Duration::from_secs(10), &mut |_, _| ()).await?;
            let (mut drawn, mut looks) = (0, 0);
            for _ in 0..seconds {
                self.change_some();
                self.run(Duration::from_secs(1), &mut |_, _| ()).await?;
                drawn += self.drawn();
                looks += 1;
            }
            let mean = drawn as f64 / f64::from(looks.max(1));
            use_of_limit.push((share, mean / room as f64));
        }
        let mut cut_ms = Vec::new();
        for _ in 0..cuts {
            let before = self.demand() * 7 / 10;
            self.set_limit(before + BASE_W).await?;
            let settle = Duration::from_millis(3_000 + self.dice.random_range(0..1_000));
            self.run(settle, &mut |_, _| ()).await?;
            cut_ms.push(self.cut(before * 7 / 10).await?);
        }
        Ok(Measured { cut_ms, use_of_limit })
    }

    /// Cuts the limit and waits until all that was granted is within it. Milliseconds from the call.
    async fn cut(&mut self, room: i64) -> anyhow::Result<f64> {
        let handle = self.node.handle();
        let asked = Instant::now();
        let call = tokio::spawn(async move {
            handle.set_limit(&station()?, "grid", Some(Watts(room + BASE_W)), "*").await.map_err(anyhow::Error::from)
        });
        let mut within = None;
        for _ in 0..100 {
            self.run(Duration::from_millis(50), &mut |sent, granted| {
                if granted <= room && within.is_none() {
                    within = Some(sent);
                }
            })
            .await?;
            if within.is_some() {
                break;
            }
        }
        call.await??;
        let within = within.context("5 s after the cut more is granted than the limit allows")?;
        Ok(within.saturating_duration_since(asked).as_secs_f64() * 1e3)
    }

    async fn set_limit(&self, watts: i64) -> anyhow::Result<()> {
        Ok(self.node.handle().set_limit(&station()?, "grid", Some(Watts(watts.min(GRID_W))), "*").await?)
    }

    /// Lets gateways and cars go on. `granted` is told of every message of the node: when it was published, and the
    /// sum of what is in force with it.
    async fn run(&mut self, time: Duration, granted: &mut impl FnMut(Instant, i64)) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step(granted)?;
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    fn step(&mut self, granted: &mut impl FnMut(Instant, i64)) -> anyhow::Result<()> {
        let now = clocks(self.began);
        while let Ok((sent, topic, payload)) = self.published.try_recv() {
            let Some(at) = self.topics.get(&topic).copied() else { continue };
            self.gateways[at].on_message(now, &topic, &payload);
            self.drain(at, now)?;
            granted(sent, self.in_force());
        }
        for at in 0..self.gateways.len() {
            for (child, car) in self.cars[at].iter().enumerate() {
                let (demand, power) = (Watts(car.demand), Watts(car.demand.min(car.in_force)));
                let status = ChargerStatus { charging: true, demand, power, register: WattHours(0), session: None };
                self.gateways[at].on_status(now, child as u16, status);
            }
            self.drain(at, now)?;
        }
        Ok(())
    }

    fn drain(&mut self, at: usize, now: Now) -> anyhow::Result<()> {
        let mut effects = Vec::new();
        self.gateways[at].drain(now, &mut effects)?;
        for effect in effects {
            match effect {
                Effect::Publish { topic, payload, .. } => {
                    self.sink.on_event(LinkEvent::Message { topic: topic.to_string(), payload });
                }
                Effect::SetLimit { child, watts, .. } => {
                    if let Some(car) = self.cars[at].get_mut(usize::from(child)) {
                        car.in_force = watts.0;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn change_some(&mut self) {
        let dice = &mut self.dice;
        for car in self.cars.iter_mut().flatten() {
            if dice.random_range(0..CHANGES) == 0 {
                car.demand = (car.demand + dice.random_range(-3_000..=3_000)).clamp(MIN_W, RATED_W);
            }
        }
    }

    fn demand(&self) -> i64 {
        self.cars.iter().flatten().map(|car| car.demand).sum()
    }

    fn drawn(&self) -> i64 {
        self.cars.iter().flatten().map(|car| car.demand.min(car.in_force)).sum()
    }

    fn in_force(&self) -> i64 {
        self.cars.iter().flatten().map(|car| car.in_force).sum()
    }
}

/// Between two thirds of the rating and all of it.
fn demand(dice: &mut ChaCha8Rng) -> i64 {
    dice.random_range(RATED_W * 2 / 3..=RATED_W)
}

fn clocks(began: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mono = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    Now { mono: chargeplane_domain::units::Mono(mono), wall: Timestamp(i64::try_from(wall).unwrap_or(i64::MAX)) }
}

async fn start_node(data: &Path) -> anyhow::Result<Node> {
    let dir = DataDir::lock(data)?;
    let stores = tokio::task::spawn_blocking(move || Stores::open(&dir)).await??;
    let ports = Ports {
        journal: Arc::new(stores.journal),
        coordination: Arc::new(stores.coordination),
        telemetry: Arc::new(stores.telemetry),
        catalogue: Arc::new(stores.catalogue),
        records: Arc::new(stores.records),
        statements: Arc::new(stores.statements),
        solver: Arc::new(HighsSolver::start(1)?),
    };
    Ok(Node::start(NodeConfig::new("bench"), ports).await?)
}

async fn enroll(handle: &NodeHandle, at: usize, now: Now) -> anyhow::Result<GatewayCore> {
    let enrolment = handle.enroll(gateway(at)?).await?;
    let mut root = [0u8; 32];
    for (byte, pair) in root.iter_mut().zip(enrolment.key.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    let key = GatewayKey { root, key_epoch: enrolment.key_epoch };
    let child = ChildConfig { fallback: Watts(0), rated: Watts(RATED_W) };
    let children = (0..CHARGERS as u16).map(|number| (number, child)).collect();
    let shard = u16::from_str_radix(&enrolment.shard, 16)?;
    let config = GatewayConfig::new(enrolment.gateway, shard, key, children);
    let mut core = GatewayCore::new(config, Box::new(MemoryRing::new()), now)?;
    core.on_connected(now);
    Ok(core)
}

fn station() -> anyhow::Result<StationId> {
    Ok("main/s1".parse()?)
}

fn gateway(at: usize) -> anyhow::Result<GatewayId> {
    Ok(format!("main/g{at:02}").parse()?)
}

/// A grid connection over 4 transformers, 20 feeders (a gateway each) and 200 cabinets of ten chargers.
fn catalogue() -> anyhow::Result<Catalogue> {
    let node = |id: String, parent: Option<String>, limit: i64, base: i64| LimitNode {
        id,
        parent,
        limit_w: Watts(limit),
        base_w: Watts(base),
    };
    let mut limits = vec![node("grid".into(), None, GRID_W, BASE_W)];
    let mut catalogue = Catalogue::default();
    for transformer in 0..4 {
        limits.push(node(format!("t{transformer}"), Some("grid".into()), GRID_W / 4, 0));
    }
    for feeder in 0..GATEWAYS {
        let below = CHARGERS as i64 * RATED_W;
        limits.push(node(format!("f{feeder}"), Some(format!("t{}", feeder / 5)), below * 19 / 20, 0));
        catalogue.gateways.insert(gateway(feeder)?, Gateway { station: station()? });
        for cabinet in 0..CHARGERS / 10 {
            let name = format!("k{feeder}-{cabinet}");
            limits.push(node(name.clone(), Some(format!("f{feeder}")), below * 19 / 200, 0));
            for at in 0..10 {
                let child = cabinet * 10 + at;
                let charger = Charger {
                    gateway: gateway(feeder)?,
                    child: child as u16,
                    limit: name.clone(),
                    rated_w: Watts(RATED_W),
                    min_w: Watts(MIN_W),
                    step_w: Watts(100),
                    fallback_w: Watts::ZERO,
                    weight: 100,
                    connectors: 1,
                };
                let id: ChargerId = format!("main/c{feeder:02}{child:02}").parse()?;
                catalogue.chargers.insert(id, charger);
            }
        }
    }
    let price = Price { energy: Money(8_000), service: Money(1_000) };
    let slots = Slots::uniform(0).context("period 0 exists")?;
    let tariff = Tariff { currency: Currency::new("CNY")?, prices: [price; PERIODS], slots, fees: Fees::NONE };
    catalogue.tariffs.insert("main/t1".parse()?, tariff);
    let station_of = Station {
        operator: "main/op".parse()?,
        city: String::new(),
        time_zone: "Asia/Shanghai".into(),
        tariff: "main/t1".parse()?,
        split: None,
        limits,
        power: Default::default(),
    };
    catalogue.stations.insert(station()?, station_of);
    Ok(catalogue)
}
