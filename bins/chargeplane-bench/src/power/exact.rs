//! The exact fair shares by another method: progressive filling over a flat list of limits, each level found
//! by bisection. Slow, and shares no code with the allocator.

use chargeplane_domain::allocation::{Allocation, Phase, Phases, Problem};

struct Line {
    parts: Vec<(usize, f64)>,
    room: f64,
    /// Level at which it is full; none when it must be looked for anew.
    level: Option<f64>,
}

/// True when every grant is within a step of the exact share. Only for problems in which everybody is on.
pub fn within_a_step(problem: &Problem, allocation: &Allocation) -> bool {
    let pairs = allocation.watts.iter().zip(shares(problem)).zip(problem.leaves());
    allocation.watts.len() == problem.leaves().len()
        && pairs.into_iter().all(|((grant, share), leaf)| (grant.0 as f64 - share).abs() <= leaf.step.0 as f64)
}

fn shares(problem: &Problem) -> Vec<f64> {
    let leaves = problem.leaves();
    let floor = |watts: i64, step: i64| (watts / step * step) as f64;
    let lower: Vec<f64> = leaves.iter().map(|leaf| floor(leaf.min.0 + leaf.step.0 - 1, leaf.step.0)).collect();
    let upper: Vec<f64> = leaves.iter().map(|leaf| floor(leaf.max.0, leaf.step.0)).collect();
    let mut lines = lines(problem);
    let mut frozen: Vec<Option<f64>> = vec![None; leaves.len()];
    let share = |at: usize, level: f64| (f64::from(leaves[at].weight) * level).clamp(lower[at], upper[at]);
    loop {
        for line in lines.iter_mut().filter(|line| line.level.is_none()) {
            let used = |level: f64| -> f64 {
                line.parts.iter().map(|(at, part)| part * frozen[*at].unwrap_or_else(|| share(*at, level))).sum()
            };
            let open = line.parts.iter().any(|(at, _)| frozen[*at].is_none());
            let (mut fits, mut full) = (0.0, 1e6);
            if !open || used(full) <= line.room {
                line.level = Some(f64::INFINITY);
                continue;
            }
            for _ in 0..70 {
                let middle = (fits + full) / 2.0;
                if used(middle) <= line.room { fits = middle } else { full = middle }
            }
            line.level = Some(fits);
        }
        let lowest = |line: &Line| line.level.unwrap_or(f64::INFINITY);
        let next = (0..lines.len()).min_by(|a, b| lowest(&lines[*a]).total_cmp(&lowest(&lines[*b])));
        let Some(line) = next.filter(|at| lowest(&lines[*at]).is_finite()) else { break };
        let level = lowest(&lines[line]);
        let stops: Vec<usize> =
            lines[line].parts.iter().map(|(at, _)| *at).filter(|at| frozen[*at].is_none()).collect();
        for at in &stops {
            frozen[*at] = Some(share(*at, level));
        }
        let mut stopped = vec![false; leaves.len()];
        stops.iter().for_each(|at| stopped[*at] = true);
        for line in &mut lines {
            // Who stood at a bound already changes no level.
            if line.parts.iter().any(|(at, _)| stopped[*at]) {
                line.level = None;
            }
        }
    }
    frozen.iter().enumerate().map(|(at, frozen)| frozen.unwrap_or(upper[at])).collect()
}

fn lines(problem: &Problem) -> Vec<Line> {
    let (nodes, leaves) = (problem.nodes(), problem.leaves());
    let mut inside: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (at, leaf) in leaves.iter().enumerate() {
        let mut node = Some(leaf.node);
        while let Some(above) = node {
            inside[above as usize].push(at);
            node = nodes[above as usize].parent;
        }
    }
    let line = |parts: Vec<(usize, f64)>, limit: i64| Line { parts, room: limit as f64, level: None };
    let mut lines = Vec::new();
    for (node, inside) in nodes.iter().zip(&inside) {
        lines.push(line(inside.iter().map(|at| (*at, 1.0)).collect(), node.limit.0));
        for phase in Phase::ALL {
            let part = |at: &usize| match leaves[*at].phases {
                Phases::Three => Some((*at, 1.0 / 3.0)),
                Phases::One(own) => (own == phase).then_some((*at, 1.0)),
            };
            if let Some(limit) = node.phase_limit {
                lines.push(line(inside.iter().filter_map(part).collect(), limit.0));
            }
        }
    }
    lines.extend(
        problem.caps().iter().map(|cap| line(cap.leaves.iter().map(|at| (*at as usize, 1.0)).collect(), cap.limit.0)),
    );
    lines
}
