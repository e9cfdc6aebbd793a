//! `network.loss` and `network.local-drop` as TCP takes them.

use std::process::Command;
use std::time::Duration;

use crate::iperf::Iperf;
use crate::scene::Scene;
use crate::support::{Cgroup, Experiment, Located as _, root_or_skip, wait_until};

const SECONDS: u32 = 5;
/// How long closed connections may stay: a minute for one whose peer does not close too (`tcp_fin_timeout`).
const DRAINED: Duration = Duration::from_secs(90);
/// What a segment carries on an Ethernet.
const SEGMENT_BYTES: f64 = 1448.0;

/// One struck transfer beside one of a sibling cgroup in the same namespace.
struct Beside {
    /// Segments of the struck transfer that were sent again.
    retransmitted: f64,
    /// Segments of both that were sent again and that the receiver had already, as it said (DSACK, RFC 2883).
    needless: f64,
    /// What the sibling sent again, as a share of what it sent.
    sibling: f64,
    fault: crate::support::Fault,
}

fn beside(kind: &str) -> Beside {
    let (scene, sibling) = (Scene::new(), Cgroup::new());
    scene.shorten_timeouts();
    let fault = format!("kind = \"{kind}\"\nprobability = \"10%\"\nmatch = {{ protocol = \"tcp\" }}");
    let experiment = Experiment::apply(&scene.scenario(11, &[&fault]));
    let count = || ["TcpRetransSegs", "TcpExtTCPDSACKRecvSegs"].map(|name| scene.pair.client.counter(name));
    let before = count();
    let one = Iperf::start(&scene, 5201, (1, SECONDS), |command| scene.struck(command));
    // As fast as it can it would overrun the receiver's backlog, and lose segments without any fault.
    let other = Iperf::start_with(&scene, 5202, (1, SECONDS), &["-b", "100M"], |command| {
        scene.spared(command.in_cgroup(&sibling))
    });
    let (one, other) = (one.finish(), other.finish());
    // iperf3 ends before its connections do: what was lost last is still to be sent again.
    wait_until(DRAINED, "the end of the struck connections", || {
        let mut ss = Command::new("ss");
        ss.args(["-Htn", "dport = :5201"]).in_netns(&scene.pair.client).text().is_empty()
    });
    let fault = experiment.end().only();
    let after = count();
    let [retransmitted, needless] = [0, 1].map(|n| (after[n] - before[n]) as f64);
    assert!(one.bytes > 1e6 && other.bytes > 1e7, "hardly anything was sent: {one:?} {other:?}");
    Beside {
        retransmitted: retransmitted - other.retransmitted,
        needless,
        sibling: other.retransmitted_per_byte() * SEGMENT_BYTES,
        fault,
    }
}

#[test]
fn every_lost_segment_is_sent_again_and_a_sibling_cgroup_loses_none() {
    if !root_or_skip() {
        return;
    }
    let Beside { retransmitted, needless, sibling, fault } = beside("network.loss");
    let rate = fault.injected as f64 / fault.matched as f64;
    let error = (0.09 / fault.matched as f64).sqrt();
    assert!((rate - 0.1).abs() < 4.0 * error, "{fault:?}: rate {rate}");
    // Each lost segment is sent again, and each of those that is lost again too. TCP sends some more, probes of
    // the tail and what it takes for lost: the receiver tells of those that arrive. What is lost when the receiver
    // has aborted the connection, as iperf3 does with what it has not read, is not sent again.
    let lost = fault.segments_injected as f64;
    let told = format!("{retransmitted} sent again, {needless} needlessly, {fault:?}");
    assert!(retransmitted > 0.90 * lost && retransmitted - needless < 1.15 * lost, "{told}");
    // A busy machine may let some of its time-outs pass, which are as short as the struck ones. Of the struck
    // segments a tenth is sent again.
    assert!(sibling < 0.01, "the sibling sent {sibling} of its segments again; {told}");
}

#[test]
fn a_local_drop_is_taken_for_congestion_and_hardly_sent_again() {
    if !root_or_skip() {
        return;
    }
    let Beside { retransmitted, fault, .. } = beside("network.local-drop");
    let ratio = retransmitted / fault.segments_injected as f64;
    assert!(fault.injected >= 20 && ratio < 0.3, "{retransmitted} sent again, {fault:?}");
}
