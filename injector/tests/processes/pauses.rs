//! Pauses and stops are as long as asked for, and strike the target alone.

use std::time::Duration;

use crate::support::{Cgroup, Experiment, Located as _, Netns, in_vm, python, root_or_skip};
use crate::times_are_true;
use crate::victim::{found, gaps, median, resting};

fn pause(cgroup: &Cgroup, keys: &str) -> String {
    fault("process.pause", cgroup, keys)
}

fn fault(kind: &str, cgroup: &Cgroup, keys: &str) -> String {
    format!(
        "duration = \"1m\"\nseed = 1\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"{kind}\"\n{keys}\n",
        cgroup.path()
    )
}

/// How much longer than asked for the pause in the middle may be, in milliseconds.
fn allowed_ms(asked_ms: f64) -> f64 {
    if asked_ms <= 1.0 { 0.1 } else { 1.0 }
}

/// On a machine that others use, who is woken may be late all the time for some seconds: then the shortest pauses are looked at once more.
const ATTEMPTS: usize = 4;

#[test]
fn pauses_are_as_long_as_asked_for() {
    if !times_are_true() {
        return;
    }
    for (asked_ms, every_ms, count) in [(1.0, 20, 50), (10.0, 50, 30), (100.0, 300, 8), (5000.0, 6000, 1)] {
        let attempts = if asked_ms <= 1.0 { ATTEMPTS } else { 1 };
        let mut found = Vec::new();
        while found.len() < attempts && !found.last().is_some_and(|middle_ms| is_near(asked_ms, *middle_ms)) {
            found.push(middle_ms(asked_ms, every_ms, count));
        }
        println!("{asked_ms} ms: {found:?}");
        assert!(is_near(asked_ms, found[found.len() - 1]), "{found:?} ms instead of {asked_ms} ms");
    }
}

fn is_near(asked_ms: f64, middle_ms: f64) -> bool {
    (asked_ms * 0.98..=asked_ms + allowed_ms(asked_ms)).contains(&middle_ms)
}

/// The pause in the middle of some, in milliseconds.
fn middle_ms(asked_ms: f64, every_ms: u64, count: u64) -> f64 {
    let (cgroup, neighbour) = (Cgroup::new(), Cgroup::new());
    let seconds = (every_ms * count / 1000 + 2) as u32;
    let threshold = Duration::from_secs_f64(asked_ms * 0.9 / 1000.0);
    let keys = format!("for = \"{asked_ms}ms\"\nevery = \"{every_ms}ms\"");
    let mut spared = resting(&neighbour, seconds, threshold.max(Duration::from_millis(90)));
    let mut victim = gaps(&cgroup, seconds, threshold);
    let experiment = Experiment::apply(&pause(&cgroup, &keys));
    let gaps = found(&mut victim);
    let report = experiment.end();
    let injected = report.only().injected;
    assert!(injected >= u64::from(seconds > 3) * count / 2, "{injected}");
    // Those that other things cause come on top, in an emulated machine at least.
    assert!(gaps.len() as u64 + 2 >= injected.min(count / 2), "{} of {injected}", gaps.len());
    let others = found(&mut spared);
    assert!(others.len() <= 2, "the neighbour did not run either: {others:?}");
    assert_eq!(report.only().matched, injected);
    median(gaps)
}

/// A parent that waits for everything that a child can do, and prints what it hears until the child ends.
const PARENT: &str = r#"
import os, sys, time
child = os.fork()
if child == 0:
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        time.sleep(0.01)
    os._exit(0)
cgroup = sys.argv[1]
open(cgroup + "/cgroup.procs", "w").write(str(child))
print("runs", flush=True)
heard = []
while True:
    _, status = os.waitpid(child, os.WUNTRACED | os.WCONTINUED)
    if os.WIFSTOPPED(status):
        heard.append("stopped")
    elif os.WIFCONTINUED(status):
        heard.append("continued")
    else:
        break
print(" ".join(heard))
"#;

#[test]
fn a_parent_sees_that_its_child_is_stopped_and_not_that_it_is_paused() {
    if !root_or_skip() {
        return;
    }
    let seconds = if in_vm() { "30" } else { "4" };
    for (kind, expected) in [("process.pause", ""), ("process.stop", "stopped continued")] {
        let cgroup = Cgroup::new();
        let mut parent = python(PARENT).arg(cgroup.directory()).arg(seconds).background();
        parent.wait_for_line("runs");
        let experiment = Experiment::apply(&fault(kind, &cgroup, "for = \"1s\""));
        let heard = parent.finish(Duration::from_secs(60));
        let report = experiment.end();
        assert_eq!(report.only().injected, 1);
        assert_eq!(heard.trim(), expected, "{kind}");
    }
}

