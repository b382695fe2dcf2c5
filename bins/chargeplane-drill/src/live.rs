//! The live view: a few lines, redrawn in place on a terminal; one line every ten seconds otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Greatest and least width of the load bar; on a narrower terminal there is none.
const BAR: std::ops::RangeInclusive<usize> = 8..=40;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// Between figures on one line.
const APART: &str = "   ";

/// Headless runs print a line this often.
const HEADLESS_EVERY: Duration = Duration::from_secs(10);

/// What the view shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Second of the load.
    pub second: f64,
    /// Length of the load.
    pub seconds: u32,
    /// What is going on: `starting`, `running`, `draining`, ...
    pub phase: String,
    /// For how long, s.
    pub phase_second: f64,
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
            let lines = lines(snapshot, columns());
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

/// Width of the terminal. A line that is longer would wrap, and of a wrapped line only a part is drawn over.
fn columns() -> usize {
    let said = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let exported = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    said.filter(|columns| *columns > 0).or_else(exported).filter(|columns| *columns > 0).unwrap_or(COLUMNS)
}

/// A bar of `width` characters between its brackets.
fn bar(load: i64, limit: i64, width: usize) -> String {
    let share = if limit > 0 { load.clamp(0, limit) as f64 / limit as f64 } else { 0.0 };
    let full = (share * width as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(width - full))
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

/// Where in the run it is: the load has a length, everything else takes as long as it takes.
fn clock(s: &Snapshot) -> String {
    match s.phase.as_str() {
        "running" => format!("{:.0} of {} s", s.second, s.seconds),
        phase => format!("{phase}, {:.0} s", s.phase_second),
    }
}

/// The view's lines, none longer than `columns`: what does not fit beside another figure goes to the next line.
fn lines(s: &Snapshot, columns: usize) -> Vec<String> {
    let (load, limit) = s.load;
    let power = [format!("{} of {} kW", kilo(load), kilo(limit)), format!("demand {} kW", kilo(s.demand_w))];
    // The bar takes what is left of its line: its brackets and a blank are not its own.
    let room = columns.saturating_sub(power.join(APART).len() + 3).min(*BAR.end());
    let power = if BAR.contains(&room) {
        vec![format!("{} {}", bar(load, limit, room), power.join(APART))]
    } else {
        power.to_vec()
    };
    let (online, of) = (grouped(s.online.0.cast_signed()), grouped(s.online.1.cast_signed()));
    let groups = [
        vec![clock(s), format!("node: {}", node(s))],
        vec![
            format!("chargers {online:>6} of {of}"),
            format!("sessions {:>6}", grouped(s.sessions.cast_signed())),
            format!("finished {:>7}", grouped(s.finished.cast_signed())),
        ],
        power,
        vec![
            format!("{} kWh", grouped(s.energy_wh / 1000)),
            format!("{} CNY", money(s.money)),
            format!("{} samples/s", grouped(s.samples_per_second.cast_signed())),
            format!("acknowledged {:.1} s behind", s.ack_lag_ms as f64 / 1000.0),
        ],
    ];
    groups.iter().flat_map(|figures| fitted(figures, columns)).collect()
}

/// Figures side by side as far as they fit. One that does not fit alone is cut off.
fn fitted(figures: &[String], columns: usize) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for figure in figures {
        match lines.last_mut() {
            Some(line) if length(line) + APART.len() + length(figure) <= columns => {
                line.push_str(APART);
                line.push_str(figure);
            }
            _ => lines.push(figure.chars().take(columns).collect()),
        }
    }
    lines
}

fn one_line(s: &Snapshot) -> String {
    format!(
        "{}: {} online, {} sessions, {} finished, {} of {} kW, {} kWh, {} CNY, {} samples/s, lag {:.1} s; node {}",
        clock(s),
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
        let full = |load, limit| bar(load, limit, 40).matches('#').count();
        assert_eq!([full(0, 100), full(50, 100), full(200, 100), full(5, 0)], [0, 20, 40, 0]);
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

    /// The greatest figures that a run may have.
    fn large() -> Snapshot {
        Snapshot {
            second: 86_399.0,
            seconds: 86_400,
            phase: "running".to_owned(),
            online: (20_000, 20_000),
            sessions: 20_000,
            finished: 1_234_567,
            load: (599_999_000, 600_000_000),
            demand_w: 2_400_000_000,
            energy_wh: 12_345_678_000,
            money: 123_456_789_012,
            samples_per_second: 199_999,
            ack_lag_ms: 12_345,
            node: (Some(4_194_304), true),
            restarts: 12,
            ..Snapshot::default()
        }
    }

    fn demo() -> Snapshot {
        let (load, money) = ((59_999_000, 60_000_000), 22_525_600);
        Snapshot { load, demand_w: 224_000_000, energy_wh: 1_500_000, money, ..large() }
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        for snapshot in [large(), demo(), Snapshot::default()] {
            for columns in [1, 20, 40, 60, 79, 80, 81, 120, 200] {
                let lines = lines(&snapshot, columns);
                assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns}: {lines:#?}");
            }
        }
        let (narrow, usual, wide) = (lines(&large(), 40), lines(&demo(), 80), lines(&large(), 120));
        assert!(usual.len() == 4 && wide.len() == 4 && narrow.len() > 4, "{usual:#?} {narrow:#?}");
        // A narrow terminal shows the same figures on more lines.
        for figure in ["86399 of 86400 s", "1,234,567", "2,400,000 kW", "199,999 samples/s", "12.3 s behind"] {
            assert!(narrow.iter().any(|line| line.contains(figure)), "{figure}: {narrow:#?}");
        }
        assert!(usual[2].starts_with("[###"), "{usual:#?}");
    }

    #[test]
    fn what_has_no_length_tells_its_own_seconds() {
        let draining = Snapshot { phase: "draining".into(), phase_second: 31.4, second: 151.6, ..large() };
        assert_eq!(clock(&draining), "draining, 31 s");
        assert_eq!(clock(&large()), "86399 of 86400 s");
    }
}
