//! Looking ahead: what each car should get now so that all of them get the most energy before they leave.
//!
//! A tick knows who is there, until when, and how much energy each still wants, and nothing of who comes
//! next. Sorting by departure or by laxity wastes power wherever limits cross: the first in the order fills
//! a phase and leaves the others idle. Here the rest of every stay is one linear programme, made anew every
//! few minutes, of which only the first share is used.
//!
//! **Few columns.** With the cars that are there and limits that do not change, nothing changes between two
//! departures, so time is cut into *cells* at the departures and not into steps: a plan with constant power
//! in a cell is as good as any. The first cell is the coming tick alone, because only that is acted on.
//!
//! ```text
//! x(i,k)   average power (kW) of stay i in cell k, while it lasts
//! S(g,k)   the same of a group of stays that load every limit alike
//! maximise   sum of hours_k * (1 + EARLY * fade_k * (1 + SOONER * fade_i)) * x(i,k)
//! rows       sum over k of hours_k * x(i,k) + unmet(i) = need_i          every stay
//!            sum over i in g of x(i,k) - S(g,k) = 0                       every group and cell
//!            sum over g of load_lg * S(g,k) + free(l,k) = room_l          every limit that can bind there
//! ```
//!
//! `fade_k` falls from 1 with the time of a cell, `fade_i` with the length of a stay. Early power is worth more,
//! because an unknown car may come later and want it; and among cars that load the limits alike who leaves
//! sooner is served sooner, because who stays can still use what a later gap leaves. Pure: a solver is behind
//! [`Solver`](super::lp::Solver), and its answer is proven before it is used.

mod station;

pub use station::{Ahead, Wish};

use super::lp::{Column, Fallback, Programme, Row, SolveOutcome};
use super::phasor::LinearLimit;
use crate::units::Watts;
use std::collections::BTreeMap;

/// What a kilowatt-hour is worth more now than in the far future.
const EARLY: f64 = 1.0;

/// What that extra is worth more to a car that leaves at once than to one that stays.
const SOONER: f64 = 1.0;

/// Seconds in which both fade to 1/e: a working day's stay. Measured on real sessions (docs/measurements/acn.md).
const FADES_IN_S: f64 = 8.0 * 3_600.0;

/// Cells at most. With more departures the nearest to each other are taken together.
const MOST_CELLS: usize = 48;

/// A load may be above a limit by this much: less than a watt of whole numbers, more than rounding adds.
const ROUNDING: f64 = 1e-4;

/// Most stays in one plan.
pub const MAX_STAYS: usize = 4_096;

/// A car that is plugged in and wants energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// Most power it can take.
    pub most: Watts,
    /// Energy that it still wants, in watt-seconds.
    pub need_ws: i64,
    /// Seconds until it leaves.
    pub leaves_in_s: u32,
}

