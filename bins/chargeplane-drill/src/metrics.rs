//! The node's `/metrics` as the drill sees them: parsed, and added up over restarts of the node.
//!
//! Counters and histograms begin at zero when a node starts. The drill keeps the last reading of every process and
//! adds them, so that the report covers the whole run; what a killed process counted since the last scrape, a second
//! at most, is lost and belongs to no figure. Whose reading one is, the node says itself: from the values it cannot
//! be told, because a new process has no counters at first and may soon have greater ones than the former had.

use crate::http::Client;
use crate::node::{Process, serving};
use std::collections::BTreeMap;

/// Samples of one scrape: series (name with labels, as written) to value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scrape {
    values: BTreeMap<String, f64>,
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The last readings of all processes of the node.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    last: BTreeMap<Process, Scrape>,
    gauge_peaks: BTreeMap<String, f64>,
}

/// What `/metrics` says now and which process says it; none when no process answered, or not the same one throughout.
pub fn scrape(client: &Client) -> Option<(Process, Scrape)> {
    let before = serving(client)?;
    let text = client.text("/metrics").ok()?;
    (serving(client)? == before).then(|| (before, Scrape::parse(&text)))
}

/// A histogram's buckets: (upper bound, cumulative count), ascending.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    buckets: Vec<(f64, f64)>,
}

/// p50, p99 and greatest value, as far as buckets tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Quantiles {
    /// Half of the values are at most this.
    pub p50: f64,
    /// 99 of 100 values are at most this.
    pub p99: f64,
    /// The greatest value, or the upper bound of its bucket.
    pub max: f64,
}

impl Scrape {
    /// Parses the Prometheus text format; lines that are not samples are passed over.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let mut words = rest.split_whitespace();
                let kind = match (words.next(), words.next()) {
                    (Some(name), Some("counter")) => Some((name, Kind::Counter)),
                    (Some(name), Some("gauge")) => Some((name, Kind::Gauge)),
                    (Some(name), Some("histogram")) => Some((name, Kind::Histogram)),
                    _ => None,
                };
                if let Some((name, kind)) = kind {
                    scrape.kinds.insert(name.to_owned(), kind);
                }
            } else if !line.starts_with('#')
                && let Some((series, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                scrape.values.insert(series.to_owned(), value);
            }
        }
        scrape
    }

    /// Sum over all label sets of one name, or `None` when there is no such series.
    pub fn sum(&self, name: &str) -> Option<f64> {
        sum_of(&self.values, name)
    }

    fn kind_of(&self, series: &str) -> Option<Kind> {
        let name = series.split('{').next().unwrap_or(series);
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        self.kinds.get(name).or_else(|| self.kinds.get(base?)).copied()
    }
}

fn labels_of<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    let rest = series.strip_prefix(name)?;
    (rest.is_empty() || rest.starts_with('{')).then_some(rest)
}

fn sum_of(values: &BTreeMap<String, f64>, name: &str) -> Option<f64> {
    let mut found = values.iter().filter(|(series, _)| labels_of(series, name).is_some()).map(|(_, v)| *v).peekable();
    found.peek()?;
    Some(found.sum())
}

/// The value of one label within `{a="b",le="0.5"}`.
pub fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let at = labels.find(&format!("{name}=\""))?;
    labels[at..].split('"').nth(1)
}

impl Totals {
    /// Takes what a process said: its reading before, if there was one, is superseded.
    pub fn observe(&mut self, process: Process, scrape: Scrape) {
        for (series, value) in &scrape.values {
            if scrape.kind_of(series) == Some(Kind::Gauge) {
                let peak = self.gauge_peaks.entry(series.clone()).or_insert(f64::NEG_INFINITY);
                *peak = peak.max(*value);
            }
        }
        self.last.insert(process, scrape);
    }

    /// The last value of each series in each process.
    fn values(&self) -> impl Iterator<Item = (&String, &f64)> {
        self.last.values().flat_map(|scrape| &scrape.values)
    }

    /// A counter over all processes, summed over its labels; `None` when never seen.
    pub fn counter(&self, name: &str) -> Option<f64> {
        self.last.values().filter_map(|scrape| scrape.sum(name)).reduce(|sum, value| sum + value)
    }

    /// The greatest value that each series of a gauge had at any scrape.
    pub fn gauge_peaks<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.gauge_peaks.iter().filter_map(move |(series, value)| Some((labels_of(series, name)?, *value)))
    }

    /// A counter's value over all processes, by one of its labels.
    pub fn counter_by(&self, name: &str, by: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.values().filter_map(|(series, value)| Some((labels_of(series, name)?, value))) {
            *sums.entry(label(labels, by).unwrap_or("").to_owned()).or_insert(0.0) += value;
        }
        sums
    }

    /// A histogram over all processes and labels.
    pub fn histogram(&self, name: &str) -> Histogram {
        let bucket = format!("{name}_bucket");
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (labels, count) in self.values().filter_map(|(series, count)| Some((labels_of(series, &bucket)?, count))) {
            let Some(bound) = label(labels, "le").and_then(|le| le.replace("+Inf", "inf").parse::<f64>().ok()) else {
                continue;
            };
            match sums.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => sums.push((bound, *count)),
            }
        }
        sums.sort_by(|a, b| a.0.total_cmp(&b.0));
        Histogram { buckets: sums }
    }
}

