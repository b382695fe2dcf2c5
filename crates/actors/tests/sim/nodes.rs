//! Two nodes' worth of real actors on one store, and what befalls them.

use crate::clients::{SHARDS, STORM_MS};
use crate::dice::Dice;
use crate::net::{Leases, Port};
use crate::world::{DIRECTOR, Gate, Point, World, lock};
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{Clock, NodeConfig, Ports};
use chargeplane_actors::testing::{BusySolver, MemoryCatalogue, MemoryRecords, MemoryStatements, MemoryTelemetry};
use chargeplane_cluster::BoxFuture;
use chargeplane_cluster::memory::MemoryCoordination;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The nodes' names.
const NAMES: [&str; 2] = ["n1", "n2"];

struct Running {
    node: Node,
    gate: Arc<Gate>,
    handle: NodeHandle,
}

#[derive(Default)]
struct Seat {
    running: Option<Running>,
    starting: bool,
    /// It is started again when it ends.
    wanted: bool,
}

/// The nodes of a run.
pub struct Cluster {
    world: Arc<World>,
    leases: MemoryCoordination,
    seats: Mutex<[Seat; 2]>,
    incarnations: AtomicU64,
}

impl Cluster {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        let (leases, seats) = (MemoryCoordination::default(), Mutex::default());
        Arc::new(Self { world, leases, seats, incarnations: AtomicU64::new(0) })
    }

    /// The node in a seat, when one runs there.
    pub fn reach(&self, seat: usize) -> Option<(Arc<Gate>, NodeHandle)> {
        let seats = lock(&self.seats);
        seats[seat].running.as_ref().map(|running| (Arc::clone(&running.gate), running.handle.clone()))
    }

    /// Starts a node in a seat unless one runs there.
    pub async fn start(self: &Arc<Self>, seat: usize) {
        {
            let mut seats = lock(&self.seats);
            let seat = &mut seats[seat];
            if seat.running.is_some() || std::mem::replace(&mut seat.starting, true) {
                return;
            }
        }
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed) + 1;
        let gate = Gate::new(NodeId(NAMES[seat].into()), incarnation);
        self.world.trace("node starts", [seat as u64, incarnation, 0, 0]);
        let (world, leases) = (Arc::clone(&self.world), self.leases.clone());
        let ports = Ports {
            journal: Arc::new(Port { world: Arc::clone(&world), gate: Arc::clone(&gate) }),
            coordination: Arc::new(Leases { world, gate: Arc::clone(&gate), store: leases }),
            telemetry: Arc::new(MemoryTelemetry::default()),
            catalogue: Arc::new(MemoryCatalogue::default()),
            records: Arc::new(MemoryRecords::default()),
            statements: Arc::new(MemoryStatements::default()),
            solver: Arc::new(BusySolver),
        };
        let mut config = NodeConfig::new(NAMES[seat]);
        config.shards = SHARDS;
        // Wall clocks are the run's own time, as the clients' are.
        config.clock = Clock::with_wall_at(tokio::time::Instant::now(), Timestamp(self.world.now_ms() as i64));
        config.call_timeout = Duration::from_secs(5);
        // Short, so that entities leave and come back within a run.
        config.passivate_after = Duration::from_secs(2);
        let node = Node::start(config, ports).await.expect("leases and catalogue in memory do not fail");
        let (handle, fatal) = (node.handle(), node.fatal());
        {
            let mut seats = lock(&self.seats);
            seats[seat].starting = false;
            seats[seat].running = Some(Running { node, gate: Arc::clone(&gate), handle });
        }
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = gate.ended.notified() => {}
                _ = fatal => cluster.world.count("node stopped by a failure of its store"),
            }
            cluster.world.rest(DIRECTOR, 1).await;
            cluster.end(seat, incarnation);
            let down = Dice::of(cluster.world.seed, &[20, incarnation]).below(1_500);
            // Some are back at once: their former commits are still on their way.
            let down = if incarnation.is_multiple_of(3) { 1 } else { down };
            cluster.world.rest(DIRECTOR, down).await;
            if lock(&cluster.seats)[seat].wanted {
                cluster.start_again(seat).await;
            }
        });
    }

    /// A future with a name, because a start and what follows its end would contain each other.
    fn start_again(self: &Arc<Self>, seat: usize) -> BoxFuture<'_, ()> {
        Box::pin(self.start(seat))
    }

    /// The process of an incarnation is gone: its memory, its timers, its tasks.
    fn end(&self, seat: usize, incarnation: u64) {
        let mut seats = lock(&self.seats);
        let Some(running) = seats[seat].running.take_if(|running| running.gate.incarnation == incarnation) else {
            return;
        };
        drop(seats);
        self.world.trace("node ends", [seat as u64, incarnation, 0, 0]);
        running.gate.kill();
        running.node.kill();
    }

    fn crash(&self, seat: usize) {
        if let Some((gate, _)) = self.reach(seat) {
            self.end(seat, gate.incarnation);
            self.world.count("node crash");
        }
    }

    /// Stops a node in order: it releases its shards.
    fn drain(&self, seat: usize) {
        let Some(running) = lock(&self.seats)[seat].running.take() else { return };
        self.world.count("node drained");
        tokio::spawn(async move {
            let Running { node, gate, .. } = running;
            node.drain().await;
            gate.kill();
        });
    }

    fn want(&self, seat: usize, wanted: bool) {
        lock(&self.seats)[seat].wanted = wanted;
    }

    fn runs(&self, seat: usize) -> bool {
        lock(&self.seats)[seat].running.is_some()
    }

    /// Faults are over: one node, with nothing held back.
    pub async fn calm_down(self: &Arc<Self>) {
        let survivor = if self.runs(1) { 1 } else { 0 };
        self.want(survivor, true);
        self.want(1 - survivor, false);
        for seat in [0, 1] {
            if let Some((gate, _)) = self.reach(seat) {
                gate.pause_until(0);
                gate.cut_until(0);
            }
        }
        self.crash(1 - survivor);
        // One that keeps a shard closed because it was damaged is started again by its operator.
        self.crash(survivor);
        self.world.rest(DIRECTOR, 2_000).await;
        self.start(survivor).await;
    }
}

