//! Telemetry of a charger: readings of a range, and hours.

use crate::ApiState;
use crate::dto::{ColumnDto, HourDto, Page, SampleDto, SamplesDto};
use crate::extract::{IdPath, QueryOf, moment, rfc3339};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use chargeplane_actors::handle::CallError;
use chargeplane_domain::chunk::Column;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::rollup::{HOUR_MS, Rollup};
use chargeplane_domain::units::Timestamp;
use serde::Deserialize;

/// Readings of an answer unless `?limit=` says otherwise.
const DEFAULT_SAMPLES: usize = 10_000;

/// Most readings of one answer: about 20 MB of JSON.
const MAX_SAMPLES: usize = 100_000;

/// Longest range of hours: a month.
const MAX_HOURS: i64 = 31 * 24;

/// A range of readings.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RangeQuery {
    /// From this moment (RFC 3339, or milliseconds since 1970) ...
    pub from: String,
    /// ... to before this one.
    pub to: String,
    /// Most readings that may come, 1 to 100,000; 10,000 when left out.
    pub limit: Option<usize>,
}

/// A range of hours.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HoursQuery {
    /// From this moment (RFC 3339, or milliseconds since 1970) ...
    pub from: String,
    /// ... to before this one.
    pub to: String,
}

fn range(from: &str, to: &str) -> Result<(Timestamp, Timestamp), Problem> {
    let (from, to) = (moment("from", from)?, moment("to", to)?);
    if from >= to {
        return Err(Problem::new("bad_query", "`from` must be before `to`"));
    }
    Ok((from, to))
}

/// Readings of a charger, by number.
///
/// When the range holds more than `limit`, nothing is returned but the size: narrow the range.
#[utoipa::path(get, path = "/chargers/{charger}/telemetry", tag = "telemetry",
    params(("charger" = String, Path, description = "percent-encoded id"), RangeQuery),
    responses((status = 200, body = SamplesDto)))]
pub(crate) async fn raw(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
    QueryOf(query): QueryOf<RangeQuery>,
) -> Result<Json<SamplesDto>, Problem> {
    let (from, to) = range(&query.from, &query.to)?;
    let limit = match query.limit.unwrap_or(DEFAULT_SAMPLES) {
        limit @ 1..=MAX_SAMPLES => limit,
        limit => return Err(Problem::new("bad_query", format!("limit {limit}: write 1 to {MAX_SAMPLES}"))),
    };
    let samples = state.handle.telemetry_raw(&charger, from, to, limit).await.map_err(|error| match error {
        // The range was read well enough to know that it is too large; the text has its size.
        CallError::Invalid(size) => Problem::new("range_too_large", size),
        other => other.into(),
    })?;
    Ok(Json(SamplesDto { samples: samples.into_iter().map(SampleDto::from).collect() }))
}

/// Hours of a charger's telemetry, those without readings left out.
#[utoipa::path(get, path = "/chargers/{charger}/telemetry/hourly", tag = "telemetry",
    params(("charger" = String, Path, description = "percent-encoded id"), HoursQuery),
    responses((status = 200, body = Page<HourDto>)))]
pub(crate) async fn hourly(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
    QueryOf(query): QueryOf<HoursQuery>,
) -> Result<Json<Page<HourDto>>, Problem> {
    let (from, to) = range(&query.from, &query.to)?;
    let hours = to.since(from).div_euclid(HOUR_MS);
    if hours > MAX_HOURS {
        return Err(Problem::new(
            "range_too_large",
            format!("{hours} hours are more than {MAX_HOURS}: narrow the range"),
        ));
    }
    let rollups = state.handle.telemetry_hourly(&charger, from, to).await?;
    Ok(Json(Page::whole(rollups.iter().map(hour).collect())))
}

fn hour(rollup: &Rollup) -> HourDto {
    let column = |column: Column| {
        let stats = rollup.column(column);
        let mean = stats.sum.checked_div(i128::from(stats.count))?;
        Some(ColumnDto { min: stats.min, max: stats.max, mean: i64::try_from(mean).ok()? })
    };
    HourDto {
        hour: rfc3339(rollup.hour.start()),
        samples: rollup.count(),
        energy_wh: rollup.energy().map(|wh| wh.0),
        voltage_dv: column(Column::Voltage),
        current_da: column(Column::Current),
        temperature_dc: column(Column::Temperature),
        soc_permille: column(Column::Soc),
        power_w: column(Column::Power),
    }
}
