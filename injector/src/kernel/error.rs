//! What can go wrong with the kernel half.

use std::io;

use super::btf::BtfError;
use crate::errno::name_of;

/// An error of the kernel half. Each names the object and, where the kernel answered, the errno.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The object itself could not be taken apart, or a map could not be made.
    #[error("the eBPF object could not be loaded: {detail}{}", hint_of(*.errno))]
    Object {
        /// What aya says, with its causes.
        detail: String,
        /// What the kernel answered, if it was asked.
        errno: Option<i32>,
        /// The cause.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object was built for another version of the border.
    #[error(
        "the eBPF object has layout version {found:?}, this injector needs {}\n\nhint: run `cargo xtask build-ebpf`",
        injector_common::ABI_VERSION
    )]
    Abi {
        /// The object's version; `None` if it has none.
        found: Option<u32>,
    },
    /// The object lacks a map or a program of this name.
    #[error("the eBPF object has no `{name}`\n\nhint: run `cargo xtask build-ebpf`")]
    Missing {
        /// Name of the map or program.
        name: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the program `{program}`: {detail}{}", hint_of(*.errno))]
    Program {
        /// Name of the program.
        program: &'static str,
        /// What the kernel said: the errno's name and the last lines of the verifier's log.
        detail: String,
        /// The errno.
        errno: Option<i32>,
        /// The cause.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The programs for functions of the kernel could not be made ready.
    #[error("the programs for functions of the kernel could not be made ready: {detail}")]
    Functions {
        /// What is wrong.
        detail: String,
    },
    /// The kernel's own types could not be read.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel refused a program for one of its functions.
    #[error("the kernel refused `{program}` for its function `{function}`: {}{}", name_of(.source), in_brackets(.log))]
    Function {
        /// Name of the program.
        program: &'static str,
        /// Name of the function.
        function: String,
        /// The end of the verifier's log.
        log: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A map refused an entry.
    #[error("the map `{map}` refused an entry: {detail}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The errno's name, and what it means here.
        detail: String,
        /// The cause.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// An attachment failed.
    #[error("`{program}` could not be attached to {place}: {}{}", name_of(.source), hint_of(.source.raw_os_error()))]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Where it should go, such as `eth0 (egress, tcx)`.
        place: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl KernelError {
    /// What the kernel answered.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Object { errno, .. } | Self::Program { errno, .. } => *errno,
            Self::Attach { source, .. } | Self::Function { source, .. } => source.raw_os_error(),
            Self::Map { source, .. } => errno_of(source.as_ref()),
            Self::Abi { .. } | Self::Missing { .. } | Self::Functions { .. } | Self::Btf(_) => None,
        }
    }

    /// Whether this kernel, rather than the request, is the reason.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        use nix::libc::{EINVAL, ENOSYS, EOPNOTSUPP, EPERM};
        let asked = matches!(
            self,
            Self::Object { .. } | Self::Program { .. } | Self::Attach { .. } | Self::Function { .. }
        );
        let lacks_types = match self {
            Self::Btf(BtfError::Read { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Self::Btf(BtfError::NoField { .. }) => true,
            _ => false,
        };
        lacks_types || (asked && matches!(self.errno(), Some(EPERM | ENOSYS | EOPNOTSUPP | EINVAL)))
    }

    pub(super) fn object(source: aya::EbpfError) -> Self {
        Self::Object { detail: chain(&source), errno: errno_of(&source), source: Box::new(source) }
    }

    pub(super) fn program(program: &'static str, source: aya::programs::ProgramError) -> Self {
        Self::Program { program, detail: chain(&source), errno: errno_of(&source), source: Box::new(source) }
    }

    pub(super) fn map(map: &'static str, source: aya::maps::MapError) -> Self {
        let full =
            errno_of(&source) == Some(nix::libc::E2BIG) || errno_of(&source) == Some(nix::libc::ENOSPC);
        let mut detail = chain(&source);
        if full {
            detail.push_str(" (the map is full; this is a fault of injector's own plan)");
        }
        Self::Map { map, detail, source: Box::new(source) }
    }

    pub(super) fn attach(program: &'static str, place: String, source: &aya::programs::ProgramError) -> Self {
        let source = match errno_of(source) {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(chain(source)),
        };
        Self::Attach { program, place, source }
    }
}

/// The first errno in a chain of causes.
pub(super) fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line, without the repetitions that some of them have.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = match cause.downcast_ref::<io::Error>() {
            Some(io) => name_of(io),
            None => cause.to_string(),
        };
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

fn in_brackets(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}

/// What to do about an errno of bpf(2), as the end of an error's text.
fn hint_of(errno: Option<i32>) -> &'static str {
    match errno {
        Some(nix::libc::EPERM) => {
            "\n\nhint: run it as root (sudo); in a container it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; `injector doctor` says what is missing"
        }
        Some(nix::libc::ENOMEM) => {
            "\n\nhint: the kernel has no memory for the maps; use fewer faults or targets"
        }
        Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP | nix::libc::ENOSYS) => {
            "\n\nhint: `injector doctor` says what this kernel can do"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use aya::maps::MapError;
    use aya::sys::SyscallError;
    use nix::libc::{E2BIG, EFAULT, ENOSPC};

    use super::*;

    /// What a map says when the kernel refuses an entry.
    fn refused(errno: i32) -> KernelError {
        let io_error = io::Error::from_raw_os_error(errno);
        KernelError::map(
            "TARGETS",
            MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error }),
        )
    }

    #[test]
    fn a_full_map_is_named_with_the_errno_and_whose_fault_it_is() {
        // A full hash map answers E2BIG, a full trie of addresses ENOSPC.
        for (errno, name) in [(E2BIG, "E2BIG"), (ENOSPC, "ENOSPC")] {
            let error = refused(errno);
            let text = error.to_string();
            assert!(text.starts_with("the map `TARGETS` refused an entry: "), "{text}");
            assert!(text.contains(name), "{text}");
            assert!(text.ends_with(" (the map is full; this is a fault of injector's own plan)"), "{text}");
            assert_eq!((error.errno(), error.is_unsupported()), (Some(errno), false));
        }
    }

    #[test]
    fn a_map_that_refuses_for_another_reason_is_not_called_full() {
        let text = refused(EFAULT).to_string();
        assert!(text.contains("EFAULT") && !text.contains("full"), "{text}");
        // Nor one that the kernel was never asked about.
        let text = KernelError::map("RULES", MapError::OutOfBounds { index: 7, max_entries: 3 }).to_string();
        assert!(text.contains('7') && !text.contains("full"), "{text}");
    }
}
