//! The ports of a node: its requests travel to the store and the answers back, each message on its own.

use crate::dice::Dice;
use crate::world::{FROM_STORE, Gate, Point, Request, Response, StoreAnswer, TO_STORE, World, lock};
use chargeplane_cluster::BoxFuture;
use chargeplane_cluster::coordination::{
    BeatOutcome, ClusterSettings, Coordination, CoordinationError, Joined, NodeHello, NodeRecord,
};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError, OpenedShard, ShardHead, Snapshot};
use chargeplane_cluster::memory::MemoryCoordination;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// Without an answer for so long, a request's outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a message fares: when its copies arrive; lost without any.
pub fn fate(world: &World, dice: &mut Dice) -> Vec<u64> {
    let weather = world.weather();
    if dice.chance(weather.lost) {
        world.count("message lost");
        return Vec::new();
    }
    let copies = if dice.chance(weather.doubled) { 2 } else { 1 };
    if copies == 2 {
        world.count("message doubled");
    }
    let delay = |dice: &mut Dice| {
        if dice.chance(weather.very_late) {
            world.count("message very late");
            dice.between(1_000, 20_000)
        } else {
            dice.below(weather.delay_ms)
        }
    };
    (0..copies).map(|_| delay(dice)).collect()
}

/// The journal as a node reaches it.
pub struct Port {
    pub world: Arc<World>,
    pub gate: Arc<Gate>,
}

type Heard = Arc<Mutex<Option<oneshot::Sender<StoreAnswer>>>>;

impl Port {
    async fn call(&self, request: Request) -> StoreAnswer {
        let (world, gate) = (&self.world, &self.gate);
        gate.go_through(world, TO_STORE).await;
        let is_commit = matches!(request, Request::Commit(_));
        let (sender, receiver) = oneshot::channel();
        let heard: Heard = Arc::new(Mutex::new(Some(sender)));
        let call = gate.next_call();
        let mut dice = Dice::of(world.seed, &[4, gate.incarnation, call]);
        if gate.is_cut(world) {
            world.count("request of a node that is cut off");
        } else {
            for (copy, delay) in fate(world, &mut dice).into_iter().enumerate() {
                let dice = Dice::of(world.seed, &[5, gate.incarnation, call, copy as u64]);
                tokio::spawn(travel(self.clone_parts(), request.clone(), delay, dice, Arc::clone(&heard)));
            }
        }
        if is_commit {
            gate.pass(world, Point::Sent);
        }
        let answer = tokio::time::timeout(PATIENCE, receiver).await;
        gate.go_through(world, FROM_STORE).await;
        match answer {
            Ok(Ok(answer)) => answer,
            _ => {
                world.count("unknown outcome");
                Err(JournalError::OutcomeUnknown("no answer in time".to_owned()))
            }
        }
    }

    fn clone_parts(&self) -> (Arc<World>, Arc<Gate>) {
        (Arc::clone(&self.world), Arc::clone(&self.gate))
    }
}

/// A copy of a request on its way to the store.
async fn travel((world, gate): (Arc<World>, Arc<Gate>), request: Request, delay: u64, mut dice: Dice, heard: Heard) {
    world.rest(TO_STORE, delay).await;
    let is_commit = matches!(request, Request::Commit(_));
    let (world_back, gate_back) = (Arc::clone(&world), Arc::clone(&gate));
    let respond = move |answer: StoreAnswer| {
        if is_commit {
            gate_back.pass(&world_back, Point::Stored);
        }
        for delay in fate(&world_back, &mut dice) {
            let (world, gate) = (Arc::clone(&world_back), Arc::clone(&gate_back));
            let (heard, answer) = (Arc::clone(&heard), answer.clone());
            tokio::spawn(async move {
                world.rest(FROM_STORE, delay).await;
                if gate.is_cut(&world) {
                    return world.count("answer to a node that is cut off");
                }
                gate.go_through(&world, FROM_STORE).await;
                if let Some(sender) = lock(&heard).take() {
                    let _ = sender.send(answer);
                }
            });
        }
    };
    world.arrive(&gate, request, Box::new(respond));
}

