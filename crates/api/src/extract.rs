//! Reading a request: ids from the path, the body, the query, the idempotency key.
//!
//! Each says what is wrong and where, as a problem document, and none lets foreign input grow without bound.

use crate::auth::Scope;
use crate::problem::Problem;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use chargeplane_actors::views::PageOf;
use chargeplane_domain::ids::*;
use chargeplane_domain::units::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;
use std::time::Duration;

/// A body that is not here after this long is given up: it would hold a place among the requests in flight.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest idempotency key.
pub const MAX_KEY_LEN: usize = 128;

/// Items of a list unless `?limit=` says otherwise.
pub const DEFAULT_PAGE: usize = 1_000;

/// Most items of a list.
pub const MAX_PAGE: usize = 10_000;

/// An id with its tenant, so that a token's scope can be held against it.
pub trait TenantScoped: FromStr<Err = IdError> {
    /// The tenant's name.
    fn tenant_name(&self) -> &str;
}

macro_rules! tenant_scoped {
    ($($id:ty),*) => {$(
        impl TenantScoped for $id {
            fn tenant_name(&self) -> &str {
                self.tenant()
            }
        }
    )*};
}

tenant_scoped!(StationId, ChargerId, AccountId, GatewayId, SessionId, CommandId, OperatorId);

/// Reads an id and holds the token's scope against its tenant.
pub fn id<T: TenantScoped>(text: &str, scope: &Scope) -> Result<T, Problem> {
    let id: T = text.parse().map_err(|e: IdError| Problem::new("bad_id", e.to_string()))?;
    scope.require(id.tenant_name())?;
    Ok(id)
}

/// The only parameter of a path, as an id that the token covers.
pub struct IdPath<T>(pub T);

impl<S: Send + Sync, T: TenantScoped> FromRequestParts<S> for IdPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let scope = Scope::from_request_parts(parts, state).await?;
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| Problem::new("bad_id", e.body_text()))?;
        id(&text, &scope).map(Self)
    }
}

/// The query string.
pub struct QueryOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|e| Problem::new("bad_query", e.body_text()))
    }
}

/// The `Idempotency-Key` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub String);

impl IdempotencyKey {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else {
            return Err(Problem::new(
                "idempotency_key_missing",
                "this request moves money or sends a command: send an `Idempotency-Key` header, new for each \
                 intent and the same for each repeat",
            ));
        };
        if values.next().is_some() {
            let detail =
                "the request has several `Idempotency-Key` headers: send one, because each stands for an intent";
            return Err(Problem::new("idempotency_key_invalid", detail));
        }
        match value.to_str() {
            Ok(key) if (1..=MAX_KEY_LEN).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(Self(key.to_owned()))
            }
            _ => Err(Problem::new(
                "idempotency_key_invalid",
                format!("write 1 to {MAX_KEY_LEN} visible ASCII characters without spaces, a UUID for example"),
            )),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::read(&parts.headers)
    }
}

/// The whole body, within the route's limit and [`BODY_TIMEOUT`].
pub async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Problem::new("body_too_large", "the body is larger than this route takes (1 MiB; a catalogue 16 MiB)"))
        }
        Ok(Err(e)) => Err(Problem::new("bad_request", e.body_text())),
        Err(_) => {
            Err(Problem::new("body_too_slow", format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs())))
        }
    }
}

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if let Some(kind) = media_type(request.headers())
            && kind != "application/json"
            && !kind.ends_with("+json")
        {
            return Err(Problem::new(
                "unsupported_media_type",
                format!("{kind:.80} is not known here; send application/json"),
            ));
        }
        let bytes = body(request, state).await?;
        parse_json(&bytes).map(Self)
    }
}

/// Parses JSON; the problem names line and column.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.is_empty() {
        return Err(Problem::new("bad_json", "the body is empty; a JSON object is expected"));
    }
    serde_json::from_slice(bytes).map_err(|e| Problem::new("bad_json", e.to_string()))
}

/// The body's media type in small letters, without parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

/// `?after=&limit=` of a list.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Continue after this `next` of the page before.
    pub after: Option<String>,
    /// Most items of the answer, 1 to 10,000; 1,000 when left out.
    pub limit: Option<usize>,
}