/// Why there is no plan for something.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HorizonError {
    /// Too many stays.
    #[error("{count} stays in one plan; {MAX_STAYS} are the most")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The tick has no length.
    #[error("a tick of 0 s cannot be planned")]
    NoTick,
    /// A stay that makes no sense.
    #[error("stay {stay}: {what}")]
    BadStay {
        /// Its index.
        stay: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A limit that makes no sense.
    #[error("limit {limit}: {what}")]
    BadLimit {
        /// Its index, those for now before those for later.
        limit: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// A checked question.
#[derive(Debug, Clone, PartialEq)]
pub struct Horizon {
    tick_s: u32,
    stays: Vec<Stay>,
    now: Vec<LinearLimit>,
    later: Vec<LinearLimit>,
    /// The group of each stay.
    groups: Vec<u32>,
    /// One stay of each group.
    heads: Vec<u32>,
}

impl Horizon {
    /// A question about the coming `tick_s` seconds. The members of limits are indices of `stays`; `now` must
    /// hold for the answer, `later` steers it and may be coarser.
    pub fn new(
        tick_s: u32,
        stays: Vec<Stay>,
        now: Vec<LinearLimit>,
        later: Vec<LinearLimit>,
    ) -> Result<Self, HorizonError> {
        if tick_s == 0 {
            return Err(HorizonError::NoTick);
        }
        if stays.len() > MAX_STAYS {
            return Err(HorizonError::TooMany { count: stays.len() });
        }
        for (at, stay) in stays.iter().enumerate() {
            check_stay(stay).map_err(|what| HorizonError::BadStay { stay: at, what })?;
        }
        for (at, limit) in now.iter().chain(&later).enumerate() {
            check_limit(limit, stays.len()).map_err(|what| HorizonError::BadLimit { limit: at, what })?;
        }
        let (groups, heads) = group(stays.len(), &now, &later);
        Ok(Self { tick_s, stays, now, later, groups, heads })
    }

    /// Everybody's most in the coming tick, when that is within every limit: then nothing needs a plan.
    pub fn everybody(&self) -> Option<Vec<Watts>> {
        let watts: Vec<Watts> = self.stays.iter().map(|stay| Watts(self.most_now(stay))).collect();
        self.fits(&watts).then_some(watts)
    }

    /// The programme, in kW and hours.
    pub fn programme(&self) -> Programme {
        let cells = self.cells();
        let mut build = Build::default();
        let mut needs: Vec<Row> =
            self.stays.iter().map(|stay| Row { equals: kwh(stay), entries: Vec::new() }).collect();
        for (k, cell) in cells.iter().enumerate() {
            let hours = f64::from(cell.to - cell.from) / 3_600.0;
            let early = EARLY * mean_fade(f64::from(cell.from), f64::from(cell.to));
            let mut sums: Vec<Sum> = vec![Sum::default(); self.heads.len()];
            for (at, stay) in self.stays.iter().enumerate() {
                let most = self.most_in(stay, cell) / 1_000.0;
                if most > 0.0 {
                    let sooner = SOONER * (-f64::from(stay.leaves_in_s) / FADES_IN_S).exp();
                    let column = build.column(hours * (1.0 + early * (1.0 + sooner)), most);
                    needs[at].entries.push((column, hours));
                    let sum = &mut sums[self.groups[at] as usize];
                    sum.most += most;
                    sum.members.push((column, 1.0));
                }
            }
            self.limit_cell(&mut build, sums, if k == 0 { &self.now } else { &self.later });
        }
        for mut need in needs {
            need.entries.push((build.column(0.0, need.equals), 1.0));
            build.rows.push(need);
        }
        Programme::plain(build.columns, build.rows)
    }

    /// Each stay's watts for the coming tick out of a solver's answer, when it is proven and within every
    /// limit.
    pub fn shares(&self, outcome: &SolveOutcome) -> Result<Vec<Watts>, Fallback> {
        outcome.proves(&self.programme())?;
        // The first cell's columns come first, one for each stay that can take something now.
        let mut columns = outcome.primal.iter();
        let share = |stay: &Stay| match self.most_now(stay) {
            0 => Some(Watts::ZERO),
            most => columns.next().map(|kw| Watts(((kw * 1_000.0 + 1e-6).floor() as i64).clamp(0, most))),
        };
        let watts: Option<Vec<Watts>> = self.stays.iter().map(share).collect();
        let watts = watts.ok_or(Fallback::Malformed)?;
        if self.fits(&watts) { Ok(watts) } else { Err(Fallback::Unsafe) }
    }

    /// The answer without a solver: all rise together, each in proportion to the power that it needs on
    /// average until it leaves, and stop at their most or where a limit is full.
    pub fn without_solver(&self) -> Vec<Watts> {
        let mut held = vec![false; self.stays.len()];
        let mut watts = vec![0.0_f64; self.stays.len()];
        let most = |at: usize| self.most_now(&self.stays[at]) as f64;
        let pace: Vec<f64> =
            self.stays.iter().map(|stay| stay.need_ws as f64 / f64::from(stay.leaves_in_s.max(self.tick_s))).collect();
        // Every round holds at least one stay.
        for _ in 0..=self.stays.len() {
            let rising = |at: &usize| !held[*at] && pace[*at] > 0.0;
            let own = (0..held.len()).filter(rising).map(|at| (most(at) - watts[at]) / pace[at]);
            let of_limit = |limit: &LinearLimit| {
                let load: f64 = limit.loads.iter().map(|(at, by)| by * watts[*at as usize]).sum();
                let risen = limit.loads.iter().filter(|(at, _)| rising(&(*at as usize)));
                let rate: f64 = risen.map(|(at, by)| by * pace[*at as usize]).sum();
                if rate > 0.0 { ((limit.room - load) / rate).max(0.0) } else { f64::INFINITY }
            };
            let step = own.chain(self.now.iter().map(of_limit)).fold(f64::INFINITY, f64::min);
            if !step.is_finite() {
                break;
            }
            let full: Vec<u32> = self
                .now
                .iter()
                .filter(|limit| of_limit(limit) <= step)
                .flat_map(|limit| limit.loads.iter().filter(|(_, by)| *by > 0.0).map(|(at, _)| *at))
                .collect();
            for at in 0..watts.len() {
                if !held[at] && pace[at] > 0.0 {
                    watts[at] += step * pace[at];
                    held[at] = watts[at] >= most(at) - 1e-9;
                }
            }
            full.iter().for_each(|at| held[*at as usize] = true);
        }
        // Rounding down keeps every limit but for what floating point adds.
        (0..watts.len()).map(|at| Watts(((watts[at] - 1e-6).max(0.0).floor() as i64).min(most(at) as i64))).collect()
    }

    /// True when `watts` are within every limit of now.
    fn fits(&self, watts: &[Watts]) -> bool {
        self.now.iter().all(|limit| limit.load(watts) <= limit.room.max(0.0) + ROUNDING)
    }

    /// Most watts in the coming tick: enough to end the need within it, rounded up.
    fn most_now(&self, stay: &Stay) -> i64 {
        let seconds = i64::from(self.tick_s.min(stay.leaves_in_s));
        if seconds == 0 { 0 } else { stay.most.0.min((stay.need_ws + seconds - 1) / seconds) }
    }

    /// Most average watts of a stay in a cell.
    fn most_in(&self, stay: &Stay, cell: &Cell) -> f64 {
        if cell.from == 0 {
            return self.most_now(stay) as f64;
        }
        let there = f64::from(stay.leaves_in_s.min(cell.to).saturating_sub(cell.from));
        let length = f64::from(cell.to - cell.from);
        (stay.most.0 as f64 * there / length).min(stay.need_ws as f64 / length)
    }

    /// The coming tick, then from departure to departure.
    fn cells(&self) -> Vec<Cell> {
        let mut ends: Vec<u32> = self.stays.iter().filter(|s| s.need_ws > 0).map(|stay| stay.leaves_in_s).collect();
        ends.retain(|end| *end > self.tick_s);
        ends.sort_unstable();
        ends.dedup();
        while ends.len() >= MOST_CELLS {
            // The shortest cell that begins after the tick joins the next one.
            let shortest = (0..ends.len() - 1).min_by_key(|at| ends[at + 1] - ends[*at]);
            ends.remove(shortest.unwrap_or(0));
        }
        let mut cells = vec![Cell { from: 0, to: self.tick_s }];
        for to in ends {
            let from = cells.last().map_or(0, |cell| cell.to);
            cells.push(Cell { from, to });
        }
        cells
    }

    /// Sums of groups and the limits that can bind in a cell.
    fn limit_cell(&self, build: &mut Build, sums: Vec<Sum>, limits: &[LinearLimit]) {
        let binding: Vec<(f64, Vec<(usize, f64)>)> = limits
            .iter()
            .map(|limit| (limit.room / 1_000.0, self.by_group(limit, &sums)))
            .filter(|(room, loads)| loads.iter().map(|(group, by)| by * sums[*group].most).sum::<f64>() > *room)
            .collect();
        let mut columns: BTreeMap<usize, u32> = BTreeMap::new();
        for group in binding.iter().flat_map(|(_, loads)| loads.iter().map(|(group, _)| *group)) {
            columns.entry(group).or_insert_with(|| {
                let column = build.column(0.0, sums[group].most);
                let mut entries = sums[group].members.clone();
                entries.push((column, -1.0));
                build.rows.push(Row { equals: 0.0, entries });
                column
            });
        }
        for (room, loads) in binding {
            let room = room.max(0.0);
            let mut entries: Vec<(u32, f64)> =
                loads.iter().filter_map(|(group, by)| columns.get(group).map(|column| (*column, *by))).collect();
            entries.push((build.column(0.0, room), 1.0));
            build.rows.push(Row { equals: room, entries });
        }
    }

    /// A limit's loads by group, of groups that can have something.
    fn by_group(&self, limit: &LinearLimit, sums: &[Sum]) -> Vec<(usize, f64)> {
        let head = |(at, by): &(u32, f64)| {
            let group = self.groups[*at as usize] as usize;
            (self.heads[group] == *at && sums[group].most > 0.0 && *by > 0.0).then_some((group, *by))
        };
        limit.loads.iter().filter_map(head).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    from: u32,
    to: u32,
}

/// What a group can have in a cell (kW), and its members' columns.
#[derive(Debug, Clone, Default)]
struct Sum {
    most: f64,
    members: Vec<(u32, f64)>,
}

#[derive(Default)]
struct Build {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Build {
    fn column(&mut self, price: f64, upper: f64) -> u32 {
        self.columns.push(Column { price, lower: 0.0, upper });
        self.columns.len() as u32 - 1
    }
}

/// The mean of what has faded between two times (s).
fn mean_fade(from: f64, to: f64) -> f64 {
    let left = |at: f64| (-at / FADES_IN_S).exp();
    FADES_IN_S * (left(from) - left(to)) / (to - from)
}

fn kwh(stay: &Stay) -> f64 {
    stay.need_ws as f64 / 3_600_000.0
}

fn check_stay(stay: &Stay) -> Result<(), &'static str> {
    if stay.most < Watts::ZERO || stay.most > super::MAX_NODE_WATTS {
        return Err("its most power is below zero or absurd");
    }
    // 100 GWh, far beyond any car, and far from where the arithmetic ends.
    if stay.need_ws < 0 || stay.need_ws > 360_000_000_000_000 {
        return Err("its energy is below zero or absurd");
    }
    Ok(())
}

fn check_limit(limit: &LinearLimit, stays: usize) -> Result<(), &'static str> {
    if !limit.room.is_finite() {
        return Err("its room is no number");
    }
    if limit.loads.iter().any(|(at, _)| *at as usize >= stays) {
        return Err("it has a member that is no stay");
    }
    if limit.loads.iter().any(|(_, by)| !by.is_finite() || *by < 0.0) {
        return Err("a member loads it by less than nothing, or by no number");
    }
    Ok(())
}

/// Stays that load every limit alike are one group: the group of each, and the first stay of each group.
fn group(stays: usize, now: &[LinearLimit], later: &[LinearLimit]) -> (Vec<u32>, Vec<u32>) {
    let mut patterns: Vec<Vec<(u32, u64)>> = vec![Vec::new(); stays];
    for (row, limit) in now.iter().chain(later).enumerate() {
        for (at, by) in limit.loads.iter().filter(|(_, by)| *by > 0.0) {
            patterns[*at as usize].push((row as u32, by.to_bits()));
        }
    }
    let mut known: BTreeMap<Vec<(u32, u64)>, u32> = BTreeMap::new();
    let mut heads = Vec::new();
    let mut groups = Vec::with_capacity(stays);
    for (at, pattern) in patterns.into_iter().enumerate() {
        groups.push(*known.entry(pattern).or_insert_with(|| {
            heads.push(at as u32);
            heads.len() as u32 - 1
        }));
    }
    (groups, heads)
}

#[cfg(test)]
mod tests;
