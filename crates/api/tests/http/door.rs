//! Who and what is let in: tokens, tenants, foreign input, too many requests.

use super::*;

#[tokio::test]
async fn nothing_under_the_interface_is_answered_without_a_token() {
    let server = Server::start().await;
    for path in ["/api/v1/node", "/api/v1/accounts", "/api/v1/sessions"] {
        let answer = server.page(path).await;
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"chargeplane\"");
        answer.refused(401, "token_missing");
    }
    let wrong = "dddddddddddddddddddddddddddddddd";
    server.ask(wrong, "GET", "/node", None, None).await.refused(401, "token_unknown");
    server.get("/node").await.ok();
}

#[tokio::test]
async fn health_is_open_and_pages_are_as_the_options_say() {
    let server = Server::start().await;
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs/", "/errors/account"] {
        let answer = server.page(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(!answer.text.is_empty(), "{path}");
    }
    assert_eq!(server.page("/metrics").await.text, "chargeplane_x 1\n");
    assert!(server.page("/docs/").await.text.contains("swagger"));
    server.page("/errors/nothing").await.refused(404, "unknown_route");

    let closed = Server::with(|options| options.open_pages = false).await;
    for path in ["/metrics", "/openapi.json", "/docs/", "/errors/account"] {
        closed.page(path).await.refused(401, "token_missing");
    }
    assert_eq!(closed.page("/livez").await.status, StatusCode::OK);
    let with_token = Request::get("/metrics").header("authorization", bearer(ACME)).body(Body::empty()).unwrap();
    assert_eq!(closed.send(with_token).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_tenants_token_sees_and_touches_its_own_only() {
    let server = Server::furnished().await;
    let ask = async |path: &str| server.ask(ACME, "GET", path, None, None).await;
    let ids = |list: Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(ask("/chargers").await.ok()), ["acme/c1"]);
    assert_eq!(ids(ask("/stations").await.ok()), ["acme/s1"]);
    assert_eq!(ids(ask("/gateways").await.ok()), ["acme/g1"]);
    ask("/chargers/acme%2Fc1").await.ok();
    ask("/chargers/c1").await.refused(403, "other_tenant");
    for path in ["/shards", "/node", "/catalogue", "/dead-letters", "/ledger/balances"] {
        ask(path).await.refused(403, "other_tenant");
    }
    let open = json!({ "account": "main/a1", "currency": "CNY", "kind": "prepaid" });
    server.ask(ACME, "POST", "/accounts", Some("k"), Some(&open)).await.refused(403, "other_tenant");
    server.account("main/a1", "9").await;
    assert_eq!(ids(ask("/accounts").await.ok()), Vec::<String>::new());
    server.account("acme/a1", "9").await;
    let page = ask("/accounts?limit=1").await.ok();
    assert_eq!((ids(page.clone()), &page["next"]), (vec!["acme/a1".to_owned()], &Value::Null), "nobody else's id");
    let start = json!({ "charger": "acme/c1", "account": "main/a1" });
    server.ask(ACME, "POST", "/sessions", Some("k"), Some(&start)).await.refused(403, "other_tenant");
}

#[tokio::test]
async fn telemetry_and_operations_answer_on_an_empty_node() {
    let server = Server::furnished().await;
    let range = "from=2026-01-05T08:00:00Z&to=2026-01-05T09:00:00Z";
    assert_eq!(server.get(&format!("/chargers/c1/telemetry?{range}")).await.ok(), json!({ "samples": [] }));
    assert_eq!(server.get(&format!("/chargers/c1/telemetry/hourly?{range}")).await.ok()["items"], json!([]));
    server.get("/chargers/c1/telemetry?from=5&to=5").await.refused(400, "bad_query");
    server.get("/chargers/c1/telemetry?from=5").await.refused(400, "bad_query");
    server.get(&format!("/chargers/c1/telemetry?{range}&limit=100001")).await.refused(400, "bad_query");
    server.get("/chargers/c1/telemetry/hourly?from=0&to=1767600000000").await.refused(413, "range_too_large");
    server.get(&format!("/chargers/c9/telemetry?{range}")).await.refused(404, "not_found");

    assert_eq!(server.get("/dead-letters").await.ok()["items"], json!([]));
    let retry = "/dead-letters/station-0000%2F1/retry";
    server.ask(ALL, "POST", retry, None, None).await.refused(404, "not_found");
    server.ask(ALL, "DELETE", "/dead-letters/nonsense", None, None).await.refused(404, "not_found");
    let shards = server.get("/shards").await.ok();
    assert_eq!(shards["items"].as_array().unwrap().len(), 4);
    assert!(shards["items"].as_array().unwrap().iter().all(|s| s["state"] == "open"), "{shards}");
    let node = server.get("/node").await.ok();
    assert_eq!((&node["node"], &node["pid"]), (&json!("n1"), &json!(std::process::id())));
}

#[tokio::test]
async fn foreign_input_is_refused_with_a_document() {
    let server = Server::start().await;
    let send = async |kind: &str, body: Body| {
        let request = Request::post("/api/v1/accounts")
            .header("authorization", bearer(ALL))
            .header("idempotency-key", "k")
            .header("content-type", kind)
            .body(body)
            .unwrap();
        server.send(request).await
    };
    let problem = send("application/json", Body::from("{\n \"account\": }")).await.refused(400, "bad_json");
    assert!(problem["detail"].as_str().unwrap().contains("line 2"), "{problem}");
    assert_eq!(problem["instance"], "/api/v1/accounts");
    send("application/json", Body::from("{\"account\":\"a\",\"curency\":\"CNY\"}")).await.refused(400, "bad_json");
    send("text/plain", Body::from("{}")).await.refused(415, "unsupported_media_type");
    send("application/json", Body::empty()).await.refused(400, "bad_json");
    send("application/json", Body::from(vec![b' '; (1 << 20) + 1])).await.refused(413, "body_too_large");
    server.ask(ALL, "DELETE", "/accounts", None, None).await.refused(405, "wrong_method");
    server.get("/frobnicate").await.refused(404, "unknown_route");
    server.page("/").await.refused(404, "unknown_route");
    for id in ["%00", "%ff", "..%2F..%2Fetc", "%2F", &"x".repeat(200)] {
        for path in ["/chargers/", "/accounts/", "/sessions/", "/commands/", "/stations/"] {
            let answer = server.get(&format!("{path}{id}")).await;
            assert!(answer.status.is_client_error(), "{path}{id}: {}", answer.text);
            assert!(!answer.code().is_empty(), "{path}{id}: {}", answer.text);
        }
    }
}

/// A body that never comes; it tells when somebody begins to wait for it.
struct Silent(Option<tokio::sync::oneshot::Sender<()>>);

impl futures_core::Stream for Silent {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(waited_for) = self.0.take() {
            let _ = waited_for.send(());
        }
        Poll::Pending
    }
}

#[tokio::test]
async fn a_request_too_many_is_answered_and_not_queued() {
    let server = Server::with(|options| options.max_in_flight = 1).await;
    let (waited_for, in_hand) = tokio::sync::oneshot::channel();
    let silent = Request::post("/api/v1/accounts")
        .header("authorization", bearer(ALL))
        .header("idempotency-key", "k")
        .body(Body::from_stream(Silent(Some(waited_for))))
        .unwrap();
    let held = tokio::spawn(server.router.clone().oneshot(silent));
    in_hand.await.unwrap();
    let refused = server.get("/node").await;
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    refused.refused(503, "overloaded");
    // Health is answered all the same, and the place is free again when the client goes away.
    assert_eq!(server.page("/livez").await.status, StatusCode::OK);
    held.abort();
    let _ = held.await;
    server.get("/node").await.ok();
}
