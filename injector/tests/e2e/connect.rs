//! Calls that fail: the errno reaches the program, nothing reaches the network, and nobody else is struck.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{
    CLIENT_V4, CLIENT_V6, Cgroup, Experiment, Located as _, SERVER_V4, SERVER_V6, injector, python,
    root_or_skip,
};

/// How long many calls may take. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// An address of the server, as an IPv6 socket names an IPv4 one.
const SERVER_MAPPED: &str = "::ffff:10.99.0.2";
const HOSTS: [&str; 3] = [SERVER_V4, SERVER_V6, SERVER_MAPPED];

/// Each returns the name of the errno with which its call fails, or None.
const CALLS: &str = r#"
import errno, socket

def failure(call):
    try:
        call()
    except OSError as e:
        return errno.errorcode[e.errno]

def made(host, kind):
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)

def connect(host, port, kind=socket.SOCK_STREAM, blocking=True):
    with made(host, kind) as s:
        s.setblocking(blocking)
        return failure(lambda: s.connect((host, port)))

def connect_udp(host, port):
    return connect(host, port, socket.SOCK_DGRAM)

def bind(host, port, kind=socket.SOCK_STREAM):
    with made(host, kind) as s:
        return failure(lambda: s.bind((host, port)))

def sendto(host, port):
    with made(host, socket.SOCK_DGRAM) as s:
        return failure(lambda: s.sendto(b"datagram", (host, port)))

# Connects, and then sends without an address.
def send(host, port):
    with made(host, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        return failure(lambda: s.send(b"datagram"))

kept = None
# Makes a socket, or a connection, for later.
def keep(s):
    global kept
    kept = s
"#;

/// A client that can make calls.
fn caller(place: impl FnOnce(&mut Command) -> &mut Command) -> Agent {
    let mut agent = Agent::start(place);
    // Python takes a JSON string of ASCII for one of its own.
    agent.ask(&format!("exec({}, globals())", json!(CALLS)));
    agent
}

/// A server that listens on some ports, for both families.
fn server(scene: &Scene, tcp: &[u16], udp: &[u16]) -> Agent {
    let mut agent = Agent::start(|command| scene.remote(command));
    for port in tcp {
        agent.ask(&format!("listen({port})"));
    }
    for port in udp {
        agent.ask(&format!("bind({port})"));
    }
    agent
}

#[test]
fn a_connection_fails_with_the_errno_and_no_packet_leaves() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let _server = server(&scene, &[7001, 7002], &[]);
    let sibling = Cgroup::new();
    let mut struck = caller(|command| scene.struck(command));
    let mut spared = caller(|command| command.in_cgroup(&sibling).in_netns(&scene.pair.client));
    struck.ask(&format!("keep(socket.create_connection(('{SERVER_V4}', 7001)))"));
    let fault = "kind = \"network.connect\"\nerrno = \"ECONNREFUSED\"\nmatch = { remote_port = 7001 }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    let came = ["TcpInSegs", "UdpNoPorts", "UdpInDatagrams", "IcmpInMsgs"];
    let before = scene.pair.server.counters(&came);
    for host in HOSTS {
        for call in ["connect", "connect_udp"] {
            assert_eq!(struck.ask(&format!("{call}('{host}', 7001)")), "ECONNREFUSED", "{call} {host}");
        }
        // At once, and not as EINPROGRESS.
        let call = format!("connect('{host}', 7001, blocking=False)");
        assert_eq!(struck.ask(&call), "ECONNREFUSED", "{call}");
    }
    assert_eq!(scene.pair.server.counters(&came), before, "{came:?}");

    for host in HOSTS {
        assert_eq!(struck.ask(&format!("connect('{host}', 7002)")), Value::Null, "another port, {host}");
        assert_eq!(spared.ask(&format!("connect('{host}', 7001)")), Value::Null, "a sibling, {host}");
    }
    // A connection that was there before goes on to its end.
    assert_eq!(struck.ask("(kept.sendall(b'more'), kept.shutdown(socket.SHUT_WR), len(kept.recv(1)))[2]"), 0);
    let report = experiment.end();
    assert_eq!(report.object["faults"][0]["mechanism"], "cgroup connect");
    let fault = report.only();
    assert_eq!((fault.matched, fault.injected, fault.segments_injected), (9, 9, 9));
    assert_eq!(struck.ask(&format!("connect('{SERVER_V4}', 7001)")), Value::Null, "after the end");
}

