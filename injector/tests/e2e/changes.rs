//! Packets that come twice, damaged, marked, or with another window: as the receiver's stack and program see them.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scene::Scene;
use crate::support::{Experiment, Located as _, SERVER_V4, python, root_or_skip, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Takes datagrams until it is terminated; says how often each came, and how many bits of each differ from 0.
const COUNT: &str = r#"
import json, signal, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.bind((sys.argv[1], int(sys.argv[2])))
s.settimeout(0.1)
over = False
def end(*_):
    global over
    over = True
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
bits = []
while True:
    try:
        bits.append(int.from_bytes(s.recv(65536), "big").bit_count())
    except TimeoutError:
        if over:
            break
print(json.dumps(bits))
"#;

const SEND: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[3])):
    s.sendto(bytes(64), (sys.argv[1], int(sys.argv[2])))
";

/// Sends so many datagrams of zeros from the struck cgroup; for each that came, how many of its bits are not 0.
fn bits_of_what_comes(scene: &Scene, count: u32) -> Vec<u32> {
    let mut receive = python(COUNT);
    let mut receiver = scene.remote(receive.args([SERVER_V4, "5001"])).background();
    receiver.wait_for_line("ready");
    let mut send = python(SEND);
    scene.struck(send.args([SERVER_V4, "5001", &count.to_string()])).background().finish(PATIENCE);
    receiver.signal(Signal::SIGTERM);
    serde_json::from_str(&receiver.finish(PATIENCE)).unwrap()
}

#[test]
fn a_duplicated_packet_comes_once_more_for_each_copy() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let fault = "kind = \"network.duplicate\"\ncopies = 2\nnth = \"5+5\"\nmatch = { protocol = \"udp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    let came = bits_of_what_comes(&scene, 100);
    let report = experiment.end().only();
    // The copies are not counted again.
    assert_eq!((report.matched, report.injected), (100, 20));
    assert_eq!(came.len(), 140);
    assert!(came.iter().all(|bits| *bits == 0));
}

#[test]
fn wire_corruption_is_found_by_the_stack_and_silent_corruption_reaches_the_program() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let server = &scene.pair.server;
    let names = ["IpExtInCsumErrors", "IpInHdrErrors", "UdpInErrors", "UdpInCsumErrors"];
    let corrupt = |keys: &str| {
        let before = server.counters(&names);
        let fault = format!("kind = \"network.corrupt\"\n{keys}\nmatch = {{ protocol = \"udp\" }}");
        let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
        let came = bits_of_what_comes(&scene, 100);
        let report = experiment.end();
        assert_eq!(report.object["faults"][0]["failed"], 0, "{keys}");
        let after = server.counters(&names);
        let counted = [0, 1, 2, 3].map(|n| after[n] - before[n]);
        (came, report.only().injected, counted)
    };
    let (came, injected, counted) = corrupt("mode = \"wire\"\nnth = \"4+4\"");
    assert_eq!((came.len(), injected), (75, 25));
    assert_eq!(counted, [25, 25, 0, 0], "{names:?}");
    assert!(came.iter().all(|bits| *bits == 0));

    let (came, injected, counted) = corrupt("mode = \"silent\"\nnth = \"4+4\"");
    assert_eq!((came.len(), injected, counted), (100, 25, [0; 4]));
    assert_eq!(came.iter().filter(|bits| **bits == 1).count(), 25);

    let (came, _, counted) = corrupt("mode = \"silent\"\nbits = 12\noffset = 5");
    assert_eq!((came.len(), counted), (100, [0; 4]));
    assert!(came.iter().all(|bits| *bits == 12), "{came:?}");
}

/// Sends 200 kB of zeros over TCP from the struck cgroup; returns how many bits of them arrive as 1.
fn bits_over_tcp(scene: &Scene) -> u64 {
    let receive = r#"
import socket, sys
s = socket.create_server((sys.argv[1], 7001))
print("ready", flush=True)
c, _ = s.accept()
data = b""
while part := c.recv(65536):
    data += part
print(len(data), int.from_bytes(data, "big").bit_count())
"#;
    let send = r"
import socket, sys
with socket.create_connection((sys.argv[1], 7001)) as s:
    s.sendall(bytes(200_000))
";
    let mut command = python(receive);
    let mut receiver = scene.remote(command.arg(SERVER_V4)).background();
    receiver.wait_for_line("ready");
    scene.struck(python(send).arg(SERVER_V4)).background().finish(PATIENCE);
    let text = receiver.finish(PATIENCE);
    let (length, bits) = text.trim().split_once(' ').unwrap();
    assert_eq!(length, "200000");
    bits.parse().unwrap()
}

