//! The node that is killed: this process, when the parent started it.

use super::super::MemoryStores;
use super::super::plants::{self, NodePlant};
use super::clients::{ACCOUNTS, account_name, request};
use crate::handle::{CallError, NodeHandle};
use crate::node::Node;
use crate::shared::{NodeConfig, Ports};
use chargeplane_cluster::journal::Journal;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where the parent listens.
pub(super) const PARENT: &str = "CHARGEPLANE_TEST_KILLS";

/// The fault to plant.
pub(super) const PLANT: &str = "CHARGEPLANE_TEST_KILLS_PLANT";

/// Faults by name.
pub const PLANTS: [(&str, NodePlant); 2] =
    [("ack-before-durable", NodePlant::AckBeforeDurable), ("debit-twice", NodePlant::DebitTwice)];

/// Snapshots come early, so that nodes die around them too.
const SNAPSHOT_AFTER: u64 = 32 << 10;

/// Serves the parent's clients on this journal until the process is killed or told to end. Returns at once when no
/// parent started it.
pub fn serve(journal: impl AsyncFnOnce() -> Arc<dyn Journal>) {
    let Ok(parent) = std::env::var(PARENT) else { return };
    let planted = std::env::var(PLANT).ok();
    let plant = planted.and_then(|name| PLANTS.iter().find(|(known, _)| *known == name)).map(|(_, plant)| *plant);
    // A plant is of the thread that set it.
    let mut builder = match plant {
        Some(_) => tokio::runtime::Builder::new_current_thread(),
        None => tokio::runtime::Builder::new_multi_thread(),
    };
    plants::plant(plant);
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let node = start(journal().await).await;
        let stream = TcpStream::connect(parent).await.expect("the parent listens");
        stream.set_nodelay(true).expect("a socket");
        talk(&node.handle(), stream).await;
    });
    // What is not answered is not owed.
    std::process::exit(0);
}

/// With one shard a family, all but the journal in memory, and no broker.
async fn start(journal: Arc<dyn Journal>) -> Node {
    let mut config = NodeConfig::new("killed");
    (config.shards, config.snapshot_after_bytes) = (1, SNAPSHOT_AFTER);
    // The clients' times are small numbers: by the clock of the wall their holds would have ended long ago.
    config.hold_lasts = Duration::MAX;
    let node = Node::start(config, Ports { journal, ..MemoryStores::default().ports() }).await.expect("starts");
    while node.handle().readiness().reasons.iter().any(|reason| !reason.contains("broker")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node
}

async fn talk(handle: &NodeHandle, stream: TcpStream) {
    let (read, write) = stream.into_split();
    let (answers, outgoing) = unbounded_channel();
    tokio::spawn(tell(write, outgoing));
    say(&answers, "ready".to_owned());
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == "end" {
            return;
        }
        let (handle, answers) = (handle.clone(), answers.clone());
        tokio::spawn(async move { say(&answers, answer(&handle, &line).await) });
    }
}

/// Nobody listens any more only when the process is about to end.
fn say(answers: &UnboundedSender<String>, line: String) {
    let _ = answers.send(line + "\n");
}

/// Writes the answers, those that have come up meanwhile in one go.
async fn tell(mut write: OwnedWriteHalf, mut outgoing: UnboundedReceiver<String>) {
    while let Some(mut lines) = outgoing.recv().await {
        while let Ok(more) = outgoing.try_recv() {
            lines.push_str(&more);
        }
        if write.write_all(lines.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn answer(handle: &NodeHandle, line: &str) -> String {
    if line == "balances" {
        return balances(handle).await;
    }
    let numbers = line.split_once(' ').and_then(|(slot, number)| Some((slot.parse().ok()?, number.parse().ok()?)));
    let Some((account, command)) = numbers.and_then(|(slot, number): (usize, u32)| request(slot, number)) else {
        return format!("{line} no such request");
    };
    loop {
        match handle.account_command(account.clone(), command.clone()).await {
            Ok(answer) => return format!("{line} ok {answer:?}"),
            // Repeated with the same key, as a caller is told to.
            Err(CallError::Interrupted | CallError::Timeout | CallError::NotServing(_)) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return format!("{line} no {error}"),
        }
    }
}

async fn balances(handle: &NodeHandle) -> String {
    let mut line = "balances".to_owned();
    for number in 0..ACCOUNTS {
        let account = format!("main/{}", account_name(number)).parse().expect("an id");
        line.push(' ');
        match handle.account(&account).await {
            Ok(view) => line.push_str(&view.balance.0.to_string()),
            Err(CallError::NotFound(_)) => line.push('-'),
            Err(error) => line.push_str(&error.to_string()),
        }
    }
    line
}
