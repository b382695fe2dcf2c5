//! What parent and child agree on: the node's stores and settings, accounts, sessions, prices.

use anyhow::Context;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_domain::allocation::lp::{Programme, SolveDone, Solver, SolverBusy};
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Priced, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, WattHours};
use chargeplane_sqlite::{DataDir, Stores};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// One debit outstanding: a caller has one or several of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

impl Slot {
    /// The slot's session on an account.
    pub fn session(self, account: usize) -> anyhow::Result<SessionId> {
        Ok(format!("main/s{:05}.{account}", self.0).parse()?)
    }

    /// Whose session this is.
    pub fn of(session: &SessionId) -> Option<Self> {
        session.local().strip_prefix('s')?.split_once('.')?.0.parse().ok().map(Self)
    }
}

/// Starts a node on the stores of a data directory, with the defaults of the product, and waits for the first
/// account's shard.
pub async fn start_node(data: &Path) -> anyhow::Result<Node> {
    let dir = DataDir::lock(data)?;
    let stores = tokio::task::spawn_blocking(move || Stores::open(&dir)).await??;
    let ports = Ports {
        journal: Arc::new(stores.journal),
        coordination: Arc::new(stores.coordination),
        telemetry: Arc::new(stores.telemetry),
        catalogue: Arc::new(stores.catalogue),
        records: Arc::new(stores.records),
        statements: Arc::new(stores.statements),
        solver: Arc::new(NoSolver),
    };
    let node = Node::start(NodeConfig::new("bench"), ports).await?;
    let deadline = Instant::now() + Duration::from_secs(300);
    // This node has no link to a broker.
    while node.handle().readiness().reasons.iter().any(|reason| !reason.contains("broker")) {
        anyhow::ensure!(Instant::now() < deadline, "the shards do not open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(node)
}

/// No station is in this node's catalogue.
struct NoSolver;

impl Solver for NoSolver {
    fn submit(&self, _: Programme, _: u64, _: SolveDone) -> Result<(), SolverBusy> {
        Err(SolverBusy)
    }
}

pub fn currency() -> anyhow::Result<Currency> {
    Ok(Currency::new("CNY")?)
}

pub fn account(number: usize) -> anyhow::Result<AccountId> {
    Ok(format!("main/a{number:06}").parse()?)
}

pub fn tariff() -> anyhow::Result<Tariff> {
    let price = Price { energy: Money(8_000), service: Money(1_000) };
    let slots = Slots::uniform(0).context("period 0 exists")?;
    Ok(Tariff { currency: currency()?, prices: [price; PERIODS], slots, fees: Fees::NONE })
}

/// What metered energy costs under that tariff.
pub fn price(by_period: &[WattHours; PERIODS]) -> Priced {
    static TARIFF: OnceLock<Option<Tariff>> = OnceLock::new();
    let tariff = TARIFF.get_or_init(|| tariff().ok());
    tariff.as_ref().map_or(Priced::ZERO, |tariff| tariff.price(by_period, &MeteredTime::NONE))
}
