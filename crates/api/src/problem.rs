//! Problem documents (RFC 9457): how every refusal and failure leaves the node.
//!
//! Owns the table of error codes. Each code has a section in `docs/errors/<family>.md`, embedded here and
//! served at `/errors/<family>`, so that `type` resolves on the node itself; a test holds the two together.

use crate::pages::ERROR_PAGES;
use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chargeplane_actors::handle::CallError;
use chargeplane_actors::ports::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

/// Content type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a shed request may be tried again.
const RETRY_AFTER_SECONDS: &str = "1";

/// Longest `detail`, in characters: foreign text in it stays bounded.
const MAX_DETAIL_CHARS: usize = 8_192;

/// What is fixed about an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The code, stable across versions.
    pub code: &'static str,
    /// The HTTP status it leaves with.
    pub status: u16,
    /// A title that does not vary from case to case.
    pub title: &'static str,
    /// The page in `docs/errors` that explains it.
    pub family: &'static str,
}

macro_rules! codes {
    ($($family:literal { $($code:literal $status:literal $title:literal;)* })*) => {
        /// Every code this node answers with.
        pub const CODES: &[CodeInfo] = &[$($(
            CodeInfo { code: $code, status: $status, title: $title, family: $family },
        )*)*];
    };
}

codes! {
    "request" {
        "unknown_route" 404 "No such route";
        "wrong_method" 405 "The route does not know this method";
        "bad_request" 400 "The request cannot be read";
        "bad_json" 400 "The body is not the expected JSON";
        "bad_query" 400 "A query parameter is wrong";
        "bad_id" 400 "Not an id";
        "idempotency_key_missing" 400 "The Idempotency-Key header is missing";
        "idempotency_key_invalid" 400 "The Idempotency-Key header is not usable";
        "body_too_large" 413 "The body is too large";
        "body_too_slow" 408 "The body did not arrive in time";
        "unsupported_media_type" 415 "The body's media type is not known here";
        "range_too_large" 413 "The range holds more than one answer may";
        "invalid" 422 "The request cannot be carried out";
    }
    "access" {
        "token_missing" 401 "A bearer token is needed";
        "token_unknown" 401 "The bearer token is not known";
        "other_tenant" 403 "The token is of another tenant";
    }
    "service" {
        "not_found" 404 "It does not exist";
        "parked" 423 "Parked after repeated failures";
        "quarantined" 423 "Quarantined: its log cannot be applied";
        "overloaded" 503 "Overloaded: nothing was done";
        "rebuild_running" 409 "It is being rebuilt already";
        "behind" 503 "What is read is behind the books: nothing was done";
        "not_serving" 503 "The shard is not open: nothing was done";
        "interrupted" 504 "Interrupted: it may have been executed";
        "timeout" 504 "No answer in time: it may have been executed";
        "store_failed" 500 "A store failed";
        "internal" 500 "The node failed";
    }
    "catalogue" {
        "catalogue_unreadable" 400 "The catalogue cannot be read";
        "catalogue_invalid" 422 "The catalogue does not hold together";
        "catalogue_conflict" 409 "Somebody else changed the catalogue first";
        "catalogue_empty" 422 "The catalogue would remove every station";
        "in_use" 409 "What would be removed is in use";
    }
    "account" {
        "unknown_account" 404 "The account is not open";
        "already_open" 409 "The account is open already";
        "key_reused" 422 "The key was used for another request";
        "invalid_key" 400 "The key is not usable";
        "too_many_keys" 429 "Too many keys within a day: nothing was done";
        "invalid_amount" 422 "Not a usable amount";
        "balance_limit" 422 "The balance would exceed its bound";
        "currency_mismatch" 422 "The currencies differ";
        "invalid_tariff" 409 "The tariff has a price out of range";
        "invalid_split" 409 "The agreement about the revenue cannot be used";
        "insufficient_funds" 402 "Not enough money";
        "too_many_sessions" 409 "Too many sessions hold money";
        "account_frozen" 409 "The account is frozen";
        "account_closed" 409 "The account is closed";
        "refund_limit" 409 "More than may be refunded";
        "invalid_reason" 422 "A reason is missing or too long";
        "sessions_open" 409 "Sessions of the account are not settled";
        "balance_not_zero" 409 "The balance is not zero";
        "transfers_open" 409 "Transfers of the account are under way";
        "unknown_target" 404 "The account to pay is not open";
        "target_closed" 409 "The account to pay is closed";
        "invalid_target" 422 "Not an account that can be paid from here";
        "operators_till" 409 "Not what this account is for";
        "too_many_transfers" 409 "Too many transfers are under way";
        "session_released" 409 "The session's hold was released";
        "session_active" 409 "The session is under way";
        "unknown_session" 404 "The session is not known";
        "session_closed" 409 "The session is closed";
        "account_refused" 409 "The account refused";
    }
    "charger" {
        "charger_busy" 409 "The charger has a session already";
        "charger_faulted" 409 "The charger has a fault";
        "charger_offline" 409 "The charger is not connected";
        "charger_unavailable" 409 "The charger is out of service";
        "unknown_connector" 422 "The charger has no such connector";
        "unknown_command" 404 "The command is not known";
        "id_too_long" 422 "The charger's id is too long for its sessions";
        "invalid_action" 422 "The charger cannot be told this";
        "too_many_commands" 409 "Too many commands of the charger are under way";
        "charger_refused" 409 "The charger refused";
    }
}

