//! Telemetry of a charger or a station: readings of a range, the newest ones, hours, exports.

use crate::ApiState;
use crate::dto::{HourDto, Page, ReadingDto, SampleDto, SamplesDto};
use crate::export::readings::{ReadingFormat, Wanted};
use crate::extract::{IdPath, QueryOf, moment};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use chargeplane_domain::chunk::Column;
use chargeplane_domain::ids::{ChargerId, StationId};
use chargeplane_domain::rollup::HOUR_MS;
use chargeplane_domain::sample::Reading;
use chargeplane_domain::thinning::{MIN_POINTS, Thinner};
use chargeplane_domain::units::Timestamp;
use serde::Deserialize;

/// Readings of an answer unless `?limit=` says otherwise.
const DEFAULT_SAMPLES: usize = 10_000;

/// Most readings of one answer: about 20 MB of JSON.
const MAX_SAMPLES: usize = 100_000;

/// Most points of a thinned answer: more than a screen is wide.
const MAX_POINTS: usize = 20_000;

/// Readings of an export, or read for a thinned answer, unless `?limit=` says otherwise: a day of 11 chargers at ten a
/// second.
const DEFAULT_EXPORT: u64 = 10_000_000;

/// Longest range of hours: a month.
const MAX_HOURS: i64 = 31 * 24;

/// Most hours of one answer, of all chargers of a station together.
const MAX_HOUR_ROWS: usize = 100_000;

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
    /// Thin to about so many points, 4 to 20,000, that keep the least and greatest value of each stretch of time.
    pub points: Option<usize>,
    /// Whose extremes are kept, with commas between: `voltage`, `current`, `temperature`, `soc`, `power`, `register`;
    /// `power` when left out.
    pub columns: Option<String>,
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

/// What to export, and how.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadingsQuery {
    /// From this moment (RFC 3339, or milliseconds since 1970) ...
    pub from: String,
    /// ... to before this one.
    pub to: String,
    /// `csv`, `json_lines` or `arrow` (the IPC stream).
    pub format: ReadingFormat,
    /// Refuse a range with more readings than this; 10,000,000 when left out.
    pub limit: Option<u64>,
    /// Thin each charger to about so many points, 4 to 20,000.
    pub points: Option<usize>,
    /// Whose extremes are kept then: see the readings of a charger.
    pub columns: Option<String>,
}

fn range(from: &str, to: &str) -> Result<(Timestamp, Timestamp), Problem> {
    let (from, to) = (moment("from", from)?, moment("to", to)?);
    if from >= to {
        return Err(Problem::new("bad_query", "`from` must be before `to`"));
    }
    Ok((from, to))
}

fn points_of(points: Option<usize>) -> Result<Option<usize>, Problem> {
    match points {
        None | Some(MIN_POINTS..=MAX_POINTS) => Ok(points),
        Some(points) => Err(Problem::new("bad_query", format!("points {points}: write {MIN_POINTS} to {MAX_POINTS}"))),
    }
}

fn columns_of(text: Option<&str>) -> Result<Vec<Column>, Problem> {
    let column = |name: &str| match name {
        "voltage" => Ok(Column::Voltage),
        "current" => Ok(Column::Current),
        "temperature" => Ok(Column::Temperature),
        "soc" => Ok(Column::Soc),
        "power" => Ok(Column::Power),
        "register" => Ok(Column::Register),
        other => {
            let what =
                format!("columns: `{other:.40}` is none of voltage, current, temperature, soc, power and register");
            Err(Problem::new("bad_query", what))
        }
    };
    text.unwrap_or("power").split(',').map(column).collect()
}

/// Readings of a charger, by number; with `points` thinned, by time.
///
/// When the range holds more than `limit`, nothing is returned but the size: narrow the range, or thin it.
#[utoipa::path(get, path = "/chargers/{charger}/telemetry", tag = "telemetry",
    params(("charger" = String, Path, description = "percent-encoded id"), RangeQuery),
    responses((status = 200, body = SamplesDto)))]
pub(crate) async fn raw(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
    QueryOf(query): QueryOf<RangeQuery>,
) -> Result<Json<SamplesDto>, Problem> {
    let (from, to) = range(&query.from, &query.to)?;
    let columns = columns_of(query.columns.as_deref())?;
    if let Some(points) = points_of(query.points)? {
        return thinned(&state, &charger, (from, to), Thinner::new(from, to, points, &columns)).await;
    }
    let limit = match query.limit.unwrap_or(DEFAULT_SAMPLES) {
        limit @ 1..=MAX_SAMPLES => limit,
        limit => return Err(Problem::new("bad_query", format!("limit {limit}: write 1 to {MAX_SAMPLES}"))),
    };
    let samples = state.handle.telemetry_raw(&charger, from, to, limit).await?;
    Ok(Json(SamplesDto { samples: samples.into_iter().map(SampleDto::from).collect(), thinned_from: None }))
}

async fn thinned(
    state: &ApiState,
    charger: &ChargerId,
    (from, to): (Timestamp, Timestamp),
    mut thinner: Thinner,
) -> Result<Json<SamplesDto>, Problem> {
    let range = state.handle.telemetry_range(charger, from, to).await?;
    refuse_above(DEFAULT_EXPORT, range.most)?;
    for (from, to) in range.parts {
        let part = state.handle.telemetry_part(charger, from, to).await?;
        part.into_iter().for_each(|reading| thinner.push(reading));
    }
    let thinned_from = Some(thinner.seen());
    Ok(Json(SamplesDto { samples: thinner.finish().into_iter().map(SampleDto::from).collect(), thinned_from }))
}

