//! Needs of a tick's problem, planned ahead: what its leaves should get first in this tick.

use super::{Horizon, HorizonError, Stay};
use crate::allocation::crossing::THIRDS;
use crate::allocation::phasor::LinearLimit;
use crate::allocation::{Admitted, Problem, admit};
use crate::units::Watts;

/// A leaf that wants energy by a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Index of the leaf.
    pub leaf: u32,
    /// Energy that it still wants, in watt-seconds.
    pub need_ws: i64,
    /// Seconds until it leaves.
    pub leaves_in_s: u32,
}

/// A [`Horizon`] over the leaves of a problem that wish for energy.
#[derive(Debug, Clone, PartialEq)]
pub struct Ahead {
    /// The question; its stays are the wishes in their order.
    pub horizon: Horizon,
    leaves: Vec<u32>,
}

impl Ahead {
    /// The wishes of a problem's leaves, under all its limits as they are now. Those who are on without a
    /// wish keep their minimum; leaves that are off are not planned for.
    pub fn new(problem: &Problem, tick_s: u32, wishes: &[Wish]) -> Result<Self, HorizonError> {
        let admitted = admit(problem);
        let on = |wish: &&Wish| admitted.upper.get(wish.leaf as usize).is_some_and(|upper| *upper > 0);
        let wishes: Vec<&Wish> = wishes.iter().filter(on).collect();
        let leaves: Vec<u32> = wishes.iter().map(|wish| wish.leaf).collect();
        let stay = |wish: &&Wish| Stay {
            most: Watts(admitted.upper[wish.leaf as usize]),
            need_ws: wish.need_ws,
            leaves_in_s: wish.leaves_in_s,
        };
        let stays = wishes.iter().map(stay).collect();
        let limits = limits(problem, &admitted, &leaves);
        Ok(Self { horizon: Horizon::new(tick_s, stays, limits.clone(), limits)?, leaves })
    }

    /// The problem with these watts, one for each stay of the horizon, as the needs of its leaves. Needs say
    /// who is served first; every limit is still the tick's to keep.
    pub fn needs(&self, problem: Problem, watts: &[Watts]) -> Problem {
        let mut needs = vec![Watts::ZERO; problem.leaves().len()];
        for (leaf, watts) in self.leaves.iter().zip(watts) {
            if let Some(need) = needs.get_mut(*leaf as usize) {
                *need = *watts;
            }
        }
        problem.with_needs(&needs)
    }
}

/// Every limit of the problem over the stays, less the minima of those who are on without one.
fn limits(problem: &Problem, admitted: &Admitted, leaves: &[u32]) -> Vec<LinearLimit> {
    let mut stay_of = vec![None; problem.leaves().len()];
    for (stay, leaf) in leaves.iter().enumerate() {
        stay_of[*leaf as usize] = Some(stay as u32);
    }
    let limit = |room: f64, members: &mut dyn Iterator<Item = (u32, f64)>| {
        let mut limit = LinearLimit { room, loads: Vec::new() };
        for (leaf, by) in members {
            match stay_of[leaf as usize] {
                Some(stay) => limit.loads.push((stay, by)),
                None => limit.room -= by * admitted.lower[leaf as usize] as f64,
            }
        }
        limit
    };
    let of_node = |node: usize| {
        let below = &problem.order()[problem.span(node)];
        limit(admitted.room[node] as f64, &mut below.iter().map(|leaf| (*leaf, 1.0)))
    };
    let nodes = (0..problem.nodes().len()).map(of_node);
    let rows = problem.crossings().rows().iter().zip(&admitted.crossing).map(|(row, room)| {
        let by = |thirds: i64| thirds as f64 / THIRDS as f64;
        limit(by(*room), &mut row.members.iter().map(|(leaf, thirds)| (*leaf, by(*thirds))))
    });
    nodes.chain(rows).filter(|limit| !limit.loads.is_empty()).collect()
}
