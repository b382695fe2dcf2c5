//! Progressive filling under limits that cross the tree: the rise itself, from one full limit to the next.
//!
//! Every limit has a level at which it would be full if all its leaves rose together. The lowest of these
//! comes first: its leaves stay where they are then. That can only raise the levels of the others, so they
//! stand in a heap under the level that they had when last looked at, and are looked at again when they come
//! out. Exact for max-min wherever more of one leaf never makes room for another (free disposal).

use super::Problem;
use super::crossing::THIRDS;
use super::water::level_within;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A limit that can become full.
struct Row {
    /// What its leaves that no longer rise leave of its room.
    room: f64,
    /// Leaves that still rise, and the share of their watts that it carries.
    members: Vec<(u32, f64)>,
}

/// A level that is no NaN: those of the bits of a positive float, which sort as the numbers do.
fn key(level: f64) -> u64 {
    level.max(0.0).to_bits()
}

/// Max-min shares between `lower` and `upper`; `rooms` in watts, of the nodes and of the crossing limits.
pub(super) fn fill(problem: &Problem, rooms: &(Vec<f64>, Vec<f64>), lower: &[f64], upper: &[f64]) -> Vec<f64> {
    let weights: Vec<f64> = problem.leaves().iter().map(|leaf| f64::from(leaf.weight)).collect();
    let mut shares: Vec<f64> = upper.iter().zip(lower).map(|(upper, lower)| upper.max(*lower)).collect();
    let upper = shares.clone();
    // Who has no span does not rise.
    let mut rises: Vec<bool> = upper.iter().zip(lower).map(|(upper, lower)| upper > lower).collect();
    let share_at = |leaf: usize, level: f64| (weights[leaf] * level).max(lower[leaf]).min(upper[leaf]);
    let mut rows = rows(problem, rooms, &upper);
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = (0..rows.len()).map(|at| Reverse((0, at))).collect();
    while let Some(Reverse((seen, at))) = heap.pop() {
        rows[at].settle(&rises, &shares);
        let row = &rows[at];
        let most: f64 = row.members.iter().map(|(leaf, by)| by * upper[*leaf as usize]).sum();
        if row.members.is_empty() || most <= row.room {
            continue; // never full
        }
        let slope: f64 = row.members.iter().map(|(leaf, by)| by * weights[*leaf as usize]).sum();
        let guess = if seen > 0 { f64::from_bits(seen) } else { row.room / slope };
        let level = level_within(row.room, guess, |level| {
            row.members.iter().fold((0.0, 0.0), |(sum, slope), (leaf, by)| {
                let (share, leaf) = (weights[*leaf as usize] * level, *leaf as usize);
                let grows = share > lower[leaf] && share < upper[leaf];
                let slope_here = if grows { by * weights[leaf] } else { 0.0 };
                (sum + by * share.max(lower[leaf]).min(upper[leaf]), slope + slope_here)
            })
        });
        if heap.peek().is_some_and(|Reverse((next, _))| *next < key(level)) {
            heap.push(Reverse((key(level), at)));
            continue;
        }
        for (leaf, _) in &rows[at].members {
            let leaf = *leaf as usize;
            (shares[leaf], rises[leaf]) = (share_at(leaf, level), false);
        }
    }
    shares
}

impl Row {
    /// Takes out the leaves that no longer rise.
    fn settle(&mut self, rises: &[bool], shares: &[f64]) {
        let room = &mut self.room;
        self.members.retain(|(leaf, by)| {
            let rising = rises[*leaf as usize];
            if !rising {
                *room -= by * shares[*leaf as usize];
            }
            rising
        });
    }
}

/// The limits that can become full: the others are left out at once.
fn rows(problem: &Problem, rooms: &(Vec<f64>, Vec<f64>), upper: &[f64]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (node, room) in rooms.0.iter().enumerate() {
        let below = &problem.order()[problem.span(node)];
        if below.iter().map(|leaf| upper[*leaf as usize]).sum::<f64>() > *room {
            rows.push(Row { room: *room, members: below.iter().map(|leaf| (*leaf, 1.0)).collect() });
        }
    }
    for (row, room) in problem.crossings().rows().iter().zip(&rooms.1) {
        let part = |thirds: i64| thirds as f64 / THIRDS as f64;
        if row.members.iter().map(|(leaf, by)| part(*by) * upper[*leaf as usize]).sum::<f64>() > *room {
            rows.push(Row { room: *room, members: row.members.iter().map(|(leaf, by)| (*leaf, part(*by))).collect() });
        }
    }
    rows
}
