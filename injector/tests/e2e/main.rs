//! End-to-end tests: the built `injector` on real programs, seen from outside by tools that we did not write.
//!
//! Each test makes its own namespaces and cgroups. `scene`, `resolver` and `flows` set up and send, `model` and `statistics`
//! say what must come out; the other modules are the tests, one subject each. How experiments begin and end,
//! and what they leave, is not here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails fails its test"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod arriving;
mod arriving_by_socket;
mod begins;
mod both;
mod changes;
mod connect;
mod delay;
mod determinism;
mod directions;
mod dns;
mod flows;
mod interface;
mod iperf;
mod link;
mod loss;
mod matching;
mod matrix;
mod measured;
mod model;
mod netem;
mod ntp;
mod outage;
mod packets;
mod partition;
mod rate;
mod reject;
mod reset;
mod resolver;
mod round_trips;
mod scene;
mod segments;
mod statistics;
mod talk;
mod targets;
mod tcp;
mod timed;
mod tun;
mod windows;
mod xdp;
mod xdp_changes;
