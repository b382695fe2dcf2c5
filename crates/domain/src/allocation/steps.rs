//! From shares to whole steps of the chargers.

use super::admission::steps_down;
use super::problem::Policy;
use super::water::whole;
use super::{Admitted, Allocation, Problem};
use crate::units::Watts;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Rounds down to whole steps, then hands out the steps that are left: first one to everybody who has room, the
/// lowest exact share by weight first, among equal ones whoever then has least; then, while there is room, more
/// to whoever then has least. Where needs come first, watts that answer a need go before all others.
///
/// By exact shares and not by what the rounding left of them: on a tree, those under a limit then use up what
/// they were rounded down by before somebody under a wider one, with more, takes it from them.
pub(super) fn quantise(problem: &Problem, admitted: &Admitted, shares: &[f64]) -> Allocation {
    let leaves = problem.leaves();
    let watts = leaves.iter().zip(shares).zip(&admitted.lower);
    let watts = watts.map(|((leaf, share), lower)| steps_down(whole(*share), leaf.step.0).max(*lower)).collect();
    let mut hand = Hand::new(problem, admitted, watts);
    let key = |hand: &Hand<'_>, at: usize| {
        let after = hand.watts[at] + leaves[at].step.0;
        u64::from(hand.level(at, shares[at])) << 32 | u64::from(hand.level(at, after as f64))
    };
    let mut first: Vec<(u64, u32)> =
        (0..leaves.len()).filter(|at| hand.can_rise(*at)).map(|at| (key(&hand, at), at as u32)).collect();
    first.sort_unstable();
    let mut again = Vec::new();
    for at in first.into_iter().map(|(_, at)| at as usize) {
        if hand.can_rise(at) {
            hand.raise(at);
            again.push(at);
        }
    }
    // Mostly nobody is left here: room only shrinks, and who has none now is done.
    let next = |hand: &Hand<'_>, at: usize| {
        let after = hand.watts[at] + leaves[at].step.0;
        hand.can_rise(at).then(|| Reverse((hand.level(at, after as f64), at)))
    };
    let mut heap: BinaryHeap<_> = again.into_iter().filter_map(|at| next(&hand, at)).collect();
    while let Some(Reverse((_, at))) = heap.pop() {
        if hand.can_rise(at) {
            hand.raise(at);
            heap.extend(next(&hand, at));
        }
    }
    Allocation { watts: hand.watts.into_iter().map(Watts).collect() }
}

/// Watts so far, and the room that they leave.
struct Hand<'a> {
    problem: &'a Problem,
    upper: &'a [i64],
    lower: &'a [i64],
    watts: Vec<i64>,
    room: Vec<i64>,
    crossing: Vec<i64>,
    needs: bool,
}

impl<'a> Hand<'a> {
    fn new(problem: &'a Problem, admitted: &'a Admitted, watts: Vec<i64>) -> Self {
        let (mut room, mut crossing) = (admitted.room.clone(), admitted.crossing.clone());
        let mut used = vec![0_i64; room.len()];
        for (leaf, watts) in problem.leaves().iter().zip(&watts) {
            used[leaf.node as usize] += watts;
        }
        for node in (0..room.len()).rev() {
            room[node] -= used[node];
            if let Some(parent) = problem.nodes()[node].parent {
                used[parent as usize] += used[node];
            }
        }
        for (row, room) in problem.crossings().rows().iter().zip(&mut crossing) {
            *room -= row.members.iter().map(|(leaf, by)| by * watts[*leaf as usize]).sum::<i64>();
        }
        let (upper, lower, needs) = (&admitted.upper[..], &admitted.lower[..], problem.policy() == Policy::Needs);
        Self { problem, upper, lower, watts, room, crossing, needs }
    }

    /// True when one more step is within the leaf's bound and every limit above it.
    fn can_rise(&self, at: usize) -> bool {
        let leaf = &self.problem.leaves()[at];
        let step = leaf.step.0;
        self.watts[at] + step <= self.upper[at]
            && self.problem.ancestors(leaf.node as usize).all(|node| self.room[node] >= step)
            && self.problem.crossings().above(at).iter().all(|(row, by)| self.crossing[*row as usize] >= by * step)
    }

    fn raise(&mut self, at: usize) {
        let leaf = &self.problem.leaves()[at];
        let step = leaf.step.0;
        self.watts[at] += step;
        self.problem.ancestors(leaf.node as usize).for_each(|node| self.room[node] -= step);
        self.problem.crossings().above(at).iter().for_each(|(row, by)| self.crossing[*row as usize] -= by * step);
    }

    /// Where the leaf stands with these watts, by weight: the bits of a positive `f32`, which sort as numbers do
    /// and are coarse enough to take the levels of one limit for equal.
    fn level(&self, at: usize, watts: f64) -> u32 {
        /// Above the bits of every positive float: what is no answer to a need comes later.
        const LATER: u32 = 1 << 31;
        let leaf = &self.problem.leaves()[at];
        let bits = |watts: f64| ((watts / f64::from(leaf.weight)) as f32).to_bits();
        if !self.needs {
            return bits(watts);
        }
        let need = leaf.need.0.clamp(self.lower[at], self.upper[at].max(self.lower[at]));
        if self.watts[at] < need { bits(watts) } else { bits((watts - need as f64).max(0.0)) | LATER }
    }
}
