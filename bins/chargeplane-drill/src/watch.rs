//! The run itself: the fleet's process, the faults of the plan, the live view, the node's metrics every second.

use crate::finish::resident_kib;
use crate::fleet;
use crate::live::{Snapshot, View};
use crate::metrics::{Totals, scrape};
use crate::setup::{Setup, sibling};
use anyhow::Context;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(200);
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// Beyond the load's length, the fleet may take this long to drain.
const FLEET_DRAIN: Duration = Duration::from_secs(300);

/// Set by Ctrl-C and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The fleet's process and what it last said.
pub struct Fleet {
    child: Child,
    /// It outlives this program.
    kept: bool,
    said: Arc<Mutex<Said>>,
}

#[derive(Debug, Clone, Default)]
struct Said {
    /// The last line of figures.
    live: Value,
    /// The phase of that line, and since when the fleet is in it.
    phase: Option<(String, Instant)>,
    /// When the first car could come: second 0 of the load.
    began: Option<Instant>,
    /// All evidence is written.
    done: bool,
}

/// What the loop leaves behind.
pub struct Watched {
    /// Metrics over all processes of the node.
    pub totals: Totals,
    /// The fleet's process, still there with `--keep`.
    pub fleet: Fleet,
    /// `exit 0`, or what went wrong.
    pub fleet_exit: String,
    /// The fleet ended as it should.
    pub fleet_ok: bool,
    /// Most chargers online at once.
    pub online_peak: u64,
    /// Most memory that any process of the node had resident, KiB.
    pub resident_peak_kib: u64,
}

/// Watches for Ctrl-C and SIGTERM.
///
/// # Errors
/// The thread cannot be started.
pub fn watch_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
                return;
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::SeqCst);
        });
    })?;
    Ok(())
}

/// True after Ctrl-C or SIGTERM.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

impl Fleet {
    /// Starts the fleet of a run directory.
    ///
    /// # Errors
    /// The program is missing or cannot be started.
    pub fn start(dir: &Path, keep: bool) -> anyhow::Result<Self> {
        let mut child = Command::new(sibling("chargeplane-fleet")?)
            .arg("--config")
            .arg(dir.join(fleet::CONFIG))
            .stdin(if keep { never_ending_input(dir)? } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("fleet.log"))?)
            .process_group(0)
            .spawn()
            .context("cannot start chargeplane-fleet")?;
        let said = Arc::new(Mutex::new(Said::default()));
        let stdout = child.stdout.take().context("the fleet has no standard output")?;
        let (told, file) = (said.clone(), File::create(dir.join("fleet-live.jsonl"))?);
        std::thread::Builder::new().name("fleet-output".into()).spawn(move || follow(stdout, &told, file))?;
        Ok(Self { child, said, kept: false })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whatever goes wrong, no fleet is left behind that nobody knows of.
impl Drop for Fleet {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A standard input that never ends, so that a kept fleet outlives this program: a FIFO it holds open itself.
fn never_ending_input(dir: &Path) -> anyhow::Result<Stdio> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let path = dir.join("fleet.stdin");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    Ok(File::options().read(true).write(true).open(&path)?.into())
}

impl Said {
    fn hear(&mut self, value: Value) {
        if self.began.is_none()
            && let Some(second) = value.get("t").and_then(Value::as_u64)
        {
            self.began = Instant::now().checked_sub(Duration::from_secs(second));
        }
        let phase = value.get("phase").and_then(Value::as_str).unwrap_or("starting");
        self.done |= phase == "idle";
        if self.phase.as_ref().is_none_or(|(before, _)| before != phase) {
            self.phase = Some((phase.to_owned(), Instant::now()));
        }
        self.live = value;
    }
}

/// Time since the first car could come; zero before.
fn load_time(said: &Said) -> Duration {
    said.began.map_or(Duration::ZERO, |began| began.elapsed())
}

fn follow(stdout: std::process::ChildStdout, said: &Mutex<Said>, mut file: File) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        // The copy is for people; losing it is no reason to stop following.
        let _ = writeln!(file, "{line}");
        if let Ok(value) = serde_json::from_str::<Value>(&line) {
            said.lock().unwrap_or_else(PoisonError::into_inner).hear(value);
        }
    }
}

struct Loop<'a> {
    setup: &'a Setup,
    view: View,
    totals: Totals,
    began: Instant,
    scraped: Instant,
    kills: Vec<u32>,
    stops: Vec<u32>,
    bursts: Vec<u32>,
    burst_threads: Vec<std::thread::JoinHandle<()>>,
    online_peak: u64,
    resident_peak_kib: u64,
    samples_before: (Instant, u64),
    samples_rate: u64,
    samples_rate_peak: u64,
}

