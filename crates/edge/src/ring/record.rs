//! The bytes of the ring's files: records with length and CRC-32C, and what is in them. Little-endian.
//!
//! record  = length of payload u32, CRC-32C of payload u32, payload
//! payload = kind u8, then for
//!   1 batch:   stream u8, boot u32, seq u64, first and last event u64 (0, 0 for none),
//!              spans u32 x (child u16, first u64, last u64), gaps u32 x (child u16, reason u8, first u64, last u64),
//!              the sealed packet (the rest)
//!   2 numbers: next event u64, chargers u32 x (child u16, next sample u64)
//!   3 accepted command: at i64, the command as a wire message (the rest)
//!   4 ended command: at i64, child u16, end u8, length of id u16, id, refusal (the rest)
//!   5 cursors: count u32 x (stream u8, key epoch u32, boot u32, seq u64)
//!   6 boot: epoch u32

use super::{BatchMeta, CommandNote};
use crate::effect::{Span, Ticket};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::sample::{Gap, GapReason};
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::Header;
use chargeplane_protocol::limits::MAX_PACKET;
use chargeplane_protocol::message::{CommandEnd, Cursor, Down, Stream};
use chargeplane_protocol::wire;
use std::collections::BTreeMap;

/// Bytes before the payload of a record.
pub(super) const FRAME_LEN: usize = 8;

/// Longest payload: a packet, and what a batch of the most items says of itself.
const MAX_PAYLOAD: usize = MAX_PACKET + 128 * 1024;

const BATCH: u8 = 1;
const NUMBERS: u8 = 2;
const ACCEPTED: u8 = 3;
const ENDED: u8 = 4;
const CURSORS: u8 = 5;
const BOOT: u8 = 6;

/// The highest numbers in use, plus one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub next_event: u64,
    pub next_sample: BTreeMap<u16, u64>,
}

impl Numbers {
    pub fn raise(&mut self, meta: &BatchMeta) {
        raise_numbers(meta, &mut self.next_sample);
        if let Some((_, last)) = meta.events {
            self.next_event = self.next_event.max(last.saturating_add(1));
        }
    }

    pub fn merge(&mut self, other: &Numbers) {
        self.next_event = self.next_event.max(other.next_event);
        for (child, next) in &other.next_sample {
            let known = self.next_sample.entry(*child).or_insert(*next);
            *known = (*known).max(*next);
        }
    }
}

/// Raises the next number of every charger a batch speaks of.
pub(super) fn raise_numbers(meta: &BatchMeta, next: &mut BTreeMap<u16, u64>) {
    let spans = meta.spans.iter().map(|span| (span.child, span.last));
    let gaps = meta.gaps.iter().map(|(child, gap)| (*child, gap.last));
    for (child, last) in spans.chain(gaps) {
        let after = last.saturating_add(1);
        let known = next.entry(child).or_insert(after);
        *known = after.max(*known);
    }
}

/// The key epoch (zero, which no enrolment has, for bytes that are no packet) and the base time in a sealed packet's
/// header.
pub(crate) fn sealed_under(sealed: &[u8]) -> (u32, u64) {
    Header::peek(sealed).map_or((0, 0), |header| (header.key_epoch, header.base_us))
}

/// What a payload says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Payload<'a> {
    Batch { meta: BatchMeta, sealed: &'a [u8] },
    Numbers(Numbers),
    Command(CommandNote),
    Cursors(Vec<Cursor>),
    Boot(u32),
}

/// Puts length and checksum before a payload.
pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_LEN + payload.len());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// Length and checksum of a record, as its first bytes tell them; `None` for a length that cannot be.
pub(super) fn frame_of(bytes: &[u8]) -> Option<(usize, u32)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let crc = rest.first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    (len <= MAX_PAYLOAD).then_some((len, u32::from_le_bytes(*crc)))
}

/// The first record of `bytes`: its payload and its length with the frame. `None` for a torn or damaged one.
pub(super) fn next_record(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, crc) = frame_of(bytes)?;
    let payload = bytes.get(FRAME_LEN..FRAME_LEN + len)?;
    (crc32c::crc32c(payload) == crc).then_some((payload, FRAME_LEN + len))
}

/// Writes a batch.
pub(super) fn batch(meta: &BatchMeta, sealed: &[u8]) -> Vec<u8> {
    let mut out = vec![BATCH, meta.ticket.stream.as_u8()];
    out.extend_from_slice(&meta.ticket.boot.to_le_bytes());
    put_u64(&mut out, meta.ticket.seq);
    let (first, last) = meta.events.unwrap_or((0, 0));
    put_u64(&mut out, first);
    put_u64(&mut out, last);
    put_len(&mut out, meta.spans.len());
    for span in &meta.spans {
        out.extend_from_slice(&span.child.to_le_bytes());
        put_u64(&mut out, span.first);
        put_u64(&mut out, span.last);
    }
    put_len(&mut out, meta.gaps.len());
    for (child, gap) in &meta.gaps {
        out.extend_from_slice(&child.to_le_bytes());
        out.push(match gap.reason {
            GapReason::Thinned => 1,
            GapReason::Dropped => 2,
            GapReason::Refused => 3,
        });
        put_u64(&mut out, gap.first);
        put_u64(&mut out, gap.last);
    }
    out.extend_from_slice(sealed);
    out
}

