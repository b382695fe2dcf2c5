//! The command line's side of the HTTP interface.

use crate::cli::Connection;
use crate::data_dir;
use crate::exit::{Code, Failure};
use serde_json::Value;
use std::cell::Cell;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Request, Response};

/// Where a node listens unless somebody says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Longer than the node's own deadline for any request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Largest answer that is read: a page of charge records, or 100,000 readings.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// Items asked for at once.
const PAGE: usize = 10_000;

/// A client of one node.
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
    /// A list was answered that may lack its end.
    incomplete: Cell<bool>,
}

/// A body and its type.
pub enum Body<'a> {
    /// None.
    Empty,
    /// JSON.
    Json(&'a Value),
    /// YAML.
    Yaml(&'a [u8]),
}

impl Api {
    /// A client by the command line's options: what is not given is looked up in the data directory.
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let dir = connection.data_dir();
        let base = connection.url.clone().or_else(|| data_dir::recorded_url(&dir)).unwrap_or(DEFAULT_URL.to_owned());
        let token = match &connection.token {
            Some(token) => token.clone(),
            None => data_dir::read_token(&dir)?,
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        Ok(Self { agent, base: base.trim_end_matches('/').to_owned(), token, incomplete: Cell::new(false) })
    }

    /// One request; an answer that is no success becomes a failure.
    pub fn call(&self, method: &str, path: &str, key: Option<&str>, body: Body<'_>) -> Result<Value, Failure> {
        let uri = format!("{}/api/v1{path}", self.base);
        let mut request =
            Request::builder().method(method).uri(&uri).header("authorization", format!("Bearer {}", self.token));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let (kind, bytes) = match body {
            Body::Empty => (None, Vec::new()),
            Body::Json(value) => (Some("application/json"), value.to_string().into_bytes()),
            Body::Yaml(text) => (Some("application/yaml"), text.to_vec()),
        };
        let wrong =
            |e: &dyn std::fmt::Display| Failure::usage(format!("{uri} is no URL to ask, or a header is wrong: {e}"));
        // A GET with a body, even an empty one, is no request that every server reads.
        let response = match kind {
            Some(kind) => {
                let request = request.header("content-type", kind).body(bytes).map_err(|e| wrong(&e))?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(()).map_err(|e| wrong(&e))?),
        };
        let response = response.map_err(|error| self.no_answer(&error, key))?;
        read_answer(response, key)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.call("GET", path, None, Body::Empty)?;
        if answer["complete"] == Value::Bool(false) {
            self.incomplete.set(true);
        }
        Ok(answer)
    }

    /// A failure when an answer since then said that its end may be missing.
    pub fn is_complete(&self) -> Result<(), Failure> {
        if self.incomplete.get() {
            return Err(Failure::new(
                Code::Refused,
                "the list may lack its last lines: the read models are behind the books at the moment; ask again",
            ));
        }
        Ok(())
    }

    /// GET of an answer of any length, copied as it comes. An answer that breaks off is a failure.
    pub fn download(&self, path: &str, to: &mut dyn std::io::Write) -> Result<(), Failure> {
        let uri = format!("{}/api/v1{path}", self.base);
        let request = Request::builder().uri(&uri).header("authorization", format!("Bearer {}", self.token));
        let request = request.body(()).map_err(|e| Failure::usage(format!("{uri} is no URL to ask: {e}")))?;
        // It takes as long as it takes: no limit over all.
        let request = self.agent.configure_request(request).timeout_global(None).build();
        let mut response = self.agent.run(request).map_err(|error| self.no_answer(&error, None))?;
        if !response.status().is_success() {
            return read_answer(response, None).map(drop);
        }
        let mut body = response.body_mut().as_reader();
        std::io::copy(&mut body, to)
            .map(drop)
            .map_err(|e| Failure::new(Code::Unreachable, format!("the answer broke off or cannot be written: {e}")))
    }

    /// All items of a list, at most `most`, page after page.
    pub fn list(&self, path: &str, most: usize) -> Result<Vec<Value>, Failure> {
        self.list_in_pages(path, most, PAGE)
    }

    /// The same, with at most so many items a page.
    pub fn list_in_pages(&self, path: &str, most: usize, at_once: usize) -> Result<Vec<Value>, Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        while items.len() < most {
            let limit = at_once.min(most - items.len());
            let mut page = format!("{path}{}limit={limit}", if path.contains('?') { '&' } else { '?' });
            if let Some(after) = &after {
                page.push_str(&format!("&after={}", encode(after)));
            }
            let mut answer = self.get(&page)?;
            if let Value::Array(more) = answer["items"].take() {
                items.extend(more);
            }
            match answer["next"].take() {
                Value::String(next) => after = Some(next),
                _ => break,
            }
        }
        Ok(items)
    }

    fn no_answer(&self, error: &ureq::Error, key: Option<&str>) -> Failure {
        let base = &self.base;
        let repeat = match key {
            Some(key) => format!("; it may have been executed: repeat it with --key {key}"),
            None => String::new(),
        };
        Failure::new(
            Code::Unreachable,
            format!(
                "no answer from {base}: {error}{repeat}\nIs the node running? `--url` or CHARGEPLANE_URL says where it is"
            ),
        )
    }
}

