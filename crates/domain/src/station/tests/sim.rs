//! A station on virtual time: the machine, a network that loses, repeats and delays, gateways with clocks of
//! their own that keep the edge's rules, and cars. The judge is physics: what the cars draw, summed at every
//! node, ten times a second.

use crate::allocation::water_fill;
use crate::catalogue::{Charger, LimitNode, Station};
use crate::ids::{ChargerId, GatewayId};
use crate::station::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// SplitMix64: one seed, one run.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn range(&mut self, from: i64, to: i64) -> i64 {
        from + (self.roll() % (to - from).max(1) as u64) as i64
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// What the network does to a message.
#[derive(Clone, Copy)]
pub struct Network {
    pub delay_ms: (i64, i64),
    pub lost: u64,
    pub repeated: u64,
    /// A repetition comes up to this much later.
    pub late_ms: i64,
}

pub struct Setting {
    pub seed: u64,
    pub limits: Vec<LimitNode>,
    pub gateways: usize,
    /// Chargers a gateway.
    pub chargers: usize,
    /// Node of a charger by its number in the station.
    pub node_of: fn(usize) -> String,
    pub fallback: i64,
    pub network: Network,
    /// Energy of a session in kJ.
    pub session_kj: (i64, i64),
    pub config: PowerConfig,
}

struct Car {
    peak: i64,
    full_ws: i64,
    left_ws: i64,
    noise: i64,
}

impl Car {
    /// Full power until a third is left, then down to a tenth.
    fn demand(&self) -> i64 {
        let left = self.left_ws * 1_000 / self.full_ws;
        let share = if left >= 333 { 1_000 } else { 100 + left * 900 / 333 };
        (self.peak * share / 1_000 * (1_000 + self.noise) / 1_000).min(120_000)
    }
}

#[derive(Default)]
struct Pole {
    car: Option<Car>,
    /// Watts, and their end on the gateway's clock.
    grant: Option<(i64, u64)>,
    /// Without any grant since the session began: 0 W until then, on the gateway's clock.
    waits_until: u64,
    powered: bool,
    /// The next car comes then; also set while a Start is under way.
    next_at: u64,
}

pub struct Gateway {
    poles: Vec<Pole>,
    started: u64,
    /// Clock error in 1/10,000.
    drift: i64,
    pub boot: u32,
    nonce: u64,
    epoch: u64,
    applied_seq: u64,
    answered: BTreeMap<u64, u64>,
    pub cut: bool,
}

impl Gateway {
    fn mono(&self, now: u64) -> u64 {
        let passed = (now - self.started) as i64;
        (1_000 + passed + passed * self.drift / 10_000) as u64
    }

    fn in_force(&self, pole: &Pole, now: u64, fallback: i64) -> i64 {
        match pole.grant {
            Some((watts, end)) if self.mono(now) < end => watts,
            _ if pole.car.is_none() || self.mono(now) < pole.waits_until => 0,
            _ => fallback,
        }
    }
}

enum Event {
    Beat(usize),
    BeatArrives(usize, BeatReport),
    Grants { epoch: u64, nonce: u64, boot: u32, seq: u64, lease_ms: u64, to: usize, entries: Vec<(u16, Watts)> },
    Start { to: usize, pole: usize, epoch: u64 },
    Stopped(usize, usize),
    Durable(u64, Vec<(ChargerId, Watts)>),
    Tick,
}

pub struct Sim {
    pub now: u64,
    pub dice: Dice,
    pub setting: Setting,
    pub station: Station,
    pub chargers: BTreeMap<ChargerId, Charger>,
    pub gateways: Vec<Gateway>,
    pub power: Option<StationPower>,
    pub epoch: u64,
    durable: StationState,
    /// What the shell knows of open sessions.
    open: BTreeMap<(usize, usize), bool>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    events_made: u64,
    node_index: Vec<usize>,
    pub tree: crate::allocation::Tree,
    /// Physical load by node.
    pub load: Vec<i64>,
    pub violations: Vec<String>,
    pub sessions_done: usize,
    pub arrivals: bool,
    pub first_grant_ms: Vec<u64>,
    pub messages: usize,
    pub moves: usize,
    pub tick_us: Vec<u128>,
    /// Limits that are in effect for the judge, by node index.
    pub judged: Vec<i64>,
}

