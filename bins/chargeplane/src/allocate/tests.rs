//! Files, answers and refusals.

use super::*;
use crate::exit::Code;
use serde_json::{Value, json};

fn asked(file: &Value) -> Result<Value, Failure> {
    let mut at = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut at, file.to_string().as_bytes()).unwrap();
    answer(at.path(), false).map(|answer| serde_json::to_value(answer).unwrap())
}

fn connector(id: &str, parent: &str) -> Value {
    json!({"id": id, "parent": parent, "min_w": 1000, "max_w": 50000, "step_w": 100, "weight": 1})
}

/// Nodes in an order that is none, two connectors under a cap and one beside it.
fn file() -> Value {
    json!({
        "policy": "fair",
        "dt_s": 1,
        "nodes": [
            {"id": "cabinet", "parent": "feeder", "limit_w": 40000, "base_w": 0},
            {"id": "grid", "parent": null, "limit_w": 90000, "base_w": 10000},
            {"id": "feeder", "parent": "grid", "limit_w": 60000, "base_w": 0},
        ],
        "connectors": [connector("a", "cabinet"), connector("b", "cabinet"), connector("c", "grid")],
        "caps": [{"id": "fleet", "limit_w": 25000, "connectors": ["a", "b"]}],
    })
}

fn changed(change: impl Fn(&mut Value)) -> Value {
    let mut file = file();
    change(&mut file);
    file
}

fn refused(change: impl Fn(&mut Value)) -> String {
    let failure = asked(&changed(change)).unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    failure.message
}

#[test]
fn a_tenant_and_a_grid_bind() {
    let answer = asked(&file()).unwrap();
    let grants = json!([
        {"id": "a", "w": 12500, "binding": "cap:fleet"},
        {"id": "b", "w": 12500, "binding": "cap:fleet"},
        {"id": "c", "w": 50000, "binding": "max"},
    ]);
    assert_eq!(answer["grants"], grants);
    assert_eq!((&answer["paused"], &answer["solver"]), (&json!([]), &json!("highs")));
    assert!(answer["checks"].as_object().unwrap().values().all(|kept| *kept == json!(true)), "{answer}");
}

#[test]
fn who_cannot_be_fed_is_paused_in_order() {
    let answer = asked(&changed(|file| file["nodes"][1]["base_w"] = json!(95000))).unwrap();
    assert_eq!(answer["paused"], json!(["a", "b", "c"]));
    assert_eq!(answer["grants"][2], json!({"id": "c", "w": 0, "binding": "node:grid"}));
    let answer = asked(&changed(|file| file["nodes"][1]["limit_w"] = json!(60000))).unwrap();
    assert_eq!(answer["paused"], json!([]));
}

#[test]
fn policies_ramps_and_phases_are_read() {
    let strict = asked(&changed(|file| {
        file["policy"] = json!("strict");
        file["connectors"][1]["weight"] = json!(2.5);
    }));
    assert_eq!(strict.unwrap()["grants"][1]["w"], json!(25000));
    let needs = asked(&changed(|file| {
        file["policy"] = json!("needs");
        file["connectors"][0]["need_wh"] = json!(10000);
        file["connectors"][0]["departs_s"] = json!(1800);
    }));
    assert_eq!(needs.unwrap()["grants"][0]["w"], json!(22000));
    let ramp = asked(&changed(|file| {
        file["connectors"][2]["prev_w"] = json!(2000);
        file["connectors"][2]["ramp_w_per_s"] = json!(1500.5);
    }));
    assert_eq!(ramp.unwrap()["grants"][2], json!({"id": "c", "w": 3500, "binding": "ramp"}));
    let phase = asked(&changed(|file| {
        file["nodes"][1]["phase_limit_w"] = json!(20000);
        file["connectors"][2]["phases"] = json!("L2");
    }));
    assert_eq!(phase.unwrap()["grants"][2], json!({"id": "c", "w": 10000, "binding": "phase:grid/L2"}));
}

