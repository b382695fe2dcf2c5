//! The TCP front of the account books: for billing systems, roaming back ends and other nodes, which post account
//! commands at rates that HTTP and JSON cannot carry.
//!
//! Owns connections and nothing of the node: every command goes through a [`NodeHandle`], and its answer leaves when
//! the commit that covers it is durable (MONEY-3). What it speaks is `chargeplane_protocol::ledger`, written down in
//! `docs/reference/ledger-wire.md`. Work in hand is bounded (LOAD-1): connections, the size of a frame, requests without
//! an answer on a connection. Beyond the last one it does not read, and TCP holds the client back; what the node's
//! lanes do not take is answered `overloaded` at once. Each connection is one task, and no task, channel or timer is
//! made for a request: frames are handed over as many as one read brought, and answers leave as many as are there, in
//! one write.
//!
//! A restart reloads nothing. A client whose connection broke sends again what was not answered, with the same keys.

pub mod client;
mod connection;
mod outbox;
mod slots;

use crate::auth::Tokens;
use crate::metrics::*;
use chargeplane_actors::handle::NodeHandle;
use chargeplane_protocol::ledger::{self, Closing, Outcome, Response};
use connection::Connection;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use outbox::Outbox;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a refused connection's client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// After a failed `accept` (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the caller decides.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// Who may post.
    pub tokens: Tokens,
    /// Connections open at once; a further one is told `overloaded` and closed.
    pub max_connections: usize,
    /// Largest frame, in bytes after its length.
    pub max_frame_bytes: usize,
    /// Requests without an answer on a connection; beyond them nothing is read.
    pub max_outstanding: usize,
    /// A connection on which nothing moves for so long is closed.
    pub idle: Duration,
    /// A request that its account did not answer for so long is answered `timeout`.
    pub answer_within: Duration,
}

impl LedgerOptions {
    /// The usual bounds.
    pub fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            max_connections: 1_024,
            max_frame_bytes: 64 << 10,
            max_outstanding: 1_024,
            idle: Duration::from_secs(90),
            answer_within: Duration::from_secs(10),
        }
    }
}

/// What all connections share.
struct Front {
    handle: NodeHandle,
    options: LedgerOptions,
    meters: Meters,
    /// Those of the open connections, to tell them to stop.
    outboxes: Mutex<BTreeMap<u64, Arc<Outbox>>>,
}

/// The metrics, looked up once.
struct Meters {
    connections: Gauge,
    refused: Counter,
    done: Counter,
    rejected: Counter,
    failed: Counter,
    invalid: Counter,
    seconds: Histogram,
}

impl Meters {
    fn new() -> Self {
        let answered = |outcome: &'static str| counter!(LEDGER_ANSWERS_TOTAL, "outcome" => outcome);
        Self {
            connections: gauge!(LEDGER_CONNECTIONS),
            refused: counter!(LEDGER_CONNECTIONS_REFUSED_TOTAL),
            done: answered("done"),
            rejected: answered("refused"),
            failed: answered("failed"),
            invalid: answered("invalid"),
            seconds: histogram!(LEDGER_REQUEST_SECONDS),
        }
    }
}

/// Serves until `stop` resolves; then reads nothing more, answers what was read, and closes.
pub async fn serve(
    listener: TcpListener,
    handle: NodeHandle,
    options: LedgerOptions,
    stop: impl Future<Output = ()> + Send,
) {
    let outboxes = Mutex::new(BTreeMap::new());
    let front = Arc::new(Front { handle, options, meters: Meters::new(), outboxes });
    let mut tasks = JoinSet::new();
    let mut number = 0_u64;
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    number = number.wrapping_add(1);
                    front.accept(stream, number, &mut tasks).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection to the books failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
    drop(listener);
    front.outboxes().values().for_each(|outbox| outbox.stop());
    while tasks.join_next().await.is_some() {}
}

impl Front {
    fn outboxes(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Outbox>>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: &Arc<Self>, stream: TcpStream, number: u64, tasks: &mut JoinSet<()>) {
        // Answers are small and written as many as there are: waiting to fill a segment would only delay them.
        let _ = stream.set_nodelay(true);
        if self.outboxes().len() >= self.options.max_connections {
            self.meters.refused.increment(1);
            // Written here, not in a task of its own: what is refused must not pile up. It fits any socket's buffer.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
            return;
        }
        let outbox = Arc::new(Outbox::default());
        self.outboxes().insert(number, Arc::clone(&outbox));
        let front = Arc::clone(self);
        tasks.spawn(async move {
            let open = Open { front: &front, number };
            open.front.meters.connections.increment(1.0);
            Connection::new(stream, Arc::clone(&front), outbox).run().await;
        });
    }
}

/// A connection's place among the open ones; given back however its task ends.
struct Open<'a> {
    front: &'a Front,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.front.outboxes().remove(&self.number);
        self.front.meters.connections.decrement(1.0);
    }
}

async fn refuse(mut stream: TcpStream) {
    let closing = Closing {
        code: "overloaded".into(),
        detail: "too many connections: try again in a second, or use one for more requests".to_owned(),
        frame: 0,
    };
    let mut bytes = Vec::new();
    if ledger::write_response(&mut bytes, &Response(0, Outcome::Closing(closing)), false).is_ok() {
        // The client may be gone, or not read it: it is refused all the same.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
}
