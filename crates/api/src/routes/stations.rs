//! Stations and their limits.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{LimitRequest, Page, StationDto};
use crate::extract::{IdPath, JsonBody, PageQuery, QueryOf, id, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chargeplane_domain::ids::StationId;
use chargeplane_domain::units::Watts;

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
/// A lower limit is in effect after at most one lease of grants (30 s); until then loads only fall.
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
    if request.limit_w < 0 {
        return Err(Problem::new("invalid", format!("limit_w {}: write 0 or more (watts)", request.limit_w)));
    }
    state.handle.set_limit(&station, &node, Some(Watts(request.limit_w)), scope.name()).await?;
    Ok(StatusCode::NO_CONTENT)
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
