//! Every invariant: a run in which all hold, and planted violations that the judge must find, and name rightly.

use super::findings::INVARIANTS;
use super::testing::*;
use crate::evidence::Line;
use serde_json::{Value, json};

#[test]
fn an_honest_run_holds_and_exercises_everything() {
    let (findings, tally) = Story::new().judge();
    for id in INVARIANTS {
        let outcome = findings.of(id);
        assert!(outcome.holds(), "{id}: {} checks, {:?}", outcome.checks, outcome.first);
    }
    assert_eq!((tally.debits, tally.billed_wh, tally.overshoot_wh, tally.billed), (1, 1_066, 34, 16_000));
    assert_eq!((tally.samples.sent, tally.samples.stored, tally.samples.gap), (300, 300, 0));
    assert_eq!((tally.samples.hashed, tally.samples.served), (2, 300));
    assert_eq!((tally.ledger_sum, tally.records, tally.top_ups), (0, 2, 2));
    assert_eq!((tally.requests_shed, tally.overshot), (20, 1));
}

/// Plants one violation and returns what is said about that invariant; all others must still hold.
fn planted(id: &str, plant: impl FnOnce(&mut Story)) -> String {
    let mut story = Story::new();
    plant(&mut story);
    let first = story.violations(id);
    assert!(!first.is_empty(), "{id} was not found violated");
    first.join("\n")
}

/// Plants one violation that several invariants are about; returns what is said about this one.
fn planted_among_others(id: &str, plant: impl FnOnce(&mut Story)) -> String {
    let mut story = Story::new();
    plant(&mut story);
    let first = story.judge().0.of(id).first;
    assert!(!first.is_empty(), "{id} was not found violated");
    first.join("\n")
}

#[test]
fn money_1_an_unbalanced_posting() {
    // The driver paid 1.4999 and the operator earned 1.5000.
    let said = planted_among_others("MONEY-1", |s| s.account_event(4, "settled")["settled"]["billed"] = json!(14_999));
    assert!(said.contains("sum to 1"), "{said}");
}

#[test]
fn money_1_a_balance_served_otherwise_than_logged() {
    let said = planted("MONEY-1", |s| {
        s.balances[0]["balance"] = json!(84_999);
        s.balances[2]["balance"] = json!(11_001);
    });
    assert!(said.contains("driver:main/a1: served 84999, the log gives 85000"), "{said}");
    let said = planted("MONEY-1", |s| s.balances.truncate(3));
    assert!(said.contains("nothing was served") && said.contains("as served sum to"), "{said}");
}

#[test]
fn money_2_a_doubled_debit() {
    let said = planted_among_others("MONEY-2", |s| {
        let frames = s.shards.get_mut(&ACCOUNT).expect("the shard");
        let debit = frames[2].entries[0].clone();
        frames[2].entries.push(debit);
    });
    assert!(said.contains("sequence 1 after 1"), "{said}");
}

#[test]
fn money_2_a_doubled_top_up() {
    let said = planted_among_others("MONEY-2", |s| {
        let frames = s.shards.get_mut(&ACCOUNT).expect("the shard");
        let top_up = frames[0].entries[1].clone();
        frames[1].entries.push(top_up);
    });
    assert!(said.contains("key k1 had an effect twice"), "{said}");
}

/// Adds events to the end of the account's log; returns what is said about an invariant.
fn added(id: &str, events: &[Value]) -> String {
    planted_among_others(id, |s| {
        let frames = s.shards.get_mut(&ACCOUNT).expect("the shard");
        let last = frames.last_mut().expect("frames");
        let key = last.entries[0].0.clone();
        last.entries.extend(events.iter().map(|event| (key.clone(), event.clone())));
    })
}

