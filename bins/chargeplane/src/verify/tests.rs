use super::*;
use serde_json::{Value as Json, json};

/// MessagePack of a JSON value.
fn pack(value: &Json) -> Value {
    match value {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Boolean(*b),
        Json::Number(n) => Value::from(n.as_i64().unwrap()),
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => Value::Array(items.iter().map(pack).collect()),
        Json::Object(fields) => Value::Map(fields.iter().map(|(k, v)| (Value::from(k.as_str()), pack(v))).collect()),
    }
}

/// A journal of one account shard, written by hand.
pub(super) struct Journal {
    pub database: Database,
    pub lsn: u64,
    pub hash: Hash,
}

pub(super) const CODE: i64 = 1 << 16 | 3;

impl Journal {
    fn new() -> Self {
        let database = Database::open_in_memory().unwrap();
        database
            .execute_batch(
                "CREATE TABLE heads(shard INTEGER, owner TEXT, epoch INTEGER, last_lsn INTEGER, last_hash BLOB);
                 CREATE TABLE frames(shard INTEGER, lsn INTEGER, frame BLOB);
                 CREATE TABLE snapshots(shard INTEGER, lsn INTEGER, hash BLOB, bytes BLOB, crc32c INTEGER);",
            )
            .unwrap();
        Self { database, lsn: 0, hash: Sha256::digest("chargeplane/journal/account-0003").into() }
    }

    pub fn frame(&mut self, epoch: u64, events: &[Json]) {
        let entries: Vec<Json> =
            events.iter().map(|event| json!({ "entity": { "key": "account:main/a1", "event": event } })).collect();
        let mut payload = Vec::new();
        rmpv::encode::write_value(&mut payload, &pack(&json!({ "v": 1, "entries": entries }))).unwrap();
        self.lsn += 1;
        let mut bytes = vec![1, 1, 3, 0];
        bytes.extend(epoch.to_le_bytes());
        bytes.extend(self.lsn.to_le_bytes());
        bytes.extend(0_i64.to_le_bytes());
        bytes.extend(self.hash);
        bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(&payload);
        self.hash = Sha256::digest(&bytes).into();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let lsn = i64::try_from(self.lsn).unwrap();
        self.database.execute("INSERT INTO frames VALUES (?1, ?2, ?3)", (CODE, lsn, bytes)).unwrap();
        self.database.execute("DELETE FROM heads", []).unwrap();
        let head = (CODE, i64::try_from(epoch).unwrap(), lsn, self.hash.to_vec());
        self.database.execute("INSERT INTO heads VALUES (?1, 'n1', ?2, ?3, ?4)", head).unwrap();
    }

    pub fn check(&mut self) -> Checked<Summary> {
        check(&mut self.database)
    }

    #[track_caller]
    fn expect(&mut self, part: &str) {
        let difference = self.check().unwrap_err();
        assert!(difference.contains(part), "{part}: {difference}");
    }
}

fn opened() -> Json {
    json!({ "opened": { "key": "k0", "currency": "CNY", "kind": "prepaid", "at": 0 } })
}

pub(super) fn topped_up(key: &str, amount: i64) -> Json {
    json!({ "topped_up": { "key": key, "currency": "CNY", "amount": amount, "at": 0 } })
}

fn held() -> Json {
    json!({ "held": { "session": "main/c1.1", "operator": "main/op", "hold": 900, "reserve": 100, "at": 0 } })
}

fn debited(sequence: i64, meter: i64, amount: i64, total: i64) -> Json {
    json!({ "debited": {
        "session": "main/c1.1", "operator": "main/op", "currency": "CNY", "sequence": sequence, "meter": meter,
        "by_period": [0, 0, meter, 0], "cumulative": { "energy": total, "service": 0 },
        "energy": amount, "service": 0, "hold": 900, "at": 0,
    } })
}

fn settled(sequence: i64, meter: i64, amount: i64, billed: i64, overshoot: i64) -> Json {
    json!({ "settled": {
        "session": "main/c1.1", "operator": "main/op", "currency": "CNY", "energy": amount, "service": 0,
        "settled": {
            "sequence": sequence, "meter": meter, "by_period": [0, 0, meter, 0],
            "cumulative": { "energy": billed + overshoot, "service": 0 }, "billed": billed,
            "billed_wh": meter - 1, "overshoot": overshoot, "overshoot_wh": 1, "released": 0, "at": 0,
        },
    } })
}

