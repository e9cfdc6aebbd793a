//! A whole device as the target: both directions, and what is spared so that its operator stays connected.
//!
//! The controller runs in the client's namespace: the device is looked for where injector is.

use crate::agent::Agent;
use crate::scene::scenario;
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Pair, SERVER_V4, SERVER_V6, root_or_skip,
};

const BOTH: &str = "kind = \"network.loss\"\ndirection = \"both\"";
pub(crate) const GATEWAY_V4: &str = "10.99.0.254";
pub(crate) const GATEWAY_V6: &str = "fd99::fe";

/// Two sides, and a default gateway of the client that the server answers for.
pub(crate) struct Sides {
    pub(crate) pair: Pair,
    pub(crate) client: Agent,
    pub(crate) server: Agent,
}

impl Sides {
    pub(crate) fn new() -> Self {
        let pair = Pair::new();
        // Deprecated addresses are not chosen as a source: the server is not the gateway.
        pair.server.ip(&format!("address add {GATEWAY_V4}/24 dev {DEVICE}"));
        pair.server.ip(&format!("address add {GATEWAY_V6}/64 dev {DEVICE} nodad preferred_lft 0"));
        pair.client.ip(&format!("route add default via {GATEWAY_V4}"));
        pair.client.ip(&format!("-6 route add default via {GATEWAY_V6}"));
        let mut client = Agent::start(|command| command.in_netns(&pair.client));
        let mut server = Agent::start(|command| command.in_netns(&pair.server));
        for agent in [&mut client, &mut server] {
            for port in [22, 7001] {
                agent.ask(&format!("listen({port})"));
            }
            agent.ask("bind()");
        }
        Self { pair, client, server }
    }

    fn apply(&self, faults: &[&str]) -> Experiment {
        let text = scenario(1, &format!("interface = \"{DEVICE}\""), faults);
        Experiment::apply_with(&text, |command| command.in_netns(&self.pair.client))
    }

    /// Forgets who is where, so that ARP and neighbour discovery have to work.
    pub(crate) fn forget_neighbours(&self) {
        for netns in [&self.pair.client, &self.pair.server] {
            netns.ip(&format!("neigh flush dev {DEVICE}"));
        }
    }
}

#[test]
fn a_struck_device_is_silent_but_for_ssh_neighbours_and_the_gateway() {
    if !root_or_skip() {
        return;
    }
    let mut sides = Sides::new();
    let experiment = sides.apply(&[BOTH]);
    sides.forget_neighbours();
    for (here, there, gateway) in [(CLIENT_V4, SERVER_V4, GATEWAY_V4), (CLIENT_V6, SERVER_V6, GATEWAY_V6)] {
        assert_eq!(sides.client.ask(&format!("ping('{there}', wait=1)")), 1, "to {there}");
        assert_eq!(sides.server.ask(&format!("ping('{here}', wait=1)")), 1, "from {there}");
        assert_eq!(sides.client.ask(&format!("ping('{gateway}')")), 0, "to the gateway {gateway}");
        // An operator's session on this host, from its first packet on.
        assert_eq!(sides.server.ask(&format!("tcp('{here}', port=22)")), 0, "to the SSH port of {here}");
        sides.server.ask(&format!("udp('{here}', port=5001)"));
    }
    assert_eq!(sides.client.ask("received()"), 0, "UDP");
    let report = experiment.end();
    assert!(report.only().injected >= 6, "{report:?}");
    for address in [SERVER_V4, SERVER_V6] {
        assert_eq!(sides.client.ask(&format!("ping('{address}')")), 0, "{address} after the end");
    }
}

#[test]
fn what_match_names_is_not_spared() {
    if !root_or_skip() {
        return;
    }
    let mut sides = Sides::new();
    let port =
        "kind = \"network.loss\"\ndirection = \"both\"\nmatch = { protocol = \"tcp\", local_port = 22 }";
    let gateway =
        format!("kind = \"network.loss\"\nmatch = {{ protocol = \"icmp\", remote = \"{GATEWAY_V4}\" }}");
    let experiment = sides.apply(&[port, &gateway]);
    assert_eq!(sides.client.ask(&format!("ping('{GATEWAY_V4}', wait=1)")), 1);
    assert_eq!(sides.client.ask(&format!("ping('{SERVER_V4}')")), 0);
    let connect = format!("refused('{CLIENT_V4}', 22, timeout=1.5)");
    assert_eq!(sides.server.ask(&connect), "TimeoutError");
    assert_eq!(sides.server.ask(&format!("tcp('{CLIENT_V4}')")), 0, "another port");
    drop(experiment);
    assert!(sides.server.ask(&connect).is_null());
}

#[test]
fn the_directions_and_the_families_of_a_device_are_told_apart() {
    if !root_or_skip() {
        return;
    }
    let mut sides = Sides::new();
    let ways = [("egress", 5001, 5, 10), ("ingress", 5002, 10, 5)];
    let mut faults = Vec::new();
    for (direction, port, ..) in ways {
        for side in ["remote", "local"] {
            faults.push(format!(
                "kind = \"network.loss\"\ndirection = \"{direction}\"\nnth = \"1+2\"\n\
                 match = {{ protocol = \"udp\", {side}_port = {port}, interface = \"{DEVICE}\" }}"
            ));
        }
    }
    // A family that the device does not have is never met, and the report says so.
    faults.push(
        "id = \"six\"\nkind = \"network.loss\"\ndirection = \"both\"\nmatch = { family = 6 }".to_owned(),
    );
    for (netns, agent) in [(&sides.pair.client, &mut sides.client), (&sides.pair.server, &mut sides.server)] {
        let off = format!("net.ipv6.conf.{DEVICE}.disable_ipv6=1");
        std::process::Command::new("sysctl").args(["-qw", &off]).in_netns(netns).text();
        agent.ask("bind(5002)");
    }
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = sides.apply(&faults);
    for (direction, port, leaves, arrives) in ways {
        sides.client.ask(&format!("[udp('{SERVER_V4}', {port}) for _ in range(10)]"));
        sides.server.ask(&format!("[udp('{CLIENT_V4}', {port}) for _ in range(10)]"));
        assert_eq!(sides.server.ask(&format!("received({port})")), leaves, "{direction}");
        assert_eq!(sides.client.ask(&format!("received({port})")), arrives, "{direction}");
    }
    let report = experiment.end();
    assert_eq!(report.fault("six").matched, 0, "{report:?}");
    assert!(report.object["warnings"].to_string().contains("six"), "{report:?}");
}
