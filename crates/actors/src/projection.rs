//! The projection actor: read models from the journal, behind it by a cursor.
//!
//! Supervised by the node. Shards tell it how far they are; it reads the frames from the journal itself, so a
//! restart, a lost message and a rebuild take the same path. Its rows are keyed by (shard, log number, index):
//! projecting a frame again changes nothing. Station shards make charge records, account shards statements.
//!
//! [`rebuild`] makes a second generation of a read model beside the served one; it needs nothing of the actor. A read
//! model that has nothing while the journal has much, because its files were lost or its store is new, is rebuilt when
//! the actor starts, which is many times faster than page after page of what is read meanwhile.

pub mod compare;
mod page;
pub mod rebuild;

pub use page::{PAGE, project_page};

use self::rebuild::Model;
use crate::handle::CallError;
use crate::metric;
use crate::ports::{Generation, StoreError};
use crate::reply::Reply;
use crate::shared::NodeShared;
use chargeplane_domain::placement::ShardId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a page that would not be full, so that many small frames are projected together.
const LINGER: Duration = Duration::from_millis(50);

/// Rest after a page while the node is busy, in times that it took. Under load the read models fall behind rather
/// than take the cores from who waits for an answer.
const REST: u32 = 10;

/// Commits a second, of all shards together, from which on the node counts as busy.
const BUSY: f64 = 50.0;

/// A page is to take about so long: it has fewer frames when they are large.
const PAGE_TIME: Duration = Duration::from_millis(40);

/// Longest rest.
const MAX_REST: Duration = Duration::from_millis(500);

/// A reader waits at most so long for what it wrote.
pub const WAIT: Duration = Duration::from_secs(2);

/// Frames in the journal from which on a read model that has nothing is rebuilt.
const REBUILD_FROM: u64 = 10_000;

/// Most readers that wait. Others are answered with what there is.
const MAX_WAITING: usize = 1_024;

/// Messages of the projection actor.
pub enum ProjectionMessage {
    /// A shard has committed up to here.
    Advanced { shard: ShardId, lsn: u64 },
    /// A page is projected.
    Projected { shard: ShardId, result: Result<u64, StoreError>, took: Duration },
    /// A read model that had nothing is rebuilt, and so far in each shard.
    Rebuilt { model: Model, result: Result<Vec<(ShardId, u64)>, StoreError> },
    /// Answers when everything is projected that this shard has told so far.
    Reached { shard: ShardId, reply: Reply<()> },
    /// Frames that are committed and not projected.
    Lag(Reply<u64>),
}

/// The projection actor.
pub struct ProjectionActor;

#[derive(Debug, Clone, Copy)]
struct Progress {
    committed: u64,
    projected: u64,
    working: bool,
    /// Before the next page.
    rest: Duration,
    /// Frames in the next page.
    page: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Self { committed: 0, projected: 0, working: false, rest: Duration::ZERO, page: PAGE }
    }
}

impl Progress {
    /// Takes over how a page went.
    fn paced(&mut self, took: Duration, busy: bool) {
        self.rest = if busy { took.saturating_mul(REST).min(MAX_REST) } else { Duration::ZERO };
        if took > PAGE_TIME {
            self.page = (self.page / 2).max(1);
        } else if took < PAGE_TIME / 3 {
            self.page = self.page.saturating_mul(2).min(PAGE);
        }
    }
}

/// State of the projection actor.
pub struct ProjectionState {
    shared: Arc<NodeShared>,
    shards: BTreeMap<ShardId, Progress>,
    /// What is being rebuilt because it had nothing.
    rebuilding: BTreeSet<Model>,
    /// Readers of what they wrote.
    waiting: Vec<Waiting>,
    load: Load,
}

/// How busy the node is: commits that were told lately.
struct Load {
    since: Instant,
    commits: u32,
    busy: bool,
}

impl Load {
    /// Over which time it is looked at.
    const WINDOW: Duration = Duration::from_millis(200);

    fn is_busy(&mut self) -> bool {
        let passed = self.since.elapsed();
        if passed >= Self::WINDOW {
            self.busy = f64::from(self.commits) > BUSY * passed.as_secs_f64();
            (self.since, self.commits) = (Instant::now(), 0);
        }
        self.busy
    }
}

/// A reader that waits until a log number is projected.
struct Waiting {
    shard: ShardId,
    lsn: u64,
    until: Instant,
    reply: Reply<()>,
}

impl Actor for ProjectionActor {
    type Msg = ProjectionMessage;
    type State = ProjectionState;
    type Arguments = Arc<NodeShared>;

    async fn pre_start(
        &self,
        myself: ActorRef<ProjectionMessage>,
        shared: Arc<NodeShared>,
    ) -> Result<ProjectionState, ActorProcessingErr> {
        let mut shards: BTreeMap<ShardId, Progress> = BTreeMap::new();
        let mut cursors = shared.ports.records.cursors(Generation::Served).await?;
        cursors.extend(shared.ports.statements.cursors(Generation::Served).await?);
        for (shard, projected) in cursors {
            shards.insert(shard, Progress { committed: projected, projected, ..Progress::default() });
        }
        let mut rebuilding = BTreeSet::new();
        for model in empty_ones(&shared, &shards).await {
            if shared.rebuilds.begin(model, false, shared.clock.wall()) {
                rebuilding.insert(model);
                tokio::spawn(rebuild_empty(Arc::clone(&shared), model, myself.clone()));
            }
        }
        let load = Load { since: Instant::now(), commits: 0, busy: false };
        Ok(ProjectionState { shared, shards, rebuilding, waiting: Vec::new(), load })
    }