/// Runs the load to its end.
///
/// # Errors
/// The node cannot be brought back, the fleet does not end, or somebody interrupted.
pub fn watch(setup: &Setup, mut fleet: Fleet, headless: bool, keep: bool) -> anyhow::Result<Watched> {
    let seconds = setup.plan.scenario.seconds;
    let mut run = Loop {
        setup,
        view: View::new(headless),
        totals: Totals::default(),
        began: Instant::now(),
        scraped: Instant::now(),
        kills: setup.plan.kills.iter().rev().copied().collect(),
        stops: setup.plan.stops.iter().rev().copied().collect(),
        bursts: vec![seconds * 7 / 10, seconds * 3 / 10],
        burst_threads: Vec::new(),
        online_peak: 0,
        resident_peak_kib: 0,
        samples_before: (Instant::now(), 0),
        samples_rate: 0,
        samples_rate_peak: 0,
    };
    let limit = Duration::from_secs(u64::from(seconds)) + FLEET_DRAIN;
    let (fleet_exit, fleet_ok) = loop {
        std::thread::sleep(STEP);
        let said = fleet.said();
        run.step(&said)?;
        if let Some(status) = fleet.child.try_wait()? {
            break (status.to_string(), status.success());
        }
        if keep && said.done {
            fleet.kept = true;
            break ("kept running".to_owned(), true);
        }
        if interrupted() || run.began.elapsed() > limit {
            anyhow::ensure!(!interrupted(), "interrupted");
            anyhow::bail!("the fleet did not end within {} s", limit.as_secs());
        }
    };
    for thread in run.burst_threads.drain(..) {
        let _ = thread.join();
    }
    run.scrape();
    let (online_peak, resident_peak_kib) = (run.online_peak, run.resident_peak_kib);
    Ok(Watched { totals: run.totals, fleet, fleet_exit, fleet_ok, online_peak, resident_peak_kib })
}

impl Loop<'_> {
    fn step(&mut self, said: &Said) -> anyhow::Result<()> {
        for line in self.setup.node.take_news() {
            self.view.say(&line);
        }
        let state = self.setup.node.state();
        if let Some(fatal) = state.fatal {
            anyhow::bail!(fatal);
        }
        let now = u32::try_from(load_time(said).as_secs()).unwrap_or(u32::MAX);
        if self.kills.last().is_some_and(|at| *at <= now) {
            self.kills.pop();
            self.scrape();
            self.setup.node.kill();
        } else if self.stops.last().is_some_and(|at| *at <= now) {
            self.stops.pop();
            self.scrape();
            self.setup.node.stop();
        } else if self.bursts.last().is_some_and(|at| *at <= now) {
            self.bursts.pop();
            self.burst();
        }
        if self.scraped.elapsed() >= SCRAPE_EVERY {
            self.scrape();
        }
        let snapshot = self.snapshot(said);
        self.online_peak = self.online_peak.max(snapshot.online.0);
        self.view.show(&snapshot);
        Ok(())
    }

    fn scrape(&mut self) {
        self.scraped = Instant::now();
        let resident = self.setup.node.state().pid.and_then(resident_kib);
        self.resident_peak_kib = self.resident_peak_kib.max(resident.unwrap_or(0));
        // While the node is down there is nothing to scrape.
        if let Some((process, scrape)) = scrape(&self.setup.client) {
            self.totals.observe(process, scrape);
        }
    }

    fn burst(&mut self) {
        let (traffic, plan) = (self.setup.traffic.clone(), self.setup.burst_plan());
        let spawn = std::thread::Builder::new().name("burst".into());
        self.burst_threads.extend(spawn.spawn(move || traffic.burst(&plan)).ok());
    }

    fn snapshot(&mut self, said: &Said) -> Snapshot {
        let number = |name: &str| said.live.get(name).and_then(Value::as_i64).unwrap_or(0);
        let count = |name: &str| number(name).unsigned_abs();
        let samples = count("samples_sent");
        let (before, sent) = self.samples_before;
        if before.elapsed() >= SCRAPE_EVERY {
            let rate = samples.saturating_sub(sent) as f64 / before.elapsed().as_secs_f64();
            self.samples_rate = rate.round() as u64;
            self.samples_rate_peak = self.samples_rate_peak.max(self.samples_rate);
            self.samples_before = (Instant::now(), samples);
        }
        // How long it took to make what is not acknowledged yet. While the run closes the rate falls to nothing,
        // so the lag is then counted at the peak's.
        let outstanding = samples.saturating_sub(count("samples_acked") + count("samples_gap"));
        let state = self.setup.node.state();
        let scenario = &self.setup.plan.scenario;
        let (phase, since) = said.phase.clone().unwrap_or_else(|| ("starting".to_owned(), self.began));
        Snapshot {
            second: load_time(said).as_secs_f64(),
            seconds: scenario.seconds,
            phase,
            phase_second: since.elapsed().as_secs_f64(),
            online: (count("online"), u64::from(scenario.station.chargers)),
            sessions: count("charging"),
            finished: count("sessions_started").saturating_sub(count("charging")),
            load: (number("load_w"), number("limit_w")),
            demand_w: number("demand_w"),
            energy_wh: number("wh_flowed"),
            money: self.totals.counter("chargeplane_billed_money_total").unwrap_or(0.0) as i64,
            samples_per_second: self.samples_rate,
            ack_lag_ms: outstanding * 1000 / self.samples_rate.max(self.samples_rate_peak / 2).max(1),
            node: (state.pid, state.ready),
            restarts: state.restarts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_a_beginning_of_its_own() {
        let mut said = Said::default();
        let mut hear = |t: u64, phase: &str| {
            said.hear(serde_json::json!({ "t": t, "phase": phase }));
            (said.phase.clone().expect("it has one"), said.done)
        };
        let (running, _) = hear(119, "running");
        assert_eq!(hear(120, "running").0, running, "it goes on");
        let (draining, done) = hear(121, "draining");
        assert!(draining.0 == "draining" && draining.1 >= running.1 && !done);
        assert!(hear(150, "idle").1);
        assert!(load_time(&said) >= Duration::from_secs(119), "of the load, by its first line");
    }
}
