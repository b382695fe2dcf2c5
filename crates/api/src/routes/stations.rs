//! Stations and their limits.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{LimitRequest, LimitsDto, Page, SignalRequest, StationDto};
use crate::extract::{IdPath, JsonBody, PageQuery, QueryOf, id, moment, now, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chargeplane_domain::ids::StationId;
use chargeplane_domain::station::LimitOrder;
use chargeplane_domain::units::{Timestamp, Watts};

/// Stations, by id, without their trees.
#[utoipa::path(get, path = "/stations", tag = "stations", params(PageQuery),
    responses((status = 200, body = Page<StationDto>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<StationDto>>, Problem> {
    let limit = query.limit()?;
    let views = state.handle.stations(page_of(query.after.as_deref(), limit, &scope)?).await?;
    let items = views.into_iter().map(StationDto::from).collect();
    Ok(Json(Page::part(items, limit, |s: &StationDto| s.id.clone())))
}

/// A station with every node of its tree.
#[utoipa::path(get, path = "/stations/{station}", tag = "stations",
    params(("station" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = StationDto)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    IdPath(station): IdPath<StationId>,
) -> Result<Json<StationDto>, Problem> {
    Ok(Json(state.handle.station(&station).await?.into()))
}

/// Sets the limit of one node of a station's tree, at most the catalogue's. Durable: it holds until it is lifted.
///
/// Without `at` and `within_s` a lower limit is in effect after at most one lease of grants (30 s); until then loads
/// only fall. With one of them it is in effect at that moment, when that is at least a lease ahead.
#[utoipa::path(put, path = "/stations/{station}/limits/{node}", tag = "stations",
    params(("station" = String, Path, description = "percent-encoded id"),
           ("node" = String, Path, description = "node of the station's tree")),
    request_body = LimitRequest, responses((status = 204, description = "set")))]
pub(crate) async fn set_limit(
    State(state): State<ApiState>,
    scope: Scope,
    Path((station, node)): Path<(String, String)>,
    JsonBody(request): JsonBody<LimitRequest>,
) -> Result<StatusCode, Problem> {
    let station: StationId = id(&station, &scope)?;
    let from = match (&request.at, request.within_s) {
        (Some(_), Some(_)) => return Err(Problem::new("invalid", "at and within_s: write one of them".to_owned())),
        (Some(at), None) => Some(body_moment("at", at)?),
        (None, Some(within)) => Some(now().plus_ms(i64::from(within).saturating_mul(1_000))),
        (None, None) => None,
    };
    let order = LimitOrder::Set { node, limit: watts(request.limit_w)?, from };
    state.handle.change_limit(&station, order, scope.name()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A station's limits: what is kept now and why, what will change, and who did what.
#[utoipa::path(get, path = "/stations/{station}/limits", tag = "stations",
    params(("station" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = LimitsDto)))]
pub(crate) async fn limits(
    State(state): State<ApiState>,
    IdPath(station): IdPath<StationId>,
) -> Result<Json<LimitsDto>, Problem> {
    Ok(Json(state.handle.limits(&station).await?.into()))
}

/// Sets a limit for a time, as a grid operator or an aggregator signals it (demand response). It ends by itself.
///
/// Durable. The name is the sender's own: the same signal again changes nothing, with other content it replaces the
/// former one. A signal that begins at least a lease of grants (30 s) ahead finds no grant above it in force.
#[utoipa::path(put, path = "/stations/{station}/signals/{signal}", tag = "stations",
    params(("station" = String, Path, description = "percent-encoded id"),
           ("signal" = String, Path, description = "the sender's name for it")),
    request_body = SignalRequest, responses((status = 204, description = "taken")))]
pub(crate) async fn set_signal(
    State(state): State<ApiState>,
    scope: Scope,
    Path((station, signal)): Path<(String, String)>,
    JsonBody(request): JsonBody<SignalRequest>,
) -> Result<StatusCode, Problem> {
    let station: StationId = id(&station, &scope)?;
    let node = match request.node {
        Some(node) => node,
        None => state.handle.grid_of(&station)?,
    };
    let from = request.from.as_deref().map(|from| body_moment("from", from)).transpose()?;
    let (limit, until) = (watts(request.limit_w)?, body_moment("until", &request.until)?);
    let order = LimitOrder::Signal { signal, node, limit, from, until };
    state.handle.change_limit(&station, order, scope.name()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a signal now.
#[utoipa::path(delete, path = "/stations/{station}/signals/{signal}", tag = "stations",
    params(("station" = String, Path, description = "percent-encoded id"),
           ("signal" = String, Path, description = "the sender's name for it")),
    responses((status = 204, description = "ended")))]
pub(crate) async fn lift_signal(
    State(state): State<ApiState>,
    scope: Scope,
    Path((station, signal)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let station: StationId = id(&station, &scope)?;
    state.handle.change_limit(&station, LimitOrder::LiftSignal { signal }, scope.name()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn watts(limit_w: i64) -> Result<Watts, Problem> {
    if limit_w < 0 {
        return Err(Problem::new("invalid", format!("limit_w {limit_w}: write 0 or more (watts)")));
    }
    Ok(Watts(limit_w))
}

/// A moment of a body: what is wrong with it is the body's fault.
fn body_moment(field: &str, text: &str) -> Result<Timestamp, Problem> {
    moment(field, text).map_err(|problem| Problem::new("invalid", problem.detail))
}

/// Lifts what was set for one node of a station's tree: the catalogue's limit is in effect again.
#[utoipa::path(delete, path = "/stations/{station}/limits/{node}", tag = "stations",
    params(("station" = String, Path, description = "percent-encoded id"),
           ("node" = String, Path, description = "node of the station's tree")),
    responses((status = 204, description = "lifted, or nothing was set")))]
pub(crate) async fn lift_limit(
    State(state): State<ApiState>,
    scope: Scope,
    Path((station, node)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let station: StationId = id(&station, &scope)?;
    state.handle.set_limit(&station, &node, None, scope.name()).await?;
    Ok(StatusCode::NO_CONTENT)
}
