use super::*;

const DEMO: &str = include_str!("../../../../scenarios/morning-peak.yaml");

fn demo_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/morning-peak.yaml")
}

fn planned(flags: &Overrides) -> anyhow::Result<Plan> {
    plan(&demo_path(), parse(DEMO)?, flags)
}

/// The whole chain of an error, as the person sees it.
fn refusal(text: &str) -> String {
    format!("{:#}", parse(text).expect_err("must be refused"))
}

#[test]
fn the_demo_is_what_the_judges_ask_for() {
    let scenario = read(&demo_path()).expect("the demo reads");
    let s = &scenario.station;
    assert_eq!((s.chargers, s.charger_kw, s.min_kw, s.gateways, s.grid_kw), (2000, 120, 12, 20, 60_000));
    assert_eq!((scenario.seconds, scenario.load.time_compression), (120, 60));
    let plan = planned(&Overrides::default()).expect("the demo plans");
    assert_eq!(plan.not_exercised(), []);
    assert_eq!((plan.cuts[0].at, plan.cuts[0].until, plan.cuts[0].gateways.len()), (60, 105, 1));
    assert!(plan.kills.is_empty());
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    let text = DEMO.replace("  min_kw: 12", "  min_kw: 12\n  colour: red");
    let refusal = refusal(&text);
    assert!(refusal.contains("colour"), "{refusal}");
    let line = text.lines().position(|line| line.contains("colour")).map(|at| at + 1).unwrap_or(0);
    assert!(refusal.contains(&line.to_string()), "line {line} in: {refusal}");
}

#[test]
fn what_makes_no_sense_is_refused_with_the_key() {
    let cases = [
        ("chargeplane/v1", "chargeplane/v9", "apiVersion"),
        ("kind: Scenario", "kind: Story", "kind"),
        ("gateways: 20", "gateways: 0", "station.gateways"),
        ("min_kw: 12", "min_kw: 0", "station.min_kw"),
        ("fallback_kw: 12", "fallback_kw: 5", "station.fallback_kw"),
        ("fallback_kw: 12", "fallback_kw: 40", "station.fallback_kw"),
        ("gateways: one", "gateways: [21]", "timeline[0]"),
        ("gateways: one", "gateways: two", "timeline"),
        ("at: 60", "at: 600", "timeline[0]"),
        (", for: 45", "", "for"),
        ("burst_requests: 400", "burst_requests: 256", "load.burst_requests"),
        ("late_stops: 24", "late_stops: 37", "load.late_stops"),
        ("stop_time_ms: 1000", "stop_time_ms: 0", "node.stop_time_ms"),
        ("do: gateway.cut", "do: node.stop", "node.stop"),
        ("invariants: [default]", "invariants: [MONEY-1]", "invariants"),
    ];
    for (from, to, key) in cases {
        let text = DEMO.replace(from, to);
        assert_ne!(text, DEMO, "{from} is in the demo");
        let refusal = refusal(&text);
        assert!(refusal.contains(key), "{to}: {refusal}");
    }
}

#[test]
fn a_smaller_station_stays_as_tight() {
    let flags = Overrides { chargers: Some(200), ..Overrides::default() };
    let plan = planned(&flags).expect("plans");
    let s = &plan.scenario.station;
    assert_eq!((s.grid_kw, s.gateways, s.cabinets.count), (6_000, 20, 100));
    assert_eq!((plan.scenario.load.poor_drivers, plan.scenario.load.faults), (3, 3));
    let tight = Overrides { chargers: Some(200), grid_kw: Some(4_000), ..Overrides::default() };
    assert_eq!(planned(&tight).expect("plans").scenario.station.grid_kw, 4_000);
}

#[test]
fn levels_never_have_more_nodes_than_the_level_below() {
    let flags = Overrides { chargers: Some(3), gateways: Some(2), ..Overrides::default() };
    let s = planned(&flags).expect("plans").scenario.station;
    assert_eq!((s.transformers.count, s.feeders.count, s.cabinets.count), (3, 3, 3));
}

