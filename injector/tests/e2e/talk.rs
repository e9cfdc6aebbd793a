//! Connections and sockets that stay open between two questions to an agent, and what their calls answer.

use std::process::Command;

use crate::agent::Agent;

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