/// Writes the numbers.
pub(super) fn numbers(numbers: &Numbers) -> Vec<u8> {
    let mut out = vec![NUMBERS];
    put_u64(&mut out, numbers.next_event);
    put_len(&mut out, numbers.next_sample.len());
    for (child, next) in &numbers.next_sample {
        out.extend_from_slice(&child.to_le_bytes());
        put_u64(&mut out, *next);
    }
    out
}

/// Writes a note on a command.
pub(super) fn command(note: &CommandNote) -> Vec<u8> {
    match note {
        CommandNote::Accepted { command, at } => {
            let mut out = vec![ACCEPTED];
            out.extend_from_slice(&at.0.to_le_bytes());
            out.extend_from_slice(&wire::encode_down(&Down::Commands(vec![command.clone()])));
            out
        }
        CommandNote::Ended { id, child, end, at } => {
            let mut out = vec![ENDED];
            out.extend_from_slice(&at.0.to_le_bytes());
            out.extend_from_slice(&child.to_le_bytes());
            let (kind, refusal) = match end {
                CommandEnd::Done => (1, ""),
                CommandEnd::Refused(code) => (2, code.as_str()),
                CommandEnd::Expired => (3, ""),
            };
            out.push(kind);
            // An id has at most 129 bytes.
            out.extend_from_slice(&u16::try_from(id.as_str().len()).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(id.as_str().as_bytes());
            out.extend_from_slice(refusal.as_bytes());
            out
        }
    }
}

/// Writes how far streams were acknowledged.
pub(super) fn cursors(cursors: &[Cursor]) -> Vec<u8> {
    let mut out = vec![CURSORS];
    put_len(&mut out, cursors.len());
    for cursor in cursors {
        out.push(cursor.stream.as_u8());
        out.extend_from_slice(&cursor.boot.key_epoch.to_le_bytes());
        out.extend_from_slice(&cursor.boot.boot.to_le_bytes());
        put_u64(&mut out, cursor.seq);
    }
    out
}

/// Writes the boot epoch.
pub(super) fn boot(epoch: u32) -> Vec<u8> {
    let mut out = vec![BOOT];
    out.extend_from_slice(&epoch.to_le_bytes());
    out
}

/// Reads a payload whose checksum was right; `None` when it is not one of ours.
pub(super) fn parse(payload: &[u8]) -> Option<Payload<'_>> {
    let mut reader = Reader(payload);
    match reader.u8()? {
        BATCH => parse_batch(reader),
        NUMBERS => {
            let mut numbers = Numbers { next_event: reader.u64()?, ..Numbers::default() };
            for _ in 0..reader.u32()? {
                let child = reader.u16()?;
                numbers.next_sample.insert(child, reader.u64()?);
            }
            Some(Payload::Numbers(numbers))
        }
        ACCEPTED => {
            let at = Timestamp(reader.u64()? as i64);
            match wire::decode_down(reader.0).ok()? {
                Down::Commands(mut commands) if commands.len() == 1 => {
                    Some(Payload::Command(CommandNote::Accepted { command: commands.pop()?, at }))
                }
                _ => None,
            }
        }
        ENDED => {
            let at = Timestamp(reader.u64()? as i64);
            let (child, kind, len) = (reader.u16()?, reader.u8()?, reader.u16()?);
            let id = std::str::from_utf8(reader.take(usize::from(len))?).ok()?.parse().ok()?;
            let end = match kind {
                1 => CommandEnd::Done,
                2 => CommandEnd::Refused(std::str::from_utf8(reader.0).ok()?.to_owned()),
                3 => CommandEnd::Expired,
                _ => return None,
            };
            Some(Payload::Command(CommandNote::Ended { id, child, end, at }))
        }
        CURSORS => {
            let mut cursors = Vec::new();
            for _ in 0..reader.u32()? {
                let stream = Stream::from_u8(reader.u8()?)?;
                let boot = BootId::new(reader.u32()?, reader.u32()?);
                cursors.push(Cursor { stream, boot, seq: reader.u64()? });
            }
            Some(Payload::Cursors(cursors))
        }
        BOOT => Some(Payload::Boot(reader.u32()?)),
        _ => None,
    }
}

fn parse_batch(mut reader: Reader<'_>) -> Option<Payload<'_>> {
    let stream = Stream::from_u8(reader.u8()?)?;
    let ticket = Ticket { stream, boot: reader.u32()?, seq: reader.u64()? };
    let (first, last) = (reader.u64()?, reader.u64()?);
    let events = (stream == Stream::Events).then_some((first, last));
    let mut spans = Vec::new();
    for _ in 0..reader.u32()? {
        spans.push(Span { child: reader.u16()?, first: reader.u64()?, last: reader.u64()? });
    }
    let mut gaps = Vec::new();
    for _ in 0..reader.u32()? {
        let child = reader.u16()?;
        let reason = match reader.u8()? {
            1 => GapReason::Thinned,
            2 => GapReason::Dropped,
            3 => GapReason::Refused,
            _ => return None,
        };
        gaps.push((child, Gap { first: reader.u64()?, last: reader.u64()?, reason }));
    }
    Some(Payload::Batch { meta: BatchMeta { ticket, spans, gaps, events }, sealed: reader.0 })
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
