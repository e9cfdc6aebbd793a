//! Delayed packets: by how much, in which order, and what they do to a bulk transfer.
//!
//! An emulated machine may stall for tens of milliseconds, and then every timer is late. It is never early, and most of the
//! time it does not stall: so no packet may come before its time, and the least and the lower quantiles must be exact.

use std::process::Command;
use std::time::Duration;

use crate::iperf::Iperf;
use crate::model::{self, UDP};
use crate::netem::netem;
use crate::scene::Scene;
use crate::statistics::quantile;
use crate::support::{
    CLIENT_V4, DEVICE, Experiment, Located as _, Report, SERVER_V4, clock_is_even, in_vm, root_or_skip,
};
use crate::timed::{Arrival, Stream, Streams, packets_can_wait};

/// The shortest round trip of so many pings, ms, sent by a command that `place` puts somewhere.
fn ping(host: &str, count: u32, place: impl FnOnce(&mut Command) -> &mut Command) -> f64 {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-i", "0.02", "-W", "200", "-c", &count.to_string(), host]);
    let text = place(&mut ping).text();
    // Behind "rtt min/avg/max/mdev = ", to the microsecond: the single times are rounded.
    let times = text.lines().find_map(|line| line.strip_prefix("rtt ")?.split(" = ").nth(1));
    times.and_then(|times| times.split('/').next()?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// A delay fault with these further keys, and the id `wan`.
fn delay(keys: &str) -> String {
    format!("id = \"wan\"\nkind = \"network.delay\"\n{keys}")
}

/// How far a ping's shortest round trip may lie from netem's, ms. Where emulated processors run as the host lets them, a
/// timer comes up to a millisecond late, whoever set it.
fn tolerance_ms() -> f64 {
    if clock_is_even() { 0.2 } else { 1.5 }
}

#[test]
fn a_ping_takes_the_delay_longer_as_with_netem_and_the_queue_goes_again() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // A delay, and how many pings look for the shortest. Nobody waits where the clock counts instructions: it jumps.
    let mut delays = vec![(1.0, 25), (10.0, 25), (100.0, 8)];
    if in_vm() && clock_is_even() {
        delays.push((90_000.0, 8));
    }
    let host = |number: usize| format!("10.99.0.{}", 11 + number);
    let fault = |(number, (delay_ms, _)): (usize, &(f64, u32))| {
        format!(
            "id = \"d{number}\"\nkind = \"network.delay\"\ndelay = \"{delay_ms}ms\"\nmatch = {{ remote = \"{}\" }}",
            host(number)
        )
    };
    let faults: Vec<String> = delays.iter().enumerate().map(fault).collect();
    for number in 0..delays.len() {
        scene.pair.server.ip(&format!("address add {}/32 dev {DEVICE}", host(number)));
        ping(&host(number), 1, |command| scene.struck(command));
        scene.pair.client.ip(&format!("neigh change {} dev {DEVICE} nud permanent", host(number)));
    }
    // Netem delays ARP too, and 90 s would be too long for that.
    scene.pair.server.ip(&format!("neigh change {CLIENT_V4} dev {DEVICE} nud permanent"));
    let before = scene.pair.client.tc("qdisc show");
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&scene.scenario(1, &faults));
    let seen = delays.iter().enumerate().map(|(number, (_, count))| {
        let ours = ping(&host(number), *count, |command| scene.struck(command));
        (ours, ping(&host(number), 1, |command| scene.spared(command)))
    });
    let seen: Vec<(f64, f64)> = seen.collect();
    let report = experiment.end();
    assert_eq!(scene.pair.client.tc("qdisc show"), before, "the queue is still there");
    for (number, ((delay_ms, count), (ours, spared))) in delays.into_iter().zip(seen).enumerate() {
        let fault = report.fault(&format!("d{number}"));
        assert_eq!((fault.matched, fault.injected), (u64::from(count), u64::from(count)));
        assert!(netem(&scene, &format!("netem delay {delay_ms}ms")));
        let theirs = ping(&host(number), count, |command| scene.struck(command));
        println!("{delay_ms} ms: ours {ours} ms, netem's {theirs} ms, spared {spared} ms");
        assert!(ours >= delay_ms, "{ours} ms");
        assert!((ours - theirs).abs() < tolerance_ms(), "ours {ours} ms, netem's {theirs} ms");
        assert!(delay_ms < 50.0 || spared < delay_ms, "a neighbour was delayed: {spared} ms");
    }
}

