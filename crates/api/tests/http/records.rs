//! Charge records: exports and rebuilds.

use super::*;

fn record(n: u32, charger: &str, city: &str) -> ChargeRecord {
    let price = Price { energy: Money(7_000), service: Money(3_000) };
    let ended_at = Timestamp(1_767_600_000_000 + i64::from(n));
    let charger: ChargerId = charger.parse().unwrap();
    ChargeRecord {
        session: format!("{charger}.{n}").parse().unwrap(),
        account: format!("{}/a1", charger.tenant()).parse().unwrap(),
        station: "s1".parse().unwrap(),
        charger,
        connector: ConnectorNo(1),
        operator: "op".parse().unwrap(),
        city: city.to_owned(),
        time_zone: "Asia/Shanghai".to_owned(),
        started_at: ended_at.plus_ms(-3_600_000),
        ended_at,
        month: "2026-01".parse().unwrap(),
        meter_start: WattHours(0),
        meter_stop: WattHours(1_000),
        energy: WattHours(1_000),
        billed_wh: WattHours(1_000),
        overshoot_wh: WattHours(0),
        by_period: [WattHours(0), WattHours(0), WattHours(1_000), WattHours(0)],
        time: MeteredTime { charging_ms: 3_600_000, idle_ms: 0 },
        energy_amount: Money(7_000),
        service_amount: Money(3_000),
        fees_amount: Money(0),
        total: Money(10_000),
        billed: Money(10_000),
        overshoot: Money(0),
        currency: Currency::new("CNY").unwrap(),
        stop_reason: StopReason::Driver,
        tariff: Tariff {
            currency: Currency::new("CNY").unwrap(),
            prices: [price; 4],
            slots: Slots::uniform(2).unwrap(),
            fees: Fees::NONE,
        },
    }
}

/// 2,500 records of main in two cities, and one of acme: more than two pages of an export.
async fn with_records() -> Server {
    let server = Server::start().await;
    let mut records: Vec<_> =
        (1..=2_500).map(|n| record(n, "c1", if n % 5 == 0 { "Wuxi" } else { "Suzhou" })).collect();
    records.push(record(9_999, "acme/c1", "Suzhou"));
    let shard = ShardId { family: Family::Station, index: 0 };
    let records = (0..).zip(records).map(|(index, record)| StoredRecord { shard, lsn: 1, index, record }).collect();
    let batch = RecordBatch { shard, after_lsn: 0, upto_lsn: 1, records };
    server.stores.records.add(Generation::Served, batch).await.unwrap();
    server
}

#[tokio::test]
async fn an_export_has_every_record_in_every_form_and_a_tenant_its_own() {
    let server = with_records().await;
    let export = async |token, query: &str| {
        let answer = server.ask(token, "GET", &format!("/charge-records/export?{query}"), None, None).await;
        assert!(answer.status.is_success(), "{}", answer.text);
        answer
    };
    let csv = export(ALL, "format=csv&tenant=main").await;
    assert!(csv.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/csv"));
    let lines: Vec<_> = csv.text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 2_501, "a header and every record");
    assert!(lines[1].contains("main/c1.2500") && lines[2_500].contains("main/c1.1,"), "newest first");
    for (format, count) in [("json", 2_501), ("ocpi", 2_501)] {
        assert_eq!(export(ALL, &format!("format={format}")).await.body.as_array().unwrap().len(), count);
    }
    let ocpi = export(ALL, "format=ocpi_lines&city=Wuxi&month=2026-01&charger=c1").await;
    let cdrs: Vec<Value> = ocpi.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cdrs.len(), 500);
    assert!(cdrs.iter().all(|cdr| cdr["total_cost"]["excl_vat"] == json!(1.0)));
    // The token of acme asks for everything and gets what is acme's.
    assert_eq!(export(ACME, "format=json_lines").await.text.lines().count(), 1);
    assert_eq!(export(ALL, "format=json&month=2025-12").await.body, json!([]));
    assert_eq!(export(ALL, "format=json_lines&month=2025-12").await.text, "");
    server.get("/charge-records/export?format=xml").await.refused(400, "bad_query");
    server.get("/charge-records/export").await.refused(400, "bad_query");
    server.get("/charge-records?month=2026-1").await.refused(400, "bad_query");
    server.get("/charge-records?from=yesterday").await.refused(400, "bad_query");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_export_s_room_back() {
    let server = with_records().await;
    let request = || {
        let request = Request::get("/api/v1/charge-records/export?format=csv").header("authorization", bearer(ALL));
        server.router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(request().await.unwrap());
    }
    assert_eq!(request().await.unwrap().status(), 503, "a fifth is answered at once");
    drop(held);
    while request().await.unwrap().status() == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_read_model_is_compared_and_built_again() {
    let server = Server::start().await;
    server.account("a1", "5").await;
    server.get("/accounts/a1/statement").await.ok();
    let ended = async |path: &str| loop {
        let status = server.get(path).await.ok();
        if status["state"] != "running" {
            break status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let path = "/read-models/statements/rebuild";
    server.get(path).await.refused(404, "not_found");
    server.post("/read-models/prices/rebuild", None, &json!({})).await.refused(404, "not_found");
    server.ask(ACME, "POST", path, None, None).await.refused(403, "other_tenant");
    for check in [true, false] {
        server.post(&format!("{path}?check={check}"), None, &json!({})).await.ok();
        let status = ended(path).await;
        assert_eq!((&status["state"], &status["equal_rows"]), (&json!("equal"), &json!(2)), "{status}");
    }
    assert_eq!(server.get("/accounts/a1/statement").await.ok()["items"][1]["balance"], "5.0000");
    // A record that no journal has: found, and gone once the records are built again.
    let shard = ShardId { family: Family::Station, index: 0 };
    let records = vec![StoredRecord { shard, lsn: 1, index: 0, record: record(1, "c1", "Suzhou") }];
    let batch = RecordBatch { shard, after_lsn: 0, upto_lsn: 0, records };
    server.stores.records.add(Generation::Served, batch).await.unwrap();
    assert_eq!(server.get("/charge-records").await.ok()["items"].as_array().unwrap().len(), 1);
    server.post("/read-models/records/rebuild", None, &json!({})).await.ok();
    ended("/read-models/records/rebuild").await;
    assert_eq!(server.get("/charge-records").await.ok()["items"], json!([]));
}
