//! I/O operations and system calls as they are written: names of operations, names of system calls, patterns of paths, types of files.

use std::str::FromStr as _;

use injector_common::glob::{self, PatternError};
use injector_common::operation as border;
use schemars::{Schema, SchemaGenerator, json_schema};
use syscalls::Sysno;

use super::diagnostic::Errors;
use super::nearest;
use super::quantity::clip;
use super::read::{Read, read_text};
use super::tree::Node;
use super::words::Word;

/// An operation, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OperationName(pub(crate) u32);

const EXPECTED_OPERATION: &str = "the name of an operation, such as \"read\" or \"fsync\"";

impl Read for OperationName {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, EXPECTED_OPERATION, errors)?;
        if let Some(number) = border::NAMES.iter().position(|name| *name == text) {
            return Some(Self(number as u32));
        }
        let hint = nearest::hint(text, border::NAMES.iter().copied());
        errors
            .at(node.span, format!("unknown operation \"{}\"", clip(text)))
            .expected(EXPECTED_OPERATION)
            .maybe_hint(hint);
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": border::NAMES })
    }
}

/// A system call of this architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyscallName {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
}

/// Calls without which a process can't go on or end, whatever errno it gets.
const NEVER: [&str; 4] = ["exit", "exit_group", "rt_sigreturn", "restart_syscall"];

const EXPECTED_SYSCALL: &str = "the name of a system call, such as \"openat\"";

impl Read for SyscallName {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, EXPECTED_SYSCALL, errors)?;
        let found =
            Sysno::from_str(text).ok().filter(|call| call.id().cast_unsigned() < border::MAX_SYSCALLS);
        let Some(call) = found else {
            let hint = nearest::nearest(text, Sysno::iter().map(|call| call.name()));
            errors
                .at(node.span, format!("unknown system call \"{}\"", clip(text)))
                .expected(EXPECTED_SYSCALL)
                .maybe_hint(hint.map(|name| format!("did you mean `{name}`?")));
            return None;
        };
        if NEVER.contains(&call.name()) {
            errors
                .at(node.span, format!("`{text}` can't fail: a program has no way to go on without it"))
                .expected(EXPECTED_SYSCALL);
            return None;
        }
        Some(Self { number: call.id().cast_unsigned(), name: call.name() })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> =
            Sysno::iter().map(|call| call.name()).filter(|name| !NEVER.contains(name)).collect();
        json_schema!({ "enum": names })
    }
}

/// A pattern of absolute paths: `*`, `?`, and `**` for any directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// As it was written.
    pub text: String,
    /// As the kernel half compares it.
    pub compiled: Vec<u8>,
}

impl PathPattern {
    /// The pattern of a text.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        Ok(Self { text: text.to_owned(), compiled: glob::compile(text)? })
    }

    /// What stands in front of the first wildcard, up to a whole name.
    #[must_use]
    pub fn literal(&self) -> &str {
        let end = self.text.find(['*', '?']);
        let literal = end.map_or(&*self.text, |end| &self.text[..self.text[..end].rfind('/').unwrap_or(0)]);
        if literal.is_empty() { "/" } else { literal }
    }
}

const EXPECTED_PATH: &str = "an absolute path, such as \"/var/lib/app/**\", with `*`, `?` and `**`";

