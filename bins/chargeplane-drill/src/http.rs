//! The operator's HTTP client: bearer token, JSON, and no opinion on what an answer means.
//!
//! Every request ends in an [`Answer`] or in [`NoAnswer`]; the callers decide what to repeat. Requests that
//! move money carry an `Idempotency-Key`, so that repeating after [`NoAnswer`] is always right.

use serde_json::Value;
use std::time::Duration;
use ureq::Agent;

/// What the node answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`, or empty.
    pub content_type: String,
    /// The body, `Null` when empty or not JSON.
    pub body: Value,
}

/// No answer came: the connection was refused, broke, or the deadline passed. It may have been executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer(pub String);

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no answer: {}", self.0)
    }
}

impl std::error::Error for NoAnswer {}

/// A client of one node. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    bearer: String,
}

impl Answer {
    /// 200 to 299.
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The request was not executed because the node has no room or does not serve yet, and it said so.
    pub fn shed(&self) -> bool {
        matches!(self.status, 429 | 503)
    }

    /// The problem document's code, or the status.
    pub fn problem(&self) -> String {
        let code = self.body.get("code").or_else(|| self.body.get("type")).and_then(Value::as_str);
        let detail = self.body.get("detail").and_then(Value::as_str).unwrap_or("");
        format!("{} {} {detail}", self.status, code.unwrap_or("")).trim().to_owned()
    }
}

impl Client {
    /// A client of the node at `base`, such as `http://127.0.0.1:8080`. Every request has 10 s.
    pub fn new(base: &str, token: &str) -> Self {
        Self::with_deadline(base, token, Duration::from_secs(10))
    }

    /// A client whose requests have a deadline of their own.
    pub fn with_deadline(base: &str, token: &str, deadline: Duration) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(deadline))
            // The node is on this machine: a proxy from the environment is not asked.
            .proxy(None)
            .max_idle_connections(64)
            .max_idle_connections_per_host(64)
            .build()
            .new_agent();
        Self { agent, base: base.to_owned(), bearer: format!("Bearer {token}") }
    }

    /// Host and port of the node.
    pub fn address(&self) -> &str {
        self.base.strip_prefix("http://").unwrap_or(&self.base)
    }

    /// The `Authorization` of every request.
    pub fn bearer(&self) -> &str {
        &self.bearer
    }

    /// GET of a path such as `/api/v1/node`.
    ///
    /// # Errors
    /// No answer came.
    pub fn get(&self, path: &str) -> Result<Answer, NoAnswer> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("Authorization", &self.bearer);
        read(request.call())
    }

    /// GET of a text, such as `/metrics`.
    ///
    /// # Errors
    /// No answer came, or its status is not 200.
    pub fn text(&self, path: &str) -> Result<String, NoAnswer> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("Authorization", &self.bearer);
        let mut response = request.call().map_err(|e| NoAnswer(e.to_string()))?;
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string();
        let text = text.map_err(|e| NoAnswer(e.to_string()))?;
        if response.status() == 200 { Ok(text) } else { Err(NoAnswer(format!("{path}: status {}", response.status()))) }
    }

    /// POST of a JSON document, with an idempotency key where money moves.
    ///
    /// # Errors
    /// No answer came; it may have been executed.
    pub fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Result<Answer, NoAnswer> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("Authorization", &self.bearer);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        read(request.send_json(body))
    }
}

fn read(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, NoAnswer> {
    let mut response = result.map_err(|e| NoAnswer(e.to_string()))?;
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string();
    let text = text.map_err(|e| NoAnswer(e.to_string()))?;
    Ok(Answer { status, content_type, body: serde_json::from_str(&text).unwrap_or(Value::Null) })
}

/// An id as it stands in a path: `main/a1` becomes `main~a1`... the API takes the percent-encoded text form.
pub fn path_id(id: &str) -> String {
    id.replace('/', "%2F")
}
