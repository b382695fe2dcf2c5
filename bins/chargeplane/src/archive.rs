//! `chargeplane ledger export` and `import`: the logs of all shards as a file, out of one journal and into another.
//!
//! Both take the data directory's lock, so no node of it runs meanwhile. An export is verified as it is written and
//! appears under its name only when it is whole; an import reads the whole file before it writes the first frame.

use crate::assemble::{self, journal};
use crate::cli::{ArchiveArgs, Connection, Output};
use crate::config::Loaded;
use crate::exit::{Code, Failure};
use chargeplane_cluster::archive::{self, ArchiveError, Summary};
use chargeplane_domain::ids::NodeId;
use chargeplane_sqlite::{DataDir, SqliteJournal};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

/// Writes the configured journal to a file.
pub fn export(connection: &Connection, args: &ArchiveArgs) -> Result<(), Failure> {
    let in_file = |e: std::io::Error| Failure::new(Code::Refused, format!("{}: {e}", args.file.display()));
    if args.file.exists() {
        return Err(Failure::usage(format!("{} exists; give another name", args.file.display())));
    }
    let loaded = assemble::loaded(connection, args.config.as_deref())?;
    // Before the directory's lock, which would make it: an export of a directory that is not a node's is a backup of
    // nothing.
    let data_dir = Path::new(&loaded.config.node.data_dir);
    let nothing = |why: String| Failure::usage(format!("{why}; give the node's data directory with --data-dir"));
    let sqlite = data_dir.join("journal.sqlite");
    if !sqlite.is_file() {
        return Err(nothing(format!("there is no {}", sqlite.display())));
    }
    let unfinished = args.file.with_extension("unfinished");
    let summary = with_journal(&loaded, async |journal, _| {
        let mut out = BufWriter::new(File::create(&unfinished).map_err(in_file)?);
        let summary = archive::export(journal, &mut out).await.map_err(|e| failure(&args.file, &e))?;
        if summary.frames == 0 {
            return Err(nothing(format!("the journal of {} has no frame", data_dir.display())));
        }
        out.flush().map_err(in_file)?;
        out.get_ref().sync_all().map_err(in_file)?;
        Ok(summary)
    });
    let renamed = summary.and_then(|summary| {
        std::fs::rename(&unfinished, &args.file).map_err(in_file)?;
        Ok(summary)
    });
    if renamed.is_err() {
        // Nothing is lost by a half file that stays.
        let _ = std::fs::remove_file(&unfinished);
    }
    print(connection, "exported", &args.file, &renamed?);
    Ok(())
}

/// Reads a file into the configured journal, which has none of its shards.
pub fn import(connection: &Connection, args: &ArchiveArgs) -> Result<(), Failure> {
    let opened = File::open(&args.file);
    let file = opened.map_err(|e| Failure::usage(format!("{}: {e}", args.file.display())))?;
    let loaded = assemble::loaded(connection, args.config.as_deref())?;
    let summary = with_journal(&loaded, async |journal, importer| {
        let mut input = BufReader::new(file);
        archive::import(journal, &mut input, &importer).await.map_err(|e| failure(&args.file, &e))
    })?;
    print(connection, "imported", &args.file, &summary);
    Ok(())
}

fn with_journal(
    loaded: &Loaded,
    work: impl AsyncFnOnce(&dyn chargeplane_cluster::journal::Journal, NodeId) -> Result<Summary, Failure>,
) -> Result<Summary, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::internal(format!("the runtime cannot start: {e}")))?;
    runtime.block_on(async {
        let config = &loaded.config;
        let dir = DataDir::lock(&config.node.data_dir).map_err(assemble::open_failure)?;
        let sqlite = tokio::task::spawn_blocking(move || SqliteJournal::open(&dir)).await;
        let sqlite = sqlite.map_err(|_| Failure::internal("opening the journal failed"))?;
        let opened = journal::journal(config, sqlite.map_err(assemble::open_failure)?).await?;
        work(&*opened.journal, NodeId(config.node.name.as_str().into())).await
    })
}

fn failure(file: &Path, error: &ArchiveError) -> Failure {
    let code = if matches!(error, ArchiveError::Journal(_)) { Code::Store } else { Code::Refused };
    Failure::new(code, format!("{}: {error}", file.display()))
}

fn print(connection: &Connection, done: &str, file: &Path, summary: &Summary) {
    let Summary { shards, frames, .. } = summary;
    match connection.output {
        Output::Table => println!("{done} {frames} frames of {shards} shards: {}", file.display()),
        Output::Json => println!("{}", json!({ "file": file, "shards": shards, "frames": frames })),
    }
}
