//! The life of an experiment as the host sees it: what is left after every way to end it, what is refused, and
//! what stays as it was.
//!
//! Each test compares listings of the host made by `ip`, `tc`, `bpftool`, the cgroup file system and `ping`, never
//! by our own library, except where no command can produce the moment that is tested (`vanishing`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails fails its test"
)]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod commands;
mod conflicts;
mod endings;
mod foreign;
mod foreign_program;
mod hosts;
mod kills;
mod leftovers;
mod listing;
mod names;
mod offers;
mod queue;
mod run;
mod safety;
mod targets;
mod vanishing;
mod xdp;
