//! What a run shares: virtual time in slots, the store behind its network, the nodes' gates, trace and judge.

use crate::dice::Dice;
use crate::disk::{Disk, Rot};
use crate::judge::Judge;
use crate::trace::Trace;
use chargeplane_actors::testing::plants::NodePlant;
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{CommitOutcome, JournalError, OpenedShard, Snapshot};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A fault planted into the simulated store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePlant {
    /// Answers before its disk has synced.
    AckBeforeSync,
    /// Takes a frame of any epoch that follows the last one.
    ForgetEpoch,
    /// Cuts off the last frame when it starts after a crash.
    LoseTail,
}

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    Node(NodePlant),
    Store(StorePlant),
}

impl Plant {
    pub const ALL: [(&'static str, Self); 8] = [
        ("ack-before-durable", Self::Node(NodePlant::AckBeforeDurable)),
        ("ack-before-sync", Self::Store(StorePlant::AckBeforeSync)),
        ("forget-epoch", Self::Store(StorePlant::ForgetEpoch)),
        ("committed-state-only", Self::Node(NodePlant::CommittedStateOnly)),
        ("debit-twice", Self::Node(NodePlant::DebitTwice)),
        ("lose-torn-tail", Self::Store(StorePlant::LoseTail)),
        ("another-frame", Self::Node(NodePlant::AnotherFrame)),
        ("shared-balance", Self::Node(NodePlant::SharedBalance)),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, plant)| plant)
    }
}

/// Every party acts in its own milliseconds of 16, so that no two act at one instant and the order in which the runtime
/// wakes tasks of one instant decides nothing between them. Clients have the slots from 0.
pub const SLOTS: u64 = 16;
pub const TO_STORE: u64 = 8;
pub const FROM_STORE: u64 = 9;
pub const DISK: u64 = 10;
pub const DIRECTOR: u64 = 11;
pub const TO_NODE: u64 = 12;
pub const FROM_NODE: u64 = 13;

/// What the network does to messages of a run, in the stormy part of it.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// In 1,000.
    pub lost: u64,
    /// In 1,000.
    pub doubled: u64,
    /// In 1,000; such a message comes up to 20 s later.
    pub very_late: u64,
    /// Usual delay, at most.
    pub delay_ms: u64,
    /// A sync of the disk, at most.
    pub sync_ms: u64,
}

impl Weather {
    pub const CALM: Self = Self { lost: 0, doubled: 0, very_late: 0, delay_ms: 10, sync_ms: 8 };

    fn of(dice: &mut Dice) -> Self {
        Self {
            lost: *dice.pick(&[0, 5, 30, 100]),
            doubled: *dice.pick(&[0, 20, 150]),
            very_late: *dice.pick(&[0, 2, 10, 40]),
            delay_ms: *dice.pick(&[5, 20, 60, 300]),
            sync_ms: *dice.pick(&[4, 20, 80]),
        }
    }
}

/// A request to the store.
#[derive(Clone)]
pub enum Request {
    Open(ShardId, NodeId),
    Commit(Vec<Frame>),
    Release(ShardId, u64),
    Snapshot(ShardId, u64, Snapshot),
}

/// Its answer.
#[derive(Debug, Clone)]
pub enum Response {
    Opened(OpenedShard),
    Committed(Vec<CommitOutcome>),
    Done(bool),
}

pub type StoreAnswer = Result<Response, JournalError>;
type Respond = Box<dyn FnOnce(StoreAnswer) + Send>;

/// Points of a commit at which a node may be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The request has left the node.
    Sent,
    /// The store has answered, the node has not heard it.
    Stored,
    /// An answer to a client was let out.
    Acknowledged,
}

/// A node's door to the outside: of one incarnation.
pub struct Gate {
    pub node: NodeId,
    /// Unique in the run.
    pub incarnation: u64,
    dead: AtomicBool,
    paused_until_ms: AtomicU64,
    cut_until_ms: AtomicU64,
    calls: AtomicU64,
    end_at: Mutex<Option<(Point, u64)>>,
    pub ended: Notify,
    /// Shards of which it was told last that they are damaged.
    pub refused: Mutex<BTreeMap<ShardId, bool>>,
}

