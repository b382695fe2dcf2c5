//! Programmes that are no tick's: their primal point is the answer, there are no levels to fill between.

use super::{Column, Fallback, Programme, Row, SolveOutcome, SolveStatus};

/// Rows and bounds hold to this (the programme's unit).
const MOST_INFEASIBLE: f64 = 1e-6;

/// Relative gap between the solution and the bound that its duals prove.
const MOST_GAP: f64 = 1e-8;

impl Programme {
    /// A programme as it stands.
    pub(in crate::allocation) fn plain(columns: Vec<Column>, rows: Vec<Row>) -> Self {
        Self { columns, rows, thresholds: Vec::new(), prices: Vec::new() }
    }
}

impl SolveOutcome {
    /// True to `programme`, feasible, and optimal by weak duality, whatever the solver says of itself.
    pub(in crate::allocation) fn proves(&self, programme: &Programme) -> Result<(), Fallback> {
        match self.status {
            SolveStatus::Optimal => {}
            SolveStatus::TimeLimit => return Err(Fallback::TimeLimit),
            SolveStatus::Other(_) | SolveStatus::Failed(_) => return Err(Fallback::NotOptimal),
        }
        // An answer to another question proves nothing about this one.
        let sizes = (self.primal.len(), self.duals.len()) == (programme.columns.len(), programme.rows.len());
        let finite = self.primal.iter().chain(&self.duals).all(|x| x.is_finite());
        if self.programme != *programme || !sizes || !finite {
            return Err(Fallback::Malformed);
        }
        let mut reduced: Vec<f64> = programme.columns.iter().map(|column| column.price).collect();
        let mut bound = 0.0;
        for (row, dual) in programme.rows.iter().zip(&self.duals) {
            let mut sum = 0.0;
            for (column, by) in &row.entries {
                sum += by * self.primal[*column as usize];
                reduced[*column as usize] -= by * dual;
            }
            if (sum - row.equals).abs() > MOST_INFEASIBLE {
                return Err(Fallback::Infeasible);
            }
            bound += dual * row.equals;
        }
        let mut worth = 0.0;
        for ((column, x), reduced) in programme.columns.iter().zip(&self.primal).zip(reduced) {
            if *x < column.lower - MOST_INFEASIBLE || *x > column.upper + MOST_INFEASIBLE {
                return Err(Fallback::Infeasible);
            }
            worth += column.price * x;
            bound += if reduced > 0.0 { reduced * column.upper } else { reduced * column.lower };
        }
        if (bound - worth).abs() > MOST_GAP * (1.0 + worth.abs()) { Err(Fallback::Gap) } else { Ok(()) }
    }
}
