//! One connection: a state machine over its socket, its outbox and a clock, driven by one task.
//!
//! In a turn it writes the answers that have come, reads what the client has sent, and hands on every complete frame
//! of it, as long as fewer requests are without an answer than may be. What is not read stays in the socket.

use super::Front;
use super::outbox::{Numbered, Outbox};
use super::slots::Slots;
use crate::auth::Scope;
use crate::extract::now;
use crate::metrics::{LEDGER_BAD_FRAMES_TOTAL, LEDGER_CLOSED_TOTAL};
use crate::problem::Problem;
use chargeplane_actors::handle::CallError;
use chargeplane_actors::reply::{Answer, Answers};
use chargeplane_domain::account::{AccountAnswer, AccountCommand};
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::ledger::{
    self, Closing, Failure, LENGTH_BYTES, MAX_HELLO_BYTES, Outcome, Refusal, Request, RequestError, Response, VERSION,
    Welcome,
};
use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Bytes of the input's buffer at first: dozens of requests.
const INPUT_BYTES: usize = 16 << 10;

/// The clock is looked at so often: for silence, and for requests that nobody answers.
const TICK: Duration = Duration::from_secs(1);

/// The client says who it is within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// After the node's last frame, how long what the client still sends is thrown away: a socket that is closed with
/// unread bytes in it would take that frame back.
const LINGER: Duration = Duration::from_secs(1);

/// Who the client is.
struct Speaker {
    scope: Scope,
    compact: bool,
}

/// How the connection ends.
enum End {
    /// With a last frame, once everything read was answered.
    Saying(Closing),
    /// The last frame is written, or there is none.
    Said,
}

