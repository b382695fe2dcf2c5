//! A station on virtual time: the machine, a network that loses, repeats and delays, gateways with clocks of
//! their own that keep the edge's rules, and cars. The judge is physics: what the cars draw, summed at every
//! node, ten times a second.

use crate::allocation::lp::{Programme, SolveOutcome, SolveStatus, allocate_with};
use crate::allocation::{Allocation, Problem, water_fill};
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
    /// A fault in the node that the judge must find.
    pub plant: Option<Plant>,
}

/// Faults that break POWER-1: a simulation that does not find them proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// What was sent counts as confirmed: increases leave before decreases have arrived.
    TrustsWhatItSent,
    /// Nothing is kept free for what chargers fall to when their grants end.
    NoFallbackReserve,
    /// A lease counts for a third of its time.
    ForgetsLeasesEarly,
    /// A new owner does not know the ceilings.
    ForgetsCeilings,
}

/// How the node's solver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solving {
    /// It is not there: water-filling.
    Dead,
    /// Its answer comes up to a tick later, when the question is an old one.
    Late,
    /// It answers with anything and calls it the optimum.
    Wrong,
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
pub struct Pole {
    car: Option<Car>,
    /// Watts, and their end on the gateway's clock.
    grant: Option<(i64, u64)>,
    /// Without any grant since the session began: 0 W until then, on the gateway's clock.
    waits_until: u64,
    powered: bool,
    /// The next car comes then; also set while a Start is under way.
    next_at: u64,
    /// It draws what the car takes, whatever was granted.
    pub disobeys: bool,
    /// It did so at least once, or its meter said so.
    pub has_disobeyed: bool,
    /// The node counts it at its rating since then.
    found_at: Option<u64>,
    /// What the node last sent it, whether it arrived or not.
    sent: i64,
    /// The meter says this, whatever is drawn.
    pub stuck: Option<i64>,
}

