//! The whole `match` table on real packets: for every row what must be hit, and that nothing else is.

use crate::agent::Agent;
use crate::matrix::{Matrix, Row};
use crate::scene::Scene;
use crate::support::{CLIENT_V4, DEVICE, SERVER_V4, SERVER_V6, root_or_skip};

/// What is sent from the struck cgroup, each by itself. Datagrams have 100 bytes and go to port 5001.
const PROBES: [(&str, &str); 16] = [
    ("udp4", "udp('10.99.0.2', local_port=40001)"),
    ("long4", "udp('10.99.0.2', size=1000)"),
    ("ef4", "udp('10.99.0.2', tos=46 << 2)"),
    ("port4", "udp('10.99.0.2', port=6005, local_port=40005)"),
    ("from4", "udp('10.99.0.2', local='10.99.0.9')"),
    ("near4", "udp('10.98.1.1')"),
    ("far4", "udp('10.98.2.1')"),
    ("dev4", "udp('10.97.0.2')"),
    ("udp6", "udp('fd99::2')"),
    ("ef6", "udp('fd99::2', tos=46 << 2)"),
    ("far6", "udp('fd98::1')"),
    ("ping4", "ping('10.99.0.2')"),
    ("ping6", "ping('fd99::2')"),
    ("tcp4", "tcp('10.99.0.2')"),
    ("rst4", "reset('10.99.0.2')"),
    ("tcp6", "tcp('fd99::2')"),
];

const UDP: &str = "udp4 long4 ef4 port4 from4 near4 far4 dev4 udp6 ef6 far6";
const TCP: &str = "tcp4* rst4* tcp6*";

/// A `match` table, and the probes of which it must mean a packet: exactly one, or with `*` at least one.
const ROWS: &[(&str, &str)] = &[
    // protocol
    ("protocol = \"tcp\"", TCP),
    ("protocol = \"udp\"", UDP),
    ("protocol = 17", UDP),
    ("protocol = \"icmp\"", "ping4"),
    ("protocol = \"icmp6\"", "ping6"),
    ("protocol = [\"icmp\", \"icmp6\"]", "ping4 ping6"),
    // ports
    ("local_port = 40001", "udp4"),
    ("local_port = \"40000-40010\"", "udp4 port4"),
    ("local_port = [40005, \"40100-40200\"]", "port4"),
    ("remote_port = 6005", "port4"),
    ("remote_port = \"6000-6010\"", "port4"),
    ("remote_port = [7001, \"6000-6010\"]", "port4 tcp4* rst4* tcp6*"),
    ("protocol = \"tcp\", remote_port = 5001", ""),
    // addresses
    ("remote = \"10.98.1.1\"", "near4"),
    ("remote = \"10.98.0.0/16\"", "near4 far4"),
    ("remote = \"10.98.0.0/23\"", "near4"),
    ("remote = [\"10.98.0.0/16\", \"10.98.1.0/24\"]", "near4 far4"),
    ("remote = \"fd98::/64\"", "far6"),
    ("remote = \"far\"", "far4 far6"),
    ("remote = [\"far\", \"10.98.1.1\"]", "near4 far4 far6"),
    ("remote = \"10.98.0.0/16\", not = { remote = \"10.98.1.0/24\" }", "far4"),
    ("remote = \"0.0.0.0/0\", protocol = [\"icmp\", \"icmp6\"]", "ping4"),
    ("remote = \"::/0\", family = 6", "udp6 ef6 far6 ping6 tcp6*"),
    ("local = \"10.99.0.9\"", "from4"),
    ("local = \"fd99::/64\"", "udp6 ef6 far6 ping6 tcp6*"),
    ("local = \"10.97.0.0/16\"", "dev4"),
    // TCP flags
    ("protocol = \"tcp\", tcp_flags = \"syn\"", "tcp4 rst4 tcp6"),
    ("protocol = \"tcp\", tcp_flags = \"syn,ack\"", ""),
    ("protocol = \"tcp\", tcp_flags = \"ack,!syn\"", TCP),
    ("protocol = \"tcp\", tcp_flags = \"psh\"", "tcp4 tcp6"),
    ("protocol = \"tcp\", tcp_flags = \"pure-ack\"", TCP),
    ("protocol = \"tcp\", tcp_flags = \"fin\"", "tcp4 tcp6"),
    ("protocol = \"tcp\", tcp_flags = \"rst\"", "rst4"),
    ("protocol = \"tcp\", tcp_flags = [\"fin\", \"rst\"]", "tcp4 rst4 tcp6"),
    ("protocol = \"tcp\", established = true", TCP),
    ("protocol = \"tcp\", established = false", "tcp4 rst4 tcp6"),
    // length of the IP packet
    ("length = \">= 1000\"", "long4"),
    ("length = \"== 128\"", "udp4 ef4 port4 from4 near4 far4 dev4"),
    ("length = \"100..148\", family = 6, protocol = \"udp\"", "udp6 ef6 far6"),
    ("length = \"< 90\", protocol = [\"icmp\", \"icmp6\"]", "ping4"),
    // code point
    ("dscp = 46", "ef4 ef6"),
    ("dscp = \"ef\"", "ef4 ef6"),
    ("dscp = [\"af41\", 46], family = 6", "ef6"),
    ("dscp = 0, protocol = \"udp\", family = 6", "udp6 far6"),
    // family and devices
    ("family = 4", "udp4 long4 ef4 port4 from4 near4 far4 dev4 ping4 tcp4* rst4*"),
    ("family = 6", "udp6 ef6 far6 ping6 tcp6*"),
    ("interface = \"veth1\"", "dev4"),
    ("interface = \"veth0\", protocol = [\"icmp\", \"icmp6\"]", "ping4 ping6"),
    ("interface = [\"veth1\", \"absent0\"]", "dev4"),
    ("device_exclude = \"veth0\"", "dev4"),
    ("device_exclude = [\"veth0\", \"veth1\"]", ""),
    // not
    ("not = { protocol = \"udp\" }", "ping4 ping6 tcp4* rst4* tcp6*"),
    ("protocol = \"udp\", not = { remote_port = 5001 }", "port4"),
    ("protocol = \"udp\", not = { family = 4 }", "udp6 ef6 far6"),
    ("protocol = \"tcp\", not = { tcp_flags = [\"fin\", \"ack\"] }", "tcp4 rst4 tcp6"),
];

