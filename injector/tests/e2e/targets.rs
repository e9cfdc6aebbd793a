//! Who is hit: cgroups with what is below them, processes, namespaces and devices that come later.

use std::fs;
use std::time::Duration;

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{
    Cgroup, DEVICE, Experiment, Located as _, Pair, Report, SERVER_V4, root_or_skip, sh, wait_until,
};

const SILENCE: &str = "kind = \"network.loss\"\nmatch = { protocol = [\"icmp\", \"icmp6\"] }";
/// How long a new device may take to be there for everybody.
const APPEARED: Duration = Duration::from_secs(60);
const LOST: i32 = 1;
const ANSWERED: i32 = 0;

/// Whether the server answers what is sent from there.
fn ping(agent: &mut Agent) -> i32 {
    agent.ask(&format!("ping('{SERVER_V4}', wait=1)")).as_i64().unwrap() as i32
}

/// The version 2 cgroup of a process.
fn cgroup_of(pid: i32) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    table.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

#[test]
fn descendants_that_are_made_later_are_hit_and_siblings_are_not() {
    if !root_or_skip() {
        return;
    }
    let (scene, sibling) = (Scene::new(), Cgroup::new());
    let experiment = Experiment::apply(&scene.scenario(1, &[SILENCE]));
    let child = scene.cgroup.child("later");
    let grandchild = child.child("still-later");
    for below in [&child, &grandchild] {
        let mut agent = Agent::start(|command| command.in_cgroup(below).in_netns(&scene.pair.client));
        assert_eq!(ping(&mut agent), LOST, "{}", below.path());
    }
    let mut beside = Agent::start(|command| command.in_cgroup(&sibling).in_netns(&scene.pair.client));
    assert_eq!(ping(&mut beside), ANSWERED, "a sibling");
    // The controller's own cgroup is this test's.
    let mut own = Agent::start(|command| scene.spared(command));
    assert_eq!(ping(&mut own), ANSWERED, "a process of the controller's cgroup");
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (2, 2));
}

#[test]
fn a_target_within_a_target_meets_the_faults_of_both_once() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let inner = scene.cgroup.child("inner");
    let count = |target: &str| {
        format!(
            "[[fault]]\nid = \"{target}\"\ntarget = \"{target}\"\nkind = \"network.loss\"\ndirection = \"both\"\n\
             nth = \"1000000\"\nmatch = {{ protocol = [\"icmp\", \"icmp6\"] }}\n"
        )
    };
    let text = format!(
        "[target.outer]\ncgroup = \"{}\"\n[target.inner]\ncgroup = \"{}\"\n{}{}",
        scene.cgroup.path(),
        inner.path(),
        count("outer"),
        count("inner")
    );
    let experiment = Experiment::apply(&text);
    let matched = |report: &Report| ["outer", "inner"].map(|id| report.fault(id).matched);
    let mut in_inner = Agent::start(|command| command.in_cgroup(&inner).in_netns(&scene.pair.client));
    assert_eq!(ping(&mut in_inner), ANSWERED);
    assert_eq!(matched(&experiment.live()), [2, 2], "a request and a reply");
    let mut in_outer = Agent::start(|command| scene.struck(command));
    assert_eq!(ping(&mut in_outer), ANSWERED);
    assert_eq!(matched(&experiment.end()), [4, 2]);
}

#[test]
fn a_process_alone_in_its_cgroup_is_hit_where_it_is() {
    if !root_or_skip() {
        return;
    }
    let (pair, cgroup) = (Pair::new(), Cgroup::new());
    let mut agent = Agent::start(|command| command.in_cgroup(&cgroup).in_netns(&pair.client));
    assert_eq!(ping(&mut agent), ANSWERED);
    let experiment = Experiment::apply(&scenario(1, &format!("pid = {}", agent.pid()), &[SILENCE]));
    assert_eq!(ping(&mut agent), LOST);
    assert_eq!(cgroup_of(agent.pid()), cgroup.path(), "it need not be moved");
    assert_eq!(experiment.end().only().injected, 1);
    assert_eq!(ping(&mut agent), ANSWERED);
}

#[test]
fn a_process_that_shares_its_cgroup_is_hit_alone_with_its_children_and_is_put_back() {
    if !root_or_skip() {
        return;
    }
    let (pair, cgroup) = (Pair::new(), Cgroup::new());
    let start = || Agent::start(|command| command.in_cgroup(&cgroup).in_netns(&pair.client));
    let (mut meant, mut other) = (start(), start());
    let child = meant.ask("subprocess.Popen(['sleep', '600']).pid").as_i64().unwrap() as i32;
    let experiment = Experiment::apply(&scenario(1, &format!("pid = {}", meant.pid()), &[SILENCE]));
    let leaf = cgroup_of(meant.pid());
    assert!(leaf.starts_with(&format!("{}/", cgroup.path())), "{leaf}");
    assert_eq!(cgroup_of(child), leaf, "its child goes with it");
    assert_eq!(cgroup_of(other.pid()), cgroup.path());
    assert_eq!(ping(&mut meant), LOST);
    assert_eq!(ping(&mut other), ANSWERED);
    assert_eq!(experiment.end().only().injected, 1);
    for pid in [meant.pid(), child, other.pid()] {
        assert_eq!(cgroup_of(pid), cgroup.path(), "put back");
    }
    let below = fs::read_dir(cgroup.directory()).unwrap().flatten();
    assert!(!below.into_iter().any(|entry| entry.path().is_dir()), "the leaf is gone");
    assert_eq!(ping(&mut meant), ANSWERED);
}

