//! The telemetry, where the configuration names it.

use super::journal::cql_options;
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_actors::ports::TelemetryStore;
use chargeplane_cql::{ConnectError, CqlOptions, CqlTelemetry};
use chargeplane_sqlite::SqliteTelemetry;
use std::sync::Arc;

/// Connects to the store of `telemetry.backend`, or takes the data directory's.
pub async fn telemetry(config: &Config, sqlite: SqliteTelemetry) -> Result<Arc<dyn TelemetryStore>, Failure> {
    match remote(config).await? {
        Some(telemetry) => Ok(telemetry),
        None => Ok(Arc::new(sqlite)),
    }
}

/// Connects to the store of `telemetry.backend`; none when it is the data directory's.
pub async fn remote(config: &Config) -> Result<Option<Arc<dyn TelemetryStore>>, Failure> {
    if config.telemetry.backend != "cql" {
        return Ok(None);
    }
    let telemetry = CqlTelemetry::connect(&options(config)?).await.map_err(failure)?;
    tracing::info!(keyspace = config.journal.cql_keyspace, "the telemetry: in ScyllaDB or Cassandra");
    Ok(Some(Arc::new(telemetry)))
}

/// How the database of the telemetry is reached.
pub fn options(config: &Config) -> Result<CqlOptions, Failure> {
    cql_options(config)
}

/// What a failure to connect means for the process.
pub fn failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::Settings(_) => Failure::usage(format!("journal.cql_keyspace: {error}")),
        ConnectError::NotMigrated { .. } | ConnectError::Newer { .. } => Failure::usage(format!("telemetry: {error}")),
        _ => Failure::new(Code::Store, format!("the telemetry: {error}")),
    }
}
