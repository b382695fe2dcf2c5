//! What a server says about itself, and whether that is enough for books.

use crate::options::{RedisOptions, StartError};
use redis::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The oldest server that hands a script's writes to its log as one unit.
const OLDEST: (u32, u32) = (5, 0);

/// Since this version replicas can confirm that they have synced (`WAITAOF`), not only that they have received.
const CONFIRMS_SYNC: (u32, u32) = (7, 2);

/// What was asked of the server at a connect, in this order.
pub(crate) const SETTINGS: [&str; 2] = ["appendfsync", "no-appendfsync-on-rewrite"];

/// How replicas confirm a commit before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// None is asked.
    None,
    /// They have received it (`WAIT`: the server is older than 7.2).
    Received,
    /// They have it on their disk (`WAITAOF`).
    Synced,
}

/// What an acknowledgement really stands on, said at every start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// `host:port`.
    pub address: String,
    /// The server's version.
    pub version: String,
    /// Whether the server was seen to sync before it answers; otherwise its operator vouches for it.
    pub verified: bool,
    /// Replicas that must confirm.
    pub replicas: u32,
    /// Replicas that were connected.
    pub connected: u32,
    /// What their confirmation means.
    pub confirmation: Confirmation,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, version, verified, replicas, connected, confirmation } = self;
        write!(f, "Redis {version} at {address}: ")?;
        f.write_str(if *verified {
            "what is acknowledged was synced to its append-only file before"
        } else {
            "its operator vouches that it syncs before it answers; this was not checked"
        })?;
        match confirmation {
            Confirmation::None => f.write_str(
                "; no replica confirms, so a fail-over to a replica may lose what was acknowledged (a node that \
                 remembers it closes the shard then)",
            ),
            Confirmation::Received => {
                write!(f, "; {replicas} of {connected} connected replicas must have received it, in memory")
            }
            Confirmation::Synced => write!(f, "; {replicas} of {connected} connected replicas must have synced it"),
        }
    }
}

/// The fields of an `INFO` answer.
pub(crate) struct Info(BTreeMap<String, String>);

