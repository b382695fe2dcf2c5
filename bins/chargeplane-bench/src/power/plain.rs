//! The programme as one writes it first: one column a charger and segment, four segments, every limit a row
//! over all of them, the crate's default options.

use anyhow::{Context, bail};
use chargeplane_domain::allocation::{Phase, Phases, Problem};
use highs::{HighsModelStatus, RowProblem, Sense, SolvedModel};

/// Ends of the segments, as shares of a charger's range above its minimum.
const SEGMENTS: [f64; 4] = [0.1, 0.3, 0.6, 1.0];

/// Builds and solves it.
pub fn solve(problem: &Problem) -> anyhow::Result<SolvedModel> {
    let leaves = problem.leaves();
    let mut programme = RowProblem::new();
    let mut columns = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        let range = (leaf.max.0 - leaf.min.0) as f64 / 1_000.0;
        let weight = f64::from(leaf.weight);
        let mut from = 0.0;
        let segments = SEGMENTS.map(|to| {
            // A kW is worth less the more there is by weight: the slope of the logarithm.
            let middle = leaf.min.0 as f64 / 1_000.0 + range * (from + to) / 2.0;
            let column = programme.add_column(weight / middle.max(1e-3), 0.0..=(to - from) * range);
            from = to;
            column
        });
        columns.push(segments);
    }
    let mut row = |parts: &[(usize, f64)], limit: i64| {
        let kept: f64 = parts.iter().map(|(at, part)| part * leaves[*at].min.0 as f64).sum();
        let terms = parts.iter().flat_map(|(at, part)| columns[*at].iter().map(move |column| (*column, *part)));
        programme.add_row(..=((limit as f64 - kept) / 1_000.0).max(0.0), terms);
    };
    for (at, node) in problem.nodes().iter().enumerate() {
        let below: Vec<usize> = (0..leaves.len()).filter(|leaf| hangs(problem, leaves[*leaf].node, at)).collect();
        row(&below.iter().map(|at| (*at, 1.0)).collect::<Vec<_>>(), node.limit.0);
        let Some(limit) = node.phase_limit else { continue };
        for phase in Phase::ALL {
            let part = |at: &usize| match leaves[*at].phases {
                Phases::Three => Some((*at, 1.0 / 3.0)),
                Phases::One(own) => (own == phase).then_some((*at, 1.0)),
            };
            row(&below.iter().filter_map(part).collect::<Vec<_>>(), limit.0);
        }
    }
    for cap in problem.caps() {
        row(&cap.leaves.iter().map(|at| (*at as usize, 1.0)).collect::<Vec<_>>(), cap.limit.0);
    }
    let mut model = programme.try_optimise(Sense::Maximise).map_err(|status| anyhow::anyhow!("{status:?}"))?;
    model.make_quiet();
    let solved = model.try_solve().map_err(|status| anyhow::anyhow!("{status:?}")).context("plain programme")?;
    if solved.status() != HighsModelStatus::Optimal {
        bail!("plain programme: {:?}", solved.status());
    }
    Ok(solved)
}

fn hangs(problem: &Problem, mut node: u32, from: usize) -> bool {
    loop {
        if node as usize == from {
            return true;
        }
        match problem.nodes()[node as usize].parent {
            Some(parent) => node = parent,
            None => return false,
        }
    }
}
