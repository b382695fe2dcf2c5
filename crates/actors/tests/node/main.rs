//! The node's actors with stores in memory and a gateway that is driven by hand. One program: each would compile all
//! actors again. Tests that look at the process's metrics have programs of their own.

mod accounts;
mod deadlines;
mod enrolment;
mod holds;
mod life;
mod meter;
mod payouts;
mod session;
mod snapshot;
mod station;
mod support;
mod unanswered;
