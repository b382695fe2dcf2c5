//! The charge records, where the configuration names them.

use super::journal::cql_options;
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_actors::ports::{ChargeRecords, Generation, ReadModel};
use chargeplane_cluster::journal::Journal;
use chargeplane_cql::{ConnectError, CqlRecords};
use chargeplane_sqlite::SqliteRecords;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Connects to the charge records of `records.backend`, or takes the data directory's.
pub async fn records(
    config: &Config,
    sqlite: SqliteRecords,
    journal: &dyn Journal,
) -> Result<Arc<dyn ChargeRecords>, Failure> {
    if config.records.backend != "cql" {
        return Ok(Arc::new(sqlite));
    }
    let records = CqlRecords::connect(&cql_options(config)?).await.map_err(|error| match error {
        ConnectError::Settings(_) => Failure::usage(format!("journal.cql_keyspace: {error}")),
        _ => Failure::new(Code::Store, format!("the charge records: {error}")),
    })?;
    refuse_records_of_others(&records, journal, &config.journal.cql_keyspace).await?;
    tracing::info!(keyspace = config.journal.cql_keyspace, "the charge records: in ScyllaDB or Cassandra");
    Ok(Arc::new(records))
}

/// Records that are ahead of the journal were made from another one: what this one settles would be taken for what is
/// in already.
async fn refuse_records_of_others(records: &CqlRecords, journal: &dyn Journal, keyspace: &str) -> Result<(), Failure> {
    let failed = |error: String| Failure::new(Code::Store, format!("the charge records: {error}"));
    let heads = journal.heads().await.map_err(|error| failed(error.to_string()))?;
    let heads: BTreeMap<_, _> = heads.into_iter().map(|head| (head.shard, head.last_lsn)).collect();
    let cursors = records.cursors(Generation::Served).await.map_err(|error| failed(error.to_string()))?;
    match cursors.into_iter().find(|(shard, upto)| heads.get(shard).copied().unwrap_or(0) < *upto) {
        Some((shard, upto)) => Err(Failure::usage(format!(
            "the charge records of keyspace {keyspace} were made from another journal: they are at frame {upto} of \
             {shard}, which it does not have; give another journal.cql_keyspace, or set records.backend to `sqlite`"
        ))),
        None => Ok(()),
    }
}