pub struct Gateway {
    pub poles: Vec<Pole>,
    started: u64,
    /// Clock error in 1/10,000.
    drift: i64,
    pub boot: u32,
    nonce: u64,
    epoch: u64,
    applied_seq: u64,
    /// The last message that was sent to it.
    last_sent: u64,
    answered: BTreeMap<u64, u64>,
    pub cut: bool,
    /// What it says is lost; what it is told is lost.
    pub mute: bool,
    pub deaf: bool,
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
    Grants {
        epoch: u64,
        nonce: u64,
        boot: u32,
        seq: u64,
        lease_ms: u64,
        to: usize,
        entries: Vec<(u16, Watts)>,
    },
    Start {
        to: usize,
        pole: usize,
        epoch: u64,
    },
    Stopped(usize, usize),
    Durable(u64, Vec<(ChargerId, Watts)>),
    Tick,
    /// The answer to a question of a machine that was opened as the given one.
    Allocated(usize, Problem, Allocation),
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
    /// How many machines there were.
    pub openings: usize,
    /// The owner's clock: what it showed at a moment, and its error in 1/10,000.
    clock: (u64, u64, i64),
    pub solving: Solving,
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
    /// Limits that were cut and may still be drawn up to, with the moment that this ends.
    former: Vec<Vec<(i64, u64)>>,
    /// Watts over limits, summed over nodes and looks, ten a second: 10 are a watt-second.
    pub over_tenths: i64,
    /// Seconds of chargers: simulated time by all chargers.
    pub connector_ticks: u64,
    pub limit_changes: usize,
    pub found_disobeying: usize,
    /// The machine's own check runs so often.
    pub check_every_ms: u64,
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
            power: Default::default(),
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
            last_sent: 0,
            answered: BTreeMap::new(),
            cut: false,
            mute: false,
            deaf: false,
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
            openings: 0,
            clock: (0, 0, 0),
            solving: Solving::Dead,
            durable: StationState::default(),
            open: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            node_index,
            load: vec![0; tree.nodes().len()],
            former: vec![Vec::new(); tree.nodes().len()],
            over_tenths: 0,
            connector_ticks: 0,
            limit_changes: 0,
            found_disobeying: 0,
            check_every_ms: 100,
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
        self.build();
    }

    /// Another node takes the station over, with a clock of its own.
    pub fn take_over(&mut self) {
        self.clock = (self.now, self.dice.range(1, 1 << 40) as u64, self.dice.range(-40, 40));
        self.open_station();
    }

    /// A new machine under the same epoch, as when the catalogue changes.
    pub fn build(&mut self) {
        self.openings += 1;
        let now = self.owners();
        let mut config = self.setting.config;
        if self.setting.plant == Some(Plant::ForgetsLeasesEarly) {
            config.lease_ms /= 3;
        }
        let mut chargers = self.chargers.clone();
        if self.setting.plant == Some(Plant::NoFallbackReserve) {
            chargers.values_mut().for_each(|charger| charger.fallback_w = Watts::ZERO);
        }
        let mut power = StationPower::new(now, self.epoch, &self.station, &chargers, config).unwrap();
        if self.setting.plant != Some(Plant::ForgetsCeilings) {
            power.on_ceilings(now, &self.durable);
        }
        for (gateway, pole) in self.open.keys() {
            power.on_session_restored(now, &charger_id(*gateway, *pole));
        }
        self.power = Some(power);
        // It finds out anew who disobeys.
        self.gateways.iter_mut().flat_map(|gateway| &mut gateway.poles).for_each(|pole| pole.found_at = None);
    }

    /// The owner's clock now.
    pub fn owners(&self) -> Mono {
        let (since, shown, drift) = self.clock;
        let passed = (self.now - since) as i64;
        Mono(shown + (passed + passed * drift / 10_000) as u64)
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
                let (now, mut effects) = (self.owners(), Vec::new());
                if let Some(power) = &mut self.power {
                    power.on_beat(now, &gateway_id(at), &beat, &mut effects);
                }
                self.carry_out(effects);
            }
            Event::Grants { epoch, nonce, boot, seq, lease_ms, to, entries } => {
                if !self.gateways[to].cut && !self.gateways[to].deaf {
                    self.take_grants(epoch, nonce, boot, seq, lease_ms, to, &entries);
                }
            }
            Event::Start { to, pole, epoch } => self.start(to, pole, epoch),
            Event::Stopped(at, pole) => {
                if self.gateways[at].cut || self.power.is_none() {
                    self.at(self.now + 500, Event::Stopped(at, pole)); // reliable: again until it is heard
                } else {
                    self.open.remove(&(at, pole));
                    let now = self.owners();
                    self.power.iter_mut().for_each(|power| power.on_session_ended(now, &charger_id(at, pole)));
                }
            }
            Event::Durable(epoch, ceilings) => {
                if epoch != self.epoch || self.power.is_none() {
                    return;
                }
                self.durable.apply(&StationEvent::CeilingsSet(ceilings.clone()));
                let (now, mut effects) = (self.owners(), Vec::new());
                if let Some(power) = &mut self.power {
                    power.on_ceilings_durable(now, &ceilings, &mut effects);
                }
                self.carry_out(effects);
            }
            Event::Tick => {
                self.tick();
                self.at(self.now + 1_000, Event::Tick);
            }
            Event::Allocated(opening, problem, allocation) => {
                let (now, mut effects) = (self.owners(), Vec::new());
                if let Some(power) = self.power.as_mut().filter(|_| opening == self.openings) {
                    power.on_allocation(now, &problem, &allocation, &mut effects);
                }
                self.carry_out(effects);
            }
        }
    }

    pub fn tick(&mut self) {
        let (now, mut effects) = (self.owners(), Vec::new());
        let started = std::time::Instant::now();
        let problem = self.power.as_mut().and_then(|power| power.on_tick(now));
        if let Some(problem) = problem {
            let outcome = if self.solving == Solving::Wrong { Some(self.nonsense(&problem)) } else { None };
            let (allocation, _) = allocate_with(&problem, outcome.as_ref());
            if self.solving == Solving::Late {
                let later = self.now + self.dice.range(1, 1_000) as u64;
                self.at(later, Event::Allocated(self.openings, problem, allocation));
            } else if let Some(power) = &mut self.power {
                power.on_allocation(now, &problem, &allocation, &mut effects);
            }
        }
        if self.power.is_some() {
            self.tick_us.push(started.elapsed().as_micros());
        }
        self.carry_out(effects);
        self.drivers();
    }

    /// What a broken solver may say: that anything is the optimum, for a number of columns that may be wrong.
    fn nonsense(&mut self, problem: &Problem) -> SolveOutcome {
        let programme = Programme::build(problem);
        let mut anything = |count: usize| {
            let count = if self.dice.chance(10) { self.dice.range(0, 20) as usize } else { count };
            let value = |_| match self.dice.range(0, 10) {
                0..6 => self.dice.range(0, 120_000) as f64,
                6 => self.dice.range(-1_000_000, 1_000_000_000) as f64,
                7 => f64::NAN,
                8 => f64::INFINITY,
                _ => 0.0,
            };
            (0..count).map(value).collect::<Vec<f64>>()
        };
        let (primal, duals) = (anything(programme.columns.len()), anything(programme.rows.len()));
        SolveOutcome { programme, status: SolveStatus::Optimal, primal, duals, solve_us: 1 }
    }

    fn carry_out(&mut self, effects: Vec<StationEffect>) {
        for effect in effects {
            match effect {
                StationEffect::SendGrants { gateway, answers_nonce, boot, seq, entries, .. } => {
                    let to: usize = gateway.local()[1..].parse().unwrap();
                    let (epoch, lease_ms) = (self.epoch, self.setting.config.lease_ms);
                    self.messages += 1;
                    self.gateways[to].last_sent = seq;
                    for (child, watts) in &entries {
                        self.gateways[to].poles[usize::from(*child)].sent = watts.0;
                    }
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
                StationEffect::ReportDisobedience { charger, .. } => self.found(&charger, Some(self.now)),
                StationEffect::ReportObedience { charger } => self.found(&charger, None),
            }
        }
    }

    /// The node says that a charger disobeys, or obeys again. Of one that never did, that is a finding.
    fn found(&mut self, charger: &ChargerId, at: Option<u64>) {
        let (gateway, pole) = charger.local()[1..].split_once('-').unwrap();
        let pole = &mut self.gateways[gateway.parse::<usize>().unwrap()].poles[pole.parse::<usize>().unwrap()];
        pole.found_at = at;
        self.found_disobeying += usize::from(at.is_some());
        if at.is_some() && !pole.has_disobeyed && pole.stuck.is_none() && self.setting.plant.is_none() {
            self.violations.push(format!("{} ms: {charger} obeys and is said not to", self.now));
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
                    let now = self.owners();
                    self.power.iter_mut().for_each(|power| power.on_session_expected(now, &charger_id(at, pole)));
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
        let trusts = self.setting.plant == Some(Plant::TrustsWhatItSent);
        let report = |(child, pole): (usize, &Pole)| {
            let granted = gateway.in_force(pole, now, fallback);
            let demand = pole.car.as_ref().map_or(0, Car::demand);
            ChargerBeat {
                child: child as u16,
                granted: Watts(if trusts { pole.sent } else { granted }),
                demand: Watts(demand),
                power: Watts(pole.stuck.unwrap_or(if pole.disobeys { demand } else { granted.min(demand) })),
                charging: pole.car.is_some(),
            }
        };
        let chargers = gateway.poles.iter().enumerate().map(report).collect();
        let (nonce, epoch, mut applied_seq) = (gateway.nonce, gateway.epoch, gateway.applied_seq);
        if self.setting.plant == Some(Plant::TrustsWhatItSent) && epoch == self.epoch {
            applied_seq = gateway.last_sent;
        }
        let boot = BootId::new(1, gateway.boot);
        let beat = BeatReport { mono, nonce, boot, epoch, applied_seq, chargers };
        if !gateway.cut && !gateway.mute {
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
        if seq <= gateway.applied_seq && epoch == gateway.epoch {
            return;
        }
        gateway.applied_seq = seq;
        let answered = gateway.answered.get(&nonce).filter(|_| boot == gateway.boot);
        let end = answered.map(|sent| sent + lease_ms);
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

    /// What the cars would take, by node, without the base load.
    pub fn wants(&self) -> Vec<i64> {
        let mut wants = vec![0; self.load.len()];
        let poles = self.gateways.iter().flat_map(|gateway| &gateway.poles);
        for (node, pole) in self.node_index.iter().zip(poles) {
            wants[*node] += pole.car.as_ref().map_or(0, Car::demand);
        }
        wants
    }

    pub fn draw(&self) -> i64 {
        self.load[0]
    }

    fn physics(&mut self) {
        let (now, fallback) = (self.now, self.setting.fallback);
        let settled = self.counted_ms();
        self.load.fill(0);
        let mut stopped = Vec::new();
        // What each node has when those who are known to disobey draw their rating, the others their fallback.
        let mut floor = vec![0; self.load.len()];
        let mut beyond = Vec::new();
        for (at, gateway) in self.gateways.iter_mut().enumerate() {
            for pole in 0..gateway.poles.len() {
                let in_force = gateway.in_force(&gateway.poles[pole], now, fallback);
                let noise = (self.dice.roll() % 9) as i64 - 4;
                let node = self.node_index[at * self.setting.chargers + pole];
                let Pole { disobeys, found_at, .. } = gateway.poles[pole];
                let found = found_at.is_some_and(|found| found + settled <= now);
                floor[node] += if found_at.is_some() { 120_000 } else { fallback };
                let Some(car) = &mut gateway.poles[pole].car else { continue };
                let draw = if disobeys { car.demand() } else { in_force.min(car.demand()) };
                car.left_ws -= draw / 10;
                car.noise = noise;
                // What goes beyond its grant is the node's to bear once it has found out, if it can.
                let obeyed = draw.min(in_force);
                self.load[node] += obeyed;
                if found {
                    beyond.push((node, draw - obeyed));
                }
                let leaves_early = self.dice.chance(1) && self.dice.chance(1) && self.dice.chance(20);
                if car.left_ws <= 0 || leaves_early {
                    stopped.push((at, pole));
                }
            }
        }
        let floor = self.judge_loads(floor, &beyond);
        for (at, pole) in stopped {
            let gone = &mut self.gateways[at].poles[pole];
            gone.car = None;
            gone.next_at = now + self.dice.range(500, 3_000) as u64;
            self.sessions_done += 1;
            let delay = self.dice.range(50, 200) as u64;
            self.at(now + delay, Event::Stopped(at, pole));
        }
        let owners = self.owners();
        if let Some(power) = self.power.as_mut().filter(|_| now.is_multiple_of(self.check_every_ms)) {
            for violation in power.self_check(owners) {
                // Where ratings and fallbacks do not fit, the machine can only say so.
                let at = (0..floor.len()).find(|at| self.tree.path(*at) == violation.node).unwrap();
                if floor[at] <= self.judged[at] {
                    self.violations.push(format!("{now} ms, self-check: {violation:?}"));
                }
            }
        }
        if now.is_multiple_of(1_000) {
            self.connector_ticks += self.node_index.len() as u64;
        }
    }

    /// Adds up what is drawn, and holds it against the limits. `beyond` is what goes beyond grants: it counts at
    /// the nodes that can bear it.
    fn judge_loads(&mut self, mut floor: Vec<i64>, beyond: &[(usize, i64)]) -> Vec<i64> {
        let (now, nodes) = (self.now, self.tree.nodes());
        let mut extra = vec![0; nodes.len()];
        beyond.iter().for_each(|(node, watts)| extra[*node] += watts);
        for node in (0..nodes.len()).rev() {
            self.load[node] += nodes[node].base.0;
            floor[node] += nodes[node].base.0;
            self.former[node].retain(|(_, until)| now < *until);
            let limit = self.former[node].iter().map(|(limit, _)| *limit).fold(self.judged[node], i64::max);
            let borne = if floor[node] <= self.judged[node] { extra[node] } else { 0 };
            let over = self.load[node] + borne - limit;
            if over > 0 {
                self.over_tenths += over;
                if self.violations.len() < 100 {
                    let path = self.tree.path(node);
                    self.violations.push(format!("{now} ms: {path} draws {} of {limit}", limit + over));
                }
            }
            if let Some(parent) = nodes[node].parent {
                self.load[parent] += self.load[node];
                floor[parent] += floor[node];
                extra[parent] += extra[node];
            }
        }
        floor
    }

    /// How long a lease counts, by any clock.
    pub fn counted_ms(&self) -> u64 {
        self.setting.config.lease_ms * (100 + self.setting.config.skew_percent) / 100 + 200
    }

    /// A node's limit from now on, without notice: what was granted before may be drawn for a lease.
    pub fn change_limit(&mut self, node: &str, watts: i64) {
        let at = self.tree.find(node).unwrap();
        let until = self.now + self.counted_ms();
        let former = std::mem::replace(&mut self.judged[at], watts);
        if former > watts {
            self.former[at].push((former, until));
        }
        self.limit_changes += 1;
        self.set_limit(node, watts);
    }

    /// Announces a limit to the machine. The judge goes on with the one it has; see [`Self::judge`].
    pub fn set_limit(&mut self, node: &str, watts: i64) {
        let now = self.owners();
        if let Some(power) = &mut self.power {
            power.on_limit_changed(now, node, Watts(watts)).unwrap();
        }
        for limit in &mut self.station.limits {
            if limit.id == node {
                limit.limit_w = Watts(watts);
            }
        }
        self.tick_now();
    }

    fn tick_now(&mut self) {
        let (now, mut effects) = (self.owners(), Vec::new());
        if let Some(power) = &mut self.power
            && let Some(problem) = power.on_tick(now)
        {
            let allocation = water_fill(&problem);
            power.on_allocation(now, &problem, &allocation, &mut effects);
        }
        self.carry_out(effects);
    }

    /// The limit that physics must keep from now on.
    pub fn judge(&mut self, node: &str, watts: i64) {
        let at = self.tree.find(node).unwrap();
        self.judged[at] = watts;
    }
}
