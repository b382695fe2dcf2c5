//! The directory: the catalogue and the gateways' keys, indexed for the hot paths.
//!
//! An immutable value behind an atomic pointer; replaced as a whole when the catalogue or a key changes.

use crate::ports::GatewayCredentials;
use chargeplane_domain::catalogue::{self, Catalogue};
use chargeplane_domain::ids::{ChargerId, GatewayId, StationId};
use chargeplane_domain::placement::{Family, ShardId, shard_of};
use chargeplane_protocol::envelope::{GatewayKey, Header, Keyring, OpenError, Opened};
use chargeplane_protocol::message::Stream;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One gateway as the bridge and the downlink need it.
#[derive(Debug)]
pub struct GatewayEntry {
    /// The gateway.
    pub id: GatewayId,
    /// Its station.
    pub station: StationId,
    /// Its station's shard.
    pub shard: ShardId,
    /// Its chargers by child number.
    pub children: BTreeMap<u16, ChargerId>,
    /// Keys by epoch, with the enrolment that each belongs to; revoked ones are not here.
    keys: Vec<(Keyring, u32)>,
    /// The newest key that was enrolled, or that the gateway was heard under since its rotation; 0 for none.
    confirmed: u32,
    /// Keys up to this epoch are revoked: who has one could seal whatever he likes, so not even a backlog that
    /// claims to be older is read. 0 for none.
    revoked_upto: u32,
}

impl GatewayEntry {
    /// Opens a packet with the key that its header names. Returns the stream, the content and the enrolment.
    pub fn open(&self, packet: &[u8]) -> Result<(Stream, Opened, u32), OpenError> {
        let found = Header::peek(packet)?.key_epoch;
        let (keyring, incarnation) =
            self.keys.iter().find(|(keyring, _)| keyring.key_epoch() == found).ok_or(OpenError::KeyEpoch { found })?;
        keyring.open_up(packet).map(|(stream, opened)| (stream, opened, *incarnation))
    }

    /// The keys to seal with: the newest that the gateway surely has.
    pub fn present(&self) -> Option<&Keyring> {
        self.accepted(self.confirmed)
    }

    /// The keys of this epoch, unless later ones have taken their place.
    pub fn accepted(&self, key_epoch: u32) -> Option<&Keyring> {
        let keys = self.keys.iter().map(|(keyring, _)| keyring);
        keys.filter(|keyring| keyring.key_epoch() >= self.confirmed).find(|keyring| keyring.key_epoch() == key_epoch)
    }

    /// Whether a key waits for the gateway to be heard under it.
    pub fn is_rotating(&self) -> bool {
        self.present().is_some() && self.keys.iter().any(|(keyring, _)| keyring.key_epoch() > self.confirmed)
    }

    /// Whether a packet under this key is the first word of a gateway that took a rotated key.
    pub fn confirms(&self, key_epoch: u32) -> bool {
        key_epoch > self.confirmed && self.accepted(key_epoch).is_some()
    }

    /// Keys up to this epoch are revoked; 0 for none.
    pub fn revoked_upto(&self) -> u32 {
        self.revoked_upto
    }

    /// The present enrolment; 0 when there is none.
    pub fn incarnation(&self) -> u32 {
        self.keys.last().map_or(0, |(_, incarnation)| *incarnation)
    }
}

/// Everything indexed.
#[derive(Debug)]
pub struct Directory {
    /// The catalogue's version.
    pub version: u64,
    /// The catalogue.
    pub catalogue: Arc<Catalogue>,
    /// Shards a family.
    pub shards: u16,
    gateways: HashMap<GatewayId, Arc<GatewayEntry>>,
    credentials: Vec<GatewayCredentials>,
}

impl Directory {
    /// Indexes a catalogue and credentials.
    pub fn new(version: u64, catalogue: Arc<Catalogue>, mut credentials: Vec<GatewayCredentials>, shards: u16) -> Self {
        credentials.sort_by(|a, b| (&a.gateway, a.key_epoch).cmp(&(&b.gateway, b.key_epoch)));
        let mut children: HashMap<&GatewayId, BTreeMap<u16, ChargerId>> = HashMap::new();
        for (id, charger) in &catalogue.chargers {
            children.entry(&charger.gateway).or_default().insert(charger.child, id.clone());
        }
        let entry = |(id, gateway): (&GatewayId, &catalogue::Gateway)| {
            let of_gateway = || credentials.iter().filter(|c| c.gateway == *id);
            let revoked_upto = of_gateway().filter(|c| c.revoked).map(|c| c.key_epoch).max().unwrap_or(0);
            let valid = of_gateway().filter(|c| c.key_epoch > revoked_upto);
            let confirmed = valid.clone().filter(|c| c.confirmed).map(|c| c.key_epoch).max().unwrap_or(0);
            let keys = valid.map(|c| {
                let key = GatewayKey { root: c.root_key, key_epoch: c.key_epoch };
                (Keyring::new(id, &key), c.incarnation)
            });
            let entry = GatewayEntry {
                id: id.clone(),
                station: gateway.station.clone(),
                shard: shard_of(Family::Station, gateway.station.as_str(), shards),
                children: children.remove(id).unwrap_or_default(),
                keys: keys.collect(),
                confirmed,
                revoked_upto,
            };
            (id.clone(), Arc::new(entry))
        };
        let gateways = catalogue.gateways.iter().map(entry).collect();
        Self { version, catalogue, shards, gateways, credentials }
    }

    /// A gateway.
    pub fn gateway(&self, id: &GatewayId) -> Option<&Arc<GatewayEntry>> {
        self.gateways.get(id)
    }

    /// All gateways of a shard.
    pub fn gateways_of(&self, shard: ShardId) -> impl Iterator<Item = &Arc<GatewayEntry>> {
        self.gateways.values().filter(move |gateway| gateway.shard == shard)
    }

    /// All credentials, by gateway and key epoch.
    pub fn credentials(&self) -> &[GatewayCredentials] {
        &self.credentials
    }

    /// A charger with its id as the catalogue keeps it, and the station it belongs to.
    pub fn charger(&self, id: &ChargerId) -> Option<(&catalogue::Charger, &StationId)> {
        let charger = self.catalogue.chargers.get(id)?;
        let gateway = self.catalogue.gateways.get(&charger.gateway)?;
        Some((charger, &gateway.station))
    }

    /// The shard of a station.
    pub fn station_shard(&self, station: &StationId) -> ShardId {
        shard_of(Family::Station, station.as_str(), self.shards)
    }

    /// The chargers of a station.
    pub fn chargers_of(&self, station: &StationId) -> BTreeMap<ChargerId, catalogue::Charger> {
        let of_station = |charger: &catalogue::Charger| {
            self.catalogue.gateways.get(&charger.gateway).is_some_and(|g| g.station == *station)
        };
        let chargers = self.catalogue.chargers.iter().filter(|(_, charger)| of_station(charger));
        chargers.map(|(id, charger)| (id.clone(), charger.clone())).collect()
    }
}
