//! Configurations for tests: the station of the demo in miniature or in full.

use crate::config::{ChargerConfig, FleetConfig, GatewayConfig, Plan, PoorAccount, poor_energy};
use crate::data::{self, Recorded};
use chargeplane_domain::catalogue::LimitNode;
use chargeplane_domain::units::{Money, Watts};

/// The recorded sessions of the repository.
pub fn recorded() -> Vec<Recorded> {
    data::parse(include_str!("../../../scenarios/data/caltech-2019-03-sessions.csv")).unwrap()
}

/// A station of `chargers` behind gateways of 100, with 30 kW a charger at the grid connection.
pub fn config(chargers: u16, seconds: u32, seed: u64) -> FleetConfig {
    let gateways = chargers.div_ceil(100);
    let max_price = Money(18_000);
    let balance = Money(poor_energy(seconds).0 * max_price.0 / 1_000);
    let config = FleetConfig {
        version: 1,
        brokers: vec!["127.0.0.1:1".into()],
        seed,
        seconds,
        time_compression: 60,
        out_dir: "out".into(),
        sessions_csv: "sessions.csv".into(),
        keep: false,
        drain_s: 60,
        sync_samples: false,
        gateways: (0..gateways)
            .map(|i| GatewayConfig {
                id: format!("gw-{i:02}").parse().unwrap(),
                shard: "0001".into(),
                key: "00".repeat(32),
                key_epoch: 1,
                password: "x".into(),
                ring_dir: format!("ring-{i}").into(),
            })
            .collect(),
        chargers: (0..chargers)
            .map(|i| ChargerConfig {
                id: format!("c-{i:04}").parse().unwrap(),
                gateway: format!("gw-{:02}", i / 100).parse().unwrap(),
                child: i % 100,
                rated_w: Watts(120_000),
                min_w: Watts(12_000),
                fallback_w: Watts(0),
                limit: "grid".into(),
            })
            .collect(),
        limits: vec![LimitNode {
            id: "grid".into(),
            parent: None,
            limit_w: Watts(i64::from(chargers) * 30_000),
            base_w: Watts(0),
        }],
        rich_accounts: (0..40).map(|i| format!("rich-{i}").parse().unwrap()).collect(),
        poor_accounts: (0..60)
            .map(|i| PoorAccount { account: format!("poor-{i}").parse().unwrap(), balance })
            .collect(),
        max_price,
        min_price: Some(Money(12_000)),
        cuts: Vec::new(),
        plan: Plan::default(),
    };
    config.check().unwrap();
    config
}
