use super::*;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use chargeplane_domain::account::AccountRejection;
use chargeplane_domain::units::Money;
use std::collections::BTreeSet;
use tower::ServiceExt;

async fn answer(response: Response) -> (StatusCode, Option<String>, serde_json::Value) {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap().to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind, serde_json::from_slice(&body).unwrap())
}

fn small_router() -> Router {
    async fn refuse() -> Problem {
        Problem::new("insufficient_funds", "1.0000 is available")
    }
    async fn shed() -> Problem {
        CallError::Shed.into()
    }
    Router::new()
        .route("/refuse", get(refuse))
        .route("/shed", get(shed))
        .route("/post", post(|| async { "ok" }))
        .layer(from_fn(crate::limits::observe))
}

async fn ask(method: &str, path: &str) -> Response {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    small_router().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn a_refusal_leaves_as_a_document_with_its_instance() {
    let (status, kind, body) = answer(ask("GET", "/refuse?x=1").await).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(kind.as_deref(), Some(PROBLEM_JSON));
    assert_eq!(
        body,
        serde_json::json!({
            "type": "/errors/account#insufficient_funds", "title": "Not enough money", "status": 402,
            "detail": "1.0000 is available", "code": "insufficient_funds", "instance": "/refuse",
        })
    );
}

#[tokio::test]
async fn what_axum_refuses_by_itself_is_a_document_too() {
    let (status, kind, body) = answer(ask("GET", "/nowhere").await).await;
    assert_eq!((status, kind.as_deref()), (StatusCode::NOT_FOUND, Some(PROBLEM_JSON)));
    assert_eq!((&body["code"], &body["instance"]), (&"unknown_route".into(), &"/nowhere".into()));
    let response = ask("GET", "/post").await;
    assert_eq!(response.headers().get(header::ALLOW).unwrap(), "POST");
    assert_eq!(answer(response).await.2["code"], "wrong_method");
    assert_eq!(ask("POST", "/post").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn shed_load_says_when_to_come_again() {
    let response = ask("GET", "/shed").await;
    assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), RETRY_AFTER_SECONDS);
    assert_eq!(answer(response).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn call_errors_keep_apart_what_was_surely_not_done_and_what_may_have_been() {
    let status = |error: CallError| Problem::from(error).status;
    for surely_not in [CallError::Shed, CallError::NotServing("station-0000".into())] {
        assert_eq!(status(surely_not), 503);
    }
    for maybe in [CallError::Interrupted, CallError::Timeout] {
        assert_eq!(status(maybe), 504);
    }
    assert_eq!(status(CallError::NotFound("x".into())), 404);
    assert_eq!(status(CallError::Parked("x".into())), 423);
    assert_eq!(status(CallError::Quarantined("x".into())), 423);
    assert_eq!(status(CallError::Store(StoreError::Io("x".into()))), 500);
    assert_eq!(status(CallError::Store(StoreError::Conflict { expected: 1, found: 2 })), 409);
}

#[test]
fn a_rejection_keeps_its_own_code_even_when_the_table_has_none() {
    let funds = AccountRejection::InsufficientFunds { available: Money(1) };
    let problem = Problem::from(CallError::Account(funds));
    assert_eq!((problem.status, problem.code), (402, "insufficient_funds"));
    assert_eq!(Problem::from(CallError::Account(AccountRejection::KeyReused)).status, 422);
    let problem = Problem::from(CallError::Account(AccountRejection::NotMonotone));
    assert_eq!((problem.status, problem.code), (409, "not_monotone"));
    assert_eq!(&*problem.kind, "/errors/account#account_refused");
}

#[test]
fn every_code_is_unique_and_has_its_section() {
    let mut seen = BTreeSet::new();
    for info in CODES {
        assert!(seen.insert(info.code), "{} twice", info.code);
        assert!(is_explained(info), "docs/errors/{}.md lacks `## {}`", info.family, info.code);
        assert!(StatusCode::from_u16(info.status).is_ok_and(|s| s.is_client_error() || s.is_server_error()));
    }
    for (family, page) in ERROR_PAGES {
        for heading in page.lines().filter_map(|line| line.strip_prefix("## ")) {
            let known = CODES.iter().any(|c| c.code == heading && c.family == *family);
            assert!(known, "docs/errors/{family}.md explains {heading}, which is no code");
        }
    }
}

#[test]
fn foreign_text_in_a_detail_is_bounded() {
    let problem = Problem::new("invalid", "x".repeat(100_000));
    assert_eq!(problem.detail.len(), MAX_DETAIL_CHARS);
}
