//! Placement: which shard an entity belongs to, and which node should own a shard.
//!
//! Both are pure functions of names, so that every node, gateway and tool computes the same answer without
//! asking anyone. The shard of an id is written into topics and journals: [`shard_of`] may never change
//! (test vectors below hold it). [`wanted_owner`] is advice only; ownership is the journal's head (OWN-1).

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Shards a family when a cluster is born without saying otherwise.
pub const DEFAULT_SHARDS: u16 = 32;

/// Most shards a family: four hex digits in topics, and one open journal head each.
pub const MAX_SHARDS: u16 = 4096;

/// What kind of entities a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// A station with all its chargers and gateways, by station id: a power tick never crosses nodes.
    Station,
    /// Accounts, by account id.
    Account,
}

impl Family {
    /// Both families, in the order of their codes.
    pub const ALL: [Self; 2] = [Self::Station, Self::Account];

    /// The byte that stands for the family in stored frames.
    pub fn code(self) -> u8 {
        match self {
            Self::Station => 0,
            Self::Account => 1,
        }
    }

    /// The family of a stored byte.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.code() == code)
    }

    /// The word used in the text form of a [`ShardId`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Station => "station",
            Self::Account => "account",
        }
    }
}

/// One shard: a family and its index, below the family's number of shards.
///
/// The text form is `station-001f`: the family and four hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShardId {
    /// What it holds.
    pub family: Family,
    /// Which one of its family.
    pub index: u16,
}

impl ShardId {
    /// All shards of a cluster with `shards` a family, stations first.
    pub fn all(shards: u16) -> impl Iterator<Item = Self> {
        Family::ALL.into_iter().flat_map(move |family| (0..shards).map(move |index| Self { family, index }))
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:04x}", self.family.as_str(), self.index)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shard {0:?}: expected a family and four hex digits, such as station-001f or account-0003")]
pub struct ShardIdError(pub String);

impl FromStr for ShardId {
    type Err = ShardIdError;

    fn from_str(text: &str) -> Result<Self, ShardIdError> {
        let fail = || ShardIdError(text.chars().take(40).collect());
        let (family, digits) = text.split_once('-').ok_or_else(fail)?;
        let family = Family::ALL.into_iter().find(|f| f.as_str() == family).ok_or_else(fail)?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 4 || !digits.bytes().all(lower_hex) {
            return Err(fail());
        }
        let index = u16::from_str_radix(digits, 16).map_err(|_| fail())?;
        Ok(Self { family, index })
    }
}

impl TryFrom<String> for ShardId {
    type Error = ShardIdError;
    fn try_from(text: String) -> Result<Self, ShardIdError> {
        text.parse()
    }
}

impl From<ShardId> for String {
    fn from(shard: ShardId) -> Self {
        shard.to_string()
    }
}

/// Why a number of shards cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} shards a family: expected a power of two from 1 to {MAX_SHARDS}")]
pub struct ShardCountError(pub u16);

/// Checks a number of shards a family: a power of two from 1 to [`MAX_SHARDS`].
pub fn check_shards(shards: u16) -> Result<u16, ShardCountError> {
    if shards.is_power_of_two() && shards <= MAX_SHARDS { Ok(shards) } else { Err(ShardCountError(shards)) }
}

/// The shard of an entity by its id's whole text (`tenant/local`).
///
/// FNV-1a 64 over the text's bytes, folded to 16 bits by xor (32 onto 32, then 16 onto 16), and masked to
/// `shards`. A count that [`check_shards`] would refuse is rounded down to a power of two (0 counts as 1).
pub fn shard_of(family: Family, id_text: &str, shards: u16) -> ShardId {
    let hash = fnv1a(FNV_OFFSET, id_text.as_bytes());
    let folded = hash ^ (hash >> 32);
    let folded = folded ^ (folded >> 16);
    let mask = shards.checked_ilog2().map_or(0, |bits| (1u64 << bits) - 1);
    // The mask has at most 15 bits set.
    let index = u16::try_from(folded & mask).unwrap_or(0);
    ShardId { family, index }
}

