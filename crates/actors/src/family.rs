//! The two families of shards: a station with its chargers and gateways, and accounts with their books.

use crate::account::holds::{self, HoldSweep};
use crate::account::{AccountActor, AccountArguments, AccountBatch, AccountMessage};
use crate::charger::{ChargerActor, ChargerArguments, ChargerMessage};
use crate::downlink::SealingCounter;
use crate::gateway::{GatewayActor, GatewayArguments, GatewayMessage};
use crate::handle::CallError;
use crate::metric;
use crate::reply::Reply;
use crate::shard::{EntityLink, EntityMessage, Family, OpenShard};
use crate::shared::{NodeConfig, NodeShared};
use crate::station::{StationActor, StationArguments, StationMessage};
use crate::telemetry::{TelemetryActor, TelemetryArguments, TelemetryMessage};
use chargeplane_domain::account::{self, Account, AccountEvent};
use chargeplane_domain::charger::{Charger, ChargerEvent};
use chargeplane_domain::gateway::{GatewayEvent, GatewayState};
use chargeplane_domain::ids::{AccountId, ChargerId, GatewayId, IdError, StationId};
use chargeplane_domain::ledger::Books;
use chargeplane_domain::placement;
use chargeplane_domain::session::SessionState;
use chargeplane_domain::station::{StationEvent, StationState};
use chargeplane_domain::units::Timestamp;
use ractor::{Actor, ActorCell, ActorRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not the key of an entity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `kind:id`.
    #[error("expected 'kind:id'")]
    Shape,
    /// The id is wrong.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Names an entity of a station shard: `station:..`, `charger:..` or `gateway:..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StationKey {
    /// A station.
    Station(StationId),
    /// A charger.
    Charger(ChargerId),
    /// A gateway.
    Gateway(GatewayId),
}

impl fmt::Display for StationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Station(id) => write!(f, "station:{id}"),
            Self::Charger(id) => write!(f, "charger:{id}"),
            Self::Gateway(id) => write!(f, "gateway:{id}"),
        }
    }
}

impl FromStr for StationKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.split_once(':') {
            Some(("station", id)) => Ok(Self::Station(id.parse()?)),
            Some(("charger", id)) => Ok(Self::Charger(id.parse()?)),
            Some(("gateway", id)) => Ok(Self::Gateway(id.parse()?)),
            _ => Err(KeyError::Shape),
        }
    }
}

/// Names an account in the journal: `account:..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountKey(pub AccountId);

impl fmt::Display for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account:{}", self.0)
    }
}

impl FromStr for AccountKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.split_once(':') {
            Some(("account", id)) => Ok(Self(id.parse()?)),
            _ => Err(KeyError::Shape),
        }
    }
}

/// A durable event in a station shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StationFamilyEvent {
    /// Of a station.
    Station(StationEvent),
    /// Of a charger.
    Charger(ChargerEvent),
    /// Of a gateway.
    Gateway(GatewayEvent),
}

/// A message to an entity of a station shard.
#[derive(Debug)]
pub enum StationMember {
    /// To a station.
    Station(StationMessage),
    /// To a charger.
    Charger(ChargerMessage),
    /// To a gateway.
    Gateway(GatewayMessage),
}

impl EntityMessage for StationMember {
    fn refuse(self, why: CallError) {
        match self {
            Self::Station(message) => message.refuse(why),
            Self::Charger(message) => message.refuse(why),
            // Nobody waits: what a gateway sends it sends again.
            Self::Gateway(_) => {}
        }
    }

    fn keep(&self) -> Option<Self> {
        match self {
            Self::Charger(message) => message.keep().map(Self::Charger),
            Self::Station(_) | Self::Gateway(_) => None,
        }
    }

    fn is_sent_once(&self) -> bool {
        match self {
            Self::Charger(message) => message.is_sent_once(),
            Self::Station(_) | Self::Gateway(_) => false,
        }
    }

    fn to_body(&self) -> Option<Vec<u8>> {
        match self {
            Self::Charger(message) => message.to_body(),
            Self::Station(_) | Self::Gateway(_) => None,
        }
    }