/// Gives both sides a second device, and addresses beyond the first network.
fn widen(scene: &Scene) {
    let (client, server) = (&scene.pair.client, &scene.pair.server);
    client.ip(&format!("link add veth1 type veth peer name veth1 netns {}", server.name()));
    client.ip("address add 10.97.0.1/24 dev veth1");
    server.ip("address add 10.97.0.2/24 dev veth1");
    client.ip("link set veth1 up");
    server.ip("link set veth1 up");
    client.ip(&format!("address add 10.99.0.9/24 dev {DEVICE}"));
    client.ip(&format!("route add 10.98.0.0/16 dev {DEVICE} src {CLIENT_V4}"));
    client.ip(&format!("-6 route add fd98::/64 dev {DEVICE}"));
    server.ip(&format!("address add 10.98.1.1/32 dev {DEVICE}"));
    server.ip(&format!("address add 10.98.2.1/32 dev {DEVICE}"));
    server.ip(&format!("address add fd98::1/128 dev {DEVICE} nodad"));
}

#[test]
fn every_key_of_match_means_what_it_says_and_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    widen(&scene);
    let mut server = Agent::start(|command| scene.remote(command));
    server.ask("listen()");
    let mut client = Agent::start(|command| scene.struck(command));
    // Neighbours are known from here on, and a ping that is let through shows that the way is open.
    for address in [SERVER_V4, SERVER_V6, "10.98.1.1", "10.98.2.1", "10.97.0.2", "fd98::1"] {
        assert_eq!(client.ask(&format!("ping('{address}')")), 0, "{address}");
    }
    let rows: Vec<Row> = ROWS.iter().map(|&(keys, hits)| Row { direction: "egress", keys, hits }).collect();
    let peers = "[peers.far]\naddresses = [\"10.98.2.0/24\", \"fd98::/64\"]\n";
    let mut matrix = Matrix::new(&scene, rows, peers);
    for (name, python) in PROBES {
        matrix.probe(name, || drop(client.ask(python)));
    }
    matrix.finish();
}
