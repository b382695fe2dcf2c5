//! A proxy between journal and server that loses answers and delivers requests late.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Default)]
struct Plan {
    /// A request with this text is delivered, its answer is lost with the connection.
    swallow: Option<String>,
    /// A request with this text is delivered only when it is let go, whatever became of who sent it.
    hold: Option<String>,
}

struct Shared {
    server: AtomicU16,
    plan: Mutex<Plan>,
    swallowed: AtomicUsize,
    /// Requests in hand.
    held: watch::Sender<usize>,
    let_go: watch::Sender<bool>,
    /// Answers to requests that were let go.
    delivered: watch::Sender<usize>,
    /// Counted up to break all connections.
    cut: watch::Sender<usize>,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            server: server.into(),
            plan: Mutex::default(),
            swallowed: AtomicUsize::new(0),
            held: watch::Sender::new(0),
            let_go: watch::Sender::new(false),
            delivered: watch::Sender::new(0),
            cut: watch::Sender::new(0),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                tokio::spawn(async move {
                    // A server that is down refuses, and so does the proxy then.
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server.load(Ordering::SeqCst))).await {
                        carry(shared, client, server);
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// The answer to the next request with this text is lost.
    pub fn swallow(&self, text: &str) {
        self.plan().swallow = Some(text.to_owned());
    }

    pub fn swallowed(&self) -> usize {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// The next request with this text waits here.
    pub fn hold(&self, text: &str) {
        self.plan().hold = Some(text.to_owned());
    }

    pub async fn until_held(&self) {
        self.shared.held.subscribe().wait_for(|held| *held > 0).await.expect("lives");
    }

    /// Delivers what waits, and returns when the server has answered it.
    pub async fn let_go(&self) {
        self.shared.let_go.send_replace(true);
        self.shared.delivered.subscribe().wait_for(|delivered| *delivered > 0).await.expect("lives");
    }

    /// From here on connections lead to another server; those that are open break.
    pub fn fail_over(&self, server: u16) {
        self.shared.server.store(server, Ordering::SeqCst);
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.shared.plan.lock().expect("not poisoned")
    }
}

fn carry(shared: Arc<Shared>, client: TcpStream, server: TcpStream) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // What becomes of answers on this connection.
    let answers = watch::Sender::new(Answers::Forward);
    let (reading, mut cut) = (answers.subscribe(), shared.cut.subscribe());
    let up = requests(Arc::clone(&shared), from_client, to_server, answers);
    let down = self::answers(shared, from_server, to_client, reading);
    tokio::spawn(async move {
        tokio::select! {
            _ = cut.changed() => {}
            _ = async { tokio::join!(up, down) } => {}
        }
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Forward,
    /// The next one ends the connection.
    Swallow,
    /// Counted and dropped.
    Count,
}

fn takes(slot: &mut Option<String>, request: &[u8]) -> bool {
    let found = slot.as_ref().is_some_and(|text| request.windows(text.len()).any(|part| part == text.as_bytes()));
    if found {
        *slot = None;
    }
    found
}

async fn requests(
    shared: Arc<Shared>,
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    answers: watch::Sender<Answers>,
) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        let request = &buffer[..length];
        let (swallow, hold) = {
            let mut plan = shared.plan.lock().expect("not poisoned");
            (takes(&mut plan.swallow, request), takes(&mut plan.hold, request))
        };
        if swallow {
            answers.send_replace(Answers::Swallow);
        }
        if hold {
            shared.held.send_modify(|held| *held += 1);
            shared.let_go.subscribe().wait_for(|go| *go).await.expect("lives");
            answers.send_replace(Answers::Count);
        }
        if server.write_all(request).await.is_err() {
            return;
        }
        if hold {
            // Whoever sent it is gone: keep the connection until the server has done it.
            shared.delivered.subscribe().wait_for(|delivered| *delivered > 0).await.expect("lives");
            return;
        }
    }
}

async fn answers(
    shared: Arc<Shared>,
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    what: watch::Receiver<Answers>,
) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = server.read(&mut buffer).await {
        let what = *what.borrow();
        match what {
            // A client that is gone does not end it: the answer that counts is still to come.
            Answers::Forward => drop(client.write_all(&buffer[..length]).await),
            Answers::Swallow => {
                shared.swallowed.fetch_add(1, Ordering::SeqCst);
                drop(client.shutdown().await);
                return;
            }
            Answers::Count => {
                shared.delivered.send_modify(|delivered| *delivered += 1);
            }
        }
    }
}
