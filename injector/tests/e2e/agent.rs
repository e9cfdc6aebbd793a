//! A Python process that sends what it is told to, so that a test with many probes starts Python once.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::support::python;

const AGENT: &str = r#"
import json, socket, struct, subprocess, sys, threading, time

def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET

def udp(host, port=5001, size=100, tos=0, local=None, local_port=0):
    s = socket.socket(family(host), socket.SOCK_DGRAM)
    if tos and ":" in host:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    elif tos:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    s.bind((local or ("::" if ":" in host else "0.0.0.0"), local_port))
    s.sendto(bytes(size), (host, port))
    s.close()

# Connects, sends, and waits for the other side to close too.
def tcp(host, port=7001, size=100, local_port=0):
    with socket.create_connection((host, port), timeout=20, source_address=("", local_port)) as s:
        s.sendall(bytes(size))
        s.shutdown(socket.SHUT_WR)
        return len(s.recv(1))

# Connects and aborts.
def reset(host, port=7001):
    s = socket.create_connection((host, port), timeout=20)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()

# The name of the error of a connection, or None.
def refused(host, port, timeout=20):
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError as e:
        return type(e).__name__

# Sends a TCP segment that belongs to no connection: FIN and ACK, with numbers out of any window.
def stray(source, source_port, host, port):
    segment = lambda check: struct.pack("!HHIIBBHHH", source_port, port, 1, 1, 5 << 4, 0x11, 1000, check, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(host) + struct.pack("!BBH", 0, 6, 20)
    total = sum(struct.unpack("!16H", pseudo + segment(0)))
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
        s.sendto(segment(~total & 0xffff), (host, 0))

def ping(host, count=1, wait=2):
    command = ["ping", "-q", "-c", str(count), "-i", "0.05", "-W", str(wait), host]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode

def drain(s):
    try:
        while s.recv(65536):
            pass
    except OSError:
        pass
    s.close()

def accept(s):
    while True:
        threading.Thread(target=drain, args=(s.accept()[0],), daemon=True).start()

# Takes connections of both families, reads to their ends and closes them.
def listen(port=7001):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=accept, args=(s,), daemon=True).start()

sockets = {}
# Takes datagrams of both families.
def bind(port=5001):
    s = sockets[port] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # SO_RCVBUFFORCE: room for a burst, which is looked at when it is over.
    s.setsockopt(socket.SOL_SOCKET, 33, 128 << 20)
    s.bind(("::", port))

# How many datagrams have come since it was last asked.
def received(port=5001):
    n, s = 0, sockets[port]
    s.settimeout(0.1)
    try:
        while True:
            s.recv(65536)
            n += 1
    except TimeoutError:
        return n

# Sends numbered datagrams as fast as it can, from a port of its own.
def burst(host, port, count):
    with socket.socket(family(host), socket.SOCK_DGRAM) as s:
        for n in range(count):
            s.sendto(n.to_bytes(4, "big"), (host, port))

# The numbers of the datagrams that have not come, of a burst that has been sent.
def missing(count, port=5001):
    seen, s = bytearray(count), sockets[port]
    s.settimeout(0.3)
    try:
        while True:
            n = int.from_bytes(s.recv(64), "big")
            assert seen[n] == 0, f"datagram {n} came twice"
            seen[n] = 1
    except TimeoutError:
        return [n for n in range(count) if not seen[n]]

# Sends numbered datagrams to each port; returns for each port the times before and after each, in ns.
def steady(host, ports, count, rate):
    s = socket.socket(family(host), socket.SOCK_DGRAM)
    times = [[] for _ in ports]
    start = time.monotonic_ns()
    for n in range(count):
        late = start + n * 1_000_000_000 // rate - time.monotonic_ns()
        if late > 0:
            time.sleep(late / 1e9)
        for port, own in zip(ports, times):
            before = time.monotonic_ns()
            s.sendto(n.to_bytes(4, "big"), (host, port))
            own.append((before, time.monotonic_ns()))
    return times

for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"#;

/// The process. It ends with its standard input.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts it where `place` puts it.
    pub(crate) fn start(place: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        Self::start_with("", place)
    }

    /// The same, with more functions to ask for.
    pub(crate) fn start_with(more: &str, place: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = python(&format!("{more}\n{AGENT}"));
        let mut child = place(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), stdout, child }
    }

    /// Process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Does one thing, as Python says it, and waits for its end.
    #[track_caller]
    pub(crate) fn ask(&mut self, python: &str) -> Value {
        writeln!(self.stdin.as_mut().unwrap(), "{python}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{python}: {error}: {answer:?}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
