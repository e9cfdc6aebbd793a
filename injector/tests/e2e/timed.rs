//! Datagrams that carry the time at which they were sent, and where packets can wait at all.

use std::process::{Command, Output};
use std::time::Duration;

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{DEVICE, SERVER_V4, injector};

/// What both agents learn.
const TIMED: &str = r#"
# Each datagram is one of so many segments, which a device without such an offload cuts it into.
def send_timed(host, port, count, rate, size, segments):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        if segments > 1:
            # SOL_UDP, UDP_SEGMENT
            s.setsockopt(17, 103, size)
        rest = bytes(size * segments - 12)
        start = time.time_ns()
        for n in range(count):
            late = start + n * 1_000_000_000 // rate - time.time_ns()
            if late > 0:
                time.sleep(late / 1e9)
            s.sendmsg((struct.pack("!IQ", n, time.time_ns()), rest))

def bind_timed(port):
    bind(port)
    # SO_TIMESTAMPNS: the kernel notes when a datagram came, however late this process reads it.
    sockets[port].setsockopt(socket.SOL_SOCKET, 35, 1)
    # SOL_UDP, UDP_GRO: segments that were sent as one come as one.
    sockets[port].setsockopt(17, 104, 1)

# Takes what comes, from the first on until nothing comes for so many seconds: number, when it was sent, when it came.
def take_timed(port, linger, found):
    s = sockets[port]
    s.settimeout(60)
    try:
        while True:
            data, notes, _, _ = s.recvmsg(12, 128)
            stamp = next(data for level, kind, data in notes if (level, kind) == (socket.SOL_SOCKET, 35))
            seconds, nanoseconds = struct.unpack("qq", stamp)
            found.append((*struct.unpack("!IQ", data), seconds * 1_000_000_000 + nanoseconds))
            s.settimeout(linger)
    except TimeoutError:
        pass

takers = {}
def watch(port, linger):
    found = []
    thread = threading.Thread(target=take_timed, args=(port, linger, found), daemon=True)
    takers[port] = thread, found
    thread.start()

def came(port):
    thread, found = takers.pop(port)
    thread.join()
    return found
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
    /// Sends from the struck cgroup to the server; returns what came, in the order in which it came, until nothing
    /// comes for so long.
    pub(crate) fn send(self, scene: &Scene, linger: Duration) -> Vec<Arrival> {
        Streams::new(scene, &[self.port]).send(self, linger)
    }
}

/// A process in the struck cgroup that sends streams, and one at the server that takes them.
#[derive(Debug)]
pub(crate) struct Streams {
    sender: Agent,
    receiver: Agent,
}

impl Streams {
    /// Both; the latter takes what comes to these ports.
    pub(crate) fn new(scene: &Scene, ports: &[u16]) -> Self {
        let sender = Agent::start_with(TIMED, |command| scene.struck(command));
        let mut receiver = Agent::start_with(TIMED, |command| scene.remote(command));
        receiver.ask(&format!("[bind_timed(port) for port in {ports:?}] and None"));
        Self { sender, receiver }
    }

    /// Sends a stream; what came of it, as [`Stream::send`].
    #[track_caller]
    pub(crate) fn send(&mut self, stream: Stream, linger: Duration) -> Vec<Arrival> {
        self.send_in_segments(stream, 1, linger)
    }

    /// The same, each datagram being so many segments of the size, which leave and arrive as one packet.
    #[track_caller]
    pub(crate) fn send_in_segments(
        &mut self,
        stream: Stream,
        segments: u32,
        linger: Duration,
    ) -> Vec<Arrival> {
        let Stream { port, count, per_second, bytes } = stream;
        self.receiver.ask(&format!("watch({port}, {})", linger.as_secs_f64()));
        let what = format!("{port}, {count}, {per_second}, {bytes}, {segments}");
        self.sender.ask(&format!("send_timed('{SERVER_V4}', {what})"));
        let came = self.receiver.ask(&format!("came({port})"));
        let came: Vec<(u32, i64, i64)> = serde_json::from_value(came).unwrap();
        came.into_iter().map(|(number, sent_ns, came_ns)| Arrival { number, sent_ns, came_ns }).collect()
    }
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
