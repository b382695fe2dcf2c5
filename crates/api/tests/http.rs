//! The router over a whole node on memory stores: what a client sees.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::{Router, http::Response};
use chargeplane_actors::node::Node;
use chargeplane_actors::ports::{ChargeRecords, Generation, RecordBatch, StoredRecord};
use chargeplane_actors::testing::{MemoryStores, beat_of};
use chargeplane_api::auth::Tokens;
use chargeplane_api::{ApiOptions, router};
use chargeplane_domain::ids::{ChargerId, ConnectorNo};
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::session::{ChargeRecord, StopReason};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::ServiceExt;

const ALL: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const ACME: &str = "cccccccccccccccccccccccccccccccc";

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.body
    }

    /// A refusal with its status and code, as a whole problem document.
    #[track_caller]
    fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        for field in ["type", "title", "detail", "instance"] {
            assert!(self.body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {}", self.text);
        }
        assert_eq!(self.body["status"], status);
        self.body
    }
}

struct Server {
    router: Router,
    stores: MemoryStores,
    _node: Node,
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ApiOptions)) -> Self {
        let stores = MemoryStores::default();
        let (node, _link) = stores.start(|_| {}).await;
        let mut options = ApiOptions {
            tokens: Tokens::parse(&format!("{ALL}\nacme {ACME}\n")).unwrap(),
            metrics: Arc::new(|| "chargeplane_x 1\n".to_owned()),
            open_pages: true,
            max_in_flight: 8,
            cdr_terms: Default::default(),
        };
        change(&mut options);
        Self { router: router(node.handle(), options), stores, _node: node }
    }

    /// A server whose catalogue has two chargers of tenant main and one of tenant acme.
    async fn furnished() -> Self {
        let server = Self::start().await;
        server.post("/catalogue", None, &catalogue()).await.ok();
        server
    }

    /// The same, with gateway main/g1 online.
    async fn connected() -> Self {
        let server = Self::furnished().await;
        beat_of(&server._node.handle(), &"main/g1".parse().unwrap()).await;
        server
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response: Response<Body> = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 16 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    async fn ask(&self, token: &str, method: &str, path: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        let mut request =
            Request::builder().method(method).uri(format!("/api/v1{path}")).header("authorization", bearer(token));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(ALL, "GET", path, None, None).await
    }

    async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Answer {
        self.ask(ALL, "POST", path, key, Some(body)).await
    }

    async fn page(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn account(&self, id: &str, amount: &str) {
        let open = json!({ "account": id, "currency": "CNY", "kind": "prepaid" });
        self.post("/accounts", Some(&format!("open-{id}")), &open).await.ok();
        let path = format!("/accounts/{}/top-ups", id.replace('/', "%2F"));
        self.post(&path, Some(&format!("first-{id}")), &json!({ "amount": amount })).await.ok();
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn catalogue() -> Value {
    let price = json!({ "energy": "1.20", "service": 0.8 });
    let tariff = json!({
        "currency": "CNY",
        "prices": { "sharp": price, "peak": price, "flat": price, "valley": price },
        "slots": "2".repeat(48),
    });
    let station = |tenant: &str| {
        json!({
            "operator": format!("{tenant}/op"), "city": "Shanghai", "time_zone": "Asia/Shanghai",
            "tariff": format!("{tenant}/t1"),
            "limits": [{ "id": "grid", "limit_w": 200_000 }, { "id": "f1", "parent": "grid", "limit_w": 150_000 }],
        })
    };
    let charger = |gateway: &str, child: u16| {
        json!({
            "gateway": gateway, "child": child, "limit": "f1",
            "rated_w": 120_000, "min_w": 12_000, "fallback_w": 0,
        })
    };
    json!({
        "tariffs": { "main/t1": tariff, "acme/t1": tariff },
        "stations": { "main/s1": station("main"), "acme/s1": station("acme") },
        "gateways": { "main/g1": { "station": "main/s1" }, "acme/g1": { "station": "acme/s1" } },
        "chargers": {
            "main/c1": charger("main/g1", 0), "main/c2": charger("main/g1", 1), "acme/c1": charger("acme/g1", 0),
        },
    })
}

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

#[tokio::test]
async fn a_catalogue_is_tried_applied_and_read_back() {
    let server = Server::start().await;
    let tried = server.post("/catalogue?dry_run=true", None, &catalogue()).await.ok();
    assert_eq!(tried["changes"].as_array().unwrap().len(), 9);
    assert_eq!((&tried["from_version"], &tried["to_version"]), (&json!(0), &json!(0)));
    server.get("/stations/s1").await.refused(404, "not_found");
    let applied = server.post("/catalogue", None, &catalogue()).await.ok();
    assert_eq!(applied["to_version"], 1);
    assert_eq!(server.post("/catalogue", None, &catalogue()).await.ok()["changes"], json!([]));

    let yaml = server.get("/catalogue?format=yaml").await;
    assert_eq!(yaml.headers[header::CONTENT_TYPE], "application/yaml");
    let again = Request::post("/api/v1/catalogue?dry_run=true")
        .header("authorization", bearer(ALL))
        .header("content-type", "application/yaml")
        .body(Body::from(yaml.text))
        .unwrap();
    assert_eq!(server.send(again).await.ok()["changes"], json!([]));
    let read = server.get("/catalogue").await.ok();
    assert_eq!(read["catalogue"]["tariffs"]["main/t1"]["prices"]["sharp"]["service"], "0.8000");

    let mut bad = catalogue();
    bad["chargers"]["main/c1"]["fallback_w"] = json!(120_000);
    bad["chargers"]["main/c2"]["fallback_w"] = json!(120_000);
    let problem = server.post("/catalogue", None, &bad).await.refused(422, "catalogue_invalid");
    assert_eq!(problem["problems"][0]["path"], "stations.main/s1.limits.grid.limit_w");
    server.post("/catalogue", None, &json!({ "tarifs": {} })).await.refused(400, "catalogue_unreadable");
    assert_eq!(server.get("/catalogue").await.ok()["version"], 1);
}

#[tokio::test]
async fn stations_chargers_and_limits() {
    let server = Server::furnished().await;
    let stations = server.get("/stations").await.ok();
    assert_eq!(stations["items"].as_array().unwrap().len(), 2);
    assert!(stations["items"][0].get("nodes").is_none());
    let station = server.get("/stations/main%2Fs1").await.ok();
    assert_eq!((&station["chargers"], &station["limit_w"]), (&json!(2), &json!(200_000)));
    assert_eq!(station["nodes"].as_array().unwrap().len(), 2);

    let chargers = server.get("/chargers?station=main%2Fs1&limit=1").await.ok();
    assert_eq!((&chargers["items"][0]["id"], &chargers["next"]), (&json!("main/c1"), &json!("main/c1")));
    assert_eq!(server.get("/chargers?after=main%2Fc1").await.ok()["items"].as_array().unwrap().len(), 1);
    let charger = server.get("/chargers/c2").await.ok();
    assert_eq!((&charger["id"], &charger["state"]), (&json!("main/c2"), &json!("idle")));
    server.get("/chargers/c3").await.refused(404, "not_found");
    server.get("/chargers/a%20b").await.refused(400, "bad_id");
    server.get("/chargers/a%2Fb%2Fc").await.refused(400, "bad_id");
    server.get("/chargers?station=nowhere").await.refused(404, "not_found");

    let cut = json!({ "limit_w": 90_000 });
    let answer = server.ask(ALL, "PUT", "/stations/s1/limits/grid", None, Some(&cut)).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    assert_eq!(server.get("/stations/s1").await.ok()["limit_w"], 90_000);
    let set = server.get("/stations/s1").await.ok()["nodes"][0].clone();
    assert_eq!((&set["id"], &set["set"]["limit_w"], &set["set"]["by"]), (&json!("grid"), &json!(90_000), &json!("*")));
    let above = json!({ "limit_w": 200_001 });
    server.ask(ALL, "PUT", "/stations/s1/limits/grid", None, Some(&above)).await.refused(422, "invalid");
    for _ in 0..2 {
        let lifted = server.ask(ALL, "DELETE", "/stations/s1/limits/grid", None, None).await;
        assert_eq!(lifted.status, StatusCode::NO_CONTENT, "{}", lifted.text);
        let station = server.get("/stations/s1").await.ok();
        assert_eq!((&station["limit_w"], station["nodes"][0].get("set")), (&json!(200_000), None));
    }
    server.ask(ALL, "DELETE", "/stations/s1/limits/nowhere", None, None).await.refused(404, "not_found");
    let below = json!({ "limit_w": -1 });
    server.ask(ALL, "PUT", "/stations/s1/limits/grid", None, Some(&below)).await.refused(422, "invalid");
    let unknown = server.ask(ALL, "PUT", "/stations/s1/limits/nowhere", None, Some(&cut)).await;
    let problem = unknown.refused(404, "not_found");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("\"nowhere\" of station main/s1") && detail.contains("it has grid, f1"), "{detail}");
    let gateways = server.get("/gateways?limit=1").await.ok();
    assert_eq!((&gateways["items"][0]["online"], gateways["items"].as_array().unwrap().len()), (&json!(false), 1));
    server.get("/chargers?after=a%20b").await.refused(400, "bad_query");
}

#[tokio::test]
async fn a_limit_that_fallbacks_alone_exceed_is_refused_with_the_least_value() {
    let server = Server::start().await;
    let mut document = catalogue();
    for charger in ["main/c1", "main/c2"] {
        document["chargers"][charger]["fallback_w"] = json!(12_000);
    }
    document["stations"]["main/s1"]["limits"][0]["base_w"] = json!(1_000);
    server.post("/catalogue", None, &document).await.ok();
    for (node, least) in [("grid", 25_000), ("f1", 24_000)] {
        let path = format!("/stations/s1/limits/{node}");
        let below = server.ask(ALL, "PUT", &path, None, Some(&json!({ "limit_w": least - 1 }))).await;
        let problem = below.refused(422, "invalid");
        assert!(problem["detail"].as_str().unwrap().contains(&least.to_string()), "{problem}");
        let least = server.ask(ALL, "PUT", &path, None, Some(&json!({ "limit_w": least }))).await;
        assert_eq!(least.status, StatusCode::NO_CONTENT, "{}", least.text);
    }
    assert!(server.get("/stations/s1").await.ok().get("deficits").is_none(), "nothing over its limit");
}

#[tokio::test]
async fn a_catalogue_does_not_take_away_what_is_in_use() {
    let server = Server::connected().await;
    server.account("main/a1", "100").await;
    server.post("/sessions", Some("s1"), &json!({ "charger": "c1", "account": "a1" })).await.ok();
    let mut without = catalogue();
    without["chargers"].as_object_mut().unwrap().remove("main/c1");
    let mut moved = catalogue();
    moved["chargers"]["main/c1"]["child"] = json!(7);
    for document in [&without, &moved] {
        for path in ["/catalogue?dry_run=true", "/catalogue"] {
            let problem = server.post(path, None, document).await.refused(409, "in_use");
            assert!(problem["detail"].as_str().unwrap().contains("main/c1.1"), "{problem}");
        }
    }
    server.post("/catalogue", None, &json!({})).await.refused(422, "catalogue_empty");
    server.post("/catalogue?dry_run=true", None, &json!({})).await.refused(422, "catalogue_empty");
    server.post("/catalogue?allow_empty=true", None, &json!({})).await.refused(409, "in_use");
    // A charger without a session may go.
    let mut smaller = catalogue();
    smaller["chargers"].as_object_mut().unwrap().remove("main/c2");
    assert_eq!(server.post("/catalogue", None, &smaller).await.ok()["changes"], json!(["- charger main/c2"]));
    let other = Server::furnished().await;
    other.post("/catalogue?allow_empty=true", None, &json!({})).await.ok();
    other.post("/catalogue", None, &json!({})).await.ok();
}

#[tokio::test]
async fn commands_and_sessions_are_accepted_once_for_each_key() {
    let server = Server::connected().await;
    let reset = json!({ "action": "reset" });
    server.post("/chargers/c1/commands", None, &reset).await.refused(400, "idempotency_key_missing");
    let first = server.post("/chargers/c1/commands", Some("r1"), &reset).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    assert_eq!(server.post("/chargers/c1/commands", Some("r1"), &reset).await.ok(), first.body);
    let unlock = json!({ "action": "unlock", "connector": 1 });
    server.post("/chargers/c1/commands", Some("r1"), &unlock).await.refused(422, "key_reused");
    server.post("/chargers/c1/commands", Some("r2"), &json!({ "action": "melt" })).await.refused(400, "bad_json");
    server.post("/chargers/c9/commands", Some("r3"), &reset).await.refused(404, "not_found");
    let id = first.body["command"].as_str().unwrap().replace('/', "%2F");
    let command = server.get(&format!("/commands/{id}")).await.ok();
    assert_eq!((&command["action"], &command["outcome"]), (&json!("reset"), &json!("pending")));
    assert_eq!(server.get("/commands").await.ok()["items"][0], command);
    assert_eq!(server.get("/chargers/c1/commands").await.ok()["items"][0], command);
    server.get("/commands/main%2Fc1.c77").await.refused(404, "not_found");

    server.account("main/a1", "100").await;
    let start = json!({ "charger": "c2", "account": "a1" });
    server.post("/sessions", None, &start).await.refused(400, "idempotency_key_missing");
    let session = server.post("/sessions", Some("s1"), &start).await;
    assert_eq!(session.status, StatusCode::CREATED, "{}", session.text);
    assert_eq!(session.body["session"], "main/c2.1");
    assert_eq!(server.post("/sessions", Some("s1"), &start).await.ok(), session.body);
    let other = json!({ "charger": "c2", "account": "a2" });
    server.post("/sessions", Some("s1"), &other).await.refused(422, "key_reused");
    server.post("/sessions", Some("s2"), &start).await.refused(409, "charger_busy");
    let away = Server::furnished().await;
    away.post("/sessions", Some("s1"), &start).await.refused(409, "charger_offline");
    let open = server.get("/sessions").await.ok();
    assert_eq!((&open["items"][0]["id"], &open["items"][0]["origin"]), (&json!("main/c2.1"), &json!("api")));
    assert_eq!(server.get("/sessions/main%2Fc2.1").await.ok()["account"], "main/a1");
    server.get("/sessions/main%2Fc1.9").await.refused(404, "not_found");
    server.ask(ALL, "POST", "/sessions/main%2Fc1.9/stop", Some("x"), None).await.refused(404, "unknown_session");
}

#[tokio::test]
async fn a_start_that_the_account_refuses_says_why_and_stays_readable() {
    let server = Server::connected().await;
    server.account("main/poor", "0.0001").await;
    let open = json!({ "account": "foreign", "currency": "EUR", "kind": "credit", "credit_limit": "1000" });
    server.post("/accounts", Some("k"), &open).await.ok();
    let cases = [
        (404, "unknown_account", "nobody"),
        (402, "insufficient_funds", "poor"),
        (422, "currency_mismatch", "foreign"),
    ];
    for (number, (status, code, account)) in (1..).zip(cases) {
        let start = json!({ "charger": "c1", "account": account });
        for _ in 0..2 {
            let problem = server.post("/sessions", Some(account), &start).await.refused(status, code);
            assert!(problem["detail"].as_str().unwrap().contains(&format!("main/c1.{number}")), "{problem}");
        }
        let session = server.get(&format!("/sessions/main%2Fc1.{number}")).await.ok();
        assert_eq!((&session["state"], &session["refusal"]), (&json!("refused"), &json!(code)));
        assert_eq!((&session["station"], &session["currency"]), (&json!("main/s1"), &json!("CNY")));
    }
    assert_eq!(server.get("/sessions").await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_gateway_is_enrolled_and_revoked() {
    let server = Server::furnished().await;
    let enrolled = |list: &Value| list["items"].as_array().unwrap().iter().filter(|g| g["enrolled"] == true).count();
    assert_eq!(enrolled(&server.get("/gateways").await.ok()), 0);
    let answer = server.post("/gateways/main%2Fg1/enrolment", None, &json!({})).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.body["key"].as_str().unwrap().len(), 64);
    assert_eq!(answer.body["children"][1], json!({ "child": 1, "charger": "main/c2" }));
    assert_eq!(enrolled(&server.get("/gateways").await.ok()), 1);
    let revoke = server.ask(ALL, "DELETE", "/gateways/g1/enrolment", None, None).await;
    assert_eq!(revoke.status, StatusCode::NO_CONTENT);
    assert_eq!(enrolled(&server.get("/gateways").await.ok()), 0);
    server.post("/gateways/g7/enrolment", None, &json!({})).await.refused(404, "not_found");
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
