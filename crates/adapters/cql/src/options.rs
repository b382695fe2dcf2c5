//! How to reach the database, and the bounds of a segment.

use std::fmt;

/// What a [`CqlJournal`](crate::CqlJournal) is made with.
#[derive(Clone)]
pub struct CqlOptions {
    /// Nodes to begin with, `host:port`; the driver finds the others.
    pub nodes: Vec<String>,
    /// The keyspace, made when it is not there: a small letter, then small letters, digits and `_`, at most 48.
    pub keyspace: String,
    /// How often the keyspace is stored, when it is made here.
    pub replication: Replication,
    /// User name and password, when the database asks for them.
    pub login: Option<(String, String)>,
    /// Serve although the database answers before its commit log is synced.
    pub allow_unsynced: bool,
    /// When a segment ends.
    pub segment: SegmentLimits,
}

impl CqlOptions {
    /// One copy, no login, segments of the usual size.
    pub fn new(nodes: Vec<String>, keyspace: &str) -> Self {
        Self {
            nodes,
            keyspace: keyspace.to_owned(),
            replication: Replication::Everywhere(1),
            login: None,
            allow_unsynced: false,
            segment: SegmentLimits::default(),
        }
    }
}

impl fmt::Debug for CqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CqlOptions")
            .field("nodes", &self.nodes)
            .field("keyspace", &self.keyspace)
            .field("replication", &self.replication)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("allow_unsynced", &self.allow_unsynced)
            .field("segment", &self.segment)
            .finish()
    }
}

/// Bounds of a segment: a partition that grows without end is slow to read, to repair and to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Bytes of frames. A frame that is larger has a segment for itself.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
}

impl Default for SegmentLimits {
    fn default() -> Self {
        Self { bytes: 32 * 1024 * 1024, frames: 50_000 }
    }
}

/// How often a keyspace is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replication {
    /// So many copies in every data centre.
    Everywhere(u8),
    /// So many copies in each of these data centres.
    DataCentres(Vec<(String, u8)>),
}

impl Replication {
    /// Reads `3` or `paris:3,berlin:2`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let copies = |text: &str| match text.trim().parse::<u8>() {
            Ok(copies) if (1..=9).contains(&copies) => Ok(copies),
            _ => Err(format!("`{}` is no number of copies from 1 to 9", text.trim())),
        };
        if !text.contains(':') {
            return copies(text).map(Self::Everywhere);
        }
        let one = |part: &str| {
            let (name, count) = part.split_once(':').ok_or_else(|| format!("`{part}` is not `data centre:copies`"))?;
            let name = name.trim();
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(fits) {
                return Err(format!("`{name}` is no name of a data centre: letters, digits, `-` and `_`"));
            }
            Ok((name.to_owned(), copies(count)?))
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self::DataCentres)
    }

    /// The map of `CREATE KEYSPACE`. Names were checked by [`Replication::parse`].
    pub(crate) fn cql(&self) -> String {
        let entry = |(name, copies): (&str, u8)| format!(", '{}': {copies}", name.replace('\'', ""));
        let entries = match self {
            Self::Everywhere(copies) => entry(("replication_factor", *copies)),
            Self::DataCentres(centres) => centres.iter().map(|(name, copies)| entry((name, *copies))).collect(),
        };
        format!("{{'class': 'NetworkTopologyStrategy'{entries}}}")
    }
}

/// Whether `name` can be a keyspace here.
pub(crate) fn is_keyspace(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.len() <= 48 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_read_and_written() {
        let cql = |text| Replication::parse(text).map(|replication| replication.cql());
        let everywhere = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}";
        assert_eq!(cql("3"), Ok(everywhere.to_owned()));
        let two = "{'class': 'NetworkTopologyStrategy', 'paris': 3, 'dc-2': 2}";
        assert_eq!(cql("paris:3, dc-2:2"), Ok(two.to_owned()));
        for bad in ["", "0", "10", "x", "paris:", ":3", "a'b:3", "paris:3,", "paris:3,3"] {
            assert!(cql(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keyspaces_are_plain_names() {
        for good in ["a", "chargeplane", "ledger_2"] {
            assert!(is_keyspace(good), "{good}");
        }
        for bad in ["", "2a", "_a", "Ledger", "a b", "a;drop", &"a".repeat(49)] {
            assert!(!is_keyspace(bad), "{bad}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let options = CqlOptions { login: Some(("me".into(), "secret".into())), ..CqlOptions::new(vec![], "k") };
        let shown = format!("{options:?}");
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }
}