fn read_answer(mut response: Response<ureq::Body>, key: Option<&str>) -> Result<Value, Failure> {
    let status = response.status().as_u16();
    let text = response
        .body_mut()
        .with_config()
        .limit(MAX_ANSWER_BYTES)
        .read_to_string()
        .map_err(|e| Failure::new(Code::Unreachable, format!("the answer broke off: {e}")))?;
    if (200..300).contains(&status) {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        return serde_json::from_str(&text).map_err(|e| {
            Failure::internal(format!("the answer is not JSON ({e}); is this URL a Chargeplane node's?"))
        });
    }
    Err(refusal(status, &text, key))
}

/// The failure for an answer that is no success.
fn refusal(status: u16, text: &str, key: Option<&str>) -> Failure {
    let problem: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let code = if matches!(status, 503 | 504) { Code::Unreachable } else { Code::Refused };
    let Some(name) = problem["code"].as_str() else {
        return Failure::new(code, format!("status {status}, and no problem document; is this a Chargeplane node?"));
    };
    let detail = problem["detail"].as_str().unwrap_or("");
    let repeat = match key {
        Some(key) if status == 504 => format!("\nrepeat it with --key {key}"),
        _ => String::new(),
    };
    Failure::new(code, format!("{name} ({status}): {detail}{repeat}"))
}

/// Percent-encodes a part of a path or query.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A new idempotency key: 128 random bits.
pub fn new_key() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Failure::internal(format!("no randomness to be had: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_for_paths() {
        assert_eq!(encode("main/c1.7"), "main%2Fc1.7");
        assert_eq!(encode("1767600000250~a b+ü"), "1767600000250~a%20b%2B%C3%BC");
    }

    #[test]
    fn a_refusal_shows_its_code_and_ends_with_the_right_exit_code() {
        let problem = r#"{"code":"insufficient_funds","detail":"1.0000 is available"}"#;
        let failure = refusal(402, problem, Some("k"));
        assert_eq!(failure, Failure::new(Code::Refused, "insufficient_funds (402): 1.0000 is available"));
        let failure = refusal(504, r#"{"code":"timeout","detail":"late"}"#, Some("k1"));
        assert_eq!(failure.code, Code::Unreachable);
        assert!(failure.message.ends_with("--key k1"), "{failure}");
        assert_eq!(refusal(503, "busy", None).code, Code::Unreachable);
        assert!(refusal(502, "<html>", None).message.contains("no problem document"));
    }

    #[test]
    fn nobody_listening_is_unreachable() {
        let connection =
            Connection { url: Some("http://127.0.0.1:1".into()), token: Some("t".into()), ..Connection::default() };
        let failure = Api::new(&connection).unwrap().get("/node").unwrap_err();
        assert_eq!(failure.code, Code::Unreachable);
    }

    #[test]
    fn keys_differ() {
        assert_ne!(new_key().unwrap(), new_key().unwrap());
        assert_eq!(new_key().unwrap().len(), 32);
    }
}
