//! The command line as a user without root sees it: texts, exit statuses, and which stream they go to.
//!
//! What needs root, and what is left on the host, is tested in `lifetime`; the errors of the scenario language
//! one by one are unit tests of `scenario`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod check;
mod generated;
mod help;
mod injector;
mod object;
mod streams;
mod unprivileged;
mod usage;