#[test]
fn a_namespace_that_a_target_makes_later_is_hit() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let experiment = Experiment::apply(&scene.scenario(1, &[SILENCE]));
    let script =
        "ip link set lo up; for i in $(seq 100); do ping -q -c 1 -W 1 127.0.0.1 || exit 7; sleep 0.1; done";
    let mut inside = sh(&format!("exec unshare -n sh -c '{script}'"));
    let (_, status) = scene.struck(&mut inside).background().outcome(Duration::from_secs(60));
    assert_eq!(status.code(), Some(7), "no ping in the new namespace was lost");
    assert_eq!(experiment.end().only().injected, 1);
}

/// A second way between the sides, 10.97.0.0/24. It is open when this returns: a ping that is lost after it is lost
/// neither for want of a carrier nor of the other side's address.
fn join_again(pair: &Pair) {
    pair.client.ip(&format!("link add veth1 type veth peer name veth1 netns {}", pair.server.name()));
    for (netns, address) in [(&pair.client, "10.97.0.1"), (&pair.server, "10.97.0.2")] {
        netns.ip(&format!("address add {address}/24 dev veth1"));
        netns.ip("link set veth1 up");
    }
    for netns in [&pair.client, &pair.server] {
        wait_until(APPEARED, "carrier", || netns.ip("-o link show veth1").contains("state UP"));
    }
    // From outside of the target.
    sh("ping -q -c 1 -W 10 10.97.0.2").in_netns(&pair.client).text();
}

#[test]
fn a_device_that_appears_later_is_hit_also_by_its_name() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let named =
        "id = \"named\"\nkind = \"network.loss\"\nmatch = { protocol = \"icmp\", interface = \"veth1\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[named]));
    let mut agent = Agent::start(|command| scene.struck(command));
    join_again(&scene.pair);
    wait_until(APPEARED, "a ping by the new device is lost", || {
        agent.ask("ping('10.97.0.2', wait=1)") == LOST
    });
    assert_eq!(ping(&mut agent), ANSWERED, "the old device is not meant");
    // It goes, and comes again under another number.
    scene.pair.client.ip("link delete veth1");
    join_again(&scene.pair);
    wait_until(APPEARED, "a ping by the device that came again is lost", || {
        agent.ask("ping('10.97.0.2', wait=1)") == LOST
    });
    assert_eq!(experiment.end().only().injected, 2);
}

/// Puts a device of its own network on both ends of the pair. The machine's own kernel may lack a type: what
/// every one has is `macvlan`.
fn stack(pair: &Pair, kind: &str) {
    for (netns, address) in [(&pair.client, "10.96.0.1"), (&pair.server, "10.96.0.2")] {
        netns.ip(&format!("link add link {DEVICE} name upper0 type {kind}"));
        netns.ip(&format!("address add {address}/24 dev upper0"));
        netns.ip("link set upper0 up");
    }
}

#[test]
fn a_packet_that_crosses_stacked_devices_is_counted_once() {
    if !root_or_skip() {
        return;
    }
    // VLAN is a module that not every kernel has.
    let kinds: &[&str] = if crate::support::in_vm() {
        &["vlan id 5", "macvlan mode bridge"]
    } else {
        &["macvlan mode bridge"]
    };
    for kind in kinds {
        let scene = Scene::new();
        stack(&scene.pair, kind);
        let fault = "kind = \"network.loss\"\nnth = \"10+2\"\nmatch = { protocol = \"udp\" }";
        let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
        let mut agent = Agent::start(|command| scene.struck(command));
        let mut remote = Agent::start(|command| scene.remote(command));
        remote.ask("bind()");
        agent.ask("[udp('10.96.0.2') for _ in range(20)]");
        assert_eq!(remote.ask("received()"), 14, "{kind}");
        let fault = experiment.end().only();
        assert_eq!((fault.matched, fault.injected), (20, 6), "{kind}");
    }
}

#[test]
fn the_command_of_run_is_hit_and_its_status_passed_on() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut command = crate::support::injector();
    command.args(["--json", "run", "--fault", "network.loss=100%:match.protocol=icmp", "--", "ping", "-q"]);
    command.args(["-c", "1", "-W", "1", SERVER_V4]);
    let (text, status) = scene.spared(&mut command).background().outcome(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "ping's own status");
    let object: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(object["exit_status"], 1, "{object}");
    assert_eq!(object["faults"][0]["injected"], 1, "{object}");
}
