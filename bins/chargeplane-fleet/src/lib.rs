//! Simulated hardware and drivers, on real gateways.
//!
//! One process with many gateways, each the real edge core with a ring and an MQTT connection of its own, and the
//! chargers, cars and drivers behind them. The drill writes its configuration ([`config`]), starts it, reads a status
//! line every second from its standard output ([`status`]), and judges the node by the evidence it leaves
//! ([`evidence`]).
//!
//! Reading order: [`schedule`] (who comes when), [`physics`] and [`bay`] (car, charger, driver), [`world`] (the
//! station), [`load`] (the judge of power), all pure; then [`yard`], [`hardware`], [`book`] and [`gateway`] (the station behind
//! gateways), [`run`] (the phases).

pub mod bay;
pub mod book;
pub mod config;
mod cut;
pub mod data;
pub mod evidence;
pub mod gateway;
pub mod hardware;
pub mod load;
pub mod physics;
pub mod run;
pub mod schedule;
pub mod status;
#[cfg(test)]
mod testing;
pub mod world;
pub mod yard;
