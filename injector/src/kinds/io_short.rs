//! `io.short`: less is read or written than was asked for.

use std::sync::LazyLock;

use injector_common::operation::{NAMES, READ, WRITE};
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, FilesTable};
use super::{Kind, Strikes};
use crate::scenario::operation::OperationName;
use crate::scenario::quantity::Bytes;
use crate::scenario::read::{OneOrMany, Spanned, Table as _, table};
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, P32, Reader, Share};

/// See the module.
pub(super) struct IoShort;

table! {
    /// Which operations are cut short.
    pub(crate) struct MovesTable {
        /// Which operations are cut short: `"read"`, `"write"`, or a list of these. Default: both.
        "operations" operations: OneOrMany<OperationName>,
    }
}

table! {
    /// How much is read or written all the same.
    pub(crate) struct ShareTable {
        /// At most so much is read or written, such as `"1B"` or `"4KiB"`. Mandatory without `fraction`.
        "bytes" bytes: Bytes,
        /// This share of what was asked for is read or written, such as `"50%"`, rounded down, and at least one byte.
        "fraction" fraction: P32,
    }
}

impl Kind for IoShort {
    fn name(&self) -> &'static str {
        "io.short"
    }

    fn summary(&self) -> &'static str {
        "Makes reads and writes of the target move less than was asked for, and say so."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
            [MovesTable::KEYS, ShareTable::KEYS, FilesTable::KEYS, FallbackTable::KEYS].concat()
        });
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let moves = MovesTable::read_from(own, errors);
        let table = ShareTable::read_from(own, errors);
        let files = FilesTable::read_from(own, errors);
        let fallback = FallbackTable::read_from(own, errors);
        let all = [&moves.unread, &table.unread, &files.unread, &fallback.unread];
        if all.into_iter().any(|unread| !unread.is_empty()) {
            return None;
        }
        let share = share(&table, own, errors)?;
        let operations = operations(&moves, own, errors)?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Operations(meant::on_files(&operations, files, errors)?),
            harm: Harm::Short(share),
            fallback: fallback.fallback.map(|given| given.value),
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_operations(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Deputies
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = MovesTable::properties(generator);
        properties.extend(ShareTable::properties(generator));
        properties.extend(FilesTable::properties(generator));
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}

/// How much is moved, if one of the keys says so.
fn share(table: &ShareTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Share> {
    match (&table.bytes, &table.fraction) {
        (Some(bytes), None) if bytes.value.0 > 0 => Some(Share::Bytes(bytes.value.0)),
        (Some(bytes), None) => {
            errors
                .at(bytes.span, "a read of nothing is the end of the file, and no short one")
                .expected("at least \"1B\"");
            None
        }
        (None, Some(fraction)) => Some(Share::Fraction(fraction.value)),
        (Some(_), Some(fraction)) => {
            errors
                .at(fraction.span, "either `bytes` or `fraction` says how much is moved, not both")
                .hint("leave one of them out");
            None
        }
        (None, None) => {
            errors
                .at(own.span(), "how much is moved is missing")
                .hint("add `bytes`, such as `\"1B\"`, or `fraction`, such as `\"50%\"`");
            None
        }
    }
}

/// The operations that are given, or all that move something.
fn operations(table: &MovesTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Vec<Spanned<u32>>> {
    let Some(given) = &table.operations else {
        return Some([READ, WRITE].map(|value| Spanned { value, span: own.span() }).to_vec());
    };
    let given = given.value.0.iter().map(|one| Spanned { value: one.value.0, span: one.span });
    let given: Vec<Spanned<u32>> = given.collect();
    if let Some(other) = given.iter().find(|one| ![READ, WRITE].contains(&one.value)) {
        errors
            .at(other.span, format!("`{}` moves no bytes that could be fewer", NAMES[other.value as usize]))
            .expected("\"read\" or \"write\"");
        return None;
    }
    Some(given)
}

#[cfg(test)]
mod tests {
    use super::super::refusal_tests::{complaint, said};

    #[test]
    fn what_can_not_be_meant_is_refused_with_the_reason() {
        for (keys, reason) in [
            ("kind = \"io.short\"", "how much is moved is missing"),
            ("kind = \"io.short\"\nbytes = \"0B\"", "the end of the file, and no short one"),
            ("kind = \"io.short\"\nbytes = \"1B\"\nfraction = \"1%\"", "either `bytes` or `fraction`"),
            ("kind = \"io.short\"\nbytes = \"1B\"\noperations = \"fsync\"", "`fsync` moves no bytes"),
            ("kind = \"io.short\"\nbytes = \"1B\"\nfallback = \"secomp\"", "did you mean `seccomp`?"),
            (
                "kind = \"io.short\"\nbytes = \"1B\"\nfallback = \"seccomp\"",
                "for the command that `injector run` starts",
            ),
        ] {
            let said = complaint(keys);
            assert!(said.contains(reason), "{keys}: {said}");
        }
        let text = |keys| {
            format!(
                "duration = \"1s\"\n[target.t]\ncommand = true\n[[fault]]\ntarget = \"t\"\nkind = \"io.short\"\n{keys}\n"
            )
        };
        for keys in [
            "bytes = \"1B\"",
            "fraction = \"50%\"\noperations = \"write\"\nfallback = \"seccomp\"\npath = \"/x\"",
        ] {
            assert_eq!(said(&text(keys)), "", "{keys}");
        }
    }
}
