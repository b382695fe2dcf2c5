//! The shell around the core: a clock, a broker connection, hardware, and one loop. No decisions here.

use crate::core::{EdgeError, GatewayCore};
use crate::effect::{Effect, Now};
use chargeplane_domain::units::{Mono, Timestamp};
use chargeplane_protocol::{Link, LinkEvent, LinkSink};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};

/// Messages that may wait for a gateway's loop; beyond it they are dropped, and sent again by the node.
const MAX_WAITING: usize = 4_096;

/// Longest sleep of a loop, so that a clock that was set is noticed.
const MAX_SLEEP_MS: u64 = 1_000;

/// The chargers behind a gateway. Lives in the gateway's task: no locks, no channels, and it must not block.
pub trait Hardware: Send {
    /// Brings the hardware to `now`: hand samples, events, status and results to `core`. Returns when it wants
    /// to be called again; it is also called after every effect meant for it, and when woken.
    fn poll(&mut self, now: Now, core: &mut GatewayCore) -> Mono;

    /// Carries out an effect other than `Publish` and `Subscribe`.
    fn on_effect(&mut self, now: Now, effect: Effect, core: &mut GatewayCore);
}

/// A monotonic clock that starts with the program, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono: Mono(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)),
            wall: Timestamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// What waits between the link's task and the gateway's loop. Bounded (LOAD-1): messages beyond the bound are
/// dropped and counted; connections and disconnections are always taken.
#[derive(Debug, Default)]
pub struct LinkQueue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<LinkEvent>,
    dropped: u64,
}

impl LinkQueue {
    /// An empty queue. Give it to the adapter as its [`LinkSink`] and to [`run`].
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Wakes the loop, so that the hardware is polled at once.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }

    fn take(&self) -> VecDeque<LinkEvent> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner).events)
    }
}

impl LinkSink for LinkQueue {
    fn on_event(&self, event: LinkEvent) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let LinkEvent::Message { .. } = event
            && waiting.events.len() >= MAX_WAITING
        {
            waiting.dropped += 1;
        } else {
            waiting.events.push_back(event);
        }
        drop(waiting);
        self.wake.notify_one();
    }
}

/// Runs a gateway until `stop` turns true (then flushes what it has into the ring) or the ring fails.
pub async fn run<H: Hardware>(
    mut core: GatewayCore,
    link: Arc<dyn Link>,
    queue: Arc<LinkQueue>,
    mut hardware: H,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) -> Result<(GatewayCore, H), EdgeError> {
    let mut effects = Vec::new();
    loop {
        let now = clock.now();
        for event in queue.take() {
            match event {
                LinkEvent::Connected { .. } => core.on_connected(now),
                LinkEvent::Disconnected { .. } => core.on_disconnected(now),
                LinkEvent::Message { topic, payload } => core.on_message(now, &topic, &payload),
            }
        }
        let wanted = hardware.poll(now, &mut core);
        core.drain(now, &mut effects)?;
        let mut again = false;
        for effect in effects.drain(..) {
            again |= carry_out(&mut core, &*link, &mut hardware, now, effect);
        }
        if *stop.borrow() {
            core.flush(clock.now())?;
            return Ok((core, hardware));
        }
        if again {
            continue;
        }
        let deadline = core.next_deadline().map_or(wanted, |own| own.min(wanted));
        let sleep = deadline.since(clock.now().mono).min(MAX_SLEEP_MS);
        tokio::select! {
            () = queue.wake.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(sleep)) => {}
            changed = stop.changed() => if changed.is_err() {
                core.flush(clock.now())?;
                return Ok((core, hardware));
            }
        }
    }
}

/// True when the hardware got something to do, so that the loop turns again at once.
fn carry_out<H: Hardware>(core: &mut GatewayCore, link: &dyn Link, hardware: &mut H, now: Now, effect: Effect) -> bool {
    match effect {
        Effect::Publish { topic, payload, qos1, ticket } => {
            if let Err(refused) = link.publish(&topic, payload, qos1) {
                core.on_publish_refused(now, ticket, refused);
            }
            false
        }
        Effect::Subscribe { filter } => {
            if let Err(refused) = link.subscribe(&filter) {
                tracing::warn!(%refused, filter, "the link did not take a subscription");
                core.on_subscribe_refused(now);
            }
            false
        }
        other => {
            hardware.on_effect(now, other, core);
            true
        }
    }
}

#[cfg(test)]
mod tests;