/// Top-up of 1,000; 100 Wh for 400 debited; settled at 150 Wh for 600, 550 of them paid by the driver.
pub(super) fn good() -> Journal {
    let mut journal = Journal::new();
    journal.frame(1, &[opened(), topped_up("k1", 1_000)]);
    journal.frame(1, &[held()]);
    journal.frame(2, &[debited(1, 100, 400, 400)]);
    journal.frame(2, &[settled(2, 150, 200, 550, 50)]);
    journal
}

#[test]
fn a_clean_journal_is_summed_up() {
    let summary = good().check().unwrap();
    assert_eq!((summary.shards, summary.frames), (1, 4));
    let books = &summary.books;
    assert_eq!((books.accounts(), books.sessions(), books.settled(), books.debits()), (1, 1, 1, 1));
    assert_eq!((books.top_ups(), books.energy_wh(), books.overshoot_wh()), (1, 150, 1));
    assert_eq!(books.sums().collect::<Vec<_>>(), [("CNY", 0)]);
    let mut empty = Journal::new();
    assert_eq!(empty.check().unwrap().frames, 0);
}

#[test]
fn damage_to_the_log_is_found() {
    let mut journal = good();
    journal.database.execute("UPDATE frames SET frame = zeroblob(length(frame)) WHERE lsn = 2", []).unwrap();
    journal.expect("account-0003 frame 2: the checksum");
    let mut journal = good();
    journal.database.execute("DELETE FROM frames WHERE lsn = 2", []).unwrap();
    journal.expect("frame 3: follows frame 1");
    let mut journal = good();
    journal.database.execute("DELETE FROM frames WHERE lsn = 4", []).unwrap();
    journal.expect("ends with frame 3, the head names frame 4");
    let mut journal = good();
    journal.database.execute("UPDATE heads SET epoch = 1", []).unwrap();
    journal.expect("frame 4 is of epoch 2, the head of 1");
    let mut journal = good();
    journal.frame(1, &[topped_up("k2", 1)]);
    journal.expect("epoch 1 after epoch 2");
    let mut journal = good();
    journal.hash = [7; 32];
    journal.frame(2, &[topped_up("k2", 1)]);
    journal.expect("frame 5: does not name the hash");
    let mut journal = good();
    journal.database.execute("DELETE FROM heads", []).unwrap();
    journal.expect("4 frames belong to shards without a head");
}

#[test]
fn a_snapshot_must_fit_its_frame() {
    let put = |journal: &Journal, lsn: i64, hash: &[u8], spoil: i64| {
        let mut crc = crc32c::crc32c(&CODE.to_le_bytes());
        for part in [&lsn.to_le_bytes()[..], hash, b"state"] {
            crc = crc32c::crc32c_append(crc, part);
        }
        let row = (CODE, lsn, hash.to_vec(), b"state".to_vec(), i64::from(crc) + spoil);
        journal.database.execute("INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4, ?5)", row).unwrap();
    };
    let mut journal = good();
    put(&journal, 4, &journal.hash.clone(), 0);
    assert_eq!(journal.check().unwrap().snapshots, 1);
    put(&journal, 3, &[9; 32], 0);
    journal.expect("the snapshot at frame 3 names another hash");
    let mut journal = good();
    put(&journal, 4, &journal.hash.clone(), 1);
    journal.expect("the checksum of the snapshot at frame 4");
    let mut journal = good();
    put(&journal, 9, &[9; 32], 0);
    journal.expect("a snapshot at frame 9");
}

