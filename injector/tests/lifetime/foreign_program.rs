//! BPF programs that are not injector's, loaded and attached by bare system calls.

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::support::Netns;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_EGRESS: u32 = 47;

/// Passes the packet on to the next program.
pub(crate) const PASS_ON: i32 = -1;
/// Drops it.
pub(crate) const DROP: i32 = 2;
/// Lets it go on, at XDP.
const XDP_PASS: i32 = 2;

/// How a program is run at XDP, as `XDP_FLAGS_` has it.
pub(crate) const GENERIC: u32 = 1 << 1;
pub(crate) const NATIVE: u32 = 1 << 2;

/// A program on a device: on the way out behind those that are there, or at XDP. It goes when this is dropped.
pub(crate) struct ForeignLink {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl ForeignLink {
    /// A program with one verdict.
    pub(crate) fn new(netns: &Netns, device_index: u32, verdict: i32) -> Self {
        Self::attach(netns, load(BPF_PROG_TYPE_SCHED_CLS, verdict), device_index, BPF_TCX_EGRESS, 0)
    }

    /// A program at XDP that lets everything go on.
    pub(crate) fn at_xdp(netns: &Netns, device_index: u32, mode: u32) -> Self {
        Self::attach(netns, load(BPF_PROG_TYPE_XDP, XDP_PASS), device_index, BPF_XDP, mode)
    }

    fn attach(netns: &Netns, program: OwnedFd, device_index: u32, attach_type: u32, flags: u32) -> Self {
        let mut attributes = [0; 64];
        put(&mut attributes, 0, program.as_raw_fd().cast_unsigned());
        put(&mut attributes, 4, device_index);
        put(&mut attributes, 8, attach_type);
        put(&mut attributes, 12, flags);
        let namespace = File::open(netns.file()).unwrap();
        // The namespace is that of the calling thread, so a thread of its own is moved.
        let link = std::thread::scope(|scope| {
            let attached = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                bpf(BPF_LINK_CREATE, &attributes)
            });
            attached.join().unwrap()
        });
        Self { _program: program, _link: link }
    }
}

/// `r0 = verdict; exit`
fn load(program_type: u32, verdict: i32) -> OwnedFd {
    let code: [u64; 2] = [0xb7 | u64::from(verdict.cast_unsigned()) << 32, 0x95];
    let licence = c"GPL";
    let mut attributes = [0; 64];
    put(&mut attributes, 0, program_type);
    put(&mut attributes, 4, 2);
    attributes[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attributes[16..24].copy_from_slice(&(licence.as_ptr() as u64).to_ne_bytes());
    bpf(BPF_PROG_LOAD, &attributes)
}

fn put(attributes: &mut [u8; 64], at: usize, value: u32) {
    attributes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn bpf(command: libc::c_int, attributes: &[u8; 64]) -> OwnedFd {
    // SAFETY: the attributes, and what they point to, live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    let fd = Errno::result(fd).unwrap();
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
