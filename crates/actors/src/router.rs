//! The router: from an id to its shard, through bounded lanes (LOAD-1).
//!
//! On one node every shard is local. With several, envelopes to other nodes' routers start here.

use crate::account::AccountMessage;
use crate::admission::{Lane, Lanes, Permit, ROUTER_BUDGETS, SHARD_BUDGETS, ShardLanes};
use crate::family::{AccountFamily, AccountKey, StationFamily, StationKey, StationMember};
use crate::handle::CallError;
use crate::metric;
use crate::shard::{EntityMessage, Family, Inbox, ShardMessage};
use crate::telemetry::TelemetryMessage;
use arc_swap::ArcSwapOption;
use chargeplane_cluster::node_lease::ServeRight;
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::{self, ShardId, shard_of};
use ractor::ActorRef;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// One life of a shard, as the router reaches it.
pub struct Seated<F: Family> {
    /// Its actor.
    pub actor: ActorRef<ShardMessage<F>>,
    /// Where messages wait for it.
    pub inbox: Arc<Inbox<F>>,
}

impl<F: Family> Seated<F> {
    fn send(&self, lane: Lane, key: F::Key, message: F::Message) {
        match self.inbox.push(lane, key, message) {
            // A dead actor takes no note: its inbox goes with its seat, and the reply guards answer.
            Ok(true) => drop(self.actor.cast(ShardMessage::Admitted)),
            Ok(false) => {}
            Err(message) => {
                metrics::counter!(metric::SHED_TOTAL, "lane" => lane.as_str()).increment(1);
                message.refuse(CallError::Shed);
            }
        }
    }
}

struct Seat<F: Family> {
    seated: ArcSwapOption<Seated<F>>,
    lanes: Arc<ShardLanes>,
}

impl<F: Family> Seat<F> {
    fn new(router: &Arc<Lanes>) -> Self {
        Self { seated: ArcSwapOption::empty(), lanes: ShardLanes::new(router, SHARD_BUDGETS) }
    }

    fn actor(&self) -> Option<ActorRef<ShardMessage<F>>> {
        self.seated.load().as_ref().map(|seated| seated.actor.clone())
    }
}

/// Routes to the shards of this node.
pub struct Router {
    lanes: Arc<Lanes>,
    stations: Vec<Seat<StationFamily>>,
    accounts: Vec<Seat<AccountFamily>>,
    telemetry: Vec<ArcSwapOption<ActorRef<TelemetryMessage>>>,
    shards: u16,
    right: OnceLock<ServeRight>,
    closed: AtomicBool,
}