/// A server that answers each byte, and a client in the same program that prints the longest time it waited for an answer, in seconds.
const SERVER: &str = r#"
import socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
while data := peer.recv(1):
    peer.send(data)
"#;
const CLIENT: &str = r#"
import socket, sys, time
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
longest, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    begin = time.monotonic()
    peer.send(b"x")
    assert peer.recv(1) == b"x"
    longest = max(longest, time.monotonic() - begin)
    time.sleep(0.005)
print(longest)
"#;

#[test]
fn a_connection_survives_and_its_answers_come_after_the_pause() {
    if !root_or_skip() {
        return;
    }
    let seconds = if in_vm() { "25" } else { "3" };
    for kind in ["process.pause", "process.stop"] {
        let cgroup = Cgroup::new();
        let mut server = python(SERVER).in_cgroup(&cgroup).background();
        let port = server.line();
        let mut client = python(CLIENT).args([port.trim(), seconds]).background();
        std::thread::sleep(Duration::from_millis(500));
        let experiment = Experiment::apply(&fault(kind, &cgroup, "for = \"700ms\""));
        let longest: f64 = client.finish(Duration::from_secs(60)).trim().parse().unwrap();
        experiment.end();
        let slack = if in_vm() { 5.0 } else { 0.1 };
        assert!((0.68..0.7 + slack).contains(&longest), "{kind}: {longest}");
    }
}

#[test]
fn the_same_seed_pauses_at_the_same_times() {
    if !times_are_true() {
        return;
    }
    let distances = || {
        let cgroup = Cgroup::new();
        let keys = "for = \"60ms\"\nevery = \"350ms\"\njitter = \"250ms\"\nid = \"gc\"";
        let mut victim = python(
            r#"
import os, time
if os.cpu_count() > 1:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
end = time.monotonic() + 4
print("runs", flush=True)
last, times = time.monotonic(), []
while last < end:
    now = time.monotonic()
    if now - last > 0.055:
        times.append(last)
    last = now
print(" ".join(str(later - earlier) for earlier, later in zip(times, times[1:])))
"#,
        );
        let mut victim = victim.in_cgroup(&cgroup).background();
        victim.wait_for_line("runs");
        let experiment = Experiment::apply(&pause(&cgroup, keys));
        let text = victim.finish(Duration::from_secs(60));
        experiment.end();
        text.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<f64>>()
    };
    let (one, other) = (distances(), distances());
    let common = one.len().min(other.len());
    assert!(common >= 5, "{one:?} {other:?}");
    let slack = 0.01;
    let off = one.iter().zip(&other).filter(|(one, other)| (*one - *other).abs() > slack).count();
    assert!(off * 4 <= common, "{one:?} {other:?}");
    // They are no clockwork.
    let spread = one.iter().copied().fold(f64::MIN, f64::max) - one.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread > 0.05, "{one:?}");
}

/// Sends a datagram, and prints for how long it went on until it stood still, in milliseconds.
const SENDER: &str = r#"
import signal, socket, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("runs", flush=True)
signal.sigwait([signal.SIGUSR1])
sent = last = time.monotonic()
client.sendto(b"x", ("127.0.0.1", 9))
while (now := time.monotonic()) - last < 0.05 and now - sent < 5:
    last = now
print((last - sent) * 1000)
"#;

/// How long after the event a pause may begin that waits for it, in the median of a few. Measured are 0.45 ms on a busy machine.
const LATENCY_MS: f64 = 2.0;

#[test]
fn a_pause_begins_right_after_what_it_waits_for() {
    if !times_are_true() {
        return;
    }
    let latency = || {
        let (netns, cgroup) = (Netns::new(), Cgroup::new());
        let mut sender = python(SENDER).in_cgroup(&cgroup).in_netns(&netns).background();
        sender.wait_for_line("runs");
        let text = format!(
            "seed = 1\n[target.t]\ncgroup = \"{}\"\n\
             [[fault]]\nid = \"pause\"\ntarget = \"t\"\nkind = \"process.pause\"\nfor = \"100ms\"\n\
             when = {{ on = {{ kind = \"network\", match = {{ protocol = \"udp\", remote_port = 9 }} }} }}\n",
            cgroup.path()
        );
        let experiment = Experiment::apply(&text);
        sender.signal(nix::sys::signal::Signal::SIGUSR1);
        let latency: f64 = sender.finish(Duration::from_secs(60)).trim().parse().unwrap();
        let report = experiment.end();
        assert_eq!((report.fault("pause.on").injected, report.fault("pause").injected), (1, 1));
        latency
    };
    let latencies: Vec<f64> = (0..7).map(|_| latency()).collect();
    println!("{latencies:?} ms");
    assert!(median(latencies) < LATENCY_MS);
}
