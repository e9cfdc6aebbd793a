//! Packets that come twice, damaged, marked, or with another window: as the receiver's stack and program see them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{Experiment, Located as _, Netns, Report, SERVER_V4, root_or_skip, wait_until};
use crate::timed::packets_can_wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// What both agents learn.
const ZEROS: &str = r#"
def zeros(host, port, count):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        for n in range(count):
            s.sendto(bytes(64), (host, port))

# For each datagram that has come, how many of its bits are not 0.
def bits(port, wait):
    found = []
    sockets[port].settimeout(wait)
    try:
        while True:
            found.append(int.from_bytes(sockets[port].recv(100), "big").bit_count())
    except TimeoutError:
        return found

# Takes one connection; the number of its bytes, and how many of their bits are not 0.
def take(port):
    listener = socket.create_server(("0.0.0.0", port))
    def read():
        data, c = b"", listener.accept()[0]
        while part := c.recv(65536):
            data += part
        sockets["taken"] = len(data), int.from_bytes(data, "big").bit_count()
    sockets["taker"] = threading.Thread(target=read, daemon=True)
    sockets["taker"].start()

def taken():
    sockets["taker"].join()
    return sockets.pop("taken")

def connect(host, port):
    with socket.create_connection((host, port)) as s:
        s.sendall(bytes(200_000))

# Sends 3 MB to whoever connects.
def serve():
    listener = socket.create_server(("0.0.0.0", 7001))
    def send():
        c, _ = listener.accept()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        c.sendall(bytes(3_000_000))
        c.close()
    threading.Thread(target=send, daemon=True).start()

# Connects with a small buffer, so that most of it is still to be sent, and reads when it is told to.
def fetch(host):
    s = sockets["fetch"] = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    s.connect((host, 7001))

def read():
    def run():
        n = 0
        while part := sockets["fetch"].recv(65536):
            n += len(part)
        sockets["read"] = n
    threading.Thread(target=run, daemon=True).start()
"#;

/// Datagrams to a port, and the counters of the receiver's stack that they may move.
const UDP_COUNTERS: [&str; 4] = ["IpExtInCsumErrors", "IpInHdrErrors", "UdpInErrors", "UdpInCsumErrors"];

/// A scene with both agents.
struct Stage {
    scene: Scene,
    client: Agent,
    server: Agent,
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let client = Agent::start_with(ZEROS, |command| scene.struck(command));
        let server = Agent::start_with(ZEROS, |command| scene.remote(command));
        Self { scene, client, server }
    }

    /// Sends 100 datagrams of zeros from the struck cgroup; for each that came, how many of its bits are not 0, and what the
    /// receiver's stack counted.
    #[track_caller]
    fn datagrams(&mut self, port: u16) -> (Vec<u32>, [u64; 4]) {
        let counted = || self.scene.pair.server.counters(&UDP_COUNTERS);
        let before = counted();
        self.client.ask(&format!("zeros('{SERVER_V4}', {port}, 100)"));
        let came = serde_json::from_value(self.server.ask(&format!("bits({port}, 0.5)"))).unwrap();
        let after = counted();
        (came, [0, 1, 2, 3].map(|n| after[n] - before[n]))
    }

    /// Sends 200 kB of zeros over TCP from the struck cgroup; returns how many bits of them arrive as 1.
    #[track_caller]
    fn bits_over_tcp(&mut self, port: u16) -> u64 {
        self.server.ask(&format!("take({port})"));
        self.client.ask(&format!("connect('{SERVER_V4}', {port})"));
        let taken = self.server.ask("taken()");
        assert_eq!(taken[0], 200_000);
        taken[1].as_u64().unwrap()
    }
}

/// A fault with an id, on datagrams to a port.
fn on_udp(id: &str, kind: &str, port: u16, keys: &str) -> String {
    let only = format!("match = {{ protocol = \"udp\", remote_port = {port} }}");
    format!("id = \"{id}\"\nkind = \"network.{kind}\"\n{keys}\n{only}")
}

/// A fault on TCP packets to a port that carry much.
fn on_tcp(kind: &str, port: u16, keys: &str) -> String {
    let only = format!("match = {{ protocol = \"tcp\", remote_port = {port}, length = \">= 1000\" }}");
    format!("id = \"{kind}\"\nkind = \"network.{kind}\"\n{keys}\n{only}")
}

#[track_caller]
fn failed<'a>(report: &'a Report, id: &str) -> &'a Value {
    &report.object["faults"].as_array().unwrap().iter().find(|fault| fault["id"] == id).unwrap()["failed"]
}