    fn from_body(body: &[u8], done: Reply<()>) -> Result<Self, Reply<()>> {
        ChargerMessage::from_body(body, done).map(Self::Charger)
    }
}

/// Last durable states in a station shard. Rows are shared with a copy until one of both changes them.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct StationMap {
    /// Stations.
    pub stations: BTreeMap<StationId, Arc<StationState>>,
    /// Chargers.
    pub chargers: BTreeMap<ChargerId, Arc<Charger>>,
    /// Gateways.
    pub gateways: BTreeMap<GatewayId, Arc<GatewayState>>,
}

impl StationMap {
    /// Chargers that may draw power: a start may have been sent, and no end of the session was heard.
    pub fn may_draw(&self) -> impl Iterator<Item = &ChargerId> {
        let draws = |charger: &Charger| {
            let state = charger.current.as_ref().map(|session| session.state);
            matches!(state, Some(SessionState::Authorised | SessionState::Charging))
        };
        self.chargers.iter().filter(move |(_, charger)| draws(charger)).map(|(id, _)| id)
    }
}

/// How a live entity of a station shard is reached.
#[derive(Debug, Clone)]
pub enum StationRef {
    /// A station.
    Station(ActorRef<StationMessage>),
    /// A charger.
    Charger(ActorRef<ChargerMessage>),
    /// A gateway.
    Gateway(ActorRef<GatewayMessage>),
}

/// Stations with their chargers and gateways.
pub struct StationFamily;

impl Family for StationFamily {
    const FAMILY: placement::Family = placement::Family::Station;
    type Key = StationKey;
    type Event = StationFamilyEvent;
    type Map = StationMap;
    type Message = StationMember;
    type Ref = StationRef;
    type Common = Arc<SealingCounter>;
    type Side = ActorRef<TelemetryMessage>;
    type Tally = ();
    type Sweep = ();

    fn common(epoch: u64) -> Arc<SealingCounter> {
        SealingCounter::new(epoch)
    }

    fn apply(map: &mut StationMap, key: &StationKey, events: &[StationFamilyEvent]) -> Result<(), String> {
        events.iter().try_for_each(|event| match (key, event) {
            (StationKey::Station(id), StationFamilyEvent::Station(event)) => {
                Arc::make_mut(map.stations.entry(id.clone()).or_default()).apply(event);
                Ok(())
            }
            (StationKey::Charger(id), StationFamilyEvent::Charger(event)) => {
                let charger = Arc::make_mut(map.chargers.entry(id.clone()).or_default());
                charger.apply(event).map_err(|error| error.to_string())
            }
            (StationKey::Gateway(id), StationFamilyEvent::Gateway(event)) => {
                let gateway = Arc::make_mut(map.gateways.entry(id.clone()).or_default());
                gateway.apply(event).map_err(|error| error.to_string())
            }
            (key, _) => Err(format!("an event of another kind of entity than {key}")),
        })
    }

    fn tally(_map: &StationMap, _key: &StationKey, events: &[StationFamilyEvent], _tally: &mut ()) {
        let chargers = events.iter().filter_map(|event| match event {
            StationFamilyEvent::Charger(event) => Some(event),
            StationFamilyEvent::Station(_) | StationFamilyEvent::Gateway(_) => None,
        });
        chargers.for_each(|event| match event {
            ChargerEvent::SessionStarted { .. } => {
                metrics::counter!(metric::SESSIONS_STARTED_TOTAL).increment(1);
            }
            ChargerEvent::SessionSettled { record, .. } => {
                let reason = record.stop_reason.code();
                metrics::counter!(metric::SESSIONS_SETTLED_TOTAL, "reason" => reason).increment(1);
                metrics::counter!(metric::BILLED_WH_TOTAL).increment(magnitude(record.billed_wh.0));
                metrics::counter!(metric::OVERSHOOT_WH_TOTAL).increment(magnitude(record.overshoot_wh.0));
            }
            ChargerEvent::CommandResolved { outcome, .. } => {
                metrics::counter!(metric::COMMANDS_TOTAL, "outcome" => outcome.code()).increment(1);
            }
            _ => {}
        });
    }

    fn report((): ()) {}

    /// Power is checked by the station's machine at every tick.
    fn self_check(_map: &StationMap) {}