#[test]
fn a_port_is_taken_for_the_target_alone() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let fault = "kind = \"network.connect\"\nerrno = \"EADDRINUSE\"\noperations = \"bind\"\nmatch = { local_port = 8080 }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    let mut struck = caller(|command| scene.struck(command));
    let mut spared = caller(|command| scene.spared(command));
    let mapped = format!("::ffff:{CLIENT_V4}");
    for host in ["0.0.0.0", CLIENT_V4, CLIENT_V6, &mapped] {
        for kind in ["socket.SOCK_STREAM", "socket.SOCK_DGRAM"] {
            let call = |port: u16| format!("bind('{host}', {port}, {kind})");
            assert_eq!(struck.ask(&call(8080)), "EADDRINUSE", "{}", call(8080));
            assert_eq!(struck.ask(&call(8081)), Value::Null, "{}", call(8081));
            assert_eq!(spared.ask(&call(8080)), Value::Null, "a bystander: {}", call(8080));
        }
    }
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (8, 8));
}

#[test]
fn sends_that_name_an_address_fail_and_packets_and_calls_keep_to_their_own_rules() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut server = server(&scene, &[], &[5001]);
    // It strikes nothing, and counts the packets.
    let count =
        "id = \"packets\"\nkind = \"network.loss\"\nnth = \"1000000\"\nmatch = { protocol = \"udp\" }";
    let refuse = "id = \"calls\"\nkind = \"network.connect\"\nerrno = \"EPERM\"\noperations = [\"sendmsg\"]\n\
                  match = { remote = [\"10.99.0.2\"] }";
    let experiment = Experiment::apply(&scene.scenario(1, &[count, refuse]));
    let mut struck = caller(|command| scene.struck(command));
    for host in [SERVER_V4, SERVER_MAPPED] {
        assert_eq!(struck.ask(&format!("sendto('{host}', 5001)")), "EPERM", "{host}");
    }
    assert_eq!(struck.ask(&format!("send('{SERVER_V4}', 5001)")), Value::Null, "a connected socket");
    assert_eq!(struck.ask(&format!("sendto('{SERVER_V6}', 5001)")), Value::Null, "another address");
    assert_eq!(server.ask("received()"), 2);
    // The kernel gives the address of a connection to a mapped one with each send, as if the program had.
    assert_eq!(struck.ask(&format!("send('{SERVER_MAPPED}', 5001)")), "EPERM", "connected and mapped");
    let report = experiment.end();
    let [packets, calls] = ["packets", "calls"].map(|id| report.fault(id));
    assert_eq!((packets.matched, packets.injected), (2, 0));
    assert_eq!((calls.matched, calls.injected), (3, 3));
}

#[test]
fn calls_are_struck_by_their_number_up_to_the_limit_and_reproducibly() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let _server = server(&scene, &[7001], &[]);
    let mut struck = caller(|command| scene.struck(command));
    let mut outcomes = |seed, keys: &str, calls: u32| {
        let fault = format!("kind = \"network.connect\"\nerrno = 110\n{keys}");
        let experiment = Experiment::apply(&scene.scenario(seed, &[&fault]));
        let all = struck.ask(&format!("[connect('{SERVER_V4}', 7001) for n in range({calls})]"));
        let failed: Vec<bool> = all.as_array().unwrap().iter().map(|one| one == "ETIMEDOUT").collect();
        let fault = experiment.end().only();
        assert_eq!(
            (fault.matched, fault.injected),
            (u64::from(calls), failed.iter().filter(|f| **f).count() as u64)
        );
        (failed, fault)
    };
    let (failed, _) = outcomes(1, "nth = \"2+2\"", 6);
    assert_eq!(failed, [false, true, false, true, false, true]);
    let (failed, fault) = outcomes(1, "limit = 2", 5);
    assert_eq!(failed, [true, true, false, false, false]);
    assert_eq!(fault.spared_by_limit, 3);
    let (failed, _) = outcomes(7, "probability = \"30%\"", 100);
    let share = failed.iter().filter(|failed| **failed).count();
    assert!((13..=47).contains(&share), "{share} of 100, which happens once in 5,000 times");
    assert_eq!(outcomes(7, "probability = \"30%\"", 100).0, failed, "the same seed");
}

#[test]
fn a_target_within_a_target_meets_the_rules_of_both_once() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let _server = server(&scene, &[7001, 7002], &[]);
    let inner = scene.cgroup.child("inner");
    let fault = |target: &str, errno: &str, port: u16| {
        format!(
            "[[fault]]\nid = \"{target}\"\ntarget = \"{target}\"\nkind = \"network.connect\"\nerrno = \"{errno}\"\n\
             match = {{ remote_port = {port} }}\n"
        )
    };
    let text = format!(
        "[target.outer]\ncgroup = \"{}\"\n[target.inner]\ncgroup = \"{}\"\n{}{}",
        scene.cgroup.path(),
        inner.path(),
        fault("outer", "EPERM", 7001),
        fault("inner", "ENETDOWN", 7002)
    );
    let experiment = Experiment::apply(&text);
    let outcomes =
        |agent: &mut Agent| [7001, 7002].map(|port| agent.ask(&format!("connect('{SERVER_V4}', {port})")));
    let mut in_inner = caller(|command| command.in_cgroup(&inner).in_netns(&scene.pair.client));
    assert_eq!(outcomes(&mut in_inner), ["EPERM", "ENETDOWN"]);
    let mut in_outer = caller(|command| scene.struck(command));
    assert_eq!(outcomes(&mut in_outer), [json!("EPERM"), Value::Null]);
    let report = experiment.end();
    let counts = ["outer", "inner"].map(|id| (report.fault(id).matched, report.fault(id).injected));
    assert_eq!(counts, [(2, 2), (1, 1)]);
}

