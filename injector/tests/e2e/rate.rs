//! Links of a given rate: what they let through, how long their queues are, and what a full queue drops.

use std::time::Duration;

use crate::scene::Scene;
use crate::statistics::quantile;
use crate::support::{Experiment, clock_is_even, in_vm, root_or_skip};
use crate::timed::{Arrival, Stream, Streams, packets_can_wait};

/// Bytes of the headers of IPv4 and UDP.
const HEADERS: u32 = 28;
/// Bytes of a segment with its headers.
const SEGMENT: u32 = 1250;
/// How long a link is flooded.
const SECONDS: u32 = 6;

/// A link, and packets of so many segments that flood it.
#[derive(Clone, Copy)]
struct Link {
    port: u16,
    mbit: u32,
    /// As the scenario has it, and the time that it means, ms.
    queue: (&'static str, f64),
    segments: u32,
}

impl Link {
    fn id(self) -> String {
        format!("link-{}", self.port)
    }

    fn fault(self) -> String {
        let keys = format!("rate = \"{}mbit\"\nqueue = \"{}\"", self.mbit, self.queue.0);
        let only = format!("match = {{ protocol = \"udp\", remote_port = {} }}", self.port);
        format!("id = \"{}\"\nkind = \"network.rate\"\n{keys}\n{only}", self.id())
    }

    /// Bits of one packet.
    fn packet_bits(self) -> f64 {
        f64::from(SEGMENT * self.segments) * 8.0
    }

    /// How long the link takes to send one packet, ms.
    fn packet_ms(self) -> f64 {
        self.packet_bits() / f64::from(self.mbit) / 1e3
    }

    /// One and a half times as much as the link carries.
    fn flood(self) -> Stream {
        let per_second = self.mbit * 1_500_000 / (SEGMENT * 8 * self.segments);
        let bytes = SEGMENT - HEADERS;
        Stream { port: self.port, count: SECONDS * per_second, per_second, bytes }
    }

    /// What came of the flood, if the queue was full so and so often.
    #[track_caller]
    fn check(self, came: &[Arrival], queue_full: u64) {
        let (sent, queue_ms, own_ms) = (self.flood().count, self.queue.1, self.packet_ms());
        let what = format!("{} Mbit/s, {}", self.mbit, self.queue.0);
        assert_eq!(came.len() as u64 + queue_full, u64::from(sent), "{what}");
        assert!(queue_full > u64::from(sent) / 5, "{what}: only {queue_full} dropped");
        // By the times of the first and the last that came, whoever sent them when.
        let span_ns = (came[came.len() - 1].came_ns - came[0].came_ns) as f64;
        let rate = (came.len() - 1) as f64 * self.packet_bits() * 1e3 / span_ns;
        // A packet waits for its queue at most, and takes its own time. The first ones meet an empty queue.
        let took = |from: usize, share| quantile(came[from..].iter().map(|one| one.took_ms()), share);
        let full = took(came.len() / 2, 0.5);
        assert!(span_ns > 5e9, "{what}: over {span_ns} ns");
        // Who is not run for longer than the queue lasts leaves the link idle.
        let tolerance = if clock_is_even() { 0.01 } else { 0.05 };
        assert!((rate / f64::from(self.mbit) - 1.0).abs() < tolerance, "{what}: {rate} Mbit/s");
        assert!(
            (0.95 * queue_ms..1.05 * queue_ms + own_ms).contains(&full),
            "{what}: {full} ms behind a full queue"
        );
        let first = quantile(came[..5].iter().map(|one| one.took_ms()), 0.0);
        assert!(first < 0.12 * queue_ms, "{what}: the first took {first} ms");
        // Nobody is dropped before so many wait as the queue holds. Two CPUs may hand them on in another order.
        let holds = (queue_ms / own_ms) as u32;
        let early = || came.iter().take(holds as usize + 10);
        let whole = (0..holds).all(|number| early().any(|one| one.number == number));
        assert!(whole, "{what}: dropped before the queue was full");
    }
}

/// The queues are longer than an emulated machine stalls, so that the link is never idle.
const SLOW: [Link; 2] = [
    Link { port: 5001, mbit: 1, queue: ("500ms", 500.0), segments: 1 },
    Link { port: 5002, mbit: 1, queue: ("62500B", 500.0), segments: 1 },
];
/// What a machine sends that does not stall.
const FAST: [Link; 3] = [
    Link { port: 5003, mbit: 10, queue: ("62500B", 50.0), segments: 1 },
    Link { port: 5004, mbit: 100, queue: ("50ms", 50.0), segments: 10 },
    Link { port: 5005, mbit: 1000, queue: ("50ms", 50.0), segments: 50 },
];

#[test]
fn a_link_carries_its_rate_and_drops_only_behind_its_queue() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let mut links = SLOW.to_vec();
    if clock_is_even() {
        links.extend(FAST);
    } else {
        assert!(in_vm(), "a real machine is fast enough");
    }
    let ports: Vec<u16> = links.iter().map(|link| link.port).collect();
    let mut streams = Streams::new(&scene, &ports);
    let faults: Vec<String> = links.iter().map(|link| link.fault()).collect();
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&scene.scenario(1, &faults));
    let came: Vec<Vec<Arrival>> = links
        .iter()
        .map(|link| streams.send_in_segments(link.flood(), link.segments, Duration::from_secs(1)))
        .collect();
    let report = experiment.end();
    for ((link, came), fault) in links.iter().zip(came).zip(report.object["faults"].as_array().unwrap()) {
        assert_eq!(
            (&fault["id"], &fault["matched"]),
            (&link.id().into(), &link.flood().count.into()),
            "{fault}"
        );
        link.check(&came, fault["queue_full"].as_u64().unwrap());
    }
}
