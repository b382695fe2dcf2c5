//! Bounds on everything foreign. A value beyond them is refused before it costs memory or time.

/// Largest sealed packet, header and tag included, in bytes.
pub const MAX_PACKET: usize = 256 * 1024;

/// Most items (samples, gaps, events, chargers, entries, commands) in one message.
pub const MAX_ITEMS: usize = 4_096;

/// Most runs of samples in one batch.
pub const MAX_RUNS: usize = MAX_ITEMS;

/// Longest id in a message, in bytes: two parts of 64 and the slash.
pub const MAX_ID_LEN: usize = 129;

/// Longest free text (codes, reasons) in a message, in bytes.
pub const MAX_TEXT_LEN: usize = 256;

/// Most cursors in a `Resume` or a beat.
pub const MAX_CURSORS: usize = 256;

/// Longest topic, in bytes.
pub const MAX_TOPIC_LEN: usize = 256;

/// Longest lease of a grant, in milliseconds. A longer one is refused: it would outlive every bound on what a
/// silent gateway draws.
pub const MAX_LEASE_MS: u32 = 600_000;

/// Longest time between a beat and the deadline of a command that counts from it, in milliseconds: the longest
/// deadline a node gives (an hour), and the longest that a gateway remembers a beat.
pub const MAX_WITHIN_MS: u32 = 3_600_000 + MAX_LEASE_MS;

/// Largest power in a message, in watts. Beyond any charger, and far from where sums overflow.
pub const MAX_WATTS: i64 = 1_000_000_000;

/// Moments in messages lie between 2000-01-01 and 2200-01-01 (milliseconds since 1970): a clock outside is broken.
pub const MIN_TIME_MS: i64 = 946_684_800_000;

/// See [`MIN_TIME_MS`].
pub const MAX_TIME_MS: i64 = 7_258_118_400_000;
