//! The charge records, where the configuration names them.

use super::journal::cql_options;
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_actors::ports::{ChargeRecords, Generation, ReadModel};
use chargeplane_cluster::journal::Journal;
use chargeplane_cql::{ConnectError, CqlRecords};
use chargeplane_sqlite::SqliteRecords;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Connects to the charge records of `records.backend`, or takes the data directory's.
pub async fn records(
    config: &Config,
    sqlite: SqliteRecords,
    journal: &dyn Journal,
) -> Result<Arc<dyn ChargeRecords>, Failure> {
    if config.records.backend != "cql" {
        refuse_ahead(&sqlite, journal, &remedy(Path::new(&config.node.data_dir), "records")).await?;
        return Ok(Arc::new(sqlite));
    }
    let records = CqlRecords::connect(&cql_options(config)?).await.map_err(|error| match error {
        ConnectError::Settings(_) => Failure::usage(format!("journal.cql_keyspace: {error}")),
        _ => Failure::new(Code::Store, format!("the charge records: {error}")),
    })?;
    let remedy = format!(
        "give another journal.cql_keyspace than {}, or set records.backend to `sqlite`",
        config.journal.cql_keyspace
    );
    refuse_ahead(&records, journal, &remedy).await?;
    tracing::info!(keyspace = config.journal.cql_keyspace, "the charge records: in ScyllaDB or Cassandra");
    Ok(Arc::new(records))
}

/// Refuses a read model that is ahead of the journal. Frames are made durable before they are projected, so the
/// journal has lost its end since, or is another one: what comes next would be taken for what is in the model already,
/// and accounts that were answered for would be served as if that had never been.
pub async fn refuse_ahead(model: &dyn ReadModel, journal: &dyn Journal, remedy: &str) -> Result<(), Failure> {
    let failed = |error: String| Failure::new(Code::Store, format!("{remedy}: {error}"));
    let heads = journal.heads().await.map_err(|error| failed(error.to_string()))?;
    let heads: BTreeMap<_, _> = heads.into_iter().map(|head| (head.shard, head.last_lsn)).collect();
    let cursors = model.cursors(Generation::Served).await.map_err(|error| failed(error.to_string()))?;
    let ahead = |(shard, upto): &(_, u64)| heads.get(shard).copied().unwrap_or(0) < *upto;
    let Some((shard, upto)) = cursors.into_iter().find(ahead) else { return Ok(()) };
    let has = heads.get(&shard).copied().unwrap_or(0);
    Err(Failure::usage(format!(
        "the journal ends with frame {has} of {shard}, and frame {upto} was answered for and is in the read models: it \
         has lost its end, or is another journal than before (is the configuration file given, with the right \
         journal.backend?). Nothing was opened. Give the journal that has it, or, to go on with what is left, {remedy}"
    )))
}

/// What makes the data directory's read models anew.
pub fn remedy(data_dir: &Path, model: &str) -> String {
    format!("move {model}-*.sqlite out of {}: they are made again from the journal", data_dir.display())
}
