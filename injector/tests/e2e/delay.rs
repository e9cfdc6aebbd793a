//! Delayed packets: by how much, in which order, and what they do to a bulk transfer.
//!
//! An emulated machine may stall for tens of milliseconds, and then every timer is late. It is never early, and most of the
//! time it does not stall: so no packet may come before its time, and the least and the lower quantiles must be exact.

use std::process::Command;
use std::time::Duration;

use injector_common::draw::{PURPOSE_VALUE, draw, fault_number, stream};
use injector_common::packet::{Address, Packet};
use injector_common::rule::EGRESS;
use statrs::distribution::{ContinuousCDF as _, Normal};

use crate::iperf::Iperf;
use crate::netem::netem;
use crate::scene::Scene;
use crate::support::{DEVICE, Experiment, Located as _, SERVER_V4, in_vm, root_or_skip};
use crate::timed::{Arrival, Stream, packets_can_wait, quantile};

/// The shortest round trip of so many pings, ms, sent by a command that `place` puts somewhere.
fn ping(count: u32, place: impl FnOnce(&mut Command) -> &mut Command) -> f64 {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-i", "0.02", "-W", "20", "-c", &count.to_string(), SERVER_V4]);
    let text = place(&mut ping).text();
    let times = text.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next());
    times.map(|time| time.parse().unwrap()).fold(f64::MAX, f64::min)
}

/// A delay fault with these further keys, and the id `wan`.
fn delay(keys: &str) -> String {
    format!("id = \"wan\"\nkind = \"network.delay\"\n{keys}")
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
    let before = scene.pair.client.tc("qdisc show");
    ping(2, |command| scene.struck(command));
    // In an emulated machine a timer comes up to a millisecond late, whoever set it.
    let tolerance_ms = if in_vm() { 1.5 } else { 0.2 };
    for delay_ms in [1.0, 10.0, 100.0] {
        let count = if delay_ms > 50.0 { 8 } else { 25 };
        let fault = delay(&format!("delay = \"{delay_ms}ms\""));
        let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
        let ours = ping(count, |command| scene.struck(command));
        let spared = ping(count, |command| scene.spared(command));
        let report = experiment.end().only();
        assert_eq!((report.matched, report.injected), (u64::from(count), u64::from(count)));
        assert_eq!(scene.pair.client.tc("qdisc show"), before, "the queue is still there");
        assert!(netem(&scene, &format!("netem delay {delay_ms}ms")));
        let theirs = ping(count, |command| scene.struck(command));
        scene.pair.client.tc(&format!("qdisc del dev {DEVICE} root"));
        println!("{delay_ms} ms: ours {ours} ms, netem's {theirs} ms, spared {spared} ms");
        assert!(ours >= delay_ms, "{ours} ms");
        assert!((ours - theirs).abs() < tolerance_ms, "ours {ours} ms, netem's {theirs} ms");
        assert!(delay_ms < 5.0 || spared < delay_ms, "a neighbour was delayed: {spared} ms");
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

/// The delay that the seed means for the n-th datagram to a port, of a uniform distribution, ms.
fn predicted_ms(seed: u64, port: u16, n: u64, (mean, half): (f64, f64)) -> f64 {
    let address: std::net::Ipv4Addr = SERVER_V4.parse().unwrap();
    let packet = Packet {
        remote: Address::from_v4(address.octets()),
        local_port: u16::MAX,
        remote_port: port,
        protocol: 17,
        ..Packet::default()
    };
    let values = stream(seed, fault_number(b"wan"), PURPOSE_VALUE);
    let uniform = draw(values, packet.class(EGRESS), n) as f64 / 2.0_f64.powi(64);
    mean + half * (2.0 * uniform - 1.0)
}

/// How often a datagram came behind one that was sent later.
fn overtakings(came: &[Arrival]) -> usize {
    came.windows(2).filter(|pair| pair[1].number < pair[0].number).count()
}

/// Fails unless each datagram took at least what it should, and a tenth of them hardly more.
#[track_caller]
pub(crate) fn assert_took(came: &[Arrival], expected_ms: impl Fn(u32) -> f64) {
    let late = |share| quantile(came.iter().map(|one| one.took_ms() - expected_ms(one.number)), share);
    assert!(late(0.0) > -0.1, "{} ms before its time", -late(0.0));
    assert!(late(0.1) < if in_vm() { 10.0 } else { 1.0 }, "a tenth of them {} ms late", late(0.1));
}

#[test]
fn the_seed_decides_the_delay_of_each_packet_and_order_is_kept_if_asked_for() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let keys = "delay = \"60ms\"\njitter = \"50ms\"\nmatch = { protocol = \"udp\" }";
    let datagrams = Stream { port: 5001, count: 400, per_second: 200, bytes: 100 };
    let experiment = Experiment::apply(&scene.scenario(7, &[&delay(keys)]));
    let came = datagrams.send(&scene, Duration::from_millis(500));
    experiment.end();
    assert_eq!(came.len(), 400);
    assert!(overtakings(&came) > 40, "jitter reorders");
    // Of wrong predictions half would be too late, by 33 ms on average.
    assert_took(&came, |n| predicted_ms(7, 5001, u64::from(n), (60.0, 50.0)));

    let ordered = delay(&format!("reorder = false\n{keys}"));
    let experiment = Experiment::apply(&scene.scenario(7, &[&ordered]));
    let came = datagrams.send(&scene, Duration::from_millis(500));
    experiment.end();
    // The queue releases them in order, many at one time; behind it two CPUs may hand them on in another.
    assert!(
        came.len() == 400 && overtakings(&came) < 8,
        "{} came, {} overtook",
        came.len(),
        overtakings(&came)
    );
}

#[test]
fn a_packet_does_not_wait_for_one_that_leaves_later() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // So far apart that as a rule two or three are on their way at once, in any order.
    let fault = delay("delay = \"110ms\"\njitter = \"100ms\"\nmatch = { protocol = \"udp\" }");
    let experiment = Experiment::apply(&scene.scenario(9, &[&fault]));
    let came =
        Stream { port: 5001, count: 80, per_second: 25, bytes: 100 }.send(&scene, Duration::from_millis(500));
    experiment.end();
    assert_eq!(came.len(), 80);
    let late = |one: &Arrival| one.took_ms() - predicted_ms(9, 5001, u64::from(one.number), (110.0, 100.0));
    let most = quantile(came.iter().map(late), 0.8);
    // In one queue, which sleeps until its first packet, a third of them would be late by 60 ms.
    assert!(most < 20.0, "four in five come less than {most} ms late");
}