#[test]
fn money_1_a_transfer_that_arrives_without_having_left() {
    let arrive =
        |amount: i64| json!({ "transferred_in": { "transfer": "main/x.t1", "currency": "CNY", "amount": amount } });
    let said = added("MONEY-1", &[arrive(5)]);
    assert!(said.contains("transfer main/x.t1: left as None"), "{said}");
    let said = added("MONEY-2", &[arrive(5), arrive(5)]);
    assert!(said.contains("for the second time"), "{said}");
}

#[test]
fn money_1_a_transfer_that_arrives_and_comes_back() {
    let account = "main/a2";
    let out = json!({ "transferred_out": {
        "key": "t", "number": 1, "to": account, "currency": "CNY", "amount": 5, "at": 0,
    } });
    let name = format!("{account}.t1");
    let arrive = json!({ "transferred_in": { "transfer": name, "currency": "CNY", "amount": 5 } });
    let back = json!({ "transfer_returned": { "number": 1, "currency": "CNY", "amount": 5 } });
    let said = added("MONEY-1", &[out, arrive, back]);
    assert!(said.contains("transfer main/a2.t1"), "{said}");
}

/// Adds events of a till to the end of the accounts' log; returns what is said about an invariant, nothing if it holds.
fn of_till(id: &str, till: &str, events: &[Value]) -> String {
    let mut story = Story::new();
    let frames = story.shards.get_mut(&ACCOUNT).expect("the shard");
    let entries = events.iter().map(|event| (format!("account:{till}"), event.clone()));
    frames.last_mut().expect("frames").entries.extend(entries);
    story.judge().0.of(id).first.join("\n")
}

/// In this shard the operator has earned 1.6500, of which 0.0500 were paid by nobody but him.
#[test]
fn money_4_a_till_that_takes_or_pays_what_is_not_there() {
    let till = "main/op@CNY-0003".to_owned();
    let opened = || json!({ "opened": { "key": "till", "currency": "CNY", "kind": "prepaid", "at": 8 } });
    let collect = |key: &str, amount: i64| {
        let (operator, currency) = ("main/op", "CNY");
        json!({ "collected": { "key": key, "operator": operator, "currency": currency, "amount": amount, "at": 8 } })
    };
    let pay = |amount: i64| json!({ "paid_out": { "key": "p", "reference": "IBAN", "currency": "CNY", "amount": amount, "at": 9 } });
    let good = [opened(), collect("c1", 10_000), pay(9_000), collect("c2", 6_000)];
    for id in ["MONEY-2", "MONEY-4"] {
        assert_eq!(of_till(id, &till, &good), "");
    }
    let said = of_till("MONEY-4", &till, &[opened(), collect("c1", 16_001)]);
    assert!(said.contains("16001 collected, 16000 were earned"), "{said}");
    let said = of_till("MONEY-4", &till, &[opened(), collect("c1", 10_000), collect("c2", 6_001)]);
    assert!(said.contains("6001 collected, 6000 were earned"), "{said}");
    let said = of_till("MONEY-2", &till, &[opened(), collect("c1", 5), collect("c1", 5)]);
    assert!(said.contains("key c1 had an effect twice"), "{said}");
    let said = of_till("MONEY-4", &till, &[opened(), collect("c1", 5), pay(6)]);
    assert!(said.contains("pays 6 out and has -1 then"), "{said}");
    let said = of_till("MONEY-4", "main/a1", &[pay(6)]);
    assert!(said.contains("main/a1 pays 6 out"), "{said}");
    let said = of_till("MONEY-1", "main/a1", &[collect("c1", 5)]);
    assert!(said.contains("main/a1 collects 5 of main/op"), "{said}");
    let said = of_till("MONEY-1", "main/op@CNY-7777", &[opened(), collect("c1", 5)]);
    assert!(said.contains("main/op@CNY-7777 collects 5"), "{said}");
}