#[test]
fn the_timeline_scales_and_kills_are_sorted() {
    let flags = Overrides { seconds: Some(60), kill_at: vec![50, 20, 20], ..Overrides::default() };
    let plan = planned(&flags).expect("plans");
    assert_eq!(plan.kills, [20, 50]);
    assert_eq!((plan.cuts[0].at, plan.cuts[0].until), (15, 60));
}

#[test]
fn a_run_of_any_length_has_a_cut_in_which_leases_end() {
    let flags = |seconds| Overrides { seconds: Some(seconds), ..Overrides::default() };
    let missing = |seconds| planned(&flags(seconds)).expect("plans").not_exercised();
    for seconds in [cuts::SHORTEST, 45, 60, 89, 90, 91, 600] {
        let plan = planned(&flags(seconds)).expect("plans");
        assert_eq!(plan.not_exercised(), [], "{seconds} s");
        let cut = &plan.cuts[0];
        assert!(cut.at >= 10 && cut.at <= seconds / 2 && cut.until <= seconds, "{cut:?}");
        assert!(cut.until - cut.at == 45 || seconds < 55, "{cut:?}");
    }
    assert_eq!(missing(cuts::SHORTEST - 1).iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["POWER-2"]);
    assert_eq!(missing(12).iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["POWER-2", "MONEY-2", "DATA-1"]);
    let text = planned(&flags(41)).expect("plans").describe();
    assert!(text.contains("note: POWER-2 will not be exercised") && text.contains("at least 42 s"), "{text}");
}

#[test]
fn a_station_of_any_size_cuts_gateways_that_have_a_cabinet() {
    for (chargers, gateways, cut) in [
        (2_000, 20, 1),
        (2_000, 5, 1),
        (1_000, 1, 1),
        (2_000, 2, 1),
        (2_000, 100, 1),
        (2_000, 200, 2),
        (7, 7, 1),
        (1, 1, 1),
    ] {
        for seed in 0..5 {
            let flags = Overrides {
                chargers: Some(chargers),
                gateways: Some(gateways),
                seed: Some(seed),
                ..Overrides::default()
            };
            let plan = planned(&flags).expect("plans");
            assert_eq!(plan.not_exercised(), [], "{chargers} chargers, {gateways} gateways");
            assert_eq!(plan.cuts[0].gateways.len(), cut, "{chargers} chargers, {gateways} gateways");
            assert_eq!(plan.cuts, planned(&flags).expect("plans").cuts);
        }
    }
    let chosen: std::collections::BTreeSet<Vec<u32>> = (0..20)
        .map(|seed| {
            planned(&Overrides { seed: Some(seed), ..Overrides::default() }).expect("plans").cuts[0].gateways.clone()
        })
        .collect();
    assert_eq!(chosen.len(), 20, "the seed decides which");
}

#[test]
fn a_size_that_is_not_possible_is_refused_with_what_is() {
    let refused = |flags: &Overrides| format!("{:#}", planned(flags).expect_err("refused"));
    let one = refused(&Overrides { gateways: Some(1), ..Overrides::default() });
    assert!(one.contains("2000 chargers need at least 2 gateways"), "{one}");
    let named = parse(&DEMO.replace("gateways: one", "gateways: [7]")).expect("reads");
    let five = Overrides { gateways: Some(5), ..Overrides::default() };
    let error = format!("{:#}", plan(&demo_path(), named, &five).expect_err("refused"));
    assert!(error.contains("no gateway 7; write one, or numbers of 1 to 5"), "{error}");
}

