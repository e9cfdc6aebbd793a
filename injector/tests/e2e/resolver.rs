//! A name server, and clients that ask it: by the resolver of the C library, and by hand.

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{Experiment, SERVER_V4, SERVER_V6};

/// A name server that has one address of each family for every name, and remembers what it was asked.
pub(crate) const SERVER: &str = r#"
import socket, struct, threading
asked = []

def respond(question):
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode().lower())
        at += 1 + question[at]
    kind, = struct.unpack_from("!H", question, at + 1)
    asked.append([".".join(labels), kind])
    data = {1: socket.inet_aton("192.0.2.1"), 28: socket.inet_pton(socket.AF_INET6, "2001:db8::1")}.get(kind, b"")
    answer = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data if data else b""
    return question[:2] + struct.pack("!HHHHH", 0x8580, 1, bool(data), 0, 0) + question[12:at + 5] + answer

def over_udp(s):
    while True:
        question, client = s.recvfrom(4096)
        s.sendto(respond(question), client)

def over_tcp(s):
    while True:
        c, _ = s.accept()
        threading.Thread(target=one_connection, args=(c,), daemon=True).start()

def one_connection(c):
    try:
        while length := c.recv(2):
            answer = respond(c.recv(int.from_bytes(length, "big")))
            c.sendall(len(answer).to_bytes(2, "big") + answer)
    except OSError:
        pass

def serve(*addresses, port=53):
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        u = socket.socket(family, socket.SOCK_DGRAM)
        u.bind((address, port))
        threading.Thread(target=over_udp, args=(u,), daemon=True).start()
        threading.Thread(target=over_tcp, args=(socket.create_server((address, port), family=family),), daemon=True).start()

# What was asked since it was last asked for.
def questions():
    seen = sorted(asked)
    asked.clear()
    return seen
"#;

/// The resolver of the C library with files of its own, and one that is made by hand.
pub(crate) const CLIENT: &str = r#"
import ctypes, os, socket, struct

# Files in a mount namespace of its own: /etc holds what the resolver reads, and nothing else.
def configure(server, options):
    libc = ctypes.CDLL(None, use_errno=True)
    def call(status):
        if status:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    call(libc.unshare(0x20000))
    call(libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None))
    call(libc.mount(b"tmpfs", b"/etc", b"tmpfs", 0, None))
    for name, text in (("resolv.conf", f"nameserver {server}\noptions {options}\n"), ("nsswitch.conf", "hosts: dns\n")):
        with open(f"/etc/{name}", "w") as file:
            file.write(text)

ERRORS = {socket.EAI_NONAME: "EAI_NONAME", socket.EAI_AGAIN: "EAI_AGAIN"}

# The addresses of a name, or the name of the error.
def lookup(name, family=socket.AF_UNSPEC):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)})
    except socket.gaierror as e:
        return ERRORS.get(e.errno, str(e))

def question(name, kind, flags, counts, more):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 0x1234, flags, *counts) + labels + b"\0" + struct.pack("!HH", kind, 1) + more

# What comes back for one datagram: who it is from, the six numbers of its header, and whether the rest is as it was sent.
def ask(server, name, kind=1, flags=0x0100, counts=(1, 0, 0, 0), more=b"", port=53, wait=60):
    sent = question(name, kind, flags, counts, more)
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(wait)
        s.sendto(sent, (server, port))
        try:
            got, source = s.recvfrom(4096)
        except TimeoutError:
            return None
    return [source[0], source[1], list(struct.unpack_from("!HHHHHH", got)), got[12:] == sent[12:]]

# The RCODE of an answer, or None.
def rcode(server, name, kind=1, port=53, wait=60, **more):
    got = ask(server, name, kind, port=port, wait=wait, **more)
    return got and got[2][1] & 15

# The same over TCP.
def rcode_over_tcp(server, name, wait=60):
    with socket.create_connection((server, 53), timeout=60) as s:
        sent = question(name, 1, 0x0100, (1, 0, 0, 0), b"")
        s.settimeout(wait)
        s.sendall(len(sent).to_bytes(2, "big") + sent)
        try:
            return s.recv(4096)[5] & 15
        except TimeoutError:
            return None
        except ConnectionResetError:
            return "reset"
"#;

/// What nobody may have counted: damaged datagrams, and those that no socket was for.
pub(crate) const DAMAGE: [&str; 4] = ["UdpInCsumErrors", "Udp6InCsumErrors", "UdpNoPorts", "UdpInErrors"];

/// The struck client, another one beside it, and the server.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) struck: Agent,
    pub(crate) spared: Agent,
    pub(crate) server: Agent,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let scene = Scene::new();
        let struck = Agent::start_with(CLIENT, |command| scene.struck(command));
        let spared = Agent::start_with(CLIENT, |command| scene.spared(command));
        let mut server = Agent::start_with(SERVER, |command| scene.remote(command));
        server.ask(&format!("serve('{SERVER_V4}', '{SERVER_V6}')"));
        Self { scene, struck, spared, server }
    }

    /// Both clients look names up at this server.
    pub(crate) fn configure(&mut self, server: &str, options: &str) {
        for client in [&mut self.struck, &mut self.spared] {
            client.ask(&format!("configure('{server}', '{options}')"));
        }
    }

    pub(crate) fn apply(&self, keys: &str) -> Experiment {
        Experiment::apply(&self.scene.scenario(1, &[&format!("kind = \"network.dns\"\n{keys}")]))
    }

    /// What the client's stack found wrong.
    pub(crate) fn damage(&self) -> [u64; 4] {
        self.scene.pair.client.counters(&DAMAGE)
    }
}
