//! Super-packets of segmentation offload: counted in segments, and with `per = "segment"` split.

use crate::iperf::Iperf;
use crate::scene::Scene;
use crate::statistics::{binomial_interval, mean, runs};
use crate::support::{DEVICE, Experiment, Netns, root_or_skip};

/// The device's limit of segments, as `ip -details` shows it.
fn gso_max_segs(netns: &Netns) -> String {
    let text = netns.ip(&format!("-details link show {DEVICE}"));
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != "gso_max_segs");
    words.nth(1).unwrap().to_owned()
}

/// Frames and bytes that the client's device has sent; veth counts super-packets as one frame.
fn frames_sent(netns: &Netns) -> u64 {
    let text = netns.ip(&format!("-s -j link show {DEVICE}"));
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// TCP segments that the client has sent. `OutSegs` leaves out those that carry old data alone (RFC 4022), which
/// a loaded machine makes some of without any fault.
fn segments_sent(netns: &Netns) -> u64 {
    netns.counter("TcpOutSegs") + netns.counter("TcpRetransSegs")
}

#[test]
fn a_super_packet_counts_as_one_packet_and_as_its_segments() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let fault = "kind = \"network.loss\"\nnth = \"1000000000\"\nmatch = { protocol = \"tcp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    let (frames, segments) = (frames_sent(&scene.pair.client), segments_sent(&scene.pair.client));
    Iperf::start(&scene, 5201, (1, 2), |command| scene.struck(command)).finish();
    let frames = frames_sent(&scene.pair.client) - frames;
    let segments = segments_sent(&scene.pair.client) - segments;
    let fault = experiment.end().only();
    assert!(fault.segments_matched > 5 * fault.matched, "no super-packets: {fault:?}");
    // The kernel counts the last ACKs of closed connections too, which are nobody's, and ARP. The longer a slow
    // machine takes, the more there are.
    let near = |sent: u64, matched: u64| sent.abs_diff(matched) <= (sent / 200).max(10);
    assert!(near(frames, fault.matched), "{frames} frames were sent, {fault:?}");
    assert!(near(segments, fault.segments_matched), "{segments} segments were sent, {fault:?}");
}

#[test]
fn a_fault_per_segment_meets_single_segments_and_puts_the_device_back() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let before = gso_max_segs(&scene.pair.client);
    assert_ne!(before, "1");
    let fault =
        "kind = \"network.loss\"\nper = \"segment\"\nnth = \"1000000000\"\nmatch = { protocol = \"tcp\" }";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    assert_eq!(gso_max_segs(&scene.pair.client), "1");
    Iperf::start(&scene, 5201, (1, 2), |command| scene.struck(command)).finish();
    let fault = experiment.end().only();
    assert!(fault.matched > 1000, "{fault:?}");
    assert_eq!((fault.matched, fault.unsplit), (fault.segments_matched, 0));
    assert_eq!(gso_max_segs(&scene.pair.client), before);
}

/// Which segments of a bulk transfer at 5 % loss were lost, in the order of their sending, by the record, and of
/// how many. A slow machine may not keep up with the recording, which the report must say: it gets three chances.
#[track_caller]
fn lost_segments(per: &str) -> (Vec<u32>, u32) {
    (0..3).find_map(|_| recorded_segments(per)).expect("each of three records has gaps")
}

/// The same of one transfer; `None` if the report says that the record has gaps.
fn recorded_segments(per: &str) -> Option<(Vec<u32>, u32)> {
    let scene = Scene::new();
    let record = tempfile::NamedTempFile::new().unwrap();
    let fault = format!(
        "kind = \"network.loss\"\nper = \"{per}\"\nprobability = \"5%\"\n\
         match = {{ protocol = \"tcp\", length = \">= 1000\" }}"
    );
    let experiment = Experiment::apply_with(&scene.scenario(1, &[&fault]), |command| {
        command.arg("--record").arg(record.path())
    });
    scene.shorten_timeouts();
    Iperf::start(&scene, 5201, (4, 4), |command| scene.struck(command)).finish();
    let report = experiment.end();
    let fault = report.only();
    let warnings = report.object["warnings"].as_array().unwrap();
    if warnings.iter().any(|warning| warning.as_str().unwrap().contains("the record has gaps")) {
        return None;
    }
    let text = std::fs::read_to_string(record.path()).unwrap();
    let (mut lost, mut number) = (Vec::new(), 0);
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let segments = event["segments"].as_u64().unwrap() as u32;
        if event["outcome"] == "injected" {
            lost.extend(number..number + segments);
        }
        number += segments;
    }
    assert_eq!((u64::from(number), lost.len() as u64), (fault.segments_matched, fault.segments_injected));
    Some((lost, number))
}

#[test]
fn loss_per_segment_is_independent_from_segment_to_segment() {
    if !root_or_skip() {
        return;
    }
    let (lost, count) = lost_segments("segment");
    let [low, high] = binomial_interval(u64::from(count), 0.05, 0.999);
    assert!((low..=high).contains(&(lost.len() as u64)), "{} of {count} lost", lost.len());
    let (mean, error) = mean(&runs(&lost, count).0);
    // Runs of independent losses are geometric: 1 / 0.95.
    assert!((mean - 1.0 / 0.95).abs() < 3.29 * error, "mean burst {mean} +- {error} of {count}");
}

#[test]
fn loss_per_packet_takes_whole_super_packets() {
    if !root_or_skip() {
        return;
    }
    let (lost, count) = lost_segments("packet");
    let (mean, error) = mean(&runs(&lost, count).0);
    assert!(mean > 1.5, "mean burst {mean} +- {error} of {count}");
}
