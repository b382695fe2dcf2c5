//! A deterministic simulation of account shards: the real shard, account and journal actors of two nodes, on virtual
//! time, over a simulated store with a faulty disk behind a faulty network. A judge with code of its own reads what is
//! stored and compares it with what the clients were told. How it works and what it found:
//! docs/measurements/simulation.md.
//!
//! `./dev sim` sets `CHARGEPLANE_SIM_SEEDS`, the number of seeds, `CHARGEPLANE_SIM_SEED`, the first one, and
//! `CHARGEPLANE_SIM_PLANT`, a fault to be planted and then to be found.

mod books;
mod clients;
mod dice;
mod disk;
mod judge;
mod net;
mod nodes;
mod run;
mod trace;
mod world;

use crate::net::Port;
use crate::run::{Outcome, run_many};
use crate::trace::Counts;
use crate::world::{Gate, Plant, World};
use chargeplane_domain::ids::NodeId;
use std::sync::Arc;
use std::time::Instant;

/// Every so many seeds one is run twice and must go the same way.
const TWICE: u64 = 20;

/// A planted fault must be found within so many seeds.
const SEEDS_FOR_A_PLANT: u64 = 100;

/// From so many seeds on, everything of [`EXERCISED`] must have happened.
const ENOUGH: u64 = 100;

/// Every fault and every check. One that never happens over many seeds proves nothing.
const EXERCISED: [&str; 43] = [
    "MONEY-1 balances as served",
    "MONEY-1 entries",
    "MONEY-2 effects",
    "MONEY-2 repeated requests",
    "MONEY-3 answers",
    "MONEY-3 reads",
    "MONEY-4 events",
    "MONEY-4 overshoots",
    "OWN-1 frames",
    "another content under a known key",
    "answer to a node that is cut off",
    "bit rot",
    "bit rot found at an opening",
    "commit after its own node opened again",
    "commit delayed beyond a take-over",
    "commit of a node's former life after it opened anew",
    "failed fsync",
    "frame of several entries",
    "interrupted request",
    "message doubled",
    "message held by a paused node",
    "message lost",
    "message very late",
    "node crash",
    "node cut off from the store",
    "node drained",
    "node ended after it acknowledged",
    "node ended before it heard of a commit",
    "node ended with a commit on its way",
    "node paused",
    "node stopped by a failure of its store",
    "request of a node that is cut off",
    "request repeated after its answer",
    "request repeated without an answer",
    "request to a store that is down",
    "seed run twice",
    "store crash",
    "take-over from a paused owner",
    "take-over from a running owner",
    "torn record cut off",
    "unknown outcome",
    "unsynced writes at a crash",
    "unsynced writes lost",
];

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

/// The seeds to run: the first one, and how many.
fn seeds() -> (u64, u64) {
    let first = number_of("CHARGEPLANE_SIM_SEED");
    let long = std::env::var_os("CHARGEPLANE_LONG").is_some();
    let usual = match (first, cfg!(debug_assertions), long) {
        (Some(_), ..) => 1,
        (None, true, _) => 40,
        (None, false, false) => 2_000,
        (None, false, true) => 20_000,
    };
    (first.unwrap_or(1), number_of("CHARGEPLANE_SIM_SEEDS").unwrap_or(usual))
}

fn report(outcome: &Outcome, plant: Option<&str>) -> String {
    let Outcome { seed, objections, tail, .. } = outcome;
    let objections = objections.iter().map(|(invariant, what)| format!("  {invariant}: {what}\n"));
    let (planted, flag) = match plant {
        Some(name) => (format!(" with {name} planted"), format!(" --plant {name}")),
        None => (String::new(), String::new()),
    };
    format!(
        "seed {seed}{planted}:\n{}the last events:\n{tail}again: ./dev sim --seed {seed} --seeds 1{flag}\n",
        objections.collect::<String>()
    )
}

fn print_counts(counts: &Counts) {
    counts.iter().for_each(|(what, count)| println!("{count:>12}  {what}"));
}

#[test]
fn seeds_keep_the_books() {
    let (first, count) = seeds();
    let planted = std::env::var("CHARGEPLANE_SIM_PLANT").ok();
    let planted = planted.as_deref().filter(|name| !name.is_empty());
    let plant = planted.map(|name| {
        let names = Plant::ALL.map(|(name, _)| name).join(", ");
        Plant::named(name).unwrap_or_else(|| panic!("there is no plant {name:?}; there are: {names}"))
    });
    let started = Instant::now();
    let twice = if plant.is_some() { 0 } else { TWICE };
    let (counts, failure) = run_many(first, count, twice, plant);
    print_counts(&counts);
    println!("account shards: seeds {first} to {} in {:?}", first.saturating_add(count - 1), started.elapsed());
    match (plant, failure) {
        (None, Some(failure)) => panic!("{}", report(&failure, None)),
        (None, None) if count >= ENOUGH => {
            let never: Vec<_> = EXERCISED.into_iter().filter(|what| !counts.contains_key(what)).collect();
            assert!(never.is_empty(), "never exercised: {never:?}");
        }
        (None, None) => {}
        (Some(_), Some(failure)) => println!("found: {}", report(&failure, planted)),
        (Some(_), None) => panic!("{} is not found by {count} seeds", planted.unwrap_or_default()),
    }
}

#[test]
fn every_planted_fault_is_found() {
    if std::env::var_os("CHARGEPLANE_SIM_SEED").is_some() || std::env::var_os("CHARGEPLANE_SIM_PLANT").is_some() {
        return println!("left out: one seed or one plant was asked for");
    }
    let mut missed = Vec::new();
    for (name, plant) in Plant::ALL {
        match run_many(1, SEEDS_FOR_A_PLANT, 0, Some(plant)).1 {
            Some(Outcome { seed, objections, .. }) => {
                println!("{name}: found by seed {seed}: {}: {}", objections[0].0, objections[0].1);
            }
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS_FOR_A_PLANT} seeds: {missed:?}");
}

/// The simulated store obeys the rules that every journal obeys.
#[tokio::test(start_paused = true)]
async fn the_simulated_store_is_a_journal() {
    let make = || {
        let world = World::new(1, None);
        world.calm_down();
        let gate = Gate::new(NodeId("n1".into()), 1);
        let journal: Arc<dyn chargeplane_cluster::journal::Journal> = Arc::new(Port { world, gate });
        journal
    };
    chargeplane_cluster::conformance::check_journal(make).await;
}
