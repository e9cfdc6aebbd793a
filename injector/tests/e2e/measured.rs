//! Delays of a measured profile, and links that replay a recording: the files say what must come out.
//!
//! What was decided is held against the file by the record of decisions, and what happened against what was decided: an
//! emulated machine may stall, and then packets come late, but never early.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::delay::assert_took;
use crate::scene::Scene;
use crate::support::{Experiment, root_or_skip};
use crate::timed::{Arrival, Stream, packets_can_wait};

/// Bytes of the headers of IPv4 and UDP.
const HEADERS: u32 = 28;
/// Bytes of an opportunity.
const OPPORTUNITY: u64 = 1500;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What a run left behind: the datagrams that came, the decisions in their order, the fault in the report.
struct Run {
    came: Vec<Arrival>,
    decisions: Vec<Value>,
    fault: Value,
}

/// Sends a stream under one fault, given by its keys.
fn run(scene: &Scene, keys: &str, stream: Stream, linger: Duration) -> Run {
    let record = NamedTempFile::new().unwrap();
    let fault = format!("{keys}\nmatch = {{ protocol = \"udp\" }}");
    let experiment = Experiment::apply_with(&scene.scenario(3, &[&fault]), |command| {
        command.arg("--record").arg(record.path())
    });
    let came = stream.send(scene, linger);
    let report = experiment.end();
    let text = std::fs::read_to_string(record.path()).unwrap();
    let decisions = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Run { came, decisions, fault: report.object["faults"][0].clone() }
}

fn delay_ns(decision: &Value) -> u64 {
    decision["delay_ns"].as_u64().unwrap()
}

/// The distribution function of points, below and at a value; no part of it is injector's.
fn cdf(points: &[(f64, f64)], ms: f64) -> (f64, f64) {
    let at_most = |holds: &dyn Fn(f64) -> bool| {
        let Some(last) = points.iter().rposition(|point| holds(point.0)) else { return 0.0 };
        match points.get(last + 1) {
            Some(next) => {
                let part = (ms - points[last].0) / (next.0 - points[last].0);
                points[last].1 + part.clamp(0.0, 1.0) * (next.1 - points[last].1)
            }
            None => 1.0,
        }
    };
    (at_most(&|x| x < ms), at_most(&|x| x <= ms))
}

/// A distribution function: its values just below a delay in ms, and there.
type Function<'a> = dyn Fn(f64) -> (f64, f64) + 'a;

/// The largest distance of the sample's distribution function from the given one (Kolmogorov and Smirnov), which may step.
fn distance(sample: &[f64], cdf: impl Fn(f64) -> (f64, f64)) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let off = |value: &f64| {
        let below = sorted.partition_point(|other| other < value) as f64 / n;
        let at_most = sorted.partition_point(|other| other <= value) as f64 / n;
        let (expected_below, expected) = cdf(*value);
        (expected_below - below).abs().max((expected - at_most).abs())
    };
    sorted.iter().map(off).fold(0.0, f64::max)
}