fn gateway_id(at: usize) -> GatewayId {
    format!("g{at}").parse().unwrap()
}

pub fn charger_id(gateway: usize, pole: usize) -> ChargerId {
    format!("c{gateway}-{pole}").parse().unwrap()
}

impl Sim {
    pub fn new(setting: Setting) -> Self {
        let station = Station {
            operator: "op".parse().unwrap(),
            city: String::new(),
            time_zone: "UTC".into(),
            tariff: "t".parse().unwrap(),
            split: None,
            limits: setting.limits.clone(),
        };
        let mut chargers = BTreeMap::new();
        let tree = crate::allocation::Tree::build(&setting.limits).unwrap();
        let mut node_index = Vec::new();
        for gateway in 0..setting.gateways {
            for pole in 0..setting.chargers {
                let limit = (setting.node_of)(gateway * setting.chargers + pole);
                node_index.push(tree.find(&limit).unwrap());
                let charger = Charger {
                    gateway: gateway_id(gateway),
                    child: pole as u16,
                    limit,
                    rated_w: Watts(120_000),
                    min_w: Watts(12_000),
                    step_w: Watts(100),
                    fallback_w: Watts(setting.fallback),
                    weight: 100,
                    connectors: 1,
                };
                chargers.insert(charger_id(gateway, pole), charger);
            }
        }
        check_fallbacks(&tree, &chargers).unwrap();
        let mut dice = Dice(setting.seed);
        let gateways = (0..setting.gateways).map(|_| Gateway {
            poles: (0..setting.chargers).map(|_| Pole::default()).collect(),
            started: 0,
            drift: dice.range(-150, 150),
            boot: 1,
            nonce: 0,
            epoch: 0,
            applied_seq: 0,
            answered: BTreeMap::new(),
            cut: false,
        });
        let gateways = gateways.collect();
        let judged = tree.nodes().iter().map(|node| node.limit.0).collect();
        let mut sim = Self {
            now: 0,
            dice,
            station,
            chargers,
            gateways,
            power: None,
            epoch: 0,
            durable: StationState::default(),
            open: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            node_index,
            load: vec![0; tree.nodes().len()],
            tree,
            violations: Vec::new(),
            sessions_done: 0,
            arrivals: true,
            first_grant_ms: Vec::new(),
            messages: 0,
            moves: 0,
            tick_us: Vec::new(),
            judged,
            setting,
        };
        sim.open_station();
        for at in 0..sim.gateways.len() {
            let offset = sim.dice.range(0, 1_000) as u64;
            sim.at(offset, Event::Beat(at));
        }
        sim.at(500, Event::Tick);
        sim
    }

    /// The node starts, or starts again: a new epoch, and only what is durable.
    pub fn open_station(&mut self) {
        self.epoch += 1;
        let mut power =
            StationPower::new(Mono(self.now), self.epoch, &self.station, &self.chargers, self.setting.config).unwrap();
        power.on_ceilings(Mono(self.now), &self.durable);
        for (gateway, pole) in self.open.keys() {
            power.on_session_restored(Mono(self.now), &charger_id(*gateway, *pole));
        }
        self.power = Some(power);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.events_made += 1;
        self.queue.push(Reverse((time, self.events_made)));
        self.events.insert(self.events_made, event);
    }

    /// Sends through the network: zero, one or two arrivals.
    fn send(&mut self, event: impl Fn() -> Event) {
        let Network { delay_ms, lost, repeated, late_ms } = self.setting.network;
        if !self.dice.chance(lost) {
            let delay = self.dice.range(delay_ms.0, delay_ms.1) as u64;
            self.at(self.now + delay, event());
        }
        if self.dice.chance(repeated) {
            let delay = self.dice.range(delay_ms.0, delay_ms.1 + late_ms) as u64;
            self.at(self.now + delay, event());
        }
    }