pub(super) struct Connection {
    stream: TcpStream,
    front: Arc<Front>,
    outbox: Arc<Outbox>,
    /// The same, as the node knows it.
    answers: Arc<dyn Answers<AccountAnswer>>,
    speaker: Option<Speaker>,
    slots: Slots,
    input: Input,
    output: Vec<u8>,
    written: usize,
    collected: Vec<Numbered>,
    /// Answers were let gather for a turn.
    gathered: bool,
    /// Frames read.
    frames: u64,
    end: Option<End>,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

/// What was read and is not handed on.
struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Room at the end for at least the rest of a frame that has begun.
    fn room(&mut self, largest: usize) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end.saturating_sub(self.start));
            if self.end == self.bytes.len() {
                let twice = self.bytes.len().saturating_mul(2);
                self.bytes.resize(twice.min(largest.max(INPUT_BYTES)), 0);
            }
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, front: Arc<Front>, outbox: Arc<Outbox>) -> Self {
        let answers: Arc<dyn Answers<AccountAnswer>> = Arc::<Outbox>::clone(&outbox);
        let slots = Slots::new(front.options.max_outstanding.max(1));
        Self {
            stream,
            front,
            outbox,
            answers,
            speaker: None,
            slots,
            input: Input { bytes: vec![0; INPUT_BYTES], start: 0, end: 0 },
            output: Vec::new(),
            written: 0,
            collected: Vec::new(),
            gathered: false,
            frames: 0,
            end: None,
            moved: Instant::now(),
            timer: Box::pin(tokio::time::sleep(TICK)),
        }
    }

    /// Until either side ends it.
    pub(super) async fn run(mut self) {
        if poll_fn(|cx| self.poll(cx)).await.is_err() {
            // The client is gone. What it was not told it asks for again, with the same keys.
            return;
        }
        let discard = async {
            let _ = self.stream.shutdown().await;
            let mut waste = [0; 4_096];
            while matches!(self.stream.read(&mut waste).await, Ok(read) if read > 0) {}
        };
        let _ = tokio::time::timeout(LINGER, discard).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut moves = self.collect(cx);
            if self.gathers(moves, cx) {
                return Poll::Pending;
            }
            if self.end.is_none() && self.outbox.is_stopped() {
                self.close("draining", "the node ends: connect again, or to another node".to_owned(), 0);
            }
            moves |= self.hand_on();
            self.say_the_end();
            match self.poll_flush(cx)? {
                Poll::Ready(()) if matches!(self.end, Some(End::Said)) && self.slots.open() == 0 => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(()) => moves |= self.poll_fill(cx)?,
                Poll::Pending => {}
            }
            if !moves {
                ready!(self.timer.as_mut().poll(cx));
                self.timer.as_mut().reset(tokio::time::Instant::now() + TICK);
                self.tick()?;
            }
        }
    }

    /// Takes the answers that have come and writes them behind the output.
    fn collect(&mut self, cx: &Context<'_>) -> bool {
        self.outbox.collect(&mut self.collected, cx);
        if self.collected.is_empty() {
            return false;
        }
        let (mut done, mut rejected, mut failed, mut last) = (0, 0, 0, None);
        for (key, answer) in std::mem::take(&mut self.collected) {
            let Some((number, since)) = self.slots.end(key) else { continue };
            last = Some(since);
            let outcome = outcome_of(answer);
            match &outcome {
                Outcome::Done(_) => done += 1,
                Outcome::Refused(_) => rejected += 1,
                _ => failed += 1,
            }
            self.respond(number, outcome);
        }
        let meters = &self.front.meters;
        meters.done.increment(done);
        meters.rejected.increment(rejected);
        meters.failed.increment(failed);
        // One of each write: a histogram of all would cost more than writing them.
        if let Some(since) = last {
            meters.seconds.record(since.elapsed().as_secs_f64());
        }
        true
    }

    /// Lets answers gather for one turn of the scheduler while more are to come: one commit answers many requests, and
    /// the first of its answers wakes this task.
    fn gathers(&mut self, some_came: bool, cx: &Context<'_>) -> bool {
        self.gathered = some_came && !self.gathered && self.slots.open() > 0;
        if self.gathered {
            cx.waker().wake_by_ref();
        }
        self.gathered
    }

    fn respond(&mut self, number: u64, outcome: Outcome) {
        let compact = self.speaker.as_ref().is_some_and(|speaker| speaker.compact);
        if let Err(error) = ledger::write_response(&mut self.output, &Response(number, outcome), compact) {
            // Nothing we answer is nearly so long: a defect, and the client would wait for ever.
            self.close("internal", error.to_string(), 0);
        }
    }

    /// Answers a request that goes no further.
    fn refuse(&mut self, number: u64, code: &'static str, detail: String) {
        self.front.meters.invalid.increment(1);
        self.respond(number, Outcome::Failed(Failure { code: code.into(), detail, nothing_done: true }));
    }

    /// Reads nothing more, answers what was read, and says why.
    fn close(&mut self, code: impl Into<Cow<'static, str>>, detail: String, frame: u64) {
        if self.end.is_none() {
            self.end = Some(End::Saying(Closing { code: code.into(), detail, frame }));
        }
    }

    fn bad_frame(&mut self, code: &'static str, detail: String) {
        metrics::counter!(LEDGER_BAD_FRAMES_TOTAL, "reason" => code).increment(1);
        let frame = self.frames;
        tracing::warn!(code, frame, %detail, "a client of the books sent what cannot be read");
        self.close(code, format!("frame {frame}: {detail}"), frame);
    }

    fn say_the_end(&mut self) {
        if self.slots.open() > 0 {
            return;
        }
        if let Some(End::Saying(_)) = &self.end
            && let Some(End::Saying(closing)) = self.end.replace(End::Said)
        {
            metrics::counter!(LEDGER_CLOSED_TOTAL, "reason" => closing.code.clone()).increment(1);
            self.respond(0, Outcome::Closing(closing));
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written = self.written.saturating_add(written);
            self.moved = Instant::now();
        }
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once if the client may send. True when something came.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.end.is_some() || !self.slots.has_room() {
            return Ok(false);
        }
        let largest = self.largest_frame().saturating_add(LENGTH_BYTES);
        let mut buffer = ReadBuf::new(self.input.room(largest));
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer)?;
        let bytes = buffer.filled().len();
        if read.is_pending() {
            return Ok(false);
        }
        if bytes == 0 {
            // The client has said all it wanted; it may still read.
            self.end = Some(End::Said);
        }
        self.input.end = self.input.end.saturating_add(bytes);
        self.moved = Instant::now();
        Ok(true)
    }

    fn largest_frame(&self) -> usize {
        match &self.speaker {
            Some(_) => self.front.options.max_frame_bytes,
            None => MAX_HELLO_BYTES,
        }
    }

    /// Hands on the complete frames that were read, as long as there is room for their requests. True when there was one.
    fn hand_on(&mut self) -> bool {
        if self.input.unread().len() < LENGTH_BYTES {
            return false;
        }
        let mut input = std::mem::replace(&mut self.input, Input { bytes: Vec::new(), start: 0, end: 0 });
        let (before, moment, wall) = (self.frames, Instant::now(), now());
        while self.end.is_none() && self.slots.has_room() {
            match ledger::split(input.unread(), self.largest_frame()) {
                Ok(Some((value, rest))) => {
                    self.frames = self.frames.saturating_add(1);
                    let left = rest.len();
                    self.on_frame(value, moment, wall);
                    input.start = input.end.saturating_sub(left);
                }
                Ok(None) => break,
                Err(error) => {
                    self.frames = self.frames.saturating_add(1);
                    self.bad_frame("frame_too_large", error.to_string());
                }
            }
        }
        self.input = input;
        self.frames != before
    }

    fn on_frame(&mut self, value: &[u8], moment: Instant, wall: Timestamp) {
        if value.is_empty() {
            // A sign of life.
            return;
        }
        if self.speaker.is_none() {
            return self.on_hello(value);
        }
        match ledger::read_request(value) {
            Ok(request) => self.on_request(request, moment, wall),
            Err(RequestError::Content(number, error)) => self.refuse(number, "invalid", error.to_string()),
            Err(RequestError::Frame(error)) => self.bad_frame("bad_frame", error.to_string()),
        }
    }

    fn on_hello(&mut self, value: &[u8]) {
        let hello = match ledger::read_hello(value) {
            Ok(hello) => hello,
            Err(error) => return self.bad_frame("bad_hello", format!("not a hello: {error}")),
        };
        if hello.version != VERSION {
            let detail = format!("version {} is not spoken here, only {VERSION}", hello.version);
            return self.bad_frame("unknown_version", detail);
        }
        let Some(scope) = self.front.options.tokens.scope_of(&hello.token) else {
            return self.bad_frame("token_unknown", "this node does not know the token".to_owned());
        };
        self.speaker = Some(Speaker { scope, compact: hello.compact });
        let options = &self.front.options;
        let welcome = Welcome {
            version: VERSION,
            max_frame_bytes: u32::try_from(options.max_frame_bytes).unwrap_or(u32::MAX),
            max_outstanding: u32::try_from(options.max_outstanding).unwrap_or(u32::MAX),
            idle_ms: u64::try_from(options.idle.as_millis()).unwrap_or(u64::MAX),
        };
        self.respond(0, Outcome::Welcome(welcome));
    }

    fn on_request(&mut self, Request(number, account, mut command): Request, moment: Instant, wall: Timestamp) {
        let covered = self.speaker.as_ref().is_some_and(|speaker| speaker.scope.covers(account.tenant()));
        if !covered {
            let detail = format!("the token does not cover tenant {}", account.tenant());
            return self.refuse(number, "other_tenant", detail);
        }
        if let Err(error) = ledger::admit(&account, &mut command, wall) {
            return self.refuse(number, "invalid", error.to_string());
        }
        let key = self.slots.begin(number, moment);
        match command {
            AccountCommand::TransferOut { .. } => self.transfer(account, command, key),
            command => self.front.handle.post(&account, command, &self.answers, key),
        }
    }

    /// What is known of the other account is asked for first, which takes a task.
    fn transfer(&self, from: AccountId, command: AccountCommand, key: u64) {
        let AccountCommand::TransferOut { key: idempotency, to, amount, currency, .. } = command else { return };
        let (handle, answers) = (self.front.handle.clone(), Arc::clone(&self.answers));
        tokio::spawn(async move {
            answers.take(key, handle.transfer(from, to, idempotency, amount, currency).await);
        });
    }

    /// Once a second.
    fn tick(&mut self) -> io::Result<()> {
        let (now, options) = (Instant::now(), &self.front.options);
        let silent = now.saturating_duration_since(self.moved);
        let late = self.slots.give_up(now, options.answer_within);
        let (idle, all_taken) = (options.idle, self.output.is_empty());
        self.front.meters.failed.increment(late.len() as u64);
        for number in late {
            self.respond(number, outcome_of(Err(CallError::Timeout)));
        }
        if self.speaker.is_none() && silent >= HELLO_WITHIN {
            self.close("hello_missing", format!("no hello within {} s", HELLO_WITHIN.as_secs()), 0);
        } else if silent >= idle && !all_taken {
            // It takes no answers: there is nobody to say goodbye to.
            return Err(io::ErrorKind::TimedOut.into());
        } else if silent >= idle && self.slots.open() == 0 {
            self.close("idle", format!("nothing moved for {} s", idle.as_secs()), 0);
        }
        Ok(())
    }
}

/// What a client is told of an answer.
fn outcome_of(answer: Answer<AccountAnswer>) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Done(answer),
        Err(CallError::Account(rejection)) => {
            let (code, detail) = (rejection.code().into(), rejection.to_string());
            Outcome::Refused(Refusal { code, detail, rejection })
        }
        Err(error) => {
            // A parked or quarantined account may have taken it before it failed.
            let nothing_done = matches!(error, CallError::Shed | CallError::NotServing(_) | CallError::Invalid(_));
            let problem = Problem::from(error);
            Outcome::Failed(Failure { code: problem.code.into(), detail: problem.detail, nothing_done })
        }
    }
}