    fn rows(map: &StationMap) -> usize {
        map.stations.len() + map.chargers.len() + map.gateways.len()
    }

    fn wakes_at_open(map: &StationMap) -> Vec<StationKey> {
        let busy = |charger: &Charger| charger.current.is_some() || !charger.unresolved_commands().is_empty();
        let chargers = map.chargers.iter().filter(|(_, charger)| busy(charger));
        let chargers = chargers.map(|(id, _)| StationKey::Charger(id.clone()));
        map.stations.keys().cloned().map(StationKey::Station).chain(chargers).collect()
    }

    fn is_pinned(map: &StationMap, key: &StationKey) -> bool {
        match key {
            StationKey::Station(_) => true,
            StationKey::Charger(id) => map
                .chargers
                .get(id)
                .is_some_and(|charger| charger.current.is_some() || !charger.unresolved_commands().is_empty()),
            StationKey::Gateway(_) => false,
        }
    }

    /// A digest is for the bill of an open session. A charger that idles is a row of the map: what is shown of
    /// it, the telemetry and the station actors know.
    fn is_of_use(map: &StationMap, key: &StationKey, message: &StationMember) -> bool {
        match (key, message) {
            (StationKey::Charger(id), StationMember::Charger(ChargerMessage::Digest { .. })) => {
                map.chargers.get(id).is_some_and(|charger| charger.current.is_some())
            }
            _ => true,
        }
    }

    async fn spawn(
        shared: &Arc<NodeShared>,
        map: &StationMap,
        link: EntityLink<Self>,
    ) -> Result<(StationRef, ActorCell), String> {
        let (shared, supervisor) = (Arc::clone(shared), link.shard.get_cell());
        let counter = Arc::clone(&link.common);
        match link.key.clone() {
            StationKey::Station(id) => {
                let state = map.stations.get(&id).map(|row| (**row).clone()).unwrap_or_default();
                let may_draw = map.may_draw().cloned().collect();
                let arguments = StationArguments { shared, link, id, state, may_draw, counter };
                let spawned = Actor::spawn_linked(None, StationActor, arguments, supervisor).await;
                let (actor, _) = spawned.map_err(|error| error.to_string())?;
                Ok((StationRef::Station(actor.clone()), actor.get_cell()))
            }
            StationKey::Charger(id) => {
                let charger = map.chargers.get(&id).map(|row| (**row).clone()).unwrap_or_default();
                let arguments = ChargerArguments { shared, link, id, charger };
                let spawned = Actor::spawn_linked(None, ChargerActor, arguments, supervisor).await;
                let (actor, _) = spawned.map_err(|error| error.to_string())?;
                Ok((StationRef::Charger(actor.clone()), actor.get_cell()))
            }
            StationKey::Gateway(id) => {
                let state = map.gateways.get(&id).map(|row| (**row).clone()).unwrap_or_default();
                let arguments = GatewayArguments { shared, link, id, state, counter };
                let spawned = Actor::spawn_linked(None, GatewayActor, arguments, supervisor).await;
                let (actor, _) = spawned.map_err(|error| error.to_string())?;
                Ok((StationRef::Gateway(actor.clone()), actor.get_cell()))
            }
        }
    }

    fn cast(target: &StationRef, messages: Vec<StationMember>) {
        for message in messages {
            // A dead entity drops the message, and its reply guard answers.
            let _ = match (target, message) {
                (StationRef::Station(actor), StationMember::Station(message)) => actor.cast(message).is_ok(),
                (StationRef::Charger(actor), StationMember::Charger(message)) => actor.cast(message).is_ok(),
                (StationRef::Gateway(actor), StationMember::Gateway(message)) => actor.cast(message).is_ok(),
                (_, message) => {
                    message.refuse(CallError::Invalid("message for another kind of entity".to_owned()));
                    false
                }
            };
        }
    }

    async fn on_open(shared: &Arc<NodeShared>, opened: &OpenShard<Self>) -> Result<ActorRef<TelemetryMessage>, String> {
        let arguments = TelemetryArguments {
            shared: Arc::clone(shared),
            shard: opened.shard,
            actor: opened.actor.clone(),
            counter: Arc::clone(&opened.common),
        };
        let supervisor = opened.actor.get_cell();
        let spawned = Actor::spawn_linked(None, TelemetryActor, arguments, supervisor).await;
        let (telemetry, _) = spawned.map_err(|error| error.to_string())?;
        shared.router.seat_telemetry(opened.shard.index, Some(telemetry.clone()));
        Ok(telemetry)
    }

