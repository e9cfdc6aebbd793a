//! What arrives at a cgroup and is changed, copied and kept back: told by the socket where it arrives, of neighbours on one device.
//!
//! Both servers are there before the experiment, so the first packet that arrives at each finds a socket that no program has seen made.

use std::process::Command;

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Netns, SERVER_V4, root_or_skip,
};
use crate::timed::packets_can_wait;

const ECHO: &str = r#"
def echo_datagrams(s):
    while True:
        s.sendto(*s.recvfrom(65536))

def echo_stream(s):
    while data := s.recv(65536):
        s.sendall(data)

def echo_streams(s):
    while True:
        threading.Thread(target=echo_stream, args=(s.accept()[0],), daemon=True).start()

# Sends back what comes, of both protocols and families.
def echo(port):
    bind(port)
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    for serve, on in (echo_datagrams, sockets[port]), (echo_streams, s):
        threading.Thread(target=serve, args=(on,), daemon=True).start()

def took_ms(call):
    begun = time.monotonic_ns()
    call()
    return (time.monotonic_ns() - begun) / 1e6

def udp_trip(host, port):
    with socket.socket(family(host), socket.SOCK_DGRAM) as s:
        s.settimeout(60)
        return took_ms(lambda: (s.sendto(b"trip", (host, port)), s.recv(64)))

# A connection, and a question and its answer on it.
def tcp_trips(host, port):
    with socket.socket(family(host), socket.SOCK_STREAM) as s:
        s.settimeout(60)
        return [took_ms(lambda: s.connect((host, port))), took_ms(lambda: (s.sendall(b"trip"), s.recv(64)))]

# The numbers of a burst as they came.
def numbers(port):
    came, s = [], sockets[port]
    s.settimeout(0.3)
    try:
        while True:
            came.append(int.from_bytes(s.recv(64), "big"))
    except TimeoutError:
        return came
"#;

/// The struck server and its neighbour, both at the client.
fn servers(scene: &Scene) -> [Agent; 2] {
    let struck = Agent::start_with(ECHO, |command| scene.struck(command));
    [struck, Agent::start_with(ECHO, |command| scene.spared(command))]
}

const BEYOND: &str = "10.98.0.2";

