//! One reading of one charger, as fixed-point integers.

use crate::units::{Timestamp, WattHours, Watts};
use serde::{Deserialize, Serialize};

/// One reading: voltage, current, temperature, state of charge, power and the energy register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The gateway's clock.
    pub at: Timestamp,
    /// Voltage at the connector, in 0.1 V.
    pub voltage_dv: i32,
    /// Current to the car, in 0.1 A.
    pub current_da: i32,
    /// Battery temperature, in 0.1 degree Celsius.
    pub temperature_dc: i32,
    /// State of charge, in 0.1 %.
    pub soc_permille: i32,
    /// Power to the car.
    pub power: Watts,
    /// The charger's energy register: never goes back.
    pub register: WattHours,
}

/// A sample with its number: per charger, given by the gateway, across streams and boots of one enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedSample {
    /// The number, from 0, without holes other than declared gaps.
    pub number: u64,
    /// The reading.
    pub sample: Sample,
}

/// Why samples with given numbers will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// Thinned with age in the gateway's ring.
    Thinned,
    /// Dropped by the gateway (ring full).
    Dropped,
    /// The node refused the batch that carried them.
    Refused,
}

/// Numbers `first..=last` of one charger are declared lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// First lost number.
    pub first: u64,
    /// Last lost number.
    pub last: u64,
    /// Why.
    pub reason: GapReason,
}

/// A stored sample as readers get it: with the enrolment of the gateway that numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The enrolment: another one may number its samples from 0 again.
    pub incarnation: u32,
    /// The number.
    pub number: u64,
    /// What was read.
    pub sample: Sample,
}

impl Reading {
    /// Readers get samples by time; those of one moment by enrolment and number.
    pub fn order(&self) -> (Timestamp, u32, u64) {
        (self.sample.at, self.incarnation, self.number)
    }
}
