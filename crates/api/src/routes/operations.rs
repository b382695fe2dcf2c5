//! What an operator looks after: balances, dead letters, shards, the node, gateways.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{BalanceDto, DeadLetterDto, EnrolmentDto, GatewayDto, NodeDto, Page, ShardDto};
use crate::extract::{IdPath, PageQuery, QueryOf, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use chargeplane_domain::ids::GatewayId;

/// Every balance, credit side included: over all of them each currency adds up to zero (MONEY-1).
#[utoipa::path(get, path = "/ledger/balances", tag = "operations", params(PageQuery),
    responses((status = 200, body = Page<BalanceDto>)))]
pub(crate) async fn balances(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<BalanceDto>>, Problem> {
    scope.require_all()?;
    let limit = query.limit()?;
    let after = match query.after.as_deref().map(|text| text.split_once('~')) {
        None => None,
        Some(Some((shard, account))) => Some((shard.to_owned(), account.to_owned())),
        Some(None) => return Err(Problem::new("bad_query", "after: give back the `next` of the page before")),
    };
    let views = state.handle.balances(after, limit).await?;
    let next =
        if views.len() < limit { None } else { views.last().map(|view| format!("{}~{}", view.shard, view.account)) };
    Ok(Json(Page { items: views.into_iter().map(BalanceDto::from).collect(), next }))
}

/// What could not be handled, with why.
#[utoipa::path(get, path = "/dead-letters", tag = "operations", responses((status = 200, body = Page<DeadLetterDto>)))]
pub(crate) async fn dead_letters(
    State(state): State<ApiState>,
    scope: Scope,
) -> Result<Json<Page<DeadLetterDto>>, Problem> {
    scope.require_all()?;
    let views = state.handle.dead_letters().await?;
    Ok(Json(Page::whole(views.into_iter().map(DeadLetterDto::from).collect())))
}

/// Hands a dead letter to its entity once more.
#[utoipa::path(post, path = "/dead-letters/{id}/retry", tag = "operations",
    params(("id" = String, Path, description = "percent-encoded id, `station-001f%2F12`")),
    responses((status = 204, description = "handled; after any other answer the letter is still there")))]
pub(crate) async fn retry_dead_letter(
    State(state): State<ApiState>,
    scope: Scope,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    scope.require_all()?;
    state.handle.retry_dead_letter(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Drops a dead letter: it will not be handled.
#[utoipa::path(delete, path = "/dead-letters/{id}", tag = "operations",
    params(("id" = String, Path, description = "percent-encoded id, `station-001f%2F12`")),
    responses((status = 204, description = "dropped")))]
pub(crate) async fn drop_dead_letter(
    State(state): State<ApiState>,
    scope: Scope,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    scope.require_all()?;
    state.handle.drop_dead_letter(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The shards of this node.
#[utoipa::path(get, path = "/shards", tag = "operations", responses((status = 200, body = Page<ShardDto>)))]
pub(crate) async fn shards(State(state): State<ApiState>, scope: Scope) -> Result<Json<Page<ShardDto>>, Problem> {
    scope.require_all()?;
    let mut views = state.handle.shards().await?;
    views.sort_by(|a, b| a.shard.cmp(&b.shard));
    Ok(Json(Page::whole(views.into_iter().map(ShardDto::from).collect())))
}

/// This node.
#[utoipa::path(get, path = "/node", tag = "operations", responses((status = 200, body = NodeDto)))]
pub(crate) async fn node(State(state): State<ApiState>, scope: Scope) -> Result<Json<NodeDto>, Problem> {
    scope.require_all()?;
    Ok(Json(state.handle.node().await.into()))
}

/// Gateways, by id.
#[utoipa::path(get, path = "/gateways", tag = "gateways", params(PageQuery),
    responses((status = 200, body = Page<GatewayDto>)))]
pub(crate) async fn gateways(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<GatewayDto>>, Problem> {
    let limit = query.limit()?;
    let gateways = state.handle.gateways(page_of(query.after.as_deref(), limit, &scope)?).await?;
    let items = gateways.into_iter().map(GatewayDto::from).collect();
    Ok(Json(Page::part(items, limit, |g: &GatewayDto| g.id.clone())))
}

/// Enrols a gateway: a new key and a new broker password, shown this once. Former keys end.
#[utoipa::path(post, path = "/gateways/{gateway}/enrolment", tag = "gateways",
    params(("gateway" = String, Path, description = "percent-encoded id")),
    responses((status = 201, body = EnrolmentDto)))]
pub(crate) async fn enroll(
    State(state): State<ApiState>,
    IdPath(gateway): IdPath<GatewayId>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<EnrolmentDto>), Problem> {
    let enrolment = state.handle.enroll(gateway).await?;
    // A key must not stay in a cache on the way.
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(enrolment.into())))
}

/// Rotates a gateway's key: a new key and a new broker password of the same enrolment, shown this once. The ones before stay
/// good until the gateway was heard under the new key.
#[utoipa::path(post, path = "/gateways/{gateway}/rotation", tag = "gateways",
    params(("gateway" = String, Path, description = "percent-encoded id")),
    responses((status = 201, body = EnrolmentDto)))]
pub(crate) async fn rotate(
    State(state): State<ApiState>,
    IdPath(gateway): IdPath<GatewayId>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<EnrolmentDto>), Problem> {
    let enrolment = state.handle.rotate(gateway).await?;
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(enrolment.into())))
}

/// Revokes a gateway's keys: it is cut off and may no longer connect, and nothing that they sealed is read.
#[utoipa::path(delete, path = "/gateways/{gateway}/enrolment", tag = "gateways",
    params(("gateway" = String, Path, description = "percent-encoded id")),
    responses((status = 204, description = "revoked")))]
pub(crate) async fn revoke(
    State(state): State<ApiState>,
    IdPath(gateway): IdPath<GatewayId>,
) -> Result<StatusCode, Problem> {
    state.handle.revoke(gateway).await?;
    Ok(StatusCode::NO_CONTENT)
}
