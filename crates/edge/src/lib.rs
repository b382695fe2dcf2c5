//! The edge gateway: what stands between the chargers of a station and the cluster.
//!
//! [`GatewayCore`] decides everything and does nothing: inputs and the time go in, [`Effect`]s come out. It
//! batches, seals and keeps samples and events in a [`Ring`] until the node says they are durable, holds the
//! grants as leases on its own monotonic clock, remembers commands, and goes on alone when nobody answers.
//! [`runtime`] is the thin shell that gives it a clock, a broker connection and hardware.
//!
//! Keeps DATA-1 (nothing acknowledged is missing, what is lost is said), CMD-1 (a command is executed at most
//! once) and the gateway's half of POWER-1 and POWER-2 (no charger above its grant, the fallback afterwards).

pub mod config;
pub mod core;
pub mod effect;
pub mod ring;
pub mod runtime;
pub mod stats;

mod batcher;
mod commands;
mod flows;
mod leases;
mod outbox;

pub use crate::config::{BatchPolicy, ChildConfig, GatewayConfig, Thinning};
pub use crate::core::{EdgeError, GatewayCore, SampleRefused};
pub use crate::effect::{Acked, ChargerStatus, Effect, Now, Ticket};
pub use crate::ring::{FileRing, FileRingConfig, MemoryRing, Ring, RingError};
pub use crate::stats::{GatewayStats, StreamStats};
