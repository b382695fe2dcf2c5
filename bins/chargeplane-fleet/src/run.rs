//! A run from the schedule to the report.
//!
//! Connecting (until every gateway is up, at most 20 s), running, draining, and with `keep` idle.
//! Standard input takes commands, one JSON object a line:
//!
//! - `{"do":"finish"}` closes now;
//! - `{"do":"cut","gateway":"main/gw-01","for_s":5}` cuts the link of a gateway that has a cut in the configuration;
//! - `{"do":"limit","node":"grid","limit_w":50000000}` tells the load meter of a changed limit;
//! - `{"do":"resume"}` lets idle chargers send readings again after the drain.

use crate::book;
use crate::config::{FleetConfig, GatewayConfig};
use crate::evidence::{Evidence, GatewayLine, Summary};
use crate::gateway::Gateway;
use crate::physics::STEP_MS;
use crate::status::{Phase, Seen, Status};
use crate::world::{Counts, World};
use crate::yard::Yard;
use crate::{data, schedule};
use anyhow::Context;
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_domain::units::Timestamp;
use chargeplane_edge::runtime::Clock;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// How long the run waits for the gateways to connect.
const CONNECT_PATIENCE_MS: u64 = 20_000;
/// Steps in a second.
const STEPS_A_SECOND: u64 = 1_000 / STEP_MS;
/// After the last driver left, how long idle chargers still send readings, ms.
const AFTERWARDS_MS: u64 = 2_000;
/// Everything must have been acknowledged for this long, so that nobody speaks from an old copy of the counters.
const CALM_STEPS: u64 = STEPS_A_SECOND;
/// A drain that makes progress all the time still ends, after this many seconds.
const DRAIN_MOST_S: u64 = 600;

/// A line of standard input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    Finish,
    Resume,
    Cut { gateway: GatewayId, for_s: u64 },
    Limit { node: String, limit_w: i64 },
}

/// What the run waits for.
enum Input {
    Step,
    Order(Order),
    /// Standard input is closed.
    Silence,
    /// SIGTERM or SIGINT.
    Terminate,
}

/// The run and everything it needs to finish.
struct Run {
    config: FleetConfig,
    yard: Arc<Yard>,
    gateways: Vec<Gateway>,
    chargers: Vec<ChargerId>,
    children: Vec<u64>,
    registers_wh: i64,
    t0: Timestamp,
    steps: u64,
    phase: Phase,
    /// Cuts to come: (step, gateway, cut or mended).
    cuts: Vec<(u64, usize, bool)>,
    /// Step at which the run closed, and from which it may be drained.
    closed: u64,
    empty: u64,
    /// Acknowledged batches, and the step at which they last grew.
    progress: (u64, u64),
    /// Step at which something was last outstanding.
    restless: u64,
    summary: Summary,
}

/// Runs the fleet. True when everything was drained and no gateway failed.
pub async fn run(config: FleetConfig) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(&config.sessions_csv)
        .with_context(|| format!("reading {}", config.sessions_csv.display()))?;
    let recorded = data::parse(&text)?;
    let schedule = schedule::build(&config, &recorded);
    let mut evidence = Evidence::create(&config.out_dir)
        .with_context(|| format!("creating the evidence in {}", config.out_dir.display()))?;
    schedule.write(&mut evidence.file("schedule.jsonl")?)?;

    let clock = Clock::start();
    // Requests of a charger are counted across runs of the fleet: by the second, with room for a million in each.
    let request_base = u64::try_from(clock.now().wall.0 / 1_000).unwrap_or(0) << 20;
    let mut world = World::new(&config, &schedule, request_base);
    evidence.limits(&world.meter().limits())?;
    let registers_wh = world.registers_wh();
    let yard = Arc::new(Yard::new(world, evidence, config.gateways.len(), names(&config)));

    let (stop, stopped) = watch::channel(false);
    let mut gateways = Vec::new();
    for index in 0..config.gateways.len() {
        gateways.push(Gateway::start(&config, index, yard.clone(), clock, stopped.clone()).await?);
    }
    let mut run = Run::new(config, yard, gateways, registers_wh);
    run.connect().await;
    run.t0 = clock.now().wall;
    run.summary.t0 = run.t0.0;
    run.go().await?;
    stop.send_replace(true);
    let mut well = run.summary.drained && run.summary.gateways_failed == 0;
    for gateway in run.gateways.drain(..) {
        well &= gateway.finish().await;
    }
    match run.yard.take_failure() {
        Some(error) => Err(error).context("writing the evidence"),
        None => Ok(well),
    }
}

