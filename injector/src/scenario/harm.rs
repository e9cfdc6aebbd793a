//! What is done to operations and system calls, and to which: faults that strike what a target's processes do, and no packets.

use std::str::FromStr as _;

use nix::sys::signal::Signal as Named;
use schemars::{Schema, SchemaGenerator, json_schema};

use super::diagnostic::Errors;
use super::effect::Times;
use super::nearest;
use super::operation::{FileType, PathPattern, SyscallName};
use super::quantity::{P32, clip};
use super::read::{Read, read_text};
use super::tree::Node;
use super::words::Word;

/// A fault of operations or of system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationFault {
    /// Which are struck.
    pub meant: Meant,
    /// What becomes of them.
    pub harm: Harm,
    /// By what it is done where the kernel has nothing better.
    pub fallback: Option<Fallback>,
}

/// A mechanism that is only taken where somebody asks for it, and there is nothing better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The notifications of seccomp, for the command that `injector run` starts.
    Seccomp,
}

impl Word for Fallback {
    const WHAT: &'static str = "fallback";
    const WORDS: &'static [(&'static str, Self)] = &[("seccomp", Self::Seccomp)];
}

/// Which operations or system calls are struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// I/O operations.
    Operations(Operations),
    /// System calls, each once; at least one.
    Syscalls(Vec<SyscallName>),
}

/// I/O operations, by what they do and to what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operations {
    /// Which, by their numbers, each once; at least one.
    pub operations: Vec<u32>,
    /// Of which files; `None` is any, and what is no file.
    pub path: Option<PathPattern>,
    /// Of files of these types; empty is any.
    pub types: Vec<FileType>,
    /// Of what lies on this device.
    pub device: Option<Device>,
    /// Of what lies in file systems of this kind.
    pub filesystem: Option<FileSystem>,
}

/// What becomes of an operation or a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Harm {
    /// It fails, and nothing is done.
    Error(Failure),
    /// It takes longer.
    Delay(Times),
    /// Its process gets a signal.
    Signal(Signal),
    /// What is written is said to be written, and is not.
    Lost,
    /// Bits of what was read are flipped.
    Corrupt {
        /// How many, 1 to 64.
        bits: u32,
        /// The byte at which they begin; `None` draws each by itself.
        offset: Option<u32>,
    },
    /// What it tells of the clock is changed.
    Uncertainty(Uncertainty),
    /// Less is read or written than was asked for, and that is said.
    Short(Share),
    /// Nothing: it is counted.
    Observe,
}

/// What adjtimex(2) tells of the clock; what is `None` stays true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uncertainty {
    /// The maximum error, in microseconds.
    pub max_error_us: Option<u32>,
    /// The estimated error, in microseconds.
    pub estimated_error_us: Option<u32>,
    /// Whether the clock is synchronised.
    pub synchronised: Option<bool>,
}

/// How much of what was asked for is read or written: at least one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// At most so many bytes, at least 1.
    Bytes(u64),
    /// This share, rounded down.
    Fraction(P32),
}

impl Share {
    /// How many bytes of `asked` are read or written; never more, and 0 only of none.
    #[must_use]
    pub fn of(self, asked: u64) -> u64 {
        let share = match self {
            Self::Bytes(bytes) => bytes,
            Self::Fraction(share) => ((u128::from(asked) * u128::from(share.0)) >> 32) as u64,
        };
        share.max(1).min(asked)
    }
}

/// How something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// With which errno, 1 to 133.
    pub errno: i32,
    /// Whether, once something has failed, all that follows fails until the window ends.
    pub stays: bool,
    /// Whether what frees room ends that.
    pub frees: bool,
}

