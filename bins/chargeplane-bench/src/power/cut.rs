//! A limit that falls at a large station: through real gateways and leases. Not measured by this bench yet.

use crate::report::Report;

pub fn run(report: &mut Report) {
    for row in ["limit_cut_to_commands_ms_p99", "congested_use_of_limit"] {
        report.missing(row, "not measured: it needs a station with gateways and leases, not only its allocator");
    }
}
