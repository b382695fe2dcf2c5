//! A client of the books' wire: one connection, any number of requests under way.
//!
//! It puts requests together until they are flushed and reads as many answers as have come, so a pipeline costs a
//! system call each way. Who uses it gives the numbers, and matches answers by them: they come in any order.

use chargeplane_domain::account::AccountCommand;
use chargeplane_domain::ids::AccountId;
use chargeplane_protocol::ledger::{
    self, Closing, FrameError, Hello, Outcome, Response, VERSION, ValueError, Welcome, WriteError,
};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

/// Largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 16 << 10;

/// Why a connection is of no more use. What was not answered may have been executed: connect again and send it again,
/// with the same keys and sequences.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection broke.
    #[error("the connection: {0}")]
    Io(#[from] io::Error),
    /// The node closed it and said why.
    #[error("the node closes the connection: {} ({})", .0.detail, .0.code)]
    Closing(Closing),
    /// It ended without a word.
    #[error("the connection ended")]
    Ended,
    /// Not an answer.
    #[error("an answer cannot be read: {0}")]
    Answer(#[from] ValueError),
    /// Too long an answer.
    #[error("an answer cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// A request that cannot be written.
    #[error("the request {0}")]
    Request(#[from] WriteError),
    /// Something else than a welcome came first.
    #[error("the node answers the hello with {0:?}")]
    NotWelcome(Box<Response>),
}

/// A connection that the node has welcomed.
pub struct LedgerClient {
    stream: TcpStream,
    input: Vec<u8>,
    /// Bytes of `input` that were handed out.
    taken: usize,
    output: Vec<u8>,
    welcome: Welcome,
}

impl LedgerClient {
    /// Connects and says who we are.
    pub async fn connect(address: impl ToSocketAddrs, token: &str) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let welcome = Welcome { version: VERSION, max_frame_bytes: 0, max_outstanding: 0, idle_ms: 0 };
        let mut client = Self { stream, input: Vec::new(), taken: 0, output: Vec::new(), welcome };
        let hello = Hello { version: VERSION, token: token.to_owned(), compact: true };
        ledger::write_hello(&mut client.output, &hello)?;
        client.flush().await?;
        match client.answer().await? {
            Response(_, Outcome::Welcome(welcome)) => Ok(Self { welcome, ..client }),
            other => Err(ClientError::NotWelcome(Box::new(other))),
        }
    }

    /// What the node grants.
    pub fn welcome(&self) -> Welcome {
        self.welcome
    }

    /// Puts a request behind those that wait to be flushed.
    pub fn put(&mut self, number: u64, account: &AccountId, command: &AccountCommand) -> Result<(), ClientError> {
        Ok(ledger::write_request(&mut self.output, number, account, command, true)?)
    }

    /// Sends what was put.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    /// An answer that has come already; none when that takes a read.
    pub fn arrived(&mut self) -> Result<Option<Response>, ClientError> {
        let unread = self.input.get(self.taken..).unwrap_or_default();
        let Some((value, rest)) = ledger::split(unread, MAX_ANSWER)? else { return Ok(None) };
        let response = ledger::read_response(value)?;
        self.taken = self.input.len().saturating_sub(rest.len());
        match response {
            Response(_, Outcome::Closing(closing)) => Err(ClientError::Closing(closing)),
            other => Ok(Some(other)),
        }
    }

    /// The next answer. What was put must be flushed before.
    pub async fn answer(&mut self) -> Result<Response, ClientError> {
        loop {
            if let Some(response) = self.arrived()? {
                return Ok(response);
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(ClientError::Ended);
            }
        }
    }

    /// One request and its answer, when no other is under way.
    pub async fn call(&mut self, account: &AccountId, command: &AccountCommand) -> Result<Outcome, ClientError> {
        self.put(1, account, command)?;
        self.flush().await?;
        Ok(self.answer().await?.1)
    }
}
