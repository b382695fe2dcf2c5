//! Serving the router over TCP with bounds: connections, and silence on them.
//!
//! axum bounds neither, so a client that opens connections and says nothing would hold file descriptors for
//! ever. A connection beyond the bound gets an answer and is closed; one on which nothing moves too long is closed.

use crate::metrics::{HTTP_CONNECTIONS, HTTP_CONNECTIONS_REFUSED_TOTAL};
use axum::Router;
use axum::serve::Listener;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A connection on which nothing was read or written for this long is closed. Longer than any answer waits.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a refused connection's client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// After a failed `accept` (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
retry-after: 1\r\nconnection: close\r\ncontent-length: 157\r\n\r\n\
{\"type\":\"/errors/service#overloaded\",\"title\":\"Overloaded: nothing was done\",\"status\":503,\
\"detail\":\"too many connections\",\"code\":\"overloaded\",\"instance\":\"/\"}\n";

/// Serves `router` until `stop` resolves, then lets running requests end.
///
/// # Errors
///
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let listener = Bounded { listener, room };
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (mut stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting an HTTP connection failed");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.room.clone().try_acquire_owned() {
                Ok(permit) => return (Connection::new(stream, permit), address),
                Err(_) => {
                    metrics::counter!(HTTP_CONNECTIONS_REFUSED_TOTAL).increment(1);
                    // Written here, not in a task of its own: what is refused must not pile up. The text
                    // fits any socket's buffer, so this does not wait for the client.
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, stream.write_all(REFUSAL)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that counts, and ends when nothing moves on it for [`IDLE_TIMEOUT`]. A client that takes a long
/// answer says nothing meanwhile: what it takes is a sign of life too.
struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        // Answers are small: waiting to fill a segment would only delay them.
        let _ = stream.set_nodelay(true);
        metrics::gauge!(HTTP_CONNECTIONS).increment(1.0);
        Self { stream, idle: Box::pin(sleep(IDLE_TIMEOUT)), _permit: permit }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        metrics::gauge!(HTTP_CONNECTIONS).decrement(1.0);
    }
}

impl Connection {
    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
    }

    fn after_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.moved();
        }
        written
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                self.moved();
                Poll::Ready(result)
            }
            Poll::Pending => match self.idle.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.after_write(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.after_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), body.len());
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "overloaded");
    }

    #[tokio::test]
    async fn a_connection_over_the_bound_is_answered_and_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let server = tokio::spawn(serve(listener, router, 1, async {
            let _ = stopped.await;
        }));
        let ask = async |stream: &mut TcpStream| {
            // A refused connection may be closed before it was asked anything.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let mut answer = vec![0; 1024];
            let n = stream.read(&mut answer).await.unwrap_or(0);
            String::from_utf8_lossy(&answer[..n]).into_owned()
        };
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut first).await.starts_with("HTTP/1.1 200"));
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        let _ = second.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        drop(first);
        // The place is free again once the server has seen the first connection end.
        let mut third = String::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            third = ask(&mut stream).await;
            if third.starts_with("HTTP/1.1 200") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(third.starts_with("HTTP/1.1 200"), "{third}");
        let _ = stop.send(());
        server.await.unwrap().unwrap();
    }
}