impl Info {
    pub(crate) fn parse(text: &str) -> Self {
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Self(text.lines().filter_map(field).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn version(&self) -> (u32, u32) {
        let mut parts = self.get("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

/// The value in an answer to `CONFIG GET` of one name; why there is none, when the server keeps it to itself.
pub(crate) fn setting_of(answer: Value) -> Result<String, String> {
    match redis::from_redis_value::<Vec<String>>(answer) {
        Ok(pair) => pair.into_iter().nth(1).ok_or_else(|| "it answers nothing".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Judges a server by its `INFO` and its answers for [`SETTINGS`].
pub(crate) fn judge(
    options: &RedisOptions,
    info: &Info,
    settings: [Result<String, String>; 2],
) -> Result<Durability, StartError> {
    let address = options.address();
    let too_old = |needed| {
        Err(StartError::TooOld { address: address.clone(), version: info.get("redis_version").to_owned(), needed })
    };
    let not_durable = |setting, found: &str, needed| {
        Err(StartError::NotDurable { address: address.clone(), setting, found: found.to_owned(), needed })
    };
    if info.version() < OLDEST {
        return too_old("5.0");
    }
    if info.get("loading") != "0" {
        return Err(StartError::Loading { address });
    }
    if info.get("cluster_enabled") == "1" {
        return Err(StartError::Cluster { address });
    }
    if info.get("role") != "master" {
        let primary = format!("{}:{}", info.get("master_host"), info.get("master_port"));
        return Err(StartError::Replica { address, primary });
    }
    if info.get("aof_enabled") != "1" {
        return not_durable("appendonly", "no", "yes");
    }
    let policy = info.get("maxmemory_policy");
    if info.get("maxmemory") != "0" && policy.starts_with("allkeys") {
        return Err(StartError::Evicts { address, policy: policy.to_owned() });
    }
    let mut verified = true;
    for ((setting, needed), answer) in SETTINGS.into_iter().zip(["always", "no"]).zip(settings) {
        match answer {
            Ok(found) if found == needed => {}
            Ok(found) => return not_durable(setting, &found, needed),
            Err(_) if options.unverified => verified = false,
            Err(what) => return Err(StartError::Unverifiable { address, what }),
        }
    }
    Ok(Durability {
        address: address.clone(),
        version: info.get("redis_version").to_owned(),
        verified,
        replicas: options.replicas,
        connected: info.get("connected_slaves").parse().unwrap_or(0),
        confirmation: match options.replicas {
            0 => Confirmation::None,
            _ if info.version() < CONFIRMS_SYNC => Confirmation::Received,
            _ => Confirmation::Synced,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nloading:0\r\naof_enabled:1\r\nrole:master\r\n\
        connected_slaves:1\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\ncluster_enabled:0\r\n";

    fn judged(info: &str, fsync: &str) -> Result<Durability, StartError> {
        let options = RedisOptions::new("redis://db:7001/0").expect("a URL").replicas(1);
        judge(&options, &Info::parse(info), [Ok(fsync.to_owned()), Ok("no".to_owned())])
    }

    #[test]
    fn a_good_server_is_described() {
        let durability = judged(GOOD, "always").expect("good");
        assert_eq!((durability.connected, durability.confirmation), (1, Confirmation::Received));
        assert!(durability.to_string().contains("1 of 1 connected replicas must have received it"), "{durability}");
        let newer = judged(&GOOD.replace("7.0.15", "7.2.4"), "always").expect("good");
        assert_eq!(newer.confirmation, Confirmation::Synced);
        let options = RedisOptions::new("redis://db:7001/0").expect("a URL");
        let alone = judge(&options, &Info::parse(GOOD), [Ok("always".to_owned()), Ok("no".to_owned())]);
        assert!(alone.expect("good").to_string().contains("a fail-over to a replica may lose"));
    }

    #[test]
    fn what_is_not_enough_is_named() {
        for (change, to, setting) in [
            ("aof_enabled:1", "aof_enabled:0", "`appendonly no`"),
            ("role:master", "role:slave\r\nmaster_host:a\r\nmaster_port:1", "a replica of a:1"),
            ("cluster_enabled:0", "cluster_enabled:1", "Redis Cluster"),
            ("loading:0", "loading:1", "still loading"),
            ("7.0.15", "4.0.9", "version 4.0.9"),
            (
                "maxmemory:0\r\nmaxmemory_policy:noeviction",
                "maxmemory:9\r\nmaxmemory_policy:allkeys-lru",
                "allkeys-lru",
            ),
        ] {
            let error = judged(&GOOD.replace(change, to), "always").expect_err(to).to_string();
            assert!(error.contains(setting) && error.contains("db:7001"), "{error}");
        }
        let error = judged(GOOD, "everysec").expect_err("everysec").to_string();
        assert!(error.contains("`appendfsync everysec`") && error.contains("`appendfsync always`"), "{error}");
    }

    #[test]
    fn silence_about_the_settings_needs_somebody_who_vouches() {
        let refused = || [Err("NOPERM".to_owned()), Err("NOPERM".to_owned())];
        let options = RedisOptions::new("redis://db:7001/0").expect("a URL");
        let error = judge(&options, &Info::parse(GOOD), refused()).expect_err("unverifiable");
        assert!(error.to_string().contains("redis_durability_check"), "{error}");
        let vouched = judge(&options.unverified(true), &Info::parse(GOOD), refused()).expect("vouched for");
        assert!(!vouched.verified && vouched.to_string().contains("not checked"), "{vouched}");
    }

    #[test]
    fn a_password_is_never_shown() {
        let options = RedisOptions::new("rediss://books:s3cret@db:7001/0").expect("a URL").password("an0ther");
        let shown = format!("{options:?} {}", options.address());
        assert!(!shown.contains("s3cret") && !shown.contains("an0ther"), "{shown}");
        let error = RedisOptions::new("redis://books:s3cret@:x:/").expect_err("no URL");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}
