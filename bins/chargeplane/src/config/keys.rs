//! Every key of the configuration, declared once.

use super::value::{Setting, Written};

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its section.
    pub section: &'static str,
    /// What the section is about.
    pub section_doc: &'static str,
    /// Its name in the section.
    pub name: &'static str,
    /// What it does, with its unit.
    pub doc: &'static str,
    /// The kind of value.
    pub kind: &'static str,
    /// The default, as it would be written in TOML.
    pub default: String,
}

macro_rules! config {
    ($(#[doc = $section_doc:literal] $section:ident: $type:ident {
        $($(#[doc = $doc:literal])* $key:ident: $kind:ty = $default:expr;)*
    })*) => {
        $(
            #[doc = $section_doc]
            #[derive(Debug, Clone, PartialEq)]
            pub struct $type {
                $($(#[doc = $doc])* pub $key: $kind,)*
            }

            impl Default for $type {
                fn default() -> Self {
                    Self { $($key: $default.into(),)* }
                }
            }
        )*

        /// The whole configuration.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Config {
            $(#[doc = $section_doc] pub $section: $type,)*
        }

        impl Config {
            /// All keys, in order.
            pub fn keys() -> Vec<Key> {
                let default = Self::default();
                vec![$($(Key {
                    section: stringify!($section),
                    section_doc: $section_doc,
                    name: stringify!($key),
                    doc: concat!($($doc, "\n"),*),
                    kind: <$kind as Setting>::KIND,
                    default: default.$section.$key.show(),
                },)*)*]
            }

            /// The value of a key as it would be written in TOML.
            pub fn show(&self, section: &str, key: &str) -> Option<String> {
                match (section, key) {
                    $($((stringify!($section), stringify!($key)) => Some(self.$section.$key.show()),)*)*
                    _ => None,
                }
            }

            /// Sets a key; the error says what was expected.
            pub fn set(&mut self, section: &str, key: &str, value: Written<'_>) -> Result<(), String> {
                match (section, key) {
                    $($((stringify!($section), stringify!($key)) => {
                        self.$section.$key = <$kind as Setting>::read(value)?;
                        Ok(())
                    })*)*
                    _ => Err("there is no such key".to_owned()),
                }
            }
        }
    };
}

config! {
    /// The node itself.
    node: NodeSection {
        /// Name of the node, unique in its cluster.
        name: String = "node-1";
        /// Directory of the stores; one process at a time uses it.
        data_dir: String = crate::cli::DEFAULT_DATA_DIR;
        /// Shards of each family, a power of two; fixed when the cluster is born.
        shards: u64 = 32u64;
        /// Threads that run the node, beside those of the stores, the broker and the solver.
        worker_threads: u64 = 2u64;
        /// Catalogue (YAML) that is applied at each start; empty: what is stored stays.
        catalogue_file: String = "";
        /// What is logged to standard error, as in RUST_LOG, which goes before it.
        log: String = "info";
        /// Seconds after which an idle entity leaves memory (its state stays in the shard's map).
        passivate_after_s: u64 = 120u64;
        /// MiB of journal behind a shard's last snapshot before the next one is taken; an opening replays about so much, or four times the snapshot where that is more.
        snapshot_after_mib: u64 = 32u64;
        /// Milliseconds an entity has to answer a call before the caller is told `timeout`.
        call_timeout_ms: u64 = 10_000u64;
    }
    /// The HTTP interface.
    http: HttpSection {
        /// Where to listen. On a loopback address `/metrics`, `/docs`, `/openapi.json` and `/errors` need no token.
        listen: String = "127.0.0.1:8080";
        /// File of the tokens; empty: `api-token` in the data directory, made with one new token for all tenants when it is not there.
        token_file: String = "";
        /// Requests in hand at once; further ones are answered 503 `overloaded`.
        max_in_flight: u64 = 256u64;
        /// Connections open at once; further ones are answered 503 and closed.
        max_connections: u64 = 1_024u64;
    }
    /// The account books over TCP, for programs that post to them at high rates: see ledger-wire.md.
    ledger: LedgerSection {
        /// Where to listen, address:port; empty: nowhere. The tokens are those of HTTP.
        listen: String = "";
        /// Connections open at once; further ones are told `overloaded` and closed.
        max_connections: u64 = 1_024u64;
        /// Requests without an answer on one connection; while there are so many, it is not read.
        max_outstanding: u64 = 1_024u64;
        /// KiB of the largest frame of a client; a larger one ends its connection.
        max_frame_kib: u64 = 64u64;
        /// Seconds without a byte in either direction after which a connection is closed.
        idle_s: u64 = 90u64;
    }
    /// The link to the gateways.
    mqtt: MqttSection {
        /// `embedded`: this process is the broker; `external`: it connects to those of `brokers`.
        mode: String = "embedded";
        /// Where the embedded broker listens.
        listen: String = "127.0.0.1:1883";
        /// External brokers, `host:port`; after a failure the next one is tried.
        brokers: Vec<String> = Vec::<String>::new();
        /// User name at an external broker; empty: `node/` and the node's name.
        username: String = "";
        /// File with the password at an external broker, in its first line; empty: no password.
        password_file: String = "";
        /// Seconds between pings; a dead broker is noticed after at most two of them.
        keep_alive_s: u64 = 10u64;
        /// Messages to gateways that may wait to be written; more are refused and counted.
        queue: u64 = 4_096u64;
        /// Messages to gateways that may be written and not yet confirmed by the broker.
        in_flight: u64 = 1_024u64;
    }
    /// Sharing a station's power.
    power: PowerSection {
        /// Milliseconds that a grant lasts on its gateway's clock. A cut without notice is in effect after at most this.
        lease_ms: u64 = 30_000u64;
        /// Milliseconds after which a linear programme is given up and water-filling answers the tick.
        solve_limit_ms: u64 = 200u64;
        /// Threads for HiGHS; each station's programme runs on one.
        solver_threads: u64 = 1u64;
    }
    /// Where the logs of all shards are, and so the books.
    journal: JournalSection {
        /// `sqlite`: a file in the data directory; `redis`: the server of `redis_url`; `cql`: ScyllaDB or Apache Cassandra.
        backend: String = "sqlite";
        /// The server, `redis://[user@]host:port/database`, or `rediss://` for TLS. It must run with `appendonly yes` and `appendfsync always`.
        redis_url: String = "redis://127.0.0.1:6379/0";
        /// File with the password of the server, in its first line; empty: no password.
        redis_password_file: String = "";
        /// File of the authority (PEM) that signed the server's certificate; empty: those of the system.
        redis_ca_file: String = "";
        /// Begins every key, so that several clusters may share a server.
        redis_prefix: String = "chargeplane";
        /// Replicas that must confirm a commit before it is acknowledged: on their disks from Redis 7.2 on, in their memory before. With 0 a fail-over to a replica may lose what was acknowledged.
        redis_replicas: u64 = 0u64;
        /// `required`: a server that refuses CONFIG GET is refused; `skipped`: its operator vouches for `appendfsync always`.
        redis_durability_check: String = "required";
        /// Nodes of the database to begin with, `host:port`; the others are found.
        cql_nodes: Vec<String> = Vec::<String>::new();
        /// Keyspace, made when it is not there: small letters, digits and `_`, at most 48.
        cql_keyspace: String = "chargeplane";
        /// Copies, when the keyspace is made: `3` in every data centre, or `paris:3,berlin:2`.
        cql_replication: String = "3";
        /// User name at the database; empty: no login.
        cql_username: String = "";
        /// File with the password at the database, in its first line; empty: no password.
        cql_password_file: String = "";
        /// Megabytes of frames after which a segment, which is a partition, ends.
        cql_segment_mib: u64 = 32u64;
        /// `required`: a database that acknowledges before it has synced its commit log, or does not say, is refused; `skipped`: its operator answers for that.
        cql_sync_check: String = "required";
    }
    /// Where the charge records are, which are made from the journal and can be made again.
    records: RecordsSection {
        /// `sqlite`: files in the data directory; `cql`: the database of `journal.cql_nodes`, in `journal.cql_keyspace`, whatever `journal.backend` is.
        backend: String = "sqlite";
    }
    /// Telemetry on its way to the store.
    telemetry: TelemetrySection {
        /// `sqlite`: files in the data directory; `cql`: the database of `journal.cql_nodes`, in `journal.cql_keyspace`, whatever `journal.backend` is; `chargeplane store migrate` makes its tables.
        backend: String = "sqlite";
        /// Milliseconds after which samples are written, and so acknowledged, at the latest.
        flush_ms: u64 = 30_000u64;
        /// Samples one shard holds in memory; when they are more it refuses batches until it has written.
        max_buffered_samples: u64 = 1_000_000u64;
    }
    /// Sessions and their money.
    sessions: SessionsSection {
        /// Wh that a hold covers beyond its reserve.
        hold_wh: u64 = 4_000u64;
        /// Milliseconds the slowest charger takes to stop: the reserve of a hold is rating x this x the highest price.
        stop_time_ms: u64 = 5_000u64;
        /// Milliseconds between debits while energy flows, at most.
        debit_ms: u64 = 15_000u64;
        /// Wh between debits, at most.
        debit_wh: u64 = 100u64;
        /// Seconds after the last reading of a session, or after its authorisation, at which its hold ends. It is given back 24 hours later, when the ring of a gateway that was cut off holds nothing of it any more; what the session still meters is then borne by the operator.
        hold_lasts_s: u64 = 86_400u64;
        /// Milliseconds after which a command must not be executed any more.
        command_deadline_ms: u64 = 60_000u64;
    }
    /// What exported OCPI CDRs say beyond the charge record.
    ocpi: OcpiSection {
        /// ISO 3166-1 alpha-2 code of the country the operator acts in.
        country_code: String = "CN";
        /// The operator's three characters in that country.
        party_id: String = "CPL";
        /// ISO 3166-1 alpha-3 code of the country the stations are in.
        country: String = "CHN";
        /// Latitude given for every station, degrees with 5 to 7 decimals; the catalogue has none.
        latitude: String = "0.000000";
        /// Longitude given for every station, degrees with 5 to 7 decimals.
        longitude: String = "0.000000";
        /// OCPI's ConnectorType of every connector.
        connector_standard: String = "GBT_DC";
        /// OCPI's ConnectorFormat of every connector: `SOCKET` or `CABLE`.
        connector_format: String = "CABLE";
        /// OCPI's PowerType of every connector.
        power_type: String = "DC";
    }
}
