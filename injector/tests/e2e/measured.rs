//! Links that replay a recording: the file says what must come out. Measured delays are among the [round trips](crate::round_trips).
//!
//! What was decided is held against the file by the record of decisions, and what happened against what was decided: an
//! emulated machine may stall, and then packets come late, but never early.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::delay::assert_took;
use crate::scene::Scene;
use crate::support::{Experiment, root_or_skip};
use crate::timed::{Arrival, Stream, Streams, packets_can_wait};

/// Bytes of the headers of IPv4 and UDP.
const HEADERS: u32 = 28;
/// Bytes of an opportunity.
const OPPORTUNITY: u64 = 1500;
/// Longer than nothing comes of a stream that is not over.
const LINGER: Duration = Duration::from_secs(3);

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What one fault left behind: the datagrams that came, the decisions in their order, the fault in the report.
struct Run {
    came: Vec<Arrival>,
    decisions: Vec<Value>,
    fault: Value,
}

/// Links with a trace and a queue, each for a stream of its own, in one experiment.
fn runs<const N: usize>(scene: &Scene, links: [(&NamedTempFile, &str, Stream); N]) -> [Run; N] {
    let record = NamedTempFile::new().unwrap();
    let id = |stream: Stream| format!("to-{}", stream.port);
    let faults = links.map(|(trace, queue, stream)| {
        let keys = format!("trace = \"{}\"\nqueue = \"{queue}\"", trace.path().display());
        let only = format!("match = {{ protocol = \"udp\", remote_port = {} }}", stream.port);
        format!("id = \"{}\"\nkind = \"network.rate\"\n{keys}\n{only}", id(stream))
    });
    let mut streams = Streams::new(scene, &links.map(|(.., stream)| stream.port));
    let scenario = scene.scenario(3, &faults.each_ref().map(String::as_str));
    let experiment = Experiment::apply_with(&scenario, |command| command.arg("--record").arg(record.path()));
    let came = links.map(|(.., stream)| streams.send(stream, LINGER));
    let report = experiment.end();
    let text = std::fs::read_to_string(record.path()).unwrap();
    let decisions: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut came = came.into_iter();
    links.map(|(.., stream)| Run {
        came: came.next().unwrap(),
        decisions: decisions.iter().filter(|one| one["fault"] == id(stream)).cloned().collect(),
        fault: report.object["faults"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["id"] == id(stream))
            .unwrap()
            .clone(),
    })
}

fn delay_ns(decision: &Value) -> u64 {
    decision["delay_ns"].as_u64().unwrap()
}

/// 3 Mbit/s: an opportunity every 4 ms, and none in the last 300 ms of each second. The last time is the length of the
/// trace, and so has an opportunity. An emulated machine sends faster than that, unless it stalls.
fn trace() -> NamedTempFile {
    file(&(4..=700).step_by(4).chain([1000]).map(|ms| format!("{ms}\n")).collect::<Vec<String>>().concat())
}

/// Whether there is an opportunity so long after the beginning of some round.
fn is_opportunity(ms: u64) -> bool {
    let into = ms % 1000;
    into == 0 || (into <= 700 && into.is_multiple_of(4))
}

/// What left over the link, by the record of decisions: arrival and departure in ns.
fn sent(run: &Run) -> Vec<(u64, u64)> {
    let sent = run.decisions.iter().filter(|one| one["outcome"] == "injected");
    let times = |one: &Value| {
        let at_ns = one["time_ns"].as_u64().unwrap();
        (at_ns, at_ns + delay_ns(one))
    };
    sent.map(times).collect()
}

/// When packets of a size leave by mahimahi's rules, in ns, if the trace began at 0: opportunities are used up one by one.
fn replayed(arrivals_ns: impl Iterator<Item = u64>, bytes: u64) -> impl Iterator<Item = u64> {
    let mut opportunities = (0..).filter(|ms| is_opportunity(*ms)).map(|ms| ms * 1_000_000);
    let (mut now_ns, mut room) = (0, 0);
    let departs = move |arrival_ns| {
        let mut left = bytes;
        while left > 0 {
            if room == 0 || now_ns <= arrival_ns {
                (now_ns, room) = (opportunities.next().unwrap(), OPPORTUNITY);
                continue;
            }
            let part = left.min(room);
            left -= part;
            room -= part;
        }
        now_ns
    };
    arrivals_ns.map(departs)
}