/// What is fixed about `code`; for a code that is not listed, what is fixed about `otherwise`.
pub fn info(code: &str, otherwise: &'static str) -> CodeInfo {
    let find = |wanted: &str| CODES.iter().find(|c| c.code == wanted).copied();
    find(code).or_else(|| find(otherwise)).unwrap_or(CodeInfo {
        code: "internal",
        status: 500,
        title: "The node failed",
        family: "service",
    })
}

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The page about the code, relative to this node: `/errors/account#insufficient_funds`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Box<str>,
    /// What kind of problem, the same for every case of the code.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened in this case, what it means, and what to do.
    pub detail: String,
    /// The code, stable across versions: switch on this.
    pub code: &'static str,
    /// The path of the request.
    #[schema(value_type = String)]
    pub instance: Box<str>,
    /// For a catalogue: everything that is wrong in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ProblemItem>,
}

/// One thing that is wrong in a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProblemItem {
    /// Where.
    pub path: String,
    /// What is wrong there.
    pub what: String,
    /// What to write instead.
    pub write_instead: String,
}

impl Problem {
    /// A problem with one of [`CODES`].
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self::of(info(code, "internal"), code, detail)
    }

    fn of(info: CodeInfo, code: &'static str, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        Self {
            kind: format!("/errors/{}#{}", info.family, info.code).into(),
            title: info.title,
            status: info.status,
            detail: detail.chars().take(MAX_DETAIL_CHARS).collect(),
            code,
            instance: "".into(),
            problems: Vec::new(),
        }
    }

    /// A refusal by an entity: its own code, with the status of the table or else of `otherwise`.
    fn refusal(code: &'static str, otherwise: &'static str, detail: String) -> Self {
        Self::of(info(code, otherwise), code, detail)
    }

    /// The status as axum's type.
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let detail = error.to_string();
        match &error {
            CallError::NotFound(_) => Self::new("not_found", detail),
            CallError::Account(rejection) => Self::refusal(rejection.code(), "account_refused", detail),
            CallError::StartRefused { code, .. } => {
                let known = info(code, "account_refused");
                Self::of(known, known.code, detail)
            }
            CallError::ChargerOffline { .. } => Self::new("charger_offline", detail),
            CallError::Charger(rejection) => Self::refusal(rejection.code(), "charger_refused", detail),
            CallError::InUse { .. } => Self::new("in_use", detail),
            CallError::CatalogueEmpty { .. } => Self::new("catalogue_empty", detail),
            CallError::Shed => Self::new("overloaded", detail),
            CallError::Interrupted => Self::new("interrupted", detail),
            CallError::Timeout => Self::new("timeout", detail),
            CallError::NotServing(_) => Self::new("not_serving", detail),
            CallError::Behind(_) => Self::new("behind", detail),
            CallError::Parked(_) => Self::new("parked", detail),
            CallError::Quarantined(_) => Self::new("quarantined", detail),
            CallError::Store(StoreError::Conflict { .. }) => Self::new("catalogue_conflict", detail),
            CallError::Store(_) => Self::new("store_failed", detail),
            CallError::Invalid(_) => Self::new("invalid", detail),
            CallError::TooLarge(_) => Self::new("range_too_large", detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status_code();
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"chargeplane\""));
        }
        // The layer outside knows the path and writes the document once more, with its `instance`.
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives every error response its document: those that carry a [`Problem`] get its `instance`, and those
/// that axum made by itself (wrong method, no such route) become one.
pub fn finish(path: &str, response: Response) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, _body) = response.into_parts();
    let mut problem = match parts.extensions.get::<Problem>() {
        Some(problem) => problem.clone(),
        None => foreign(status, path),
    };
    problem.instance = path.chars().take(256).collect::<String>().into();
    let mut finished = problem.into_response();
    const KEPT: [HeaderName; 2] = [header::ALLOW, header::RETRY_AFTER];
    for name in KEPT {
        if let Some(value) = parts.headers.get(&name) {
            finished.headers_mut().insert(name, value.clone());
        }
    }
    finished
}

/// The document for a status that came without one.
fn foreign(status: StatusCode, path: &str) -> Problem {
    match status {
        StatusCode::NOT_FOUND => {
            Problem::new("unknown_route", format!("{path} is not a route of this node; /docs lists them"))
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new("wrong_method", "the `Allow` header names the methods of this route")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new("body_too_large", "the body is larger than this route takes"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Problem::new("unsupported_media_type", "send application/json, or application/yaml for a catalogue")
        }
        _ if status.is_client_error() => Problem::new("bad_request", "the request cannot be read"),
        _ => Problem::new("internal", "the node failed; its log says why"),
    }
}

/// True when `family` has a page that explains `code`.
pub fn is_explained(info: &CodeInfo) -> bool {
    let heading = format!("## {}", info.code);
    ERROR_PAGES.iter().any(|(family, page)| *family == info.family && page.lines().any(|line| line.trim() == heading))
}

#[cfg(test)]
mod tests;
