//! `chargeplane telemetry plot`: the readings of a charger, a panel for each column.

use super::Call;
use super::telemetry::between;
use crate::cli::{Output, TelemetryPlotArgs};
use crate::client::encode;
use crate::exit::Failure;
use crate::output;
use crate::plot::{self, FAMILY, Figure};
use chargeplane_api::extract::rfc3339;
use chargeplane_domain::units::Timestamp;
use plotters::backend::DrawingBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::series::LineSeries;
use plotters::style::{Color, RGBColor};
use serde_json::{Value, json};

/// A column: its name on the command line, its field, its unit and what a unit of the field is of it.
struct Column {
    name: &'static str,
    field: &'static str,
    title: &'static str,
    scale: f64,
}

const COLUMNS: &[Column] = &[
    Column { name: "power", field: "power_w", title: "power, kW", scale: 1_000.0 },
    Column { name: "voltage", field: "voltage_dv", title: "voltage, V", scale: 10.0 },
    Column { name: "current", field: "current_da", title: "current, A", scale: 10.0 },
    Column { name: "soc", field: "soc_permille", title: "state of charge, %", scale: 10.0 },
    Column { name: "temperature", field: "temperature_dc", title: "temperature, °C", scale: 10.0 },
    Column { name: "register", field: "register_wh", title: "register, kWh", scale: 1_000.0 },
];

const LINE: RGBColor = RGBColor(20, 90, 170);

const MAX_PIXELS: u32 = 8_192;

impl Call {
    pub(super) fn plot(&self, args: &TelemetryPlotArgs) -> Result<(), Failure> {
        let columns: Vec<&Column> =
            args.columns.split(',').map(|name| column(name.trim())).collect::<Result<_, _>>()?;
        let size = (args.width, args.height);
        if !(200..=MAX_PIXELS).contains(&size.0) || !(150..=MAX_PIXELS).contains(&size.1) {
            return Err(Failure::usage(format!("a plot is 200x150 to {MAX_PIXELS}x{MAX_PIXELS} pixels")));
        }
        // Two points a pixel and column are more than can be told apart.
        let points = usize::try_from(size.0).unwrap_or(0).saturating_mul(2).saturating_mul(columns.len());
        let points = points.clamp(4, 20_000);
        let path = format!(
            "/chargers/{}/telemetry?{}&points={points}&columns={}",
            encode(&args.charger),
            between(&args.range),
            encode(&columns.iter().map(|column| column.name).collect::<Vec<_>>().join(","))
        );
        let answer = self.api.get(&path)?;
        let samples = answer["samples"].as_array().map_or(&[][..], Vec::as_slice);
        if samples.is_empty() {
            return Err(Failure::new(crate::exit::Code::Refused, "there are no readings in this range to plot"));
        }
        let of = answer["thinned_from"].as_u64().unwrap_or(samples.len() as u64);
        let panels: Vec<Panel> = columns.iter().map(|column| Panel::of(column, samples)).collect();
        let title = format!("{}: {} of {of} readings", args.charger, samples.len());
        plot::save(&Panels { title: title.clone(), panels }, &args.out, size, args.font.as_deref())?;
        let file = args.out.display().to_string();
        let document = json!({ "file": file, "readings": of, "points": samples.len() });
        match self.output {
            Output::Json => output::json(&document),
            Output::Table => output::write(&format!("{file}: {title}\n")),
        }
    }
}

fn column(name: &str) -> Result<&'static Column, Failure> {
    COLUMNS.iter().find(|column| column.name == name).ok_or_else(|| {
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        Failure::usage(format!("--columns: `{name}` is none of {}", names.join(", ")))
    })
}

/// Points of one column: milliseconds since 1970 and value.
struct Panel {
    title: &'static str,
    points: Vec<(i64, f64)>,
}

impl Panel {
    fn of(column: &Column, samples: &[Value]) -> Self {
        let point = |sample: &Value| {
            let at = millis(sample["at"].as_str()?)?;
            Some((at, sample[column.field].as_f64()? / column.scale))
        };
        Self { title: column.title, points: samples.iter().filter_map(point).collect() }
    }

    fn bounds(&self) -> (i64, i64, f64, f64) {
        let times = self.points.iter().map(|(at, _)| *at);
        let (from, to) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
        let least = self.points.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        let most = self.points.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
        let room = ((most - least) * 0.05).max(0.1);
        (from, to.max(from.saturating_add(1)), least - room, most + room)
    }
}

fn millis(text: &str) -> Option<i64> {
    chargeplane_api::extract::moment("at", text).ok().map(|at| at.0)
}

struct Panels {
    title: String,
    panels: Vec<Panel>,
}

impl Figure for Panels {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<(), String> {
        let words = |e: plotters::drawing::DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
        let area = area.titled(&self.title, (FAMILY, 18)).map_err(words)?;
        for (panel, part) in self.panels.iter().zip(area.split_evenly((self.panels.len(), 1))) {
            let (from, to, least, most) = panel.bounds();
            let mut chart = ChartBuilder::on(&part)
                .margin(6)
                .x_label_area_size(24)
                .y_label_area_size(64)
                .build_cartesian_2d(from..to, least..most)
                .map_err(words)?;
            // A day or less shows times, more shows days as well.
            let long = to.saturating_sub(from) > 86_400_000;
            let label = move |at: &i64| {
                let text = rfc3339(Timestamp(*at));
                let (day, time) = text.split_once('T').unwrap_or((&text, ""));
                let time = time.get(..if long { 5 } else { 8 }).unwrap_or(time);
                if long { format!("{} {time}", day.get(5..).unwrap_or(day)) } else { time.to_owned() }
            };
            chart
                .configure_mesh()
                .x_labels(8)
                .y_labels(5)
                .x_label_formatter(&label)
                .y_desc(panel.title)
                .label_style((FAMILY, 12))
                .axis_desc_style((FAMILY, 13))
                .light_line_style(RGBColor(235, 235, 235))
                .draw()
                .map_err(words)?;
            let line = LineSeries::new(panel.points.iter().copied(), LINE.stroke_width(1));
            chart.draw_series(line).map_err(words)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panels() -> Panels {
        let sample = |n: i64| {
            let at = rfc3339(Timestamp(1_767_600_000_000 + n * 60_000));
            json!({ "at": at, "power_w": if n == 60 { 119_000 } else { 60_000 }, "voltage_dv": 4_000 })
        };
        let samples: Vec<Value> = (0..120).map(sample).collect();
        let panels = ["power", "voltage"].iter().map(|name| Panel::of(column(name).unwrap(), &samples)).collect();
        Panels { title: "main/c1".to_owned(), panels }
    }

    #[test]
    fn a_panel_has_the_readings_in_their_unit() {
        let Panels { panels, .. } = panels();
        assert_eq!(panels[0].points[60], (1_767_603_600_000, 119.0));
        let (from, to, least, most) = panels[0].bounds();
        assert_eq!((from, to), (1_767_600_000_000, 1_767_600_000_000 + 119 * 60_000));
        assert!(least < 60.0 && most > 119.0);
        assert!(panels[1].bounds().2 < panels[1].bounds().3, "a level line has room");
        assert!(column("watts").is_err());
    }

    #[test]
    fn an_svg_is_drawn_and_other_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        plot::save(&panels(), &path, (800, 500), None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("power, kW") && text.contains("polyline"), "{text:.300}");
        let wrong = plot::save(&panels(), &dir.path().join("plot.gif"), (800, 500), None).unwrap_err();
        assert!(wrong.message.contains(".svg or .png"), "{wrong}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half done is left");
    }
}
