//! Devices whose frames do not begin with an Ethernet header, which programs of their own are for. A tun device
//! is one: what it sends a process reads, and what that writes it receives.

use std::fs::File;
use std::io;
use std::time::Duration;

use nix::libc::{ENODEV, ENOENT};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{Background, Experiment, Located as _, in_vm, python, root_or_skip};
use crate::talk::talker;

const HERE: [&str; 2] = ["10.96.0.1", "fd96::1"];
pub(crate) const BEYOND: [&str; 2] = ["10.96.0.2", "fd96::2"];

/// Counts the datagrams to port 5001 that leave by the device, and on SIGUSR1 sends 20 of each family to it.
const PEER: &str = r#"
import fcntl, json, os, select, signal, socket, struct
from socket import AF_INET, AF_INET6

tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
# TUNSETIFF with IFF_TUN and IFF_NO_PI: packets as they are, with nothing in front.
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", b"tun0", 0x1001))

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def datagram(family, source, destination):
    source, destination = socket.inet_pton(family, source), socket.inet_pton(family, destination)
    body = bytes(100)
    udp = lambda check: struct.pack("!HHHH", 40000, 5001, 8 + len(body), check) + body
    pseudo = source + destination + struct.pack("!II", 8 + len(body), 17)
    udp = udp(checksum(pseudo + udp(0)))
    if family == AF_INET6:
        return struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + source + destination + udp
    head = lambda check: struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, check) + source + destination
    return head(checksum(head(0))) + udp

def send(*_):
    for family, source, destination in ((AF_INET, "10.96.0.2", "10.96.0.1"), (AF_INET6, "fd96::2", "fd96::1")):
        for _ in range(20):
            os.write(tun, datagram(family, source, destination))
    print("sent", flush=True)

over = False
def end(*_):
    global over
    over = True

signal.signal(signal.SIGUSR1, send)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
seen = [0, 0]
while True:
    if select.select([tun], [], [], 0.1)[0]:
        packet = os.read(tun, 65536)
        v6 = packet[0] >> 4 == 6
        protocol, transport = (packet[6], 40) if v6 else (packet[9], (packet[0] & 15) * 4)
        if protocol == 17 and packet[transport + 2:transport + 4] == (5001).to_bytes(2, "big"):
            seen[v6] += 1
    elif over:
        break
print(json.dumps(seen))
"#;

/// Whether this kernel has such devices. In the emulated machines it must.
pub(crate) fn has_tun() -> bool {
    let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") else { return true };
    let lacking = |error: &io::Error| [ENOENT, ENODEV].map(Some).contains(&error.raw_os_error());
    assert!(lacking(&error) && !in_vm(), "only a lack of tun is a reason to skip: {error}");
    false
}

/// The device `tun0` of the client, and the process behind it. The device goes with the process.
pub(crate) struct Tun(Background);

impl Tun {
    pub(crate) fn new(scene: &Scene) -> Self {
        let mut process = scene.spared(&mut python(PEER)).background();
        process.wait_for_line("ready");
        let client = &scene.pair.client;
        client.ip("link set tun0 addrgenmode none");
        client.ip(&format!("address add {}/24 dev tun0", HERE[0]));
        client.ip(&format!("address add {}/64 dev tun0 nodad", HERE[1]));
        client.ip("link set tun0 up");
        assert!(client.ip("-o link show tun0").contains("link/none"), "it has no Ethernet header");
        Self(process)
    }

    /// Lets 20 datagrams of each family come in.
    fn send(&mut self) {
        self.0.signal(Signal::SIGUSR1);
        self.0.wait_for_line("sent");
    }

    /// How many datagrams of each family have left.
    fn seen(mut self) -> Value {
        self.0.signal(Signal::SIGTERM);
        serde_json::from_str(&self.0.finish(Duration::from_secs(60))).unwrap()
    }
}

