//! Processes that are paused, stopped, killed, short of processor time or memory, and whose clocks are wrong: the built `injector` on real programs, on every kernel.
//!
//! `victim` measures itself when it does not run; `pauses` are as long as asked for, `deaths` those of injector itself while somebody is
//! paused, `kills` those of the target, `limits` what controllers of cgroups do, `clocks` what time it is, `compiled` the same in C, `java` in Java, `lease` and `redis` are what pauses do to services, `refusals` what is not done.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails fails its test"
)]

#[path = "../support/mod.rs"]
mod support;

mod clocks;
mod compiled;
mod deaths;
mod java;
mod kills;
mod lease;
mod limits;
mod pauses;
mod redis;
mod refusals;
mod victim;

use support::{in_vm, root_or_skip};

/// Whether what takes milliseconds does so here: not in an emulated machine, whose one processor stands still for as long, and where it takes
/// seconds to apply a scenario. Tests of lengths of time are left out there.
fn times_are_true() -> bool {
    root_or_skip() && !in_vm()
}
