//! Power: allocations of stations of 2,000 and of 50 chargers, by HiGHS and by water-filling, and a station of 2,000
//! with its gateways and leases.
//!
//! A tick counts only if its limit is 40 to 80 % of the demand, a tenth of the chargers changed since the tick
//! before, and every grant is within one step of the exact share as [`exact`] finds it, which shares no code
//! with what is measured. How many did not is in the notes. Method and figures: docs/measurements/power.md.

mod cut;
mod exact;
mod highs;
mod plain;
mod station;
mod water;
mod world;

use crate::Output;
use crate::report::Report;
use std::time::{Duration, Instant};

/// Chargers of the large station and of the usual one.
const LARGE: usize = 2_000;
const USUAL: usize = 50;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Ticks of the large station; the usual one has ten times as many
    #[arg(long, default_value_t = 300)]
    ticks: usize,
    /// Seed of the stations and of what changes in them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    experiment: crate::acn::Experiment,
    /// Cuts of the limit of a station with gateways
    #[arg(long, default_value_t = 100)]
    cuts: u32,
    /// Seconds at each of three tight limits
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut report = Report::new("power", dir.path());
    highs::run(args, &mut report)?;
    water::run(args, &mut report)?;
    cut::run(args, &mut report)?;
    crate::acn::measure(&args.experiment, &mut report)?;
    report.finish(args.output.json.as_deref())
}

/// What was measured of some ticks, and how many did not count.
#[derive(Default)]
struct Ticks {
    times: Vec<Duration>,
    not_exact: usize,
}

impl Ticks {
    /// Takes a time if the tick counts.
    fn take(&mut self, began: Instant, ended: Instant, counts: bool) {
        if counts {
            self.times.push(ended - began);
        } else {
            self.not_exact += 1;
        }
    }

    /// In seconds.
    fn quantile(&mut self, q: f64) -> f64 {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        let at = ((self.times.len() as f64 * q) as usize).min(last);
        self.times.get(at).map_or(f64::NAN, Duration::as_secs_f64)
    }

    fn counted(&self) -> String {
        format!("{} ticks counted, {} did not", self.times.len(), self.not_exact)
    }
}
