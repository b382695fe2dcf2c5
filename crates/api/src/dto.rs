//! What travels over HTTP: plain documents, apart from the domain's types so that the interface stays put
//! when these change.
//!
//! Amounts are decimal strings, energy integer Wh, power integer W, times RFC 3339 in UTC, ids `tenant/local`.

mod audit;
mod charging;
mod limits;
mod money;
mod operations;
mod operators;
mod power;
mod power_why;
mod telemetry;

pub use audit::*;
pub use charging::*;
pub use limits::*;
pub use money::*;
pub use operations::*;
pub use operators::*;
pub use power::*;
pub use power_why::*;
pub use telemetry::*;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give it back as `?after=` for what follows; null at the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Everything there is.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// A page that was asked for with one item more than its limit.
    pub fn part(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(&key) } else { None };
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_continues_after_its_last_item() {
        let all = || (0..5).map(|i| format!("c{i}")).collect::<Vec<_>>();
        let part = Page::part(all(), 4, Clone::clone);
        assert_eq!((part.items.len(), part.next.as_deref()), (4, Some("c3")));
        assert_eq!(Page::part(all(), 5, Clone::clone), Page { items: all(), next: None });
    }

    #[test]
    fn command_requests_are_strict() {
        let parse = |text: &str| serde_json::from_str::<CommandRequest>(text);
        assert_eq!(parse(r#"{"action":"unlock","connector":2}"#).unwrap(), CommandRequest::Unlock { connector: 2 });
        assert_eq!(parse(r#"{"action":"reset"}"#).unwrap(), CommandRequest::Reset);
        assert!(parse(r#"{"action":"unlock"}"#).is_err());
        assert!(parse(r#"{"action":"unlock","connector":2,"x":1}"#).is_err());
        assert!(parse(r#"{"action":"explode"}"#).is_err());
    }
}
