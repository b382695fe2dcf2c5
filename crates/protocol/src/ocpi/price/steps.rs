//! `step_size`: what is billed is rounded up to whole steps, once a session for energy, once for time.
//!
//! It is the total of a dimension that is rounded, by the step of the last component that priced it; what is added
//! belongs to the last part. Where parking is priced, its total is rounded and the time charging is not. The time of a
//! reservation ends where the session begins and is rounded by itself, as the specification's examples do.

use super::conditions::step;
use super::{Dimension, Part, VOLUMES};
use crate::ocpi::exact::round_up;
use crate::ocpi::tariff::Tariff;

/// Rounds up what is billed. `None` when it does not fit.
pub(super) fn apply(tariff: &Tariff, parts: &mut [Part]) -> Option<()> {
    let parked = parts.iter().any(|part| priced(part, Dimension::ParkingTime));
    for (index, dimension) in VOLUMES.into_iter().enumerate() {
        if dimension == Dimension::Time && parked {
            continue;
        }
        apply_one(tariff, parts, index, dimension)?;
    }
    Some(())
}

fn priced(part: &Part, dimension: Dimension) -> bool {
    VOLUMES.iter().zip(&part.volumes).any(|(d, volume)| *d == dimension && volume.place.is_some())
}

fn apply_one(tariff: &Tariff, parts: &mut [Part], index: usize, dimension: Dimension) -> Option<()> {
    let mut total = 0_i128;
    for volume in parts.iter().filter_map(|part| part.volumes.get(index)).filter(|v| v.place.is_some()) {
        total = total.checked_add(volume.consumed)?;
    }
    let last = parts.iter_mut().rev().filter_map(|p| p.volumes.get_mut(index)).find(|v| v.place.is_some());
    let Some((last, place)) = last.and_then(|volume| volume.place.map(|place| (volume, place))) else {
        return Some(());
    };
    let step = step(tariff, place, dimension)?;
    if step > 0 && total > 0 {
        let added = round_up(total, step)?.checked_sub(total)?;
        last.billed = last.billed.checked_add(added)?;
    }
    Some(())
}
