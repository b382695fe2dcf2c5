//! Levels: how a leaf's watts are cut, and what each piece is worth.

use crate::allocation::water::guarantees;
use crate::allocation::{Admitted, Policy, Problem};
use serde::{Deserialize, Serialize};

/// Upper ends of the levels, as shares of the greatest watts by weight of the problem: fine where shares
/// under congestion lie, coarse above.
const ENDS: [f64; 8] = [2.0 / 120.0, 4.0 / 120.0, 8.0 / 120.0, 14.0 / 120.0, 22.0 / 120.0, 34.0 / 120.0, 0.5, 1.0];

/// The same for what answers needs, before everything else.
const NEED_ENDS: [f64; 4] = [10.0 / 120.0, 20.0 / 120.0, 40.0 / 120.0, 1.0];

/// How much more the last level of needs is worth than the first of the rest.
const NEEDS_FIRST: f64 = 10.0;

/// One level: from one threshold (W per unit of weight) to the next.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Level {
    /// Upper end.
    to: f64,
    /// Worth of a kW in it.
    price: f64,
    /// It answers needs; levels of needs come first.
    need: bool,
}

/// The levels of a programme, prices falling from each to the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Levels(Vec<Level>);

/// Bounds of the leaves, as the levels cut them.
pub(super) struct Spans {
    /// Least watts.
    pub lower: Vec<f64>,
    /// Where the levels of needs end; the least watts where there are none.
    pub need: Vec<f64>,
    /// Most watts.
    pub upper: Vec<f64>,
    weight: Vec<f64>,
}

impl Spans {
    /// The spans of those who are on.
    pub fn of(problem: &Problem, admitted: &Admitted) -> Self {
        let lower: Vec<f64> = admitted.lower.iter().map(|w| *w as f64).collect();
        let upper = admitted.upper.iter().zip(&lower).map(|(w, lower)| (*w as f64).max(*lower)).collect();
        let need = if problem.policy() == Policy::Needs { guarantees(problem, admitted) } else { lower.clone() };
        let weight = problem.leaves().iter().map(|leaf| f64::from(leaf.weight)).collect();
        Self { lower, need, upper, weight }
    }
}

impl Levels {
    /// The levels of a problem. A level's price is about the inverse of its middle to the power of the
    /// policy's steepness: 1 is proportional, more is closer to max-min. On a tree all lead to the same point.
    pub fn of(problem: &Problem, spans: &Spans) -> Self {
        let steepness = match problem.policy() {
            _ if problem.crossings().is_empty() => 1,
            Policy::Proportional => 1,
            Policy::Needs => 2,
            Policy::Fair | Policy::Strict => 3,
        };
        let needs = problem.policy() == Policy::Needs;
        let top = |from: &[f64], to: &[f64]| {
            let each = from.iter().zip(to).zip(&spans.weight).map(|((from, to), weight)| (to - from) / weight);
            each.fold(1.0_f64, f64::max)
        };
        // Without needs a level counts from 0, with needs from where the need ends.
        let zero = vec![0.0; spans.upper.len()];
        let rest = top(if needs { &spans.need } else { &zero }, &spans.upper);
        let mut levels = Vec::new();
        if needs {
            let dearest = level_price(0.0, ENDS[0], steepness);
            let cheapest = level_price(NEED_ENDS[2], NEED_ENDS[3], steepness);
            let by = NEEDS_FIRST * dearest / cheapest;
            let top = top(&zero, &spans.need);
            levels.extend(cut(&NEED_ENDS, top, steepness).map(|level| Level {
                price: level.price * by,
                need: true,
                ..level
            }));
        }
        levels.extend(cut(&ENDS, rest, steepness));
        Self(levels)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The prices, falling.
    pub fn prices(&self) -> impl Iterator<Item = f64> + '_ {
        self.0.iter().map(|level| level.price)
    }

    /// `f`: a leaf's watts when the first `full` levels are full.
    pub fn watts(&self, spans: &Spans, leaf: usize, full: usize) -> f64 {
        let Some(level) = full.checked_sub(1).and_then(|at| self.0.get(at)) else { return spans.lower[leaf] };
        let reached = spans.weight[leaf] * level.to;
        let (lower, need, upper) = (spans.lower[leaf], spans.need[leaf], spans.upper[leaf]);
        if level.need {
            reached.max(lower).min(need)
        } else if self.0[0].need {
            need + reached.min(upper - need)
        } else {
            reached.max(lower).min(upper)
        }
    }
}

fn cut(ends: &'static [f64], top: f64, steepness: i32) -> impl Iterator<Item = Level> {
    let from = std::iter::once(0.0).chain(ends.iter().copied());
    let level =
        move |(from, to): (f64, &f64)| Level { to: to * top, price: level_price(from, *to, steepness), need: false };
    from.zip(ends).map(level)
}

fn level_price(from: f64, to: f64, steepness: i32) -> f64 {
    let middle = if from > 0.0 { (from * to).sqrt() } else { 0.7 * to };
    (1.0 / middle).powi(steepness)
}
