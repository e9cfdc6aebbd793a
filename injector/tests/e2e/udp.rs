//! Numbered datagrams from one Python process to another.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Background, Located as _, python};

/// Most that a transfer may take on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

const SEND: &str = r#"
import errno, json, socket, sys
host, port, count, recverr, tos = sys.argv[1], *map(int, sys.argv[2:])
v6 = ":" in host
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
if recverr:
    # IP_RECVERR and IPV6_RECVERR, which the module does not name.
    s.setsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, 25 if v6 else 11, 1)
if tos:
    level, option = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if v6 else (socket.IPPROTO_IP, socket.IP_TOS)
    s.setsockopt(level, option, tos)
errors = {}
to = (host, port)
for n in range(count):
    try:
        s.sendto(n.to_bytes(4, "big"), to)
    except OSError as e:
        name = errno.errorcode[e.errno]
        errors[name] = errors.get(name, 0) + 1
print(json.dumps(errors))
"#;

const RECEIVE: &str = r#"
import json, signal, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
# SO_RCVBUFFORCE: room for all, since the sender may be faster.
s.setsockopt(socket.SOL_SOCKET, 33, 128 << 20)
s.bind((host, port))
s.settimeout(0.1)
over = False
def end(*_):
    global over
    over = True
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
seen = bytearray(count)
while True:
    try:
        n = int.from_bytes(s.recv(64), "big")
        assert seen[n] == 0, f"datagram {n} came twice"
        seen[n] = 1
    except TimeoutError:
        if over:
            break
print(json.dumps([n for n in range(count) if not seen[n]]))
"#;

/// A process that notes which datagrams came.
#[derive(Debug)]
pub(crate) struct Receiver(Background);

impl Receiver {
    /// Starts it where `place` puts it; it expects `count` datagrams.
    pub(crate) fn start(
        host: &str,
        port: u16,
        count: u32,
        place: impl FnOnce(&mut std::process::Command) -> &mut std::process::Command,
    ) -> Self {
        let mut command = python(RECEIVE);
        let mut process = place(command.args([host, &port.to_string(), &count.to_string()])).background();
        process.wait_for_line("ready");
        Self(process)
    }

    /// The numbers of the datagrams that did not come.
    #[track_caller]
    pub(crate) fn lost(mut self) -> Vec<u32> {
        self.0.signal(Signal::SIGTERM);
        serde_json::from_str(&self.0.finish(PATIENCE)).unwrap()
    }
}

/// A process that sends numbered datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) count: u32,
    /// Whether it asks the kernel for errors (`IP_RECVERR`).
    pub(crate) recverr: bool,
    /// Type of service, DSCP and ECN together.
    pub(crate) tos: u8,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(host: &'a str, port: u16, count: u32) -> Self {
        Self { host, port, count, recverr: false, tos: 0 }
    }

    /// Sends them all; returns how often `sendto` failed, by the error's name.
    #[track_caller]
    pub(crate) fn send(
        self,
        place: impl FnOnce(&mut std::process::Command) -> &mut std::process::Command,
    ) -> BTreeMap<String, u32> {
        let numbers = [u32::from(self.port), self.count, u32::from(self.recverr), u32::from(self.tos)];
        let mut command = python(SEND);
        command.arg(self.host).args(numbers.map(|number| number.to_string()));
        let mut process = place(&mut command).background();
        serde_json::from_str(&process.finish(PATIENCE)).unwrap()
    }
}
