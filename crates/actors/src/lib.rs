//! Who does it: the supervision tree of one node, its shards, and the ports they need.
//!
//! See `docs/architecture.md` for the tree and `docs/trails.md` for the way of a sample and of a debit.

pub mod account;
pub mod admission;
pub mod beats;
pub mod bridge;
pub mod charger;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod directory;
pub mod downlink;
pub mod entry;
pub mod family;
pub mod gateway;
pub mod handle;
pub mod journal;
pub mod metric;
pub mod node;
pub mod ports;
pub mod projection;
pub mod reply;
pub mod router;
pub mod shard;
pub mod shared;
pub mod station;
pub mod supervisor;
pub mod telemetry;
pub mod views;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
