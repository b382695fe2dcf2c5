//! `chargeplane allocate`: one allocation problem from a file, answered as a station's tick answers it.
//!
//! Reads a file and prints JSON (`docs/reference/allocate.md`), so that anyone can check the allocator against
//! another. It needs no node. The rules are `domain::allocation`'s, HiGHS runs on this thread.

use crate::cli::AllocateArgs;
use crate::exit::Failure;
use crate::output;
use chargeplane_domain::allocation::file::{AllocationFile, Answer, Answerer};
use chargeplane_domain::allocation::horizon::Ahead;
use chargeplane_domain::allocation::lp::{Programme, Source, allocate_with, worth};
use chargeplane_domain::allocation::{Policy, Problem, check};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Longest file (bytes): 20,000 nodes and as many connectors take a tenth of it.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Nobody waits for a tick here, so HiGHS may take its time.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Prints the answer. What is wrong with the file is told before anything is printed.
pub fn run(args: &AllocateArgs) -> Result<(), Failure> {
    let answer = answer(&args.file, args.ahead)?;
    let mut shown = serde_json::to_string_pretty(&answer).map_err(|e| Failure::internal(e.to_string()))?;
    shown.push('\n');
    output::write(&shown)?;
    if !answer.grants.is_empty() && answer.paused.len() == answer.grants.len() {
        eprintln!("note: no connector can be fed; all are paused, in the order of \"paused\"");
    }
    Ok(())
}

fn answer(path: &Path, ahead: bool) -> Result<Answer, Failure> {
    let named = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let text = text(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    let mut from = serde_json::Deserializer::from_str(&text);
    let file: AllocationFile = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let path = error.path().to_string();
        named(format!("{path}: {}", error.into_inner()))
    })?;
    from.end().map_err(|error| named(error.to_string()))?;
    let mut posed = file.pose().map_err(|error| named(error.to_string()))?;
    if ahead {
        posed.problem = planned(&file, posed.problem).map_err(named)?;
    }
    let (allocation, solver) = solve(&posed.problem);
    if let Err(violations) = check(&posed.problem, &allocation) {
        return Err(Failure::internal(format!("the answer breaks its own rules, report this file: {violations:?}")));
    }
    Ok(posed.answer(&allocation, worth(&posed.problem, &allocation), solver))
}

/// The problem with the needs that a plan to the departures finds best.
fn planned(file: &AllocationFile, problem: Problem) -> Result<Problem, String> {
    if problem.policy() != Policy::Needs {
        return Err("--ahead plans needs; write \"policy\": \"needs\"".to_owned());
    }
    let tick_s = (file.dt_s.ceil() as u32).max(1);
    let ahead = Ahead::new(&problem, tick_s, &file.wishes()).map_err(|error| error.to_string())?;
    let watts = ahead.horizon.everybody().unwrap_or_else(|| {
        let outcome = chargeplane_highs::solve_here(ahead.horizon.programme(), TIME_LIMIT);
        ahead.horizon.shares(&outcome).unwrap_or_else(|why| {
            eprintln!("note: the plan of HiGHS was not used ({why:?}); planned by average power instead");
            ahead.horizon.without_solver()
        })
    });
    Ok(ahead.needs(problem, &watts))
}

fn solve(problem: &Problem) -> (chargeplane_domain::allocation::Allocation, Answerer) {
    let outcome = problem.wants_solver().then(|| chargeplane_highs::solve_here(Programme::build(problem), TIME_LIMIT));
    let (allocation, source) = allocate_with(problem, outcome.as_ref());
    let solver = match source {
        Source::Solver => Answerer::Highs,
        Source::WaterFilling(_) => Answerer::Water,
    };
    (allocation, solver)
}

/// The file, or standard input for `-`.
fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?
    } else {
        std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?
    };
    if read as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