    fn on_drain(side: &ActorRef<TelemetryMessage>, done: Box<dyn FnOnce() + Send>) {
        // A telemetry actor that is gone has nothing to flush; `done` is then dropped and the shard's drain
        // ends by its caller's time-out.
        let _ = side.cast(TelemetryMessage::Drain(done));
    }
}

/// Last durable states in an account shard. Rows are shared with a copy until one of both changes them.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct AccountMap {
    /// Accounts.
    pub accounts: BTreeMap<AccountId, Arc<Account>>,
    /// All balances of the shard, counter-accounts included. Sums to zero (MONEY-1).
    pub books: Books,
}

/// Accounts and the books of their shard.
pub struct AccountFamily;

/// What a commit did to accounts.
#[derive(Debug, Default)]
pub struct AccountTally {
    debits: u64,
    holds_ended: u64,
    paid_out: u64,
    billed: u64,
    refunded: u64,
    /// Accounts whose available money was looked at (MONEY-4).
    checked: u64,
}

impl AccountTally {
    fn add(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Debited { energy, service, fees, .. } => {
                self.debits = self.debits.saturating_add(1);
                let paid = energy.saturating_add(*service).saturating_add(*fees);
                self.billed = self.billed.saturating_add(magnitude(paid.0));
            }
            AccountEvent::Settled { energy, service, fees, settled, .. } => {
                let taken = energy.saturating_add(*service).saturating_add(*fees);
                let paid = taken.saturating_sub(settled.overshoot).0;
                self.billed = self.billed.saturating_add(magnitude(paid));
                self.refunded = self.refunded.saturating_add(magnitude(paid.saturating_neg()));
            }
            AccountEvent::HoldEnded { .. } => self.holds_ended = self.holds_ended.saturating_add(1),
            AccountEvent::PaidOut { amount, .. } => self.paid_out = self.paid_out.saturating_add(magnitude(amount.0)),
            _ => {}
        }
    }
}

/// Applies an event to its account in place; an opening makes the account.
fn apply_to(
    accounts: &mut BTreeMap<AccountId, Arc<Account>>,
    id: &AccountId,
    event: &AccountEvent,
) -> Result<(), String> {
    if let Some(account) = accounts.get_mut(id) {
        return Arc::make_mut(account).apply(event).map_err(|error| error.to_string());
    }
    let mut slot = None;
    account::apply(&mut slot, id, event).map_err(|error| error.to_string())?;
    accounts.extend(slot.map(|account| (id.clone(), Arc::new(account))));
    Ok(())
}

impl Family for AccountFamily {
    const FAMILY: placement::Family = placement::Family::Account;
    type Key = AccountKey;
    type Event = AccountEvent;
    type Map = AccountMap;
    type Message = AccountMessage;
    type Ref = ActorRef<AccountBatch>;
    type Common = ();
    type Side = ();
    type Tally = AccountTally;
    type Sweep = HoldSweep;

    fn common(_epoch: u64) {}

    fn apply(map: &mut AccountMap, key: &AccountKey, events: &[AccountEvent]) -> Result<(), String> {
        // Each entry is checked alone; what all of them change is written to the books once. The account does not
        // move past an event whose entry the books refuse.
        let mut entries = map.books.entries();
        let result = events.iter().try_for_each(|event| {
            let postings = account::postings(&key.0, event);
            let entry = entries.prepare(postings).map_err(|error| error.to_string())?;
            apply_to(&mut map.accounts, &key.0, event)?;
            entries.take(entry);
            Ok(())
        });
        entries.commit();
        result
    }

