//! Charge records: lists, exports, and building them from the journal again.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{ChargeRecordDto, Page, RebuildDto};
use crate::export::Format;
use crate::extract::{QueryOf, id, moment, page_limit};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use chargeplane_actors::ports::{RecordQuery, StoredRecord};
use chargeplane_actors::projection::rebuild::Model;
use chargeplane_domain::ids::{SessionId, TenantId};
use chargeplane_domain::units::Timestamp;
use serde::Deserialize;

/// Which charge records are asked for.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordsQuery {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of stations of this city, written as in the catalogue.
    pub city: Option<String>,
    /// Only of this month, such as `2026-01`: that of the session's end on the station's wall clock.
    pub month: Option<String>,
    /// Only of this charger.
    pub charger: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// Only of this session.
    pub session: Option<String>,
    /// Ended at or after this moment: RFC 3339, or milliseconds since 1970.
    pub from: Option<String>,
    /// Ended before this moment.
    pub to: Option<String>,
    /// Continue after this `next` of the page before.
    pub after: Option<String>,
    /// Most items of the answer, 1 to 10,000; 1,000 when left out.
    pub limit: Option<usize>,
}

impl RecordsQuery {
    /// The filters, held against the token's tenant. A token of one tenant asks for that tenant's only.
    fn filters(&self, scope: &Scope) -> Result<RecordQuery, Problem> {
        let tenant = match (self.tenant.as_deref(), scope.tenant()) {
            (Some(wanted), _) => {
                scope.require(wanted)?;
                Some(wanted)
            }
            (None, own) => own,
        };
        let bad = |name: &str, error: &dyn std::fmt::Display| Problem::new("bad_query", format!("{name}: {error}"));
        Ok(RecordQuery {
            tenant: tenant.map(TenantId::new).transpose().map_err(|e| bad("tenant", &e))?,
            city: self.city.clone(),
            month: self.month.as_deref().map(str::parse).transpose().map_err(|e| bad("month", &e))?,
            charger: self.charger.as_deref().map(|text| id(text, scope)).transpose()?,
            account: self.account.as_deref().map(|text| id(text, scope)).transpose()?,
            session: self.session.as_deref().map(|text| id(text, scope)).transpose()?,
            from: self.from.as_deref().map(|text| moment("from", text)).transpose()?,
            to: self.to.as_deref().map(|text| moment("to", text)).transpose()?,
            after: self.after.as_deref().map(record_cursor).transpose()?,
            limit: 0,
        })
    }
}

/// Charge records, newest first.
///
/// A projection of the journal: a record appears shortly after its session is settled.
#[utoipa::path(get, path = "/charge-records", tag = "records", params(RecordsQuery),
    responses((status = 200, body = Page<ChargeRecordDto>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<RecordsQuery>,
) -> Result<Json<Page<ChargeRecordDto>>, Problem> {
    let limit = page_limit(query.limit)?;
    let records = state.handle.charge_records(RecordQuery { limit, ..query.filters(&scope)? }).await?;
    let next = if records.len() < limit { None } else { records.last().map(cursor_of) };
    Ok(Json(Page { items: records.into_iter().map(ChargeRecordDto::from).collect(), next }))
}

/// Which charge records to export, and how.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// `csv`, `json`, `json_lines`, `ocpi` (OCPI 2.2.1 CDRs) or `ocpi_lines`.
    pub format: Format,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of stations of this city, written as in the catalogue.
    pub city: Option<String>,
    /// Only of this month, such as `2026-01`: that of the session's end on the station's wall clock.
    pub month: Option<String>,
    /// Only of this charger.
    pub charger: Option<String>,
    /// Only of this account.
    pub account: Option<String>,
    /// Only of this session.
    pub session: Option<String>,
    /// Ended at or after this moment: RFC 3339, or milliseconds since 1970.
    pub from: Option<String>,
    /// Ended before this moment.
    pub to: Option<String>,
}

