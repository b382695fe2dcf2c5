//! The router over a whole node on memory stores: what a client sees.

mod door;
mod money;
mod records;
mod stations;
mod telemetry;

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
