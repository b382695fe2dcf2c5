//! Many requests in hand at once, from clients that are slow on purpose.
//!
//! Each client sends the head of its request and keeps the body back, so that the node has to keep the request in
//! hand. When every client either has an answer (it was shed) or is one of at most as many as the node takes in,
//! all let go. So a burst of more requests than that always meets the bound, however fast the machine is, and how
//! many were in hand at once is counted without asking the node.

use crate::http::{Answer, Client};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bodies are kept back at least so long, so that all heads have arrived ...
const HOLD_LEAST: Duration = Duration::from_millis(700);

/// ... and at most so long: the node would then hold more than it said it takes.
const HOLD_MOST: Duration = Duration::from_secs(8);

/// An answer comes within this time after the body, or it does not come. Longer than the node's own limits.
const ANSWER: Duration = Duration::from_secs(30);

/// How often a client that keeps its body back looks whether it was answered already.
const LOOK: Duration = Duration::from_millis(50);

/// Answers here are small.
const MOST_BYTES: usize = 1 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    /// Where to.
    pub path: String,
    /// Its idempotency key.
    pub key: String,
    /// The document.
    pub body: Value,
}

/// What became of a burst.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The answers, in the order of the requests; none where none came.
    pub answers: Vec<Option<Answer>>,
    /// Requests without an answer when all let go.
    pub in_hand: u64,
}

/// What the clients of a burst share.
#[derive(Debug, Default)]
struct Shared {
    /// Heads sent and not answered.
    held: AtomicU64,
    /// Clients that hold, or have ended.
    begun: AtomicU64,
    release: AtomicBool,
}

/// Sends all requests at once; `room` is how many the node takes in.
pub fn run(client: &Client, posts: &[Post], room: u64) -> Outcome {
    let shared = Shared::default();
    std::thread::scope(|scope| {
        let small = || std::thread::Builder::new().stack_size(256 << 10);
        let ask = |post| {
            let shared = &shared;
            move || ask(client, post, shared)
        };
        let threads: Vec<_> = posts.iter().map(|post| small().spawn_scoped(scope, ask(post))).collect();
        let begin = Instant::now();
        let all = threads.iter().flatten().count() as u64;
        loop {
            std::thread::sleep(LOOK);
            let settled = shared.begun.load(Ordering::SeqCst) == all && shared.held.load(Ordering::SeqCst) <= room;
            if begin.elapsed() > HOLD_MOST || (settled && begin.elapsed() > HOLD_LEAST) {
                break;
            }
        }
        let in_hand = shared.held.load(Ordering::SeqCst);
        shared.release.store(true, Ordering::SeqCst);
        let join = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Option<Answer>>>| {
            thread.ok().and_then(|thread| thread.join().ok().flatten())
        };
        Outcome { answers: threads.into_iter().map(join).collect(), in_hand }
    })
}

fn ask(client: &Client, post: &Post, shared: &Shared) -> Option<Answer> {
    let body = post.body.to_string();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: node\r\nAuthorization: {}\r\nIdempotency-Key: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        post.path,
        client.bearer(),
        post.key,
        body.len()
    );
    let connected = TcpStream::connect(client.address()).and_then(|mut stream| {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    });
    shared.held.fetch_add(u64::from(connected.is_ok()), Ordering::SeqCst);
    shared.begun.fetch_add(1, Ordering::SeqCst);
    let mut stream = connected.ok()?;
    let mut read = Vec::new();
    // An answer before the body: shed. It is read before anything else is written, or it might be lost.
    let early = read_until(&mut stream, &mut read, || shared.release.load(Ordering::SeqCst));
    if early != Reading::Waiting {
        shared.held.fetch_sub(1, Ordering::SeqCst);
        return parse(&read);
    }
    // The node may have answered and closed at this very moment: then the answer is read all the same.
    let _ = stream.write_all(body.as_bytes());
    let until = Instant::now() + ANSWER;
    read_until(&mut stream, &mut read, || Instant::now() > until);
    parse(&read)
}

/// How reading went.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// A whole answer, or the connection has ended.
    Ended,
    /// Told to give up.
    Waiting,
}

fn read_until(stream: &mut impl Read, read: &mut Vec<u8>, mut give_up: impl FnMut() -> bool) -> Reading {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Reading::Ended,
            Ok(n) => {
                read.extend_from_slice(&buffer[..n]);
                if parse(read).is_some() || read.len() > MOST_BYTES {
                    return Reading::Ended;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if give_up() {
                    return Reading::Waiting;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Reading::Ended,
        }
    }
}

/// A whole answer with a length, or none.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&bytes[..at]).ok()?, &bytes[at + 4..]);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        let named = |line: &str| {
            line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
        };
        head.lines().skip(1).find_map(named)
    };
    let length: usize = header("content-length")?.parse().ok()?;
    let body = serde_json::from_slice(body.get(..length)?).unwrap_or(Value::Null);
    Some(Answer { status, content_type: header("content-type").unwrap_or_default(), body })
}

#[cfg(test)]
mod tests;
