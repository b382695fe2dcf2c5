//! The chargers of one gateway, as its shell sees them: reports go into the core, its effects go to the chargers.

use crate::bay::BayEvent;
use crate::book::{SharedBook, open};
use crate::evidence::CommandLine;
use crate::world::Report;
use crate::yard::Yard;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{ConnectorNo, SessionId};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Mono, WattHours, Watts};
use chargeplane_edge::effect::Acked;
use chargeplane_edge::runtime::Hardware;
use chargeplane_edge::{ChargerStatus, Effect, GatewayCore, Now};
use chargeplane_protocol::Stream;
use chargeplane_protocol::message::{CommandEnd, DownCommand, GatewayEvent};
use std::sync::Arc;

/// The fleet's chargers have one connector.
const CONNECTOR: ConnectorNo = ConnectorNo(1);
/// The code of an injected fault.
const FAULT_CODE: &str = "power_module";
/// How often the counters are copied for others to see, ms.
const COPY_MS: u64 = 200;
/// How long the shell may sleep when nothing wakes it, ms.
const SLEEP_MS: u64 = 1_000;

/// The chargers of one gateway.
#[derive(Debug)]
pub struct Chargers {
    yard: Arc<Yard>,
    gateway: usize,
    book: SharedBook,
    mail: Vec<Report>,
    /// Stops that a charger does not obey yet: (ms of the run when it will, stop).
    late: Vec<(u64, Stop)>,
    copy_at: u64,
    greeted: bool,
}

/// A stop for want of money.
#[derive(Debug)]
enum Stop {
    /// The allowance is used up.
    Allowance(u16, SessionId),
    /// The node wants it.
    Ordered(DownCommand),
}

/// What a command did to the hardware.
enum Done {
    Nothing,
    Started(SessionId, WattHours),
    Stopped(SessionId, WattHours, StopReason),
}

impl Chargers {
    /// The chargers of gateway number `gateway` of the configuration.
    pub fn new(yard: Arc<Yard>, gateway: usize, book: SharedBook) -> Self {
        Self { yard, gateway, book, mail: Vec::new(), late: Vec::new(), copy_at: 0, greeted: false }
    }

    /// Hands the collected reports to the core, in the order in which things happened.
    fn deliver(&mut self, now: Now, core: &mut GatewayCore) {
        let mut mail = std::mem::take(&mut self.mail);
        let mut book = open(&self.book);
        for report in mail.drain(..) {
            match report {
                Report::Sample { child, session, demand_w, sample } => {
                    let status = ChargerStatus {
                        charging: session.is_some(),
                        demand: Watts(demand_w),
                        power: sample.power,
                        register: sample.register,
                        session,
                    };
                    core.on_status(now, child, status);
                    match core.on_sample(now, child, sample) {
                        Ok(number) => book.numbered(child, number, &sample),
                        Err(refused) => tracing::error!(%refused, "a sample got no number"),
                    }
                }
                Report::Event { child, event } => tell(core, now, event_of(now, child, event)),
            }
        }
        drop(book);
        self.mail = mail;
    }

    /// The status of a charger right now, so that the core need not wait for the next step.
    fn refresh(&mut self, now: Now, core: &mut GatewayCore, child: u16) {
        let status = self.yard.floor().world.bay(self.gateway, child).map(|bay| ChargerStatus {
            charging: bay.is_charging(),
            demand: Watts(bay.demand_w()),
            power: Watts(bay.power_w()),
            register: WattHours(bay.register_wh()),
            session: bay.session().cloned(),
        });
        if let Some(status) = status {
            core.on_status(now, child, status);
        }
    }

    /// Keeps a stop that the charger does not obey yet; true when it does not.
    fn is_late(&mut self, child: u16, session: &SessionId, reason: StopReason, stop: impl FnOnce() -> Stop) -> bool {
        let due = {
            let world = &mut self.yard.floor().world;
            let at_ms = world.now_ms();
            let due = world.bay(self.gateway, child).map(|bay| bay.stops_at(session, reason, at_ms));
            due.filter(|due| *due > at_ms)
        };
        if let Some(due) = due {
            self.late.push((due, stop()));
        }
        due.is_some()
    }