impl Gate {
    pub fn new(node: NodeId, incarnation: u64) -> Arc<Self> {
        Arc::new(Self {
            node,
            incarnation,
            dead: AtomicBool::new(false),
            paused_until_ms: AtomicU64::new(0),
            cut_until_ms: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            end_at: Mutex::new(None),
            ended: Notify::new(),
            refused: Mutex::new(BTreeMap::new()),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// From now on nothing comes out of it and nothing reaches it.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.ended.notify_one();
    }

    pub fn end_at(&self, point: Point, number: u64) {
        *lock(&self.end_at) = Some((point, number));
    }

    /// The incarnation passes a point, and may end there.
    pub fn pass(&self, world: &World, point: Point) {
        let mut end = lock(&self.end_at);
        let Some((at, left)) = &mut *end else { return };
        if *at == point {
            *left -= 1;
            if *left == 0 {
                *end = None;
                world.count(match point {
                    Point::Sent => "node ended with a commit on its way",
                    Point::Stored => "node ended before it heard of a commit",
                    Point::Acknowledged => "node ended after it acknowledged",
                });
                self.kill();
            }
        }
    }

    pub fn pause_until(&self, at_ms: u64) {
        self.paused_until_ms.store(at_ms, Ordering::Relaxed);
    }

    pub fn cut_until(&self, at_ms: u64) {
        self.cut_until_ms.store(at_ms, Ordering::Relaxed);
    }

    /// While it is paused, what leaves it or comes to it waits. For ever when it is dead.
    pub async fn go_through(&self, world: &World, slot: u64) {
        while self.paused_until_ms.load(Ordering::Relaxed) > world.now_ms() {
            world.count("message held by a paused node");
            let wait = self.paused_until_ms.load(Ordering::Relaxed) - world.now_ms();
            world.rest(slot, wait).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    pub fn is_cut(&self, world: &World) -> bool {
        self.cut_until_ms.load(Ordering::Relaxed) > world.now_ms()
    }

    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Server {
    disk: Disk,
    down: bool,
    boot: u64,
    syncing: bool,
    syncs: u64,
    /// Answers that wait until so much of the file is synced.
    waiting: Vec<(usize, StoreAnswer, Respond)>,
    fail_next_sync: bool,
    rot: Option<(Rot, bool)>,
    /// By node: the incarnation that opened a shard last.
    openers: BTreeMap<ShardId, (NodeId, u64)>,
}

/// A run's world.
pub struct World {
    pub seed: u64,
    pub weather: Weather,
    pub plant: Option<Plant>,
    start: Instant,
    calm: AtomicBool,
    trace: Mutex<Trace>,
    server: Mutex<Server>,
    judge: Mutex<Judge>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(seed: u64, plant: Option<Plant>) -> Arc<Self> {
        let weather = Weather::of(&mut Dice::of(seed, &[1]));
        let mut server = Server::default();
        if let Some(Plant::Store(plant)) = plant {
            server.disk.plant = Some(plant);
        }
        Arc::new(Self {
            seed,
            weather,
            plant,
            start: Instant::now(),
            calm: AtomicBool::new(false),
            trace: Mutex::default(),
            server: Mutex::new(server),
            judge: Mutex::default(),
        })
    }

    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Sleeps at least so long, to the next millisecond of a slot.
    pub async fn rest(&self, slot: u64, at_least_ms: u64) {
        let earliest = self.now_ms() + at_least_ms.max(1);
        let at = earliest + (slot + SLOTS - earliest % SLOTS) % SLOTS;
        tokio::time::sleep_until(self.start + Duration::from_millis(at)).await;
    }

    pub fn trace(&self, what: &'static str, numbers: [u64; 4]) {
        lock(&self.trace).event(self.now_ms(), what, numbers);
    }

    pub fn count(&self, what: &'static str) {
        lock(&self.trace).count(what);
    }

    pub fn with_trace<T>(&self, use_it: impl FnOnce(&mut Trace) -> T) -> T {
        use_it(&mut lock(&self.trace))
    }

    pub fn judge<T>(&self, use_it: impl FnOnce(&mut Judge) -> T) -> T {
        use_it(&mut lock(&self.judge))
    }

    pub fn weather(&self) -> Weather {
        if self.is_calm() { Weather::CALM } else { self.weather }
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// No further faults: everything that was begun must end well now.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        let mut server = lock(&self.server);
        server.fail_next_sync = false;
        if let Some((rot, _)) = server.rot.take() {
            server.disk.heal(rot);
        }
    }

    pub fn heads(&self) -> Vec<chargeplane_cluster::journal::ShardHead> {
        lock(&self.server).disk.heads()
    }

    pub fn read(&self, shard: ShardId, after: u64, limit: usize) -> Result<Vec<Frame>, JournalError> {
        lock(&self.server).disk.read(shard, after, limit)
    }

    pub fn with_durable<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        use_it(lock(&self.server).disk.durable())
    }

    /// A request arrives at the store.
    pub fn arrive(self: &Arc<Self>, from: &Gate, request: Request, respond: Respond) {
        let mut guard = lock(&self.server);
        let server = &mut *guard;
        if server.down {
            return self.count("request to a store that is down");
        }
        let answer = match request {
            Request::Open(shard, owner) => {
                server.openers.insert(shard, (owner.clone(), from.incarnation));
                let opened = server.disk.open(shard, owner);
                self.see_opening(server, shard, &opened);
                opened.map(Response::Opened)
            }
            Request::Commit(frames) => {
                self.see_late(server, from, &frames);
                server.disk.commit(&frames).map(Response::Committed)
            }
            Request::Release(shard, epoch) => Ok(Response::Done(server.disk.release(shard, epoch))),
            Request::Snapshot(shard, epoch, snapshot) => {
                Ok(Response::Done(server.disk.put_snapshot(shard, epoch, snapshot)))
            }
        };
        if self.plant == Some(Plant::Store(StorePlant::AckBeforeSync)) {
            respond(answer.clone());
            server.waiting.push((server.disk.len(), answer, Box::new(drop)));
        } else {
            server.waiting.push((server.disk.len(), answer, respond));
        }
        drop(guard);
        self.sync();
    }

    fn see_opening(&self, server: &mut Server, shard: ShardId, opened: &Result<OpenedShard, JournalError>) {
        let damaged = server.rot.as_mut().filter(|(rot, _)| rot.shard == shard);
        match (damaged, opened) {
            (Some((_, found)), Err(JournalError::Corrupt { .. })) => {
                if !std::mem::replace(found, true) {
                    self.count("bit rot found at an opening");
                }
            }
            (Some(_), _) => self.judge(|judge| judge.object("OWN-1", "a damaged log was opened".to_owned())),
            (None, Err(error)) => self.judge(|judge| judge.object("OWN-1", format!("a good log: {error}"))),
            (None, Ok(_)) => {}
        }
        let epoch = server.disk.head(shard).map_or(0, |head| head.epoch);
        self.trace("open at the store", [shard.family.code().into(), shard.index.into(), epoch, opened.is_ok().into()]);
    }

    fn see_late(&self, server: &Server, from: &Gate, frames: &[Frame]) {
        for frame in frames {
            let (epoch, lsn) = (frame.epoch, frame.lsn);
            self.trace("commit at the store", [frame.shard.family.code().into(), frame.shard.index.into(), epoch, lsn]);
            if server.disk.head(frame.shard).is_some_and(|head| head.epoch > epoch) {
                match server.openers.get(&frame.shard) {
                    Some((node, incarnation)) if *node == from.node && *incarnation != from.incarnation => {
                        self.count("commit of a node's former life after it opened anew");
                    }
                    Some((node, _)) if *node != from.node => self.count("commit delayed beyond a take-over"),
                    _ => self.count("commit after its own node opened again"),
                }
            }
        }
    }

    /// Answers what is synced, and syncs what is not.
    fn sync(self: &Arc<Self>) {
        let mut server = lock(&self.server);
        self.answer_synced(&mut server);
        if server.syncing || server.waiting.is_empty() || server.down {
            return;
        }
        server.syncing = true;
        server.syncs += 1;
        let (boot, upto) = (server.boot, server.disk.len());
        let takes = Dice::of(self.seed, &[2, server.syncs]).below(self.weather().sync_ms);
        let world = Arc::clone(self);
        tokio::spawn(async move {
            world.rest(DISK, takes).await;
            world.synced(boot, upto);
        });
    }

    fn synced(self: &Arc<Self>, boot: u64, upto: usize) {
        let mut server = lock(&self.server);
        if server.boot != boot {
            return;
        }
        server.syncing = false;
        if std::mem::take(&mut server.fail_next_sync) {
            self.count("failed fsync");
            self.trace("fsync failed", [upto as u64, 0, 0, 0]);
            let failed = std::mem::take(&mut server.waiting);
            drop(server);
            for (_, _, respond) in failed {
                respond(Err(JournalError::Io("fsync failed".to_owned())));
            }
            // What the operating system then has on the platter is anybody's guess.
            return self.crash_store(100);
        }
        server.disk.sync(upto);
        self.judge(|judge| judge.read(server.disk.durable()));
        drop(server);
        self.sync();
    }

    fn answer_synced(&self, server: &mut Server) {
        let waiting = std::mem::take(&mut server.waiting);
        let (synced, rest) = waiting.into_iter().partition(|(upto, ..)| server.disk.is_synced(*upto));
        server.waiting = rest;
        let answered: Vec<(usize, StoreAnswer, Respond)> = synced;
        for (_, answer, respond) in answered {
            respond(answer);
        }
    }

    pub fn fail_next_sync(&self) {
        lock(&self.server).fail_next_sync = true;
    }

    /// The store's machine loses power and is back after so long.
    pub fn crash_store(self: &Arc<Self>, down_ms: u64) {
        let mut server = lock(&self.server);
        if server.down {
            return;
        }
        server.down = true;
        server.boot += 1;
        server.syncing = false;
        // Whoever waits hears nothing.
        server.waiting.clear();
        let boot = server.boot;
        let recovery = server.disk.crash(&mut Dice::of(self.seed, &[3, boot]));
        self.count("store crash");
        if recovery.unsynced > 0 {
            self.count("unsynced writes at a crash");
        }
        if recovery.lost > 0 {
            self.count("unsynced writes lost");
        }
        if recovery.torn {
            self.count("torn record cut off");
        }
        self.trace("store crash", [boot, recovery.unsynced as u64, recovery.lost as u64, recovery.torn.into()]);
        let world = Arc::clone(self);
        tokio::spawn(async move {
            world.rest(DISK, down_ms).await;
            let mut server = lock(&world.server);
            server.down = false;
            world.judge(|judge| judge.read(server.disk.durable()));
        });
    }

    /// Flips a bit in what is stored. Returns whether there was one to flip.
    pub fn rot(&self, shard: ShardId, dice: &mut Dice) -> bool {
        let mut server = lock(&self.server);
        if server.rot.is_some() {
            return false;
        }
        server.rot = server.disk.rot(shard, dice).map(|rot| (rot, false));
        if server.rot.is_some() {
            self.count("bit rot");
            self.trace("bit rot", [shard.family.code().into(), shard.index.into(), 0, 0]);
        }
        server.rot.is_some()
    }

    /// An operator repairs the damage.
    pub fn heal(&self) {
        let mut server = lock(&self.server);
        if let Some((rot, _)) = server.rot.take() {
            server.disk.heal(rot);
            self.trace("repaired", [0; 4]);
        }
    }
}