#[test]
fn a_bulk_transfer_over_a_delay_is_as_fast_as_with_netem() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let transfer =
        || Iperf::start(&scene, 5201, (1, 3), |command| scene.struck(command)).finish().throughput();
    let ratio = || {
        let experiment = Experiment::apply(&scene.scenario(1, &[&delay("delay = \"20ms\"")]));
        let ours = transfer();
        drop(experiment);
        assert!(netem(&scene, "netem limit 100000 delay 20ms"));
        let theirs = transfer();
        scene.pair.client.tc(&format!("qdisc del dev {DEVICE} root"));
        println!("ours {ours} byte/s, netem's {theirs} byte/s");
        ours / theirs
    };
    // If the sender's socket owned what waits, each ratio would be below a hundredth. What an emulated machine reaches
    // varies by more than half from one run to the next, so the best of a few rounds counts.
    let best = (0..4).scan(0.0_f64, |best, _| {
        (*best < ENOUGH).then(|| {
            *best = best.max(ratio());
            *best
        })
    });
    let best = best.last().unwrap();
    assert!(best > 0.5, "at best {best} of netem's throughput");
}

/// A ratio of throughputs that needs no further round.
const ENOUGH: f64 = 0.75;

/// How often a datagram came behind one that was sent later.
fn overtakings(came: &[Arrival]) -> usize {
    came.windows(2).filter(|pair| pair[1].number < pair[0].number).count()
}

/// Fails unless each datagram took at least what it should, and a tenth of them hardly more.
#[track_caller]
pub(crate) fn assert_took(came: &[Arrival], expected_ms: impl Fn(u32) -> f64) {
    let late = |share| quantile(came.iter().map(|one| one.took_ms() - expected_ms(one.number)), share);
    assert!(late(0.0) > -0.1, "{} ms before its time", -late(0.0));
    assert!(late(0.1) < if clock_is_even() { 1.0 } else { 10.0 }, "a tenth of them {} ms late", late(0.1));
}

const SEED: u64 = 7;
/// Streams of datagrams, each to a port of its own and with faults of its own.
const JITTERED: Stream = Stream { port: 5001, count: 400, per_second: 200, bytes: 100 };
const ORDERED: Stream = Stream { port: 5002, ..JITTERED };
/// So far apart that as a rule two or three are on their way at once, in any order.
const SPARSE: Stream = Stream { port: 5003, count: 80, per_second: 25, bytes: 100 };
const STAGED: Stream = Stream { port: 5004, count: 100, per_second: 10_000, bytes: 972 };

const HELD: Stream = Stream { port: 5005, count: 100, per_second: 40, bytes: 100 };

/// A fault of a stream, with its id, its kind and its keys.
fn fault(of: Stream, id: &str, kind: &str, keys: &str) -> String {
    let only = format!("match = {{ protocol = \"udp\", remote_port = {} }}", of.port);
    format!("id = \"{id}\"\nkind = \"network.{kind}\"\n{keys}\n{only}")
}

/// The delay that the seed means for a datagram of a stream under a fault with a uniform distribution, ms.
fn predicted_ms(of: Stream, id: &str, number: u32, (mean, half): (f64, f64)) -> f64 {
    let share = model::share(SEED, id, UDP, (SERVER_V4, of.port), u64::from(number));
    mean + half * (2.0 * share - 1.0)
}