impl Histogram {
    /// Number of values.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value below which a share `q` of the values lies, by linear interpolation in its bucket.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = q * self.count();
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank && count > below {
                if bound.is_infinite() {
                    return low;
                }
                return low + (bound - low) * (rank - below) / (count - below);
            }
            if bound.is_finite() {
                (low, below) = (bound, count);
            }
        }
        low
    }

    /// Upper bound of the highest bucket that holds a value.
    pub fn max(&self) -> f64 {
        let mut below = 0.0;
        let mut highest = 0.0;
        let mut last_finite = 0.0;
        for &(bound, count) in &self.buckets {
            if bound.is_finite() {
                last_finite = bound;
            }
            if count > below {
                highest = if bound.is_finite() { bound } else { last_finite };
            }
            below = count;
        }
        highest
    }

    /// p50, p99 and max, multiplied by `scale` (1000 turns seconds into milliseconds).
    pub fn quantiles(&self, scale: f64) -> Quantiles {
        let round = |value: f64| (value * scale * 1000.0).round() / 1000.0;
        Quantiles { p50: round(self.quantile(0.5)), p99: round(self.quantile(0.99)), max: round(self.max()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "# TYPE c counter\nc{lane=\"money\"} 3\nc{lane=\"stop\"} 2\n# TYPE q gauge\nq 7\n\
        # TYPE h histogram\nh_bucket{le=\"0.1\"} 50\nh_bucket{le=\"0.2\"} 99\nh_bucket{le=\"+Inf\"} 100\nh_count 100\n";

    fn process(incarnation: u64) -> Process {
        (incarnation, 4_000, "now".to_owned())
    }

    /// What is counted after each of a run's scrapes: (process, value of the counter, none when it is absent yet).
    fn counted(scrapes: &[(u64, Option<u32>)]) -> Vec<Option<f64>> {
        let mut totals = Totals::default();
        let one = |&(incarnation, value): &(u64, Option<u32>)| {
            let text = value.map_or_else(String::new, |value| format!("# TYPE c counter\nc {value}\n"));
            totals.observe(process(incarnation), Scrape::parse(&text));
            totals.counter("c")
        };
        scrapes.iter().map(one).collect()
    }

    #[test]
    fn counters_add_up_over_processes_and_gauges_do_not() {
        let mut totals = Totals::default();
        totals.observe(process(1), Scrape::parse(FIRST));
        let second = "# TYPE c counter\nc{lane=\"money\"} 10\nc{lane=\"stop\"} 1\n# TYPE q gauge\nq 1\n";
        totals.observe(process(2), Scrape::parse(second));
        assert_eq!(totals.counter("c"), Some(16.0));
        assert_eq!(totals.counter_by("c", "lane")["money"], 13.0);
        assert_eq!(totals.histogram("h").count(), 100.0);
        assert_eq!(totals.gauge_peaks("q").map(|(_, v)| v).collect::<Vec<_>>(), [7.0]);
        assert_eq!(totals.counter("absent"), None);
    }

    #[test]
    fn what_a_killed_process_counted_stays_counted() {
        // A new process that has not counted anything yet says nothing of its counters.
        let absent = [(1, Some(9)), (2, None), (2, None), (2, Some(3)), (2, Some(13))];
        assert_eq!(counted(&absent), [9.0, 9.0, 9.0, 12.0, 22.0].map(Some));
        // Killed between two scrapes, and the new process is past the old values by the next one.
        assert_eq!(counted(&[(1, Some(9)), (2, Some(9)), (2, Some(20))]), [9.0, 18.0, 29.0].map(Some));
        // Killed twice, the second time before it counted anything.
        assert_eq!(
            counted(&[(1, None), (1, Some(5)), (2, None), (3, Some(1))]),
            [None, Some(5.0), Some(5.0), Some(6.0)]
        );
    }

    /// A node that gives these answers, one after the other.
    fn answering(answers: Vec<String>) -> Client {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (answer, stream) in answers.iter().zip(listener.incoming()) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 2048]).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
                stream.write_all((head + answer).as_bytes()).unwrap();
            }
        });
        Client::new(&base, "t")
    }

    #[test]
    fn a_scrape_belongs_to_the_process_that_served_before_and_after_it() {
        let node = |n: u64| format!("{{\"pid\":{n},\"incarnation\":{n},\"started_at\":\"t{n}\"}}");
        let answers = vec![node(7), FIRST.to_owned(), node(8), node(8), FIRST.to_owned(), node(8)];
        let client = answering(answers);
        assert_eq!(scrape(&client), None, "another took over meanwhile");
        let (process, scrape) = scrape(&client).expect("one process");
        assert_eq!((process.0, scrape.sum("c")), (8, Some(5.0)));
    }

    #[test]
    fn quantiles_are_interpolated_in_their_bucket() {
        let mut totals = Totals::default();
        totals.observe(process(1), Scrape::parse(FIRST));
        let h = totals.histogram("h");
        assert_eq!(h.count(), 100.0);
        assert!((h.quantile(0.5) - 0.1).abs() < 1e-9);
        assert!((h.quantile(0.99) - 0.2).abs() < 1e-9);
        // One value lies above the last bound: all that is known is that bound.
        assert_eq!(h.max(), 0.2);
    }

    #[test]
    fn a_name_that_is_a_prefix_of_another_is_not_mixed_up() {
        let scrape = Scrape::parse("c 1\nc_total 5\n");
        assert_eq!(scrape.sum("c"), Some(1.0));
    }
}