    async fn handle(
        &self,
        myself: ActorRef<ProjectionMessage>,
        message: ProjectionMessage,
        state: &mut ProjectionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ProjectionMessage::Advanced { shard, lsn } => {
                let progress = state.shards.entry(shard).or_default();
                progress.committed = progress.committed.max(lsn);
                state.load.commits = state.load.commits.saturating_add(1);
                work(state, &myself, shard);
            }
            ProjectionMessage::Projected { shard, result, took } => {
                let busy = state.load.is_busy();
                let progress = state.shards.entry(shard).or_default();
                progress.working = false;
                progress.paced(took, busy);
                match result {
                    Ok(upto) => progress.projected = progress.projected.max(upto),
                    // Another process has published a generation that has less of this shard.
                    Err(StoreError::Conflict { expected, .. }) if expected < progress.projected => {
                        progress.projected = expected;
                    }
                    Err(error) => state.shared.fatal.raise(format!("projections: {error}")),
                }
                answer_reached(state);
                work(state, &myself, shard);
            }
            ProjectionMessage::Rebuilt { model, result } => on_rebuilt(state, &myself, model, result),
            ProjectionMessage::Reached { shard, reply } => {
                let lsn = state.shards.get(&shard).map_or(0, |progress| progress.committed);
                state.waiting.retain(|waiting| waiting.until > Instant::now());
                if state.waiting.len() < MAX_WAITING {
                    state.waiting.push(Waiting { shard, lsn, until: Instant::now() + WAIT, reply });
                } else {
                    reply.answer(Err(CallError::Shed));
                }
                answer_reached(state);
            }
            ProjectionMessage::Lag(reply) => reply.answer(Ok(lag(state))),
        }
        Ok(())
    }
}

/// The read models that have nothing, and would have much.
async fn empty_ones(shared: &NodeShared, known: &BTreeMap<ShardId, Progress>) -> Vec<Model> {
    let heads = match shared.ports.journal.heads().await {
        Ok(heads) => heads,
        Err(error) => {
            tracing::warn!(%error, "the journal's heads cannot be read: read models without anything fill slowly");
            return Vec::new();
        }
    };
    let is_empty = |model: &Model| {
        let of_model = heads.iter().filter(|head| head.shard.family == model.family());
        let frames = of_model.fold(0u64, |sum, head| sum.saturating_add(head.last_lsn));
        frames >= REBUILD_FROM && known.keys().all(|shard| shard.family != model.family())
    };
    Model::ALL.into_iter().filter(is_empty).collect()
}

async fn rebuild_empty(shared: Arc<NodeShared>, model: Model, actor: ActorRef<ProjectionMessage>) {
    tracing::info!(model = model.code(), "it has nothing: built from the journal before it is served");
    let result = match rebuild::run(&shared, model, false).await {
        Ok(()) => match model {
            Model::Records => shared.ports.records.cursors(Generation::Served).await,
            Model::Statements => shared.ports.statements.cursors(Generation::Served).await,
        },
        Err(error) => Err(error),
    };
    drop(actor.cast(ProjectionMessage::Rebuilt { model, result }));
}

fn on_rebuilt(
    state: &mut ProjectionState,
    myself: &ActorRef<ProjectionMessage>,
    model: Model,
    result: Result<Vec<(ShardId, u64)>, StoreError>,
) {
    match result {
        Ok(cursors) => {
            for (shard, upto) in cursors {
                let progress = state.shards.entry(shard).or_default();
                progress.projected = progress.projected.max(upto);
                progress.committed = progress.committed.max(upto);
            }
        }
        Err(error) => return state.shared.fatal.raise(format!("projections: {error}")),
    }
    state.rebuilding.remove(&model);
    answer_reached(state);
    let shards: Vec<_> = state.shards.keys().copied().filter(|shard| shard.family == model.family()).collect();
    shards.into_iter().for_each(|shard| work(state, myself, shard));
}

/// Answers those whose frames are projected.
fn answer_reached(state: &mut ProjectionState) {
    for waiting in std::mem::take(&mut state.waiting) {
        let projected = state.shards.get(&waiting.shard).map_or(0, |progress| progress.projected);
        if projected >= waiting.lsn {
            waiting.reply.answer(Ok(()));
        } else {
            state.waiting.push(waiting);
        }
    }
}

fn lag(state: &ProjectionState) -> u64 {
    state.shards.values().map(|progress| progress.committed.saturating_sub(progress.projected)).sum()
}

/// Projects the next page of a shard unless one is in work.
fn work(state: &mut ProjectionState, myself: &ActorRef<ProjectionMessage>, shard: ShardId) {
    metrics::gauge!(metric::PROJECTION_LAG_FRAMES).set(lag(state) as f64);
    if state.rebuilding.iter().any(|model| model.family() == shard.family) {
        return;
    }
    let Some(progress) = state.shards.get_mut(&shard) else { return };
    if progress.working || progress.projected >= progress.committed || state.shared.fatal.is_raised() {
        return;
    }
    progress.working = true;
    let full =
        usize::try_from(progress.committed.saturating_sub(progress.projected)).is_ok_and(|lag| lag >= progress.page);
    let (rest, after, page) = (progress.rest, progress.projected, progress.page);
    let (shared, actor) = (Arc::clone(&state.shared), myself.clone());
    tokio::spawn(async move {
        tokio::time::sleep(if full { rest } else { LINGER.max(rest) }).await;
        let ports = &shared.ports;
        let models = (&*ports.records, &*ports.statements);
        let began = Instant::now();
        let result = project_page(&*ports.journal, models, Generation::Served, shard, (after, page)).await;
        let took = began.elapsed();
        drop(actor.cast(ProjectionMessage::Projected { shard, result, took }));
    });
}