#[test]
fn tcp_delivers_what_was_corrupted_silently_super_packets_included() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let fault = "kind = \"network.corrupt\"\nmode = \"silent\"\nlimit = 3\nmatch = { protocol = \"tcp\", length = \">= 1000\" }";
    let retransmitted = scene.pair.client.counter("TcpRetransSegs");
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    let bits = bits_over_tcp(&scene);
    let report = experiment.end().only();
    assert_eq!((report.injected, bits), (3, 3));
    assert_eq!(scene.pair.server.counter("TcpInCsumErrors"), 0);
    // What was flipped is not what the sender would send again: nobody asked for it either.
    assert!(scene.pair.client.counter("TcpRetransSegs") - retransmitted <= 2);
}

#[test]
fn marked_packets_are_counted_as_congestion_by_the_receiver() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    for netns in [&scene.pair.client, &scene.pair.server] {
        std::process::Command::new("sysctl").args(["-qw", "net.ipv4.tcp_ecn=1"]).in_netns(netns).text();
    }
    let fault =
        "kind = \"network.mark-ecn\"\nmatch = { protocol = \"tcp\", length = \">= 1000\" }\nlimit = 5";
    let before = scene.pair.server.counter("IpExtInCEPkts");
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    assert_eq!(bits_over_tcp(&scene), 0);
    let report = experiment.end();
    assert_eq!(report.object["faults"][0]["failed"], 0);
    let marked = scene.pair.server.counter("IpExtInCEPkts") - before;
    // A super-packet is counted as the segments that it stands for.
    let fault = report.only();
    assert_eq!((fault.injected, marked), (5, fault.segments_injected));
}

#[test]
fn a_zero_window_stalls_the_sender_and_it_goes_on_when_the_window_opens() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let serve = r#"
import socket, sys
s = socket.create_server((sys.argv[1], 7001))
print("ready", flush=True)
c, _ = s.accept()
c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
c.sendall(bytes(3_000_000))
c.close()
"#;
    // Connects with a small buffer, so that most of it is still to be sent, and reads when it is told to.
    let fetch = r#"
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
s.connect((sys.argv[1], 7001))
print("connected", flush=True)
sys.stdin.readline()
n = 0
while part := s.recv(65536):
    n += len(part)
print(n)
"#;
    let mut command = python(serve);
    let mut server = scene.remote(command.arg(SERVER_V4)).background();
    server.wait_for_line("ready");
    let mut command = python(fetch);
    let client = scene.struck(command.arg(SERVER_V4));
    let mut client = client
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map(Reader::new)
        .unwrap();
    client.wait_for("connected");
    let fault = "kind = \"network.window\"\nmatch = { protocol = \"tcp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    client.go_on();
    let persists = || {
        let mut ss = std::process::Command::new("ss");
        ss.args(["-Htno", "sport = :7001"]).in_netns(&scene.pair.server).text().contains("timer:(persist")
    };
    // The program reads, so the window would be open; to the sender it stays closed.
    std::thread::sleep(Duration::from_millis(1500));
    wait_until(PATIENCE, "the sender probes a closed window", persists);
    assert!(client.is_running(), "the window is open");
    let report = experiment.end().only();
    assert!(report.injected > 0);
    assert_eq!(client.rest(), "3000000");
}

/// The client of the test above.
struct Reader(std::process::Child, std::io::BufReader<std::process::ChildStdout>);

impl Reader {
    fn new(mut child: std::process::Child) -> Self {
        let stdout = child.stdout.take().unwrap();
        Self(child, std::io::BufReader::new(stdout))
    }

    fn wait_for(&mut self, line: &str) {
        let mut read = String::new();
        std::io::BufRead::read_line(&mut self.1, &mut read).unwrap();
        assert_eq!(read.trim(), line);
    }

    fn go_on(&mut self) {
        std::io::Write::write_all(self.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn rest(&mut self) -> String {
        let mut read = String::new();
        std::io::Read::read_to_string(&mut self.1, &mut read).unwrap();
        read.trim().to_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