impl Read for PathPattern {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, EXPECTED_PATH, errors)?;
        let error = match Self::new(text) {
            Ok(pattern) => return Some(pattern),
            Err(error) => error,
        };
        let (message, hint) = match error {
            PatternError::Relative => (
                format!("\"{}\" is no absolute path", clip(text)),
                "begin with `/`: processes have different directories, and `**/name` is written `/**/name`",
            ),
            PatternError::PartOfName => (
                format!("`**` is a part of a name in \"{}\"", clip(text)),
                "`**` stands for whole directories: `/var/**/log`, `/var/**`; within a name write `*`",
            ),
            PatternError::NoName => (
                format!("\"{}\" has an empty name, `.` or `..`", clip(text)),
                "write the path as the kernel has it, without them and without a `/` at the end",
            ),
            PatternError::Control => ("a control character in a path".to_owned(), "`?` stands for any byte"),
            PatternError::TooLong => (
                format!("a pattern of {} bytes", text.len()),
                "at most 256 bytes are compared; shorten it by `**`",
            ),
        };
        errors.at(node.span, message).expected(EXPECTED_PATH).hint(hint);
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^/", "maxLength": 256, "examples": ["/var/lib/app/**", "/var/log/*.log"] })
    }
}

/// The type of a file (`S_IFMT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FileType {
    /// A pipe, with a name or without one.
    Fifo = 1,
    /// A character device.
    Char = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    Block = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket that has a name.
    Socket = 12,
}

impl Word for FileType {
    const WHAT: &'static str = "type of file";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("regular", Self::Regular),
        ("directory", Self::Directory),
        ("symlink", Self::Symlink),
        ("fifo", Self::Fifo),
        ("socket", Self::Socket),
        ("char", Self::Char),
        ("block", Self::Block),
    ];
}

/// Operations that are done to nothing that has a path, or whose hook does not know by which one.
#[must_use]
pub(crate) const fn has_path(operation: u32) -> bool {
    !matches!(
        operation,
        border::FORK
            | border::SETXATTR
            | border::GETXATTR
            | border::LISTXATTR
            | border::REMOVEXATTR
            | border::SOCKET
            | border::CONNECT
            | border::BIND
            | border::LISTEN
            | border::ACCEPT
            | border::SEND
            | border::RECV
            | border::SHUTDOWN
            | border::SETSOCKOPT
            | border::GETSOCKOPT
            | border::MSYNC
    )
}

/// Operations in which a program can sleep, on some kernel, where it knows what they are done to: at hooks that may sleep
/// (`sleepable_lsm_hooks` in `kernel/bpf/bpf_lsm.c`), and at system calls that name a descriptor.
#[must_use]
pub(crate) const fn can_sleep(operation: u32) -> bool {
    matches!(
        operation,
        border::READ
            | border::WRITE
            | border::OPEN
            | border::FALLOCATE
            | border::STAT
            | border::READDIR
            | border::MMAP
            | border::EXEC
            | border::FORK
            | border::IOCTL
            | border::LOCK
            | border::SETXATTR
            | border::GETXATTR
            | border::SOCKET
            | border::CONNECT
            | border::BIND
            | border::LISTEN
            | border::ACCEPT
            | border::SEND
            | border::RECV
            | border::SHUTDOWN
            | border::GETSOCKOPT
            | border::FSYNC
            | border::FDATASYNC
            | border::SYNC_FILE_RANGE
            | border::SYNCFS
            | border::MSYNC
            | border::CLOSE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_part_of_a_pattern_ends_with_a_whole_name() {
        for (pattern, literal) in [
            ("/var/lib/db/*", "/var/lib/db"),
            ("/var/lib/d?/x", "/var/lib"),
            ("/**", "/"),
            ("/etc/passwd", "/etc/passwd"),
            ("/*", "/"),
        ] {
            assert_eq!(PathPattern::new(pattern).unwrap().literal(), literal, "{pattern}");
        }
    }

    #[test]
    fn types_are_those_of_stat() {
        use nix::libc;
        for (kind, mode) in [
            (FileType::Fifo, libc::S_IFIFO),
            (FileType::Char, libc::S_IFCHR),
            (FileType::Directory, libc::S_IFDIR),
            (FileType::Block, libc::S_IFBLK),
            (FileType::Regular, libc::S_IFREG),
            (FileType::Symlink, libc::S_IFLNK),
            (FileType::Socket, libc::S_IFSOCK),
        ] {
            assert_eq!((kind as u32) << 12, mode);
        }
    }
}