/// A namespace to which the server gets through the client alone.
fn beyond(scene: &Scene) -> Netns {
    let (beyond, client) = (Netns::new(), &scene.pair.client);
    client.ip(&format!("link add veth1 type veth peer name veth0 netns {}", beyond.name()));
    for (netns, device, address) in [(client, "veth1", "10.98.0.1"), (&beyond, "veth0", BEYOND)] {
        netns.ip(&format!("address add {address}/24 dev {device}"));
        netns.ip(&format!("link set {device} up"));
    }
    scene.pair.server.ip(&format!("route add 10.98.0.0/24 via {CLIENT_V4}"));
    Command::new("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).in_netns(client).text();
    beyond
}

fn apply(scene: &Scene, faults: &[(&str, &str)]) -> Experiment {
    let faults: Vec<String> =
        faults.iter().map(|(kind, keys)| format!("kind = \"network.{kind}\"\n{keys}")).collect();
    Experiment::apply(&scene.scenario(1, &faults.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Milliseconds that a question took, the fastest of a few: an emulated machine is late at times, and never early.
fn fastest(agent: &mut Agent, question: &str) -> Vec<f64> {
    let one = |agent: &mut Agent| match agent.ask(question) {
        serde_json::Value::Array(times) => times.iter().map(|time| time.as_f64().unwrap()).collect(),
        time => vec![time.as_f64().unwrap()],
    };
    let rounds: [Vec<f64>; 3] = std::array::from_fn(|_| one(agent));
    (0..rounds[0].len()).map(|n| rounds.iter().map(|round| round[n]).fold(f64::MAX, f64::min)).collect()
}

#[test]
fn what_arrives_at_a_cgroup_waits_and_what_arrives_at_its_neighbour_does_not() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let [mut struck, mut neighbour] = servers(&scene);
    let mut remote = Agent::start_with(ECHO, |command| scene.remote(command));
    for (agent, port) in [(&mut struck, 7100), (&mut neighbour, 7200), (&mut remote, 7300)] {
        agent.ask(&format!("echo({port})"));
    }
    let listing = || (scene.pair.client.tc("qdisc show"), scene.pair.client.ip("-br link"));
    let before = listing();
    let experiment = apply(
        &scene,
        &[
            ("delay", "direction = \"both\"\ndelay = \"40ms\"\nmatch = { protocol = \"udp\" }"),
            ("delay", "direction = \"ingress\"\ndelay = \"30ms\"\nmatch = { protocol = \"udp\" }"),
            ("delay", "direction = \"ingress\"\ndelay = \"50ms\"\nmatch = { protocol = \"tcp\" }"),
        ],
    );
    // From beyond the veth, and on loopback.
    for (agent, host) in [(true, CLIENT_V4), (true, CLIENT_V6), (false, "127.0.0.1"), (false, "::1")] {
        let agent = if agent { &mut remote } else { &mut neighbour };
        let udp = fastest(agent, &format!("udp_trip({host:?}, 7100)"));
        assert!(udp[0] >= 110.0, "{host}: {udp:?}");
        let tcp = fastest(agent, &format!("tcp_trips({host:?}, 7100)"));
        assert!(tcp.iter().all(|time| (50.0..100.0).contains(time)), "{host}: {tcp:?}");
        for question in ["udp_trip", "tcp_trips"] {
            let times = fastest(agent, &format!("{question}({host:?}, 7200)"));
            assert!(times.iter().all(|time| *time < 40.0), "{host}: {question} {times:?}");
        }
    }
    // As a client too, whose sockets are made under the experiment.
    let question = format!("tcp_trips({SERVER_V4:?}, 7300)");
    let (own, others) = (fastest(&mut struck, &question), fastest(&mut neighbour, &question));
    assert!(
        own.iter().all(|time| *time >= 50.0) && others.iter().all(|time| *time < 50.0),
        "{own:?} {others:?}"
    );
    let report = experiment.end();
    // Three rounds from four places, once each way.
    assert_eq!(report.fault("network.delay-1").injected, 24, "{report:?}");
    assert_eq!(report.fault("network.delay-2").injected, 12, "{report:?}");
    assert_eq!(listing(), before, "something was left");
}

#[test]
fn what_arrives_at_a_cgroup_is_lost_copied_and_changed_on_one_path() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let beyond = beyond(&scene);
    let [mut struck, mut neighbour] = servers(&scene);
    let mut remote = Agent::start_with(ECHO, |command| scene.remote(command));
    let mut forwarded = Agent::start_with(ECHO, |command| command.in_netns(&beyond));
    struck.ask("bind(5001)");
    neighbour.ask("bind(5002)");
    // Its packets come by the struck server, which takes what comes for the same port.
    forwarded.ask("bind(5001)");
    let udp = "direction = \"ingress\"\nmatch = { protocol = \"udp\" }";
    let experiment = apply(
        &scene,
        &[
            ("loss", &format!("nth = \"4+4\"\n{udp}")),
            ("duplicate", &format!("nth = \"5+5\"\n{udp}")),
            ("corrupt", &format!("mode = \"silent\"\noffset = 0\n{udp}")),
        ],
    );
    for host in [CLIENT_V4, CLIENT_V6] {
        for port in [5001, 5002] {
            remote.ask(&format!("burst({host:?}, {port}, 20)"));
        }
    }
    neighbour.ask("burst('127.0.0.1', 5001, 20)");
    remote.ask(&format!("burst({BEYOND:?}, 5001, 20)"));
    let numbers = |agent: &mut Agent, port| -> Vec<u32> {
        serde_json::from_value(agent.ask(&format!("numbers({port})"))).unwrap()
    };
    let (came, others) = (numbers(&mut struck, 5001), numbers(&mut neighbour, 5002));
    let passed = numbers(&mut forwarded, 5001);
    let report = experiment.end();
    let [loss, copies, changes] =
        ["loss", "duplicate", "corrupt"].map(|kind| report.fault(&format!("network.{kind}-1")));
    assert_eq!((loss.matched, loss.injected), (60, 15), "{report:?}");
    // What is lost on one stage never reaches the next, and copies are not decided again.
    assert_eq!((copies.matched, copies.injected), (45, 9), "{report:?}");
    assert_eq!((changes.matched, changes.injected), (45, 45), "{report:?}");
    assert_eq!(came.len(), 54, "{came:?}");
    assert!(came.iter().all(|number| number >> 24 != 0), "{came:?}");
    assert_eq!(passed, (0..20).collect::<Vec<u32>>());
    assert_eq!(others, (0..20).chain(0..20).collect::<Vec<u32>>());
    let left = scene.pair.client.tc(&format!("filter show dev {DEVICE} ingress"));
    assert_eq!(left, "", "something was left");
}