fn other<T>(answer: Response) -> Result<T, JournalError> {
    Err(JournalError::Io(format!("an answer of another kind: {answer:?}")))
}

impl Journal for Port {
    fn open(&self, shard: ShardId, owner: NodeId) -> BoxFuture<'_, Result<OpenedShard, JournalError>> {
        Box::pin(async move {
            let answer = self.call(Request::Open(shard, owner)).await;
            if !matches!(answer, Err(JournalError::OutcomeUnknown(_))) {
                lock(&self.gate.refused).insert(shard, answer.is_err());
            }
            match answer? {
                Response::Opened(opened) => Ok(opened),
                answer => other(answer),
            }
        })
    }

    fn commit(&self, frames: Vec<Frame>) -> BoxFuture<'_, Result<Vec<CommitOutcome>, JournalError>> {
        Box::pin(async move {
            match self.call(Request::Commit(frames)).await? {
                Response::Committed(outcomes) => Ok(outcomes),
                answer => other(answer),
            }
        })
    }

    /// Reads are not what is tried here: they wait for the way to be free.
    fn read(&self, shard: ShardId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Frame>, JournalError>> {
        Box::pin(async move {
            self.world.rest(TO_STORE, 1).await;
            self.gate.go_through(&self.world, TO_STORE).await;
            self.world.read(shard, after, limit)
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<ShardHead>, JournalError>> {
        Box::pin(async move {
            self.world.rest(TO_STORE, 1).await;
            self.gate.go_through(&self.world, TO_STORE).await;
            Ok(self.world.heads())
        })
    }

    fn release(&self, shard: ShardId, epoch: u64) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(async move {
            match self.call(Request::Release(shard, epoch)).await? {
                Response::Done(done) => Ok(done),
                answer => other(answer),
            }
        })
    }

    fn put_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(async move {
            match self.call(Request::Snapshot(shard, epoch, snapshot)).await? {
                Response::Done(done) => Ok(done),
                answer => other(answer),
            }
        })
    }
}

/// The node leases as a node reaches them: beats of a paused or dead one do not come.
pub struct Leases {
    pub world: Arc<World>,
    pub gate: Arc<Gate>,
    pub store: MemoryCoordination,
}

impl Leases {
    async fn reach(&self) {
        self.gate.go_through(&self.world, TO_STORE).await;
    }
}

impl Coordination for Leases {
    fn join(&self, hello: NodeHello, settings: ClusterSettings) -> BoxFuture<'_, Result<Joined, CoordinationError>> {
        self.store.join(hello, settings)
    }

    fn beat(&self, node: NodeId, incarnation: u64, beat: u64) -> BoxFuture<'_, Result<BeatOutcome, CoordinationError>> {
        Box::pin(async move {
            self.reach().await;
            if self.gate.is_cut(&self.world) {
                return Err(CoordinationError::Unavailable("cut off".to_owned()));
            }
            self.store.beat(node, incarnation, beat).await
        })
    }

    fn release(&self, node: NodeId, incarnation: u64) -> BoxFuture<'_, Result<bool, CoordinationError>> {
        Box::pin(async move {
            self.reach().await;
            self.store.release(node, incarnation).await
        })
    }

    fn declare_dead(
        &self,
        node: NodeId,
        incarnation: u64,
        beat: u64,
    ) -> BoxFuture<'_, Result<bool, CoordinationError>> {
        self.store.declare_dead(node, incarnation, beat)
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeRecord>, CoordinationError>> {
        self.store.nodes()
    }

    fn settings(&self) -> BoxFuture<'_, Result<Option<ClusterSettings>, CoordinationError>> {
        self.store.settings()
    }
}
