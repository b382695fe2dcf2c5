//! Chargers.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{ChargerDto, Page, PowerDto};
use crate::extract::{IdPath, QueryOf, id, page_limit, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use chargeplane_domain::ids::ChargerId;
use serde::Deserialize;

/// Which chargers to list.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChargerQuery {
    /// Only of this station.
    pub station: Option<String>,
    /// Continue after this `next` of the page before.
    pub after: Option<String>,
    /// Most items of the answer, 1 to 10,000; 1,000 when left out.
    pub limit: Option<usize>,
}

/// Chargers, by id.
#[utoipa::path(get, path = "/chargers", tag = "chargers", params(ChargerQuery),
    responses((status = 200, body = Page<ChargerDto>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<ChargerQuery>,
) -> Result<Json<Page<ChargerDto>>, Problem> {
    let limit = page_limit(query.limit)?;
    let station = query.station.as_deref().map(|text| id(text, &scope)).transpose()?;
    let views = state.handle.chargers(station, page_of(query.after.as_deref(), limit, &scope)?).await?;
    let items = views.into_iter().map(ChargerDto::from).collect();
    Ok(Json(Page::part(items, limit, |c: &ChargerDto| c.id.clone())))
}

/// A charger.
#[utoipa::path(get, path = "/chargers/{charger}", tag = "chargers",
    params(("charger" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = ChargerDto)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
) -> Result<Json<ChargerDto>, Problem> {
    Ok(Json(state.handle.charger(&charger).await?.into()))
}

/// Why a charger has the power it has: which limit holds it, its share, and what would give it more.
///
/// Computed for this answer from the station's state: for people and tools that ask, not for polling every charger.
#[utoipa::path(get, path = "/chargers/{charger}/power", tag = "chargers",
    params(("charger" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = PowerDto)))]
pub(crate) async fn power(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
) -> Result<Json<PowerDto>, Problem> {
    Ok(Json(state.handle.explain_power(&charger).await?.into()))
}
