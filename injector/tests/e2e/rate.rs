//! A link of a given rate: what it lets through, how long its queue is, and what the full queue drops.

use std::time::Duration;

use crate::scene::Scene;
use crate::support::{Experiment, in_vm, root_or_skip};
use crate::timed::{Arrival, Stream, packets_can_wait, quantile};

/// Bytes of the headers of IPv4 and UDP.
const HEADERS: u32 = 28;
const SENT: u32 = 700;

/// Floods a link of 1 Mbit/s with 2.5 Mbit/s: what came, and what the report says of the full queue.
fn flood(scene: &Scene, queue: &str) -> (Vec<Arrival>, u64) {
    let fault = format!(
        "kind = \"network.rate\"\nrate = \"1mbit\"\nqueue = \"{queue}\"\nmatch = {{ protocol = \"udp\" }}"
    );
    let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    let stream = Stream { port: 5001, count: SENT, per_second: 250, bytes: 1250 - HEADERS };
    let came = stream.send(scene, Duration::from_secs(1));
    let report = experiment.end();
    let fault = &report.object["faults"][0];
    assert_eq!(fault["matched"], SENT, "{fault}");
    (came, fault["queue_full"].as_u64().unwrap())
}

#[test]
fn a_link_carries_its_rate_and_drops_only_behind_its_queue() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    // The queue is longer than an emulated machine stalls, so that the link is never idle.
    for queue in ["500ms", "62500B"] {
        let (came, dropped) = flood(&scene, queue);
        assert_eq!(came.len() as u64 + dropped, u64::from(SENT), "{queue}");
        assert!(dropped > 200, "{queue}: only {dropped} dropped");
        // By the times of the first and the last that came, whoever sent them when.
        let (first, last) = (came[0].came_ns, came[came.len() - 1].came_ns);
        let rate = (came.len() - 1) as f64 * 1250.0 * 8e9 / (last - first) as f64;
        println!("{queue}: {rate} bit/s");
        let tolerance = if in_vm() { 0.02 } else { 0.01 };
        assert!((rate / 1e6 - 1.0).abs() < tolerance, "{queue}: {rate} bit/s");
        // A packet waits 500 ms at most, and takes 10 ms itself. The first ones meet an empty queue.
        let took = |range: std::ops::Range<usize>, share| {
            quantile(came[range].iter().map(|one| one.took_ms()), share)
        };
        let full = took(200..came.len(), 0.5);
        assert!((475.0..535.0).contains(&full), "{queue}: {full} ms behind a full queue");
        assert!(took(0..5, 0.0) < 60.0, "{queue}: the first took {} ms", took(0..5, 0.0));
        // 50 packets wait before any is dropped. Two CPUs may hand them on in another order.
        let whole = (0..50).all(|number| came.iter().take(60).any(|one| one.number == number));
        assert!(whole, "{queue}: dropped before the queue was full");
    }
}

#[test]
fn held_back_packets_are_overtaken() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let fault = "kind = \"network.reorder\"\ndelay = \"150ms\"\ngap = 10\nmatch = { protocol = \"udp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    let stream = Stream { port: 5001, count: 100, per_second: 40, bytes: 100 };
    let came = stream.send(&scene, Duration::from_millis(400));
    let report = experiment.end();
    assert!(report.object["faults"][0]["requested_rate"].is_null(), "a gap asks for no share");
    assert_eq!((came.len(), report.only().injected), (100, 10));
    let place = |number: u32| came.iter().position(|one| one.number == number).unwrap();
    // One is sent every 25 ms. The last that is held has nobody behind it.
    let overtaken = (9..99).step_by(10).filter(|held| place(held + 1) < place(*held)).count();
    assert_eq!(overtaken, 9);
    let took = |held: bool| {
        let those = came.iter().filter(|one| (one.number % 10 == 9) == held);
        those.map(|one| one.took_ms()).collect::<Vec<f64>>()
    };
    // What is held back holds up nobody else.
    let (held, others) = (quantile(took(true), 0.0), quantile(took(false), 0.8));
    assert!(held >= 150.0 && others < 75.0, "{held} and {others} ms");
}
