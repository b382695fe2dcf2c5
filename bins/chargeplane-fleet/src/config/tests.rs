use super::*;
use crate::testing;

/// The path that a changed configuration is refused at.
fn refused(change: impl Fn(&mut FleetConfig)) -> String {
    let mut config = testing::config(20, 60, 1);
    change(&mut config);
    config.check().unwrap_err().at
}

#[test]
fn says_where_a_configuration_is_wrong() {
    assert_eq!(refused(|c| c.version = 2), "version");
    assert_eq!(refused(|c| c.seconds = 4), "seconds");
    assert_eq!(refused(|c| c.brokers.clear()), "brokers");
    assert_eq!(refused(|c| c.limits.push(c.limits[0].clone())), "limits[1].id");
    assert_eq!(refused(|c| c.limits[0].parent = Some("grid".into())), "limits");
    assert_eq!(refused(|c| c.gateways[0].shard = "1".into()), "gateways[0].shard");
    assert_eq!(refused(|c| c.gateways[0].key = "zz".repeat(32)), "gateways[0].key");
    assert_eq!(refused(|c| c.chargers[3].child = 2), "chargers[3].child");
    assert_eq!(refused(|c| c.chargers[3].limit = "x".into()), "chargers[3].limit");
    assert_eq!(refused(|c| c.chargers[3].gateway = "x".parse().unwrap()), "chargers[3].gateway");
    assert_eq!(refused(|c| c.min_price = Some(Money(99_999))), "max_price");
    assert_eq!(refused(|c| c.rich_accounts.clear()), "rich_accounts");
    let cut = Cut { gateway: "x".parse().unwrap(), at_s: 1, for_s: 1 };
    assert_eq!(refused(|c| c.cuts.push(cut.clone())), "cuts[0].gateway");
}

#[test]
fn a_circle_in_the_tree_is_found() {
    let node = |id: &str, parent: Option<&str>| LimitNode {
        id: id.into(),
        parent: parent.map(Into::into),
        limit_w: Watts(1),
        base_w: Watts(0),
    };
    let tree = vec![node("grid", None), node("a", Some("b")), node("b", Some("a"))];
    assert_eq!(refused(|c| c.limits = tree.clone()), "limits \"a\"");
    assert_eq!(refused(|c| c.limits.push(node("a", Some("nobody")))), "limits \"a\"");
}

#[test]
fn json_round_trips_and_unknown_members_are_refused() {
    let config = testing::config(20, 60, 1);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(FleetConfig::from_json(&text).unwrap(), config);
    let wrong = text.replacen("\"seed\"", "\"sede\"", 1);
    assert!(FleetConfig::from_json(&wrong).unwrap_err().what.contains("sede"));
}

#[test]
fn counts_follow_the_size() {
    let small = testing::config(50, 30, 1);
    assert_eq!((small.scaled(36), small.scaled(2_000), small.pace_permille()), (1, 50, 250));
    assert_eq!((poor_energy(120).0, poor_energy(600).0, poor_energy(30).0), (250, 250, 120));
}