#[test]
fn money_4_a_hold_that_ends_too_soon() {
    let day = 24 * 3_600_000;
    let mut held = Story::new().account_event(2, "held").clone();
    held["session"] = json!("main/c1.9");
    let end = |at: i64, hold: i64| json!({ "hold_ended": { "session": "main/c1.9", "hold": hold, "at": at } });
    let of_driver = |id: &str, end: Value| of_till(id, "main/a1", &[json!({ "held": held.clone() }), end]);
    for id in ["MONEY-2", "MONEY-4"] {
        assert_eq!(of_driver(id, end(day + 2, 20_000)), "");
    }
    let said = of_driver("MONEY-4", end(day + 1, 20_000));
    assert!(said.contains("the hold of main/c1.9 ends 86399999 ms after its last reading"), "{said}");
    let said = of_driver("MONEY-2", end(day + 2, 19_999));
    assert!(said.contains("19999 released of main/c1.9"), "{said}");
    let said =
        of_till("MONEY-2", "main/a1", &[json!({ "hold_ended": { "session": SESSION, "hold": 0, "at": day * 9 } })]);
    assert!(said.contains("released of main/c1.1"), "{said}");
}

#[test]
fn money_4_a_refund_of_more_than_was_paid_in() {
    let refund = json!({ "refunded": { "key": "r", "currency": "CNY", "amount": 100_000_000 } });
    let said = added("MONEY-4", &[refund]);
    assert!(said.contains("100000000 refunded"), "{said}");
}

#[test]
fn money_1_a_share_that_was_not_agreed() {
    let said = planted_among_others("MONEY-1", |s| {
        s.account_event(4, "settled")["shares"] = json!([{ "party": "main/friend", "amount": 5 }]);
    });
    assert!(said.contains("main/friend") && said.contains("agreed were {}"), "{said}");
}

#[test]
fn money_2_a_repeat_answered_otherwise_and_a_conflict_accepted() {
    let said = planted("MONEY-2", |s| {
        let Line::Repeat { again, .. } = &mut s.promises[2] else { panic!("the repeat") };
        *again = json!({ "balance": "20.0000" });
    });
    assert!(said.contains("and when repeated"), "{said}");
    let said = planted("MONEY-2", |s| {
        let Line::Conflict { status, .. } = &mut s.promises[3] else { panic!("the conflict") };
        *status = 201;
    });
    assert!(said.contains("with another amount was answered 201"), "{said}");
}

#[test]
fn money_2_a_top_up_of_the_drills_that_was_never_answered() {
    let top_up = |s: &mut Story, key: &str| {
        s.account_event(1, "topped_up")["key"] = json!(key);
        s.promises.remove(1);
    };
    let said = planted("MONEY-2", |s| top_up(s, "drill-1-topup-7"));
    assert!(said.contains("never answered"), "{said}");
    let mut story = Story::new();
    top_up(&mut story, "by-hand");
    assert!(story.violations("MONEY-2").is_empty(), "what others pay in is their business");
}

#[test]
fn money_3_a_promise_that_is_not_in_the_log() {
    let said = planted("MONEY-3", |s| {
        let answer = json!({ "balance": "11.0000" });
        s.promises.push(Line::TopUp { key: "k9".into(), account: "main/a1".into(), amount: 10_000, answer });
    });
    assert!(said.contains("k9") && said.contains("None"), "{said}");
}

#[test]
fn money_3_a_record_served_that_the_journal_does_not_have() {
    let said = planted_among_others("MONEY-3", |s| s.records[0]["billed"] = json!("1.6000"));
    assert!(said.contains(SESSION), "{said}");
}

#[test]
fn money_4_more_held_than_there_is() {
    let said = planted("MONEY-4", |s| s.account_event(2, "held")["hold"] = json!(100_001));
    assert!(said.contains("-1 available"), "{said}");
}

#[test]
fn money_4_an_overshoot_beyond_its_bound() {
    // 0.86 of 1.50 are borne by the operator; 120 kW for 17 s at 1.50 a kWh are 0.85.
    let said = planted_among_others("MONEY-4", |s| {
        let settled = &mut s.account_event(4, "settled")["settled"];
        settled["billed"] = json!(6_400);
        settled["overshoot"] = json!(8_600);
    });
    assert!(said.contains("overshoots by 8600, the bound is 8536"), "{said}");
}