fn names(config: &FleetConfig) -> BTreeMap<(usize, u16), ChargerId> {
    let index: BTreeMap<&GatewayId, usize> = config.gateways.iter().enumerate().map(|(i, g)| (&g.id, i)).collect();
    let place = |c: &crate::config::ChargerConfig| index.get(&c.gateway).map(|i| ((*i, c.child), c.id.clone()));
    config.chargers.iter().filter_map(place).collect()
}

impl Run {
    fn new(config: FleetConfig, yard: Arc<Yard>, gateways: Vec<Gateway>, registers_wh: i64) -> Self {
        let count = |g: &GatewayConfig| config.chargers.iter().filter(|c| c.gateway == g.id).count() as u64;
        let position = |id: &GatewayId| config.gateways.iter().position(|g| g.id == *id);
        let mut cuts = Vec::new();
        for cut in &config.cuts {
            if let Some(gateway) = position(&cut.gateway) {
                cuts.push((u64::from(cut.at_s) * STEPS_A_SECOND, gateway, true));
                cuts.push((u64::from(cut.at_s + cut.for_s) * STEPS_A_SECOND, gateway, false));
            }
        }
        Self {
            chargers: config.chargers.iter().map(|c| c.id.clone()).collect(),
            children: config.gateways.iter().map(count).collect(),
            summary: Summary {
                chargers: config.chargers.len() as u64,
                gateways: config.gateways.len() as u64,
                ..Summary::default()
            },
            config,
            yard,
            gateways,
            registers_wh,
            t0: Timestamp(0),
            steps: 0,
            phase: Phase::Connecting,
            cuts,
            closed: 0,
            empty: 0,
            progress: (0, 0),
            restless: 0,
        }
    }

