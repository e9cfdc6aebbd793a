//! A Redis that stands still at times, by the scenario that is shipped, and what its own client sees of it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use crate::support::{Background, Cgroup, Experiment, Located as _, in_vm, root_or_skip, wait_until};
use tempfile::TempDir;

const SCENARIO: &str = include_str!("../../../scenarios/pause/gc.toml");
const PATIENCE: Duration = Duration::from_secs(120);
/// The pauses of the scenario, in milliseconds.
const PAUSE_MS: f64 = 80.0;

/// A server in the target's cgroup, reached by a socket in a directory.
struct Redis {
    directory: TempDir,
    _server: Background,
}

impl Redis {
    fn start(cgroup: &Cgroup) -> Self {
        let directory = TempDir::new().unwrap();
        // Debian's server is the program that checks its files, by another name; a package with the server alone would start one.
        let mut server = Command::new("redis-check-rdb");
        server.arg0("redis-server").args([
            "--port",
            "0",
            "--save",
            "",
            "--loglevel",
            "warning",
            "--unixsocket",
        ]);
        server.arg(directory.path().join("socket")).arg("--dir").arg(directory.path());
        let server = server.in_cgroup(cgroup).background();
        let redis = Self { directory, _server: server };
        wait_until(PATIENCE, "Redis answers", || {
            let answer = redis.client(&["ping"]).output().unwrap();
            answer.stdout == b"PONG\n"
        });
        redis
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(self.directory.path().join("socket")).args(arguments);
        client
    }

    /// What a client sees that asks a hundred times a second over one connection, for so long: the shortest, the longest, and the mean time
    /// to an answer in milliseconds, and how many came.
    fn latencies(&self, seconds: &str) -> [f64; 4] {
        let said = self.client(&["--latency", "--raw", "-i", seconds]).background().finish(PATIENCE);
        let numbers: Vec<f64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    /// Connections since it was started.
    fn connections(&self) -> u64 {
        let said = self.client(&["info", "stats"]).text();
        let found = said.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        found.unwrap().trim().parse().unwrap()
    }
}

#[test]
fn a_redis_that_collects_garbage_answers_late_and_keeps_its_connections() {
    if !root_or_skip() {
        return;
    }
    let seconds = if in_vm() { "12" } else { "6" };
    let cgroup = Cgroup::new();
    let redis = Redis::start(&cgroup);
    let [_, undisturbed, ..] = redis.latencies("2");
    let before = redis.connections();
    let scenario = SCENARIO
        .replace("/injector.slice/app", cgroup.path())
        .replace("every = \"2s\"", "every = \"600ms\"")
        .replace("jitter = \"1500ms\"", "jitter = \"400ms\"");
    let experiment = Experiment::apply(&scenario);
    let [shortest, longest, mean, answers] = redis.latencies(seconds);
    let report = experiment.end();
    // The client that measured, and the one that asks now.
    assert_eq!(redis.connections() - before, 2, "the client had to connect again");
    let pauses = report.only().injected;
    let said = format!(
        "{shortest} to {longest} ms, {mean} in the mean of {answers}, {undisturbed} before; {pauses} pauses"
    );
    assert!(pauses >= 4, "{said}");
    let slack_ms = if in_vm() { 1000.0 } else { 60.0 };
    assert!((PAUSE_MS * 0.9..PAUSE_MS + slack_ms).contains(&longest), "{said}");
    // Most answers come between two pauses.
    assert!(shortest < PAUSE_MS / 4.0 && mean < PAUSE_MS / 2.0 && answers > 50.0, "{said}");
    assert!(report.object["expectations"][0]["ok"] == true, "{:?}", report.object);
    println!("{said}");
}
