//! What the time of open sessions is used for, as their chargers show it: the car charges, is full, or waits for power.
//!
//! Only changes are told, as events, so that they are durable at the node and count towards the price of the session
//! by this gateway's stamps. A charger that takes nothing for a moment (a ramp, a grant that is being renewed) is not
//! told of: *full* and *paused* are told when they have lasted [`LASTS_MS`], stamped with when they began; that the
//! car charges again is told at once.

use crate::effect::{ChargerStatus, Now};
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::session::Flow;
use chargeplane_domain::units::Watts;
use chargeplane_protocol::message::GatewayEvent;
use std::collections::BTreeMap;

/// How long the car must have taken nothing before that is told.
pub(crate) const LASTS_MS: u64 = 3_000;

/// The open sessions by charger.
#[derive(Debug, Default)]
pub(crate) struct Flows(BTreeMap<u16, Told>);

#[derive(Debug)]
struct Told {
    session: SessionId,
    /// None in a boot that found the session open: what the one before had told is not known.
    flow: Option<Flow>,
    /// Another one that is not told yet, and since when.
    other: Option<(Flow, Now)>,
}

impl Flows {
    /// A session began: the node takes it to be charging.
    pub(crate) fn on_started(&mut self, child: u16, session: &SessionId) {
        let told = Told { session: session.clone(), flow: Some(Flow::Charging), other: None };
        self.0.insert(child, told);
    }

    /// It ended.
    pub(crate) fn on_stopped(&mut self, child: u16) {
        self.0.remove(&child);
    }

    /// What a charger shows; the event that must be told now, if any.
    pub(crate) fn on_status(&mut self, now: Now, child: u16, status: &ChargerStatus) -> Option<GatewayEvent> {
        let Some(session) = &status.session else {
            self.0.remove(&child);
            return None;
        };
        if self.0.get(&child).is_none_or(|told| told.session != *session) {
            self.0.insert(child, Told { session: session.clone(), flow: None, other: None });
        }
        let told = self.0.get_mut(&child)?;
        let shown = flow_of(status);
        if told.flow == Some(shown) {
            told.other = None;
            return None;
        }
        let since = told.other.filter(|(flow, _)| *flow == shown).map_or(now, |(_, since)| since);
        told.other = Some((shown, since));
        if shown != Flow::Charging && now.mono.since(since.mono) < LASTS_MS {
            return None;
        }
        (told.flow, told.other) = (Some(shown), None);
        Some(GatewayEvent::FlowChanged { child, session: session.clone(), flow: shown, at: since.wall })
    }
}

fn flow_of(status: &ChargerStatus) -> Flow {
    match (status.power > Watts::ZERO, status.demand > Watts::ZERO) {
        (true, _) => Flow::Charging,
        (false, true) => Flow::Paused,
        (false, false) => Flow::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(power: i64, demand: i64) -> ChargerStatus {
        let session = Some("main/c1.1".parse().expect("an id"));
        ChargerStatus { charging: true, power: Watts(power), demand: Watts(demand), session, ..Default::default() }
    }

    /// What is told at each step of a tenth of a second, by the moment and the stamp in tenths.
    fn told(flows: &mut Flows, from: u64, shown: impl IntoIterator<Item = (i64, i64)>) -> Vec<(u64, Flow, i64)> {
        let mut told = Vec::new();
        for (step, (power, demand)) in (from..).zip(shown) {
            let now = Now::new(step * 100, i64::try_from(step).expect("small") * 100 + 7);
            match flows.on_status(now, 1, &status(power, demand)) {
                Some(GatewayEvent::FlowChanged { child: 1, flow, at, .. }) => told.push((step, flow, at.0 / 100)),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        told
    }

    #[test]
    fn a_moment_without_power_is_not_told_and_a_pause_is_with_its_beginning() {
        let mut flows = Flows::default();
        flows.on_started(1, &"main/c1.1".parse().expect("an id"));
        assert_eq!(told(&mut flows, 0, vec![(0, 9); 29]), [], "the ramp of the start");
        assert_eq!(told(&mut flows, 29, vec![(5, 9); 10]), []);
        assert_eq!(told(&mut flows, 39, vec![(0, 9); 40]), [(69, Flow::Paused, 39)]);
        assert_eq!(told(&mut flows, 79, [(5, 9), (0, 9), (5, 9)]), [(79, Flow::Charging, 79)]);
    }

    #[test]
    fn a_car_that_wants_nothing_is_full_also_when_it_may_not_have_anything() {
        let mut flows = Flows::default();
        flows.on_started(1, &"main/c1.1".parse().expect("an id"));
        let shown = [vec![(0, 9); 20], vec![(0, 0); 40]].concat();
        assert_eq!(told(&mut flows, 0, shown), [(50, Flow::Full, 20)], "paused for two seconds is not told");
        assert_eq!(told(&mut flows, 60, vec![(0, 9); 31]), [(90, Flow::Paused, 60)]);
    }

    #[test]
    fn a_boot_that_finds_a_session_tells_what_it_sees() {
        let mut flows = Flows::default();
        assert_eq!(told(&mut flows, 0, [(5, 9)]), [(0, Flow::Charging, 0)]);
        flows.on_stopped(1);
        assert_eq!(told(&mut flows, 1, vec![(0, 0); 31]), [(31, Flow::Full, 1)]);
        assert_eq!(flows.on_status(Now::default(), 1, &ChargerStatus::default()), None);
        assert!(flows.0.is_empty());
    }
}
