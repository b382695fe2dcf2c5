//! The catalogue and the gateways' credentials in one SQLite file, readable by its owner only.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync, ordered, parsed, unsigned, unsigned32};
use crate::fault::Fault;
use chargeplane_actors::ports::{CatalogueStore, GatewayCredentials, StoreError};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::catalogue::Catalogue;
use rusqlite::{OptionalExtension, Row, Transaction, params};

const LAYOUT: Layout = Layout {
    file: "catalogue.sqlite",
    steps: &["
        CREATE TABLE catalogue(
            id INTEGER PRIMARY KEY CHECK(id = 0),
            version INTEGER NOT NULL,
            format INTEGER NOT NULL,
            document TEXT NOT NULL
        ) STRICT;
        CREATE TABLE credentials(
            gateway TEXT NOT NULL,
            key_epoch INTEGER NOT NULL,
            number INTEGER NOT NULL,
            incarnation INTEGER NOT NULL,
            root_key BLOB NOT NULL CHECK(length(root_key) = 32),
            password_sha256 BLOB NOT NULL CHECK(length(password_sha256) = 32),
            confirmed INTEGER NOT NULL CHECK(confirmed IN (0, 1)),
            revoked INTEGER NOT NULL CHECK(revoked IN (0, 1))
        ) STRICT;
        CREATE UNIQUE INDEX credentials_by_key ON credentials(gateway, key_epoch);
        CREATE INDEX credentials_by_number ON credentials(number);
    "],
    page_size: 4_096,
    sync: Sync::Full,
};

/// The layout of the stored document: JSON of [`Catalogue`].
const DOCUMENT_FORMAT: i64 = 1;

/// The catalogue in `catalogue.sqlite`.
pub struct SqliteCatalogue {
    database: Database,
}

impl SqliteCatalogue {
    /// Opens the catalogue of a data directory and starts its threads.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self { database: Database::open(dir, &LAYOUT, 1)? })
    }
}

impl CatalogueStore for SqliteCatalogue {
    fn load(&self) -> BoxFuture<'_, Result<(u64, Catalogue), StoreError>> {
        Box::pin(async move { Ok(self.database.read(load).await?) })
    }

    fn save(&self, expected: u64, catalogue: Catalogue) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            // A catalogue that cannot be written is the caller's, not the disk's: it does not poison.
            let document = serde_json::to_string(&catalogue).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            Ok(self.database.write(move |transaction| save(transaction, expected, &document)).await?)
        })
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<GatewayCredentials>, StoreError>> {
        Box::pin(async move { Ok(self.database.read(credentials).await?) })
    }

    fn save_credentials(&self, credentials: GatewayCredentials) -> BoxFuture<'_, Result<(), StoreError>> {
        let save = move |transaction: &Transaction<'_>| save_credentials(transaction, &credentials);
        Box::pin(async move { Ok(self.database.write(save).await?) })
    }
}

fn version(transaction: &Transaction<'_>) -> Result<u64, Fault> {
    let sql = "SELECT version FROM catalogue WHERE id = 0";
    let version: Option<i64> = transaction.query_row(sql, [], |row| row.get(0)).optional()?;
    version.map_or(Ok(0), unsigned)
}

fn load(transaction: &Transaction<'_>) -> Result<(u64, Catalogue), Fault> {
    let sql = "SELECT version, format, document FROM catalogue WHERE id = 0";
    type Fields = (i64, i64, String);
    let fields = |row: &Row<'_>| -> rusqlite::Result<Fields> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
    let Some((version, format, document)) = transaction.query_row(sql, [], fields).optional()? else {
        return Ok((0, Catalogue::default()));
    };
    if format > DOCUMENT_FORMAT {
        let what = format!("the catalogue has format {format}, newer than this program knows ({DOCUMENT_FORMAT})");
        return Err(Fault::corrupt(what));
    }
    let catalogue = serde_json::from_str(&document);
    Ok((unsigned(version)?, catalogue.map_err(|error| Fault::corrupt(format!("catalogue: {error}")))?))
}

fn save(transaction: &Transaction<'_>, expected: u64, document: &str) -> Result<u64, Fault> {
    let found = version(transaction)?;
    if found != expected {
        return Err(Fault::Conflict { expected, found });
    }
    let new = found.saturating_add(1);
    transaction.execute(
        "INSERT INTO catalogue(id, version, format, document) VALUES(0, ?1, ?2, ?3)
         ON CONFLICT(id) DO UPDATE SET
             version = excluded.version, format = excluded.format, document = excluded.document",
        params![ordered(new), DOCUMENT_FORMAT, document],
    )?;
    Ok(new)
}

