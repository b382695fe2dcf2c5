//! What an acknowledged commit withstands, found out from the database itself.

use crate::options::is_keyspace;
use crate::store::fault;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::unprepared::Statement;
use std::collections::BTreeMap;
use std::fmt;

/// When a replica has a commit on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sync {
    /// Before it answers, by this `commitlog_sync` of every node.
    Before(String),
    /// ScyllaDB syncs conditional writes before it answers, whatever its `commitlog_sync`.
    Always,
    /// Later: by this `commitlog_sync` of at least one node.
    After(String),
    /// The database does not say.
    Unknown,
}

/// What a commit withstands. Its text is for people, at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// `Cassandra 5.0.8`, `ScyllaDB`.
    pub server: String,
    /// The keyspace's replication as the database has it.
    pub replication: String,
    /// Copies by the replication, the least of any data centre's; 0 when it cannot be told.
    pub copies: u32,
    /// When a replica has a commit on its disk.
    pub sync: Sync,
}

impl Durability {
    /// True when every replica that counts for an answer has synced before.
    pub fn is_synced(&self) -> bool {
        matches!(self.sync, Sync::Before(_) | Sync::Always)
    }

    pub(crate) async fn of(session: &Session, keyspace: &str) -> Result<Self, ExecutionError> {
        let scylla = is_scylla(session).await?;
        let server = if scylla { "ScyllaDB".to_owned() } else { format!("Cassandra {}", version(session).await?) };
        let sync = if scylla { Sync::Always } else { cassandra_sync(session).await };
        let replication = replication_of(session, keyspace).await?;
        let class = replication.get("class").map_or("", |class| class.rsplit('.').next().unwrap_or(class));
        let counts = replication.iter().filter(|(name, _)| *name != "class");
        let copies = counts.clone().filter_map(|(_, count)| count.parse().ok()).min().unwrap_or(0);
        let counts: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
        Ok(Self { server, replication: format!("{class}, {}", counts.join(", ")), copies, sync })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, replication, copies, sync } = self;
        write!(f, "{server}, {replication}: a commit is acknowledged when a quorum of its replicas has agreed to it")?;
        match sync {
            Sync::Before(how) => write!(f, " and synced it (commitlog_sync {how})")?,
            Sync::Always => write!(f, " and synced it (conditional writes always are)")?,
            Sync::After(how) => write!(
                f,
                ", before it is synced (commitlog_sync {how}): replicas that lose power together lose acknowledged commits"
            )?,
            Sync::Unknown => {
                write!(f, "; whether it is synced by then cannot be told: set commitlog_sync to batch or group")?
            }
        }
        if *copies == 1 {
            write!(f, "; there is one copy: a lost disk loses the books")?;
        }
        Ok(())
    }
}

/// Only ScyllaDB has this table.
async fn is_scylla(session: &Session) -> Result<bool, ExecutionError> {
    let cql =
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system' AND table_name = 'scylla_local'";
    Ok(first::<(String,)>(session, Statement::new(cql)).await?.is_some())
}

async fn version(session: &Session) -> Result<String, ExecutionError> {
    let row = first::<(Option<String>,)>(session, Statement::new("SELECT release_version FROM system.local")).await?;
    Ok(row.and_then(|(version,)| version).unwrap_or_else(|| "of an unknown version".to_owned()))
}

/// The weakest setting of all nodes that can be asked. Each node knows its own only.
async fn cassandra_sync(session: &Session) -> Sync {
    let (mut weakest, mut unknown) = (None, false);
    let state = session.get_cluster_state();
    for node in state.get_nodes_info() {
        let mut statement = Statement::new("SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'");
        let target = NodeIdentifier::Node(std::sync::Arc::clone(node));
        statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(target, None)));
        statement.set_consistency(scylla::statement::Consistency::One);
        match first::<(Option<String>,)>(session, statement).await {
            Ok(Some((Some(how),))) if matches!(how.as_str(), "batch" | "group") => {
                weakest.get_or_insert(Sync::Before(how));
            }
            Ok(Some((Some(how),))) => return Sync::After(how),
            Ok(_) => unknown = true,
            // Too old to have settings to ask for.
            Err(error) if fault(&error).is_fatal() => unknown = true,
            // A cluster must be usable while one of its nodes is down.
            Err(error) => {
                tracing::warn!(node = %node.address, %error, "this node could not be asked how it syncs its commit log");
            }
        }
    }
    if unknown { Sync::Unknown } else { weakest.unwrap_or(Sync::Unknown) }
}

async fn replication_of(session: &Session, keyspace: &str) -> Result<BTreeMap<String, String>, ExecutionError> {
    debug_assert!(is_keyspace(keyspace), "it was checked before it was made");
    let cql = format!("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{keyspace}'");
    let row = first::<(Option<BTreeMap<String, String>>,)>(session, Statement::new(cql)).await?;
    Ok(row.and_then(|(map,)| map).unwrap_or_default())
}

/// The first row of a statement without parameters; none when there is none or it is not as expected.
async fn first<R>(session: &Session, statement: Statement) -> Result<Option<R>, ExecutionError>
where
    R: for<'a> scylla::deserialize::row::DeserializeRow<'a, 'a>,
{
    let result = session.query_unpaged(statement, ()).await?;
    Ok(result.into_rows_result().ok().and_then(|rows| rows.maybe_first_row::<R>().ok().flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_not_withstood() {
        let text = |sync, copies| {
            let durability =
                Durability { server: "Cassandra 5".into(), replication: "SimpleStrategy".into(), copies, sync };
            (durability.is_synced(), durability.to_string())
        };
        let (synced, said) = text(Sync::Before("group".into()), 3);
        assert!(synced && said.contains("commitlog_sync group") && !said.contains("one copy"), "{said}");
        let (synced, said) = text(Sync::After("periodic".into()), 1);
        assert!(!synced && said.contains("lose acknowledged commits") && said.contains("one copy"), "{said}");
        assert!(!text(Sync::Unknown, 3).0);
    }
}
