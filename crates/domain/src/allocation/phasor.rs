//! Limits on the magnitude of a sum of alternating currents, as linear limits.
//!
//! Chargers between two lines of a three-phase transformer load it with currents of different angles, and
//! what heats a winding is the magnitude of their sum: not linear in the chargers' watts, and not even
//! growing with them, since one phase can relieve another. Two things are made of such a limit here:
//!
//! - [`inside`](PhasorLimit::inside): rows that together imply it, **also when any charger takes less than
//!   it may**. A row looks along one direction and counts only what adds to it, never what relieves it.
//! - [`around`](PhasorLimit::around): rows that it implies as long as nothing relieves anything; for
//!   planning ahead, where a little too much hope costs nothing.
//!
//! In a direction `d` the sum `S` of currents is at most `sum of max(0, c_i . d) x watts_i`. With `n` facets
//! over the angle that the currents span, each `width` wide, a magnitude `L` is kept by rows of
//! `L x cos(width / 2)` along the facets' normals. Directions outside that angle need no row: a direction at
//! its edge sees at least as much of every current.

use crate::units::Watts;
use std::f64::consts::{PI, TAU};

/// Taken off every limit (in its unit) for the arithmetic in floating point, here and in plans.
const MARGIN: f64 = 1e-3;

/// A limit that is linear in watts: the sum of `by x watts` is at most `room`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinearLimit {
    /// What its members may load it with together; below zero nobody may have anything.
    pub room: f64,
    /// Members, as the caller's indices, and how much a watt of each loads it. Never below zero.
    pub loads: Vec<(u32, f64)>,
}

impl LinearLimit {
    /// What `watts` load it with.
    pub fn load(&self, watts: &[Watts]) -> f64 {
        let load = |(at, by): &(u32, f64)| by * watts.get(*at as usize).map_or(0.0, |watts| watts.0 as f64);
        self.loads.iter().map(load).sum()
    }
}

/// A limit on the magnitude of `sum of (re_i + j im_i) x watts_i`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PhasorLimit {
    /// Greatest magnitude, in the unit of the members' coefficients times watts (amperes, say).
    pub most: f64,
    /// Members, as the caller's indices, and the current of a watt of each.
    pub loads: Vec<(u32, [f64; 2])>,
}

impl PhasorLimit {
    /// Linear rows that together imply this limit, whatever each charger takes of its watts. `facets` is for
    /// a full turn: 96 give away at most 0.06 % of the limit, 24 at most 0.9 %.
    pub fn inside(&self, facets: u32) -> Vec<LinearLimit> {
        let arc = self.arc();
        let count = arc.facets(facets);
        if count == 0 {
            return vec![self.row(arc.from, self.most - MARGIN)];
        }
        let width = arc.width / f64::from(count);
        let room = self.most * (width / 2.0).cos() - MARGIN;
        (0..count).map(|at| self.row(arc.from + width * (f64::from(at) + 0.5), room)).collect()
    }

    /// Linear rows that touch this limit from outside, `facets` for a full turn.
    pub fn around(&self, facets: u32) -> Vec<LinearLimit> {
        let arc = self.arc();
        let count = arc.facets(facets);
        let width = if count == 0 { 0.0 } else { arc.width / f64::from(count) };
        (0..=count).map(|at| self.row(arc.from + width * f64::from(at), self.most - MARGIN)).collect()
    }

    /// The magnitude at these watts: the definition, for checks.
    pub fn magnitude(&self, watts: &[Watts]) -> f64 {
        let along = |axis: usize| -> f64 {
            let of = |(at, by): &(u32, [f64; 2])| by[axis] * watts.get(*at as usize).map_or(0.0, |w| w.0 as f64);
            self.loads.iter().map(of).sum()
        };
        along(0).hypot(along(1))
    }

    fn row(&self, direction: f64, room: f64) -> LinearLimit {
        let (sin, cos) = direction.sin_cos();
        let along = |(at, [re, im]): &(u32, [f64; 2])| (*at, (re * cos + im * sin).max(0.0));
        let counts = |(_, by): &(u32, f64)| *by > 1e-9 * self.largest();
        LinearLimit { room, loads: self.loads.iter().map(along).filter(counts).collect() }
    }

    fn largest(&self) -> f64 {
        self.loads.iter().map(|(_, [re, im])| re.hypot(*im)).fold(0.0, f64::max)
    }

    /// The angle that the members' currents span: the full turn without its widest gap.
    fn arc(&self) -> Arc {
        let loads = self.loads.iter().filter(|(_, [re, im])| re.hypot(*im) > 0.0);
        let mut angles: Vec<f64> = loads.map(|(_, [re, im])| im.atan2(*re).rem_euclid(TAU)).collect();
        angles.sort_unstable_by(f64::total_cmp);
        let Some((first, last)) = angles.first().copied().zip(angles.last().copied()) else {
            return Arc { from: 0.0, width: 0.0 };
        };
        let mut widest = (TAU - last + first, first);
        for pair in angles.windows(2) {
            if pair[1] - pair[0] > widest.0 {
                widest = (pair[1] - pair[0], pair[1]);
            }
        }
        let width = TAU - widest.0;
        // From half a turn on, a direction in the gap can see two sides at once: every direction counts.
        if width >= PI - 1e-9 { Arc { from: 0.0, width: TAU } } else { Arc { from: widest.1, width } }
    }
}

struct Arc {
    from: f64,
    width: f64,
}

impl Arc {
    /// Facets on this arc when there are `turn` on a full one; none when all currents have one angle.
    fn facets(&self, turn: u32) -> u32 {
        if self.width < 1e-9 { 0 } else { ((self.width / TAU * f64::from(turn.max(4))).ceil() as u32).max(1) }
    }
}

#[cfg(test)]
mod tests;
