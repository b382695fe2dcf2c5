//! A start that its gateway never answers does not keep its driver's money for ever.

use crate::support::*;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::command::CommandOutcome;
use chargeplane_domain::ids::{CommandId, ConnectorNo};
use chargeplane_domain::units::Money;
use chargeplane_protocol::message::{Down, GatewayEvent, Stream};
use std::time::Duration;

/// Real time: the node tells a command as unconfirmed ten seconds after its deadline.
#[tokio::test]
async fn an_unanswered_start_ends_when_its_charger_is_heard_again() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.command_deadline = Duration::from_millis(1)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let (account, connector) = (id("a1"), ConnectorNo(1));
    gateway.event(GatewayEvent::StartRequested { child: 0, connector, account, request: 1, at: now() });
    let start: CommandId = gateway
        .until("start command", |down| match down {
            Down::Commands(commands) => commands.first().map(|command| command.id.clone()),
            _ => None,
        })
        .await;
    let mut outcome = None;
    for _ in 0..300 {
        outcome = handle.command(&start).await.expect("known").command.outcome;
        if outcome.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(outcome, Some(CommandOutcome::Unconfirmed));
    // Heard too soon, and then late enough.
    let status = |seconds: i64| GatewayEvent::StatusChanged {
        child: 0,
        plugged: false,
        available: true,
        at: now().plus_ms(seconds * 1_000),
    };
    let (seq, _) = gateway.event(status(0));
    gateway.until_acked(Stream::Events, seq).await;
    assert!(handle.account(&id("a1")).await.expect("open").held > Money::ZERO);
    let (seq, _) = gateway.event(status(90));
    gateway.until_acked(Stream::Events, seq).await;
    for _ in 0..400 {
        if handle.account(&id("a1")).await.expect("open").held == Money::ZERO {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let account = handle.account(&id("a1")).await.expect("open");
    assert_eq!((account.balance, account.held), (Money(100_000), Money::ZERO));
    assert_eq!(handle.command(&start).await.expect("known").command.outcome, Some(CommandOutcome::Expired));
}
