//! What travels over HTTP: plain documents, apart from the domain's types so that the interface stays put
//! when these change.
//!
//! Amounts are decimal strings, energy integer Wh, power integer W, times RFC 3339 in UTC, ids `tenant/local`.

mod charging;
mod money;
mod operations;
mod power;

pub use charging::*;
pub use money::*;
pub use operations::*;
pub use power::*;

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

    /// A page of a list that is at hand whole, ordered by `key`.
    pub fn of(all: Vec<T>, after: Option<&str>, limit: usize, key: impl Fn(&T) -> String) -> Self {
        let mut rest = all.into_iter().skip_while(|item| after.is_some_and(|after| key(item).as_str() <= after));
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let next = rest.next().and_then(|_| items.last().map(&key));
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_continues_after_its_last_item() {
        let all = || (0..5).map(|i| format!("c{i}")).collect::<Vec<_>>();
        let first = Page::of(all(), None, 2, Clone::clone);
        assert_eq!((first.items, first.next.as_deref()), (vec!["c0".to_owned(), "c1".to_owned()], Some("c1")));
        let second = Page::of(all(), Some("c1"), 3, Clone::clone);
        assert_eq!((second.items.len(), second.next), (3, None));
        // What the cursor names may be gone meanwhile: the list goes on after where it would be.
        assert_eq!(Page::of(all(), Some("c1a"), 1, Clone::clone).items, ["c2"]);
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