#[test]
fn what_a_cut_or_a_load_cannot_put_to_the_test_is_said() {
    let said = |from: &str, to: &str| {
        let text = DEMO.replace(from, to);
        assert_ne!(text, DEMO);
        let plan = plan(&demo_path(), parse(&text).expect("reads"), &Overrides::default()).expect("plans");
        plan.not_exercised().iter().map(|(id, _)| *id).collect::<Vec<_>>()
    };
    assert_eq!(said("fallback_kw: 12", "fallback_kw: 0"), ["POWER-2"]);
    assert_eq!(said("late_stops: 24", "late_stops: 0"), ["MONEY-4"]);
    assert_eq!(said("burst_requests: 400", "burst_requests: 0"), ["LOAD-1"]);
    // 300 gateways of six or seven chargers each: a cabinet of twenty has several.
    assert_eq!(said("gateways: 20", "gateways: 300").len(), 0);
    let text = DEMO.replace("gateways: 20", "gateways: 300").replace("gateways: one", "gateways: [7]");
    let named = plan(&demo_path(), parse(&text).expect("reads"), &Overrides::default()).expect("plans");
    assert_eq!(named.not_exercised()[0].0, "POWER-2");
}

#[test]
fn the_numbers_of_the_run_are_told_and_not_those_of_the_file() {
    let flags = Overrides { chargers: Some(200), gateways: Some(5), seconds: Some(60), ..Overrides::default() };
    let text = planned(&flags).expect("plans").describe();
    let line = "200 chargers behind 5 gateways, 1 of them cut off for 45 s share 6,000 kW for 60 s; seed 20190301";
    assert!(text.contains(line), "{text}");
    assert!(!text.contains("2,000") && !text.contains("60 MW"), "{text}");
}

#[test]
fn stops_come_from_the_file_and_from_flags() {
    let text = DEMO.replace("timeline:\n", "timeline:\n  - { at: 30, do: node.stop }\n");
    let flags = Overrides { stop_at: vec![90, 40], ..Overrides::default() };
    let plan = plan(&demo_path(), parse(&text).expect("reads"), &flags).expect("plans");
    assert_eq!((plan.stops.as_slice(), plan.kills.len()), ([30, 40, 90].as_slice(), 0));
    assert!(plan.describe().contains("    90 s  node.stop: SIGTERM"), "{}", plan.describe());
    let late = Overrides { stop_at: vec![120], ..Overrides::default() };
    assert!(format!("{:#}", planned(&late).expect_err("refused")).contains("--stop-at"));
}

#[test]
fn the_node_is_configured_as_the_scenario_states() {
    let node = planned(&Overrides::default()).expect("plans").scenario.node;
    assert_eq!(node.toml(), "[http]\nmax_in_flight = 256\n\n[sessions]\nstop_time_ms = 1000\n");
    let (node, text) = (NodePlan::default(), DEMO.replace("  stop_time_ms: 1000\n", ""));
    assert_eq!(parse(&text).expect("reads").node.stop_time_ms, node.stop_time_ms);
}

#[test]
fn a_late_stop_outlasts_the_money_even_at_the_lowest_price() {
    for seconds in [60, 120, 600] {
        let flags = Overrides { seconds: Some(seconds), ..Overrides::default() };
        let s = planned(&flags).expect("plans").scenario;
        let (_, lowest) = crate::catalogue::price_range();
        let bought = crate::fleet::late_balance(&s) * 1_000 / lowest;
        // At 25 kW, what most of 2,000 get at least of 60 MW, until the charger stops.
        let flowed = 24 + 25_000 * (i64::from(s.station.worst_stop_s) - 3) / 3_600;
        assert!(flowed > bought + 10, "{flowed} Wh flow, {bought} Wh are paid");
        assert!(crate::fleet::poor_balance(&s) > crate::fleet::late_balance(&s));
    }
}

#[test]
fn a_kill_after_the_end_is_refused() {
    let flags = Overrides { kill_at: vec![120], ..Overrides::default() };
    assert!(format!("{:#}", planned(&flags).expect_err("refused")).contains("--kill-at"));
}

#[test]
fn the_schedule_is_in_order() {
    let flags = Overrides { kill_at: vec![80, 40], ..Overrides::default() };
    let text = planned(&flags).expect("plans").describe();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
    assert!(
        at("load begins") < at("    40 s") && at("    40 s") < at("gateway.cut") && at("gateway.cut") < at("    80 s")
    );
}