/// The node that should own a shard: rendezvous hashing over the live nodes, none if there is none.
///
/// When a node leaves, only its shards move; when one joins, it takes an even share from each. The order of
/// `nodes` and repetitions in it do not matter.
pub fn wanted_owner(shard: ShardId, nodes: &[NodeId]) -> Option<&NodeId> {
    // Ties (as good as impossible) go to the smaller name, so that all nodes agree.
    nodes.iter().max_by(|a, b| {
        let (left, right) = (rendezvous_weight(shard, a), rendezvous_weight(shard, b));
        left.cmp(&right).then_with(|| b.cmp(a))
    })
}

fn rendezvous_weight(shard: ShardId, node: &NodeId) -> u64 {
    let hash = fnv1a(FNV_OFFSET, node.0.as_bytes());
    let hash = fnv1a(hash, &[0, shard.family.code()]);
    let mut x = fnv1a(hash, &shard.index.to_be_bytes());
    // FNV mixes its last bytes badly into the high bits that decide the comparison, so the finaliser of
    // SplitMix64 (Steele, Lea, Flood 2014) goes over it.
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, 64 bits (Fowler, Noll, Vo), continued from `hash`.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(name: &str) -> NodeId {
        NodeId(name.into())
    }

    #[test]
    fn fnv_matches_the_published_vectors() {
        assert_eq!(fnv1a(FNV_OFFSET, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(FNV_OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(FNV_OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn shards_of_known_ids_never_change() {
        // af63dc4c8601ec8c: af63dc4c ^ 8601ec8c = 296230c0; 2962 ^ 30c0 = 19a2.
        assert_eq!(shard_of(Family::Station, "a", 0x1000).index, 0x19a2 & 0x0fff);
        assert_eq!(shard_of(Family::Account, "a", 32).to_string(), "account-0002");
        // 85944171f73967e8: 85944171 ^ f73967e8 = 72ad2699; 72ad ^ 2699 = 5434.
        assert_eq!(shard_of(Family::Station, "foobar", 32).to_string(), "station-0014");
        assert_eq!(shard_of(Family::Station, "foobar", 1).index, 0);
        assert_eq!(shard_of(Family::Station, "foobar", 0).index, 0);
    }

    #[test]
    fn text_form_round_trips_and_refuses_the_rest() {
        let shard = ShardId { family: Family::Station, index: 0x1f };
        assert_eq!(shard.to_string(), "station-001f");
        assert_eq!("station-001f".parse(), Ok(shard));
        for bad in ["", "station", "station-1f", "station-001F", "station-+01f", "pile-0001", "account-00001"] {
            assert!(bad.parse::<ShardId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shard_counts_are_powers_of_two() {
        assert_eq!(check_shards(32), Ok(32));
        assert_eq!(check_shards(1), Ok(1));
        for bad in [0, 3, 33, 8192, u16::MAX] {
            assert_eq!(check_shards(bad), Err(ShardCountError(bad)));
        }
    }

    #[test]
    fn ids_spread_over_shards() {
        let mut counts = [0u32; 32];
        for n in 0..32_000 {
            counts[usize::from(shard_of(Family::Account, &format!("main/a{n}"), 32).index)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn owners_share_evenly_and_only_the_leaver_s_shards_move() {
        let nodes: Vec<_> = ["n1", "n2", "n3", "n4"].map(node).into();
        let three = &nodes[..3];
        let mut counts = std::collections::BTreeMap::new();
        for shard in ShardId::all(256) {
            let before = wanted_owner(shard, &nodes).expect("there are nodes");
            let after = wanted_owner(shard, three).expect("there are nodes");
            *counts.entry(before.clone()).or_insert(0u32) += 1;
            if *before != node("n4") {
                assert_eq!(before, after, "{shard}");
            }
        }
        assert!(counts.values().all(|count| (90..170).contains(count)), "{counts:?}");
        assert_eq!(wanted_owner(ShardId { family: Family::Station, index: 0 }, &[]), None);
    }

    proptest! {
        #[test]
        fn the_order_of_nodes_does_not_matter(mut names in proptest::collection::vec("[a-z]{1,6}", 1..8), index in 0u16..256) {
            let shard = ShardId { family: Family::Account, index };
            let nodes: Vec<_> = names.iter().map(|name| node(name)).collect();
            names.reverse();
            let reversed: Vec<_> = names.iter().map(|name| node(name)).collect();
            prop_assert_eq!(wanted_owner(shard, &nodes), wanted_owner(shard, &reversed));
        }
    }
}
