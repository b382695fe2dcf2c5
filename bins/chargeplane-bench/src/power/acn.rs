//! Real sessions replayed against the offline optimum. Not measured by this bench yet.

use crate::report::Report;

pub fn run(report: &mut Report) {
    for row in ["acn_energy_ratio_mean", "acn_energy_ratio_10kw"] {
        report.missing(row, "not measured: it needs the recorded sessions and the offline optimum");
    }
}