    /// Carries out the stops that are due, and those whose session has ended by itself meanwhile.
    fn stop_late(&mut self, now: Now, core: &mut GatewayCore) {
        if self.late.is_empty() {
            return;
        }
        let due: Vec<(u64, Stop)> = {
            let world = &self.yard.floor().world;
            let (at_ms, gateway) = (world.now_ms(), self.gateway);
            let over = |stop: &Stop| match stop {
                Stop::Allowance(child, session) => world.session(gateway, *child) != Some(session),
                Stop::Ordered(command) => world.session(gateway, command.child) != command.action.session(),
            };
            self.late.extract_if(.., |(due, stop)| *due <= at_ms || over(stop)).collect()
        };
        for (_, stop) in due {
            match stop {
                Stop::Allowance(child, session) => self.stop(now, child, session, StopReason::Funds, core),
                Stop::Ordered(command) => self.execute(now, command, core),
            }
        }
    }

    fn execute(&mut self, now: Now, command: DownCommand, core: &mut GatewayCore) {
        let child = command.child;
        let (result, at_ms) = {
            let floor = &mut *self.yard.floor();
            // What the chargers said before this moment comes before the result.
            floor.collect(self.gateway, &mut self.mail);
            let at_ms = floor.world.now_ms();
            let result = match &command.action {
                Action::Start { session, .. } => floor
                    .world
                    .start(self.gateway, child, session)
                    .map(|register| Done::Started(session.clone(), register)),
                other => floor.world.bay(self.gateway, child).ok_or("unknown_child").and_then(|bay| match other {
                    Action::Stop { session, reason } => bay
                        .stop(session, *reason, at_ms)
                        .map(|register| Done::Stopped(session.clone(), register, *reason))
                        .ok_or("not_charging"),
                    Action::Reset => {
                        bay.reset(at_ms);
                        Ok(Done::Nothing)
                    }
                    Action::SetAvailability { available } => {
                        bay.set_available(*available);
                        Ok(Done::Nothing)
                    }
                    Action::Unlock { .. } if bay.is_charging() => Err("charging"),
                    Action::Unlock { .. } | Action::Start { .. } => Ok(Done::Nothing),
                }),
            };
            (result, at_ms)
        };
        self.deliver(now, core);
        self.yard.note_command(&CommandLine {
            command: command.id.clone(),
            charger: self.yard.name(self.gateway, child).cloned(),
            action: command.action.kind(),
            session: command.action.session().cloned(),
            at_ms,
            end: result.as_ref().err().map_or_else(|| "done".to_owned(), |code| (*code).to_owned()),
        });
        let at = now.wall;
        match result {
            Ok(done) => {
                core.on_command_result(now, &command.id, CommandEnd::Done);
                match done {
                    Done::Started(session, register) => {
                        tell(core, now, GatewayEvent::SessionStarted { child, session, register, at });
                    }
                    Done::Stopped(session, register, reason) => {
                        tell(core, now, GatewayEvent::SessionStopped { child, session, register, at, reason });
                    }
                    Done::Nothing => {}
                }
                self.refresh(now, core, child);
            }
            Err(code) => core.on_command_result(now, &command.id, CommandEnd::Refused(code.to_owned())),
        }
    }

    /// A command that an earlier boot was given: what is true now says whether it took effect. Chargers do not
    /// survive the fleet's process, so a start did not.
    fn inquire(&mut self, now: Now, command: &DownCommand, core: &mut GatewayCore) {
        let open = self.yard.floor().world.session(self.gateway, command.child).cloned();
        let end = match &command.action {
            Action::Start { session, .. } if open.as_ref() == Some(session) => CommandEnd::Done,
            Action::Stop { session, .. } if open.as_ref() != Some(session) => CommandEnd::Done,
            _ => CommandEnd::Refused("interrupted".to_owned()),
        };
        core.on_command_result(now, &command.id, end);
    }

    fn stop(&mut self, now: Now, child: u16, session: SessionId, reason: StopReason, core: &mut GatewayCore) {
        let register = {
            let floor = &mut *self.yard.floor();
            floor.collect(self.gateway, &mut self.mail);
            let at_ms = floor.world.now_ms();
            floor.world.bay(self.gateway, child).and_then(|bay| bay.stop(&session, reason, at_ms))
        };
        self.deliver(now, core);
        // None: it ended by itself in the meantime, and that was just reported.
        if let Some(register) = register {
            tell(core, now, GatewayEvent::SessionStopped { child, session, register, at: now.wall, reason });
            self.refresh(now, core, child);
        }
    }

