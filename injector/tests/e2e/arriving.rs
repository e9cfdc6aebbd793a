//! What arrives at a device and is kept back there: a way round by an ifb, which goes with the experiment.
//!
//! The controller runs in the client's namespace: the device is looked for where injector is.

use std::process::Command;
use std::time::Duration;

use crate::scene::{Scene, scenario};
use crate::statistics::quantile;
use crate::support::{DEVICE, Experiment, Located as _, SERVER_V4, root_or_skip};
use crate::timed::{Arrival, Stream, packets_can_wait};

fn apply(scene: &Scene, faults: &[&str]) -> Experiment {
    let text = scenario(1, &format!("interface = \"{DEVICE}\""), faults);
    Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client))
}

/// The round trips of so many pings from the client, ms, the shortest first.
fn pings(scene: &Scene, count: u32) -> Vec<f64> {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-i", "0.05", "-W", "20", "-c", &count.to_string(), SERVER_V4]);
    let text = scene.spared(&mut ping).text();
    let times = text.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next());
    let mut times: Vec<f64> = times.map(|time| time.parse().unwrap()).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn keyed(kind: &str, direction: &str, keys: &str) -> String {
    format!("kind = \"network.{kind}\"\ndirection = \"{direction}\"\n{keys}")
}

#[test]
fn what_arrives_is_kept_back_and_the_way_round_goes_again() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let listing = || (scene.pair.client.tc("qdisc show"), scene.pair.client.ip("-br link"));
    let before = listing();
    let icmp = "match = { protocol = \"icmp\" }";
    let experiment = apply(&scene, &[&keyed("delay", "ingress", &format!("delay = \"40ms\"\n{icmp}"))]);
    let times = pings(&scene, 10);
    let report = experiment.end().only();
    assert_eq!((report.matched, report.injected), (10, 10));
    // An emulated machine is late at times, and never early.
    assert!(times.len() == 10 && times[0] >= 40.0 && times[2] < 60.0, "{times:?}");
    assert_eq!(listing(), before, "something was left");
    let experiment = apply(
        &scene,
        &[
            &keyed("delay", "both", &format!("delay = \"30ms\"\n{icmp}")),
            &keyed("delay", "ingress", &format!("delay = \"20ms\"\n{icmp}")),
        ],
    );
    let times = pings(&scene, 10);
    let report = experiment.end();
    assert_eq!(report.fault("network.delay-1").injected, 20, "{report:?}");
    assert_eq!(report.fault("network.delay-2").injected, 10, "{report:?}");
    assert!(times[0] >= 80.0 && times[2] < 110.0, "{times:?}");
    assert_eq!(listing(), before, "something was left");
}

#[test]
fn loss_delay_and_rate_strike_both_directions_of_one_connection_at_once() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // From the server's namespace the struck client's datagrams arrive.
    let text = scenario(
        7,
        &format!("interface = \"{DEVICE}\""),
        &[
            &keyed("loss", "both", "probability = \"10%\"\nmatch = { protocol = \"udp\" }"),
            &keyed("rate", "both", "rate = \"1mbit\"\nqueue = \"10s\"\nmatch = { protocol = \"udp\" }"),
            &keyed("delay", "both", "delay = \"50ms\"\nmatch = { protocol = \"udp\" }"),
        ],
    );
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.server));
    let stream = Stream { port: 5001, count: 200, per_second: 400, bytes: 600 };
    let came = stream.send(&scene, Duration::from_secs(3));
    let report = experiment.end();
    let [loss, rate, delay] =
        ["loss", "rate", "delay"].map(|kind| report.fault(&format!("network.{kind}-1")));
    assert_eq!(loss.matched, 200);
    // What is lost on one stage never reaches the next.
    assert_eq!(rate.injected, 200 - loss.injected, "{report:?}");
    assert_eq!((delay.injected, came.len() as u64), (rate.injected, rate.injected), "{report:?}");
    assert!((5..=40).contains(&loss.injected), "{report:?}");
    // 628 bytes at 1 Mbit/s take 5.024 ms. The link is busy with one after the other, and the delay follows. None comes
    // before; how long after depends on what else an emulated machine does.
    let mut free_ms = 0.0_f64;
    let late = |arrival: &Arrival| {
        let since_first_ms = |ns: i64| (ns - came[0].sent_ns) as f64 / 1e6;
        free_ms = free_ms.max(since_first_ms(arrival.sent_ns)) + 5.024;
        since_first_ms(arrival.came_ns) - free_ms - 50.0
    };
    let late: Vec<f64> = came.iter().map(late).collect();
    assert!(late.iter().all(|late_ms| *late_ms >= -0.1), "{late:?}");
    assert!(quantile(late.iter().copied(), 0.5) < 50.0, "{late:?}");
}

#[test]
fn what_arrives_from_another_namespace_is_overtaken_while_it_waits() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // A veth leaves packets their sender's socket, by which fq would keep them in order.
    let text = scenario(
        1,
        &format!("interface = \"{DEVICE}\""),
        &[&keyed("reorder", "ingress", "delay = \"80ms\"\ngap = 5\nmatch = { protocol = \"udp\" }")],
    );
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.server));
    let came =
        Stream { port: 5001, count: 100, per_second: 100, bytes: 100 }.send(&scene, Duration::from_secs(1));
    assert_eq!(experiment.end().only().injected, 20);
    let overtaken = came.windows(2).filter(|two| two[1].number < two[0].number).count();
    assert!(came.len() == 100 && overtaken >= 10, "{overtaken} of 20: {came:?}");
    // Those that are not held don't wait for those that are.
    let others = came.iter().filter(|arrival| arrival.number % 5 != 4);
    assert!(quantile(others.map(|arrival| arrival.took_ms()), 0.5) < 40.0, "{came:?}");
}
