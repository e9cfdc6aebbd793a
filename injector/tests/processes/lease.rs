//! A lease that expires between the check and the use: the scenario that is shipped, on the example that is shipped.

use std::time::Duration;

use crate::support::{Background, Cgroup, Experiment, Located as _, Netns, in_vm, python, root_or_skip};

const EXAMPLE: &str = include_str!("../../../scenarios/examples/lease.py");
const SCENARIO: &str = include_str!("../../../scenarios/pause/lease-expiry.toml");
const PATIENCE: Duration = Duration::from_secs(120);

/// The variable that says how often it is tried.
const ROUNDS: &str = "INJECTOR_LEASE_ROUNDS";

/// Seconds that a lease is good for, and the pause that is longer.
fn times() -> (&'static str, &'static str) {
    if in_vm() { ("4", "8s") } else { ("0.5", "3s") }
}

fn writer(name: &str, netns: &Netns, cgroup: &Cgroup) -> Background {
    let arguments = ["writer", name, "7001", "7002", times().0];
    python(EXAMPLE).args(arguments).in_cgroup(cgroup).in_netns(netns).background()
}

/// What the two writers say, and what the store has in the end.
fn round(flags: &[&str]) -> [String; 3] {
    let (netns, struck, other) = (Netns::new(), Cgroup::new(), Cgroup::new());
    let mut store = python(EXAMPLE).args(["store", "7001", "7002"]).args(flags).in_netns(&netns).background();
    store.wait_for_line("serves");
    let scenario = SCENARIO
        .replace("/injector.slice/writer", struck.path())
        .replace("for = \"2s\"", &format!("for = \"{}\"", times().1));
    let experiment = Experiment::apply(&scenario);
    let mut first = writer("a", &netns, &struck);
    // Its check has been answered, and it is paused; the other one waits for the lease.
    crate::support::wait_until(PATIENCE, "the pause", || experiment.live().fault("pause").injected == 1);
    let mut second = writer("b", &netns, &other);
    let said = [second.finish(PATIENCE), first.finish(PATIENCE)].map(|said| said.trim().to_owned());
    let list = python(EXAMPLE).args(["list", "7002"]).in_netns(&netns).text().trim().to_owned();
    let report = experiment.end();
    let met = report.object["expectations"].as_array().unwrap();
    assert!(met.len() == 2 && met.iter().all(|one| one["ok"] == true), "{:?}", report.object);
    let [second, first] = said;
    [second, first, list]
}

#[test]
fn a_paused_writer_overwrites_what_was_acknowledged_unless_it_is_fenced() {
    if !root_or_skip() {
        return;
    }
    let rounds = std::env::var(ROUNDS).map(|text| text.parse().unwrap());
    for _ in 0..rounds.unwrap_or(if in_vm() { 1 } else { 2 }) {
        assert_eq!(round(&[]), ["b written", "a written", "a"]);
        assert_eq!(round(&["--fenced"]), ["b written", "a refused", "b"]);
    }
}
