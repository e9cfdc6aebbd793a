//! The keys by which operations and system calls are chosen, for all kinds that strike them, and the rules that those kinds share.

use crate::scenario::operation::{OperationName, has_path};
use crate::scenario::read::{OneOrMany, Spanned, table};
use crate::scenario::{
    Device, Errors, Fallback, FaultTable, FileSystem, FileType, Operations, PathPattern, SyscallName,
};

table! {
    /// Which operations.
    pub(crate) struct OperationsTable {
        /// Which operations are struck: a name, such as `"read"` or `"fsync"`, or a list of these.
        required "operations" operations: OneOrMany<OperationName>,
    }
}

table! {
    /// Of which files.
    pub(crate) struct FilesTable {
        /// Only files whose absolute path this pattern means: `*` and `?` within a name, `**` for any directories.
        "path" path: PathPattern,
        /// Only files of this type: `"regular"`, `"directory"`, `"symlink"`, `"fifo"`, `"socket"`, `"char"`, `"block"`, or a list of
        /// these.
        "file_type" file_type: OneOrMany<FileType>,
        /// Only what lies on the device with these numbers, such as `"8:1"`, which `findmnt -no MAJ:MIN` tells.
        "device" device: Device,
        /// Only what lies in file systems of this kind, such as `"ext4"`, `"xfs"`, `"tmpfs"` or `"overlay"`.
        "filesystem" filesystem: FileSystem,
    }
}

table! {
    /// Which system calls.
    pub(crate) struct SyscallsTable {
        /// Which system calls are struck: a name, such as `"openat"`, or a list of these.
        required "syscalls" syscalls: OneOrMany<SyscallName>,
    }
}

table! {
    /// What is taken where the kernel has nothing better.
    pub(crate) struct FallbackTable {
        /// `"seccomp"`: where this kernel has no other mechanism, system calls of the command that `injector run` starts are
        /// kept until injector has decided over them, some 10 to 40 us each. Default: then the fault is refused.
        "fallback" fallback: Fallback,
    }
}

/// The operations that are given, each once.
pub(crate) fn operations(table: &OperationsTable) -> Option<Vec<Spanned<u32>>> {
    let given = table.operations.as_ref()?;
    Some(given.value.0.iter().map(|one| Spanned { value: one.value.0, span: one.span }).collect())
}

/// The system calls that are given, each once.
pub(crate) fn syscalls(table: &SyscallsTable) -> Option<Vec<SyscallName>> {
    let mut calls: Vec<SyscallName> =
        table.syscalls.as_ref()?.value.0.iter().map(|call| call.value).collect();
    calls.sort_unstable_by_key(|call| call.number);
    calls.dedup();
    Some(calls)
}

/// The operations on those files, if for each of them it is known which file it is done to.
pub(crate) fn on_files(
    operations: &[Spanned<u32>],
    files: FilesTable,
    errors: &mut Errors,
) -> Option<Operations> {
    let keys = [
        ("path", files.path.is_some()),
        ("file_type", files.file_type.is_some()),
        ("device", files.device.is_some()),
        ("filesystem", files.filesystem.is_some()),
    ];
    let chooses = keys.into_iter().find(|(_, is_given)| *is_given);
    if let Some((key, _)) = chooses
        && let Some(other) = operations.iter().find(|operation| !has_path(operation.value))
    {
        let name = injector_common::operation::NAMES[other.value as usize];
        errors
            .at(other.span, format!("`{name}` with `{key}`: where it is decided, no file is known"))
            .hint(format!("give it a fault of its own, without `{key}`"));
        return None;
    }
    let mut numbers: Vec<u32> = operations.iter().map(|operation| operation.value).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let types = files.file_type.iter().flat_map(|types| &types.value.0);
    Some(Operations {
        operations: numbers,
        path: files.path.map(|path| path.value),
        types: types.map(|kind: &Spanned<FileType>| kind.value).collect(),
        device: files.device.map(|device| device.value),
        filesystem: files.filesystem.map(|kind| kind.value),
    })
}

/// By what operations are told apart.
const OPERATIONS: &str = "`operations`, `path`, `file_type`, `device` and `filesystem`";

/// Refuses of a fault of operations the keys of packets.
pub(super) fn check_operations(fault: &FaultTable, errors: &mut Errors) {
    super::without_packets::check("an operation", OPERATIONS, fault, errors);
}

/// Refuses of a fault of system calls the keys of packets.
pub(super) fn check_syscalls(fault: &FaultTable, errors: &mut Errors) {
    super::without_packets::check("a system call", "`syscalls`", fault, errors);
}
