//! The TCP front of the account books, when the configuration has it.

use super::HTTP_DRAIN_LIMIT;
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_actors::handle::NodeHandle;
use chargeplane_api::auth::Tokens;
use chargeplane_api::ledger::{LedgerOptions, serve};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Takes the port of `ledger.listen`; nothing when that is empty.
pub async fn bind(config: &Config) -> Result<Option<TcpListener>, Failure> {
    let listen = &config.ledger.listen;
    if listen.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(listen).await.map_err(|e| {
        let code = if e.kind() == std::io::ErrorKind::AddrInUse { Code::Busy } else { Code::Usage };
        let advice = "stop what uses it, or choose another with ledger.listen";
        Failure::new(code, format!("the account books cannot be listened for on {listen}: {e}; {advice}"))
    })?;
    Ok(Some(listener))
}

/// The front while it serves.
pub struct LedgerServer {
    /// Where.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LedgerServer {
    /// Begins to serve.
    pub fn start(listener: TcpListener, handle: NodeHandle, tokens: Tokens, config: &Config) -> Result<Self, Failure> {
        let address = listener.local_addr().map_err(|e| Failure::internal(format!("the account books: {e}")))?;
        let options = options(tokens, config);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(listener, handle, options, stopped).await;
        });
        Ok(Self { address, stop, task })
    }

    /// Reads nothing more, and answers what was read.
    pub async fn end(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(HTTP_DRAIN_LIMIT, self.task).await.is_err() {
            tracing::warn!("commands to the account books that are in hand did not end in time");
        }
    }
}

fn options(tokens: Tokens, config: &Config) -> LedgerOptions {
    let ledger = &config.ledger;
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    LedgerOptions {
        max_connections: size(ledger.max_connections),
        max_frame_bytes: size(ledger.max_frame_kib.saturating_mul(1 << 10)),
        max_outstanding: size(ledger.max_outstanding),
        idle: Duration::from_secs(ledger.idle_s),
        answer_within: Duration::from_millis(config.node.call_timeout_ms),
        ..LedgerOptions::new(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_front() {
        let ours = options(Tokens::default(), &Config::default());
        assert_eq!(format!("{ours:?}"), format!("{:?}", LedgerOptions::new(Tokens::default())));
    }

    #[tokio::test]
    async fn nothing_is_listened_for_unless_it_is_asked_for() {
        let mut config = Config::default();
        assert!(bind(&config).await.unwrap().is_none());
        config.ledger.listen = "127.0.0.1:0".to_owned();
        let held = bind(&config).await.unwrap().unwrap();
        config.ledger.listen = held.local_addr().unwrap().to_string();
        assert_eq!(bind(&config).await.unwrap_err().code, Code::Busy);
    }
}