/// Sends 20 datagrams of each family by the device.
fn send(agent: &mut Agent) {
    for address in BEYOND {
        agent.ask(&format!("[udp('{address}') for _ in range(20)]"));
    }
}

#[test]
fn what_leaves_a_cgroup_by_a_device_without_ethernet_is_hit() {
    if !root_or_skip() || !has_tun() {
        return;
    }
    let scene = Scene::new();
    let tun = Tun::new(&scene);
    let mut struck = Agent::start(|command| scene.struck(command));
    let mut spared = Agent::start(|command| scene.spared(command));
    // Ports and lengths are read behind headers of either family.
    let fault = "kind = \"network.loss\"\nnth = \"1+2\"\n\
                 match = { protocol = \"udp\", remote_port = 5001, length = \"128..148\", interface = \"tun0\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    send(&mut struck);
    send(&mut spared);
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (40, 20));
    send(&mut struck);
    assert_eq!(
        tun.seen(),
        serde_json::json!([10 + 20 + 20, 10 + 20 + 20]),
        "struck, spared, and after the end"
    );
}

#[test]
fn a_device_without_ethernet_is_hit_in_both_directions() {
    if !root_or_skip() || !has_tun() {
        return;
    }
    let scene = Scene::new();
    let mut tun = Tun::new(&scene);
    let mut agent = Agent::start(|command| scene.spared(command));
    agent.ask("bind()");
    let fault = |direction: &str, port: &str| {
        format!(
            "id = \"{direction}\"\nkind = \"network.loss\"\ndirection = \"{direction}\"\nnth = \"1+2\"\n\
             match = {{ protocol = \"udp\", {port} = 5001 }}"
        )
    };
    let (leaves, arrives) = (fault("egress", "remote_port"), fault("ingress", "local_port"));
    let text = scenario(1, "interface = \"tun0\"", &[&leaves, &arrives]);
    let experiment = Experiment::apply_with(&text, |command| scene.spared(command));
    send(&mut agent);
    tun.send();
    assert_eq!(agent.ask("received()"), 20, "half of 40");
    let report = experiment.end();
    for direction in ["egress", "ingress"] {
        let fault = report.fault(direction);
        assert_eq!((fault.matched, fault.injected), (40, 20), "{direction}");
    }
    tun.send();
    assert_eq!(agent.ask("received()"), 40, "after the end");
    assert_eq!(tun.seen(), serde_json::json!([10, 10]));
}

#[test]
fn what_leaves_by_a_device_without_ethernet_is_answered() {
    if !root_or_skip() || !has_tun() {
        return;
    }
    let scene = Scene::new();
    let tun = Tun::new(&scene);
    let mut struck = talker(|command| scene.struck(command));
    let reset = "kind = \"network.reset\"\nmatch = { protocol = \"tcp\" }";
    let reject = "kind = \"network.reject\"\nicmp = \"admin-prohibited\"\nmatch = { protocol = \"udp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[reset, reject]));
    for (host, errno) in BEYOND.into_iter().zip(["EHOSTUNREACH", "EACCES"]) {
        assert_eq!(struck.ask(&format!("open_tcp('c', '{host}', 7001)")), "ECONNREFUSED", "{host}");
        struck.ask(&format!("open_udp('d', '{host}', 5001)"));
        assert!(struck.ask("send('d', 101)").is_null());
        assert_eq!(struck.ask("receive('d')"), errno, "{host}");
    }
    let report = experiment.end();
    assert_eq!(
        (&report.object["faults"][0]["failed"], &report.object["faults"][1]["failed"]),
        (&0.into(), &0.into())
    );
    let wrong = ["TcpInErrs", "IcmpInCsumErrors", "Icmp6InCsumErrors", "IpInHdrErrors"];
    assert_eq!(scene.pair.client.counters(&wrong), [0; 4], "{wrong:?}");
    assert_eq!(tun.seen(), serde_json::json!([0, 0]));
}