/// All charge records that are asked for, newest first, as one file of any length.
///
/// What settles meanwhile may be missing. A body that ends without its end (chunked coding) is not whole.
#[utoipa::path(get, path = "/charge-records/export", tag = "records", params(ExportQuery),
    responses((status = 200, description = "the file", content(
        (String = "text/csv"), (Vec<ChargeRecordDto> = "application/json"), (String = "application/x-ndjson")))))]
pub(crate) async fn export(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<ExportQuery>,
) -> Result<Response, Problem> {
    let ExportQuery { format, tenant, city, month, charger, account, session, from, to } = query;
    let wanted = RecordsQuery { tenant, city, month, charger, account, session, from, to, ..RecordsQuery::default() };
    state.exports.answer(&state.handle, wanted.filters(&scope)?, format).await
}

/// How a read model is rebuilt.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RebuildQuery {
    /// True: only compared with the one that is served, byte by byte, and dropped.
    #[serde(default)]
    pub check: bool,
}

/// Builds a read model (`records` or `statements`) from the journal again while the present one is served, compares
/// the two, and serves the new one. Answers at once; how it goes is asked for with GET.
#[utoipa::path(post, path = "/read-models/{model}/rebuild", tag = "operations",
    params(("model" = String, Path, description = "`records` or `statements`"), RebuildQuery),
    responses((status = 202, body = RebuildDto)))]
pub(crate) async fn rebuild(
    State(state): State<ApiState>,
    scope: Scope,
    Path(model): Path<String>,
    QueryOf(query): QueryOf<RebuildQuery>,
) -> Result<(StatusCode, Json<RebuildDto>), Problem> {
    scope.require_all()?;
    let model = model_of(&model)?;
    if !state.handle.rebuild(model, query.check) {
        return Err(Problem::new("rebuild_running", format!("{} are being rebuilt", model.code())));
    }
    Ok((StatusCode::ACCEPTED, status_of(&state, model)?))
}

/// How the last rebuild of a read model goes, or went.
#[utoipa::path(get, path = "/read-models/{model}/rebuild", tag = "operations",
    params(("model" = String, Path, description = "`records` or `statements`")),
    responses((status = 200, body = RebuildDto)))]
pub(crate) async fn rebuild_status(
    State(state): State<ApiState>,
    scope: Scope,
    Path(model): Path<String>,
) -> Result<Json<RebuildDto>, Problem> {
    scope.require_all()?;
    status_of(&state, model_of(&model)?)
}

fn model_of(name: &str) -> Result<Model, Problem> {
    Model::from_code(name).ok_or_else(|| {
        let name: String = name.chars().take(40).collect();
        Problem::new("not_found", format!("read model {name} does not exist: write records or statements"))
    })
}

fn status_of(state: &ApiState, model: Model) -> Result<Json<RebuildDto>, Problem> {
    let rebuild = state.handle.rebuild_status(model);
    let none = || Problem::new("not_found", format!("{} were not rebuilt since the node started", model.code()));
    rebuild.map(|rebuild| Json(rebuild.into())).ok_or_else(none)
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

    #[test]
    fn a_token_of_one_tenant_asks_for_that_tenant_s_records() {
        let acme = Scope::Tenant(TenantId::new("acme").unwrap());
        let filters = |query: RecordsQuery, scope: &Scope| query.filters(scope).map_err(|problem| problem.code);
        let none = RecordsQuery::default();
        assert_eq!(filters(none.clone(), &acme).unwrap().tenant, Some(TenantId::new("acme").unwrap()));
        assert_eq!(filters(none.clone(), &Scope::AllTenants).unwrap().tenant, None);
        let main = RecordsQuery { tenant: Some("main".into()), ..none.clone() };
        assert_eq!(filters(main.clone(), &acme).unwrap_err(), "other_tenant");
        assert!(filters(main, &Scope::AllTenants).is_ok());
        let month = RecordsQuery { month: Some("2026-13".into()), ..none };
        assert_eq!(filters(month, &acme).unwrap_err(), "bad_query");
    }
}
