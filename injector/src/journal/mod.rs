//! What a running experiment has made on this host, on disk before it is made.
//!
//! `entry` says what can be remembered, `file` writes and reads one experiment's journal, `store` keeps them
//! all under `/run/injector` and refuses experiments that would strike the same target, `neighbours` knows what
//! several of them share, `undo` takes one entry back, and `clean` does that for experiments whose controller has died. What the kernel takes away
//! by itself when the controller ends (tcx and cgroup links, maps, programs) is not written down.

mod clean;
mod entry;
mod error;
mod file;
mod neighbours;
mod store;
mod undo;

pub use clean::{CleanReport, ExperimentReport, clean};
pub use entry::{Entry, Header, Recorded, TargetKey, VERSION, conflicts};
pub use error::{Conflict, JournalError};
pub use file::{EntryOutcome, Journal};
pub use neighbours::Neighbours;
pub use store::{DEFAULT_BASE, Experiment, Listing, RUN_DIR_VARIABLE, Store};
pub use undo::{UndoError, undo};
