//! The link against real brokers, and against one that misbehaves on purpose.

mod brokers;
mod rights;
mod session;
mod support;