#[test]
fn money_4_a_reserve_beyond_what_was_stated() {
    let said = planted("MONEY-4", |s| s.account_event(2, "held")["reserve"] = json!(542));
    assert!(said.contains("keeps 542 in reserve") && said.contains("are 541"), "{said}");
}

#[test]
fn money_4_is_not_exercised_without_an_overshoot() {
    let mut story = Story::new();
    story.account_event(5, "topped_up")["amount"] = json!(1_500);
    story.account_event(6, "held")["hold"] = json!(1_500);
    let settled = &mut story.account_event(7, "settled")["settled"];
    for (name, value) in [("billed", 1_500), ("billed_wh", 100), ("overshoot", 0), ("overshoot_wh", 0)] {
        settled[name] = json!(value);
    }
    let outcome = story.judge().0.of("MONEY-4");
    assert_eq!((outcome.word(), outcome.holds(), outcome.missing.len()), ("NOT EXERCISED", false, 1));
}

#[test]
fn sess_1_a_settlement_may_give_back_what_a_wrong_reading_was_billed() {
    // 1,600 Wh were read and debited, 1,000 Wh were metered in the end.
    let corrected = |story: &mut Story| {
        let debit = story.account_event(3, "debited");
        debit["meter"] = json!(1_600);
        debit["by_period"] = json!([0, 0, 1_600, 0]);
        debit["cumulative"] = json!({ "energy": 16_000, "service": 8_000 });
        (debit["energy"], debit["service"]) = (json!(16_000), json!(8_000));
        let settled = story.account_event(4, "settled");
        (settled["energy"], settled["service"]) = (json!(-6_000), json!(-3_000));
    };
    let mut story = Story::new();
    corrected(&mut story);
    for invariant in ["SESS-1", "MONEY-1", "MONEY-2", "MONEY-4"] {
        assert!(story.violations(invariant).is_empty(), "{invariant}: {:?}", story.violations(invariant));
    }
    // A debit must not go back, and what goes back must be what was taken.
    let said = planted_among_others("SESS-1", |s| {
        corrected(s);
        let debit = s.account_event(3, "debited");
        debit["by_period"] = json!([0, 700, 900, 0]);
    });
    assert!(said.contains("priced"), "{said}");
    let said = planted_among_others("SESS-1", |s| {
        corrected(s);
        s.account_event(4, "settled")["energy"] = json!(-5_000);
    });
    assert!(said.contains("revenue 16000"), "{said}");
}

#[test]
fn sess_1_fees_are_worked_out_anew_and_a_pause_costs_nothing() {
    let with = |change: fn(&mut Story)| {
        let mut story = Story::new().with_fees();
        change(&mut story);
        story.judge().0.of("SESS-1").first.join("; ")
    };
    let clean = Story::new().with_fees();
    for invariant in ["SESS-1", "MONEY-1", "MONEY-2", "MONEY-3", "MONEY-4"] {
        assert!(clean.violations(invariant).is_empty(), "{invariant}: {:?}", clean.violations(invariant));
    }
    let said = with(|s| s.account_event(3, "debited")["cumulative"]["fees"] = json!(1_201));
    assert!(said.contains("should be [6000, 3000, 1200]"), "{said}");
    let said = with(|s| s.account_event(4, "settled")["settled"]["cumulative"]["fees"] = json!(3_599));
    assert!(said.contains("should be [10000, 5000, 3600]"), "{said}");
    // The gateway told of no pause, or of a longer one.
    let said = with(|s| s.station_event("flow_changed")["at"] = json!(59_002));
    assert!(said.contains("pays for 60000 ms and 30000 ms idle, told were (59000, 30000)"), "{said}");
    let said = with(|s| s.station_event("session_settled")["record"]["time"]["idle_ms"] = json!(29_999));
    assert!(said.contains("the account settled"), "{said}");
}