    /// Runs for `ms`, looking at the physics every 100 ms; `each` sees every look.
    pub fn run(&mut self, ms: u64, mut each: impl FnMut(&mut Self)) {
        let end = self.now + ms;
        while self.now < end {
            let next = self.now - self.now % 100 + 100;
            while let Some(Reverse((time, key))) = self.queue.peek().copied() {
                if time > next {
                    break;
                }
                self.queue.pop();
                self.now = self.now.max(time);
                if let Some(event) = self.events.remove(&key) {
                    self.take(event);
                }
            }
            self.now = next;
            self.physics();
            each(self);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Beat(at) => self.beat(at),
            Event::BeatArrives(at, beat) => {
                if self.gateways[at].cut {
                    return;
                }
                let mut effects = Vec::new();
                if let Some(power) = &mut self.power {
                    power.on_beat(Mono(self.now), &gateway_id(at), &beat, &mut effects);
                }
                self.carry_out(effects);
            }
            Event::Grants { epoch, nonce, boot, seq, lease_ms, to, entries } => {
                if !self.gateways[to].cut {
                    self.take_grants(epoch, nonce, boot, seq, lease_ms, to, &entries);
                }
            }
            Event::Start { to, pole, epoch } => self.start(to, pole, epoch),
            Event::Stopped(at, pole) => {
                if self.gateways[at].cut || self.power.is_none() {
                    self.at(self.now + 500, Event::Stopped(at, pole)); // reliable: again until it is heard
                } else if let Some(power) = &mut self.power {
                    self.open.remove(&(at, pole));
                    power.on_session_ended(Mono(self.now), &charger_id(at, pole));
                }
            }
            Event::Durable(epoch, ceilings) => {
                if epoch != self.epoch || self.power.is_none() {
                    return;
                }
                self.durable.apply(&StationEvent::CeilingsSet(ceilings.clone()));
                let mut effects = Vec::new();
                if let Some(power) = &mut self.power {
                    power.on_ceilings_durable(Mono(self.now), &ceilings, &mut effects);
                }
                self.carry_out(effects);
            }
            Event::Tick => {
                self.tick();
                self.at(self.now + 1_000, Event::Tick);
            }
        }
    }

    pub fn tick(&mut self) {
        let mut effects = Vec::new();
        if let Some(power) = &mut self.power {
            let started = std::time::Instant::now();
            if let Some(problem) = power.on_tick(Mono(self.now)) {
                let allocation = water_fill(&problem);
                power.on_allocation(Mono(self.now), &problem, &allocation, &mut effects);
            }
            self.tick_us.push(started.elapsed().as_micros());
        }
        self.carry_out(effects);
        self.drivers();
    }

    fn carry_out(&mut self, effects: Vec<StationEffect>) {
        for effect in effects {
            match effect {
                StationEffect::SendGrants { gateway, answers_nonce, boot, seq, lease_ms, entries } => {
                    let to: usize = gateway.local()[1..].parse().unwrap();
                    let epoch = self.epoch;
                    self.messages += 1;
                    let message = move || Event::Grants {
                        epoch,
                        nonce: answers_nonce,
                        boot: boot.boot,
                        seq,
                        lease_ms,
                        to,
                        entries: entries.clone(),
                    };
                    self.send(message);
                }
                StationEffect::RaiseCeilings(ceilings) => self.at(self.now + 15, Event::Durable(self.epoch, ceilings)),
                other => self.violations.push(format!("{} ms: {other:?}", self.now)),
            }
        }
    }

    /// New cars come to idle poles; the shell tells the machine and sends the Start.
    fn drivers(&mut self) {
        if !self.arrivals {
            return;
        }
        for at in 0..self.gateways.len() {
            for pole in 0..self.setting.chargers {
                let free =
                    self.gateways[at].poles[pole].car.is_none() && self.gateways[at].poles[pole].next_at <= self.now;
                if free && !self.open.contains_key(&(at, pole)) && !self.gateways[at].cut && self.power.is_some() {
                    self.open.insert((at, pole), true);
                    if let Some(power) = &mut self.power {
                        power.on_session_expected(Mono(self.now), &charger_id(at, pole));
                    }
                    let delay = self.dice.range(50, 200) as u64;
                    self.at(self.now + delay, Event::Start { to: at, pole, epoch: self.epoch });
                }
            }
        }
    }

