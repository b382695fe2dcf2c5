//! Readings, and hours of them.

use crate::extract::rfc3339;
use chargeplane_domain::chunk::Column;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::rollup::Rollup;
use chargeplane_domain::sample::{Reading, Sample};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SampleDto {
    /// The enrolment of its gateway that numbered it.
    pub incarnation: u32,
    /// The gateway's number for it.
    pub number: u64,
    /// The gateway's clock.
    pub at: String,
    /// 0.1 V.
    pub voltage_dv: i32,
    /// 0.1 A.
    pub current_da: i32,
    /// 0.1 degree Celsius.
    pub temperature_dc: i32,
    /// 0.1 %.
    pub soc_permille: i32,
    /// W.
    pub power_w: i64,
    /// Wh.
    pub register_wh: i64,
}

impl From<Reading> for SampleDto {
    fn from(Reading { incarnation, number, sample }: Reading) -> Self {
        let Sample { at, voltage_dv, current_da, temperature_dc, soc_permille, power, register } = sample;
        Self {
            incarnation,
            number,
            at: rfc3339(at),
            voltage_dv,
            current_da,
            temperature_dc,
            soc_permille,
            power_w: power.0,
            register_wh: register.0,
        }
    }
}

/// Readings of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SamplesDto {
    /// The readings, by number; thinned ones by time.
    pub samples: Vec<SampleDto>,
    /// How many there are in the range, when they were thinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinned_from: Option<u64>,
}

/// A reading with its charger: a line of an export, or the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadingDto {
    /// The charger.
    pub charger: String,
    /// The reading.
    #[serde(flatten)]
    pub sample: SampleDto,
}

impl ReadingDto {
    pub(crate) fn of(charger: &ChargerId, reading: Reading) -> Self {
        Self { charger: charger.to_string(), sample: reading.into() }
    }
}

/// Least, greatest, sum and mean of one column in an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ColumnDto {
    /// The least value.
    pub min: i64,
    /// The greatest value.
    pub max: i64,
    /// The mean, rounded down.
    pub mean: i64,
    /// The sum of all values, exact.
    pub sum: i64,
}

/// One hour of a charger's telemetry. Columns are null when there is no sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HourDto {
    /// The charger.
    pub charger: String,
    /// Start of the hour.
    pub hour: String,
    /// How many samples.
    pub samples: u64,
    /// In how many of its sixty minutes the charger was heard: its availability.
    pub heard_minutes: u32,
    /// What the register rose in it.
    pub energy_wh: Option<i64>,
    /// 0.1 V.
    pub voltage_dv: Option<ColumnDto>,
    /// 0.1 A.
    pub current_da: Option<ColumnDto>,
    /// 0.1 degree Celsius.
    pub temperature_dc: Option<ColumnDto>,
    /// 0.1 %.
    pub soc_permille: Option<ColumnDto>,
    /// W.
    pub power_w: Option<ColumnDto>,
}

impl HourDto {
    pub(crate) fn of(charger: &ChargerId, rollup: &Rollup) -> Self {
        let column = |column: Column| {
            let stats = rollup.column(column);
            let mean = stats.sum.checked_div_euclid(i128::from(stats.count))?;
            let (mean, sum) = (i64::try_from(mean).ok()?, i64::try_from(stats.sum).ok()?);
            Some(ColumnDto { min: stats.min, max: stats.max, mean, sum })
        };
        Self {
            charger: charger.to_string(),
            hour: rfc3339(rollup.hour.start()),
            samples: rollup.count(),
            heard_minutes: rollup.heard_minutes(),
            energy_wh: rollup.energy().map(|wh| wh.0),
            voltage_dv: column(Column::Voltage),
            current_da: column(Column::Current),
            temperature_dc: column(Column::Temperature),
            soc_permille: column(Column::Soc),
            power_w: column(Column::Power),
        }
    }
}
