//! What all gateways and the run share: the station, what its chargers have to tell their gateways, the evidence.
//!
//! One lock over the station and the mail: a step of the whole station and a decision of one gateway never overlap,
//! so a load reading is one instant, and whatever a charger reported before a command is delivered before its result.

use crate::evidence::{CommandLine, Evidence};
use crate::load::LoadTotals;
use crate::world::{Counts, Report, World};
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::units::Timestamp;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The station and its evidence.
#[derive(Debug)]
pub struct Yard {
    floor: Mutex<Floor>,
    evidence: Mutex<Evidence>,
    /// Charger of each (gateway, child).
    names: BTreeMap<(usize, u16), ChargerId>,
    /// First failure to write evidence: without evidence the run is worth nothing.
    failed: Mutex<Option<io::Error>>,
}

/// The station, and what waits for each gateway.
#[derive(Debug)]
pub struct Floor {
    /// The station.
    pub world: World,
    mail: Vec<Vec<Report>>,
}

impl Floor {
    /// Moves what waits for a gateway to the end of `into`.
    pub fn collect(&mut self, gateway: usize, into: &mut Vec<Report>) {
        if let Some(mail) = self.mail.get_mut(gateway) {
            into.append(mail);
        }
    }

    /// True when no gateway has mail.
    pub fn is_delivered(&self) -> bool {
        self.mail.iter().all(Vec::is_empty)
    }
}

/// No user of these locks leaves a half-made state behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Yard {
    /// The yard of `gateways` gateways.
    pub fn new(world: World, evidence: Evidence, gateways: usize, names: BTreeMap<(usize, u16), ChargerId>) -> Self {
        Self {
            floor: Mutex::new(Floor { world, mail: vec![Vec::new(); gateways] }),
            evidence: Mutex::new(evidence),
            names,
            failed: Mutex::new(None),
        }
    }

    /// The station. Hold it briefly: everybody needs it.
    pub fn floor(&self) -> MutexGuard<'_, Floor> {
        lock(&self.floor)
    }

    /// The evidence.
    pub fn evidence(&self) -> MutexGuard<'_, Evidence> {
        lock(&self.evidence)
    }

    /// Steps the station.
    pub fn step(&self, at: Timestamp) {
        let floor = &mut *self.floor();
        floor.world.step(at, &mut floor.mail);
    }

    /// The charger behind a child number.
    pub fn name(&self, gateway: usize, child: u16) -> Option<&ChargerId> {
        self.names.get(&(gateway, child))
    }

    /// The children of a gateway.
    pub fn children(&self, gateway: usize) -> impl Iterator<Item = u16> {
        self.names.range((gateway, 0)..=(gateway, u16::MAX)).map(|((_, child), _)| *child)
    }

    /// Notes a command.
    pub fn note_command(&self, line: &CommandLine) {
        let written = self.evidence().command(line);
        self.note(written);
    }

    /// Ends the second `t`: sessions that ended, and the load.
    pub fn end_second(&self, t: u64, chargers: &[ChargerId]) -> (Counts, LoadTotals, crate::load::LoadRow) {
        let (finished, row, counts, totals) = {
            let world = &mut self.floor().world;
            let row = world.meter().end_second(t);
            (world.take_finished(), row, world.counts(), world.meter().totals())
        };
        let mut evidence = self.evidence();
        let mut sessions = finished.into_iter().filter_map(|(i, session)| Some((chargers.get(i)?, session)));
        let written = sessions.try_for_each(|(charger, session)| evidence.session(charger, session)).and_then(|()| {
            match row.steps {
                0 => Ok(()),
                _ => evidence.second(&row),
            }
        });
        drop(evidence);
        self.note(written);
        (counts, totals, row)
    }

    /// Keeps the first failure.
    pub fn note(&self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::error!(%error, "the evidence could not be written");
            lock(&self.failed).get_or_insert(error);
        }
    }

    /// The first failure to write evidence.
    pub fn take_failure(&self) -> Option<io::Error> {
        lock(&self.failed).take()
    }
}
