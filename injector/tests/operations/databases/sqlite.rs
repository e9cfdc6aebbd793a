//! SQLite, by Python's module: one connection that goes on after an error, in both of SQLite's ways to be atomic.

use std::collections::BTreeSet;

use super::{Stored, failing, fsync_can_fail};
use crate::is_able;
use crate::support::{Cgroup, Experiment, Fault, Located as _, python};
use crate::victim::Folder;

/// Stores rows one by one, each in a transaction of its own. A row holds more than a page has left now and then, so that the file
/// grows.
const CLIENT: &str = r"
import sqlite3, sys
database, mode, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
connection = sqlite3.connect(database, isolation_level=None)
connection.execute('PRAGMA journal_mode = ' + mode)
connection.execute('PRAGMA synchronous = FULL')
connection.execute('CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, filler TEXT)')
for id in range(first, last + 1):
    try:
        connection.execute('BEGIN')
        connection.execute('INSERT INTO t VALUES (?, ?)', (id, 'x' * 1500))
        connection.execute('COMMIT')
        print('acknowledged', id, flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
        if connection.in_transaction:
            connection.execute('ROLLBACK')
";

/// Reads everything, and prints what SQLite thinks of the file and the ids.
const READER: &str = r"
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(*[line for line, in connection.execute('PRAGMA integrity_check')])
print(*[id for id, in connection.execute('SELECT id FROM t WHERE filler = ? ORDER BY id', ('x' * 1500,))])
";

/// A database in a directory of its own, and the cgroup in which its clients run.
struct Database {
    folder: Folder,
    cgroup: Cgroup,
    mode: &'static str,
    acknowledged: BTreeSet<u32>,
}

impl Database {
    /// One that holds the rows 1 to 20, which a client has stored as it would without injector.
    fn new(mode: &'static str) -> Self {
        let mut database =
            Self { folder: Folder::new(), cgroup: Cgroup::new(), mode, acknowledged: BTreeSet::new() };
        database.acknowledged = database.store(1, 20).expect_all(1..=20);
        database.check();
        database
    }

    fn store(&self, first: u32, last: u32) -> Stored {
        let mut client = python(CLIENT);
        client.arg(self.folder.at("db")).arg(self.mode).args([first.to_string(), last.to_string()]);
        Stored::read(&client.in_cgroup(&self.cgroup).text())
    }

    /// Fails unless the file is whole and has exactly what was acknowledged.
    #[track_caller]
    fn check(&self) {
        let text = python(READER).arg(self.folder.at("db")).text();
        let (integrity, ids) = text.split_once('\n').unwrap();
        assert_eq!(integrity, "ok");
        let ids: BTreeSet<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, self.acknowledged, "the rows that are there and those that were acknowledged");
    }

    /// Stores the rows 21 to 60 while operations on a file fail. Returns the errors that the client saw, after everything has been
    /// checked, and what injector says.
    fn store_while(&mut self, operations: &[&str], file: &str, keys: &str) -> (Vec<String>, Fault) {
        let scenario = failing(&self.cgroup, operations, &self.folder.at(file), keys);
        let experiment = Experiment::apply(&scenario);
        let stored = self.store(21, 60);
        let fault = experiment.end().only();
        assert_eq!(stored.acknowledged.len() + stored.errors.len(), 40, "{stored:?}");
        // The same connection has gone on after the error.
        assert!(stored.acknowledged.contains(&60), "{stored:?}");
        self.acknowledged.extend(&stored.acknowledged);
        self.check();
        (stored.errors, fault)
    }
}

#[test]
fn an_fsync_that_fails_once_fails_one_transaction_of_sqlite() {
    if !fsync_can_fail() {
        return;
    }
    // The journal before the change, the file after it; the log of the other mode. The first time, and in the middle.
    for (mode, file, key) in [
        ("DELETE", "db-journal", "limit = 1"),
        ("DELETE", "db", "nth = \"12\""),
        ("WAL", "db-wal", "nth = \"12\""),
    ] {
        let (errors, fault) = Database::new(mode).store_while(&["fsync", "fdatasync"], file, key);
        println!("{mode}, {file}: {fault:?}, {errors:?}");
        assert_eq!(errors, ["disk I/O error"], "{mode}, {file}");
        assert_eq!(fault.injected, 1, "{mode}, {file}");
    }
}

#[test]
fn sqlite_says_that_a_disk_is_full_and_loses_nothing() {
    if !is_able() {
        return;
    }
    let (full, cant_open) = ("database or disk is full", "unable to open database file");
    for (mode, operations, file, said) in [
        ("DELETE", &["write", "fallocate"][..], "**", full),
        // In the middle of a transaction, and again while SQLite takes it back.
        ("DELETE", &["write", "fallocate"][..], "db", full),
        ("WAL", &["write", "fallocate"][..], "db-wal", full),
        // There is no room for the journal's name either.
        ("DELETE", &["create"][..], "**", cant_open),
    ] {
        // By number and not by time: some transactions before, some in the middle, some afterwards.
        let keys = "errno = \"ENOSPC\"\nnth = \"8..15\"";
        let (errors, fault) = Database::new(mode).store_while(operations, file, keys);
        println!("{mode}, {operations:?}, {file}: {fault:?}, {errors:?}");
        assert!(!errors.is_empty() && errors.iter().all(|error| error == said), "{mode}, {file}: {errors:?}");
        assert_eq!(fault.injected, 8, "{mode}, {operations:?}, {file}");
    }
}
