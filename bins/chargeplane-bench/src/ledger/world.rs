//! What parent and children agree on: the node's stores and settings, accounts, sessions, prices.

use super::journals::JournalAt;
use anyhow::Context;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_domain::account::{AccountCommand, AccountKind, Holder};
use chargeplane_domain::allocation::lp::{Programme, SolveDone, Solver, SolverBusy};
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Priced, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
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

/// The stores of a data directory as a node's ports.
pub async fn ports(data: &Path) -> anyhow::Result<Ports> {
    with_journal(data, &JournalAt::Sqlite).await
}

async fn with_journal(data: &Path, journal: &JournalAt) -> anyhow::Result<Ports> {
    let dir = DataDir::lock(data)?;
    let stores = tokio::task::spawn_blocking(move || Stores::open(&dir)).await??;
    Ok(Ports {
        journal: journal.connect(stores.journal).await?,
        coordination: Arc::new(stores.coordination),
        telemetry: Arc::new(stores.telemetry),
        catalogue: Arc::new(stores.catalogue),
        records: Arc::new(stores.records),
        statements: Arc::new(stores.statements),
        solver: Arc::new(NoSolver),
    })
}

/// Starts a node on the stores of a data directory and this journal, with the defaults of the product, and waits for
/// its shards.
pub async fn start_node(data: &Path, journal: &JournalAt) -> anyhow::Result<Node> {
    let ports = with_journal(data, journal).await?;
    // The load counts its own time from zero: by the node's clock all its holds would have ended long ago.
    let config = NodeConfig { hold_lasts: Duration::MAX, ..NodeConfig::new("bench") };
    let node = Node::start(config, ports).await?;
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
fn price(by_period: &[WattHours; PERIODS]) -> Priced {
    static TARIFF: OnceLock<Option<Tariff>> = OnceLock::new();
    let tariff = TARIFF.get_or_init(|| tariff().ok());
    tariff.as_ref().map_or(Priced::ZERO, |tariff| tariff.price(by_period, &MeteredTime::NONE))
}

/// Watt-hours of one debit.
const DEBIT_WH: i64 = 100;

/// Opens an account that may owe much.
pub fn open() -> anyhow::Result<AccountCommand> {
    Ok(AccountCommand::Open {
        key: "open".into(),
        currency: currency()?,
        kind: AccountKind::Credit { limit: Money(5_000_000_000_000) },
        holder: Holder::Fleet,
        at: Timestamp(0),
    })
}

/// Holds money for a session.
pub fn authorise(session: &SessionId) -> anyhow::Result<AccountCommand> {
    Ok(AccountCommand::Authorise {
        session: session.clone(),
        operator: "main/op".parse()?,
        tariff: tariff()?,
        split: None,
        want: Money(20_000),
        reserve: Money(2_000),
        at: Timestamp(1),
    })
}

/// A session's debit of this sequence.
pub fn debit(session: SessionId, sequence: u32) -> AccountCommand {
    let meter = WattHours(i64::from(sequence) * DEBIT_WH);
    let mut by_period = [WattHours::ZERO; PERIODS];
    by_period[0] = meter;
    AccountCommand::Debit {
        session,
        sequence,
        meter,
        by_period,
        time: MeteredTime::NONE,
        cumulative: price(&by_period),
        hold_target: Money(20_000),
        at: Timestamp(i64::from(sequence)),
    }
}
