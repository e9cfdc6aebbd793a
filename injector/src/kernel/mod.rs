//! The kernel half from user space: the object, its maps, its programs.
//!
//! Here: loading (`loader`), filling, arming, reading counters (`object`), attaching and detaching (`attach`, `xdp`).
//! Not here: what to load and where to attach it, which `plan` decides, and anything that needs a network
//! namespace, a cgroup directory or netlink, which `host` has.

pub mod attach;
mod error;
mod loader;
mod object;
pub mod programs;
mod shape;
pub mod xdp;

pub use error::KernelError;
pub use object::{Image, Kernel, decode_event};
