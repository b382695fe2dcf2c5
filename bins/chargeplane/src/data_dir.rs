//! What the node leaves in its data directory for people and for the command line: token and whereabouts.
//!
//! The lock of the directory and the stores in it belong to the SQLite adapter.

use crate::client::new_key;
use crate::exit::{Code, Failure};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The token, readable by its owner only.
pub const TOKEN_FILE: &str = "api-token";

/// Where the running node is: `{"pid", "url", "mqtt"}`.
const WHEREABOUTS_FILE: &str = "node.json";

/// Where the token of a data directory is.
pub fn token_path(dir: &Path) -> PathBuf {
    dir.join(TOKEN_FILE)
}

/// The first token for all tenants in a data directory's token file.
pub fn read_token(dir: &Path) -> Result<String, Failure> {
    let path = token_path(dir);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::usage(format!(
            "no token: {} cannot be read ({e}); give --token or CHARGEPLANE_TOKEN, or --data-dir of a node",
            path.display()
        ))
    })?;
    let alone = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.contains(' ');
    let token = text.lines().map(str::trim).find(alone).map(str::to_owned);
    token.ok_or_else(|| Failure::usage(format!("{} has no line with a token alone", path.display())))
}

/// Makes the token file if it is not there: once per data directory, so that a restart keeps the token.
pub fn ensure_token(dir: &Path) -> Result<(), Failure> {
    let path = token_path(dir);
    let fail = |e: std::io::Error| Failure::new(Code::Store, format!("cannot write {}: {e}", path.display()));
    if path.exists() {
        return Ok(());
    }
    // Written whole under another name first: a crash leaves no half a token.
    let fresh = dir.join(format!("{TOKEN_FILE}.new"));
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(fail)?;
    let token = format!("{}{}", new_key()?, new_key()?);
    writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&fresh, &path).map_err(fail)
}

/// Notes where the node is.
pub fn record(dir: &Path, url: &str, mqtt: &str) -> Result<(), Failure> {
    let path = dir.join(WHEREABOUTS_FILE);
    let text = format!("{:#}\n", json!({ "pid": std::process::id(), "url": url, "mqtt": mqtt }));
    std::fs::write(&path, text).map_err(|e| Failure::new(Code::Store, format!("cannot write {}: {e}", path.display())))
}

/// Where the node of a data directory said it is.
pub fn recorded_url(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(WHEREABOUTS_FILE)).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    Some(value["url"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_token(dir.path()).unwrap_err().code, Code::Usage);
        ensure_token(dir.path()).unwrap();
        let token = read_token(dir.path()).unwrap();
        assert_eq!(token.len(), 64);
        ensure_token(dir.path()).unwrap();
        assert_eq!(read_token(dir.path()).unwrap(), token);
        let mode = std::fs::metadata(token_path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            chargeplane_api::auth::Tokens::parse(&std::fs::read_to_string(token_path(dir.path())).unwrap()).is_ok()
        );
    }

    #[test]
    fn the_first_token_for_all_tenants_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(token_path(dir.path()), "# ours\nacme 0123\nabcd\n").unwrap();
        assert_eq!(read_token(dir.path()).unwrap(), "abcd");
        std::fs::write(token_path(dir.path()), "acme 0123\n").unwrap();
        assert!(read_token(dir.path()).is_err());
    }

    #[test]
    fn whereabouts_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(recorded_url(dir.path()), None);
        record(dir.path(), "http://127.0.0.1:1", "127.0.0.1:2").unwrap();
        assert_eq!(recorded_url(dir.path()).as_deref(), Some("http://127.0.0.1:1"));
    }
}
