//! `when.on`: an event at which a fault begins. It is an observing fault of its own in front of the one that waits for it.

use super::Errors;
use super::document::{FaultTable, MatchTable, WhenTable};
use super::effect::Effect;
use super::entries::FaultEntry;
use super::harm::{Device, Fallback, FileSystem, Harm, Meant, OperationFault};
use super::model::Direction;
use super::operation::{FileType, OperationName, PathPattern, SyscallName};
use super::quantity::{Nth, clip};
use super::read::{OneOrMany, References, Spanned, Whole, table};
use super::source::Span;
use super::words::Word;
use crate::kinds::{self, FilesTable, OperationsTable, SyscallsTable};

/// What an event is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnKind {
    Network,
    Io,
    Syscall,
}

impl Word for OnKind {
    const WHAT: &'static str = "kind of event";
    const WORDS: &'static [(&'static str, Self)] =
        &[("network", Self::Network), ("io", Self::Io), ("syscall", Self::Syscall)];
}

impl OnKind {
    /// The kind of the fault that observes such events.
    const fn observer(self) -> &'static str {
        match self {
            Self::Network => "network.observe",
            Self::Io => "io.observe",
            Self::Syscall => "syscall.observe",
        }
    }

    fn name(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

table! {
    /// An event at which a fault begins.
    pub(crate) struct OnTable {
        /// What the event is: `"network"`, a packet; `"io"`, an I/O operation; `"syscall"`, a system call.
        required "kind" kind: OnKind,
        /// Whose event: the name of a target. Default: that of the fault.
        "target" target: String,
        /// At which of the events that match the fault begins. Default: 1, the first.
        "count" count: Whole<1, { u64::MAX }>,
        /// Of packets: `"egress"` (default), `"ingress"` or `"both"`.
        "direction" direction: Direction,
        /// Of packets: which. Default: all.
        "match" matcher: MatchTable,
        /// Of I/O: which operations, such as `"fsync"`, or a list of these.
        "operations" operations: OneOrMany<OperationName>,
        /// Of I/O: only of files whose absolute path this pattern means.
        "path" path: PathPattern,
        /// Of I/O: only of files of this type.
        "file_type" file_type: OneOrMany<FileType>,
        /// Of I/O: only of what lies on the device with these numbers, such as `"8:1"`.
        "device" device: Device,
        /// Of I/O: only of what lies in file systems of this kind.
        "filesystem" filesystem: FileSystem,
        /// Of system calls: which, such as `"fdatasync"`, or a list of these.
        "syscalls" syscalls: OneOrMany<SyscallName>,
        /// Of I/O and system calls: `"seccomp"` notifies injector of those of the command that `injector run` starts, where this kernel has no
        /// other mechanism.
        "fallback" fallback: Fallback,
    }
}

/// The observing fault for a fault that waits for an event; `None` if it waits for none, or for one that is wrong.
pub(crate) fn observer(id: &str, waiting: &FaultEntry, errors: &mut Errors) -> Option<FaultEntry> {
    let on = waiting.table.when.as_ref()?.value.on.as_ref()?;
    let kind = on.value.kind.as_ref()?.value;
    check_keys(kind, &on.value, errors);
    let effect = effect(kind, on, errors);
    let spanned = |value: String| Some(Spanned { value, span: on.span });
    let count = on.value.count.as_ref().map_or(1, |count| count.value.0);
    let nth = Nth { first: count, last: count, step: 1 };
    let of_packets = (kind == OnKind::Network).then_some(&on.value);
    Some(FaultEntry {
        table: FaultTable {
            unread: Vec::new(),
            id: spanned(format!("{id}.on")),
            target: Some(target(on, waiting, errors)?),
            kind: spanned(kind.observer().to_owned()),
            direction: of_packets.and_then(|table| table.direction.clone()),
            matcher: of_packets.and_then(|table| table.matcher.clone()),
            probability: None,
            nth: Some(Spanned { value: nth, span: on.span }),
            limit: None,
            budget: None,
            when: None,
        },
        kind: kinds::find(kind.observer()),
        effect,
        references: References {
            targets: on.value.target.clone().into_iter().collect(),
            ..References::default()
        },
        is_observer: true,
    })
}

/// Whose event it is.
fn target(on: &Spanned<OnTable>, waiting: &FaultEntry, errors: &mut Errors) -> Option<Spanned<String>> {
    if let Some(given) = &on.value.target {
        return Some(given.clone());
    }
    if let Some(own) = &waiting.table.target {
        return Some(Spanned { value: own.value.clone(), span: on.span });
    }
    // Without a target of its own it is among nodes, or has been told of.
    if !waiting.references.targets.is_empty() && !on.value.unread.contains(&"target") {
        errors
            .at(on.span, "nobody knows whose event it is: the fault has no `target`, but `nodes`")
            .hint("add `target` to `on`");
    }
    None
}

/// Lets a fault wait for its observer.
pub(crate) fn wait_for(observer: &str, when: &mut WhenTable) {
    let span = when.on.as_ref().map(|on| on.span);
    when.after = span.map(|span| Spanned { value: observer.to_owned(), span });
}

fn effect(kind: OnKind, on: &Spanned<OnTable>, errors: &mut Errors) -> Option<Effect> {
    let table = &on.value;
    let missing = |key: &str, such: &str, errors: &mut Errors| {
        if !table.unread.contains(&key) {
            let message = format!("an event of `{}` without `{key}`", kind.name());
            errors.at(on.span, message).hint(format!("add `{key}`, such as {such}"));
        }
    };
    let meant = match kind {
        OnKind::Network => return Some(Effect::Observe),
        OnKind::Io => {
            let operations = OperationsTable { unread: Vec::new(), operations: table.operations.clone() };
            let Some(operations) = kinds::operations(&operations) else {
                missing("operations", "[\"fsync\"]", errors);
                return None;
            };
            let files = FilesTable {
                unread: Vec::new(),
                path: table.path.clone(),
                file_type: table.file_type.clone(),
                device: table.device.clone(),
                filesystem: table.filesystem.clone(),
            };
            Meant::Operations(kinds::on_files(&operations, files, errors)?)
        }
        OnKind::Syscall => {
            let syscalls = SyscallsTable { unread: Vec::new(), syscalls: table.syscalls.clone() };
            let Some(calls) = kinds::syscalls(&syscalls) else {
                missing("syscalls", "[\"fdatasync\"]", errors);
                return None;
            };
            Meant::Syscalls(calls)
        }
    };
    let fallback = table.fallback.as_ref().map(|given| given.value);
    Some(Effect::Operations(OperationFault { meant, harm: Harm::Observe, fallback }))
}

/// Refuses keys of events of other kinds.
fn check_keys(kind: OnKind, table: &OnTable, errors: &mut Errors) {
    fn span<T>(given: Option<&Spanned<T>>) -> Option<Span> {
        given.map(|given| given.span)
    }
    let keys = [
        (OnKind::Network, "direction", span(table.direction.as_ref())),
        (OnKind::Network, "match", span(table.matcher.as_ref())),
        (OnKind::Io, "operations", span(table.operations.as_ref())),
        (OnKind::Io, "path", span(table.path.as_ref())),
        (OnKind::Io, "file_type", span(table.file_type.as_ref())),
        (OnKind::Io, "device", span(table.device.as_ref())),
        (OnKind::Io, "filesystem", span(table.filesystem.as_ref())),
        (OnKind::Syscall, "syscalls", span(table.syscalls.as_ref())),
    ];
    if let Some(fallback) = table.fallback.as_ref().filter(|_| kind == OnKind::Network) {
        errors
            .at(fallback.span, "`fallback` of an event of `network`")
            .hint("packets need none: leave `fallback` out");
    }
    for (of, key, given) in keys {
        if let Some(span) = given.filter(|_| of != kind) {
            errors.at(span, format!("`{key}` of an event of `{}`", kind.name())).hint(format!(
                "`{}` is for kind = \"{}\"",
                clip(key),
                of.name()
            ));
        }
    }
}
