//! HiGHS behind the [`Solver`] port: dedicated threads, a fresh instance per solve.
//!
//! Why it is built this way (HiGHS 1.16 through `highs` 2.4):
//! - models are not `Send`, and an instance's clock runs on from solve to solve, so that a kept instance
//!   meets its time limit after a few ticks: each solve creates, runs and drops its own on one thread
//!   (about 36 us);
//! - one thread per instance, no presolve, dual simplex: the fastest for these small programmes, and the only
//!   way that yields vertex duals, which the fair filling needs;
//! - a model status that the wrapper does not know makes it panic: caught, and reported as failed;
//! - a NaN price comes back as "optimal": programmes are looked through before they are passed on.
//!
//! HiGHS is never trusted: `allocation::lp::allocate_with` proves each answer or drops it. The queue is
//! short and refuses when full: an answer that comes after its tick is worth nothing.

use chargeplane_domain::allocation::lp::{Programme, SolveDone, SolveOutcome, SolveStatus, Solver, SolverBusy};
use highs::{HighsModelStatus, Model, RowProblem, Sense, SolvedModel};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Solves that may wait while every thread is busy.
const QUEUE: usize = 2;

/// How long a drop waits for running solves: longer than a tick's time limit.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the solver could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system refused a thread.
    #[error("no thread for the solver: {0}")]
    Thread(#[from] std::io::Error),
}

struct Job {
    programme: Programme,
    submitted: Instant,
    time_limit: Duration,
    done: SolveDone,
}

/// HiGHS on threads of its own. Dropping it ends them after the solves that are running.
pub struct HighsSolver {
    jobs: Option<SyncSender<Box<Job>>>,
    threads: Vec<JoinHandle<()>>,
}

impl HighsSolver {
    /// Starts `threads` solver threads (at least one).
    pub fn start(threads: usize) -> Result<Self, StartError> {
        let (jobs, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let mut solver = Self { jobs: Some(jobs), threads: Vec::new() };
        for at in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name(format!("highs-{at}"));
            solver.threads.push(thread.spawn(move || work(&queue))?);
        }
        Ok(solver)
    }
}

impl Solver for HighsSolver {
    fn submit(&self, programme: Programme, time_limit_ms: u64, done: SolveDone) -> Result<(), SolverBusy> {
        let (submitted, time_limit) = (Instant::now(), Duration::from_millis(time_limit_ms));
        let job = Box::new(Job { programme, submitted, time_limit, done });
        let Some(jobs) = &self.jobs else { return Err(SolverBusy) };
        match jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(SolverBusy),
        }
    }
}

impl Drop for HighsSolver {
    fn drop(&mut self) {
        self.jobs = None; // ends the threads' loops
        let until = Instant::now() + PATIENCE;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a solver thread panicked");
            }
        }
    }
}

/// A thread's life: jobs until the queue is closed.
fn work(queue: &Mutex<Receiver<Box<Job>>>) {
    loop {
        // Held while waiting: whoever has the lock takes the next job, the others queue up behind.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let Job { programme, submitted, time_limit, done } = *job;
        let outcome = run(programme, time_limit.saturating_sub(submitted.elapsed()));
        if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
            tracing::error!("the receiver of a solve panicked");
        }
    }
}

/// What a solve yields: status, primal values and row duals.
type Solution = (SolveStatus, Vec<f64>, Vec<f64>);

/// Solves on the calling thread, for programs that have nothing else to do meanwhile.
pub fn solve_here(programme: Programme, time_limit: Duration) -> SolveOutcome {
    run(programme, time_limit)
}

fn run(programme: Programme, time_limit: Duration) -> SolveOutcome {
    let started = Instant::now();
    let failed = |why: String| (SolveStatus::Failed(why), Vec::new(), Vec::new());
    let (status, primal, duals) = if time_limit.is_zero() {
        (SolveStatus::TimeLimit, Vec::new(), Vec::new())
    } else if let Err(why) = sane(&programme) {
        failed(why)
    } else {
        match catch_unwind(AssertUnwindSafe(|| solve(&programme, time_limit))) {
            Ok(Ok(solution)) => solution,
            Ok(Err(why)) => failed(why),
            Err(_) => failed("the wrapper panicked: a model status it does not know".into()),
        }
    };
    let solve_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    SolveOutcome { programme, status, primal, duals, solve_us }
}

/// HiGHS accepts numbers that make no sense and then answers "optimal".
fn sane(programme: &Programme) -> Result<(), String> {
    let columns = programme.columns.iter().enumerate();
    for (at, column) in columns {
        let finite = [column.price, column.lower, column.upper].iter().all(|x| x.is_finite());
        if !finite || column.lower > column.upper {
            return Err(format!("column {at} makes no sense: {column:?}"));
        }
    }
    for (at, row) in programme.rows.iter().enumerate() {
        let known = |(column, by): &(u32, f64)| (*column as usize) < programme.columns.len() && by.is_finite();
        if !row.equals.is_finite() || !row.entries.iter().all(known) {
            return Err(format!("row {at} makes no sense"));
        }
    }
    Ok(())
}

/// A model after its run, whatever came of it; for programs that look at the solver itself.
pub fn solved_model(programme: &Programme, time_limit: Duration) -> Result<SolvedModel, String> {
    let mut problem = RowProblem::new();
    let columns: Vec<_> = programme.columns.iter().map(|c| problem.add_column(c.price, c.lower..=c.upper)).collect();
    for row in &programme.rows {
        problem.add_row(row.equals..=row.equals, row.entries.iter().map(|(at, by)| (columns[*at as usize], *by)));
    }
    let mut model = problem.try_optimise(Sense::Maximise).map_err(|status| format!("model refused: {status:?}"))?;
    set_options(&mut model, time_limit)?;
    model.try_solve().map_err(|status| format!("run failed: {status:?}"))
}

fn solve(programme: &Programme, time_limit: Duration) -> Result<Solution, String> {
    let solved = solved_model(programme, time_limit)?;
    let status = match solved.status() {
        HighsModelStatus::Optimal => SolveStatus::Optimal,
        HighsModelStatus::ReachedTimeLimit => return Ok((SolveStatus::TimeLimit, Vec::new(), Vec::new())),
        other => return Ok((SolveStatus::Other(format!("{other:?}")), Vec::new(), Vec::new())),
    };
    let solution = solved.get_solution();
    Ok((status, solution.columns().to_vec(), solution.dual_rows().to_vec()))
}

fn set_options(model: &mut Model, time_limit: Duration) -> Result<(), String> {
    let refused = |option: &'static str| move |error| format!("option {option} refused: {error:?}");
    model.try_set_option("threads", 1).map_err(refused("threads"))?;
    model.try_set_option("parallel", "off").map_err(refused("parallel"))?;
    model.try_set_option("presolve", "off").map_err(refused("presolve"))?;
    model.try_set_option("solver", "simplex").map_err(refused("solver"))?;
    // Dual simplex, serial.
    model.try_set_option("simplex_strategy", 1).map_err(refused("simplex_strategy"))?;
    model.try_set_option("time_limit", time_limit.as_secs_f64()).map_err(refused("time_limit"))
}

#[cfg(test)]
mod tests;
