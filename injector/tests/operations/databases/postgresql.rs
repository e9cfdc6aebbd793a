//! PostgreSQL, Debian's, as an unprivileged user in a cgroup of the test's own, and its clients outside of that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Stored, failing, fsync_can_fail};
use crate::is_able;
use crate::support::{Background, Cgroup, Experiment, Located as _, in_vm, run, wait_until};
use crate::victim::Folder;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Where guests have its libraries, beside this machine's.
const LIBRARIES: &str = "/usr/lib/postgresql/libraries";
/// How long it may take to start, recover or end: a second or two, in emulation on a busy machine many times that.
const PATIENCE: Duration = Duration::from_secs(240);
/// Settings by which it writes only what a client asks for.
const QUIET: [&str; 6] = [
    "autovacuum=off",
    "bgwriter_lru_maxpages=0",
    "checkpoint_timeout=1h",
    "wal_writer_delay=10s",
    // Otherwise it logs which transactions run, every 15 s.
    "wal_level=minimal",
    "max_wal_senders=0",
];
/// The server says this each time that it has started or recovered.
const READY: &str = "database system is ready to accept connections";

/// Whether PostgreSQL is here: in every guest. On other machines it may not be, and nothing installs it.
fn is_there() -> bool {
    let is_there = Path::new(PROGRAMS).exists();
    assert!(is_there || !in_vm(), "the guest lacks PostgreSQL");
    is_there
}

/// One of its programs, which refuse to run as root.
fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "env"]);
    // Neither the time zones of this machine nor the settings of whoever runs the tests.
    command.args([&format!("LD_LIBRARY_PATH={LIBRARIES}"), "TZ=UTC", "LC_ALL=C"]);
    command.arg(format!("{PROGRAMS}/{name}")).current_dir("/");
    command
}

/// A server with a table `t`, and what it has acknowledged so far.
struct Database {
    server: Background,
    cgroup: Cgroup,
    folder: Folder,
    /// How often it has become ready.
    times_ready: usize,
    /// Every id that a client tried to store.
    attempted: u32,
    acknowledged: BTreeSet<u32>,
}

impl Database {
    /// A new one, with checksums of its pages.
    fn new() -> Self {
        let (folder, cgroup) = (Folder::new(), Cgroup::new());
        run(&format!("mkdir {} {}", folder.at("data"), folder.at("socket")));
        run(&format!("chown nobody:nogroup {} {}", folder.at("data"), folder.at("socket")));
        let mut initdb = program("initdb");
        initdb.args([
            "--data-checksums",
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
            "--username=postgres",
        ]);
        initdb.args(["--auth=trust", "--pgdata", &folder.at("data")]).text();
        let server = start(&folder, &cgroup);
        let mut database =
            Self { server, cgroup, folder, times_ready: 0, attempted: 0, acknowledged: BTreeSet::new() };
        database.wait_until_ready();
        assert_eq!(database.sql("CREATE TABLE t (id int PRIMARY KEY, filler text); CHECKPOINT"), "");
        database
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.at("log")).unwrap()
    }

    /// Waits until it has become ready once more.
    #[track_caller]
    fn wait_until_ready(&mut self) {
        self.times_ready += 1;
        let mut log = String::new();
        wait_until(PATIENCE, "PostgreSQL is ready", || {
            log = self.log();
            assert!(self.server.is_running(), "PostgreSQL has ended:\n{log}");
            log.matches(READY).count() >= self.times_ready
        });
        assert_eq!(log.matches(READY).count(), self.times_ready, "{log}");
    }

    fn client(&self) -> Command {
        let mut client = program("psql");
        client.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--username=postgres"]);
        client.args(["--dbname=postgres", "--host", &self.folder.at("socket")]);
        client
    }

    /// What it answers to statements, and its complaints.
    fn sql(&self, statements: &str) -> String {
        let output = self.client().args(["--command", statements]).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// Stores so many rows one by one, each in a transaction of its own. A page holds five.
    fn store(&mut self, count: u32) -> Stored {
        let ids = self.attempted + 1..=self.attempted + count;
        self.attempted += count;
        let of = |id: u32| {
            format!(
                "INSERT INTO t VALUES ({id}, repeat('x', 1500));\n\\if :ERROR\n\\else\n\\echo acknowledged {id}\n\\endif\n"
            )
        };
        fs::write(self.folder.at("script"), ids.map(of).collect::<String>()).unwrap();
        let output = self.client().args(["--file", &self.folder.at("script")]).output().unwrap();
        let stored = Stored::read(
            &(String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()),
        );
        self.acknowledged.extend(&stored.acknowledged);
        stored
    }

    /// The same where nothing fails.
    #[track_caller]
    fn store_all(&mut self, count: u32) {
        let ids: RangeInclusive<u32> = self.attempted + 1..=self.attempted + count;
        self.store(count).expect_all(ids);
    }

    /// The rows that are there, each of them read whole.
    fn rows(&self) -> BTreeSet<u32> {
        let text = self.sql("SELECT id FROM t WHERE filler = repeat('x', 1500) ORDER BY id");
        text.lines().map(|id| id.parse().unwrap_or_else(|_| panic!("{text}"))).collect()
    }

    /// Fails unless every acknowledged row is there. Whatever else is there was tried: who got no answer knows nothing.
    #[track_caller]
    fn check_rows(&self, unanswered: usize) {
        let rows = self.rows();
        let missing: Vec<_> = self.acknowledged.difference(&rows).collect();
        assert!(missing.is_empty(), "acknowledged and lost: {missing:?}\n{}", self.log());
        let others = rows.difference(&self.acknowledged).count();
        assert!(others <= unanswered && rows.iter().all(|id| *id <= self.attempted), "{rows:?}");
    }

    /// Stops it, and fails unless table and index agree and every page has its checksum.
    #[track_caller]
    fn check_files(mut self) {
        let mut amcheck = program("pg_amcheck");
        amcheck.args(["--install-missing", "--heapallindexed", "--table=t", "--username=postgres"]);
        amcheck.args(["--host", &self.folder.at("socket"), "postgres"]).text();
        self.server.signal(Signal::SIGINT);
        self.server.finish(PATIENCE);
        let sums = program("pg_checksums").args(["--check", "--pgdata", &self.folder.at("data")]).text();
        assert!(sums.contains("Bad checksums:  0\n"), "{sums}");
    }

    /// Applies a fault on its files below `path`, at a moment when everything is written.
    fn fail(&self, operations: &[&str], path: &str, keys: &str) -> Experiment {
        assert_eq!(self.sql("CHECKPOINT"), "");
        Experiment::apply(&failing(&self.cgroup, operations, &self.folder.at(&format!("data/{path}")), keys))
    }
}

