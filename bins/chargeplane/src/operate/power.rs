//! `chargeplane limit ...`, and `chargeplane charger explain`: sentences for people, the whole document for programs.

use super::Call;
use crate::cli::{LimitCommand, Output};
use crate::client::{Body, encode};
use crate::exit::Failure;
use crate::output::{self, Column};
use serde_json::{Value, json};

const NODES: &[Column] = &[
    ("NODE", "id"),
    ("LIMIT W", "limit_w"),
    ("WHOSE", "source"),
    ("OF", "of"),
    ("FROM", "from"),
    ("CATALOGUE W", "catalogue_w"),
    ("SET", "set"),
];
const SIGNALS: &[Column] = &[
    ("SIGNAL", "signal"),
    ("NODE", "node"),
    ("LIMIT W", "limit_w"),
    ("FROM", "from"),
    ("UNTIL", "until"),
    ("BY", "by"),
];
const WINDOWS: &[Column] = &[("NODE", "node"), ("FROM", "from"), ("UNTIL", "until"), ("LIMIT W", "limit_w")];
const CHANGES: &[Column] = &[
    ("AT", "at"),
    ("BY", "by"),
    ("NODE", "node"),
    ("SIGNAL", "signal"),
    ("LIMIT W", "limit_w"),
    ("FROM", "from"),
    ("UNTIL", "until"),
];

pub(super) fn limit(call: &Call, command: &LimitCommand) -> Result<(), Failure> {
    match command {
        LimitCommand::List { station } => {
            let limits = limits(call, station)?;
            if call.output == Output::Json {
                return output::json(&limits);
            }
            output::list(call.output, items(&limits, "nodes"), NODES)?;
            match items(&limits, "signals") {
                [] => Ok(()),
                signals => output::list(call.output, signals, SIGNALS),
            }
        }
        LimitCommand::Schedule { station } => output::list(call.output, &windows(&limits(call, station)?), WINDOWS),
        LimitCommand::History { station } => {
            output::list(call.output, items(&limits(call, station)?, "changes"), CHANGES)
        }
        LimitCommand::Set { station, node, watts, at, within } => {
            let mut body = json!({ "limit_w": watts });
            let mut when = String::new();
            if let Some(at) = at {
                (body["at"], when) = (json!(at), format!(" from {at} on"));
            }
            if let Some(within) = within {
                (body["within_s"], when) = (json!(within), format!(" in {within} s"));
            }
            call.api.call("PUT", &limit_path(station, node), None, Body::Json(&body))?;
            output::done(call.output, &format!("the limit of {node} is {watts} W{when}"), &body)
        }
        LimitCommand::Lift { station, node } => {
            call.api.call("DELETE", &limit_path(station, node), None, Body::Empty)?;
            output::done(call.output, &format!("{node} has the catalogue's limit"), &json!({ "lifted": node }))
        }
        LimitCommand::Signal { station, signal, watts, node, from, until } => {
            let body = json!({ "node": node, "limit_w": watts, "from": from, "until": until });
            call.api.call("PUT", &signal_path(station, signal), None, Body::Json(&body))?;
            let node = node.as_deref().unwrap_or("the grid connection");
            output::done(call.output, &format!("signal {signal}: {node} has {watts} W until {until}"), &body)
        }
        LimitCommand::EndSignal { station, signal } => {
            call.api.call("DELETE", &signal_path(station, signal), None, Body::Empty)?;
            output::done(call.output, &format!("signal {signal} has ended"), &json!({ "ended": signal }))
        }
    }
}

fn limit_path(station: &str, node: &str) -> String {
    format!("/stations/{}/limits/{}", encode(station), encode(node))
}

fn signal_path(station: &str, signal: &str) -> String {
    format!("/stations/{}/signals/{}", encode(station), encode(signal))
}

fn limits(call: &Call, station: &str) -> Result<Value, Failure> {
    call.api.get(&format!("/stations/{}/limits", encode(station)))
}

fn items<'a>(limits: &'a Value, field: &str) -> &'a [Value] {
    limits[field].as_array().map_or(&[], Vec::as_slice)
}

/// The windows of all nodes, each with its node.
fn windows(limits: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for node in items(limits, "nodes") {
        for window in items(node, "schedule") {
            let mut window = window.clone();
            window["node"] = node["id"].clone();
            all.push(window);
        }
    }
    all
}

pub(super) fn explain(call: &Call, charger: &str) -> Result<(), Failure> {
    let told = call.api.get(&format!("/chargers/{}/power", encode(charger)))?;
    match call.output {
        Output::Json => output::json(&told),
        Output::Table => {
            output::write(&sentences(&told))?;
            output::item(call.output, &without_sentences(told))
        }
    }
}

fn sentences(told: &Value) -> String {
    let name = told["charger"].as_str().unwrap_or_default();
    let lines = told["why"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let lines = lines.enumerate().map(|(at, line)| match at {
        0 => format!("{name}: {line}\n"),
        _ => format!("  {line}\n"),
    });
    // Names of nodes are an operator's text: they must not steer the terminal.
    lines.collect::<String>().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

fn without_sentences(mut told: Value) -> Value {
    if let Some(fields) = told.as_object_mut() {
        fields.remove("why");
        fields.remove("more");
        fields.remove("holders");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schedule_is_a_line_for_each_window_with_its_node() {
        let window = json!({"from": "17:00", "until": "21:00", "limit_w": 5});
        let limits = json!({"nodes": [{"id": "grid", "schedule": [window]}, {"id": "f1"}], "signals": []});
        let with_node = json!({"from": "17:00", "until": "21:00", "limit_w": 5, "node": "grid"});
        assert_eq!(windows(&limits), [with_node]);
    }

    #[test]
    fn the_cause_comes_first_and_the_rest_below_it() {
        let told = json!({"charger": "main/c1", "why": ["39.7 kW: g\u{1b}id is full.", "1.0 kW more if"], "more": []});
        assert_eq!(sentences(&told), "main/c1: 39.7 kW: g id is full.\n  1.0 kW more if\n");
        assert_eq!(without_sentences(told), json!({"charger": "main/c1"}));
    }
}
