//! The site as acnportal models it, and its limits for the cars of a moment.

use anyhow::Context;
use chargeplane_domain::allocation::phasor::PhasorLimit;
use serde::Deserialize;

/// What `acn.py site` prints.
#[derive(Debug, Deserialize)]
pub struct Site {
    pub period_s: u32,
    pub voltage: f64,
    /// Most power of a car, W.
    pub most_w: f64,
    pub stations: Vec<String>,
    /// Angle of each station's current.
    phase_degrees: Vec<f64>,
    constraints: Vec<Constraint>,
    sessions: Vec<(u32, u32, u32, f64)>,
}

/// `|row x currents| <= fixed + per_kw x capacity`, in amperes.
#[derive(Debug, Deserialize)]
struct Constraint {
    name: String,
    row: Vec<f64>,
    fixed: f64,
    per_kw: f64,
}

/// A session, in steps.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub station: usize,
    pub arrival: u32,
    pub departure: u32,
    pub need_ws: i64,
}

impl Site {
    /// The sessions in the order of the file.
    pub fn sessions(&self) -> anyhow::Result<Vec<Session>> {
        let session = |(station, arrival, departure, wh): &(u32, u32, u32, f64)| {
            let station = *station as usize;
            anyhow::ensure!(
                station < self.stations.len() && arrival < departure && *wh > 0.0,
                "a session of {station}"
            );
            // Whole watt-seconds, rounded up: the judge's battery stops where it is full.
            Ok(Session { station, arrival: *arrival, departure: *departure, need_ws: (wh * 3_600.0).ceil() as i64 })
        };
        self.sessions.iter().map(session).collect()
    }

    /// The limits at a capacity, in amperes by watts, for cars at `stations`.
    pub fn limits(&self, cap_kw: u32, stations: &[usize]) -> anyhow::Result<Vec<PhasorLimit>> {
        let limit = |constraint: &Constraint| {
            let load = |(at, station): (usize, &usize)| {
                let by = constraint.row.get(*station).zip(self.phase_degrees.get(*station));
                let (by, degrees) = by.with_context(|| format!("{} knows no station {station}", constraint.name))?;
                let (sin, cos) = degrees.to_radians().sin_cos();
                anyhow::Ok((at as u32, [by * cos / self.voltage, by * sin / self.voltage]))
            };
            let loads = stations.iter().enumerate().map(load).collect::<anyhow::Result<Vec<_>>>()?;
            let loads = loads.into_iter().filter(|(_, [re, im])| re.hypot(*im) > 0.0).collect();
            Ok(PhasorLimit { most: constraint.fixed + constraint.per_kw * f64::from(cap_kw), loads })
        };
        self.constraints.iter().map(limit).collect()
    }
}
