//! Half a minute without a packet: a connection with data in flight lives on, and heals by itself.

use std::time::{Duration, Instant};

use crate::netem::netem;
use crate::scene::Scene;
use crate::support::{Background, Experiment, Located as _, SERVER_V4, python, root_or_skip, wait_until};

const OUTAGE: Duration = Duration::from_secs(30);

/// A TCP time-out doubles from 0.2 s: what is lost at once is sent again after 0.2, 0.6, 1.4, 3.0, 6.2, 12.6, 25.4
/// and 51 s. The first that meets a healed network is the last of these, or an earlier one if the first time-out was
/// longer.
const HEALED: Duration = Duration::from_secs(60);

/// Sends without end; says how many bytes the other side has acknowledged, and how it ended.
const SEND: &str = r#"
import errno, fcntl, socket, struct, sys, threading, time
s = socket.create_connection((sys.argv[1], 7001))
print("connected", flush=True)
# Slow enough for an emulated machine, fast enough that something is always in flight.
try:
    while True:
        s.sendall(bytes(20000))
        time.sleep(0.002)
except OSError as e:
    print("error", errno.errorcode[e.errno], flush=True)
"#;

/// Takes what comes.
const RECEIVE: &str = r#"
import socket
s = socket.create_server(("0.0.0.0", 7001))
print("ready", flush=True)
c, _ = s.accept()
while c.recv(1 << 20):
    pass
"#;

/// A connection from a scene's struck cgroup to its server.
struct Connection {
    scene: Scene,
    sender: Background,
    _receiver: Background,
}

impl Connection {
    fn open() -> Self {
        let scene = Scene::new();
        let mut receiver = scene.remote(&mut python(RECEIVE)).background();
        receiver.wait_for_line("ready");
        let mut sender = scene.struck(python(SEND).arg(SERVER_V4)).background();
        sender.wait_for_line("connected");
        Self { scene, sender, _receiver: receiver }
    }

    /// A field of the connection as `ss` shows it: `bytes_acked`. 0 if it has none.
    fn field(&self, name: &str) -> u64 {
        let mut ss = std::process::Command::new("ss");
        let text = ss.args(["-Htin", "dport = :7001"]).in_netns(&self.scene.pair.client).text();
        let prefix = format!("{name}:");
        let value = text.split_ascii_whitespace().find_map(|word| word.strip_prefix(&prefix));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until more than `bytes` are acknowledged; the sender has met no error until then.
    #[track_caller]
    fn progresses(&mut self, timeout: Duration, bytes: u64) {
        wait_until(timeout, "progress", || {
            assert!(self.sender.is_running(), "the sender has ended");
            self.field("bytes_acked") > bytes
        });
    }

    fn timeouts(&self) -> u64 {
        self.scene.pair.client.counter("TcpExtTCPTimeouts")
    }
}

#[test]
fn half_a_minute_of_full_loss_aborts_no_connection_and_it_heals_by_its_own_back_off() {
    if !root_or_skip() {
        return;
    }
    let mut ours = Connection::open();
    // The same at the same time by netem, where the kernel has it.
    let mut theirs = Some(Connection::open()).filter(|theirs| netem(&theirs.scene, "netem limit 100000"));
    for connection in std::iter::once(&mut ours).chain(&mut theirs) {
        connection.progresses(Duration::from_secs(30), 100_000);
    }
    let fault = "kind = \"network.loss\"\ndirection = \"both\"";
    let experiment = Experiment::apply(&ours.scene.scenario(1, &[fault]));
    // Not before: while things start, a slow machine lets time-outs pass that are not the fault's. The first of
    // the fault's may be missed.
    let before: Vec<u64> = std::iter::once(&ours).chain(&theirs).map(Connection::timeouts).collect();
    if let Some(theirs) = &theirs {
        // Both directions, as ours.
        netem(&theirs.scene, "netem limit 100000 loss 100%");
        theirs.scene.pair.server.tc("qdisc replace dev veth0 root netem limit 100000 loss 100%");
    }
    let start = Instant::now();
    let acked: Vec<u64> = std::iter::once(&ours).chain(&theirs).map(|one| one.field("bytes_acked")).collect();
    std::thread::sleep(OUTAGE);
    for (connection, acked) in std::iter::once(&mut ours).chain(&mut theirs).zip(&acked) {
        assert!(connection.sender.is_running(), "aborted after {:?}", start.elapsed());
        assert_eq!(connection.field("bytes_acked"), *acked, "something came through");
        assert!(connection.field("unacked") > 0, "nothing was in flight");
    }
    let report = experiment.end();
    if let Some(theirs) = &theirs {
        netem(&theirs.scene, "netem limit 100000");
        theirs.scene.pair.server.tc("qdisc replace dev veth0 root netem limit 100000");
    }
    let fault = report.only();
    assert!(fault.injected >= 5 && fault.injected == fault.matched, "{fault:?}");
    let mut resent = Vec::new();
    for ((connection, acked), before) in
        std::iter::once(&mut ours).chain(&mut theirs).zip(&acked).zip(&before)
    {
        connection.progresses(HEALED, acked + 100_000);
        resent.push(connection.timeouts() - before);
    }
    // 0.2 s doubles to 25.4 s in eight time-outs, in fewer if the first took longer, as a busy machine's do.
    // Without back-off there would be more than a hundred.
    assert!(resent.iter().all(|&n| (4..=10).contains(&n)), "time-outs: {resent:?}");
}