impl PageQuery {
    /// The limit, checked.
    pub fn limit(&self) -> Result<usize, Problem> {
        page_limit(self.limit)
    }
}

/// A page's limit, checked.
pub fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(DEFAULT_PAGE) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        limit => Err(Problem::new("bad_query", format!("limit {limit}: write 1 to {MAX_PAGE}"))),
    }
}

/// The part of a list of ids that a request asks for, and one more: whether there is more is then known.
pub fn page_of<T: FromStr<Err = IdError>>(
    after: Option<&str>,
    limit: usize,
    scope: &Scope,
) -> Result<PageOf<T>, Problem> {
    let after = after.map(str::parse).transpose();
    let after = after.map_err(|e: IdError| Problem::new("bad_query", format!("after: {e}")))?;
    Ok(PageOf { after, limit: limit.saturating_add(1), tenant: scope.tenant().map(str::to_owned) })
}

/// Reads a moment: RFC 3339, or integer milliseconds since 1970.
pub fn moment(name: &str, text: &str) -> Result<Timestamp, Problem> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(Timestamp(ms));
    }
    // A `+` of an offset becomes a space in a query string that was not encoded: read it as it was meant.
    let text = text.replace(' ', "+");
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => Ok(Timestamp(at.as_millisecond())),
        Err(_) => Err(Problem::new(
            "bad_query",
            format!("{name}: {text:.40} is no moment; write 2026-01-05T08:00:00Z or milliseconds since 1970"),
        )),
    }
}

/// A moment as RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => format!("{} ms", at.0),
    }
}

/// The node's clock, for the `at` of commands.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_both_forms_and_written_in_one() {
        let at = moment("from", "2026-01-05T08:00:00.25Z").unwrap();
        assert_eq!(at, Timestamp(1_767_600_000_250));
        assert_eq!(moment("from", "1767600000250").unwrap(), at);
        assert_eq!(moment("from", "2026-01-05T16:00:00.25 08:00").unwrap(), at);
        assert_eq!(rfc3339(at), "2026-01-05T08:00:00.250Z");
        assert_eq!(rfc3339(Timestamp(i64::MAX)), format!("{} ms", i64::MAX));
        assert_eq!(moment("from", "yesterday").unwrap_err().code, "bad_query");
    }

    #[test]
    fn an_id_is_held_against_the_tokens_tenant() {
        let acme = Scope::Tenant(TenantId::new("acme").unwrap());
        assert_eq!(id::<ChargerId>("acme/c1", &acme).unwrap().as_str(), "acme/c1");
        assert_eq!(id::<ChargerId>("c1", &acme).unwrap_err().code, "other_tenant");
        assert_eq!(id::<ChargerId>("c1", &Scope::AllTenants).unwrap().as_str(), "main/c1");
        assert_eq!(id::<ChargerId>("a/b/c", &Scope::AllTenants).unwrap_err().code, "bad_id");
    }

    #[test]
    fn idempotency_keys_are_bounded() {
        let read = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", key.parse().unwrap());
            IdempotencyKey::read(&headers).map_err(|p| p.code)
        };
        assert_eq!(read("k-1"), Ok(IdempotencyKey("k-1".into())));
        assert!(read(&"k".repeat(MAX_KEY_LEN)).is_ok());
        assert_eq!(read(&"k".repeat(MAX_KEY_LEN + 1)), Err("idempotency_key_invalid"));
        assert_eq!(read("two words"), Err("idempotency_key_invalid"));
        let mut twice = HeaderMap::new();
        twice.append("idempotency-key", "k".parse().unwrap());
        twice.append("idempotency-key", "k".parse().unwrap());
        assert_eq!(IdempotencyKey::read(&twice).unwrap_err().code, "idempotency_key_invalid");
        assert_eq!(IdempotencyKey::read(&HeaderMap::new()).unwrap_err().code, "idempotency_key_missing");
    }

    #[test]
    fn bad_json_says_where() {
        let problem = parse_json::<Vec<u8>>(b"[1,\n 2,\n x]").unwrap_err();
        assert_eq!(problem.code, "bad_json");
        assert!(problem.detail.contains("line 3 column 2"), "{}", problem.detail);
    }
}
