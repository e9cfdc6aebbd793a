//! What leaves and what arrives, in both families, and what nobody's socket sends.

use crate::agent::Agent;
use crate::matrix::{Matrix, Row};
use crate::scene::Scene;
use crate::support::{CLIENT_V4, CLIENT_V6, Experiment, Netns, SERVER_V4, SERVER_V6, root_or_skip};

/// The struck cgroup listens and sends; the other side does too.
struct Sides {
    scene: Scene,
    struck: Agent,
    remote: Agent,
}

impl Sides {
    fn new() -> Self {
        let scene = Scene::new();
        let mut struck = Agent::start(|command| scene.struck(command));
        let mut remote = Agent::start(|command| scene.remote(command));
        for agent in [&mut struck, &mut remote] {
            agent.ask("listen()");
            agent.ask("bind()");
        }
        for address in [SERVER_V4, SERVER_V6] {
            assert_eq!(struck.ask(&format!("ping('{address}')")), 0);
        }
        Self { scene, struck, remote }
    }
}

const ICMP: &str = "protocol = [\"icmp\", \"icmp6\"]";
const CONNECTIONS: &str = "in-tcp4* in-tcp6* out-tcp4* out-tcp6*";

/// What comes from the other side is `in-`, what the struck cgroup begins is `out-`.
const ROWS: &[(&str, &str, &str)] = &[
    ("ingress", "protocol = \"udp\"", "in-udp4 in-udp6 self-udp4"),
    ("egress", "protocol = \"udp\"", "out-udp4 out-udp6 self-udp4"),
    ("ingress", "protocol = \"udp\", local_port = 5001", "in-udp4 in-udp6 self-udp4"),
    ("ingress", "protocol = \"udp\", remote_port = 5001", ""),
    ("ingress", "protocol = \"udp\", interface = \"veth0\"", "in-udp4 in-udp6"),
    ("ingress", "protocol = \"udp\", device_exclude = \"veth0\"", "self-udp4"),
    ("egress", "protocol = \"udp\", interface = \"lo\"", "self-udp4"),
    // The request leaves and the reply arrives; the kernel itself answers those of others.
    ("egress", ICMP, "out-ping4 out-ping6"),
    ("ingress", ICMP, "out-ping4 out-ping6"),
    ("ingress", "protocol = \"tcp\"", CONNECTIONS),
    ("egress", "protocol = \"tcp\"", CONNECTIONS),
    // A listener owns the handshake.
    ("ingress", "protocol = \"tcp\", tcp_flags = \"syn,!ack\"", "in-tcp4 in-tcp6"),
    ("egress", "protocol = \"tcp\", tcp_flags = \"syn,!ack\"", "out-tcp4 out-tcp6"),
    ("ingress", "protocol = \"tcp\", tcp_flags = \"syn,ack\"", "out-tcp4 out-tcp6"),
    ("egress", "protocol = \"tcp\", tcp_flags = \"syn,ack\"", "in-tcp4 in-tcp6"),
    ("ingress", "protocol = \"tcp\", tcp_flags = \"psh\"", "in-tcp4 in-tcp6"),
    ("egress", "protocol = \"tcp\", tcp_flags = \"psh\"", "out-tcp4 out-tcp6"),
    ("ingress", "protocol = \"tcp\", local_port = 7001", "in-tcp4* in-tcp6*"),
    ("ingress", "protocol = \"tcp\", remote_port = 7001", "out-tcp4* out-tcp6*"),
    ("ingress", "local = \"10.99.0.1\", remote = \"10.99.0.2\"", "in-udp4 in-tcp4* out-tcp4* out-ping4"),
    ("ingress", "local = \"10.99.0.2\"", ""),
];

