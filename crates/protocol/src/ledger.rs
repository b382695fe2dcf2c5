//! The wire of the account books: commands to accounts and their answers, for programs that post at rates that
//! HTTP and JSON cannot carry. `docs/reference/ledger-wire.md` says the same for writers of clients.
//!
//! A frame is its length in four bytes, the highest first, and one MessagePack value. The first frame of a client
//! is a [`Hello`], the node's first is [`Outcome::Welcome`]; then the client sends [`Request`]s as it likes, and each is
//! answered once, in any order, under the number that the client gave it. Structures are written as arrays of their
//! fields in order (`compact`) or as maps by name, and read in either form. What an account makes of a command, and
//! what repeating one means, is the account's ([`chargeplane_domain::account`]): nothing of that is here.
//!
//! Every bound is checked before anything is allocated for it; foreign bytes end in a typed error, never in a panic.

mod admit;

pub use admit::{NotAdmitted, admit};

use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountRejection};
use chargeplane_domain::ids::AccountId;
use rmp_serde::decode::Error as ReadError;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Version of this wire.
pub const VERSION: u16 = 1;

/// Bytes of a frame's length.
pub const LENGTH_BYTES: usize = 4;

/// Largest frame before the client has said who it is.
pub const MAX_HELLO_BYTES: usize = 4_096;

/// Deepest nesting of a value: a command has less than half of it.
const MAX_DEPTH: usize = 32;

/// Longest text about what is wrong with foreign bytes: it quotes them.
const MAX_WHAT: usize = 300;

/// The client's first frame.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// One of the node's tokens, the same as over HTTP.
    pub token: String,
    /// The node writes structures as arrays, else as maps.
    #[serde(default)]
    pub compact: bool,
}

/// The token is nobody's to read.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, compact, .. } = self;
        f.debug_struct("Hello").field("version", version).field("compact", compact).finish_non_exhaustive()
    }
}

/// A command to an account. An array of three in either form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request(
    /// The client's number for it, which its answer carries.
    pub u64,
    /// The account.
    pub AccountId,
    /// What is asked of it.
    pub AccountCommand,
);

#[derive(Serialize)]
struct RequestRef<'a>(u64, &'a AccountId, &'a AccountCommand);

/// What the node says. An array of two in either form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response(
    /// The number of the request; 0 for what answers none.
    pub u64,
    /// What became of it.
    pub Outcome,
);

/// What became of a request, or of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done and durable, or had been done before under the same key or sequence.
    Done(AccountAnswer),
    /// The account refuses. The same command gets the same answer again.
    Refused(Refusal),
    /// The account was not reached, or did not answer.
    Failed(Failure),
    /// The connection may be used.
    Welcome(Welcome),
    /// The last frame of the node: it closes the connection.
    Closing(Closing),
}

/// The account's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable code.
    pub code: Cow<'static, str>,
    /// For people.
    pub detail: String,
    /// The refusal with its values.
    pub rejection: AccountRejection,
}

/// A request that got no answer of its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code.
    pub code: Cow<'static, str>,
    /// For people.
    pub detail: String,
    /// True: certainly nothing was done. False: it may have been done; the same command again, with the same key or
    /// sequence, does it once and tells.
    pub nothing_done: bool,
}

/// What the node grants a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`VERSION`].
    pub version: u16,
    /// Largest frame that is read, in bytes after its length.
    pub max_frame_bytes: u32,
    /// Requests that may be without an answer; what comes beyond is read once there are fewer.
    pub max_outstanding: u32,
    /// A connection on which nothing moves for so long is closed.
    pub idle_ms: u64,
}

/// Why the node closes the connection. Every request that it had read was answered before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Stable code.
    pub code: Cow<'static, str>,
    /// What is wrong, and where.
    pub detail: String,
    /// The number of the client's frame that is meant, from 1; 0 when it is about none.
    pub frame: u64,
}

/// A frame that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More than may be read.
    #[error("a frame of {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// What its length says.
        bytes: u32,
        /// The bound.
        limit: usize,
    },
}

/// A value that is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {byte}, at `{path}`: {what}")]
pub struct ValueError {
    /// Bytes of the frame that were read until it was wrong.
    pub byte: u64,
    /// The field, `.` for the whole.
    pub path: String,
    /// What is wrong.
    pub what: String,
}

