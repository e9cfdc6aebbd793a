//! `network.loss` and `network.local-drop` on UDP: how much is lost, in which pattern, and who is told.

use std::collections::BTreeMap;

use crate::scene::Scene;
use crate::statistics::{binomial_interval, mean, runs};
use crate::support::{Experiment, Fault, SERVER_V4, in_vm, root_or_skip};
use crate::udp::{Receiver, Sender};

const UDP: &str = "match = { protocol = \"udp\" }";

/// 99.9 % of a normal distribution lie within so many standard deviations.
const Z_999: f64 = 3.29;

/// Sends numbered datagrams from the struck cgroup, which asks for errors; returns the lost numbers and the
/// errors of `sendto`. Nothing else on the way may have lost any.
fn transfer(scene: &Scene, count: u32) -> (Vec<u32>, BTreeMap<String, u32>) {
    let dropped = ["UdpRcvbufErrors", "UdpInErrors"];
    let before = scene.pair.server.counters(&dropped);
    let receiver = Receiver::start(SERVER_V4, 5001, count, |command| scene.remote(command));
    let sender = Sender { recverr: true, ..Sender::new(SERVER_V4, 5001, count) };
    let errors = sender.send(|command| scene.struck(command));
    let lost = receiver.lost();
    assert_eq!(scene.pair.server.counters(&dropped), before, "the receiver dropped some itself");
    (lost, errors)
}

/// A transfer under one fault: the lost numbers, which the report agrees with.
fn struck(seed: u64, keys: &str, count: u32) -> Vec<u32> {
    let scene = Scene::new();
    let fault = format!("kind = \"network.loss\"\n{keys}\n{UDP}");
    let experiment = Experiment::apply(&scene.scenario(seed, &[&fault]));
    let (lost, errors) = transfer(&scene, count);
    assert!(errors.is_empty(), "sendto failed: {errors:?}");
    let Fault { matched, injected, segments_injected, .. } = experiment.end().only();
    assert_eq!(matched, u64::from(count));
    assert_eq!(injected, lost.len() as u64);
    assert_eq!(segments_injected, injected, "a datagram is one segment");
    lost
}

#[test]
fn one_in_a_hundred_a_thousand_and_ten_thousand_are_lost_and_sendto_never_fails() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    // One stream meets all three, the rarest first, so that each of them meets 100,000 at least. In an emulated
    // machine, where that takes minutes, 80,000, of which some must still be lost at the lowest rate.
    let least = if in_vm() { 80_000 } else { 100_000 };
    let count = least + 1000;
    let rates = [("0.01%", 0.0001), ("0.1%", 0.001), ("1%", 0.01)];
    let faults = rates.map(|(percent, _)| {
        format!("id = \"{}\"\nkind = \"network.loss\"\nprobability = \"{percent}\"\n{UDP}", id(percent))
    });
    let experiment = Experiment::apply(&scene.scenario(7, &faults.each_ref().map(String::as_str)));
    let (lost, errors) = transfer(&scene, count);
    assert!(errors.is_empty(), "sendto failed: {errors:?}");
    let report = experiment.end();
    let mut left = u64::from(count);
    for (percent, rate) in rates {
        let Fault { matched, injected, .. } = report.fault(&id(percent));
        assert_eq!(matched, left, "{percent}: what an earlier fault lost goes no further");
        assert!(matched >= u64::from(least));
        let [low, high] = binomial_interval(matched, rate, 0.999);
        assert!(low >= 1, "{percent} of {matched} may be none");
        assert!((low..=high).contains(&injected), "{injected} lost at {percent}, {low} to {high} are likely");
        left -= injected;
    }
    assert_eq!(lost.len() as u64, u64::from(count) - left, "what did not arrive");
}

/// The id of the fault with this rate.
fn id(percent: &str) -> String {
    format!("rate-{}", percent.trim_end_matches('%'))
}

#[test]
fn gilbert_elliott_loses_in_bursts_of_the_asked_length_and_gap() {
    if !root_or_skip() {
        return;
    }
    let keys = "model = \"gilbert-elliott\"\np = \"4%\"\nr = \"25%\"";
    let (bursts, gaps) = runs(&struck(3, keys, 15_000), 15_000);
    // A burst is geometric with mean 1 / r, a gap with mean 1 / p.
    for (name, values, wanted) in [("burst", bursts, 4.0), ("gap", gaps, 25.0)] {
        assert!(values.len() > 400, "only {} runs", values.len());
        let (mean, error) = mean(&values);
        assert!(
            (mean - wanted).abs() < Z_999 * error,
            "mean {name} {mean} +- {error}, {wanted} was asked for"
        );
        let (one, n) = (values.iter().filter(|&&v| v == 1).count() as u64, values.len() as u64);
        let [low, high] = binomial_interval(n, 1.0 / wanted, 0.999);
        assert!((low..=high).contains(&one), "{one} of {n} {name}s have length 1, not {low} to {high}");
    }
}

#[test]
fn independent_loss_has_no_bursts_beyond_chance() {
    if !root_or_skip() {
        return;
    }
    let lost = struck(5, "probability = \"20%\"", 10_000);
    let [low, high] = binomial_interval(10_000, 0.2, 0.999);
    assert!((low..=high).contains(&(lost.len() as u64)), "{} lost", lost.len());
    let (mean, error) = mean(&runs(&lost, 10_000).0);
    assert!((mean - 1.25).abs() < Z_999 * error, "mean burst {mean} +- {error}");
}

#[test]
fn periodic_loss_is_exact() {
    if !root_or_skip() {
        return;
    }
    let expected: Vec<u32> = (0..2000).filter(|n| n % 10 >= 7).collect();
    assert_eq!(struck(1, "model = \"periodic\"\nup = 7\ndown = 3", 2000), expected);
}

#[test]
fn sendto_succeeds_while_everything_is_lost() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let experiment = Experiment::apply(&scene.scenario(1, &[&format!("kind = \"network.loss\"\n{UDP}")]));
    let (lost, errors) = transfer(&scene, 1000);
    assert_eq!((lost.len(), errors.len()), (1000, 0), "{errors:?}");
    assert_eq!(experiment.end().only().injected, 1000);
    let (lost, _) = transfer(&scene, 1000);
    assert!(lost.is_empty(), "lost after the end: {lost:?}");
}

#[test]
fn a_local_drop_is_told_to_a_sender_who_asked_for_errors() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let fault = format!("kind = \"network.local-drop\"\nprobability = \"10%\"\n{UDP}");
    let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    let (lost, errors) = transfer(&scene, 4000);
    let fault = experiment.end().only();
    let [low, high] = binomial_interval(4000, 0.1, 0.999);
    assert!((low..=high).contains(&fault.injected), "{} dropped", fault.injected);
    assert_eq!(lost.len() as u64, fault.injected);
    assert_eq!(errors, BTreeMap::from([("ENOBUFS".to_owned(), fault.injected as u32)]));
}

#[test]
fn a_local_drop_is_not_told_to_a_sender_who_did_not_ask() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let fault = format!("kind = \"network.local-drop\"\n{UDP}");
    let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    let errors = Sender::new(SERVER_V4, 5001, 100).send(|command| scene.struck(command));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(experiment.end().only().injected, 100);
}
