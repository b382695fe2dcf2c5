//! Snapshots through a whole node on memory stores: what is served from one is what the log says.

use crate::support::*;
use bytes::Bytes;
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_actors::views::{AccountView, BalanceView, PageOf};
use chargeplane_cluster::journal::{Journal, OpenedShard, Snapshot};
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountRejection};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId, shard_of};
use chargeplane_domain::units::Money;
use std::time::Duration;

const SMALL: u64 = 4_096;

async fn top_up(handle: &NodeHandle, key: &str, amount: i64) -> Result<AccountAnswer, String> {
    let command = AccountCommand::TopUp { key: key.to_owned(), amount: Money(amount), currency: None, at: now() };
    handle.account_command(id("a1"), command).await.map_err(|error| error.to_string())
}

async fn served(handle: &NodeHandle) -> (Vec<AccountView>, Vec<BalanceView>) {
    (handle.accounts(PageOf::first(100)).await.expect("accounts"), handle.balances(None, 100).await.expect("balances"))
}

fn shard() -> ShardId {
    shard_of(Family::Account, "main/a1", 2)
}

async fn open(stores: &MemoryStores) -> OpenedShard {
    stores.journal.open(shard(), NodeId("looker".into())).await.expect("opens")
}

/// Everything that the tests write: an account with keys, a refused one among them.
///
/// A pause behind each top-up: virtual time does not pass while a snapshot is being encoded on another thread, so
/// however late that thread is run, what was due by then has been written.
async fn fill(handle: &NodeHandle) -> Result<AccountAnswer, String> {
    open_account(handle, "a1", 1_000_000).await;
    open_account(handle, "a2", 5).await;
    for n in 0..200 {
        top_up(handle, &format!("k{n}"), 1 + n).await.expect("tops up");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    top_up(handle, "bad", -1).await
}

#[tokio::test(start_paused = true)]
async fn a_node_that_opens_from_snapshots_serves_what_the_log_says() {
    let stores = MemoryStores::default();
    let (node, _) = stores.start(|config| config.snapshot_after_bytes = SMALL).await;
    let refused = fill(&node.handle()).await;
    let before = served(&node.handle()).await;
    // Not drained: what is behind the last snapshot is in the log alone.
    drop(node);
    let opened = open(&stores).await;
    let snapshot = opened.snapshot.expect("taken while the node ran");
    assert!(!opened.tail.is_empty() && opened.tail.len() < 150, "{} frames behind it", opened.tail.len());
    assert!(snapshot.lsn > 50);

    let (node, _) = stores.start(|_| ()).await;
    assert_eq!(served(&node.handle()).await, before);
    assert_eq!(top_up(&node.handle(), "k7", 8).await, Ok(AccountAnswer::ToppedUp { balance: Money(1_000_036) }));
    assert_eq!(top_up(&node.handle(), "bad", -1).await, refused);
    let reused = AccountRejection::KeyReused.to_string();
    assert!(top_up(&node.handle(), "k7", 9).await.is_err_and(|error| error.contains(&reused)), "{reused}");
    assert_eq!(served(&node.handle()).await, before);
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_leaves_nothing_to_replay() {
    let stores = MemoryStores::default();
    let (node, _) = stores.start(|config| config.snapshot_after_bytes = 32 * SMALL).await;
    let _ = fill(&node.handle()).await;
    assert!(node.drain().await);
    let opened = open(&stores).await;
    assert_eq!((opened.snapshot.map(|snapshot| snapshot.lsn), opened.tail.len()), (Some(opened.last_lsn), 0));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_read_costs_time_and_nothing_else() {
    let stores = MemoryStores::default();
    let (node, _) = stores.start(|config| config.snapshot_after_bytes = SMALL).await;
    let _ = fill(&node.handle()).await;
    let before = served(&node.handle()).await;
    assert!(node.drain().await);
    // A newer program's, at the last frame but one.
    let (node, _) = stores.start(|config| config.snapshot_after_bytes = u64::MAX).await;
    top_up(&node.handle(), "last", 1).await.expect("tops up");
    drop(node);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let opened = open(&stores).await;
    let newer = Snapshot { lsn: opened.last_lsn, hash: opened.last_hash, bytes: Bytes::from_static(&[0, 9, 1, 2, 3]) };
    assert!(stores.journal.put_snapshot(shard(), opened.epoch, newer).await.expect("answers"), "it is kept");

    let (node, _) = stores.start(|_| ()).await;
    top_up(&node.handle(), "last", 1).await.expect("the same answer");
    let money = |views: &[AccountView]| views.iter().map(|view| view.balance.0).collect::<Vec<_>>();
    let (accounts, _) = served(&node.handle()).await;
    let expected: Vec<_> = money(&before.0).iter().zip([1, 0]).map(|(balance, more)| balance + more).collect();
    assert_eq!(money(&accounts), expected);
}