fn refuse_above(limit: u64, most: u64) -> Result<(), Problem> {
    if most <= limit {
        return Ok(());
    }
    let what = format!("up to {most} readings in the range, {limit} may be read; narrow it, or raise `limit`");
    Err(Problem::new("range_too_large", what))
}

/// The newest reading of a charger; none when there is none.
#[utoipa::path(get, path = "/chargers/{charger}/telemetry/latest", tag = "telemetry",
    params(("charger" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = Page<ReadingDto>)))]
pub(crate) async fn latest(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
) -> Result<Json<Page<ReadingDto>>, Problem> {
    let station = state.handle.telemetry_station(&charger)?;
    newest(&state, &station, vec![charger]).await
}

/// The newest reading of each charger of a station that has one, by charger.
#[utoipa::path(get, path = "/stations/{station}/telemetry/latest", tag = "telemetry",
    params(("station" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = Page<ReadingDto>)))]
pub(crate) async fn station_latest(
    State(state): State<ApiState>,
    IdPath(station): IdPath<StationId>,
) -> Result<Json<Page<ReadingDto>>, Problem> {
    let chargers = state.handle.telemetry_chargers(&station)?;
    newest(&state, &station, chargers).await
}

async fn newest(
    state: &ApiState,
    station: &StationId,
    chargers: Vec<ChargerId>,
) -> Result<Json<Page<ReadingDto>>, Problem> {
    let latest = state.handle.telemetry_latest(station, chargers).await?;
    let item = |(charger, reading): (&ChargerId, &Reading)| ReadingDto::of(charger, *reading);
    Ok(Json(Page::whole(latest.iter().map(item).collect())))
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
    hours(&state, vec![charger], &query).await
}

/// Hours of the telemetry of a station's chargers, charger after charger.
#[utoipa::path(get, path = "/stations/{station}/telemetry/hourly", tag = "telemetry",
    params(("station" = String, Path, description = "percent-encoded id"), HoursQuery),
    responses((status = 200, body = Page<HourDto>)))]
pub(crate) async fn station_hourly(
    State(state): State<ApiState>,
    IdPath(station): IdPath<StationId>,
    QueryOf(query): QueryOf<HoursQuery>,
) -> Result<Json<Page<HourDto>>, Problem> {
    let chargers = state.handle.telemetry_chargers(&station)?;
    hours(&state, chargers, &query).await
}

async fn hours(state: &ApiState, chargers: Vec<ChargerId>, query: &HoursQuery) -> Result<Json<Page<HourDto>>, Problem> {
    let (from, to) = range(&query.from, &query.to)?;
    let hours = to.since(from).div_euclid(HOUR_MS);
    if hours > MAX_HOURS {
        let what = format!("{hours} hours are more than {MAX_HOURS}: narrow the range");
        return Err(Problem::new("range_too_large", what));
    }
    let rows = usize::try_from(hours).unwrap_or(usize::MAX).saturating_add(2).saturating_mul(chargers.len());
    if rows > MAX_HOUR_ROWS {
        let what = format!("up to {rows} hours of {} chargers: narrow the range", chargers.len());
        return Err(Problem::new("range_too_large", what));
    }
    let mut items = Vec::new();
    for charger in chargers {
        let rollups = state.handle.telemetry_hourly(&charger, from, to).await?;
        items.extend(rollups.iter().map(|rollup| HourDto::of(&charger, rollup)));
    }
    Ok(Json(Page::whole(items)))
}

/// Readings of a charger as a file, by time.
///
/// When the range holds more than `limit`, nothing is returned but the size.
#[utoipa::path(get, path = "/chargers/{charger}/telemetry/export", tag = "telemetry",
    params(("charger" = String, Path, description = "percent-encoded id"), ReadingsQuery),
    responses((status = 200, description = "the file, in the form that was asked for")))]
pub(crate) async fn export(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
    QueryOf(query): QueryOf<ReadingsQuery>,
) -> Result<Response, Problem> {
    exported(&state, vec![charger], &query).await
}

/// Readings of all chargers of a station as one file, charger after charger.
#[utoipa::path(get, path = "/stations/{station}/telemetry/export", tag = "telemetry",
    params(("station" = String, Path, description = "percent-encoded id"), ReadingsQuery),
    responses((status = 200, description = "the file, in the form that was asked for")))]
pub(crate) async fn station_export(
    State(state): State<ApiState>,
    IdPath(station): IdPath<StationId>,
    QueryOf(query): QueryOf<ReadingsQuery>,
) -> Result<Response, Problem> {
    let chargers = state.handle.telemetry_chargers(&station)?;
    exported(&state, chargers, &query).await
}

async fn exported(state: &ApiState, chargers: Vec<ChargerId>, query: &ReadingsQuery) -> Result<Response, Problem> {
    let (from, to) = range(&query.from, &query.to)?;
    let (points, columns) = (points_of(query.points)?, columns_of(query.columns.as_deref())?);
    let mut ranges = Vec::new();
    for charger in chargers {
        ranges.push(state.handle.telemetry_range(&charger, from, to).await?);
    }
    let most = ranges.iter().map(|range| range.most).fold(0, u64::saturating_add);
    refuse_above(query.limit.unwrap_or(DEFAULT_EXPORT), most)?;
    state.exports.readings(&state.handle, Wanted { ranges, from, to, points, columns }, query.format)
}