impl Router {
    /// A router over `shards` a family, all closed.
    pub fn new(shards: u16) -> Self {
        let lanes = Arc::new(Lanes::new(ROUTER_BUDGETS));
        Self {
            stations: (0..shards).map(|_| Seat::new(&lanes)).collect(),
            accounts: (0..shards).map(|_| Seat::new(&lanes)).collect(),
            lanes,
            telemetry: (0..shards).map(|_| ArcSwapOption::empty()).collect(),
            shards,
            right: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Nothing is admitted while this right does not hold. Set once.
    pub fn bind(&self, right: ServeRight) {
        let _ = self.right.set(right);
    }

    /// Admits nothing from now on: the node drains. What was admitted before goes its way.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// True once the node drains.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// True while the node's lease allows it to serve.
    pub fn may_serve(&self) -> bool {
        self.right.get().is_none_or(ServeRight::may_serve)
    }

    /// The router's lanes.
    pub fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// The lanes of a shard.
    pub fn shard_lanes(&self, shard: ShardId) -> Option<&Arc<ShardLanes>> {
        let index = usize::from(shard.index);
        match shard.family {
            placement::Family::Station => self.stations.get(index).map(|seat| &seat.lanes),
            placement::Family::Account => self.accounts.get(index).map(|seat| &seat.lanes),
        }
    }

    /// Seats or unseats the actor of a station shard.
    pub fn seat_station(&self, index: u16, seated: Option<Seated<StationFamily>>) {
        if let Some(seat) = self.stations.get(usize::from(index)) {
            seat.seated.store(seated.map(Arc::new));
        }
    }

    /// Seats or unseats the actor of an account shard.
    pub fn seat_account(&self, index: u16, seated: Option<Seated<AccountFamily>>) {
        if let Some(seat) = self.accounts.get(usize::from(index)) {
            seat.seated.store(seated.map(Arc::new));
        }
    }

    /// The actor of a station shard.
    pub fn station_shard(&self, index: u16) -> Option<ActorRef<ShardMessage<StationFamily>>> {
        self.stations.get(usize::from(index))?.actor()
    }

    /// The actor of an account shard.
    pub fn account_shard(&self, index: u16) -> Option<ActorRef<ShardMessage<AccountFamily>>> {
        self.accounts.get(usize::from(index))?.actor()
    }

    /// Seats or unseats the telemetry actor of a station shard.
    pub fn seat_telemetry(&self, index: u16, actor: Option<ActorRef<TelemetryMessage>>) {
        if let Some(seat) = self.telemetry.get(usize::from(index)) {
            seat.store(actor.map(Arc::new));
        }
    }

    /// The telemetry actor of a station shard.
    pub fn telemetry(&self, index: u16) -> Option<ActorRef<TelemetryMessage>> {
        self.telemetry.get(usize::from(index))?.load().as_deref().cloned()
    }

    /// All station shards that have an actor.
    pub fn station_shards(&self) -> impl Iterator<Item = ActorRef<ShardMessage<StationFamily>>> {
        (0..self.shards).filter_map(|index| self.station_shard(index))
    }

    /// All account shards that have an actor.
    pub fn account_shards(&self) -> impl Iterator<Item = ActorRef<ShardMessage<AccountFamily>>> {
        (0..self.shards).filter_map(|index| self.account_shard(index))
    }

    /// The shard of an account: a till says it itself.
    pub fn shard_of_account(&self, account: &AccountId) -> ShardId {
        if let Some(till) = account.till() {
            return ShardId { family: placement::Family::Account, index: till.shard };
        }
        shard_of(placement::Family::Account, account.as_str(), self.shards)
    }

    /// Takes a place in the lanes of a shard, or refuses.
    pub fn admit(&self, shard: ShardId, lane: Lane, bytes: usize) -> Result<Permit, CallError> {
        if self.is_closed() || !self.may_serve() {
            return Err(CallError::NotServing(shard.to_string()));
        }
        let lanes = self.shard_lanes(shard).ok_or_else(|| CallError::NotServing(shard.to_string()))?;
        lanes.take(lane, bytes).ok_or(CallError::Shed)
    }

    /// Sends a message to an account. `message` gets the permit; when the lane is full or the shard closed,
    /// the message is answered with the reason.
    pub fn account(
        &self,
        account: &AccountId,
        lane: Lane,
        bytes: usize,
        message: impl FnOnce(Permit) -> AccountMessage,
    ) {
        let shard = self.shard_of_account(account);
        let (permit, refusal) = match self.admit(shard, lane, bytes) {
            Ok(permit) => (permit, None),
            Err(error) => (Permit::internal(), Some(error)),
        };
        let message = message(permit);
        let seated = self.accounts.get(usize::from(shard.index)).map(|seat| seat.seated.load());
        match (refusal, seated.as_deref().and_then(Option::as_ref)) {
            (Some(error), _) => message.refuse(error),
            (None, None) => message.refuse(CallError::NotServing(shard.to_string())),
            (None, Some(seated)) => seated.send(lane, AccountKey(account.clone()), message),
        }
    }

    /// Sends a message to a station, charger or gateway of a station shard.
    pub fn station(
        &self,
        shard: ShardId,
        key: StationKey,
        lane: Lane,
        bytes: usize,
        message: impl FnOnce(Permit) -> StationMember,
    ) {
        let (permit, refusal) = match self.admit(shard, lane, bytes) {
            Ok(permit) => (permit, None),
            Err(error) => (Permit::internal(), Some(error)),
        };
        let message = message(permit);
        let seated = self.stations.get(usize::from(shard.index)).map(|seat| seat.seated.load());
        match (refusal, seated.as_deref().and_then(Option::as_ref)) {
            (Some(error), _) => message.refuse(error),
            (None, None) => message.refuse(CallError::NotServing(shard.to_string())),
            (None, Some(seated)) => seated.send(lane, key, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Reply;
    use ractor::{Actor, ActorProcessingErr};

    /// A shard that leaves everything in its inbox.
    struct Idle;

    impl Actor for Idle {
        type Msg = ShardMessage<AccountFamily>;
        type State = ();
        type Arguments = ();
        async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_admitted_waits_by_urgency_and_not_by_arrival() {
        let router = Router::new(1);
        let (actor, _) = Actor::spawn(None, Idle, ()).await.unwrap();
        let inbox = Arc::new(Inbox::default());
        router.seat_account(0, Some(Seated { actor: actor.clone(), inbox: Arc::clone(&inbox) }));
        for (lane, name) in [(Lane::Status, "view1"), (Lane::Status, "view2"), (Lane::Money, "debit")] {
            router.account(&name.parse().unwrap(), lane, 64, |permit| AccountMessage::View {
                reply: Reply::ignored(),
                permit,
            });
        }
        let (waiting, more) = inbox.take(2);
        assert_eq!(waiting.iter().map(|(key, _)| key.0.local()).collect::<Vec<_>>(), ["debit", "view1"]);
        assert!(more);
        assert_eq!(router.lanes().depth(Lane::Status), 2, "what waits holds its place");
        drop((waiting, inbox));
        router.seat_account(0, None);
        assert_eq!(router.lanes().depth(Lane::Status), 0, "what waited for a shard that is gone is given up");
        actor.stop(None);
    }
}