    /// Waits until every gateway is up, or long enough: the run copes with those that are not.
    async fn connect(&self) {
        let begun = Instant::now();
        while !self.gateways.iter().all(Gateway::is_up) {
            if begun.elapsed() >= Duration::from_millis(CONNECT_PATIENCE_MS) {
                let up = self.gateways.iter().filter(|gateway| gateway.is_up()).count();
                tracing::warn!(up, of = self.gateways.len(), "not every gateway is connected; starting all the same");
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Steps the station until the end.
    async fn go(&mut self) -> anyhow::Result<()> {
        self.phase = Phase::Running;
        let mut orders = orders();
        let mut ticks = interval(Duration::from_millis(STEP_MS));
        // Every step counts: a late one is made up for, so that the number of samples is what it should be.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut silent = false;
        loop {
            let input = tokio::select! {
                _ = ticks.tick() => Input::Step,
                order = orders.recv(), if !silent => order.map_or(Input::Silence, Input::Order),
                _ = term.recv() => Input::Terminate,
                _ = int.recv() => Input::Terminate,
            };
            match input {
                Input::Step => self.step(),
                Input::Order(order) => self.on_order(order),
                Input::Silence => silent = true,
                Input::Terminate => {
                    self.report();
                    return Ok(());
                }
            }
            if self.phase == Phase::Draining && self.is_drained() {
                self.report();
                self.phase = Phase::Idle;
            }
            if self.phase == Phase::Idle && (!self.config.keep || silent) {
                return Ok(());
            }
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        let at = self.t0.plus_ms((self.steps * STEP_MS) as i64);
        self.yard.step(at);
        self.gateways.iter().for_each(Gateway::wake);
        let now = self.steps;
        for (_, gateway, cut) in self.cuts.extract_if(.., |(step, ..)| *step <= now) {
            self.gateways[gateway].set_cut(cut);
        }
        if self.steps.is_multiple_of(STEPS_A_SECOND) {
            self.end_second();
        }
        if self.phase == Phase::Running && self.steps >= u64::from(self.config.seconds) * STEPS_A_SECOND {
            self.close();
        }
        if self.phase == Phase::Draining && self.steps == self.empty {
            self.yard.floor().world.set_quiet(true);
        }
    }

    fn end_second(&mut self) {
        let t = self.steps / STEPS_A_SECOND;
        let (counts, totals, row) = self.yard.end_second(t, &self.chargers);
        let wh_flowed = self.yard.floor().world.registers_wh() - self.registers_wh;
        let seen = Seen { t, phase: self.phase, counts, totals, row: &row, wh_flowed };
        let status = Status::new(&seen, &self.yard.evidence(), &self.gateways, &self.children);
        status.print();
    }

    fn close(&mut self) {
        let leaving_ms = {
            let world = &mut self.yard.floor().world;
            world.close();
            world.close_ms()
        };
        self.empty = self.steps + (leaving_ms + AFTERWARDS_MS) / STEP_MS;
        self.summary.seconds = self.steps / STEPS_A_SECOND;
        self.closed = self.steps;
        self.progress = (0, self.steps);
        self.restless = self.empty;
        self.phase = Phase::Draining;
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Finish if self.phase == Phase::Running => self.close(),
            Order::Finish => {}
            Order::Resume => self.yard.floor().world.set_quiet(false),
            Order::Limit { node, limit_w } => {
                if !self.yard.floor().world.meter().set_limit(&node, limit_w) {
                    tracing::warn!(node, "no such limit");
                }
            }
            Order::Cut { gateway, for_s } => match self.gateways.iter().position(|g| g.id == gateway) {
                Some(i) if self.gateways[i].set_cut(true) => {
                    self.cuts.push((self.steps + for_s * STEPS_A_SECOND, i, false));
                }
                _ => {
                    tracing::warn!(%gateway, "this gateway's link cannot be cut: give it a cut in the configuration")
                }
            },
        }
    }

    /// True when nothing is outstanding, or when waiting has become pointless.
    fn is_drained(&mut self) -> bool {
        if self.steps <= self.empty {
            return false;
        }
        let (mut drained, mut progress) = (self.yard.floor().is_delivered(), 0);
        for gateway in &self.gateways {
            let book = book::open(&gateway.book);
            drained &= book.is_drained();
            progress += book.progress();
        }
        if progress > self.progress.0 {
            self.progress = (progress, self.steps);
        }
        let idle_s = (self.steps - self.progress.1) / STEPS_A_SECOND;
        let all_s = (self.steps - self.closed) / STEPS_A_SECOND;
        if !drained {
            self.restless = self.steps;
        }
        self.summary.drained = self.steps >= self.restless + CALM_STEPS;
        self.summary.drained || idle_s >= self.config.drain_s || all_s >= DRAIN_MOST_S
    }

    /// Writes what is only known at the end.
    fn report(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        let t = self.steps.div_ceil(STEPS_A_SECOND);
        let (counts, totals, row) = self.yard.end_second(t, &self.chargers);
        let lines = self.gateway_lines();
        let mut summary = std::mem::take(&mut self.summary);
        if self.closed == 0 {
            summary.seconds = self.steps / STEPS_A_SECOND;
        }
        summary.chargers_online = totals.charging_peak;
        summary.load = totals;
        summary.grid_limit_w = row.limit_w;
        summary.energy_wh_registers = self.yard.floor().world.registers_wh() - self.registers_wh;
        summary.gateways_failed = self.gateways.iter().filter(|gateway| gateway.has_stopped()).count() as u64;
        count(&mut summary, counts, &lines);
        let mut evidence = self.yard.evidence();
        evidence.summarise(&mut summary);
        let written = evidence.finish(&lines, &summary);
        drop(evidence);
        self.yard.note(written);
        self.summary = summary;
    }

    fn gateway_lines(&self) -> Vec<GatewayLine> {
        let mut registers: Vec<Vec<(u16, String, i64)>> = vec![Vec::new(); self.gateways.len()];
        let index: BTreeMap<&GatewayId, usize> = self.gateways.iter().enumerate().map(|(i, g)| (&g.id, i)).collect();
        let floor = self.yard.floor();
        for (charger, bay) in self.config.chargers.iter().zip(floor.world.bays()) {
            if let Some(i) = index.get(&charger.gateway) {
                registers[*i].push((charger.child, charger.id.to_string(), bay.register_wh()));
            }
        }
        drop(floor);
        self.gateways.iter().zip(&registers).map(|(g, r)| book::open(&g.book).line(&g.id, r)).collect()
    }
}

fn count(summary: &mut Summary, counts: Counts, lines: &[GatewayLine]) {
    summary.sessions_started = counts.tally.started;
    summary.starts_denied = counts.tally.denied;
    summary.drivers_gave_up = counts.tally.gave_up;
    summary.starts_unanswered = counts.tally.unanswered;
    for line in lines {
        summary.samples_sent += line.samples_sent;
        summary.samples_acked += line.samples_acked;
        summary.samples_gap += line.samples_gap;
        summary.events_sent += line.events_sent;
        summary.events_acked += line.events_acked;
        summary.events_refused += line.events_refused;
        summary.reconnects += line.connections.saturating_sub(1);
        summary.leases_expired += line.leases_expired;
        for (code, times) in &line.denials {
            *summary.denials.entry(code.clone()).or_default() += times;
        }
    }
}

/// Reads standard input in a thread of its own: there is no other way to wait for it that ends with the program.
fn orders() -> mpsc::Receiver<Order> {
    let (to, orders) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            match serde_json::from_str(&line) {
                Ok(order) => {
                    if to.blocking_send(order).is_err() {
                        return;
                    }
                }
                Err(error) if !line.trim().is_empty() => {
                    tracing::warn!(%error, line, "not an order")
                }
                Err(_) => {}
            }
        }
    });
    orders
}

#[cfg(test)]
mod tests;
