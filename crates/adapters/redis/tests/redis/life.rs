//! A whole node while its Redis dies and comes back.

use crate::published::{ask, authorise, balance, balanced, debit, debited, id, node, open};
use crate::support::*;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::units::Money;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_when_its_server_is_back_and_so_do_its_read_models() {
    let mut server = Server::start();
    let node = node(server.options(), "n1", &MemoryStores::default()).await;
    open(&node, "a1", 100_000).await;
    ask(&node, "a1", authorise("s1")).await.expect("has the money");
    for round in 1..=3u32 {
        debited(ask(&node, "a1", debit("s1", round, i64::from(round) * 100)).await);
        // The projection reads what was just committed, or finds nobody to read from.
        server.kill();
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.restart();
    }
    debited(ask(&node, "a1", debit("s1", 4, 400)).await);
    assert_eq!(balance(&node, "a1").await, Money(94_000));
    balanced(&node).await;
    for _ in 0..500 {
        let statement = node.handle().statement(&id("a1"), (0, 0), 100).await.expect("serves");
        if statement.entries.last().is_some_and(|line| line.balance == Money(94_000)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the statement stays behind");
}