/// How long after the beginning of a round the first packet left, in ms: where every departure is that of the replay.
#[track_caller]
fn phase_ms(sent: &[(u64, u64)], bytes: u64) -> u64 {
    // A round more, so that what arrived before the first departure did so after the beginning.
    let start_ns = |phase: u64| sent[0].1 - (phase + 2000) * 1_000_000;
    let fits = |phase: &u64| {
        let start_ns = start_ns(*phase);
        let replayed = replayed(sent.iter().map(|(arrival, _)| arrival - start_ns), bytes);
        replayed.zip(sent).all(|(replayed, (_, departure))| replayed + start_ns == *departure)
    };
    let phases: Vec<u64> = (0..1000).filter(|ms| is_opportunity(*ms)).filter(fits).collect();
    assert_eq!(phases.len(), 1, "these are not the times of the trace: {phases:?}");
    phases[0]
}

#[test]
fn a_link_replays_its_trace_and_its_queue_in_bytes_is_exact() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // Half as much again as the trace carries, for six seconds. The queues hold as much as the link carries in five.
    let flood = |port, bytes| {
        let per_second = 400_000 / bytes;
        Stream { port, count: 6 * per_second, per_second, bytes: bytes - HEADERS }
    };
    let (trace, slow) = (trace(), file("2000\n"));
    // One opportunity in 2 s: all of a burst waits for the same ones.
    let burst = Stream { port: 5003, count: 20, per_second: 100_000, bytes: 750 - HEADERS };
    let [packets, time, bytes] = runs(
        &scene,
        [
            (&trace, "1000 packets", flood(5001, 1000)),
            (&trace, "5s", flood(5002, 1500)),
            (&slow, "3000B", burst),
        ],
    );
    assert_replayed(&packets, 1000);
    assert_replayed(&time, 1500);
    // In front of the fifth are 3000 bytes, which the queue holds; in front of the sixth are more. In between an
    // opportunity may have taken two away.
    let passed = bytes.decisions.iter().filter(|one| one["outcome"] == "injected").count();
    assert!([5, 7].contains(&passed), "{passed}");
    assert_eq!(bytes.came.len(), passed);
}

/// Holds a flood of packets of a size against the trace.
#[track_caller]
fn assert_replayed(run: &Run, bytes: u64) {
    let sent = sent(run);
    let dropped = run.decisions.iter().filter(|one| one["outcome"] == "queue-full").count();
    assert_eq!(run.fault["queue_full"], dropped);
    assert_eq!((sent.len() + dropped, run.came.len()), (run.decisions.len(), sent.len()));
    assert_eq!(run.decisions.len() as u64, 6 * (400_000 / bytes));
    // Every packet left when the file says, whenever an emulated machine sent it.
    let phase_ms = phase_ms(&sent, bytes);
    // And what was decided is what happened: no packet came early, the pauses were there, and the rate was that of
    // the file.
    let decided_ms: Vec<f64> = run.decisions.iter().map(|one| delay_ns(one) as f64 / 1e6).collect();
    assert_took(&run.came, |n| decided_ms[n as usize]);
    let departures: Vec<u64> = sent.iter().map(|(_, departure)| *departure).collect();
    let mut came: Vec<u64> = run.came.iter().map(|one| one.came_ns.cast_unsigned()).collect();
    came.sort_unstable();
    let span_ms = (departures[departures.len() - 1] - departures[0]) / 1_000_000;
    let seen_ms = (came[came.len() - 1] - came[0]) as f64 / 1e6;
    let offered =
        (phase_ms..=phase_ms + span_ms).filter(|ms| is_opportunity(*ms)).count() as u64 * OPPORTUNITY;
    let used = sent.len() as u64 * bytes;
    // An emulated machine that stalls sends less and sees it later; the departures above are exact all the same.
    assert!(pauses(&departures) > 0 && pauses(&came) > 0, "no pause");
    assert!((seen_ms / span_ms as f64 - 1.0).abs() < 0.1, "{span_ms} ms as {seen_ms} ms");
    assert!(used <= offered && used as f64 > offered as f64 * 0.7, "{used} of {offered} bytes");
}

/// How often nothing came for more than 250 ms.
fn pauses(times_ns: &[u64]) -> usize {
    times_ns.windows(2).filter(|two| two[1] - two[0] > 250_000_000).count()
}