impl OperationFault {
    /// The name of its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match (&self.meant, &self.harm) {
            (Meant::Operations(_), Harm::Error(_)) => "io.error",
            (Meant::Operations(_), Harm::Delay(_)) => "io.delay",
            (_, Harm::Lost) => "io.lost",
            (_, Harm::Corrupt { .. }) => "io.corrupt",
            (_, Harm::Short(_)) => "io.short",
            (Meant::Syscalls(_), Harm::Error(_)) => "syscall.error",
            (Meant::Syscalls(_), Harm::Delay(_)) => "syscall.delay",
            (_, Harm::Signal(_)) => "syscall.signal",
            (_, Harm::Uncertainty(_)) => "clock.uncertainty",
            (Meant::Operations(_), Harm::Observe) => "io.observe",
            (Meant::Syscalls(_), Harm::Observe) => "syscall.observe",
        }
    }
}

/// A device, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The major number, at most 4095.
    pub major: u32,
    /// The minor number, at most 1048575.
    pub minor: u32,
}

const EXPECTED_DEVICE: &str = "the numbers of a device, such as \"8:1\"";

impl Read for Device {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, EXPECTED_DEVICE, errors)?;
        let numbers = text
            .split_once(':')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        let found = numbers.filter(|device| device.major < 1 << 12 && device.minor < 1 << 20);
        if found.is_none() {
            errors
                .at(node.span, format!("\"{}\" is no device", clip(text)))
                .expected(EXPECTED_DEVICE)
                .hint("`findmnt -no MAJ:MIN --target PATH` says on which device a path lies");
        }
        found
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+:[0-9]+$", "examples": ["8:1"] })
    }
}

/// A kind of file system, by its magic number (`include/uapi/linux/magic.h`, and the file systems' own headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem(pub u32);

impl Word for FileSystem {
    const WHAT: &'static str = "file system";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("ext4", Self(0xef53)),
        ("xfs", Self(0x5846_5342)),
        ("btrfs", Self(0x9123_683e)),
        ("f2fs", Self(0xf2f5_2010)),
        ("zfs", Self(0x2fc1_2fc1)),
        ("tmpfs", Self(0x0102_1994)),
        ("overlay", Self(0x794c_7630)),
        ("nfs", Self(0x6969)),
        ("cifs", Self(0xff53_4d42)),
        ("ceph", Self(0x00c3_6400)),
        ("fuse", Self(0x6573_5546)),
        ("9p", Self(0x0102_1997)),
        ("vfat", Self(0x4d44)),
        ("exfat", Self(0x2011_bab0)),
        ("squashfs", Self(0x7371_7368)),
        ("proc", Self(0x9fa0)),
        ("sysfs", Self(0x6265_6572)),
        ("cgroup2", Self(0x6367_7270)),
        ("pipefs", Self(0x5049_5045)),
        ("hugetlbfs", Self(0x9584_58f6)),
    ];
}

/// A signal that a process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub Named);

/// Who is stopped by these goes on only when somebody says so, after the end of the experiment too.
const STOPPING: [Named; 4] = [Named::SIGSTOP, Named::SIGTSTP, Named::SIGTTIN, Named::SIGTTOU];

const EXPECTED_SIGNAL: &str = "the name of a signal, such as \"SIGTERM\"";

impl Read for Signal {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, EXPECTED_SIGNAL, errors)?;
        let whole = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
        let Ok(signal) = Named::from_str(&whole) else {
            let hint = nearest::hint(&whole, Named::iterator().map(Named::as_str));
            errors
                .at(node.span, format!("unknown signal \"{}\"", clip(text)))
                .expected(EXPECTED_SIGNAL)
                .maybe_hint(hint);
            return None;
        };
        if STOPPING.contains(&signal) {
            errors
                .at(node.span, format!("{signal} would stop a process for longer than the fault lasts"))
                .expected(EXPECTED_SIGNAL)
                .hint("nobody would let it go on at the end: take a signal that ends the process, or that it handles");
            return None;
        }
        Some(Self(signal))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> =
            Named::iterator().filter(|signal| !STOPPING.contains(signal)).map(Named::as_str).collect();
        json_schema!({ "enum": names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_are_those_that_stat_tells() {
        let proc = nix::sys::statfs::statfs("/proc").unwrap().filesystem_type().0;
        let found = FileSystem::WORDS.iter().find(|(name, _)| *name == "proc").unwrap().1;
        assert_eq!(i64::from(found.0), proc);
    }
}
