//! The wires of Chargeplane: what travels between a gateway and a node, and between a node and who posts to its
//! books, byte by byte.
//!
//! Pure: no runtime, no clock, no I/O. `docs/reference/wire.md` says the same for writers of gateways in other
//! languages, `docs/reference/ledger-wire.md` for writers of clients of the books. Every decoder bounds what it reads
//! before it allocates or decrypts, answers malformed input with a typed error that has a stable code, and never
//! panics.

pub mod envelope;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod message;
pub mod ocpi;
pub mod topic;
pub mod wire;

pub use envelope::{Direction, GatewayKey, Header, Keyring, OpenError, Opened, SealError};
pub use link::{Link, LinkEvent, LinkRefused, LinkSink};
pub use message::Stream;
pub use topic::{Topic, TopicError};