/// Why a frame is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not even its number can be told: nothing that follows on the connection can be trusted.
    #[error("{0}")]
    Frame(ValueError),
    /// Its number is known, its content cannot be used.
    #[error("{1}")]
    Content(u64, ValueError),
}

/// A value that cannot be written: longer than a frame's length can say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written: {0}")]
pub struct WriteError(String);

/// A frame's value, and what follows it.
pub type Split<'a> = (&'a [u8], &'a [u8]);

/// Splits the first frame off what was received: its value's bytes, and what follows. None while it is not all there.
/// An empty frame is a sign of life.
pub fn split(received: &[u8], limit: usize) -> Result<Option<Split<'_>>, FrameError> {
    let Some((length, rest)) = received.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let bytes = u32::from_be_bytes(*length);
    match usize::try_from(bytes) {
        Ok(length) if length <= limit => Ok(rest.split_at_checked(length)),
        _ => Err(FrameError::TooLarge { bytes, limit }),
    }
}

/// Reads the client's first frame.
pub fn read_hello(value: &[u8]) -> Result<Hello, ValueError> {
    read(value)
}

/// Reads any other frame of a client.
pub fn read_request(value: &[u8]) -> Result<Request, RequestError> {
    read(value).map_err(|error| match read::<(u64, IgnoredAny, IgnoredAny)>(value) {
        Ok((number, _, _)) => RequestError::Content(number, error),
        Err(_) => RequestError::Frame(error),
    })
}

/// Reads a frame of the node.
pub fn read_response(value: &[u8]) -> Result<Response, ValueError> {
    read(value)
}

/// Adds the client's first frame.
pub fn write_hello(out: &mut Vec<u8>, hello: &Hello) -> Result<(), WriteError> {
    write(out, hello, hello.compact)
}

/// Adds a request.
pub fn write_request(
    out: &mut Vec<u8>,
    number: u64,
    account: &AccountId,
    command: &AccountCommand,
    compact: bool,
) -> Result<(), WriteError> {
    write(out, &RequestRef(number, account, command), compact)
}

/// Adds a frame of the node.
pub fn write_response(out: &mut Vec<u8>, response: &Response, compact: bool) -> Result<(), WriteError> {
    write(out, response, compact)
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, ValueError> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(value);
    reader.set_max_depth(MAX_DEPTH);
    match T::deserialize(&mut reader) {
        // There is no other way to ask whether all was read.
        Ok(read) => match IgnoredAny::deserialize(&mut reader) {
            Err(ReadError::InvalidMarkerRead(_)) => Ok(read),
            _ => Err(trailing::<T>(value)),
        },
        Err(_) => Err(explain::<T>(value)),
    }
}

/// Reads once more, slowly, to say where it goes wrong.
#[cold]
fn explain<T: DeserializeOwned>(value: &[u8]) -> ValueError {
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(value));
    reader.set_max_depth(MAX_DEPTH);
    let mut track = serde_path_to_error::Track::new();
    let read = T::deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track));
    let what = read.err().map_or_else(|| "not the expected value".to_owned(), |error| error.to_string());
    ValueError { byte: reader.position(), path: track.path().to_string(), what: what.chars().take(MAX_WHAT).collect() }
}

#[cold]
fn trailing<T: DeserializeOwned>(value: &[u8]) -> ValueError {
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(value));
    let read = T::deserialize(&mut reader).err();
    let what = read.map_or_else(|| "something follows the value".to_owned(), |error| error.to_string());
    ValueError { byte: reader.position(), path: ".".to_owned(), what }
}

/// Adds a frame, or nothing.
fn write<T: Serialize>(out: &mut Vec<u8>, value: &T, compact: bool) -> Result<(), WriteError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let written =
        if compact { rmp_serde::encode::write(out, value) } else { rmp_serde::encode::write_named(out, value) };
    let begin = start.saturating_add(LENGTH_BYTES);
    let length = u32::try_from(out.len().saturating_sub(begin)).map_err(|error| WriteError(error.to_string()));
    match written.map_err(|error| WriteError(error.to_string())).and(length) {
        Ok(length) => {
            if let Some(place) = out.get_mut(start..begin) {
                place.copy_from_slice(&length.to_be_bytes());
            }
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
