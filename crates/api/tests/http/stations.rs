//! Catalogue, stations, chargers, commands, sessions, gateways.

use super::*;

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
    assert!(detail.contains("no node \"nowhere\"; it has grid, f1") && detail.contains("main/s1"), "{detail}");
    let gateways = server.get("/gateways?limit=1").await.ok();
    assert_eq!((&gateways["items"][0]["online"], gateways["items"].as_array().unwrap().len()), (&json!(false), 1));
    server.get("/chargers?after=a%20b").await.refused(400, "bad_query");
}

#[tokio::test]
async fn limits_are_announced_signalled_listed_and_lifted() {
    let server = Server::furnished().await;
    let put = async |path: &str, body: Value| server.ask(ALL, "PUT", path, None, Some(&body)).await;
    let limits = async || server.get("/stations/s1/limits").await.ok();
    let done = |answer: Answer| assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    done(put("/stations/s1/limits/f1", json!({ "limit_w": 90_000, "within_s": 3_600 })).await);
    put("/stations/s1/signals/dr-1", json!({ "limit_w": 80_000, "until": "2099-01-01T00:00:00Z" }))
        .await
        .refused(422, "invalid");
    let seen = limits().await;
    assert_eq!((&seen["nodes"][0]["id"], &seen["nodes"][0]["source"]), (&json!("grid"), &json!("catalogue")));
    assert_eq!((&seen["nodes"][1]["limit_w"], &seen["nodes"][1]["set"]["limit_w"]), (&json!(150_000), &json!(90_000)));
    assert!(seen["nodes"][1]["set"]["from"].is_string(), "{seen}");
    let until = jiff_in_an_hour();
    done(put("/stations/s1/signals/dr-1", json!({ "limit_w": 80_000, "until": until })).await);
    let seen = limits().await;
    let grid = &seen["nodes"][0];
    assert_eq!((&grid["limit_w"], &grid["source"], &grid["of"]), (&json!(80_000), &json!("signal"), &json!("dr-1")));
    assert_eq!(server.get("/stations/s1").await.ok()["limit_w"], 80_000);
    assert_eq!((&seen["signals"][0]["node"], &seen["signals"][0]["until"]), (&json!("grid"), &json!(until)));
    let told = server.get("/chargers/c1/power").await.ok();
    assert_eq!(told["nodes"][1]["limit_source"], "signal");
    let lifted = server.ask(ALL, "DELETE", "/stations/s1/signals/dr-1", None, None).await;
    assert_eq!(lifted.status, StatusCode::NO_CONTENT, "{}", lifted.text);
    let seen = limits().await;
    assert_eq!((&seen["nodes"][0]["limit_w"], &seen["signals"]), (&json!(200_000), &json!([])));
    let changes = seen["changes"].as_array().unwrap();
    assert_eq!(
        changes.iter().map(|change| &change["limit_w"]).collect::<Vec<_>>(),
        [&json!(90_000), &json!(80_000), &Value::Null]
    );
    assert!(changes.iter().all(|change| change["by"] == "*"), "{seen}");

    server.ask(ALL, "DELETE", "/stations/s1/signals/dr-1", None, None).await.refused(404, "not_found");
    put("/stations/s1/limits/f1", json!({ "limit_w": 1, "at": "yesterday" })).await.refused(422, "invalid");
    put("/stations/s1/limits/f1", json!({ "limit_w": 1, "at": "2020-01-01T00:00:00Z" })).await.refused(422, "invalid");
    put("/stations/s1/limits/f1", json!({ "limit_w": 1, "at": until, "within_s": 9 })).await.refused(422, "invalid");
    put("/stations/s1/signals/x", json!({ "limit_w": 1 })).await.refused(400, "bad_json");
    put("/stations/s1/signals/x", json!({ "limit_w": 1, "until": until, "node": "x" })).await.refused(404, "not_found");
    server.get("/stations/s9/limits").await.refused(404, "not_found");
    server.ask(ACME, "GET", "/stations/main%2Fs1/limits", None, None).await.refused(403, "other_tenant");
}

fn jiff_in_an_hour() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = jiff::Timestamp::from_second(now.as_secs() as i64 + 3_600).unwrap();
    format!("{at:.3}")
}

#[tokio::test]
async fn a_chargers_power_is_explained() {
    let server = Server::connected().await;
    let told = server.get("/chargers/c1/power").await.ok();
    assert_eq!((&told["charger"], &told["held_by"]), (&json!("main/c1"), &json!("no_session")));
    assert_eq!((&told["rated_w"], &told["share_w"]), (&json!(120_000), &Value::Null));
    assert_eq!((&told["nodes"][0]["node"], &told["nodes"][1]["node"]), (&json!("grid/f1"), &json!("grid")));
    server.account("main/a1", "100").await;
    server.post("/sessions", Some("s1"), &json!({ "charger": "c1", "account": "a1" })).await.ok();
    let told = server.get("/chargers/c1/power").await.ok();
    assert!(["not_started", "silent_gateway"].contains(&told["held_by"].as_str().unwrap()), "{told}");
    assert!(told["why"][0].as_str().is_some_and(|line| !line.is_empty()), "{told}");
    server.get("/chargers/c9/power").await.refused(404, "not_found");
    server.ask(ACME, "GET", "/chargers/c1/power", None, None).await.refused(403, "other_tenant");
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
    let child = &answer.body["children"][1];
    assert_eq!((&child["child"], &child["charger"]), (&json!(1), &json!("main/c2")));
    let watts = ["rated_w", "min_w", "fallback_w"].map(|field| child[field].as_i64().expect("watts"));
    assert!(watts[0] >= watts[1] && watts[1] >= watts[2] && child["connectors"].as_u64() >= Some(1), "{child}");
    assert_eq!(enrolled(&server.get("/gateways").await.ok()), 1);
    let rotated = server.post("/gateways/main%2Fg1/rotation", None, &json!({})).await;
    assert_eq!(
        (rotated.status, &rotated.headers[header::CACHE_CONTROL]),
        (StatusCode::CREATED, &"no-store".parse().unwrap())
    );
    assert_eq!((&rotated.body["key_epoch"], &rotated.body["incarnation"]), (&json!(2), &answer.body["incarnation"]));
    let rotating = |list: &Value| list["items"].as_array().unwrap().iter().filter(|g| g["rotating"] == true).count();
    assert_eq!(rotating(&server.get("/gateways").await.ok()), 1);
    assert!(rotated.body["key"] != answer.body["key"] && rotated.body["password"] != answer.body["password"]);
    let revoke = server.ask(ALL, "DELETE", "/gateways/g1/enrolment", None, None).await;
    assert_eq!(revoke.status, StatusCode::NO_CONTENT);
    assert_eq!(enrolled(&server.get("/gateways").await.ok()), 0);
    server.post("/gateways/g7/enrolment", None, &json!({})).await.refused(404, "not_found");
    // Revoked: it is enrolled anew, not rotated.
    server.post("/gateways/g1/rotation", None, &json!({})).await.refused(404, "not_found");
}
