//! Real databases on a disk that fails: what a client was told to be stored is there afterwards, and what could not be stored was
//! told. Without a fault they do what they always do.

mod postgresql;
mod sqlite;

use std::collections::BTreeSet;

use crate::support::Cgroup;
use crate::{changes_syscalls, is_able, planned};

/// Whether a kernel lets fsync fail. Where it can't, it shows that `plan` refuses exactly that.
fn fsync_can_fail() -> bool {
    if changes_syscalls() {
        return true;
    }
    if is_able() {
        let (status, said) =
            planned("kind = \"io.error\"\noperations = [\"fsync\", \"fdatasync\"]\npath = \"/data/**\"");
        assert_eq!(status, Some(3), "{said}");
        assert!(said.contains("can't be had on this kernel, fsync, fdatasync: "), "{said}");
    }
    false
}

/// A scenario with one fault of operations on files of a path, by processes of a cgroup.
fn failing(cgroup: &Cgroup, operations: &[&str], path: &str, keys: &str) -> String {
    format!(
        "[target.db]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"db\"\nkind = \"io.error\"\noperations = {operations:?}\npath = \"{path}\"\n{keys}",
        cgroup.path()
    )
}

/// What became of rows that a client stored one by one.
#[derive(Debug, Default)]
struct Stored {
    /// The ids that the database acknowledged.
    acknowledged: BTreeSet<u32>,
    /// Everything else that it said.
    errors: Vec<String>,
}

impl Stored {
    /// Reads what a client printed: `acknowledged ID`, or anything else.
    fn read(text: &str) -> Self {
        let mut stored = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match line.strip_prefix("acknowledged ") {
                Some(id) => drop(stored.acknowledged.insert(id.parse().unwrap())),
                None => stored.errors.push(line.to_owned()),
            }
        }
        stored
    }

    /// Fails unless every one of these ids was acknowledged, and nothing else was said.
    #[track_caller]
    fn expect_all(self, ids: std::ops::RangeInclusive<u32>) -> BTreeSet<u32> {
        assert_eq!(self.acknowledged, ids.collect(), "{:?}", self.errors);
        assert!(self.errors.is_empty(), "{:?}", self.errors);
        self.acknowledged
    }
}
