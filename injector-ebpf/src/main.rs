//! The kernel half of injector: thin entries, one module per hook family, one decision path.
//!
//! - `tc`: traffic control, egress and ingress, the network faults' first choice.
//! - `ifb`: what arrives at a device and is kept back.
//! - `xdp`: what arrives at a device, before there is a socket buffer; where it is asked for. `xdp_change`, `xdp_reject`: what is
//!   done to it there.
//! - `cgroup_skb`: what arrives at a cgroup's sockets.
//! - `arrive`, `socket`: the same at traffic control, where more can be done, and whose socket it will be.
//! - `strike`: from a target to the verdict over one packet; `tally`: every outcome is counted.
//! - `sock_addr`: calls of a cgroup's processes that ask for a connection or an address.
//! - `operation`: I/O operations and system calls of a cgroup's processes. `fail`: their verdict. `path`: how their user calls the file. `nap`:
//!   how a program sleeps. `rot`: what was read, changed. `calls`: what the loader replaces in programs.
//! - `task`: whose process it is, and what is told of what it does.
//! - `exec`: programs that begin in a target.
//! - `act`, `change`: what is done to a packet that stays: copied, kept back, changed.
//! - `dns`: questions of the domain name system, and how one becomes its answer.
//! - `answer`, `reset`, `reject`: what its sender and its receiver get instead of a packet that is taken away.
//! - `target`: from a packet's cgroup or device to its rules.
//! - `parse`, `view`, `maps`, `memory`, `tables`, `sets`, `clock`: the packet's headers, the maps, the atomics in them, the lookups, the time.
//!
//! Entries are inlined into what the macros make of them: a call and its return cost up to 9 ns (AMD, safe RET), and a bystander's packet
//! pays hardly more in all.
//!
//! No policy and no strings live here; the decisions themselves are `injector-common`'s. Every internal
//! error means "no fault".
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "BPF has atomics, but core's Atomic types do not exist on it")
)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![allow(unreachable_pub, reason = "the macros of aya want the entries `pub`")]
#![allow(clippy::inline_always, reason = "a call costs stack, and the verifier knows less behind it")]

#[cfg(target_arch = "bpf")]
mod act;
#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod arrive;
#[cfg(target_arch = "bpf")]
mod calls;
#[cfg(target_arch = "bpf")]
mod cgroup_skb;
#[cfg(target_arch = "bpf")]
mod change;
#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod dns;
#[cfg(target_arch = "bpf")]
mod exec;
#[cfg(target_arch = "bpf")]
mod fail;
#[cfg(target_arch = "bpf")]
mod ifb;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod nap;
#[cfg(target_arch = "bpf")]
mod object;
#[cfg(target_arch = "bpf")]
mod operation;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod path;
#[cfg(target_arch = "bpf")]
mod reject;
#[cfg(target_arch = "bpf")]
mod reset;
#[cfg(target_arch = "bpf")]
mod rot;
#[cfg(target_arch = "bpf")]
mod sets;
#[cfg(target_arch = "bpf")]
mod sock_addr;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod strike;
#[cfg(target_arch = "bpf")]
mod tables;
#[cfg(target_arch = "bpf")]
mod tally;
#[cfg(target_arch = "bpf")]
mod target;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod tc;
#[cfg(target_arch = "bpf")]
mod uncertain;
#[cfg(target_arch = "bpf")]
mod view;
#[cfg(target_arch = "bpf")]
mod xdp;
#[cfg(target_arch = "bpf")]
mod xdp_change;
#[cfg(target_arch = "bpf")]
mod xdp_reject;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel runs GPL-compatible programs only; the rest of the world may take MIT.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
