//! HTTP: the REST interface under `/api/v1`, its OpenAPI document, health, metrics.
//!
//! Owns no state of the node: every request goes through a [`NodeHandle`] and its answer comes back as a
//! plain document ([`dto`]) or as a problem document ([`problem`]). Work in hand is bounded (LOAD-1): bodies,
//! pages, requests in flight, connections. How it is used is written in `docs/reference/http.md`. Beside HTTP there is
//! the [TCP front of the account books](ledger), for programs.

pub mod auth;
pub mod catalogue_text;
pub mod dto;
mod export;
pub mod extract;
pub mod ledger;
pub mod limits;
pub mod metrics;
mod openapi;
pub mod pages;
pub mod problem;
pub mod routes;
mod serve;

pub use export::CdrTerms;
pub use metrics::install_metrics;
pub use openapi::document as openapi_document;
pub use serve::{IDLE_TIMEOUT, serve};

use auth::Tokens;
use axum::Router;
use axum::middleware::from_fn;
use axum::middleware::from_fn_with_state;
use chargeplane_actors::handle::NodeHandle;
use export::Exports;
use limits::InFlight;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

/// Where the routes of the interface are.
pub const BASE: &str = "/api/v1";

/// Renders the metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the caller decides.
#[derive(Clone)]
pub struct ApiOptions {
    /// Who may ask.
    pub tokens: Tokens,
    /// Renders `/metrics`.
    pub metrics: RenderMetrics,
    /// True: `/metrics`, `/openapi.json`, `/docs` and `/errors` need no token. Right on a loopback address.
    pub open_pages: bool,
    /// Most requests in hand at once; further ones are answered `overloaded`.
    pub max_in_flight: usize,
    /// What OCPI CDRs say beyond their record.
    pub cdr_terms: CdrTerms,
}

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub handle: NodeHandle,
    pub metrics: RenderMetrics,
    pub exports: Exports,
}

/// The whole interface of a node.
pub fn router(handle: NodeHandle, options: ApiOptions) -> Router {
    let exports = Exports::new(options.cdr_terms.clone());
    let state = ApiState { handle, metrics: options.metrics.clone(), exports };
    let (open, pages, api) = parts(&options);
    let (open, pages, api) = (open.with_state(state.clone()), pages.with_state(state.clone()), api.with_state(state));
    Router::new().merge(open).merge(pages).merge(api).layer(from_fn(limits::observe))
}

/// Health for everybody; pages for everybody or for those with a token; the interface for those with a token.
fn parts(options: &ApiOptions) -> (Router<ApiState>, Router<ApiState>, Router<ApiState>) {
    let token = from_fn_with_state(options.tokens.clone(), auth::require_token);
    let (health, pages, api) = described();
    let (health, _) = health.split_for_parts();
    let (pages, _) = pages.split_for_parts();
    let (api, _) = api.split_for_parts();
    let pages = pages.merge(SwaggerUi::new("/docs").url("/openapi.json", openapi::document()));
    let pages = if options.open_pages { pages } else { pages.route_layer(token.clone()) };
    let room = InFlight::new(options.max_in_flight);
    let api = api.route_layer(from_fn_with_state(room, limits::bound)).route_layer(token);
    (health, pages, api)
}

/// Every route together with its description: health, pages, interface.
pub(crate) fn described() -> (OpenApiRouter<ApiState>, OpenApiRouter<ApiState>, OpenApiRouter<ApiState>) {
    let health = OpenApiRouter::new().routes(routes!(pages::livez)).routes(routes!(pages::readyz));
    let pages = OpenApiRouter::new().routes(routes!(pages::metrics)).routes(routes!(pages::error_page));
    let api = OpenApiRouter::new().nest(BASE, routes::all());
    (health, pages, api)
}

#[cfg(test)]
mod tests;
