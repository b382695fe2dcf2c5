//! Accounts, transfers, lists.

use super::*;

#[tokio::test]
async fn money_moves_once_for_each_key() {
    let server = Server::start().await;
    let open = json!({ "account": "a1", "currency": "CNY", "kind": "prepaid" });
    server.post("/accounts", None, &open).await.refused(400, "idempotency_key_missing");
    let first = server.post("/accounts", Some("k0"), &open).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(first.body["account"], "main/a1");
    assert_eq!(server.post("/accounts", Some("k0"), &open).await.ok(), first.body);
    let other = json!({ "account": "a1", "currency": "EUR", "kind": "prepaid" });
    server.post("/accounts", Some("k0"), &other).await.refused(422, "key_reused");
    server.post("/accounts", Some("k9"), &open).await.refused(409, "already_open");

    let path = "/accounts/main%2Fa1/top-ups";
    let once = server.post(path, Some("k1"), &json!({ "amount": "50" })).await.ok();
    assert_eq!(once, json!({ "account": "main/a1", "balance": "50.0000" }));
    server.post("/accounts/a1/top-ups", Some("k2"), &json!({ "amount": "0.0001" })).await.ok();
    assert_eq!(server.post(path, Some("k1"), &json!({ "amount": "50.0000" })).await.ok(), once);
    server.post(path, Some("k1"), &json!({ "amount": "51" })).await.refused(422, "key_reused");
    server.post(path, Some("k3"), &json!({ "amount": "1.00001" })).await.refused(422, "invalid_amount");
    server.post(path, Some("k4"), &json!({ "amount": "-1" })).await.refused(422, "invalid_amount");
    server.post(path, Some("k5"), &json!({ "amount": 5 })).await.refused(400, "bad_json");
    server.post("/accounts/a2/top-ups", Some("k6"), &json!({ "amount": "5" })).await.refused(404, "unknown_account");

    let account = server.get("/accounts/a1").await.ok();
    assert_eq!((&account["balance"], &account["available"]), (&json!("50.0001"), &json!("50.0001")));
    let balances = server.get("/ledger/balances").await.ok();
    let sum: f64 = balances["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["balance"].as_str().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!(balances["items"].as_array().unwrap().len() >= 2 && sum == 0.0, "{balances}");
}

#[tokio::test]
async fn operators_refund_correct_freeze_transfer_and_close() {
    let server = Server::start().await;
    for (id, holder) in [("a1", "personal"), ("a2", "fleet")] {
        let open = json!({ "account": id, "currency": "CNY", "kind": "prepaid", "holder": holder });
        assert_eq!(server.post("/accounts", Some("open"), &open).await.ok()["holder"], holder);
    }
    let ask = async |key: &str, path: &str, body: Value| server.post(path, Some(key), &body).await;
    ask("k1", "/accounts/a1/top-ups", json!({ "amount": "50", "currency": "CNY" })).await.ok();
    let euros = json!({ "amount": "50", "currency": "EUR" });
    ask("k2", "/accounts/a1/top-ups", euros.clone()).await.refused(422, "currency_mismatch");
    ask("k2", "/accounts/a1/refunds", euros).await.refused(422, "currency_mismatch");
    let refund = ask("k3", "/accounts/a1/refunds", json!({ "amount": "10" })).await;
    assert_eq!((refund.status, &refund.body["balance"]), (StatusCode::CREATED, &json!("40.0000")));
    ask("k4", "/accounts/a1/refunds", json!({ "amount": "40.0001" })).await.refused(409, "refund_limit");
    ask("k5", "/accounts/a1/refunds", json!({ "amount": "-1" })).await.refused(422, "invalid_amount");
    ask("k6", "/accounts/a1/adjustments", json!({ "amount": "1", "reason": " " })).await.refused(422, "invalid_reason");
    let adjusted = ask("k7", "/accounts/a1/adjustments", json!({ "amount": "-5", "reason": "counted twice" })).await;
    assert_eq!(adjusted.ok()["balance"], "35.0000");

    assert_eq!(ask("k8", "/accounts/a1/freeze", json!({ "reason": "lost card" })).await.ok()["status"], "frozen");
    let account = server.get("/accounts/a1").await.ok();
    assert_eq!((&account["status"], &account["status_reason"]), (&json!("frozen"), &json!("lost card")));
    let transfer = json!({ "to": "a2", "amount": "35" });
    ask("k9", "/accounts/a1/transfers", transfer.clone()).await.refused(409, "account_frozen");
    ask("k10", "/accounts/a1/unfreeze", json!({})).await.ok();
    ask("k11", "/accounts/a1/transfers", json!({ "to": "a3", "amount": "1" })).await.refused(404, "unknown_target");
    ask("k12", "/accounts/a1/releases", json!({ "session": "c1.1" })).await.refused(404, "unknown_session");
    ask("k13", "/accounts/a1/close", json!({})).await.refused(409, "balance_not_zero");
    let sent = ask("k14", "/accounts/a1/transfers", transfer.clone()).await;
    assert_eq!((sent.status, &sent.body["transfer"]), (StatusCode::CREATED, &json!("main/a1.t1")));
    assert_eq!(ask("k14", "/accounts/a1/transfers", transfer).await.ok(), sent.body);
    for _ in 0..1_000 {
        if server.get("/transfers/main%2Fa1.t1").await.ok()["state"] == "arrived" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let transfer = server.get("/transfers/a1.t1").await.ok();
    assert_eq!((&transfer["state"], &transfer["to"]), (&json!("arrived"), &json!("main/a2")));
    server.get("/transfers/a1.t2").await.refused(404, "not_found");
    server.get("/transfers/a1").await.refused(400, "bad_id");
    assert_eq!(server.get("/accounts/a2").await.ok()["balance"], "35.0000");
    assert_eq!(ask("k15", "/accounts/a1/close", json!({})).await.ok()["status"], "closed");
    ask("k16", "/accounts/a1/top-ups", json!({ "amount": "1" })).await.refused(409, "account_closed");
    ask("k17", "/accounts/a2/transfers", json!({ "to": "a1", "amount": "1" })).await.refused(409, "target_closed");

    let audit = server.get("/accounts/a1/audit").await.ok();
    let of =
        |field: &str| audit["items"].as_array().unwrap().iter().map(|item| item[field].clone()).collect::<Vec<_>>();
    let events = ["opened", "topped_up", "refunded", "adjusted", "frozen", "unfrozen", "transferred_out", "closed"]
        .map(Value::from);
    assert_eq!(of("event"), events);
    assert_eq!(
        (&of("note")[3], &of("key")[3], &of("amount")[3]),
        (&json!("counted twice"), &json!("k7"), &json!("-5.0000"))
    );
    let entry = of("entry")[3].as_str().unwrap().replace('/', "%2F");
    let one = server.get(&format!("/accounts/a1/audit?entry={entry}")).await.ok();
    assert_eq!(one["items"], json!([audit["items"][3]]));
    server.get(&format!("/accounts/a2/audit?entry={entry}")).await.refused(404, "not_found");
    server.get("/accounts/a1/audit?entry=x").await.refused(400, "bad_query");
    server.get("/accounts/a1/audit?limit=1001").await.refused(400, "bad_query");
}

#[tokio::test]
async fn lists_are_paged_and_projections_arrive() {
    let server = Server::start().await;
    for n in 0..5 {
        server.account(&format!("main/a{n}"), "7").await;
    }
    let mut seen = Vec::new();
    let mut path = "/accounts?limit=2".to_owned();
    loop {
        let page = server.get(&path).await.ok();
        seen.extend(page["items"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/accounts?limit=2&after={}", next.replace('/', "%2F")),
            None => break,
        }
    }
    assert_eq!(seen, (0..5).map(|n| format!("main/a{n}")).collect::<Vec<_>>());
    let mut balances = 0;
    let mut path = "/ledger/balances?limit=3".to_owned();
    while let Value::Object(page) = server.get(&path).await.ok() {
        balances += page["items"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/ledger/balances?limit=3&after={}", next.replace('/', "%2F"));
    }
    assert!(balances >= 6, "{balances}");
    // A statement is a projection of the journal that waits for what was answered.
    let mut statement = server.get("/accounts/a3/statement").await.ok();
    assert_eq!(statement["complete"], true);
    let lines = statement["items"].take();
    assert_eq!(lines[1]["amount"], "7.0000", "{lines}");
    assert_eq!((&lines[1]["kind"], &lines[1]["key"]), (&json!("top_up"), &json!("first-main/a3")));
    server.get("/accounts?limit=0").await.refused(400, "bad_query");
    server.get("/accounts?limit=10001").await.refused(400, "bad_query");
    server.get("/accounts/a1/statement?after=x").await.refused(400, "bad_query");
    assert_eq!(server.get("/charge-records?account=a1").await.ok()["items"], json!([]));
    server.get("/charge-records?after=x").await.refused(400, "bad_query");
}