/// Faults of a run. A run has some kinds of them and not others, so that each is seen alone and with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    EndAtPoint,
    TakeOver,
    TakeOverFromPaused,
    Pause,
    Cut,
    StoreCrash,
    FailedSync,
    Rot,
}

const FAULTS: [Fault; 9] = [
    Fault::Crash,
    Fault::EndAtPoint,
    Fault::TakeOver,
    Fault::TakeOverFromPaused,
    Fault::Pause,
    Fault::Cut,
    Fault::StoreCrash,
    Fault::FailedSync,
    Fault::Rot,
];

/// Makes the faults of a run happen, until the storm is over.
pub async fn direct(world: &Arc<World>, cluster: &Arc<Cluster>) {
    let mut dice = Dice::of(world.seed, &[30]);
    let kinds: Vec<Fault> = FAULTS.into_iter().filter(|_| dice.chance(450)).collect();
    let pause = *dice.pick(&[600, 2_000, 6_000]);
    cluster.want(0, true);
    cluster.start(0).await;
    while world.now_ms() < STORM_MS {
        let wait = dice.below(pause);
        world.rest(DIRECTOR, wait).await;
        if kinds.is_empty() {
            continue;
        }
        let (fault, seat) = (*dice.pick(&kinds), dice.below(2) as usize);
        strike(world, cluster, fault, seat, &mut dice).await;
    }
}

async fn strike(world: &Arc<World>, cluster: &Arc<Cluster>, fault: Fault, seat: usize, dice: &mut Dice) {
    let now = world.now_ms();
    let seat = if cluster.runs(seat) { seat } else { 1 - seat };
    let gate = cluster.reach(seat).map(|(gate, _)| gate);
    match (fault, gate) {
        (Fault::Crash, _) => cluster.crash(seat),
        (Fault::EndAtPoint, Some(gate)) => {
            let point = *dice.pick(&[Point::Sent, Point::Stored, Point::Acknowledged]);
            gate.end_at(point, dice.between(1, 5));
        }
        (Fault::TakeOver, Some(_)) => take_over(world, cluster, seat, None, dice).await,
        (Fault::TakeOverFromPaused, Some(gate)) => take_over(world, cluster, seat, Some(gate), dice).await,
        (Fault::Pause, Some(gate)) => {
            gate.pause_until(now + dice.between(100, 6_000));
            world.count("node paused");
        }
        (Fault::Cut, Some(gate)) => {
            gate.cut_until(now + dice.between(100, 6_000));
            world.count("node cut off from the store");
        }
        (Fault::StoreCrash, _) => world.crash_store(dice.between(20, 2_000)),
        (Fault::FailedSync, _) => world.fail_next_sync(),
        (Fault::Rot, _) => {
            let shard = ShardId { family: Family::Account, index: dice.below(u64::from(SHARDS)) as u16 };
            if !world.rot(shard, dice) {
                return;
            }
            let (served, closed) = (dice.between(50, 1_000), dice.between(1_500, 4_000));
            world.rest(DIRECTOR, served).await;
            (0..2).for_each(|seat| cluster.crash(seat));
            world.rest(DIRECTOR, closed).await;
            world.heal();
            (0..2).for_each(|seat| cluster.crash(seat));
        }
        (_, None) => {}
    }
}

/// The other node opens while this one runs, is paused or believes that it runs. For a while both try; then this one
/// ends, one way or the other.
async fn take_over(
    world: &Arc<World>,
    cluster: &Arc<Cluster>,
    seat: usize,
    paused: Option<Arc<Gate>>,
    dice: &mut Dice,
) {
    if cluster.runs(1 - seat) {
        return;
    }
    let together = dice.between(100, 5_000);
    if let Some(gate) = paused {
        gate.pause_until(world.now_ms() + dice.between(300, 5_000));
        world.count("take-over from a paused owner");
    } else {
        world.count("take-over from a running owner");
    }
    cluster.want(1 - seat, true);
    cluster.start(1 - seat).await;
    world.rest(DIRECTOR, together).await;
    cluster.want(seat, false);
    if dice.chance(300) {
        cluster.drain(seat);
    } else {
        cluster.crash(seat);
    }
}
