//! The journal against real Redis servers, which the tests start, kill, damage and cut off.

mod damage;
mod faults;
mod kills;
mod life;
mod loss;
mod published;
mod replicas;
mod servers;
mod support;