#[test]
fn wrong_books_are_found() {
    let with = |events: &[Json]| {
        let mut journal = Journal::new();
        journal.frame(1, &[opened(), topped_up("k1", 1_000), held(), debited(1, 100, 400, 400)]);
        journal.frame(1, events);
        journal
    };
    with(&[topped_up("k1", 1_000)]).expect("key k1 had an effect twice");
    with(&[opened()]).expect("key k0 had an effect twice");
    with(&[held()]).expect("held for twice");
    with(&[debited(1, 100, 400, 400)]).expect("sequence 1 of session main/c1.1 after 1");
    with(&[debited(3, 120, 80, 480)]).expect("sequence 3");
    with(&[debited(2, 90, 0, 400)]).expect("the meter reads 90 Wh after 100 Wh");
    with(&[debited(2, 120, 100, 480)]).expect("more was taken");
    // Revenue of 200, of which only 140 are paid by somebody.
    with(&[settled(2, 150, 200, 550, 50), topped_up("k2", 1)]).check().unwrap();
    with(&[settled(2, 150, 190, 550, 50)]).expect("590/10000 became revenue");
    with(&[settled(2, 150, 200, 550, 50), debited(3, 160, 0, 600)]).expect("settled already");
    let mut unpaid = settled(2, 150, 200, 550, 50);
    unpaid["settled"]["settled"]["overshoot"] = json!(40);
    with(&[unpaid]).expect("the balances in CNY add up to 10/10000");
    let mut energy = settled(2, 150, 200, 550, 50);
    energy["settled"]["settled"]["billed_wh"] = json!(150);
    with(&[energy]).expect("SESS-1");
    // Less was metered in the end than was read before: the difference goes back.
    with(&[settled(2, 50, -200, 199, 1)]).check().unwrap();
    with(&[settled(2, 50, -190, 199, 1)]).expect("210/10000 became revenue");
    with(&[settled(2, 100, -200, 199, 1)]).expect("gives money or energy back");
    let mut moved = settled(2, 50, -200, 199, 1);
    moved["settled"]["settled"]["by_period"] = json!([1, 0, 49, 0]);
    with(&[moved]).check().unwrap_err();
    with(&[json!({ "melted": {} })]).expect("melted");
}

#[test]
fn what_a_session_costs_is_worked_out_from_its_tariff() {
    let price = json!({ "energy": 3_000, "service": 1_000 });
    let fees =
        json!({ "flat": 50, "per_minute": 60, "idle_per_minute": 600, "idle_grace_s": 60, "min": 100, "max": 520 });
    let reading = |sequence: i64, meter: i64, ms: (i64, i64), cost: (i64, i64, i64)| {
        json!({ "sequence": sequence, "meter": meter, "by_period": [0, 0, meter, 0],
                "time": { "charging_ms": ms.0, "idle_ms": ms.1 },
                "cumulative": { "energy": cost.0, "service": cost.1, "fees": cost.2 } })
    };
    let with = |ms: (i64, i64), cost: (i64, i64, i64)| {
        let mut start = held();
        start["held"]["tariff"] = json!({ "prices": [price, price, price, price], "fees": fees });
        let mut debit = reading(1, 100, (60_000, 0), (300, 100, 110));
        let mut end = reading(2, 100, ms, cost);
        for (name, value) in [("energy", 300), ("service", 100), ("fees", 110), ("hold", 900), ("at", 0)] {
            debit[name] = json!(value);
        }
        let total = cost.0 + cost.1 + cost.2;
        for (name, value) in [("billed", total), ("billed_wh", 100), ("overshoot", 0), ("overshoot_wh", 0)] {
            end[name] = json!(value);
        }
        let named = |mut event: Json| {
            event["session"] = json!("main/c1.1");
            event["operator"] = json!("main/op");
            event["currency"] = json!("CNY");
            event
        };
        let fees = cost.2 - 110;
        let settled = named(json!({ "energy": cost.0 - 300, "service": cost.1 - 100, "fees": fees, "settled": end }));
        let mut journal = Journal::new();
        let events = [opened(), topped_up("k1", 1_000), start];
        journal.frame(1, &events);
        journal.frame(1, &[json!({ "debited": named(debit) }), json!({ "settled": settled })]);
        journal
    };
    // Half an idle minute beyond the grace, of which the highest price leaves ten.
    with((60_000, 90_000), (300, 100, 120)).check().unwrap();
    with((60_000, 90_000), (300, 100, 121)).expect("should be [300, 100, 120]");
    // The end has the last word: the charger had been paused for half of the minute.
    with((30_000, 0), (300, 100, 80)).check().unwrap();
    with((60_000, 0), (300, 100, 80)).expect("should be [300, 100, 110]");
}

