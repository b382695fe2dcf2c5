//! The live view: a few lines, redrawn in place on a terminal; one line every ten seconds otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Width of the load bar.
const BAR: usize = 40;

/// Headless runs print a line this often.
const HEADLESS_EVERY: Duration = Duration::from_secs(10);

/// What the view shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Second of the load.
    pub second: f64,
    /// Length of the load.
    pub seconds: u32,
    /// What is going on: `load`, `draining`, ...
    pub phase: String,
    /// Chargers whose gateway is connected / all.
    pub online: (u64, u64),
    /// Open sessions.
    pub sessions: u64,
    /// Sessions that ended.
    pub finished: u64,
    /// Load and limit of the grid connection, W.
    pub load: (i64, i64),
    /// Uncapped demand, W.
    pub demand_w: i64,
    /// Energy metered so far, Wh.
    pub energy_wh: i64,
    /// Money taken from drivers, 1/10,000.
    pub money: i64,
    /// Samples a second.
    pub samples_per_second: u64,
    /// How long it took to make the samples that are not acknowledged yet, ms.
    pub ack_lag_ms: u64,
    /// The node: pid and whether it is ready.
    pub node: (Option<u32>, bool),
    /// Restarts of the node.
    pub restarts: u64,
}

/// Draws snapshots.
pub struct View {
    terminal: bool,
    drawn: usize,
    last_line: Option<Instant>,
}

impl View {
    /// A view on standard output; in place only on a terminal and unless headless.
    pub fn new(headless: bool) -> Self {
        Self { terminal: !headless && std::io::stdout().is_terminal(), drawn: 0, last_line: None }
    }

    /// Prints a line above the view.
    pub fn say(&mut self, line: &str) {
        self.clear();
        println!("{line}");
    }

    /// Shows a snapshot: at once on a terminal, every ten seconds otherwise.
    pub fn show(&mut self, snapshot: &Snapshot) {
        if self.terminal {
            self.clear();
            let lines = lines(snapshot);
            println!("{}", lines.join("\n"));
            self.drawn = lines.len();
        } else if self.last_line.is_none_or(|last| last.elapsed() >= HEADLESS_EVERY) {
            self.last_line = Some(Instant::now());
            println!("{}", one_line(snapshot));
        }
        // A closed standard output only ends the view, not the run.
        let _ = std::io::stdout().flush();
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

fn bar(load: i64, limit: i64) -> String {
    let share = if limit > 0 { load.clamp(0, limit) as f64 / limit as f64 } else { 0.0 };
    let full = (share * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

fn kilo(watts: i64) -> String {
    grouped(watts / 1000)
}

/// Digits in groups of three.
pub fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

fn money(amount: i64) -> String {
    format!("{}.{:02}", grouped(amount / 10_000), amount.unsigned_abs() % 10_000 / 100)
}

fn node(s: &Snapshot) -> String {
    let state = match s.node {
        (Some(pid), true) => format!("serving, pid {pid}"),
        (Some(pid), false) => format!("starting, pid {pid}"),
        (None, _) => "gone".to_owned(),
    };
    format!("{state}, {} restarts", s.restarts)
}

fn lines(s: &Snapshot) -> Vec<String> {
    let (load, limit) = s.load;
    vec![
        format!("{:>6.0} of {} s   {}   node: {}", s.second, s.seconds, s.phase, node(s)),
        format!(
            "chargers {:>6} of {}   sessions {:>6}   finished {:>7}",
            grouped(s.online.0.cast_signed()),
            grouped(s.online.1.cast_signed()),
            grouped(s.sessions.cast_signed()),
            grouped(s.finished.cast_signed())
        ),
        format!("{} {} of {} kW, demand {} kW", bar(load, limit), kilo(load), kilo(limit), kilo(s.demand_w)),
        format!(
            "{} kWh   {} CNY   {} samples/s   acknowledged {:.1} s behind",
            grouped(s.energy_wh / 1000),
            money(s.money),
            grouped(s.samples_per_second.cast_signed()),
            s.ack_lag_ms as f64 / 1000.0
        ),
    ]
}

fn one_line(s: &Snapshot) -> String {
    format!(
        "{:>4.0} s {}: {} online, {} sessions, {} finished, {} of {} kW, {} kWh, {} CNY, {} samples/s, lag {:.1} s; node {}",
        s.second,
        s.phase,
        s.online.0,
        s.sessions,
        s.finished,
        kilo(s.load.0),
        kilo(s.load.1),
        grouped(s.energy_wh / 1000),
        money(s.money),
        s.samples_per_second,
        s.ack_lag_ms as f64 / 1000.0,
        node(s)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_connection() {
        assert_eq!(bar(0, 100).matches('#').count(), 0);
        assert_eq!(bar(50, 100).matches('#').count(), BAR / 2);
        assert_eq!(bar(200, 100).matches('#').count(), BAR);
        assert_eq!(bar(5, 0).matches('#').count(), 0);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(-999), "-999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(money(12_345_678), "1,234.56");
    }

    #[test]
    fn every_figure_is_on_the_one_line() {
        let s = Snapshot {
            second: 12.0,
            sessions: 7,
            samples_per_second: 19_999,
            node: (None, false),
            ..Snapshot::default()
        };
        let line = one_line(&s);
        assert!(line.contains("7 sessions") && line.contains("19999 samples/s") && line.contains("gone"));
    }
}
