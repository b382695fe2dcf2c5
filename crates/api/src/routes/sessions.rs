//! Charging sessions and charge records.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{ChargeRecordDto, Page, SessionDto, SessionIdDto, StartSessionRequest};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, PageQuery, QueryOf, id, page_limit, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chargeplane_actors::ports::{RecordQuery, StoredRecord};
use chargeplane_actors::views::StartRequest;
use chargeplane_domain::ids::{ConnectorNo, SessionId};
use chargeplane_domain::units::Timestamp;
use serde::Deserialize;

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

/// Which charge records to list.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordsQuery {
    /// Only of this charger.
    pub charger: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// Only of this session.
    pub session: Option<String>,
    /// Continue after this `next` of the page before.
    pub after: Option<String>,
    /// Most items of the answer, 1 to 10,000; 1,000 when left out.
    pub limit: Option<usize>,
}

/// Charge records, newest first.
///
/// A projection of the journal: a record appears shortly after its session is settled.
#[utoipa::path(get, path = "/charge-records", tag = "sessions", params(RecordsQuery),
    responses((status = 200, body = Page<ChargeRecordDto>)))]
pub(crate) async fn charge_records(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<RecordsQuery>,
) -> Result<Json<Page<ChargeRecordDto>>, Problem> {
    let limit = page_limit(query.limit)?;
    let wanted = RecordQuery {
        charger: query.charger.as_deref().map(|text| id(text, &scope)).transpose()?,
        account: query.account.as_deref().map(|text| id(text, &scope)).transpose()?,
        session: query.session.as_deref().map(|text| id(text, &scope)).transpose()?,
        after: query.after.as_deref().map(record_cursor).transpose()?,
        limit,
    };
    let records = state.handle.charge_records(wanted).await?;
    let next = if records.len() < limit { None } else { records.last().map(cursor_of) };
    let mine = records.into_iter().filter(|r| scope.covers(r.record.session.tenant()));
    Ok(Json(Page { items: mine.map(ChargeRecordDto::from).collect(), next }))
}

/// `ended_at_ms~session` of the last record of a page.
fn cursor_of(stored: &StoredRecord) -> String {
    format!("{}~{}", stored.record.ended_at.0, stored.record.session)
}

fn record_cursor(text: &str) -> Result<(Timestamp, SessionId), Problem> {
    let parts =
        text.split_once('~').and_then(|(at, session)| Some((Timestamp(at.parse().ok()?), session.parse().ok()?)));
    parts.ok_or_else(|| Problem::new("bad_query", "after: give back the `next` of the page before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_cursors_read_back() {
        let cursor = record_cursor("1767600000250~main/c1.7").unwrap();
        assert_eq!((cursor.0, cursor.1.as_str()), (Timestamp(1_767_600_000_250), "main/c1.7"));
        assert_eq!(record_cursor("main/c1.7").unwrap_err().code, "bad_query");
        assert_eq!(record_cursor("x~main/c1.7").unwrap_err().code, "bad_query");
    }
}