fn keyed(kind: &str, key: &str, more: Json) -> Json {
    let mut event = more;
    event["key"] = json!(key);
    event["currency"] = json!("CNY");
    json!({ kind: event })
}

#[test]
fn what_operators_do_wrongly_is_found() {
    let with = |events: &[Json]| {
        let mut journal = Journal::new();
        journal.frame(1, &[opened(), topped_up("k1", 1_000), held(), debited(1, 100, 400, 400)]);
        journal.frame(1, events);
        journal
    };
    let refund = |key: &str, amount: i64| keyed("refunded", key, json!({ "amount": amount }));
    let adjust = |amount: i64, reason: &str| keyed("adjusted", "a", json!({ "amount": amount, "reason": reason }));
    let release = || keyed("released", "r", json!({ "session": "main/c1.1", "hold": 600 }));
    let close = || keyed("closed", "c", json!({}));
    with(&[refund("b", 600), adjust(-5, "why"), adjust(5, "why")]).expect("key a had an effect twice");
    with(&[refund("b", 600), refund("c", 401)]).expect("a refund of 401/10000, 400/10000 were paid in");
    with(&[adjust(5, " ")]).expect("without an amount or a reason");
    with(&[release(), debited(2, 120, 80, 480)]).expect("a debit of a session whose hold was released");
    with(&[release(), settled(2, 150, 200, 550, 50)]).expect("150/10000 are taken for a session whose hold was");
    with(&[release(), settled(2, 150, 200, 400, 200)]).check().unwrap();
    with(&[close()]).expect("closed with 600/10000 in it");
    with(&[refund("b", 600), close()]).expect("closed with sessions that hold money");
    with(&[refund("b", 600), release(), close(), topped_up("k2", 1)]).expect("not open, or closed");
    with(&[refund("b", 600), release(), close()]).check().unwrap();
}

/// Of 600 that became revenue 50 were paid by the operator himself: 550 may be collected.
#[test]
fn tills_and_ends_of_holds_that_do_not_fit_are_found() {
    const TILL: &str = "main/op@CNY-0001";
    let with = |account: &str, events: &[Json]| {
        let mut books = Books::default();
        let mut take = |account: &str, event: &Json| books.take("account-0001", account, &pack(event));
        let before =
            [opened(), topped_up("k1", 1_000), held(), debited(1, 100, 400, 400), settled(2, 150, 200, 550, 50)];
        before.iter().for_each(|event| take("main/a1", event).unwrap());
        take(TILL, &opened()).unwrap();
        events.iter().try_for_each(|event| take(account, event)).and_then(|()| books.check_shard("account-0001"))
    };
    let collect = |key: &str, amount: i64| keyed("collected", key, json!({ "operator": "main/op", "amount": amount }));
    let pay = |amount: i64| keyed("paid_out", "p", json!({ "reference": "IBAN", "amount": amount }));
    let expect = |account: &str, events: &[Json], part: &str| {
        let difference = with(account, events).unwrap_err();
        assert!(difference.contains(part), "{part}: {difference}");
    };
    with(TILL, &[collect("c1", 500), pay(499), collect("c2", 50)]).unwrap();
    expect(TILL, &[collect("c1", 551)], "551/10000 are collected, main/op earned 550/10000");
    expect(TILL, &[collect("c1", 500), collect("c2", 51)], "main/op earned 50/10000");
    expect(TILL, &[collect("c1", 5), collect("c1", 5)], "key c1 had an effect twice");
    expect(TILL, &[collect("c1", 5), pay(6)], "6/10000 are paid out, -1/10000 are left then");
    expect("main/a1", &[pay(6)], "6/10000 are paid out");
    expect("main/a1", &[collect("c1", 5)], "come into the till main/a1");
    expect(TILL, &[keyed("collected", "c", json!({ "operator": "main/other", "amount": 5 }))], "come into the till");
    let (day, held_for) = (24 * 3_600_000, |session: &str| {
        let mut held = held();
        held["held"]["session"] = json!(session);
        held
    });
    let end = |at: i64| json!({ "hold_ended": { "session": "main/c1.2", "hold": 900, "at": at } });
    with("main/a1", &[held_for("main/c1.2"), end(day)]).unwrap();
    expect("main/a1", &[held_for("main/c1.2"), end(day - 1)], "ends 86399999 ms after its last reading");
    expect("main/a1", &[held_for("main/c1.2"), end(day), end(day)], "is released and holds nothing");
    expect("main/a1", &[end(day)], "ends 0 ms after");
}

