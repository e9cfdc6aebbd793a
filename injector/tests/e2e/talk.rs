//! Connections and sockets that stay open between two questions to an agent, and what their calls answer.

use std::process::Command;

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{DEVICE, Experiment, Located as _, Netns, Pair};

/// What the agent learns. Calls answer with what they got, or with the name of their error; `timeout` is none of the kernel's.
const TALK: &str = r#"
import errno
sockets.clear()

def attempt(call):
    try:
        return call()
    except OSError as e:
        return errno.errorcode[e.errno] if e.errno else "timeout"

def pattern(size):
    return (bytes(range(256)) * (size // 256 + 1))[:size]

def serve(port):
    s = sockets[port] = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    s.settimeout(30)

def open_tcp(name, host, port):
    s = sockets[name] = socket.socket(family(host), socket.SOCK_STREAM)
    # Blocking: one that polls is told of an error while the SYN is still sent again (`ip_icmp_error` in `tcp_v4_err`).
    return attempt(lambda: s.connect((host, port)))

def take(name, port):
    sockets[name] = sockets[port].accept()[0]

def open_udp(name, host, port, recverr=True):
    s = sockets[name] = socket.socket(family(host), socket.SOCK_DGRAM)
    if recverr:
        # IPV6_RECVERR, IP_RECVERR
        s.setsockopt(*((socket.IPPROTO_IPV6, 25, 1) if ":" in host else (socket.IPPROTO_IP, 11, 1)))
    s.connect((host, port))

def send(name, size):
    sockets[name].settimeout(30)
    return attempt(lambda: sockets[name].sendall(pattern(size)))

def receive(name, wait=30):
    sockets[name].settimeout(wait)
    return attempt(lambda: len(sockets[name].recv(65536)))

# How many bytes come, and what ends them.
def drain_all(name):
    total = 0
    while type(got := receive(name)) is int and got:
        total += got
    return [total, got]

# What the error queue says of the last error: errno, origin, type, code, info, and whether the packet is quoted.
def error_queue(name, size):
    data, ancillary, _, _ = sockets[name].recvmsg(65536, 512, socket.MSG_ERRQUEUE)
    number, origin, kind, code, _, info, _ = struct.unpack("=IBBBBII", ancillary[0][2][:16])
    quoted = len(data) > 0 and data == pattern(size)[:len(data)]
    return [errno.errorcode[number], origin, kind, code, info, len(data) if quoted else None]

def shut(name):
    sockets.pop(name).close()
"#;

/// An agent that can talk.
pub(crate) fn talker(place: impl FnOnce(&mut Command) -> &mut Command) -> Agent {
    let mut agent = Agent::start(place);
    agent.ask(&format!("exec({}, globals())", serde_json::to_string(TALK).unwrap()));
    agent
}

/// What must not grow when the packets that we make are right.
const WRONG: [&str; 7] = [
    "TcpInErrs",
    "TcpInCsumErrors",
    "IpInHdrErrors",
    "IcmpInCsumErrors",
    "Icmp6InCsumErrors",
    "Icmp6InErrors",
    "UdpInCsumErrors",
];

/// Fails if a stack found a packet wrong.
#[track_caller]
pub(crate) fn check_nothing_wrong(netns: &Netns) {
    assert_eq!(netns.counters(&WRONG), [0; 7], "{WRONG:?}");
}

/// A struck client, a sibling that is not, and a server, who talk.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) client: Agent,
    pub(crate) sibling: Agent,
    pub(crate) server: Agent,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let scene = Scene::new();
        let client = talker(|command| scene.struck(command));
        let sibling = talker(|command| scene.spared(command));
        let server = talker(|command| scene.remote(command));
        Self { scene, client, sibling, server }
    }

    #[track_caller]
    pub(crate) fn check_nothing_wrong(&self) {
        for netns in [&self.scene.pair.client, &self.scene.pair.server] {
            check_nothing_wrong(netns);
        }
    }
}

/// Two who talk over a device; the client's is what is struck.
pub(crate) struct Ends {
    pub(crate) pair: Pair,
    pub(crate) client: Agent,
    pub(crate) server: Agent,
}

impl Ends {
    pub(crate) fn new() -> Self {
        let pair = Pair::new();
        let client = talker(|command| command.in_netns(&pair.client));
        let server = talker(|command| command.in_netns(&pair.server));
        Self { pair, client, server }
    }

    /// Strikes the client's device. The controller runs in its namespace: the device is looked for where injector is.
    #[track_caller]
    pub(crate) fn apply(&self, faults: &[String]) -> Experiment {
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let text = scenario(1, &format!("interface = \"{DEVICE}\""), &faults);
        Experiment::apply_with(&text, |command| command.in_netns(&self.pair.client))
    }

    #[track_caller]
    pub(crate) fn check_nothing_wrong(&self) {
        for netns in [&self.pair.client, &self.pair.server] {
            check_nothing_wrong(netns);
        }
    }
}

/// Connects two agents, under a name that both know it by; the server listens on the port.
#[track_caller]
pub(crate) fn connect(client: &mut Agent, server: &mut Agent, name: &str, host: &str, port: u16) {
    assert!(client.ask(&format!("open_tcp('{name}', '{host}', {port})")).is_null());
    server.ask(&format!("take('{name}', {port})"));
    say(client, server, name);
    say(server, client, name);
}

/// One sends, and the other one gets it.
#[track_caller]
pub(crate) fn say(from: &mut Agent, to: &mut Agent, name: &str) {
    assert!(from.ask(&format!("send('{name}', 100)")).is_null());
    assert_eq!(to.ask(&format!("receive('{name}')")), 100);
}

/// What the next `recv` says: an errno, or nothing for a second.
#[track_caller]
pub(crate) fn expect_end(agent: &mut Agent, name: &str, errno: &str, what: &str) {
    let wait = if errno == "timeout" { 1 } else { 30 };
    assert_eq!(agent.ask(&format!("receive('{name}', {wait})")), errno, "{what}: {name}");
}
