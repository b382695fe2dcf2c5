//! The textbook's progressive filling: slow and obvious, over a list of limits written down anew.

use crate::allocation::{Admitted, Phase, Phases, Problem};

/// A limit: leaves with the part of their watts that it carries, and the room for them.
pub struct Line {
    pub parts: Vec<(usize, f64)>,
    pub room: f64,
}

/// Every limit of a problem. Room is without base load and without the reserves of who is not on.
pub fn lines(problem: &Problem, admitted: &Admitted) -> Vec<Line> {
    let leaves = problem.leaves();
    let below = |at: usize, node: usize| problem.ancestors(at).any(|above| above == node);
    let reserve = |at: usize| if admitted.upper[at] > 0 { 0.0 } else { leaves[at].reserve.0 as f64 };
    let mut lines = Vec::new();
    let mut push = |parts: Vec<(usize, f64)>, limit: i64, base: f64| {
        let kept: f64 = parts.iter().map(|(at, part)| part * reserve(*at)).sum();
        lines.push(Line { room: limit as f64 - base - kept, parts });
    };
    for (node, of) in problem.nodes().iter().enumerate() {
        let inside: Vec<usize> = (0..leaves.len()).filter(|at| below(leaves[*at].node as usize, node)).collect();
        let nodes = || problem.nodes().iter().enumerate().filter(|(at, _)| below(*at, node)).map(|(_, node)| node);
        push(inside.iter().map(|at| (*at, 1.0)).collect(), of.limit.0, nodes().map(|node| node.base.0 as f64).sum());
        let Some(limit) = of.phase_limit else { continue };
        for phase in Phase::ALL {
            let part = |at: &usize| match leaves[*at].phases {
                Phases::Three => Some((*at, 1.0 / 3.0)),
                Phases::One(own) => (own == phase).then_some((*at, 1.0)),
            };
            let base = nodes().map(|node| {
                let alone: i64 = node.base_on.iter().map(|w| w.0).sum();
                (node.base.0 - alone) as f64 / 3.0 + node.base_on[phase as usize].0 as f64
            });
            push(inside.iter().filter_map(part).collect(), limit.0, base.sum());
        }
    }
    for cap in problem.caps() {
        push(cap.leaves.iter().map(|at| (*at as usize, 1.0)).collect(), cap.limit.0, cap.base.0 as f64);
    }
    lines
}

/// Raises a common level by bisection; at the last that fits, everybody under a limit that breaks just above
/// it stays where it is.
pub fn progressive_filling(problem: &Problem, lines: &[Line], lower: &[f64], upper: &[f64]) -> Vec<f64> {
    let leaves = problem.leaves();
    let mut frozen: Vec<Option<f64>> = vec![None; leaves.len()];
    let share =
        |at: usize, level: f64| (f64::from(leaves[at].weight) * level).max(lower[at]).min(upper[at].max(lower[at]));
    let top = 1e6;
    loop {
        let at_level = |level: f64| -> Vec<f64> {
            (0..leaves.len()).map(|at| frozen[at].unwrap_or_else(|| share(at, level))).collect()
        };
        let breaks = |line: &Line, watts: &[f64]| {
            line.parts.iter().map(|(at, part)| part * watts[*at]).sum::<f64>() > line.room + 1e-7
                && line.parts.iter().any(|(at, _)| frozen[*at].is_none() && upper[*at] > lower[*at])
        };
        let fits = |level: f64| !lines.iter().any(|line| breaks(line, &at_level(level)));
        if fits(top) {
            return at_level(top);
        }
        let (mut below, mut above) = (0.0, top);
        for _ in 0..80 {
            let middle = (below + above) / 2.0;
            if fits(middle) { below = middle } else { above = middle }
        }
        let broken = at_level(above);
        let stuck: Vec<usize> =
            lines.iter().filter(|line| breaks(line, &broken)).flat_map(|line| &line.parts).map(|(at, _)| *at).collect();
        for at in stuck {
            let value = share(at, below);
            frozen[at].get_or_insert(value);
        }
    }
}
