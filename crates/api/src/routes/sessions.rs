//! Charging sessions.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{Page, SessionDto, SessionIdDto, StartSessionRequest};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, PageQuery, QueryOf, id, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chargeplane_actors::views::StartRequest;
use chargeplane_domain::ids::{ConnectorNo, SessionId};

/// Open sessions, by id.
#[utoipa::path(get, path = "/sessions", tag = "sessions", params(PageQuery),
    responses((status = 200, body = Page<SessionDto>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<SessionDto>>, Problem> {
    let limit = query.limit()?;
    let views = state.handle.sessions(page_of(query.after.as_deref(), limit, &scope)?).await?;
    let items = views.into_iter().map(SessionDto::from).collect();
    Ok(Json(Page::part(items, limit, |s: &SessionDto| s.id.clone())))
}

/// A session that is open, or that the account refused within the last day; those that ended are charge records.
#[utoipa::path(get, path = "/sessions/{session}", tag = "sessions",
    params(("session" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = SessionDto)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    IdPath(session): IdPath<SessionId>,
) -> Result<Json<SessionDto>, Problem> {
    Ok(Json(state.handle.known_session(&session).await?.into()))
}

/// Starts a session.
///
/// The answer comes when the account has decided: 201 when it holds the money, or its refusal (404
/// `unknown_account`, 402 `insufficient_funds`, 422 `currency_mismatch` and others). Should the account not answer
/// within half of `node.call_timeout_ms`, the answer is 201 for a session in state `requested`. Whether the car
/// charges is the session's state. A key belongs to the charger.
#[utoipa::path(post, path = "/sessions", tag = "sessions",
    params(("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the charger that the request is about")),
    request_body = StartSessionRequest, responses((status = 201, body = SessionIdDto)))]
pub(crate) async fn start(
    State(state): State<ApiState>,
    scope: Scope,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<StartSessionRequest>,
) -> Result<(StatusCode, Json<SessionIdDto>), Problem> {
    let start = StartRequest {
        charger: id(&request.charger, &scope)?,
        connector: ConnectorNo(request.connector),
        account: id(&request.account, &scope)?,
        key,
    };
    let session = state.handle.start_session(start).await?;
    Ok((StatusCode::CREATED, Json(SessionIdDto { session: session.to_string() })))
}

/// Stops a session. Accepted is durable; the session's state tells when the charger has stopped.
#[utoipa::path(post, path = "/sessions/{session}/stop", tag = "sessions",
    params(("session" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the charger that the request is about")),
    responses((status = 202, body = SessionIdDto)))]
pub(crate) async fn stop(
    State(state): State<ApiState>,
    IdPath(session): IdPath<SessionId>,
    IdempotencyKey(key): IdempotencyKey,
) -> Result<(StatusCode, Json<SessionIdDto>), Problem> {
    state.handle.stop_session(&session, key).await?;
    Ok((StatusCode::ACCEPTED, Json(SessionIdDto { session: session.to_string() })))
}
