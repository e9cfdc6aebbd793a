//! What else a packet can be: a datagram that is sent in fragments.

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{DEVICE, Experiment, root_or_skip};

/// Keys of a `match`, and how many of three fragments it means. That many are lost.
const FRAGMENTS: [(&str, u64); 4] = [
    ("protocol = \"udp\"", 3),
    // Later fragments have no ports.
    ("protocol = \"udp\", remote_port = 5001", 1),
    ("protocol = \"udp\", remote_port = 5002", 0),
    // Nor are they spared by one.
    ("protocol = \"udp\", not = { remote_port = 5001 }", 2),
];
/// The server's addresses are these and a number: that of a row, or of none.
const SERVERS: [&str; 2] = ["10.99.0.1", "fd99::1"];
const NO_ROW: usize = FRAGMENTS.len();

#[test]
fn fragments_are_packets_of_which_the_first_alone_has_ports() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = Agent::start(|command| scene.struck(command));
    let mut server = Agent::start(|command| scene.remote(command));
    server.ask("bind()");
    for row in 0..=NO_ROW {
        let [v4, v6] = SERVERS.map(|server| format!("{server}{row}"));
        scene.pair.server.ip(&format!("address add {v4}/32 dev {DEVICE}"));
        scene.pair.server.ip(&format!("address add {v6}/128 dev {DEVICE} nodad"));
        // Both sides know each other, so that nothing waits for a neighbour.
        for address in [v4, v6] {
            assert_eq!(client.ask(&format!("ping('{address}')")), 0, "{address}");
        }
    }
    let fault = |(row, (keys, _)): (usize, (&str, u64))| {
        let remote = SERVERS.map(|server| format!("{server}{row}"));
        format!("id = \"row-{row}\"\nkind = \"network.loss\"\nmatch = {{ remote = {remote:?}, {keys} }}")
    };
    let faults: Vec<String> = FRAGMENTS.into_iter().enumerate().map(fault).collect();
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&scene.scenario(1, &faults));
    for (server_is, names) in
        SERVERS.into_iter().zip([["IpReasmReqds", "IpReasmOKs"], ["Ip6ReasmReqds", "Ip6ReasmOKs"]])
    {
        // How many fragments arrive, how many datagrams are whole, how many the program gets.
        let mut send = |row: usize| {
            let before = scene.pair.server.counters(&names);
            client.ask(&format!("udp('{server_is}{row}', size=4000)"));
            let received = server.ask("received()").as_u64().unwrap();
            let after = scene.pair.server.counters(&names);
            (after[0] - before[0], after[1] - before[1], received)
        };
        assert_eq!(send(NO_ROW), (3, 1, 1), "{server_is} without a fault");
        for (row, (keys, meant)) in FRAGMENTS.into_iter().enumerate() {
            let whole = u64::from(meant == 0);
            assert_eq!(send(row), (3 - meant, whole, whole), "{server_is} under {keys}");
        }
    }
    let report = experiment.end();
    for (row, (keys, meant)) in FRAGMENTS.into_iter().enumerate() {
        let fault = report.fault(&format!("row-{row}"));
        // A fragment is a packet on the wire.
        let counted = (fault.matched, fault.injected, fault.segments_injected);
        assert_eq!(counted, (2 * meant, 2 * meant, 2 * meant), "{keys}");
    }
}
