//! One connection to the server: made when needed, judged before it is used, dropped at the first doubt.
//!
//! An answer that does not come in time, or a broken connection, leaves open what the server did; the connection
//! is given up, so that its late answers are nobody's. Every new one is judged like the first: it may lead to
//! another server, or to the same one with other settings.

use crate::options::{RedisOptions, StartError};
use crate::server::{self, Durability, Info, SETTINGS};
use chargeplane_cluster::journal::JournalError;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a connection, and then its first answers, may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The scripts by their names here, which the server answers to by their digests.
const SCRIPTS: [&str; 5] = [
    include_str!("lua/commit.lua"),
    include_str!("lua/raise.lua"),
    include_str!("lua/release.lua"),
    include_str!("lua/page.lua"),
    include_str!("lua/publish.lua"),
];

/// A script, as its place in [`SCRIPTS`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    Commit,
    Raise,
    Release,
    Page,
    Publish,
}

/// A connection that was judged.
#[derive(Clone)]
pub(crate) struct Live {
    connection: MultiplexedConnection,
    generation: u64,
    digests: Arc<[String; SCRIPTS.len()]>,
    pub(crate) durability: Arc<Durability>,
}

impl Live {
    /// Begins the call of a script; its keys and arguments follow.
    pub(crate) fn call<'a>(&self, pipe: &'a mut Pipeline, script: Script, keys: &[&str]) -> &'a mut Pipeline {
        pipe.cmd("EVALSHA").arg(&self.digests[script as usize]).arg(keys.len()).arg(keys)
    }
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    made: u64,
}

pub(crate) struct Link {
    client: Client,
    options: RedisOptions,
    slot: Mutex<Slot>,
}

/// Why a round trip gave no answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkError {
    /// It may have been done, it may be done later.
    Unknown(String),
    /// The server has no memory left; nothing was written.
    Full(String),
    /// A key holds another kind of value than ours.
    WrongType(String),
    /// The server will not do it however often it is asked.
    Fatal(String),
}

impl From<LinkError> for JournalError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Unknown(why) => Self::OutcomeUnknown(why),
            LinkError::Full(why) => Self::Full(why),
            LinkError::WrongType(why) | LinkError::Fatal(why) => Self::Io(why),
        }
    }
}

impl From<StartError> for LinkError {
    fn from(error: StartError) -> Self {
        if error.is_passing() { Self::Unknown(error.to_string()) } else { Self::Fatal(error.to_string()) }
    }
}

impl Link {
    pub(crate) fn new(options: RedisOptions) -> Result<Self, StartError> {
        Ok(Self { client: options.client()?, options, slot: Mutex::default() })
    }

    /// Sends what `build` puts together in one go and returns the answer of each command.
    ///
    /// # Errors
    ///
    /// Of the server's refusals the first. All but [`LinkError::Unknown`] are about one command: the others may
    /// have been done.
    pub(crate) async fn run(
        &self,
        limit: Duration,
        build: impl FnOnce(&Live, &mut Pipeline),
    ) -> Result<(Live, Vec<Value>), LinkError> {
        let late = || LinkError::Unknown(format!("{} gave no answer within {limit:?}", self.options.address()));
        let began = tokio::time::Instant::now();
        let mut live = timeout(limit, self.live()).await.map_err(|_| late())??;
        let mut pipe = Pipeline::new();
        build(&live, &mut pipe);
        pipe.ignore_errors();
        let answers = live.connection.req_packed_commands(&pipe, 0, pipe.len());
        let answers = match timeout(limit.saturating_sub(began.elapsed()), answers).await {
            Ok(answers) => answers.map_err(|error| self.link_error(&error)),
            Err(_) => Err(late()),
        };
        let refusal = |value: &Value| match value {
            Value::ServerError(error) => Some(self.link_error(&RedisError::from(error.clone()))),
            _ => None,
        };
        let answers = answers.and_then(|answers| match answers.iter().find_map(refusal) {
            Some(error) => Err(error),
            None => Ok(answers),
        });
        if let Err(LinkError::Unknown(why)) = &answers {
            tracing::warn!(address = self.options.address(), %why, "giving the connection to Redis up");
            self.give_up(live.generation).await;
        }
        answers.map(|answers| (live, answers))
    }