/// The largest distance of the sample's distribution function from the given one (Kolmogorov and Smirnov).
fn distance(sample: &[f64], cdf: impl Fn(f64) -> f64) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let off = |(at, value): (usize, &f64)| {
        let expected = cdf(*value);
        (expected - at as f64 / n).abs().max((expected - (at + 1) as f64 / n).abs())
    };
    sorted.iter().enumerate().map(off).fold(0.0, f64::max)
}

/// Sends 500 datagrams under a delay: those that came, and the delay of each by the record of decisions, ms.
fn recorded(scene: &Scene, keys: &str) -> (Vec<Arrival>, Vec<f64>) {
    let record = tempfile::NamedTempFile::new().unwrap();
    let fault = delay(&format!("{keys}\nmatch = {{ protocol = \"udp\" }}"));
    let experiment = Experiment::apply_with(&scene.scenario(3, &[&fault]), |command| {
        command.arg("--record").arg(record.path())
    });
    let datagrams = Stream { port: 5001, count: 500, per_second: 500, bytes: 100 };
    let came = datagrams.send(scene, Duration::from_millis(1500));
    experiment.end();
    let text = std::fs::read_to_string(record.path()).unwrap();
    let delay_ms = |line: &str| {
        let decision: serde_json::Value = serde_json::from_str(line).unwrap();
        decision["delay_ns"].as_f64().unwrap() / 1e6
    };
    (came, text.lines().map(delay_ms).collect())
}

#[test]
fn delays_have_the_distribution_that_was_asked_for() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let exponential = |ms: f64| if ms < 20.0 { 0.0 } else { 1.0 - (-(ms - 20.0) / 30.0).exp() };
    let normal = Normal::new(100.0, 25.0).unwrap();
    let pareto = |ms: f64| {
        // Shape 3, scaled to a mean of 100 and a deviation of 25.
        let x = (ms - 100.0) / 25.0 * 0.75_f64.sqrt() + 1.5;
        if x < 1.0 { 0.0 } else { 1.0 - x.powi(-3) }
    };
    let gauss = |ms: f64| normal.cdf(ms);
    let cases: [(&str, &dyn Fn(f64) -> f64); 3] = [
        ("delay = \"100ms\"\njitter = \"25ms\"\ndistribution = \"normal\"", &gauss),
        ("delay = \"50ms\"\njitter = \"30ms\"\ndistribution = \"exponential\"", &exponential),
        ("delay = \"100ms\"\njitter = \"25ms\"\ndistribution = \"pareto\"", &pareto),
    ];
    for (keys, cdf) in cases {
        let (came, delays_ms) = recorded(&scene, keys);
        assert_eq!(delays_ms.len(), 500, "{keys}");
        let d = distance(&delays_ms, cdf);
        println!("{keys}: distance {d}");
        // What chance exceeds once in a thousand.
        assert!(d < 1.95 / 500.0_f64.sqrt(), "{keys}: distance {d}");
        // And what was decided is what happened.
        assert_eq!(came.len(), 500, "{keys}");
        assert_took(&came, |n| delays_ms[n as usize]);
    }
}

#[test]
fn faults_are_stages_of_one_path() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // 1000 bytes at 800 kbit/s take 10 ms; the way takes 30 ms more; half is lost behind it.
    let link = "id = \"link\"\nkind = \"network.rate\"\nrate = \"800kbit\"\nqueue = \"10s\"\nmatch = { protocol = \"udp\" }";
    let way = delay("delay = \"30ms\"\nmatch = { protocol = \"udp\" }");
    let half =
        "id = \"loss\"\nkind = \"network.loss\"\nprobability = \"50%\"\nmatch = { protocol = \"udp\" }";
    let experiment = Experiment::apply(&scene.scenario(5, &[link, &way, half]));
    let stream = Stream { port: 5001, count: 100, per_second: 10_000, bytes: 972 };
    let came = stream.send(&scene, Duration::from_millis(1500));
    let report = experiment.end();
    for id in ["link", "wan", "loss"] {
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
    println!("first took {} ms, typically {typical} ms off", first.took_ms());
    assert!(first.took_ms() > 40.0 + f64::from(first.number) * 10.0 - 10.0, "{} ms", first.took_ms());
    assert!(typical.abs() < if in_vm() { 25.0 } else { 3.0 }, "{typical} ms off");
}
