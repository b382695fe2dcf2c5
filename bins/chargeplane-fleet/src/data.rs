//! The recorded sessions that arrivals, stays and energies are drawn from.
//!
//! The file has a header and four columns: `arrival_min,departure_min,requested_kwh,connector`. Energies are read as
//! whole Wh, so nothing that follows depends on how a machine rounds.

/// Minutes in a day.
const DAY_MIN: i64 = 24 * 60;

/// One recorded session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Minute of the day at which the car came, 0 to 1439.
    pub arrival_min: i64,
    /// How long it stayed, in minutes.
    pub stay_min: i64,
    /// What its driver asked for, in Wh.
    pub requested_wh: i64,
}

/// A file that is not the recorded sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for DataError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "recorded sessions, line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for DataError {}

/// Reads all sessions, in the order of the file.
pub fn parse(text: &str) -> Result<Vec<Recorded>, DataError> {
    let mut lines = text.lines().enumerate();
    match lines.next() {
        Some((_, header)) if header.trim().starts_with("arrival_min,departure_min,requested_kwh") => {}
        _ => {
            return Err(DataError {
                line: 1,
                what: "expected the header arrival_min,departure_min,requested_kwh".into(),
            });
        }
    }
    let mut sessions = Vec::new();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        sessions.push(parse_line(line).map_err(|what| DataError { line: i + 1, what })?);
    }
    if sessions.is_empty() {
        return Err(DataError { line: 2, what: "there are no sessions".into() });
    }
    Ok(sessions)
}

fn parse_line(line: &str) -> Result<Recorded, String> {
    let mut columns = line.split(',');
    let mut next = |name: &str| columns.next().map(str::trim).ok_or_else(|| format!("{name} is missing"));
    let minutes = |text: &str| text.parse::<i64>().map_err(|_| format!("{text:?} is not a number of minutes"));
    let arrival = minutes(next("arrival_min")?)?;
    let departure = minutes(next("departure_min")?)?;
    let requested_wh = parse_kwh(next("requested_kwh")?)?;
    if arrival < 0 || departure <= arrival {
        return Err("a car leaves after it came, and neither before minute 0".into());
    }
    Ok(Recorded { arrival_min: arrival % DAY_MIN, stay_min: departure - arrival, requested_wh })
}

/// `4.216` is 4216 Wh; what is below a Wh is cut off (some recorded values have sixteen decimals). No sign.
fn parse_kwh(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not an energy in kWh");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 6 || part.len() > 20 || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    let whole: i64 = whole.parse().map_err(|_| bad())?;
    let part: i64 = format!("{part:0<3}")[..3].parse().map_err(|_| bad())?;
    Ok(whole * 1_000 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_recorded_month() {
        let sessions = parse(include_str!("../../../scenarios/data/caltech-2019-03-sessions.csv")).unwrap();
        assert_eq!(sessions.len(), 954);
        assert_eq!(sessions[0], Recorded { arrival_min: 380, stay_min: 80, requested_wh: 4_216 });
        // The published figure for this month is 8,900.5 kWh.
        assert_eq!(sessions.iter().map(|s| s.requested_wh).sum::<i64>() / 100, 89_005);
    }

    #[test]
    fn says_where_a_file_is_wrong() {
        let head = "arrival_min,departure_min,requested_kwh,connector\n";
        let line = |text: &str| parse(&format!("{head}1,2,3.0,x\n{text}\n")).unwrap_err().line;
        assert_eq!(parse("a,b\n").unwrap_err().line, 1);
        assert_eq!(parse(head).unwrap_err().line, 2);
        for bad in ["5,5,1.0,x", "-1,5,1.0,x", "1,2,-3,x", "1,2,1.0.0,x", "1,2", "x,2,1,c"] {
            assert_eq!(line(bad), 3, "{bad}");
        }
    }
}
