//! The rules of Chargeplane: what a charger, a session, an account, a tariff and a power limit *are*.
//!
//! Pure by construction: no runtime, no clock, no randomness, no I/O, and no iteration over hash maps, so
//! that every decision can be replayed and simulated. Time is always an argument.
//!
//! Two shapes of machine live here:
//! - durable state decides and applies: `decide(&self, command) -> Result<Event, Rejection>`, then
//!   `apply(&mut self, &event)`; replay uses `apply` alone;
//! - soft state reacts: `on_x(&mut self, now, input, &mut effects)`.

pub mod account;
pub mod allocation;
pub mod catalogue;
pub mod catalogue_check;
pub mod charger;
pub mod chunk;
pub mod command;
pub mod gateway;
pub mod ids;
pub mod lease;
pub mod ledger;
pub mod metering;
pub mod month;
pub mod placement;
pub mod presence;
pub mod rollup;
pub mod sample;
pub mod session;
pub mod split;
pub mod station;
pub mod tariff;
mod text;
pub mod thinning;
pub mod units;
