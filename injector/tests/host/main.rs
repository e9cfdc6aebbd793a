//! The host modules, the journal and the targets on the real kernel.
//!
//! Everything happens in cgroups and network namespaces that a test makes and removes. Without root each test
//! shows that the kernel refuses the first step with EPERM, and ends there.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod cgroups;
mod cleaning;
#[cfg(target_arch = "x86_64")]
mod clocks;
#[cfg(target_arch = "x86_64")]
mod clocks_busy;
mod clocks_cost;
mod links;
mod network;
mod programs;
mod qdiscs;
mod support;
mod targets;
