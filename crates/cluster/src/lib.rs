//! Where things run: ownership of shards by the journal's head, and node leases.
//!
//! This crate declares the two ports that decide ownership, and what is made of them:
//! - [`journal`]: the durable log of each shard. Its head *is* the ownership record (OWN-1, MONEY-3);
//! - [`archive`]: logs as a file, out of one journal and into another;
//! - [`coordination`]: node leases, as advice, and the settings a cluster is born with;
//! - [`node_lease`]: the task that keeps this node's lease.
//!
//! With the feature `testing` it also has in-memory versions of the ports and the conformance suite that
//! every adapter of [`journal::Journal`] must pass.

pub mod archive;
pub mod coordination;
pub mod frame;
pub mod journal;
pub mod node_lease;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod memory;

use std::future::Future;
use std::pin::Pin;

/// The future a port's method returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