#[test]
fn datagrams_come_twice_or_damaged_or_are_found_damaged_by_the_stack() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let waits = packets_can_wait(&stage.scene);
    stage.server.ask("[bind(port) for port in range(5001, 5006)] and None");
    let mut faults = vec![
        on_udp("duplicate", "duplicate", 5001, "copies = 2\nnth = \"5+5\""),
        on_udp("corrupt-wire", "corrupt", 5002, "mode = \"wire\"\nnth = \"4+4\""),
        on_udp("corrupt-silent", "corrupt", 5003, "mode = \"silent\"\nnth = \"4+4\""),
        on_udp("corrupt-bits", "corrupt", 5004, "mode = \"silent\"\nbits = 12\noffset = 5"),
        on_udp("duplicate-late", "duplicate", 5005, "nth = \"2+2\""),
    ];
    if waits {
        // In front of the copies and behind them.
        faults.insert(0, on_udp("delay-before", "delay", 5005, "delay = \"20ms\""));
        faults.push(on_udp("delay-behind", "delay", 5005, "delay = \"30ms\""));
    }
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&stage.scene.scenario(1, &faults));

    let (came, counted) = stage.datagrams(5001);
    assert!(came.len() == 140 && came.iter().all(|bits| *bits == 0), "{came:?}");
    assert_eq!(counted, [0; 4], "{UDP_COUNTERS:?}");
    let (came, counted) = stage.datagrams(5002);
    assert!(came.len() == 75 && came.iter().all(|bits| *bits == 0), "{came:?}");
    assert_eq!(counted, [25, 25, 0, 0], "{UDP_COUNTERS:?}");
    let (came, counted) = stage.datagrams(5003);
    assert_eq!((came.len(), counted), (100, [0; 4]), "{UDP_COUNTERS:?}");
    assert_eq!(came.iter().filter(|bits| **bits == 1).count(), 25);
    let (came, counted) = stage.datagrams(5004);
    assert_eq!((came.len(), counted), (100, [0; 4]), "{UDP_COUNTERS:?}");
    assert!(came.iter().all(|bits| *bits == 12), "{came:?}");
    let (came, _) = stage.datagrams(5005);
    assert_eq!(came.len(), 150);

    let report = experiment.end();
    let mut expected = vec![
        ("duplicate", 20),
        ("corrupt-wire", 25),
        ("corrupt-silent", 25),
        ("corrupt-bits", 100),
        ("duplicate-late", 50),
    ];
    if waits {
        // A packet that is delayed and doubled counts once for each, and its copy for none.
        expected.extend([("delay-before", 100), ("delay-behind", 100)]);
    }
    for (id, injected) in expected {
        let fault = report.fault(id);
        assert_eq!((fault.matched, fault.injected, failed(&report, id)), (100, injected, &json!(0)), "{id}");
    }
}

#[test]
fn tcp_delivers_what_was_corrupted_silently_and_counts_what_was_marked() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    for netns in [&stage.scene.pair.client, &stage.scene.pair.server] {
        std::process::Command::new("sysctl").args(["-qw", "net.ipv4.tcp_ecn=1"]).in_netns(netns).text();
    }
    let faults =
        [on_tcp("corrupt", 7001, "mode = \"silent\"\nlimit = 3"), on_tcp("mark-ecn", 7002, "limit = 5")];
    let counted = |stage: &Stage| {
        let [again] = stage.scene.pair.client.counters(&["TcpRetransSegs"]);
        let [damaged, marked] = stage.scene.pair.server.counters(&["TcpInCsumErrors", "IpExtInCEPkts"]);
        [again, damaged, marked]
    };
    let before = counted(&stage);
    let experiment = Experiment::apply(&stage.scene.scenario(1, &faults.each_ref().map(String::as_str)));
    // Super-packets included.
    let bits = stage.bits_over_tcp(7001);
    let between = counted(&stage);
    assert_eq!(stage.bits_over_tcp(7002), 0);
    let after = counted(&stage);
    let report = experiment.end();
    assert_eq!((report.fault("corrupt").injected, bits), (3, 3));
    assert_eq!(between[1..], before[1..], "nobody has noticed");
    // What was flipped is not what the sender would send again: nobody asked for it either.
    assert!(between[0] - before[0] <= 2, "{} sent again", between[0] - before[0]);
    // A super-packet is counted as the segments that it stands for.
    let fault = report.fault("mark-ecn");
    assert_eq!((fault.injected, after[2] - between[2]), (5, fault.segments_injected));
    assert_eq!(failed(&report, "mark-ecn"), 0);
}

#[test]
fn copies_on_loopback_arrive_whichever_way_they_are_struck() {
    if !root_or_skip() {
        return;
    }
    let netns = Netns::new();
    let mut sender = Agent::start_with(ZEROS, |command| command.in_netns(&netns));
    let mut receiver = Agent::start_with(ZEROS, |command| command.in_netns(&netns));
    receiver.ask("bind(5001)");
    for direction in ["egress", "ingress"] {
        let fault = format!(
            "kind = \"network.duplicate\"\nnth = \"2+2\"\ndirection = \"{direction}\"\nmatch = {{ protocol = \"udp\" }}"
        );
        let text = scenario(1, "interface = \"lo\"", &[&fault]);
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(&netns));
        for host in ["127.0.0.1", "::1"] {
            sender.ask(&format!("zeros('{host}', 5001, 20)"));
            let came = receiver.ask("bits(5001, 1)");
            assert_eq!(came.as_array().unwrap().len(), 30, "{direction}, to {host}");
        }
        assert_eq!(experiment.end().only().injected, 20, "{direction}: copies are not decided over");
    }
}

#[test]
fn a_zero_window_stalls_the_sender_and_it_goes_on_when_the_window_opens() {
    if !root_or_skip() {
        return;
    }
    let Stage { scene, mut client, mut server } = Stage::new();
    server.ask("serve()");
    client.ask(&format!("fetch('{SERVER_V4}')"));
    let fault = "kind = \"network.window\"\nmatch = { protocol = \"tcp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    client.ask("read()");
    let persists = || {
        let mut ss = std::process::Command::new("ss");
        ss.args(["-Htno", "sport = :7001"]).in_netns(&scene.pair.server).text().contains("timer:(persist")
    };
    // The program reads, so the window would be open; to the sender it stays closed.
    std::thread::sleep(Duration::from_millis(1500));
    wait_until(PATIENCE, "the sender probes a closed window", persists);
    assert!(client.ask("sockets.get('read')").is_null(), "the window is open");
    let report = experiment.end().only();
    assert!(report.injected > 0);
    wait_until(PATIENCE, "all of it", || client.ask("sockets.get('read')") == 3_000_000);
}
