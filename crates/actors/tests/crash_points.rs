//! A node that was built for tests kills itself at the point of a commit that its environment names. The node is a
//! process of its own: this program, started again.

use chargeplane_actors::testing::MemoryStores;
use chargeplane_actors::testing::crash::{CrashPoint, VARIABLE};
use chargeplane_domain::account::{AccountCommand, AccountKind, Holder};
use chargeplane_domain::units::{Currency, Money, Timestamp};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

const SIGKILL: i32 = 9;

/// The node that is ended: tops an account up again and again, and says what was acknowledged.
#[tokio::test]
#[ignore = "a node for the tests below, which start it as a process"]
async fn node_to_be_ended() {
    let (node, _) = MemoryStores::default().start(|config| config.shards = 1).await;
    let (handle, at) = (node.handle(), Timestamp(0));
    let account: chargeplane_domain::ids::AccountId = "a1".parse().expect("an id");
    let currency = Currency::new("CNY").expect("a currency");
    let open =
        AccountCommand::Open { key: "open".into(), currency, kind: AccountKind::Prepaid, holder: Holder::Personal, at };
    handle.account_command(account.clone(), open).await.expect("opens");
    println!("acknowledged 1");
    for number in 2..=6 {
        let top_up = AccountCommand::TopUp { key: format!("k{number}"), amount: Money(1), currency: None, at };
        handle.account_command(account.clone(), top_up).await.expect("tops up");
        println!("acknowledged {number}");
    }
}

fn run(crash: Option<&str>) -> Output {
    let mut node = Command::new(std::env::current_exe().expect("this program"));
    node.args(["node_to_be_ended", "--exact", "--ignored", "--nocapture"]).env_remove(VARIABLE);
    node.envs(crash.map(|crash| (VARIABLE, crash))).output().expect("starts")
}

fn acknowledged(output: &Output) -> usize {
    String::from_utf8_lossy(&output.stdout).matches("acknowledged").count()
}

#[test]
fn a_node_ends_at_the_point_it_was_told() {
    let whole = run(None);
    assert!(whole.status.success(), "{whole:?}");
    assert_eq!(acknowledged(&whole), 6);
    for point in CrashPoint::ALL {
        let ended = run(Some(&format!("{}:4", point.name())));
        assert_eq!(ended.status.signal(), Some(SIGKILL), "{point:?}");
        // The fourth commit is not answered; behind the point after its answers, its caller may not have run yet.
        assert_eq!(acknowledged(&ended), 3, "{point:?}");
    }
}

#[test]
fn a_point_that_does_not_exist_ends_the_node_at_once() {
    let ended = run(Some("somewhere:1"));
    assert_eq!((ended.status.signal(), acknowledged(&ended)), (Some(SIGKILL), 0));
}
