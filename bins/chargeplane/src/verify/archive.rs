//! The logs as an exported file, or as its adapter reads them out of a journal that is no file here.
//!
//! The layout of `docs/reference/storage.md`, read without the node's code: magic, version, then records of kind,
//! length, body and checksum. A file that does not say how it ends is no whole one.

use super::{Chain, Checked, Hash, Summary, take_entries};
use crate::assemble::journal::{self, Access};
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_cluster::archive::{ArchiveError, export};
use chargeplane_cluster::journal::JournalError;
use std::collections::BTreeSet;
use std::io::{BufReader, BufWriter, Read};

/// A frame of 8 MiB with its header and checksum is the longest body.
const LONGEST: u32 = (8 << 20) + 64 + 4;

/// Checks a file, read from its beginning.
pub fn check(input: &mut impl Read) -> Checked<Summary> {
    let begin: [u8; 10] = bytes(input).map_err(|what| format!("not an exported ledger: {what}"))?;
    if !begin.starts_with(b"CPLEDGER") {
        return Err("not an exported ledger: it begins otherwise".to_owned());
    }
    if begin[8..] != [1, 0] {
        return Err(format!("version {} of exports is not known to this program", begin[8]));
    }
    let mut logs = Logs::default();
    while logs.end.is_none() {
        let (kind, body) = record(input).map_err(|what| logs.at(&what))?;
        logs.take(kind, &body)?;
    }
    let mut more = [0];
    match input.read(&mut more) {
        Ok(0) => logs.finish(),
        Ok(_) => Err("the file goes on behind its end".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn bytes<const N: usize>(input: &mut impl Read) -> Checked<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    Ok(bytes)
}

fn record(input: &mut impl Read) -> Checked<(u8, Vec<u8>)> {
    let head: [u8; 5] = bytes(input)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    if length > LONGEST {
        return Err(format!("a record of {length} bytes, {LONGEST} are the most"));
    }
    let mut body = Vec::new();
    let read = input.take(u64::from(length)).read_to_end(&mut body).map_err(|e| format!("cannot be read: {e}"))?;
    let checksum: [u8; 4] = bytes(input)?;
    if read != length as usize || crc32c::crc32c_append(crc32c::crc32c(&head), &body) != u32::from_le_bytes(checksum) {
        return Err("the checksum of the record does not fit".to_owned());
    }
    Ok((head[0], body))
}

/// What was read so far.
#[derive(Default)]
struct Logs {
    summary: Summary,
    seen: BTreeSet<i64>,
    /// The shard whose frames come now, and its number.
    chain: Option<(i64, Chain)>,
    /// Shards and frames by the word of the file's end.
    end: Option<(u64, u64)>,
}

impl Logs {
    /// Where the reading is, for what is wrong there.
    fn at(&self, what: &str) -> String {
        match &self.chain {
            Some((_, chain)) => format!("{} after frame {}: {what}", chain.name, chain.lsn),
            None => format!("after {} shards: {what}", self.summary.shards),
        }
    }

    fn take(&mut self, kind: u8, body: &[u8]) -> Checked<()> {
        match (kind, body, self.chain.take()) {
            (1, [family, low, high], None) => {
                let code = i64::from(*family) << 16 | i64::from(u16::from_le_bytes([*low, *high]));
                let chain = Chain::new(code)?;
                if !self.seen.insert(code) {
                    return Err(format!("{} is there twice", chain.name));
                }
                self.chain = Some((code, chain));
                Ok(())
            }
            (2, frame, Some((code, mut chain))) => {
                let next = chain.lsn.saturating_add(1);
                let payload = chain.follow(code, next, frame)?;
                take_entries(&chain, code >> 16 == 1, payload, &mut self.summary)?;
                self.summary.frames += 1;
                self.chain = Some((code, chain));
                Ok(())
            }
            (3, body, Some((_, chain))) if body.len() == 8 + size_of::<Hash>() => {
                let (lsn, hash) = body.split_at(8);
                if (&chain.lsn.to_le_bytes()[..], &chain.hash[..]) != (lsn, hash) {
                    return Err(format!(
                        "{}: the log ends with frame {}, its end names another",
                        chain.name, chain.lsn
                    ));
                }
                self.summary.shards += 1;
                self.summary.logs.insert(chain.name, chain.lsn);
                Ok(())
            }
            (4, [s0, s1, s2, s3, frames @ ..], None) if frames.len() == 8 => {
                let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                self.end = Some((number(&[*s0, *s1, *s2, *s3]), number(frames)));
                Ok(())
            }
            (kind, body, chain) => {
                self.chain = chain;
                Err(self.at(&format!("a record of kind {kind} and {} bytes has no place here", body.len())))
            }
        }
    }

    fn finish(self) -> Checked<Summary> {
        let found = (self.summary.shards, self.summary.frames);
        if self.end != Some(found) {
            return Err(format!("{} shards and {} frames are there, the end names others", found.0, found.1));
        }
        self.summary.check_across()?;
        Ok(self.summary)
    }
}

/// Checks the configured journal, which is not in the data directory. Its adapter reads it, in the form of an export:
/// whatever the connection needs is the node's business, what is read is checked here.
pub fn check_remote(config: &Config) -> Result<Checked<Summary>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::internal(format!("the runtime cannot start: {e}")))?;
    let opened = runtime.block_on(journal::remote(config, Access::Read))?;
    let opened = opened.ok_or_else(|| Failure::internal("the journal is in the data directory"))?;
    let (input, output) = std::io::pipe().map_err(|e| Failure::internal(format!("no pipe: {e}")))?;
    let (checked, exported) = std::thread::scope(|scope| {
        let export = async {
            let mut output = BufWriter::new(output);
            export(&*opened.journal, &mut output).await
        };
        let exporting = scope.spawn(|| runtime.block_on(export));
        // The pipe's end goes with the check: an export that nobody reads any more fails, and ends.
        let checked = { check(&mut BufReader::new(input)) };
        (checked, exporting.join())
    });
    match exported {
        Ok(Err(ArchiveError::Journal(error @ JournalError::Corrupt { .. }))) => Ok(Err(error.to_string())),
        Ok(Err(ArchiveError::Journal(error))) => Err(Failure::new(Code::Store, format!("the journal: {error}"))),
        Err(_) => Err(Failure::internal("reading the journal failed")),
        // Every node opens its shards, so this is none: another name was meant.
        Ok(_) if checked.as_ref().is_ok_and(|summary| summary.shards == 0) => Err(Failure::usage(format!(
            "there is no log of any shard in {}; nothing was checked",
            journal::place(config)
        ))),
        Ok(_) => Ok(checked),
    }
}

#[cfg(test)]
mod tests;