    fn tally(map: &AccountMap, key: &AccountKey, events: &[AccountEvent], tally: &mut AccountTally) {
        for event in events {
            tally.add(event);
            if let AccountEvent::HoldEnded { session, hold, .. } = event {
                tracing::info!(account = %key.0, %session, %hold, "the hold ended by time: nothing was read for long");
            }
        }
        if let Some(account) = map.accounts.get(&key.0) {
            tally.checked = tally.checked.saturating_add(1);
            if account.available().0 < 0 {
                tracing::error!(account = %key, available = %account.available(), "MONEY-4: below the limit");
                metrics::counter!(metric::INVARIANT_VIOLATIONS_TOTAL, "invariant" => "MONEY-4").increment(1);
            }
        }
    }

    fn report(tally: AccountTally) {
        metrics::counter!(metric::DEBITS_TOTAL).increment(tally.debits);
        metrics::counter!(metric::BILLED_MONEY_TOTAL).increment(tally.billed);
        metrics::counter!(metric::HOLDS_ENDED_TOTAL).increment(tally.holds_ended);
        metrics::counter!(metric::PAID_OUT_MONEY_TOTAL).increment(tally.paid_out);
        metrics::counter!(metric::REFUNDED_MONEY_TOTAL).increment(tally.refunded);
        metrics::counter!(metric::INVARIANT_CHECKS_TOTAL, "invariant" => "MONEY-4").increment(tally.checked);
    }

    fn self_check(map: &AccountMap) {
        metrics::counter!(metric::INVARIANT_CHECKS_TOTAL, "invariant" => "MONEY-1").increment(1);
        let imbalance = map.books.imbalance();
        if !imbalance.is_empty() {
            tracing::error!(?imbalance, "MONEY-1: the books of a shard do not sum to zero");
            metrics::counter!(metric::INVARIANT_VIOLATIONS_TOTAL, "invariant" => "MONEY-1").increment(1);
        }
    }

    fn rows(map: &AccountMap) -> usize {
        map.accounts.len()
    }

    /// Accounts whose transfers are under way go on sending them.
    fn wakes_at_open(map: &AccountMap) -> Vec<AccountKey> {
        let sending = map.accounts.iter().filter(|(_, account)| !account.outgoing.open.is_empty());
        sending.map(|(id, _)| AccountKey(id.clone())).collect()
    }

    fn is_pinned(map: &AccountMap, key: &AccountKey) -> bool {
        map.accounts.get(&key.0).is_some_and(|account| !account.outgoing.open.is_empty())
    }

    fn is_of_use(_map: &AccountMap, _key: &AccountKey, _message: &AccountMessage) -> bool {
        true
    }

    fn sweep(
        map: &AccountMap,
        sweep: &mut HoldSweep,
        config: &NodeConfig,
        now: Timestamp,
    ) -> Vec<(AccountKey, AccountMessage)> {
        holds::sweep(map, sweep, config, now)
    }

    fn covers<'a>(
        map: &AccountMap,
        queued: impl Iterator<Item = (&'a AccountKey, &'a AccountEvent)>,
        event: &AccountEvent,
    ) -> bool {
        account::is_covered(&map.books, queued.map(|(key, event)| (&key.0, event)), event)
    }

    async fn spawn(
        shared: &Arc<NodeShared>,
        map: &AccountMap,
        link: EntityLink<Self>,
    ) -> Result<(ActorRef<AccountBatch>, ActorCell), String> {
        let shared = Arc::clone(shared);
        let account = map.accounts.get(&link.key.0).map(|row| (**row).clone());
        let supervisor = link.shard.get_cell();
        let arguments = AccountArguments { shared, link, account };
        let spawned = Actor::spawn_linked(None, AccountActor, arguments, supervisor).await;
        let (actor, _) = spawned.map_err(|error| error.to_string())?;
        Ok((actor.clone(), actor.get_cell()))
    }

    fn cast(target: &ActorRef<AccountBatch>, messages: Vec<AccountMessage>) {
        let _ = target.cast(AccountBatch(messages));
    }

    async fn on_open(_shared: &Arc<NodeShared>, _opened: &OpenShard<Self>) -> Result<(), String> {
        Ok(())
    }

    fn on_drain(_side: &(), done: Box<dyn FnOnce() + Send>) {
        done();
    }
}

/// An amount as a counter's increment; negative ones, which a log refuses before, count as nothing.
fn magnitude(amount: i64) -> u64 {
    u64::try_from(amount).unwrap_or(0)
}
