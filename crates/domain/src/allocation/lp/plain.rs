//! Programmes that are no tick's: their primal point is the answer, there are no levels to fill between.

use super::accept::certify;
use super::{Column, Fallback, Levels, Programme, Row, SolveOutcome, SolveStatus};

impl Programme {
    /// A programme as it stands.
    pub(in crate::allocation) fn plain(columns: Vec<Column>, rows: Vec<Row>) -> Self {
        Self { columns, rows, levels: Levels::default(), groups: Vec::new() }
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
        if self.programme != *programme {
            return Err(Fallback::Malformed);
        }
        certify(programme, &self.primal, &self.duals)
    }
}