    fn on_acked(&mut self, acked: &Acked) {
        let mut book = open(&self.book);
        acked.spans.iter().for_each(|span| book.acked(span));
        drop(book);
        if let Some(ms) = acked.latency_ms {
            self.yard.evidence().latencies.record(acked.ticket.stream == Stream::Events, ms);
        }
    }
}

impl Hardware for Chargers {
    fn poll(&mut self, now: Now, core: &mut GatewayCore) -> Mono {
        if !std::mem::replace(&mut self.greeted, true) {
            // The first beat already speaks of every charger.
            let children: Vec<u16> = self.yard.children(self.gateway).collect();
            children.into_iter().for_each(|child| self.refresh(now, core, child));
        }
        self.yard.floor().collect(self.gateway, &mut self.mail);
        self.deliver(now, core);
        self.stop_late(now, core);
        if now.mono.0 >= self.copy_at {
            self.copy_at = now.mono.0 + COPY_MS;
            let mut book = open(&self.book);
            book.stats = core.stats().clone();
            book.local = core.is_local();
        }
        now.mono.plus_ms(SLEEP_MS)
    }

    fn on_effect(&mut self, now: Now, effect: Effect, core: &mut GatewayCore) {
        match effect {
            Effect::Execute(command) => {
                let late = match &command.action {
                    Action::Stop { session, reason } => {
                        self.is_late(command.child, session, *reason, || Stop::Ordered(command.clone()))
                    }
                    _ => false,
                };
                if !late {
                    self.execute(now, command, core);
                }
            }
            Effect::Inquire(command) => self.inquire(now, &command, core),
            Effect::SetLimit { child, watts, .. } => {
                if let Some(bay) = self.yard.floor().world.bay(self.gateway, child) {
                    bay.set_limit(watts.0);
                }
            }
            Effect::StopCharging { child, session, reason } => {
                if !self.is_late(child, &session, reason, || Stop::Allowance(child, session.clone())) {
                    self.stop(now, child, session, reason, core);
                }
            }
            Effect::Denied { child, request, code } => {
                *open(&self.book).denials.entry(code).or_default() += 1;
                let world = &mut self.yard.floor().world;
                let at_ms = world.now_ms();
                if let Some(bay) = world.bay(self.gateway, child) {
                    bay.denied(request, at_ms);
                }
            }
            Effect::Acked(acked) => self.on_acked(&acked),
            Effect::SamplesRefused { ticket, items, reason } => {
                tracing::warn!(gateway = self.gateway, ?ticket, items, reason, "the node refused samples");
            }
            Effect::EventsRefused { ticket, numbers, reason } => {
                tracing::error!(gateway = self.gateway, ?ticket, ?numbers, reason, "the node refused events");
            }
            Effect::ModeChanged { local } => open(&self.book).local = local,
            Effect::Noticed { code, detail } => {
                tracing::debug!(gateway = self.gateway, code, detail, "the node could not use something");
                *open(&self.book).notices.entry(code).or_default() += 1;
            }
            // The shell carries these out itself.
            Effect::Publish { .. } | Effect::Subscribe { .. } => {}
        }
    }
}

fn event_of(now: Now, child: u16, event: BayEvent) -> GatewayEvent {
    let at = now.wall;
    match event {
        BayEvent::Status { plugged, available } => GatewayEvent::StatusChanged { child, plugged, available, at },
        BayEvent::Ask { account, request } => {
            GatewayEvent::StartRequested { child, connector: CONNECTOR, account, request, at }
        }
        BayEvent::Stopped { session, register, reason } => {
            GatewayEvent::SessionStopped { child, session, register, at, reason }
        }
        BayEvent::Fault => GatewayEvent::Fault { child, code: FAULT_CODE.to_owned(), at },
    }
}

fn tell(core: &mut GatewayCore, now: Now, event: GatewayEvent) {
    if let Err(refused) = core.on_event(now, event) {
        tracing::error!(%refused, "an event got no number");
    }
}