#[test]
fn each_datagram_takes_its_own_time_and_waits_for_others_only_if_it_is_told_to() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let jittered = "delay = \"60ms\"\njitter = \"50ms\"";
    let faults = [
        fault(JITTERED, "jittered", "delay", jittered),
        fault(ORDERED, "ordered", "delay", &format!("{jittered}\nreorder = false")),
        fault(SPARSE, "sparse", "delay", "delay = \"110ms\"\njitter = \"100ms\""),
        // 1000 bytes at 800 kbit/s take 10 ms; the way takes 30 ms more; half is lost behind it.
        fault(STAGED, "link", "rate", "rate = \"800kbit\"\nqueue = \"10s\""),
        fault(STAGED, "way", "delay", "delay = \"30ms\""),
        fault(STAGED, "loss", "loss", "probability = \"50%\""),
        fault(HELD, "held", "reorder", "delay = \"150ms\"\ngap = 10"),
    ];
    let streams = [JITTERED, ORDERED, SPARSE, STAGED, HELD];
    let mut agents = Streams::new(&scene, &streams.map(|stream| stream.port));
    let experiment = Experiment::apply(&scene.scenario(SEED, &faults.each_ref().map(String::as_str)));
    let [jittered, ordered, sparse, staged, held] =
        streams.map(|stream| agents.send(stream, Duration::from_millis(700)));
    let report = experiment.end();

    assert_eq!(jittered.len(), 400);
    assert!(overtakings(&jittered) > 40, "jitter reorders");
    // Of wrong predictions half would be too late, by 33 ms on average.
    assert_took(&jittered, |n| predicted_ms(JITTERED, "jittered", n, (60.0, 50.0)));

    // The queue releases them in order, many at one time; behind it two CPUs may hand them on in another.
    let overtook = overtakings(&ordered);
    assert!(ordered.len() == 400 && overtook < 8, "{} came, {overtook} overtook", ordered.len());

    assert_eq!(sparse.len(), 80);
    let late = |one: &Arrival| one.took_ms() - predicted_ms(SPARSE, "sparse", one.number, (110.0, 100.0));
    let most = quantile(sparse.iter().map(late), 0.8);
    // In one queue, which sleeps until its first packet, a third of them would be late by 60 ms.
    assert!(most < 20.0, "four in five come less than {most} ms late");

    assert_is_staged(&staged, &report);
    assert_is_held(&held, &report);
}

/// One in ten is overtaken by the next, and nobody else waits.
#[track_caller]
fn assert_is_held(came: &[Arrival], report: &Report) {
    let faults = report.object["faults"].as_array().unwrap();
    let fault = faults.iter().find(|fault| fault["id"] == "held").unwrap();
    assert!(fault["requested_rate"].is_null(), "a gap asks for no share");
    assert_eq!((came.len(), report.fault("held").injected), (100, 10));
    let place = |number: u32| came.iter().position(|one| one.number == number).unwrap();
    // One is sent every 25 ms. The last that is held has nobody behind it.
    let overtaken = (9..99).step_by(10).filter(|held| place(held + 1) < place(*held)).count();
    assert_eq!(overtaken, 9);
    let took = |held: bool| {
        let those = came.iter().filter(|one| (one.number % 10 == 9) == held);
        those.map(|one| one.took_ms()).collect::<Vec<f64>>()
    };
    let (held, others) = (quantile(took(true), 0.0), quantile(took(false), 0.8));
    assert!(held >= 150.0 && others < 75.0, "{held} and {others} ms");
}

/// Faults are stages of one path.
#[track_caller]
fn assert_is_staged(came: &[Arrival], report: &Report) {
    for id in ["link", "way", "loss"] {
        assert_eq!(report.fault(id).matched, 100, "{id}");
    }
    let lost = report.fault("loss").injected;
    assert_eq!(came.len() as u64 + lost, 100);
    assert!((30..=70).contains(&lost), "{lost} lost");
    // The n-th leaves the link n transmissions after the first, whichever came.
    let first = came.iter().min_by_key(|one| one.number).unwrap();
    let gap_ms = |one: &Arrival| (one.came_ns - first.came_ns) as f64 / 1e6;
    let late = |one: &Arrival| gap_ms(one) - f64::from(one.number - first.number) * 10.0;
    let typical = quantile(came.iter().map(late), 0.3);
    assert!(first.took_ms() > 40.0 + f64::from(first.number) * 10.0 - 10.0, "{} ms", first.took_ms());
    assert!(typical.abs() < if clock_is_even() { 3.0 } else { 25.0 }, "{typical} ms off");
}
