//! The journal on Redis: one Lua script a commit, with the condition and the frame in the same place.
//!
//! | port | kept by |
//! |---|---|
//! | [`Journal`](chargeplane_cluster::journal::Journal) | [`RedisJournal`] |
//!
//! What a node may promise on it is what the server does before it answers, so a server that does not sync
//! before it answers is refused at the start and at every reconnect, and [`Durability`] says what is left to
//! lose. The keys are described in `docs/reference/storage.md`.

mod acknowledged;
mod journal;
mod keys;
mod link;
mod options;
mod server;

pub use journal::{MAX_SNAPSHOT, RedisJournal};
pub use options::{RedisOptions, StartError};
pub use server::{Confirmation, Durability};