#[test]
fn delays_have_the_distribution_of_the_file() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // Two humps with nothing between them, and a tail.
    let points = [(20.0, 0.0), (25.0, 0.45), (60.0, 0.45), (80.0, 0.95), (300.0, 1.0)];
    let lines = points.map(|(ms, share)| format!("{ms},{share}\n")).concat();
    let of_points = file(&format!("delay_ms,cumulative_probability\n{lines}"));
    // 2,000 samples of 50 ms + 100 ms u^2.
    let samples: Vec<f64> = (0..2000).map(|n| 50.0 + 100.0 * (f64::from(n) / 2000.0).powi(2)).collect();
    let of_samples = file(&samples.iter().map(|ms| format!("{ms}ms\n")).collect::<Vec<String>>().concat());
    let at_most = |ms: f64| samples.partition_point(|sample| *sample <= ms) as f64 / samples.len() as f64;
    let cases: [(&Path, &Function<'_>); 2] =
        [(of_points.path(), &|ms| cdf(&points, ms)), (of_samples.path(), &|ms| (at_most(ms), at_most(ms)))];
    let stream = Stream { port: 5001, count: 500, per_second: 500, bytes: 100 };
    for (path, cdf) in cases {
        let keys = format!("kind = \"network.delay\"\nprofile = \"{}\"", path.display());
        let run = run(&scene, &keys, stream, Duration::from_millis(1500));
        let delays_ms: Vec<f64> = run.decisions.iter().map(|one| delay_ns(one) as f64 / 1e6).collect();
        assert_eq!((delays_ms.len(), run.came.len()), (500, 500));
        let d = distance(&delays_ms, cdf);
        println!("{}: distance {d}", path.display());
        // What chance exceeds once in a thousand, and the resolution of the table.
        assert!(d < 1.95 / 500.0_f64.sqrt() + 1.0 / 1024.0, "distance {d}");
        assert_took(&run.came, |n| delays_ms[n as usize]);
    }
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
fn replayed(arrivals_ns: impl Iterator<Item = u64>, bytes: u64) -> Vec<u64> {
    let mut opportunities = (0..).filter(|ms| is_opportunity(*ms)).map(|ms| ms * 1_000_000);
    let (mut now_ns, mut room) = (0, 0);
    let mut departs = |arrival_ns| {
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
    arrivals_ns.map(&mut departs).collect()
}

/// How long after the beginning of a round the first packet left, in ms: where every departure is that of the replay.
#[track_caller]
fn phase_ms(sent: &[(u64, u64)], bytes: u64) -> u64 {
    // A round more, so that what arrived before the first departure did so after the beginning.
    let start_ns = |phase: u64| sent[0].1 - (phase + 2000) * 1_000_000;
    let fits = |phase: &u64| {
        let start_ns = start_ns(*phase);
        let replayed = replayed(sent.iter().map(|(arrival, _)| arrival - start_ns), bytes);
        replayed.iter().zip(sent).all(|(replayed, (_, departure))| replayed + start_ns == *departure)
    };
    let phases: Vec<u64> = (0..1000).filter(|ms| is_opportunity(*ms)).filter(fits).collect();
    assert_eq!(phases.len(), 1, "these are not the times of the trace: {phases:?}");
    phases[0]
}

#[test]
fn a_link_replays_its_trace() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let trace = trace();
    // Half as much again as the trace carries, for six seconds. The queues hold as much as the link carries in five.
    for (queue, bytes) in [("1000 packets", 1000), ("5s", 1500)] {
        let keys =
            format!("kind = \"network.rate\"\ntrace = \"{}\"\nqueue = \"{queue}\"", trace.path().display());
        let per_second = 400_000 / bytes;
        let stream = Stream { port: 5001, count: 6 * per_second, per_second, bytes: bytes - HEADERS };
        let run = run(&scene, &keys, stream, Duration::from_secs(7));
        let sent = sent(&run);
        let dropped = run.decisions.iter().filter(|one| one["outcome"] == "queue-full").count();
        assert_eq!(run.fault["queue_full"], dropped);
        assert_eq!((sent.len() + dropped, run.came.len()), (stream.count as usize, sent.len()));
        // Every packet left when the file says, whenever an emulated machine sent it.
        let phase_ms = phase_ms(&sent, u64::from(bytes));
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
        let used = sent.len() as u64 * u64::from(bytes);
        println!(
            "{queue}: {used} of {offered} bytes in {span_ms} ms, seen in {seen_ms} ms with {} of {} pauses, {dropped} dropped",
            pauses(&came),
            pauses(&departures)
        );
        // An emulated machine that stalls sends less and sees it later; the departures above are exact all the same.
        assert!(pauses(&departures) > 0 && pauses(&came) > 0, "no pause");
        assert!((seen_ms / span_ms as f64 - 1.0).abs() < 0.1, "{span_ms} ms as {seen_ms} ms");
        assert!(used <= offered && used as f64 > offered as f64 * 0.7, "{used} of {offered} bytes");
    }
}

/// How often nothing came for more than 250 ms.
fn pauses(times_ns: &[u64]) -> usize {
    times_ns.windows(2).filter(|two| two[1] - two[0] > 250_000_000).count()
}

#[test]
fn a_queue_in_bytes_of_a_trace_is_exact() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // One opportunity in 2 s: all of a burst waits for the same ones.
    let trace = file("2000\n");
    let keys = format!("kind = \"network.rate\"\ntrace = \"{}\"\nqueue = \"3000B\"", trace.path().display());
    let stream = Stream { port: 5001, count: 20, per_second: 100_000, bytes: 750 - HEADERS };
    let run = run(&scene, &keys, stream, Duration::from_secs(7));
    // In front of the fifth are 3000 bytes, which the queue holds; in front of the sixth are more. In between an
    // opportunity may have taken two away.
    let passed = run.decisions.iter().filter(|one| one["outcome"] == "injected").count();
    assert!([5, 7].contains(&passed), "{passed}");
    assert_eq!(run.came.len(), passed);
}
