//! The node's supervisor: root of the supervision tree.
//!
//! ```text
//! NodeSupervisor
//! |- JournalActor            group commit; its end stops the node
//! |- ProjectionActor         read models; its end stops the node
//! |- ShardActor x 2 families x shards
//!    |- StationActor, ChargerActor, GatewayActor | AccountActor      on demand
//!    |- TelemetryActor                                               station shards
//! ```
//!
//! A shard that fails restarts with back-off: its restart raises the epoch and reloads everything from the
//! journal, so nothing of its former life can be committed (OWN-1). While it is down its seat in the router is
//! empty and callers are told so.

use crate::family::{AccountFamily, StationFamily};
use crate::journal::{JournalActor, JournalArguments};
use crate::metric;
use crate::projection::ProjectionActor;
use crate::router::Seated;
use crate::shard::{Inbox, ShardActor, ShardArguments};
use crate::shared::NodeShared;
use chargeplane_domain::placement::{Family, ShardId};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// First pause before a failed shard opens anew; doubles with each failure.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// Longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// A shard that has been up for this long starts its back-off from the beginning.
const CALM_AFTER: Duration = Duration::from_secs(60);

/// Messages of the supervisor.
pub enum SupervisorMessage {
    /// Open a shard (again).
    Start(ShardId),
    /// The node drains: shards that end stay ended.
    Drain,
}

/// The node's supervisor.
pub struct NodeSupervisor;

struct Child {
    shard: ShardId,
    started: tokio::time::Instant,
}

/// State of the supervisor.
pub struct SupervisorState {
    shared: Arc<NodeShared>,
    shards: HashMap<ActorId, Child>,
    failures: BTreeMap<ShardId, u32>,
    draining: bool,
}

impl Actor for NodeSupervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = Arc<NodeShared>;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        shared: Arc<NodeShared>,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let arguments = JournalArguments { journal: Arc::clone(&shared.ports.journal), fatal: shared.fatal.clone() };
        let (journal, _) = Actor::spawn_linked(None, JournalActor, arguments, myself.get_cell()).await?;
        let projection = Actor::spawn_linked(None, ProjectionActor, Arc::clone(&shared), myself.get_cell());
        let (projection, _) = projection.await?;
        if shared.journal.set(journal).is_err() || shared.projection.set(projection).is_err() {
            return Err("the node's supervisor was started twice".into());
        }
        for shard in ShardId::all(shared.config.shards) {
            myself.cast(SupervisorMessage::Start(shard))?;
        }
        let (shards, failures) = (HashMap::new(), BTreeMap::new());
        Ok(SupervisorState { shared, shards, failures, draining: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Start(shard) if !state.draining => start(state, &myself, shard).await,
            SupervisorMessage::Start(_) => Ok(()),
            SupervisorMessage::Drain => {
                state.draining = true;
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, failure) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, reason.unwrap_or_default()),
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            _ => return Ok(()),
        };
        match state.shards.remove(&cell.get_id()) {
            Some(child) => on_shard_ended(state, &myself, child, &failure),
            None if state.draining => {}
            // The journal's or the projection's actor: without them nothing may be answered.
            None => state.shared.fatal.raise(format!("an infrastructure actor ended: {failure}")),
        }
        Ok(())
    }
}

fn on_shard_ended(state: &mut SupervisorState, myself: &ActorRef<SupervisorMessage>, child: Child, failure: &str) {
    let Child { shard, started } = child;
    unseat(state, shard);
    if state.draining || state.shared.fatal.is_raised() {
        return;
    }
    let failures = state.failures.entry(shard).or_default();
    *failures = if started.elapsed() >= CALM_AFTER { 1 } else { failures.saturating_add(1) };
    let doublings = failures.saturating_sub(1).min(10);
    let delay = BACK_OFF_FIRST.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
    metrics::counter!(metric::ACTOR_RESTARTS_TOTAL, "kind" => "shard").increment(1);
    tracing::warn!(%shard, failure, ?delay, "a shard ended; it opens anew");
    myself.send_after(delay, move || SupervisorMessage::Start(shard));
}

fn unseat(state: &SupervisorState, shard: ShardId) {
    let router = &state.shared.router;
    match shard.family {
        Family::Station => {
            router.seat_station(shard.index, None);
            router.seat_telemetry(shard.index, None);
        }
        Family::Account => router.seat_account(shard.index, None),
    }
    state.shared.shard_closed(shard);
}

async fn start(
    state: &mut SupervisorState,
    myself: &ActorRef<SupervisorMessage>,
    shard: ShardId,
) -> Result<(), ActorProcessingErr> {
    let (shared, supervisor) = (Arc::clone(&state.shared), myself.get_cell());
    let actor = match shard.family {
        Family::Station => {
            let inbox = Arc::new(Inbox::default());
            let arguments = ShardArguments { shared, shard, inbox: Arc::clone(&inbox) };
            let shard_actor = ShardActor::<StationFamily>::default();
            let (actor, _) = Actor::spawn_linked(None, shard_actor, arguments, supervisor).await?;
            state.shared.router.seat_station(shard.index, Some(Seated { actor: actor.clone(), inbox }));
            actor.get_cell()
        }
        Family::Account => {
            let inbox = Arc::new(Inbox::default());
            let arguments = ShardArguments { shared, shard, inbox: Arc::clone(&inbox) };
            let shard_actor = ShardActor::<AccountFamily>::default();
            let (actor, _) = Actor::spawn_linked(None, shard_actor, arguments, supervisor).await?;
            state.shared.router.seat_account(shard.index, Some(Seated { actor: actor.clone(), inbox }));
            actor.get_cell()
        }
    };
    state.shards.insert(actor.get_id(), Child { shard, started: tokio::time::Instant::now() });
    Ok(())
}
