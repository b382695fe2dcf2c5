//! What a station remembers across owners: ceilings.

use crate::ids::ChargerId;
use crate::units::Watts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Durable state of a station.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationState {
    /// The most that each charger may have been granted; absent means nothing.
    pub ceilings: BTreeMap<ChargerId, Watts>,
}

/// What changes a [`StationState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StationEvent {
    /// New ceilings for these chargers, up or down; the others keep theirs.
    CeilingsSet(Vec<(ChargerId, Watts)>),
}

impl StationState {
    /// Takes an event in. A ceiling of zero is no ceiling.
    pub fn apply(&mut self, event: &StationEvent) {
        match event {
            StationEvent::CeilingsSet(ceilings) => {
                for (charger, watts) in ceilings {
                    if watts.is_positive() {
                        self.ceilings.insert(charger.clone(), *watts);
                    } else {
                        self.ceilings.remove(charger);
                    }
                }
            }
        }
    }
}