    fn start(&mut self, to: usize, pole: usize, epoch: u64) {
        if self.gateways[to].cut {
            self.at(self.now + 500, Event::Start { to, pole, epoch });
            return;
        }
        let full_ws = self.dice.range(self.setting.session_kj.0, self.setting.session_kj.1) * 1_000;
        let (peak, noise) = (self.dice.range(60_000, 125_000), 0);
        // The first cars are found in mid-session, so that they do not all leave together.
        let left_ws = if self.now < 5_000 { self.dice.range(full_ws / 20, full_ws) } else { full_ws };
        let now = self.now;
        let gateway = &mut self.gateways[to];
        if epoch > gateway.epoch {
            (gateway.epoch, gateway.applied_seq) = (epoch, 0);
        }
        let mono = gateway.mono(now);
        let pole = &mut gateway.poles[pole];
        pole.grant = pole.grant.filter(|(_, end)| mono < *end);
        pole.waits_until = if pole.grant.is_some() { 0 } else { mono + self.setting.config.first_grant_wait_ms };
        pole.powered = false;
        pole.next_at = self.now; // when it came
        pole.car = Some(Car { peak, full_ws, left_ws, noise });
    }

    fn beat(&mut self, at: usize) {
        self.at(self.now + 1_000, Event::Beat(at));
        let (now, fallback) = (self.now, self.setting.fallback);
        let gateway = &mut self.gateways[at];
        gateway.nonce += 1 + self.dice.roll() % 1_000;
        let mono = gateway.mono(now);
        gateway.answered.insert(gateway.nonce, mono);
        while gateway.answered.len() > 40 {
            gateway.answered.pop_first();
        }
        let report = |(child, pole): (usize, &Pole)| {
            let granted = gateway.in_force(pole, now, fallback);
            let demand = pole.car.as_ref().map_or(0, Car::demand);
            ChargerBeat {
                child: child as u16,
                granted: Watts(granted),
                demand: Watts(demand),
                power: Watts(granted.min(demand)),
                charging: pole.car.is_some(),
            }
        };
        let chargers = gateway.poles.iter().enumerate().map(report).collect();
        let (nonce, epoch, applied_seq) = (gateway.nonce, gateway.epoch, gateway.applied_seq);
        let boot = BootId::new(1, gateway.boot);
        let beat = BeatReport { mono, nonce, boot, epoch, applied_seq, chargers };
        if !gateway.cut {
            self.send(|| Event::BeatArrives(at, beat.clone()));
        }
    }

    /// The edge's rules, as the machine's page states them.
    fn take_grants(
        &mut self,
        epoch: u64,
        nonce: u64,
        boot: u32,
        seq: u64,
        lease_ms: u64,
        to: usize,
        entries: &[(u16, Watts)],
    ) {
        let (now, fallback) = (self.now, self.setting.fallback);
        let gateway = &mut self.gateways[to];
        if epoch < gateway.epoch {
            return;
        }
        if epoch > gateway.epoch {
            (gateway.epoch, gateway.applied_seq) = (epoch, 0);
        }
        if seq <= gateway.applied_seq {
            return;
        }
        gateway.applied_seq = seq;
        let end = gateway.answered.get(&nonce).filter(|_| boot == gateway.boot).map(|sent| sent + lease_ms);
        for (child, watts) in entries {
            let has = gateway.in_force(&gateway.poles[*child as usize], now, fallback);
            let mono = gateway.mono(now);
            let pole = &mut gateway.poles[*child as usize];
            let before = pole.grant.filter(|(_, end)| mono < *end);
            let end = match end.filter(|end| mono < *end) {
                Some(end) => end,
                None if watts.0 < has => before.map_or(mono + lease_ms, |(_, end)| end),
                None => continue,
            };
            self.moves += usize::from(pole.grant.is_none_or(|(before, _)| before != watts.0));
            (pole.grant, pole.waits_until) = (Some((watts.0, end)), 0);
            if watts.0 > 0 && pole.car.is_some() && !pole.powered {
                pole.powered = true;
                self.first_grant_ms.push(now - pole.next_at);
            }
        }
    }

