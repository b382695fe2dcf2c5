//! Audits of an account's entries.

use super::accounts::statement_cursor;
use crate::ApiState;
use crate::dto::{AuditDto, AuditPageDto};
use crate::extract::{IdPath, QueryOf};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use chargeplane_actors::handle::{Audited, EntryId};
use chargeplane_domain::ids::AccountId;
use serde::Deserialize;

/// Entries of a page unless `?limit=` says otherwise.
const DEFAULT_AUDITED: usize = 100;

/// Most entries of a page: for each the journal is read, and for a session's its record and samples.
const MAX_AUDITED: usize = 1_000;

/// Which entries.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only this entry, as the statement names it: `account-0003/12/0`.
    pub entry: Option<String>,
    /// Continue after this `next` of the page before.
    pub after: Option<String>,
    /// Most items of the answer, 1 to 1,000; 100 when left out.
    pub limit: Option<usize>,
}

/// What caused an account's entries: the request, or the session with its reading, charge record and samples.
#[utoipa::path(get, path = "/accounts/{account}/audit", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"), AuditQuery),
    responses((status = 200, body = AuditPageDto)))]
pub(crate) async fn audit(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    QueryOf(query): QueryOf<AuditQuery>,
) -> Result<Json<AuditPageDto>, Problem> {
    if let Some(entry) = &query.entry {
        let entry: EntryId = entry.parse().map_err(|e| Problem::new("bad_query", format!("{e}")))?;
        let audited = state.handle.audit_entry(&account, entry).await?;
        return Ok(Json(AuditPageDto { items: vec![audited.into()], next: None, complete: true }));
    }
    let limit = match query.limit.unwrap_or(DEFAULT_AUDITED) {
        limit @ 1..=MAX_AUDITED => limit,
        limit => return Err(Problem::new("bad_query", format!("limit {limit}: write 1 to {MAX_AUDITED}"))),
    };
    let after = query.after.as_deref().map_or(Ok((0, 0)), statement_cursor)?;
    let Audited { entries: audited, complete } = state.handle.audit_statement(&account, after, limit).await?;
    let last = audited.last().filter(|_| audited.len() == limit);
    let next = last.map(|last| format!("{}.{}", last.entry.lsn, last.entry.index));
    Ok(Json(AuditPageDto { items: audited.into_iter().map(AuditDto::from).collect(), next, complete }))
}
