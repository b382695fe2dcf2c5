//! The `Coordination` port: which nodes live, and the settings a cluster is born with.
//!
//! Node leases are advice only: they say when others may try to take over and when a node stops serving. What
//! a node may *write* is decided by the journal's head alone.

use crate::BoxFuture;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{DEFAULT_SHARDS, ShardCountError, check_shards};
use serde::{Deserialize, Serialize};

/// What is fixed when a cluster is born. A node that was configured otherwise may not join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Shards of the station family: part of every topic.
    pub station_shards: u16,
    /// Shards of the account family.
    pub account_shards: u16,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { station_shards: DEFAULT_SHARDS, account_shards: DEFAULT_SHARDS }
    }
}

impl ClusterSettings {
    /// Checks that the numbers can be used.
    pub fn check(&self) -> Result<(), ShardCountError> {
        check_shards(self.station_shards)?;
        check_shards(self.account_shards)?;
        Ok(())
    }
}

/// How a node introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHello {
    /// Its name.
    pub node: NodeId,
    /// Where other nodes reach it, `host:port`; empty when it takes no calls.
    pub address: String,
    /// Its process.
    pub pid: u32,
    /// When that process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`), 0 if not known:
    /// with the pid it names one process for certain.
    pub pid_started: u64,
}

impl NodeHello {
    /// Introduces this process.
    pub fn of_this_process(node: NodeId, address: String) -> Self {
        let pid = std::process::id();
        Self { node, address, pid, pid_started: process_started(pid).unwrap_or(0) }
    }
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`. None when there is no
/// such process or the system has no `/proc`.
pub fn process_started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything; the third follows it.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether a lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Held: as old as its last beat.
    Held,
    /// Given up in order.
    Released,
    /// Declared dead by another node: this incarnation never serves again.
    DeclaredDead,
}

/// A node as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// How it introduced itself.
    pub hello: NodeHello,
    /// Raised by every join.
    pub incarnation: u64,
    /// Last beat of this incarnation.
    pub beat: u64,
    /// Whether it holds its lease.
    pub state: LeaseState,
}

/// Answer to a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// This process's incarnation: every older one of the same node is refused from now on.
    pub incarnation: u64,
    /// True when this join gave birth to the cluster.
    pub first: bool,
}

/// Answer to a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatOutcome {
    /// Written.
    Written,
    /// The incarnation was declared dead, released or replaced.
    Refused,
}

/// Why coordination did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinationError {
    /// The cluster was born with other settings.
    #[error(
        "this cluster was born with {} station and {} account shards and cannot change them; \
         this node is configured for {} and {}",
        born.station_shards, born.account_shards, asked.station_shards, asked.account_shards
    )]
    SettingsDiffer {
        /// What the cluster has.
        born: ClusterSettings,
        /// What the node asked for.
        asked: ClusterSettings,
    },
    /// The settings cannot be used at all.
    #[error(transparent)]
    Settings(#[from] ShardCountError),
    /// The store did not answer in time or failed; it may have been done.
    #[error("coordination failed: {0}")]
    Unavailable(String),
}

/// Node leases and the settings of the cluster.
pub trait Coordination: Send + Sync {
    /// Joins: fixes the settings if this is the cluster's birth, checks them otherwise, and raises the
    /// node's incarnation.
    fn join(&self, hello: NodeHello, settings: ClusterSettings) -> BoxFuture<'_, Result<Joined, CoordinationError>>;

    /// Writes beat number `beat`, if `incarnation` still holds the lease.
    fn beat(&self, node: NodeId, incarnation: u64, beat: u64) -> BoxFuture<'_, Result<BeatOutcome, CoordinationError>>;

    /// Gives the lease up, if `incarnation` still holds it. Returns whether it did.
    fn release(&self, node: NodeId, incarnation: u64) -> BoxFuture<'_, Result<bool, CoordinationError>>;

    /// Declares an incarnation dead, if it still holds the lease and its last beat is still `beat` (so one
    /// that came back in time stays). Returns whether it did.
    fn declare_dead(&self, node: NodeId, incarnation: u64, beat: u64)
    -> BoxFuture<'_, Result<bool, CoordinationError>>;

    /// All nodes that ever joined, in order.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeRecord>, CoordinationError>>;

    /// The settings, none before the cluster's birth.
    fn settings(&self) -> BoxFuture<'_, Result<Option<ClusterSettings>, CoordinationError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let hello = NodeHello::of_this_process(NodeId("n1".into()), String::new());
        assert_eq!(process_started(hello.pid), Some(hello.pid_started));
        assert!(hello.pid_started > 0);
        // The first process started before this one.
        assert!(process_started(1).is_some_and(|first| first <= hello.pid_started));
        assert_eq!(process_started(u32::MAX), None);
    }

    #[test]
    fn settings_are_checked() {
        assert!(ClusterSettings::default().check().is_ok());
        assert!(ClusterSettings { station_shards: 3, account_shards: 32 }.check().is_err());
    }
}