    /// A gateway's process starts anew: grants, nonces and the owner's epoch are gone, its clock begins again.
    pub fn reboot(&mut self, at: usize) {
        let now = self.now;
        let gateway = &mut self.gateways[at];
        gateway.boot += 1;
        (gateway.started, gateway.applied_seq, gateway.epoch) = (now, 0, 0);
        gateway.answered.clear();
        let waits_until = gateway.mono(now) + self.setting.config.first_grant_wait_ms;
        gateway.poles.iter_mut().for_each(|pole| (pole.grant, pole.waits_until) = (None, waits_until));
    }

    pub fn draw(&self) -> i64 {
        self.load[0]
    }

    fn physics(&mut self) {
        let (now, fallback) = (self.now, self.setting.fallback);
        self.load.fill(0);
        let mut stopped = Vec::new();
        for (at, gateway) in self.gateways.iter_mut().enumerate() {
            for pole in 0..gateway.poles.len() {
                let in_force = gateway.in_force(&gateway.poles[pole], now, fallback);
                let noise = (self.dice.roll() % 9) as i64 - 4;
                let Some(car) = &mut gateway.poles[pole].car else { continue };
                let draw = in_force.min(car.demand());
                car.left_ws -= draw / 10;
                car.noise = noise;
                let node = self.node_index[at * self.setting.chargers + pole];
                self.load[node] += draw;
                let leaves_early = self.dice.chance(1) && self.dice.chance(1) && self.dice.chance(20);
                if car.left_ws <= 0 || leaves_early {
                    stopped.push((at, pole));
                }
            }
        }
        for node in (0..self.load.len()).rev() {
            self.load[node] += self.tree.nodes()[node].base.0;
            if self.load[node] > self.judged[node] {
                let path = self.tree.path(node);
                self.violations.push(format!("{now} ms: {path} draws {} of {}", self.load[node], self.judged[node]));
            }
            if let Some(parent) = self.tree.nodes()[node].parent {
                self.load[parent] += self.load[node];
            }
        }
        for (at, pole) in stopped {
            let gone = &mut self.gateways[at].poles[pole];
            gone.car = None;
            gone.next_at = now + self.dice.range(500, 3_000) as u64;
            self.sessions_done += 1;
            let delay = self.dice.range(50, 200) as u64;
            self.at(now + delay, Event::Stopped(at, pole));
        }
        if let Some(power) = &mut self.power {
            for violation in power.self_check(Mono(now)) {
                self.violations.push(format!("{now} ms, self-check: {violation:?}"));
            }
        }
    }

    /// Announces a limit to the machine. The judge goes on with the one it has; see [`Self::judge`].
    pub fn set_limit(&mut self, node: &str, watts: i64) {
        if let Some(power) = &mut self.power {
            power.on_limit_changed(Mono(self.now), node, Watts(watts)).unwrap();
        }
        for limit in &mut self.station.limits {
            if limit.id == node {
                limit.limit_w = Watts(watts);
            }
        }
        self.tick_now();
    }

    fn tick_now(&mut self) {
        let mut effects = Vec::new();
        if let Some(power) = &mut self.power
            && let Some(problem) = power.on_tick(Mono(self.now))
        {
            let allocation = water_fill(&problem);
            power.on_allocation(Mono(self.now), &problem, &allocation, &mut effects);
        }
        self.carry_out(effects);
    }

    /// The limit that physics must keep from now on.
    pub fn judge(&mut self, node: &str, watts: i64) {
        let at = self.tree.find(node).unwrap();
        self.judged[at] = watts;
    }
}
