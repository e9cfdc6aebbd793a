//! Datagrams that carry the time at which they were sent, and where packets can wait at all.

use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scene::Scene;
use crate::support::{DEVICE, Located as _, SERVER_V4, injector, python};

const SEND: &str = r#"
import socket, sys, time
host, port, count, rate, size = sys.argv[1], *map(int, sys.argv[2:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.time_ns()
for n in range(count):
    late = start + n * 1_000_000_000 // rate - time.time_ns()
    if late > 0:
        time.sleep(late / 1e9)
    s.sendto((n.to_bytes(4, "big") + time.time_ns().to_bytes(8, "big")).ljust(size, b"\0"), (host, port))
"#;

const RECEIVE: &str = r#"
import json, signal, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.bind((sys.argv[1], int(sys.argv[2])))
# SO_TIMESTAMPNS: the kernel notes when a datagram came, however late this process reads it.
s.setsockopt(socket.SOL_SOCKET, 35, 1)
s.settimeout(0.1)
over = False
def end(*_):
    global over
    over = True
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
came = []
while True:
    try:
        data, ((_, _, stamp),), _, _ = s.recvmsg(65536, 64)
        seconds, nanoseconds = struct.unpack("qq", stamp)
        came.append((*struct.unpack_from("!IQ", data), seconds * 1_000_000_000 + nanoseconds))
    except TimeoutError:
        if over:
            break
print(json.dumps(came))
"#;

/// One datagram that came: its number, when it was sent and when it came, `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) number: u32,
    pub(crate) sent_ns: i64,
    pub(crate) came_ns: i64,
}

impl Arrival {
    /// How long it was on its way.
    pub(crate) fn took_ms(self) -> f64 {
        (self.came_ns - self.sent_ns) as f64 / 1e6
    }
}

/// What is sent: so many datagrams of a size, so many a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) port: u16,
    pub(crate) count: u32,
    pub(crate) per_second: u32,
    pub(crate) bytes: u32,
}

impl Stream {
    /// Sends from the struck cgroup to the server; returns what came, in the order in which it came.
    pub(crate) fn send(self, scene: &Scene, linger: Duration) -> Vec<Arrival> {
        let mut receive = python(RECEIVE);
        receive.args([SERVER_V4, &self.port.to_string()]);
        let mut receiver = scene.remote(&mut receive).background();
        receiver.wait_for_line("ready");
        let mut send = python(SEND);
        send.arg(SERVER_V4);
        send.args([u32::from(self.port), self.count, self.per_second, self.bytes].map(|n| n.to_string()));
        scene.struck(&mut send).background().finish(Duration::from_secs(120));
        std::thread::sleep(linger);
        receiver.signal(Signal::SIGTERM);
        let came: Vec<(u32, i64, i64)> =
            serde_json::from_str(&receiver.finish(Duration::from_secs(60))).unwrap();
        came.into_iter().map(|(number, sent_ns, came_ns)| Arrival { number, sent_ns, came_ns }).collect()
    }
}

/// The value below which a share of the values lies.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * share) as usize]
}

/// Whether packets can wait on this kernel. Where they can't, because `tc` has no fq either, a delay is refused with
/// the reason before anything is changed.
pub(crate) fn packets_can_wait(scene: &Scene) -> bool {
    let line = |what: &str| format!("-n {} qdisc {what} dev {DEVICE} root fq", scene.pair.client.name());
    let Output { status, stderr, .. } = Command::new("tc").args(line("add").split(' ')).output().unwrap();
    if status.success() {
        scene.pair.client.tc(&format!("qdisc del dev {DEVICE} root"));
        return true;
    }
    let errors = String::from_utf8_lossy(&stderr);
    assert_eq!(errors.trim(), "Error: Specified qdisc kind is unknown.");
    let before = scene.pair.client.tc("qdisc show");
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let scenario = scene.scenario(1, &["kind = \"network.delay\"\ndelay = \"20ms\""]);
    std::fs::write(file.path(), format!("duration = \"1s\"\n{scenario}")).unwrap();
    let refused = injector().arg("apply").arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("this kernel has no fq qdisc") && said.contains("modprobe sch_fq"), "{said}");
    assert_eq!(scene.pair.client.tc("qdisc show"), before);
    false
}