#[test]
fn a_socket_of_another_cgroup_is_not_struck() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let _server = server(&scene, &[7001], &[]);
    let mut moved = caller(|command| scene.spared(command));
    moved.ask("keep(made('', socket.SOCK_STREAM))");
    let experiment =
        Experiment::apply(&scene.scenario(1, &["kind = \"network.connect\"\nerrno = \"EPERM\""]));
    scene.cgroup.add(moved.pid());
    assert_eq!(moved.ask(&format!("failure(lambda: kept.connect(('{SERVER_V4}', 7001)))")), Value::Null);
    assert_eq!(moved.ask(&format!("connect('{SERVER_V4}', 7001)")), "EPERM");
    assert_eq!(experiment.end().only().matched, 1);
}

#[test]
fn an_inline_fault_strikes_the_command() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let _server = server(&scene, &[7001, 7002], &[]);
    let program = format!(
        "{CALLS}\nprint(connect('{SERVER_V4}', 7001), connect('{SERVER_V4}', 7002), connect('{SERVER_V6}', 7001))"
    );
    let command = python(&program);
    let mut run = injector();
    run.args(["run", "--fault", "network.connect=ECONNREFUSED:match.remote_port=7001:match.family=4", "--"]);
    run.arg(command.get_program()).args(command.get_args());
    assert_eq!(run.in_netns(&scene.pair.client).text(), "ECONNREFUSED None None\n");
}

#[test]
fn other_ways_to_connect_are_struck_too() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    // Sockets of ICMP, of which every group may make one here.
    let range = "net.ipv4.ping_group_range=0 2147483647";
    Command::new("sysctl").args(["-qw", range]).in_netns(&scene.pair.client).text();
    let mut struck = caller(|command| scene.struck(command));
    let icmp = |family: &str, host: &str| {
        format!(
            "failure(lambda: socket.socket(socket.{family}, socket.SOCK_DGRAM, socket.IPPROTO_ICMP{}).connect(('{host}', 0)))",
            if family == "AF_INET6" { "V6" } else { "" }
        )
    };
    let mut ways = vec![
        // MSG_FASTOPEN connects by the first send.
        format!(
            "failure(lambda: made('', socket.SOCK_STREAM).sendto(b'early', 0x20000000, ('{SERVER_V4}', 7001)))"
        ),
        icmp("AF_INET", SERVER_V4),
        icmp("AF_INET6", SERVER_V6),
    ];
    if std::path::Path::new("/proc/sys/net/mptcp").exists() {
        // IPPROTO_MPTCP: its first subflow connects.
        let made = "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)";
        ways.push(format!("failure(lambda: {made}.connect(('{SERVER_V4}', 7001)))"));
    }
    let experiment =
        Experiment::apply(&scene.scenario(1, &["kind = \"network.connect\"\nerrno = \"ENETDOWN\""]));
    for way in &ways {
        assert_eq!(struck.ask(way), "ENETDOWN", "{way}");
    }
    assert_eq!(experiment.end().only().injected, ways.len() as u64);
}

#[test]
fn the_counters_are_exact_where_many_call_at_once() {
    if !root_or_skip() {
        return;
    }
    const EACH: u64 = 2000;
    const PROCESSES: u64 = 4;
    let scene = Scene::new();
    let fault = "kind = \"network.connect\"\nerrno = \"ENETDOWN\"\nprobability = \"50%\"";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    // More processes than this machine has CPUs: they preempt each other wherever the kernel lets them.
    let call =
        format!("{CALLS}\nprint(sum(connect_udp('{SERVER_V4}', 9) == 'ENETDOWN' for n in range({EACH})))");
    let mut all: Vec<_> = (0..PROCESSES).map(|_| scene.struck(&mut python(&call)).background()).collect();
    let failed: u64 = all.iter_mut().map(|one| one.finish(PATIENCE).trim().parse::<u64>().unwrap()).sum();
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (PROCESSES * EACH, failed));
    assert_eq!((fault.segments_matched, fault.segments_injected), (PROCESSES * EACH, failed));
}
