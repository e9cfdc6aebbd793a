//! Attaching to XDP, by a link that dies with its owner.
//!
//! The link is made by the system call itself: aya's `attach` takes to netlink where the kernel answers `EINVAL`, and what is
//! attached by netlink stays on the device when its owner is killed.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::libc;

use super::{Kernel, KernelError, programs};

const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// How a program is run at XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the driver, before there is a socket buffer.
    Native,
    /// By the stack, on socket buffers that it has made linear.
    Generic,
}

impl Mode {
    /// The mode's name in plans and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// A program on a device. It goes when this is dropped.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
    /// How it is run.
    pub mode: Mode,
    /// What the driver answered, where it was asked and would not run it.
    pub refusal: Option<io::Error>,
}

/// Attaches the program to a device of the current network namespace, natively if the driver lets us and `native` is wanted.
///
/// A device has room for one program: another one's makes it `EBUSY`, or `EEXIST` if that is of the other mode.
pub fn attach(
    kernel: &mut Kernel,
    device: &str,
    ifindex: u32,
    native: bool,
) -> Result<Attached, KernelError> {
    let program = programs::XDP;
    let failed = |mode: Mode, source| {
        let place = format!("{device} (ingress, xdp {})", mode.name());
        KernelError::Attach { program, place, source }
    };
    let xdp = kernel.xdp(program)?;
    let fd = xdp.fd().map_err(|e| KernelError::program(program, e))?.as_fd().as_raw_fd().cast_unsigned();
    let refusal = match native.then(|| link(fd, ifindex, Mode::Native)) {
        Some(Ok(link)) => return Ok(Attached { _link: link, mode: Mode::Native, refusal: None }),
        // Neither has to do with the driver.
        Some(Err(error)) if is_taken(&error) || error.raw_os_error() == Some(libc::ENODEV) => {
            return Err(failed(Mode::Native, error));
        }
        Some(Err(error)) => Some(error),
        None => None,
    };
    let link = link(fd, ifindex, Mode::Generic).map_err(|e| failed(Mode::Generic, e))?;
    Ok(Attached { _link: link, mode: Mode::Generic, refusal })
}

/// Whether an attachment failed because there is another program.
#[must_use]
pub fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// The name of a loaded program, if it has one.
#[must_use]
pub fn name_of(program: u32) -> Option<String> {
    let mut loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let name = loaded.find(|info| info.id() == program)?.name_as_str()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE` (include/uapi/linux/bpf.h).
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn link(program: u32, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let attributes = LinkCreate { program, ifindex, attach_type: BPF_XDP, flags: mode.flag() };
    // SAFETY: the attributes live until the call returns, and the kernel takes what is behind them for 0.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