fn start(folder: &Folder, cgroup: &Cgroup) -> Background {
    let log = File::options().create(true).append(true).open(folder.at("log")).unwrap();
    let mut server = program("postgres");
    server.args(["-D", &folder.at("data"), "-k", &folder.at("socket"), "-c", "listen_addresses="]);
    // What it does by itself and when it likes would be struck in the client's place.
    for setting in QUIET {
        server.args(["-c", setting]);
    }
    server.stderr(log).in_cgroup(cgroup).background()
}

#[test]
fn postgresql_panics_at_an_fsync_that_fails_once_and_has_every_acknowledged_row() {
    if !fsync_can_fail() || !is_there() {
        return;
    }
    let mut database = Database::new();
    // Without a fault, and with one that only looks on.
    database.store_all(20);
    let experiment = database.fail(&["fsync", "fdatasync"], "pg_wal/**", "probability = \"0%\"");
    database.store_all(20);
    let fault = experiment.end().only();
    assert!(fault.matched >= 20 && fault.injected == 0, "{fault:?}");
    database.check_rows(0);
    assert!(!database.log().contains("PANIC"), "{}", database.log());
    for (times, keys) in [(1, "limit = 1"), (2, "nth = \"12\"")] {
        let experiment = database.fail(&["fsync", "fdatasync"], "pg_wal/**", keys);
        let stored = database.store(20);
        println!("{keys}: {} rows acknowledged, then {:?}", stored.acknowledged.len(), stored.errors);
        let said = stored.errors.join("\n");
        assert!(
            said.contains("PANIC:  could not fdatasync file \"0000") && said.contains("Input/output error"),
            "{said}"
        );
        assert!(said.contains("server closed the connection unexpectedly"), "{said}");
        assert!(stored.acknowledged.len() < 12, "{stored:?}");
        database.wait_until_ready();
        database.check_rows(times);
        // It goes on while the fault is still there, which has done what it may.
        database.store_all(20);
        assert_eq!(experiment.end().only().injected, 1);
        let log = database.log();
        assert_eq!(log.matches("PANIC:").count(), times, "{log}");
        assert_eq!(log.matches("automatic recovery in progress").count(), times, "{log}");
    }
    // What is in the files of tables is told by the checkpointer alone.
    let experiment = database.fail(&["fsync", "fdatasync"], "base/**", "limit = 1");
    database.store_all(20);
    let said = database.sql("CHECKPOINT");
    assert!(
        said.contains("server closed the connection unexpectedly") || said.contains("terminating connection"),
        "{said}"
    );
    database.wait_until_ready();
    assert!(database.log().contains("PANIC:  could not fsync file \"base/"), "{}", database.log());
    assert_eq!(experiment.end().only().injected, 1);
    database.store_all(20);
    database.check_rows(2);
    database.check_files();
}

#[test]
fn postgresql_says_that_a_disk_is_full_and_loses_nothing() {
    if !is_able() || !is_there() {
        return;
    }
    let full = ["write", "fallocate", "create"];
    let mut database = Database::new();
    // Two rows are on the last page, and three more fit.
    database.store_all(22);
    // No room for tables: the transactions fail that need some, and the server lives.
    let experiment = database.fail(&full, "base/**", "errno = \"ENOSPC\"");
    let Stored { acknowledged, errors } = database.store(20);
    println!("no room for tables: {acknowledged:?}, then {errors:?}");
    let is_refusal = |line: &&String| {
        line.contains("ERROR:  could not extend file \"base/") && line.ends_with(": No space left on device")
    };
    assert_eq!(errors.iter().filter(is_refusal).count(), 20 - acknowledged.len(), "{errors:?}");
    assert!((1..10).contains(&acknowledged.len()), "{acknowledged:?}");
    let said = database.sql("CREATE TABLE u (id int)");
    assert!(said.contains("ERROR:  could not create file \"base/"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(experiment.end().only().injected > 10);
    database.store_all(22);
    database.check_rows(0);
    assert!(!database.log().contains("PANIC"), "{}", database.log());
    // No room for its log of changes either: it can't go on, and comes back once there is room.
    let experiment = database.fail(&full, "**", "errno = \"ENOSPC\"");
    let Stored { acknowledged, errors } = database.store(20);
    println!("no room at all: {acknowledged:?}, then {errors:?}");
    let said = errors.join("\n");
    assert!(acknowledged.is_empty() && said.contains("PANIC:  could not write to log file"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let (_, status) = database.server.outcome(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", database.log());
    assert!(experiment.end().only().injected > 0);
    database.server = start(&database.folder, &database.cgroup);
    database.wait_until_ready();
    database.check_rows(1);
    database.store_all(20);
    database.check_rows(1);
    database.check_files();
}
