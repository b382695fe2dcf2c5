//! What the journal is told at the start, and why it may refuse to start.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use std::fmt;

/// Where the server is and what is asked of it.
#[derive(Clone)]
pub struct RedisOptions {
    pub(crate) connection: ConnectionInfo,
    /// In front of all keys, so that several clusters may share a server.
    pub(crate) prefix: String,
    pub(crate) replicas: u32,
    pub(crate) unverified: bool,
    pub(crate) ca_pem: Option<Vec<u8>>,
}

/// Passwords stay out of logs.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("address", &self.address())
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
            .field("unverified", &self.unverified)
            .finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// Reads `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.
    pub fn new(url: &str) -> Result<Self, StartError> {
        // The library's error does not quote the URL, which may hold a password.
        let connection = url.into_connection_info().map_err(|error| StartError::Url(error.to_string()))?;
        Ok(Self { connection, prefix: "chargeplane".to_owned(), replicas: 0, unverified: false, ca_pem: None })
    }

    /// The password, when it is not in the URL.
    pub fn password(mut self, password: &str) -> Self {
        let settings = self.connection.redis_settings().clone().set_password(password);
        self.connection = self.connection.set_redis_settings(settings);
        self
    }

    /// How many replicas must confirm a commit before it is acknowledged. None by default.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Begins every key; `chargeplane` by default.
    ///
    /// # Errors
    ///
    /// Braces decide where a key lives, and an empty prefix mixes the journal with other people's keys.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, StartError> {
        if prefix.is_empty()
            || prefix.len() > 64
            || !prefix.bytes().all(|b| b.is_ascii_graphic() && b != b'{' && b != b'}')
        {
            return Err(StartError::Prefix(prefix.to_owned()));
        }
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }

    /// Serve although the server does not say whether it syncs before it answers, as managed ones do that refuse
    /// `CONFIG GET`. Whoever sets it answers for `appendfsync always`.
    pub fn unverified(mut self, unverified: bool) -> Self {
        self.unverified = unverified;
        self
    }

    /// The authority that signed the server's certificate (PEM), instead of those of the system.
    pub fn ca_pem(mut self, pem: Vec<u8>) -> Self {
        self.ca_pem = Some(pem);
        self
    }

    /// `host:port`, without anything secret.
    pub fn address(&self) -> String {
        self.connection.addr().to_string()
    }

    pub(crate) fn client(&self) -> Result<redis::Client, StartError> {
        let wrong = |error: redis::RedisError| StartError::Url(error.to_string());
        if !matches!(self.connection.addr(), ConnectionAddr::TcpTls { .. }) {
            return redis::Client::open(self.connection.clone()).map_err(wrong);
        }
        // Another part of the process may have chosen one already: any will do.
        drop(rustls::crypto::ring::default_provider().install_default());
        let certificates = TlsCertificates { client_tls: None, root_cert: self.ca_pem.clone() };
        redis::Client::build_with_tls(self.connection.clone(), certificates).map_err(wrong)
    }
}

/// Why the journal does not start on a server. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The URL cannot be used.
    #[error("the Redis URL: {0}; write redis://host:port/0, or rediss:// for TLS")]
    Url(String),
    /// The prefix cannot begin a key.
    #[error("the prefix of the keys is {0:?}: write 1 to 64 visible ASCII characters without braces")]
    Prefix(String),
    /// No connection, or no answer.
    #[error("Redis at {address} does not answer: {what}")]
    Unreachable { address: String, what: String },
    /// The server does not let us in.
    #[error("Redis at {address} refuses: {what}; see user and password")]
    Refused { address: String, what: String },
    /// It would acknowledge what a crash loses.
    #[error(
        "Redis at {address} has `{setting} {found}`, the journal needs `{setting} {needed}`: it would acknowledge \
         money that a crash loses. Change redis.conf, then start again"
    )]
    NotDurable { address: String, setting: &'static str, found: String, needed: &'static str },
    /// Whether it syncs cannot be seen.
    #[error(
        "Redis at {address} refuses CONFIG GET, so whether it syncs before it answers cannot be checked ({what}). If \
         its operator vouches for `appendfsync always`, set journal.redis_durability_check = \"skipped\""
    )]
    Unverifiable { address: String, what: String },
    /// It would throw log segments away when memory runs short.
    #[error(
        "Redis at {address} evicts keys when its memory is full (maxmemory-policy {policy}); set `maxmemory-policy \
         noeviction`"
    )]
    Evicts { address: String, policy: String },
    /// It is a replica.
    #[error("Redis at {address} is a replica of {primary}; journal.redis_url must name the primary")]
    Replica { address: String, primary: String },
    /// It is one node of a cluster.
    #[error("Redis at {address} is part of a Redis Cluster; the journal needs a server of its own")]
    Cluster { address: String },
    /// It is reading its file.
    #[error("Redis at {address} is still loading its data; start again when it is done")]
    Loading { address: String },
    /// It lacks something that is needed.
    #[error("Redis at {address} is version {version}; {needed} or newer is needed")]
    TooOld { address: String, version: String, needed: &'static str },
}

impl StartError {
    /// True when it may pass by itself, so that a running node waits.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Replica { .. } | Self::Loading { .. })
    }
}
