//! Faults that begin at an event, and what only looks for one.

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{DEVICE, Experiment, Located as _, Pair, SERVER_V4, root_or_skip};
use crate::talk::talker;

/// An agent that sends numbered datagrams, and one that tells which of them are missing.
struct Flow {
    client: Agent,
    server: Agent,
}

impl Flow {
    fn new(scene: &Scene, ports: &[u16]) -> Self {
        let mut client = Agent::start(|command| scene.struck(command));
        client.ask(&format!("udp('{SERVER_V4}', port=9)"));
        let mut server = Agent::start(|command| scene.remote(command));
        for port in ports {
            server.ask(&format!("bind({port})"));
        }
        Self { client, server }
    }

    /// Sends so many; returns the numbers of those that are lost.
    fn lost(&mut self, port: u16, count: u32) -> Vec<u32> {
        self.client.ask(&format!("burst('{SERVER_V4}', {port}, {count})"));
        serde_json::from_value(self.server.ask(&format!("missing({count}, {port})"))).unwrap()
    }
}

fn loss(port: u16, id: &str, when: &str) -> String {
    format!(
        "id = \"{id}\"\nkind = \"network.loss\"\nmatch = {{ protocol = \"udp\", remote_port = {port} }}\nwhen = {{ {when} }}"
    )
}

fn on_port(port: u16, count: u32) -> String {
    format!(
        "on = {{ kind = \"network\", match = {{ protocol = \"udp\", remote_port = {port} }}, count = {count} }}"
    )
}

#[test]
fn a_fault_begins_at_the_very_packet_that_it_waits_for() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut flow = Flow::new(&scene, &[5001, 5002, 5003]);
    let faults = [loss(5001, "same", &on_port(5001, 3)), loss(5003, "other", &on_port(5002, 3))];
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&scene.scenario(1, &faults));
    // The third is struck itself: it is observed first.
    assert_eq!(flow.lost(5001, 10), (2..10).collect::<Vec<_>>());
    assert_eq!(flow.lost(5003, 4), [0; 0]);
    assert_eq!(flow.lost(5002, 2), [0; 0]);
    assert_eq!(flow.lost(5003, 4), [0; 0], "the third is yet to come");
    assert_eq!(flow.lost(5002, 1), [0; 0], "who is looked at is not struck");
    assert_eq!(flow.lost(5003, 4), [0, 1, 2, 3]);
    let report = experiment.end();
    let counts = |id: &str| (report.fault(id).matched, report.fault(id).injected);
    assert_eq!(counts("same.on"), (10, 1));
    assert_eq!(counts("same"), (8, 8), "what came before the event did not match");
    assert_eq!((counts("other.on"), counts("other")), ((3, 1), (4, 4)));
}

/// Which of some echo requests are answered while echo is lost from the n-th answer on, at a device; and what was counted then.
fn answered(hook: &str, direction: &str, count: u32) -> (Vec<bool>, u64, u64) {
    let pair = Pair::new();
    let mut client = Agent::start(|command| command.in_netns(&pair.client));
    assert_eq!(client.ask(&format!("ping('{SERVER_V4}')")), 0);
    let fault = format!(
        "kind = \"network.loss\"\ndirection = \"{direction}\"\nmatch = {{ protocol = \"icmp\" }}\n\
         when = {{ on = {{ kind = \"network\", direction = \"ingress\", match = {{ protocol = \"icmp\" }}, count = {count} }} }}"
    );
    let text = scenario(1, &format!("interface = \"{DEVICE}\"\nhook = \"{hook}\""), &[&fault]);
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&pair.client));
    let answered = (0..4).map(|_| client.ask(&format!("ping('{SERVER_V4}')")) == 0).collect();
    let report = experiment.end();
    (answered, report.fault("network.loss-1.on").matched, report.fault("network.loss-1").injected)
}

#[test]
fn a_fault_of_one_direction_begins_by_a_packet_of_the_other() {
    if !root_or_skip() {
        return;
    }
    // No answer comes any more once no request leaves.
    assert_eq!(answered("tc", "egress", 2), (vec![true, true, false, false], 2, 2));
}

/// At XDP too, where an observer lets pass what it counts.
#[test]
fn what_arrives_at_xdp_begins_to_be_lost_at_a_packet() {
    if !root_or_skip() {
        return;
    }
    assert_eq!(answered("xdp", "ingress", 3), (vec![true, true, false, false], 4, 2));
}

#[test]
fn calls_begin_to_fail_at_a_packet() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let connect = "kind = \"network.connect\"\nerrno = \"EACCES\"\n\
                   when = { on = { kind = \"network\", match = { protocol = \"udp\", remote_port = 9 } } }";
    let experiment = Experiment::apply(&scene.scenario(1, &[connect]));
    let mut attempt =
        || client.ask(&format!("[open_tcp('x', '{SERVER_V4}', 7), udp('{SERVER_V4}', port=9)][0]"));
    assert_eq!([attempt(), attempt(), attempt()], ["ECONNREFUSED", "EACCES", "EACCES"]);
    assert_eq!(experiment.end().fault("network.connect-1").injected, 2);
}

#[test]
fn what_observes_counts_and_does_nothing() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut flow = Flow::new(&scene, &[5001, 5002]);
    let observe = |port: u16, keys: &str| {
        format!(
            "id = \"o{port}\"\nkind = \"network.observe\"\nmatch = {{ protocol = \"udp\", remote_port = {port} }}\n{keys}"
        )
    };
    let faults = [observe(5001, "nth = \"2+2\""), observe(5002, ""), observe(5003, "")];
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let expect = "[[expect]]\nfault = \"o5002\"\nmatched = \"== 7\"\n[[expect]]\nfault = \"o5003\"\nmatched = \"> 0\"\n";
    let experiment = Experiment::apply(&(scene.scenario(1, &faults) + expect));
    assert_eq!((flow.lost(5001, 9), flow.lost(5002, 7)), (vec![], vec![]));
    let report = experiment.end();
    let counts = |id: &str| (report.fault(id).matched, report.fault(id).injected);
    assert_eq!((counts("o5001"), counts("o5002"), counts("o5003")), ((9, 4), (7, 7), (0, 0)));
    let kept = report.object["expectations"].as_array().unwrap().iter().map(|one| one["ok"] == true);
    assert_eq!(kept.collect::<Vec<_>>(), [true, false]);
    // The expectation tells of it.
    assert_eq!(report.object["warnings"].as_array().unwrap().len(), 0, "{}", report.object);
}