    /// Like [`Self::run`], for what only reads: once more on a new connection when the one at hand turns out broken,
    /// as it is after every restart of the server.
    pub(crate) async fn read(
        &self,
        limit: Duration,
        build: impl Fn(&Live, &mut Pipeline),
    ) -> Result<Vec<Value>, LinkError> {
        let answers = match self.run(limit, &build).await {
            Err(LinkError::Unknown(_)) => self.run(limit, &build).await,
            answers => answers,
        };
        answers.map(|(_, answers)| answers)
    }

    /// Reads with one command.
    pub(crate) async fn ask(&self, limit: Duration, command: &Cmd) -> Result<Value, LinkError> {
        let mut answers = self
            .read(limit, |_, pipe| {
                pipe.add_command(command.clone());
            })
            .await?;
        Ok(answers.pop().unwrap_or(Value::Nil))
    }

    /// The connection, made and judged when there is none.
    pub(crate) async fn live(&self) -> Result<Live, StartError> {
        let mut slot = self.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok(live.clone());
        }
        let generation = slot.made.wrapping_add(1);
        let live = self.connect(generation).await?;
        tracing::info!(durability = %live.durability, "connected");
        slot.made = generation;
        slot.live = Some(live.clone());
        Ok(live)
    }

    async fn give_up(&self, generation: u64) {
        let mut slot = self.slot.lock().await;
        if slot.live.as_ref().is_some_and(|live| live.generation == generation) {
            slot.live = None;
        }
    }

    async fn connect(&self, generation: u64) -> Result<Live, StartError> {
        // Times are limited here, by request.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config);
        let late = |_| StartError::Unreachable { address: self.options.address(), what: "no answer".to_owned() };
        let connection = timeout(CONNECT_LIMIT, connection).await.map_err(late)?;
        let mut connection = connection.map_err(|error| self.start_error(&error))?;
        let mut pipe = Pipeline::new();
        pipe.cmd("INFO");
        for setting in SETTINGS {
            pipe.cmd("CONFIG").arg("GET").arg(setting);
        }
        for script in SCRIPTS {
            pipe.cmd("SCRIPT").arg("LOAD").arg(script);
        }
        pipe.ignore_errors();
        let answers = connection.req_packed_commands(&pipe, 0, pipe.len());
        let answers = timeout(CONNECT_LIMIT, answers).await.map_err(late)?.map_err(|error| self.start_error(&error))?;
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil);
        let info = self.text(next())?;
        let settings = [server::setting_of(next()), server::setting_of(next())];
        let durability = Arc::new(server::judge(&self.options, &Info::parse(&info), settings)?);
        let mut digests: [String; SCRIPTS.len()] = Default::default();
        for digest in &mut digests {
            *digest = self.text(next())?;
        }
        Ok(Live { connection, generation, digests: Arc::new(digests), durability })
    }

    fn text(&self, answer: Value) -> Result<String, StartError> {
        let text = answer.extract_error().and_then(|answer| Ok(redis::from_redis_value(answer)?));
        text.map_err(|error| self.start_error(&error))
    }

    fn start_error(&self, error: &RedisError) -> StartError {
        let (address, what) = (self.options.address(), error.to_string());
        match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => StartError::Refused { address, what },
            Some("LOADING") => StartError::Loading { address },
            _ if error.kind() == redis::ErrorKind::AuthenticationFailed => StartError::Refused { address, what },
            _ => StartError::Unreachable { address, what },
        }
    }

    fn link_error(&self, error: &RedisError) -> LinkError {
        let what = format!("{}: {error}", self.options.address());
        match error.code() {
            Some("OOM") => LinkError::Full(what),
            // Before version 7 the error of a command in a script comes as text.
            Some("WRONGTYPE" | "ERR") if what.contains("WRONGTYPE") => LinkError::WrongType(what),
            Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "ERR" | "MOVED" | "CROSSSLOT") => LinkError::Fatal(what),
            // A broken connection, READONLY, LOADING, MASTERDOWN, BUSY, MISCONF, NOREPLICAS, NOSCRIPT: another
            // connection may find it otherwise.
            _ => LinkError::Unknown(what),
        }
    }
}
