//! injector: kernel-level faults, per cgroup, on programs that are not changed.
//!
//! The way of an experiment through the modules: `scenario` (with `kinds`) reads the file, `target` and `host`
//! find what it names, `plan` decides, `kernel` and `engine` do it, `journal` remembers what must be taken
//! back, `report` says what happened. `cli` is the command line around it.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")
)]

pub mod cli;
pub mod engine;
pub mod errno;
pub mod host;
pub mod journal;
pub mod kernel;
mod kill_point;
pub mod kinds;
pub mod plan;
pub mod report;
pub mod scenario;
pub mod target;
