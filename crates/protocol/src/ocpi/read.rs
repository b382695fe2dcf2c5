//! Reading a document: what is wrong is said with its JSON path, and what is expected there.

use serde::de::DeserializeOwned;
use std::fmt;

/// Largest document that is read, 16 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// Which of the two documents a problem is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The tariff.
    Tariff,
    /// The CDR.
    Cdr,
}

/// What is wrong in a document, or why it cannot be priced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct DocumentError {
    /// The document.
    pub document: Document,
    /// Where in it, from `$`.
    pub path: String,
    /// What is there and what is expected.
    pub message: String,
}

impl DocumentError {
    /// A problem at a path below `$`; an empty path is the document itself.
    pub(super) fn at(document: Document, path: impl fmt::Display, message: impl Into<String>) -> Self {
        let path = path.to_string();
        let path = if path.is_empty() || path == "." { "$".to_owned() } else { format!("$.{path}") };
        Self { document, path, message: message.into() }
    }
}

/// Reads one object.
///
/// # Errors
///
/// The first problem with its path, line and column.
pub fn read<T: DeserializeOwned>(document: Document, json: &str) -> Result<T, DocumentError> {
    if json.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes: expected at most {MAX_DOCUMENT_BYTES}", json.len());
        return Err(DocumentError::at(document, "", message));
    }
    let mut reader = serde_json::Deserializer::from_str(json.strip_prefix('\u{feff}').unwrap_or(json));
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let message = error.inner().to_string().chars().take(600).collect::<String>();
        DocumentError::at(document, error.path(), message)
    })?;
    let rest = reader.end().map_err(|error| DocumentError::at(document, "", error.to_string()));
    rest.map(|()| value)
}
