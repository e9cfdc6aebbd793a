//! The life of an experiment: prepare, begin, arm, follow the host, end, report.
//!
//! `prepare` reads and decides; [`Session`] is the only thing that changes the host, and takes back what it
//! changed when it is ended or dropped, panics included. `watchdog` is another process, for a controller that
//! can't; `sleep` is one too, by which programs sleep. `links`, `deeds` and `clocks` are faults that injector does itself;
//! `notify` decides over the calls of a command where the kernel half can't. `drive` waits for the end; `control` is the socket for `status` and `stop`. The words and numbers of plans and
//! reports are `plan`'s and `report`'s.

mod attachments;
mod begin;
mod clocks;
pub mod control;
mod copies;
mod deeds;
mod detour;
mod drive;
mod error;
mod helper;
mod links;
mod nodes;
mod notify;
mod operations;
mod prepare;
mod probe;
mod queue;
mod record;
mod session;
mod signals;
mod site;
mod sleep;
mod sockets;
mod survey;
mod takeover;
mod urgent;
mod watchdog;
mod xdp;

pub use drive::{Ending, SCAN_INTERVAL, drive};
pub use error::EngineError;
pub use notify::{COMMAND as KEEPER_COMMAND, Gate, Passage, keep as keep_answering};
pub use operations::survey;
pub use prepare::{Options, Prepared, TargetPlan, check_capabilities, prepare};
pub use probe::{departure_queue, filters, tc_rung, way_round, way_round_of_cgroups};
pub use session::Session;
pub use signals::Signals;
pub use sleep::{COMMAND as SLEEPER_COMMAND, serve as serve_naps};
pub use watchdog::{COMMAND as WATCH_COMMAND, watch};
