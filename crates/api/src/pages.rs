//! What is served beside the API: health, metrics, the OpenAPI document with its page, the pages of errors.

use crate::ApiState;
use crate::dto::ReadinessDto;
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// The pages of `docs/errors`, embedded: family and Markdown.
pub const ERROR_PAGES: &[(&str, &str)] = &[
    ("access", include_str!("../../../docs/errors/access.md")),
    ("account", include_str!("../../../docs/errors/account.md")),
    ("catalogue", include_str!("../../../docs/errors/catalogue.md")),
    ("charger", include_str!("../../../docs/errors/charger.md")),
    ("request", include_str!("../../../docs/errors/request.md")),
    ("service", include_str!("../../../docs/errors/service.md")),
];

/// The process works: restart it when this fails.
#[utoipa::path(get, path = "/livez", tag = "health", security(()),
    responses((status = 200, description = "alive", body = str), (status = 503, description = "to be restarted")))]
pub(crate) async fn livez(State(state): State<ApiState>) -> Response {
    if state.handle.live() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not alive\n").into_response()
    }
}

/// The node serves: send requests only while it is ready.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = ReadinessDto), (status = 503, description = "not ready: why", body = ReadinessDto)))]
pub(crate) async fn readyz(State(state): State<ApiState>) -> Response {
    let readiness = state.handle.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = ReadinessDto { ready: readiness.ready, reasons: readiness.reasons };
    (status, Json(body)).into_response()
}

/// Prometheus metrics.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Prometheus text format", body = str)))]
pub(crate) async fn metrics(State(state): State<ApiState>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)()).into_response()
}

/// The page of one family of error codes: where `type` of a problem document leads.
#[utoipa::path(get, path = "/errors/{family}", tag = "health",
    params(("family" = String, Path, description = "`access`, `account`, `catalogue`, `charger`, `request`, `service`")),
    responses((status = 200, description = "Markdown", body = str)))]
pub(crate) async fn error_page(Path(family): Path<String>) -> Result<Response, Problem> {
    let page = ERROR_PAGES.iter().find(|(name, _)| *name == family);
    let (_, text) = page.ok_or_else(|| Problem::new("unknown_route", "there is no such family of errors"))?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], *text).into_response())
}
