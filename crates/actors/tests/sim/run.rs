//! One run of one seed, and many of them.

use crate::clients::{ACCOUNTS, CLIENTS, Client, account_id};
use crate::nodes::{Cluster, direct};
use crate::trace::Counts;
use crate::world::{DIRECTOR, Plant, World};
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::testing::plants;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// In the calm everything that was begun ends within this time.
const CALM: Duration = Duration::from_secs(120);

/// What became of a run.
pub struct Outcome {
    pub seed: u64,
    pub hash: u64,
    pub objections: Vec<(&'static str, String)>,
    pub counts: Counts,
    pub tail: String,
}

/// Runs a seed on virtual time, on this thread alone.
pub fn run(seed: u64, plant: Option<Plant>) -> Outcome {
    plants::plant(match plant {
        Some(Plant::Node(plant)) => Some(plant),
        _ => None,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O");
    let world = runtime.block_on(play(seed, plant));
    drop(runtime);
    plants::plant(None);
    let objections = world.judge(|judge| judge.objections().to_vec());
    let judged: Vec<_> = world.judge(|judge| judge.counts().collect());
    world.with_trace(|trace| {
        let mut counts = std::mem::take(&mut trace.counts);
        judged.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        Outcome { seed, hash: trace.hash(), objections, counts, tail: trace.tail() }
    })
}

async fn play(seed: u64, plant: Option<Plant>) -> Arc<World> {
    let world = World::new(seed, plant);
    let cluster = Cluster::new(Arc::clone(&world));
    let clients = (0..CLIENTS).map(|number| Client::new(Arc::clone(&world), Arc::clone(&cluster), number).drive());
    let clients: Vec<_> = clients.map(tokio::spawn).collect();
    direct(&world, &cluster).await;
    world.calm_down();
    cluster.calm_down().await;
    let end = tokio::time::Instant::now() + CALM;
    for client in clients {
        match tokio::time::timeout_at(end, client).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => world.judge(|judge| judge.object("LIVENESS", format!("a client failed: {error}"))),
            Err(_) => world.judge(|judge| judge.object("LIVENESS", "a client waits for ever in the calm".to_owned())),
        }
    }
    match served(&world, &cluster).await {
        Some(balances) => world.judge(|judge| judge.served(&balances)),
        None => world.judge(|judge| judge.object("LIVENESS", "no node serves in the calm".to_owned())),
    }
    world.with_durable(|file| world.judge(|judge| judge.end(file)));
    world
}

/// All balances as the surviving node serves them.
async fn served(world: &World, cluster: &Cluster) -> Option<BTreeMap<(String, String), i64>> {
    for _ in 0..100 {
        if let Some((_, handle)) = cluster.reach(0).or_else(|| cluster.reach(1))
            && are_open(&handle).await
            && let Ok(balances) = handle.balances(None, 10_000).await
        {
            return Some(balances.into_iter().map(|one| ((one.shard, one.account), one.balance.0)).collect());
        }
        world.rest(DIRECTOR, 500).await;
    }
    None
}

/// A shard that opens holds accounts back and tells balances as far as it has them.
async fn are_open(handle: &NodeHandle) -> bool {
    for account in 0..ACCOUNTS {
        if handle.account(&account_id(account)).await.is_err() {
            return false;
        }
    }
    true
}

/// Runs seeds on all cores until one fails or all are done; every `twice`th is run again and must go the same way.
/// Returns what was counted, and the first failure by seed among those that were run.
pub fn run_many(first: u64, count: u64, twice: u64, plant: Option<Plant>) -> (Counts, Option<Outcome>) {
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let work = || {
        let (mut counts, mut failure) = (Counts::new(), None::<Outcome>);
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let seed = first.wrapping_add(number);
            let mut outcome = run(seed, plant);
            if twice > 0 && number.is_multiple_of(twice) {
                let again = run(seed, plant);
                *outcome.counts.entry("seed run twice").or_default() += 1;
                if again.hash != outcome.hash {
                    let what = format!(
                        "{:016x}, then {:016x}; the second run ended\n{}",
                        outcome.hash, again.hash, again.tail
                    );
                    outcome.objections.push(("SAME SEED, SAME RUN", what));
                }
            }
            for (what, count) in &outcome.counts {
                *counts.entry(*what).or_default() += count;
            }
            if !outcome.objections.is_empty() {
                failed.store(true, Ordering::Relaxed);
                failure = Some(outcome);
            }
        }
        (counts, failure)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("the simulation does not panic")).collect()
    });
    let (mut counts, mut failure) = (Counts::new(), None::<Outcome>);
    for (some, failed) in results {
        some.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        failure = match (failure, failed) {
            (Some(one), Some(other)) => Some(if one.seed < other.seed { one } else { other }),
            (one, other) => one.or(other),
        };
    }
    (counts, failure)
}
