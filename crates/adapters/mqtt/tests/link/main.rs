//! The link against real brokers, and against one that misbehaves on purpose.

mod brokers;
mod session;
mod support;