#[test]
fn own_1_a_hole_an_epoch_going_down_a_broken_chain_and_rot() {
    let frames = |s: &mut Story, change: fn(&mut FrameSpec)| {
        change(&mut s.shards.get_mut(&STATION).expect("the shard")[3]);
    };
    let said = planted("OWN-1", |s| {
        frames(s, |f| f.lsn = 5);
        s.shards.get_mut(&STATION).expect("the shard")[4].lsn = 6;
    });
    assert!(said.contains("frame 5: follows frame 3"), "{said}");
    let said = planted("OWN-1", |s| frames(s, |f| f.epoch = 1));
    assert!(said.contains("epoch 1 after 2"), "{said}");
    let said = planted("OWN-1", |s| frames(s, |f| f.prev = Some([7; 32])));
    assert!(said.contains("does not name the hash before it"), "{said}");
    let said = planted("OWN-1", |s| frames(s, |f| f.rotten = true));
    assert!(said.contains("the checksum does not fit") && said.contains("follows frame 3"), "{said}");
}

#[test]
fn power_1_one_watt_over_a_limit() {
    let said = planted("POWER-1", |s| s.load[2] = load_row(2, 50_001));
    assert!(said.contains("cabinet draws 50001 W"), "{said}");
    let said = planted("POWER-1", |s| s.load[2]["violations"] = json!(1));
    assert!(said.contains("second 2"), "{said}");
    let said = planted("POWER-1", |s| {
        s.node.violations.insert("POWER-1".into(), 3.0);
    });
    assert!(said.contains("the node counted 3"), "{said}");
}

#[test]
fn power_1_more_granted_than_a_limit_though_nobody_draws_it() {
    let said = planted("POWER-1", |s| s.load[2]["granted"]["cabinet"] = json!(50_001));
    assert!(said.contains("cabinet may draw 50001 W, its limit is 50000 W"), "{said}");
    let said = planted("POWER-1", |s| s.load[2]["over_granted"] = json!(3));
    assert!(said.contains("3 readings in which more than a limit was granted"), "{said}");
    let mut story = Story::new();
    story.load.iter_mut().for_each(|row| row["granted"] = json!({ "grid": 0, "cabinet": 0 }));
    assert_eq!(story.judge().0.of("POWER-1").word(), "NOT EXERCISED");
}

#[test]
fn power_2_a_cut_off_cabinet_over_its_fallback() {
    // The cut begins at 5, the last lease ends at 36, the link is back at 50.
    let said = planted("POWER-2", |s| s.load[36] = load_row(36, 40_001));
    assert!(said.contains("cabinet draws 40001 W"), "{said}");
    for outside in [35, 50] {
        let mut story = Story::new();
        story.load[outside] = load_row(outside as u64, 40_001);
        assert!(story.violations("POWER-2").is_empty(), "second {outside}");
    }
}

#[test]
fn power_2_nothing_drawn_is_not_exercised() {
    let mut story = Story::new();
    story.load.iter_mut().for_each(|row| row["nodes"]["cabinet"] = json!(0));
    assert_eq!(story.judge().0.of("POWER-2").word(), "NOT EXERCISED");
}

#[test]
fn data_1_a_missing_acknowledged_sample() {
    let said = planted("DATA-1", |s| s.chunks[2].4.truncate(43));
    assert!(said.contains("1 samples missing, first number 299, acknowledged"), "{said}");
}

#[test]
fn data_1_a_declared_gap_is_no_loss_and_is_counted() {
    let mut story = Story::new();
    story.chunks[2].4.truncate(40);
    story.gaps.push((CHARGER.into(), 1, 290, 299));
    story.telemetry[0].samples.truncate(296);
    let (findings, tally) = story.judge();
    assert!(findings.of("DATA-1").holds(), "{:?}", findings.of("DATA-1").first);
    assert_eq!((tally.samples.sent, tally.samples.stored, tally.samples.gap), (300, 296, 4));
}