#[test]
fn what_leaves_and_what_arrives_is_told_apart_and_seen_from_the_target() {
    if !root_or_skip() {
        return;
    }
    let Sides { scene, mut struck, mut remote } = Sides::new();
    let row =
        |&(direction, keys, hits): &(&'static str, &'static str, &'static str)| Row { direction, keys, hits };
    let mut matrix = Matrix::new(&scene, ROWS.iter().map(row).collect(), "");
    for (family, here, there) in [(4, CLIENT_V4, SERVER_V4), (6, CLIENT_V6, SERVER_V6)] {
        for what in ["udp", "tcp", "ping"] {
            matrix.probe(&format!("in-{what}{family}"), || drop(remote.ask(&format!("{what}('{here}')"))));
            matrix.probe(&format!("out-{what}{family}"), || drop(struck.ask(&format!("{what}('{there}')"))));
        }
    }
    matrix.probe("self-udp4", || drop(struck.ask("udp('127.0.0.1')")));
    // What the kernel says for closed ports belongs to no socket of the target.
    for address in [CLIENT_V4, CLIENT_V6] {
        matrix.probe("refused", || {
            assert_eq!(remote.ask(&format!("refused('{address}', 9)")), "ConnectionRefusedError");
        });
        matrix.probe("unreachable", || drop(remote.ask(&format!("udp('{address}', port=9)"))));
    }
    matrix.finish();
}

#[test]
fn what_the_kernel_itself_answers_for_a_silenced_target_is_nobodys() {
    if !root_or_skip() {
        return;
    }
    let Sides { scene, mut struck, mut remote } = Sides::new();
    // Who closes first waits.
    struck.ask(&format!("tcp('{SERVER_V4}', local_port=45000)"));
    let experiment =
        Experiment::apply(&scene.scenario(1, &["kind = \"network.loss\"\ndirection = \"both\""]));
    let sent = || scene.pair.client.counter("TcpOutSegs");
    let before = sent();
    remote.ask(&format!("stray('{SERVER_V4}', 7001, '{CLIENT_V4}', 45000)"));
    crate::support::wait_until(std::time::Duration::from_secs(5), "an ACK of TIME-WAIT", || sent() > before);
    for address in [CLIENT_V4, CLIENT_V6] {
        // A port on which nobody listens.
        assert_eq!(remote.ask(&format!("refused('{address}', 9)")), "ConnectionRefusedError");
        assert_eq!(remote.ask(&format!("ping('{address}')")), 0);
    }
    assert_eq!(experiment.end().only().matched, 0);
}

#[test]
fn what_arrives_is_lost_before_the_program_sees_it_and_the_sender_is_not_told() {
    if !root_or_skip() {
        return;
    }
    let Sides { scene, mut struck, mut remote } = Sides::new();
    let fault = |id: &str, keys: &str, only: &str| {
        let direction = "direction = \"ingress\"";
        format!("id = \"{id}\"\nkind = \"network.loss\"\n{direction}\n{keys}\nmatch = {{ {only} }}")
    };
    let (udp, replies) = (fault("udp", "nth = \"2+2\"", "protocol = \"udp\""), fault("replies", "", ICMP));
    let experiment = Experiment::apply(&scene.scenario(1, &[&udp, &replies]));
    for (there, here) in [(SERVER_V4, CLIENT_V4), (SERVER_V6, CLIENT_V6)] {
        for _ in 0..10 {
            assert!(remote.ask(&format!("udp('{here}')")).is_null());
        }
        assert_eq!(struck.ask("received()"), 5, "{here}");
        // A ping whose reply is lost fails. Those of others the kernel answers.
        assert_eq!(struck.ask(&format!("ping('{there}', count=3, wait=1)")), 1, "{there}");
        assert_eq!(remote.ask(&format!("ping('{here}')")), 0, "{here}");
    }
    // What the target itself sends is not meant.
    struck.ask(&format!("[udp('{SERVER_V4}') for _ in range(10)]"));
    assert_eq!(remote.ask("received()"), 10);
    let report = experiment.end();
    let udp = report.fault("udp");
    assert_eq!((udp.matched, udp.injected, report.fault("replies").injected), (20, 10, 6));
}

/// How many SYNs, and how many segments of any kind, a side has sent again.
fn resent(netns: &Netns) -> [u64; 2] {
    netns.counters(&["TcpExtTCPSynRetrans", "TcpRetransSegs"])
}

#[test]
fn a_lost_syn_is_sent_again_by_whoever_connects() {
    if !root_or_skip() {
        return;
    }
    let Sides { scene, mut struck, mut remote } = Sides::new();
    let syn = |direction: &str| {
        format!(
            "kind = \"network.loss\"\ndirection = \"{direction}\"\nlimit = 1\n\
             match = {{ protocol = \"tcp\", tcp_flags = \"syn,!ack\" }}"
        )
    };
    // A slow machine may send more again than what was lost, but no other SYN: that waits a second.
    let assert_resent = |netns: &Netns, before: [u64; 2]| {
        let [syns, segments] = resent(netns);
        assert!(syns == before[0] + 1 && segments > before[1], "{before:?} to {syns}, {segments}");
    };
    let (client, server) = (&scene.pair.client, &scene.pair.server);
    let (client_before, server_before) = (resent(client), resent(server));
    let experiment = Experiment::apply(&scene.scenario(1, &[&syn("egress")]));
    assert_eq!(struck.ask(&format!("tcp('{SERVER_V4}')")), 0);
    assert_resent(client, client_before);
    let fault = experiment.end().only();
    assert_eq!((fault.injected, fault.spared_by_limit), (1, 1));
    let experiment = Experiment::apply(&scene.scenario(1, &[&syn("ingress")]));
    assert_eq!(remote.ask(&format!("tcp('{CLIENT_V4}')")), 0);
    assert_resent(server, server_before);
    assert_eq!(experiment.end().only().injected, 1);
}
