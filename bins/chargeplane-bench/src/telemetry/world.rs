//! What load, node and audit agree on: chargers, gateways and their keys, and which batch carries which samples.

use anyhow::Context;
use chargeplane_actors::ports::{CatalogueStore, GatewayCredentials};
use chargeplane_actors::shared::Ports;
use chargeplane_domain::catalogue::{Catalogue, Charger, Gateway, LimitNode, Station};
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_domain::placement::{DEFAULT_SHARDS, Family, shard_of};
use chargeplane_domain::units::Watts;
use chargeplane_protocol::envelope::{GatewayKey, Keyring, gateway_number};
use chargeplane_protocol::message::Stream;
use chargeplane_protocol::topic;

/// Chargers of a gateway, which is a station of its own.
pub const CHILDREN: usize = 100;

/// Chargers that a batch has samples of ...
pub const GROUP: usize = 50;

/// ... and consecutive samples of each.
pub const RUN: usize = 4;

/// Samples of a batch.
pub const BATCH: usize = GROUP * RUN;

/// Batches between a late one's turn and its sending, as replay.
pub const LATE_BY: u64 = 40;

/// The key epoch of all gateways, and their boot.
pub const KEY_EPOCH: u32 = 1;
pub const BOOT: u32 = 1;

pub fn gateway(number: usize) -> anyhow::Result<GatewayId> {
    Ok(format!("main/g{number:04}").parse()?)
}

pub fn charger(number: usize) -> anyhow::Result<ChargerId> {
    Ok(format!("main/c{number:06}").parse()?)
}

fn root_key(number: usize) -> [u8; 32] {
    let mut root = [7; 32];
    root[..8].copy_from_slice(&(number as u64).to_le_bytes());
    root
}

/// A gateway's keys.
pub fn keys(number: usize) -> anyhow::Result<Keyring> {
    let key = GatewayKey { root: root_key(number), key_epoch: KEY_EPOCH };
    Ok(Keyring::new(&gateway(number)?, &key))
}

/// The topic that a gateway sends a stream on.
pub fn topic_of(number: usize, stream: Stream) -> anyhow::Result<String> {
    let station = format!("main/s{number:04}");
    let shard = shard_of(Family::Station, &station, DEFAULT_SHARDS);
    Ok(topic::up(&gateway(number)?, shard.index, stream))
}

/// Batch number `turn` of a gateway: every tenth round of it is late.
pub fn is_late(gateway: usize, turn: u64) -> bool {
    (turn / 2 + gateway as u64).is_multiple_of(10)
}

/// Every twentieth is sent twice.
pub fn is_repeated(gateway: usize, turn: u64) -> bool {
    (turn + gateway as u64) % 20 == 3
}

/// The children that batch number `turn` is of, and the number of their first sample in it.
pub fn content(turn: u64) -> (std::ops::Range<usize>, u64) {
    let first = (turn % 2) as usize * GROUP;
    (first..first + GROUP, turn / 2 * RUN as u64)
}

/// Puts catalogue and keys of `chargers` chargers into a store that is empty.
pub async fn populate(store: &dyn CatalogueStore, chargers: usize) -> anyhow::Result<()> {
    let mut catalogue = Catalogue::default();
    let tariff: chargeplane_domain::ids::TariffId = "main/t".parse()?;
    catalogue.tariffs.insert(tariff.clone(), crate::ledger::tariff()?);
    for number in 0..chargers.div_ceil(CHILDREN) {
        let station: chargeplane_domain::ids::StationId = format!("main/s{number:04}").parse()?;
        let limits = vec![LimitNode { id: "grid".into(), parent: None, limit_w: Watts(12_000_000), base_w: Watts(0) }];
        let place = Station {
            operator: "main/op".parse()?,
            city: String::new(),
            time_zone: "Asia/Shanghai".into(),
            tariff: tariff.clone(),
            split: None,
            limits,
            power: Default::default(),
        };
        catalogue.stations.insert(station.clone(), place);
        catalogue.gateways.insert(gateway(number)?, Gateway { station });
        for child in 0..CHILDREN {
            let entry = Charger {
                gateway: gateway(number)?,
                child: u16::try_from(child)?,
                limit: "grid".into(),
                rated_w: Watts(120_000),
                min_w: Watts(10_000),
                step_w: Watts(100),
                fallback_w: Watts(0),
                weight: 100,
                connectors: 1,
            };
            catalogue.chargers.insert(charger(number * CHILDREN + child)?, entry);
        }
    }
    store.save(0, catalogue).await?;
    for number in 0..chargers.div_ceil(CHILDREN) {
        let gateway = gateway(number)?;
        let credentials = GatewayCredentials {
            number: gateway_number(&gateway),
            gateway,
            incarnation: 1,
            key_epoch: KEY_EPOCH,
            confirmed: true,
            root_key: root_key(number),
            password_sha256: [0; 32],
            revoked: false,
        };
        store.save_credentials(credentials).await?;
    }
    Ok(())
}

/// Waits until a node serves all its shards; it has no link to a broker.
pub async fn ready(node: &chargeplane_actors::node::Node) -> anyhow::Result<()> {
    for _ in 0..60_000 {
        if node.handle().readiness().reasons.iter().all(|reason| reason.contains("broker")) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    None::<()>.context("the shards do not open")
}

/// The stores of a data directory as a node's ports.
pub async fn ports(data: &std::path::Path) -> anyhow::Result<Ports> {
    crate::ledger::ports(data).await
}