#[test]
fn data_1_two_contents_a_stray_and_a_wrong_register() {
    let said = planted("DATA-1", |s| s.chunks[1].4[3] += 1);
    assert!(said.contains("number 259 is stored with two contents"), "{said}");
    let said = planted("DATA-1", |s| {
        let last = s.chunks[2].4[43];
        s.chunks[2].4.push(last);
    });
    assert!(said.contains("1 stored samples were never sent"), "{said}");
    let said = planted("DATA-1", |s| s.gateways[0]["chargers"][0]["register_wh"] = json!(6_000));
    assert!(said.contains("the charger ended at 6000"), "{said}");
    let said = planted("DATA-1", |s| s.chunks.push(("main/ghost".into(), 1, 1, 0, vec![1])));
    assert!(said.contains("nobody sent it"), "{said}");
}

#[test]
fn data_1_a_value_that_is_not_the_one_that_was_made() {
    // Stored and served alike, in every version: only the charger knows better.
    let said = planted("DATA-1", |s| {
        s.chunks[0].4[100] += 1;
        s.telemetry[0].samples[100].1[6] += 1;
    });
    assert!(said.contains("numbers 0 to 255 are stored otherwise than they were made"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let said = planted("DATA-1", |s| s.gateways[0]["chargers"][0]["digests"] = json!([[0, 255, "0"]]));
    assert!(said.contains("256 samples were hashed, 300 were sent"), "{said}");
    assert_eq!(
        super::telemetry::digest([(&5, &[1_000, 3_500, -1, 220, 500, 0, 6_000])].into_iter()),
        0x6561_55ec_5215_111c
    );
}

#[test]
fn data_1_a_range_served_otherwise_than_stored() {
    let said = planted("DATA-1", |s| s.telemetry[0].samples[7].1[6] += 1);
    assert!(said.contains("sample 7 of the range"), "{said}");
    let said = planted("DATA-1", |s| {
        let twice = s.telemetry[0].samples[9];
        s.telemetry[0].samples.insert(9, twice);
    });
    assert!(said.contains("sample 10 of the range"), "{said}");
    let said = planted("DATA-1", |s| s.telemetry[0].samples.truncate(299));
    assert!(said.contains("served None"), "{said}");
    let mut story = Story::new();
    story.telemetry.clear();
    assert_eq!(story.judge().0.of("DATA-1").word(), "NOT EXERCISED");
}

#[test]
fn remote_starts_and_stops_are_promises() {
    let start = |session: &str| Line::Start {
        key: "s9".into(),
        charger: CHARGER.into(),
        account: "main/a2".into(),
        status: 201,
        session: Some(session.into()),
    };
    let said = planted("MONEY-3", |s| s.promises.push(start("main/c1.9")));
    assert!(said.contains("main/c1.9: its start at main/c1 for main/a2 was acknowledged, the log has None"), "{said}");
    let repeat = |again: Option<&str>| Line::StartRepeat {
        key: "s1".into(),
        session: OVERSHOT.into(),
        status: 201,
        again: again.map(str::to_owned),
    };
    for again in [Some("main/c1.3"), None] {
        let said = planted("MONEY-2", |s| s.promises.push(repeat(again)));
        assert!(said.contains("start s1: answered main/c1.2, and when repeated 201"), "{said}");
    }
    let said = planted("CMD-1", |s| {
        s.promises.push(Line::Stop { key: "s3".into(), session: "main/c1.9".into(), status: 202 });
    });
    assert!(said.contains("main/c1.9: its stop was acknowledged, it never ended"), "{said}");
    let mut story = Story::new();
    story.promises.retain(|line| !matches!(line, Line::StartRepeat { .. }));
    assert_eq!(story.judge().0.of("MONEY-2").word(), "NOT EXERCISED");
}

#[test]
fn cmd_1_twice_untrue_and_unknown() {
    let said = planted("CMD-1", |s| s.commands.push(s.commands[0].clone()));
    assert!(said.contains("took effect 2 times"), "{said}");
    let said = planted("CMD-1", |s| s.commands[0]["end"] = json!("not_plugged"));
    assert!(said.contains("recorded as done, took effect 0 times"), "{said}");
    let said = planted("CMD-1", |s| s.station_event("command_resolved")["outcome"] = json!("expired"));
    assert!(said.contains("recorded as expired, took effect 1 times"), "{said}");
    let said = planted("CMD-1", |s| s.commands.push(json!({ "command": "main/c1.c9", "end": "done" })));
    assert!(said.contains("never accepted"), "{said}");
}

#[test]
fn sess_1_a_record_off_by_one_watt_hour() {
    let said = planted("SESS-1", |s| s.sessions[0]["meter_stop_wh"] = json!(6_001));
    assert!(said.contains("the meter says 1001 Wh, the record 1000 Wh"), "{said}");
    let said = planted_among_others("SESS-1", |s| s.station_event("session_settled")["record"]["energy"] = json!(999));
    assert!(said.contains("the meter says 1000 Wh, the record 999 Wh"), "{said}");
}

#[test]
fn sess_1_a_session_billed_to_somebody_else() {
    let said = planted("SESS-1", |s| s.sessions[0]["account"] = json!("main/a2"));
    assert!(said.contains("main/a2 charged, the record says main/a1"), "{said}");
    // Started over the API: who asked for it pays, whoever stands at the charger.
    let start = |account: &str| Line::Start {
        key: "drill-1-start-1".into(),
        charger: CHARGER.into(),
        account: account.into(),
        status: 201,
        session: Some(SESSION.into()),
    };
    let mut story = Story::new();
    story.sessions[0]["account"] = json!("main/a2");
    story.promises.push(start("main/a1"));
    assert!(story.violations("SESS-1").is_empty());
    let said = planted_among_others("SESS-1", |s| s.promises.push(start("main/a3")));
    assert!(said.contains("main/a3 charged, the record says main/a1"), "{said}");
}

#[test]
fn sess_1_missing_ghost_and_open_sessions() {
    let said = planted("SESS-1", |s| {
        let mut other = s.sessions[0].clone();
        other["session"] = json!("main/c1.3");
        s.sessions.push(other);
    });
    assert!(said.contains("main/c1.3: the fleet ended it, there is no record"), "{said}");
    let said = planted("SESS-1", |s| s.sessions.clear());
    assert!(said.contains("the fleet never ended it"), "{said}");
    let said = planted("SESS-1", |s| s.records.clear());
    assert!(said.contains("none is served"), "{said}");
    let said = planted("SESS-1", |s| {
        let open =
            json!({ "charger": { "session_requested": { "session": { "id": "main/c1.3", "account": "main/a1" } } } });
        let frame = s.shards.get_mut(&STATION).expect("the shard").last_mut().expect("a frame");
        frame.entries.push(("charger:main/c1".into(), open));
    });
    assert!(said.contains("main/c1.3: still open"), "{said}");
}

#[test]
fn sess_1_a_price_that_is_not_the_tariffs() {
    let said = planted_among_others("SESS-1", |s| s.account_event(3, "debited")["cumulative"]["energy"] = json!(6_001));
    let should = "priced [6001, 3000, 0] (energy, service, fees), should be [6000, 3000, 0]";
    assert!(said.contains(should), "{said}");
}

#[test]
fn load_1_a_queue_over_its_bound_and_requests_without_an_answer() {
    let said = planted("LOAD-1", |s| {
        s.node.lanes.insert("money".into(), (101.0, 100.0));
    });
    assert!(said.contains("lane money"), "{said}");
    let burst = |done, other, unanswered, in_hand, node_changed| Line::Burst {
        sent: 9,
        done,
        shed: 0,
        other,
        unanswered,
        in_hand,
        node_changed,
    };
    let said = planted("LOAD-1", |s| s.promises.push(burst(5, 1, 3, 5, false)));
    assert!(said.contains("3 of 9 requests") && said.contains("1 otherwise"), "{said}");
    let said = planted("LOAD-1", |s| s.promises.push(burst(9, 0, 0, 31, false)));
    assert!(said.contains("31 of 9 requests at once were in hand, the node takes 30"), "{said}");
    let mut story = Story::new();
    story.promises.push(burst(0, 0, 9, 0, true));
    assert!(story.violations("LOAD-1").is_empty(), "a burst into a dying node judges nothing");
}

#[test]
fn load_1_is_exercised_by_what_was_shed_and_bounds_memory() {
    let said = planted("LOAD-1", |s| s.node.resident_peak_kib = 1_001);
    assert!(said.contains("1001 KiB resident, its bound is 1000 KiB"), "{said}");
    let mut story = Story::new();
    for line in &mut story.promises {
        if let Line::Burst { done, shed, .. } = line {
            (*done, *shed) = (50, 0);
        }
    }
    let outcome = story.judge().0.of("LOAD-1");
    assert_eq!((outcome.word(), outcome.holds()), ("NOT EXERCISED", false));
}

#[test]
fn chunks_are_read_in_every_form_the_layout_has() {
    let wave = |scale: i64| (0..100).map(|n| (n * n % 37) * scale).collect::<Vec<i64>>();
    let columns = [wave(1_000_003), wave(1), wave(-2), vec![7; 100], wave(3), wave(i64::MAX / 40), wave(11)];
    // Every other number from 10 on: a bitmap.
    let places: Vec<u64> = (0..100).map(|n| 10 + 2 * n).collect();
    let mut bitmap = vec![1];
    bitmap.extend((0..32u64).map(|byte| {
        let bits = (0..8).filter(|bit| places.contains(&(byte * 8 + bit)));
        bits.fold(0u8, |bits, bit| bits | 1 << bit)
    }));
    let rice = |predictor, slope, product, k| Some(Rice { places: &places, predictor, slope, product, k });
    let forms = [
        None,
        rice(0, 0, false, 3),
        rice(1, 4_096, false, 0),
        rice(1, -12_345, true, 9),
        rice(2, 0, false, 5),
        rice(2, 777, true, 20),
        rice(0, 0, true, 62),
    ];
    for (form, rice) in forms.into_iter().enumerate() {
        let chunk = super::chunk::decode(&chunk_of(5, &bitmap, &columns, rice)).expect("decodes");
        assert_eq!(chunk.numbers, places.iter().map(|place| 5 * 256 + place).collect::<Vec<u64>>());
        assert_eq!(chunk.columns, columns, "form {form}");
    }
}

#[test]
fn foreign_bytes_never_panic() {
    let good = chunk(0, &[1, 2, 3]);
    for cut in 0..good.len() {
        assert!(super::chunk::decode(&good[..cut]).is_err());
        let mut bent = good.clone();
        bent[cut] ^= 0x55;
        assert!(super::chunk::decode(&bent).is_err());
        assert!(super::frame::Frame::decode(&bent).is_err());
    }
}

#[test]
fn a_journal_that_was_copied_is_judged_like_one_that_is_a_file() {
    let (story, dir) = (Story::new(), tempfile::tempdir().expect("a directory"));
    story.write(dir.path());
    let (data, copy) = (dir.path().join("data"), dir.path().join(crate::journal::COPY));
    std::fs::rename(data.join(super::store::JOURNAL), &copy).expect("moves");
    let judged = || super::judge(dir.path(), &data).expect("can be judged").0;
    assert_eq!(judged(), story.judge().0);
    let database = rusqlite::Connection::open(&copy).expect("opens");
    database.execute("DELETE FROM frames WHERE lsn = 2", []).expect("deletes");
    assert!(judged().of("OWN-1").violations > 0);
}