fn credentials(transaction: &Transaction<'_>) -> Result<Vec<GatewayCredentials>, Fault> {
    let mut select = transaction.prepare_cached(
        "SELECT gateway, key_epoch, number, incarnation, root_key, password_sha256, confirmed, revoked
         FROM credentials ORDER BY gateway, key_epoch",
    )?;
    type Fields = (String, i64, i64, i64, [u8; 32], [u8; 32], bool, bool);
    let fields = |row: &Row<'_>| -> rusqlite::Result<Fields> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
    };
    let rows = select.query_map([], fields)?;
    let one = |(gateway, key_epoch, number, incarnation, root_key, password_sha256, confirmed, revoked): Fields| {
        Ok(GatewayCredentials {
            gateway: parsed(&gateway)?,
            number: number.cast_unsigned(),
            incarnation: unsigned32(incarnation)?,
            key_epoch: unsigned32(key_epoch)?,
            root_key,
            password_sha256,
            confirmed,
            revoked,
        })
    };
    rows.map(|row| one(row?)).collect()
}

fn save_credentials(transaction: &Transaction<'_>, new: &GatewayCredentials) -> Result<(), Fault> {
    let number = new.number.cast_signed();
    let sql = "SELECT gateway FROM credentials WHERE number = ?1 AND gateway <> ?2 LIMIT 1";
    let holder: Option<String> =
        transaction.query_row(sql, params![number, new.gateway.as_str()], |row| row.get(0)).optional()?;
    if let Some(holder) = holder {
        // Two gateways under one number would open each other's envelopes with the wrong key.
        return Err(Fault::corrupt(format!("gateway number {} belongs to {holder}", new.number)));
    }
    transaction.execute(
        "INSERT INTO credentials(gateway, key_epoch, number, incarnation, root_key, password_sha256, confirmed,
                                 revoked)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT(gateway, key_epoch) DO UPDATE SET
             number = excluded.number, incarnation = excluded.incarnation, root_key = excluded.root_key,
             password_sha256 = excluded.password_sha256, confirmed = excluded.confirmed,
             revoked = excluded.revoked",
        params![
            new.gateway.as_str(),
            new.key_epoch,
            number,
            new.incarnation,
            &new.root_key[..],
            &new.password_sha256[..],
            new.confirmed,
            new.revoked
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::catalogue::Gateway;
    use std::os::unix::fs::PermissionsExt;

    fn open() -> (tempfile::TempDir, SqliteCatalogue) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = SqliteCatalogue::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens");
        (dir, store)
    }

    fn catalogue(gateway: &str) -> Catalogue {
        let mut catalogue = Catalogue::default();
        let station = "s1".parse().expect("an id");
        catalogue.gateways.insert(gateway.parse().expect("an id"), Gateway { station });
        catalogue
    }

    fn credentials(gateway: &str, key_epoch: u32, number: u64) -> GatewayCredentials {
        GatewayCredentials {
            gateway: gateway.parse().expect("an id"),
            number,
            incarnation: 1,
            key_epoch,
            root_key: [7; 32],
            password_sha256: [9; 32],
            confirmed: true,
            revoked: false,
        }
    }

    #[tokio::test]
    async fn the_catalogue_is_replaced_only_by_who_saw_the_last_one() {
        let (_dir, store) = open();
        assert_eq!(store.load().await, Ok((0, Catalogue::default())));
        assert_eq!(store.save(0, catalogue("g1")).await, Ok(1));
        assert_eq!(store.save(0, catalogue("g2")).await, Err(StoreError::Conflict { expected: 0, found: 1 }));
        assert_eq!(store.load().await, Ok((1, catalogue("g1"))));
        assert_eq!(store.save(1, catalogue("g2")).await, Ok(2));
        assert_eq!(store.load().await, Ok((2, catalogue("g2"))));
    }

    #[tokio::test]
    async fn a_document_of_a_newer_program_or_a_damaged_one_is_not_guessed_at() {
        let (dir, store) = open();
        store.save(0, catalogue("g1")).await.expect("saves");
        let other = rusqlite::Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
        other.execute("UPDATE catalogue SET format = 2", []).expect("changes");
        assert!(matches!(store.load().await, Err(StoreError::Corrupt(what)) if what.contains("format 2")));
        other.execute("UPDATE catalogue SET format = 1, document = '{'", []).expect("changes");
        assert!(matches!(store.load().await, Err(StoreError::Corrupt(_))));
    }

    #[tokio::test]
    async fn former_keys_stay_and_numbers_are_one_gateway_s() {
        let (dir, store) = open();
        let revoked = GatewayCredentials { revoked: true, ..credentials("g1", 1, u64::MAX) };
        for one in
            [credentials("g1", 1, u64::MAX), credentials("g1", 2, u64::MAX), credentials("g2", 1, 5), revoked.clone()]
        {
            store.save_credentials(one).await.expect("saves");
        }
        let expected = vec![revoked, credentials("g1", 2, u64::MAX), credentials("g2", 1, 5)];
        assert_eq!(store.credentials().await, Ok(expected));
        let taken = store.save_credentials(credentials("g3", 1, 5)).await;
        assert!(matches!(taken, Err(StoreError::Corrupt(what)) if what.contains("main/g2")));
        let mode = std::fs::metadata(dir.path().join(LAYOUT.file)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "keys are the owner's to read");
    }
}