#[test]
fn transfers_that_do_not_fit_are_found() {
    let with = |events: &[Json]| {
        let mut journal = Journal::new();
        journal.frame(1, &[opened(), topped_up("k1", 1_000)]);
        journal.frame(1, events);
        journal
    };
    let out = |number: i64| {
        keyed("transferred_out", &format!("t{number}"), json!({ "number": number, "to": "main/a1", "amount": 5 }))
    };
    let arrive = |amount: i64| keyed("transferred_in", "-", json!({ "transfer": "main/a1.t1", "amount": amount }));
    let confirm = || json!({ "transfer_arrived": { "number": 1 } });
    let back = |amount: i64| keyed("transfer_returned", "-", json!({ "number": 1, "amount": amount }));
    with(&[out(1), arrive(5), confirm()]).check().unwrap();
    with(&[out(1), back(5)]).check().unwrap();
    with(&[out(1)]).check().unwrap();
    with(&[arrive(5)]).expect("transfer main/a1.t1 arrived as");
    with(&[out(1), arrive(6)]).expect("transfer main/a1.t1 arrived as");
    with(&[out(1), arrive(5), arrive(5)]).expect("arrives twice");
    with(&[out(1), out(1)]).expect("key t1 had an effect twice");
    with(&[out(1), confirm()]).expect("is confirmed and never arrived");
    with(&[out(1), arrive(5), back(5)]).expect("is back and did");
    with(&[out(1), back(4)]).expect("comes back as something else");
    with(&[out(1), back(5), confirm()]).expect("ends and is not under way");
}

#[test]
fn parties_get_what_was_agreed() {
    let with = |shares: Json| {
        let mut held = held();
        held["held"]["split"] =
            json!({ "shares": { "main/op1": 4_000, "main/owner": 6_000 }, "remainder": "main/owner" });
        let mut settled = settled(1, 150, 601, 551, 50);
        settled["settled"]["operator"] = json!("main/op1");
        settled["settled"]["shares"] = shares;
        let mut journal = Journal::new();
        journal.frame(1, &[opened(), topped_up("k1", 1_000), held, settled]);
        journal
    };
    // 601: 240 to the operator, 360 and the one of rounding to the owner.
    with(json!([{ "party": "main/owner", "amount": 361 }])).check().unwrap();
    with(json!([{ "party": "main/owner", "amount": 360 }])).expect("the parties get");
    with(json!([])).expect("the parties get");
}

fn settled_at_the_station(session: &str, billed: i64) -> Value {
    let record = json!({ "session": session, "account": "main/a1", "energy": 150, "billed": billed, "overshoot": 50 });
    pack(&json!({ "charger": { "session_settled": { "session": session, "record": record } } }))
}

#[test]
fn what_a_station_calls_settled_must_be_what_its_account_paid() {
    let books = good().check().unwrap().books;
    let check = |session, billed| {
        let mut records = across::Records::default();
        records.take("station-0001 frame 2", &settled_at_the_station(session, billed)).unwrap();
        records.check(&books)
    };
    check("main/c1.1", 550).unwrap();
    assert!(check("main/c1.1", 551).unwrap_err().contains("550/10000 billed"));
    assert!(check("main/c1.2", 550).unwrap_err().contains("not in the log of its account"));
}

#[test]
fn a_log_shorter_than_it_once_was_is_found() {
    let dir = tempfile::tempdir().unwrap();
    assert!(across::seen_by_projections(dir.path()).unwrap().is_empty());
    let projections = Database::open(dir.path().join("statements-b.sqlite")).unwrap();
    let rows = "CREATE TABLE cursors(shard TEXT, upto_lsn INTEGER); INSERT INTO cursors VALUES ('account-0003', 4);";
    projections.execute_batch(rows).unwrap();
    let seen = across::seen_by_projections(dir.path()).unwrap();
    let logs = good().check().unwrap().logs;
    across::check_seen(&seen, &logs).unwrap();
    assert!(across::check_seen(&seen, &BTreeMap::new()).unwrap_err().contains("have seen frame 4"));
}
