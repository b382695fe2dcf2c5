//! The look at the books after the kill: the log as it is read back, and the balances that a new node serves.

use super::journals::JournalAt;
use super::world::{self, Slot};
use chargeplane_actors::entry::{self, StoredEntry};
use chargeplane_actors::shared::NodeConfig;
use chargeplane_actors::views::PageOf;
use chargeplane_domain::account::AccountEvent;
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::Money;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What was found.
pub struct Found {
    /// Debits in the log.
    pub stored: u64,
    /// From the start of the program to the first answer of a shard's account.
    pub reopened_in: Duration,
}

/// Opens the books again and compares. `acknowledged` counts the debits of each slot.
pub fn check(data: &Path, journal: &JournalAt, acknowledged: &[u32], accounts: usize) -> anyhow::Result<Found> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // The log first, by itself: a node keeps the directory for as long as anything of it lives.
    let log = runtime.block_on(read_log(data, journal))?;
    runtime.block_on(async {
        let began = Instant::now();
        let node = world::start_node(data, journal).await?;
        node.handle().account(&world::account(0)?).await?;
        let reopened_in = began.elapsed();
        let mut served = 0i128;
        let mut after = None;
        loop {
            let page = PageOf { after, limit: 1_000, tenant: None };
            let page = node.handle().accounts(page).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            served += page.iter().map(|view| i128::from(view.balance.0)).sum::<i128>();
        }
        node.drain().await;

        for (slot, count) in acknowledged.iter().enumerate() {
            let found = log.by_slot.get(&slot).copied().unwrap_or(0);
            anyhow::ensure!(found >= u64::from(*count), "slot {slot}: {count} acknowledged, {found} in the log");
        }
        anyhow::ensure!(served == -log.taken, "the log took {}, the node serves {served}", log.taken);
        anyhow::ensure!(log.accounts == accounts, "{} accounts in the log", log.accounts);
        Ok(Found { stored: log.by_slot.values().sum(), reopened_in })
    })
}

#[derive(Default)]
struct Log {
    accounts: usize,
    by_slot: BTreeMap<usize, u64>,
    taken: i128,
}

/// Reads all shards of accounts: each session's sequences without a hole or a double, and all money taken.
async fn read_log(data: &Path, journal: &JournalAt) -> anyhow::Result<Log> {
    let journal = journal.open(data).await?;
    let (mut log, mut last) = (Log::default(), BTreeMap::<SessionId, u32>::new());
    for index in 0..NodeConfig::new("bench").shards {
        let shard = ShardId { family: Family::Account, index };
        let mut after = 0;
        loop {
            let frames = journal.read(shard, after, 64).await?;
            let Some(end) = frames.last() else { break };
            after = end.lsn;
            for frame in &frames {
                let payload = entry::unpack(&frame.payload)?;
                for entry in entry::read(&payload)? {
                    let StoredEntry::Entity { event, .. } = entry else { continue };
                    take(&mut log, &mut last, event.decode()?)?;
                }
            }
        }
    }
    Ok(log)
}

fn take(log: &mut Log, last: &mut BTreeMap<SessionId, u32>, event: AccountEvent) -> anyhow::Result<()> {
    match event {
        AccountEvent::Opened { .. } => log.accounts += 1,
        AccountEvent::Debited { session, sequence, energy, service, fees, .. } => {
            let Money(energy) = energy;
            log.taken += i128::from(energy) + i128::from(service.0) + i128::from(fees.0);
            let slot = Slot::of(&session).ok_or_else(|| anyhow::anyhow!("{session} is nobody's"))?;
            *log.by_slot.entry(slot.0).or_default() += 1;
            let before = last.insert(session.clone(), sequence).unwrap_or(0);
            anyhow::ensure!(sequence == before + 1, "{session}: {sequence} follows {before}");
        }
        _ => {}
    }
    Ok(())
}
