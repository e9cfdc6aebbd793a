//! The kernel half from user space: the object, its maps, its programs.
//!
//! Here: loading (`loader`), filling, arming, disarming (`object`), what it counts and tells (`rings`), attaching and detaching (`attach`, `xdp`),
//! programs at functions of the kernel (`functions`) and its types (`btf`).
//! Not here: what to load and where to attach it, which `plan` decides, and anything that needs a network
//! namespace, a cgroup directory or netlink, which `host` has.

pub mod attach;
pub mod btf;
mod error;
pub mod functions;
mod image;
mod loader;
mod object;
pub mod programs;
mod rings;
mod shape;
pub mod xdp;

pub use error::KernelError;
pub use image::Image;
pub use object::{Kernel, decode_event};
