//! The routes under `/api/v1`, a file for each kind of thing.

pub(crate) mod accounts;
pub(crate) mod accounts_audit;
pub(crate) mod accounts_operated;
pub(crate) mod catalogue;
pub(crate) mod chargers;
pub(crate) mod commands;
pub(crate) mod operations;
pub(crate) mod operators;
pub(crate) mod records;
pub(crate) mod sessions;
pub(crate) mod stations;
pub(crate) mod telemetry;
pub(crate) mod transfers;

use crate::{ApiState, catalogue_text};
use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Largest body of any route but the catalogue's.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Everything under `/api/v1`.
pub(crate) fn all() -> OpenApiRouter<ApiState> {
    let catalogue = OpenApiRouter::new()
        .routes(routes!(catalogue::get, catalogue::apply))
        .layer(DefaultBodyLimit::max(catalogue_text::MAX_CATALOGUE_BYTES));
    OpenApiRouter::new()
        .routes(routes!(stations::list))
        .routes(routes!(stations::get))
        .routes(routes!(stations::limits))
        .routes(routes!(stations::set_limit, stations::lift_limit))
        .routes(routes!(stations::set_signal, stations::lift_signal))
        .routes(routes!(chargers::list))
        .routes(routes!(chargers::get))
        .routes(routes!(chargers::power))
        .routes(routes!(telemetry::raw))
        .routes(routes!(telemetry::latest))
        .routes(routes!(telemetry::hourly))
        .routes(routes!(telemetry::export))
        .routes(routes!(telemetry::station_latest))
        .routes(routes!(telemetry::station_hourly))
        .routes(routes!(telemetry::station_export))
        .routes(routes!(commands::list_of_charger, commands::request))
        .routes(routes!(commands::list))
        .routes(routes!(commands::get))
        .routes(routes!(accounts::list, accounts::open))
        .routes(routes!(accounts::get))
        .routes(routes!(accounts::top_up))
        .routes(routes!(accounts::statement))
        .routes(routes!(transfers::send))
        .routes(routes!(transfers::get))
        .routes(routes!(accounts_audit::audit))
        .routes(routes!(accounts_operated::refund))
        .routes(routes!(accounts_operated::adjust))
        .routes(routes!(accounts_operated::freeze))
        .routes(routes!(accounts_operated::unfreeze))
        .routes(routes!(accounts_operated::release))
        .routes(routes!(accounts_operated::close))
        .routes(routes!(sessions::list, sessions::start))
        .routes(routes!(sessions::get))
        .routes(routes!(sessions::stop))
        .routes(routes!(records::list))
        .routes(routes!(records::export))
        .routes(routes!(records::rebuild, records::rebuild_status))
        .routes(routes!(operators::balance))
        .routes(routes!(operators::pay_out))
        .routes(routes!(operators::statement))
        .routes(routes!(operations::balances))
        .routes(routes!(operations::dead_letters))
        .routes(routes!(operations::retry_dead_letter))
        .routes(routes!(operations::drop_dead_letter))
        .routes(routes!(operations::shards))
        .routes(routes!(operations::node))
        .routes(routes!(operations::gateways))
        .routes(routes!(operations::enroll, operations::revoke))
        .routes(routes!(operations::rotate))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .merge(catalogue)
}
