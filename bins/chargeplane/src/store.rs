//! `chargeplane store migrate`: makes the tables that a node's configuration needs, or brings them up to date.
//!
//! A node makes no tables of telemetry itself: several start at once, and a table that thousands of chunks a second go
//! into is changed when somebody means to.

use crate::assemble;
use crate::cli::{Connection, MigrateArgs};
use crate::exit::Failure;
use crate::output;
use chargeplane_cql::{CqlTelemetry, TELEMETRY_LAYOUT};
use serde_json::json;

/// Runs the command.
pub fn migrate(connection: &Connection, args: &MigrateArgs) -> Result<(), Failure> {
    let config = assemble::loaded(connection, args.config.as_deref())?.config;
    if config.telemetry.backend != "cql" {
        let sentence = "telemetry.backend is `sqlite`: its files are made by the node, and there is nothing to migrate";
        return output::done(connection.output, sentence, &json!({ "telemetry": "sqlite" }));
    }
    let options = assemble::telemetry::options(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("the runtime cannot start: {e}")))?;
    let before = runtime.block_on(CqlTelemetry::migrate(&options)).map_err(assemble::telemetry::failure)?;
    let keyspace = &options.keyspace;
    let sentence = match before {
        Some(TELEMETRY_LAYOUT) => format!("keyspace {keyspace}: telemetry has layout {TELEMETRY_LAYOUT} already"),
        Some(before) => format!("keyspace {keyspace}: telemetry has layout {TELEMETRY_LAYOUT} now, it had {before}"),
        None => format!("keyspace {keyspace}: the tables of telemetry are made, layout {TELEMETRY_LAYOUT}"),
    };
    let document = json!({ "telemetry": "cql", "keyspace": keyspace, "before": before, "layout": TELEMETRY_LAYOUT });
    output::done(connection.output, &sentence, &document)
}