#[test]
fn bad_input_names_what_is_wrong_and_where() {
    let said = |change: fn(&mut Value), words: &[&str]| {
        let message = refused(change);
        assert!(words.iter().all(|word| message.contains(word)), "{message} does not say {words:?}");
    };
    said(|file| file["nodes"][2]["parent"] = json!("cabinet"), &["feeder", "its own ancestor"]);
    said(|file| file["nodes"][2]["parent"] = json!(null), &["both have no parent"]);
    said(|file| file["nodes"][1]["parent"] = json!("cabinet"), &["its own ancestor"]);
    said(|file| file["nodes"] = json!([]), &["no grid connection"]);
    said(|file| file["nodes"][2]["parent"] = json!("gird"), &["feeder", "gird", "not listed"]);
    said(|file| file["nodes"][2]["id"] = json!("grid"), &["grid", "listed twice"]);
    said(|file| file["nodes"][2]["limit_w"] = json!(90001), &["grid/feeder", "more than the"]);
    said(|file| file["nodes"][2]["limit_w"] = json!(-1), &["grid/feeder", "limit_w"]);
    said(|file| file["nodes"][2]["limit_w"] = json!(1e15), &["grid/feeder", "limit_w"]);
    said(|file| file["nodes"][2]["limit_w"] = json!(0.5), &["nodes[2].limit_w", "whole"]);
    said(|file| file["nodes"][0]["base_w"] = json!(-1), &["grid/feeder/cabinet", "base_w"]);
    said(|file| file["nodes"][0]["phase_limit_w"] = json!(-1), &["grid/feeder/cabinet", "phase_limit_w"]);
    said(|file| file["connectors"][0]["min_w"] = json!(60000), &["\"a\"", "grid/feeder/cabinet", "minimum"]);
    said(|file| file["connectors"][0]["step_w"] = json!(0), &["\"a\"", "step"]);
    said(|file| file["connectors"][0]["weight"] = json!(0), &["grid/feeder/cabinet/a", "weight"]);
    said(|file| file["connectors"][0]["phases"] = json!("L4"), &["connectors[0].phases", "unknown phase"]);
    said(|file| file["connectors"][0]["parent"] = json!("x"), &["\"a\"", "\"x\"", "not a node"]);
    said(|file| file["connectors"][1]["id"] = json!("a"), &["connector \"a\"", "twice"]);
    said(|file| file["connectors"][0]["departs_s"] = json!(-1), &["cabinet/a", "departs_s"]);
    said(|file| file["caps"][0]["connectors"] = json!(["z"]), &["fleet", "\"z\""]);
    said(|file| file["caps"][0]["connectors"] = json!(["a", "a"]), &["fleet", "twice"]);
    said(|file| file["caps"][0]["limit_w"] = json!(-5), &["fleet", "limit"]);
    said(|file| file["dt_s"] = json!(0), &["dt_s"]);
    said(|file| file["policy"] = json!("equal"), &["policy", "equal"]);
    said(|file| file["nodes"][0]["limit_kw"] = json!(3), &["nodes[0]", "limit_kw"]);
}

/// One leaves in an hour and needs all that it can take, the other stays for eight and can catch up.
#[test]
fn a_plan_ahead_serves_first_who_cannot_catch_up() {
    let connector = |id: &str, need_wh: i64, departs_s: i64| {
        json!({"id": id, "parent": "grid", "min_w": 0, "max_w": 6000, "step_w": 1, "weight": 1,
            "need_wh": need_wh, "departs_s": departs_s})
    };
    let file = json!({
        "policy": "needs",
        "dt_s": 300,
        "nodes": [{"id": "grid", "parent": null, "limit_w": 9000}],
        "connectors": [connector("a", 6000, 3600), connector("b", 45000, 28800)],
    });
    let at = tempfile::NamedTempFile::new().unwrap();
    let put = |file: &Value| std::fs::write(at.path(), file.to_string()).unwrap();
    put(&file);
    let watts = |ahead| -> Vec<i64> { answer(at.path(), ahead).unwrap().grants.iter().map(|grant| grant.w).collect() };
    // Both average needs are more than half of the limit, so without a plan it is halved.
    assert_eq!(watts(false), [4500, 4500]);
    assert_eq!(watts(true), [6000, 3000]);
    put(&changed(|_| {}));
    assert_eq!(answer(at.path(), true).unwrap_err().code, Code::Usage);
}
