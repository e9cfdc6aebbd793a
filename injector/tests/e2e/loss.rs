//! `network.loss` and `network.local-drop` on UDP: how much is lost, in which pattern, and who is told.

use std::collections::BTreeMap;

use crate::flows::{FIRST_PORT, Flows};
use crate::statistics::{binomial_interval, mean, runs};
use crate::support::{Experiment, Fault, SERVER_V4, SERVER_V6, in_vm, root_or_skip};

const UDP: &str = "match = { protocol = \"udp\" }";

/// 99.9 % of a normal distribution lie within so many standard deviations.
const Z_999: f64 = 3.29;

#[test]
fn one_in_a_hundred_a_thousand_and_ten_thousand_are_lost_and_sendto_never_fails() {
    if !root_or_skip() {
        return;
    }
    let mut flows = Flows::new(1);
    // One stream meets all three, the rarest first, so that each of them meets 100,000 at least. In an emulated
    // machine, where that takes minutes, 80,000, of which some must still be lost at the lowest rate.
    let least = if in_vm() { 80_000 } else { 100_000 };
    let count = least + 1000;
    let rates = [("0.01%", 0.0001), ("0.1%", 0.001), ("1%", 0.01)];
    let faults = rates.map(|(percent, _)| {
        format!("id = \"{}\"\nkind = \"network.loss\"\nprobability = \"{percent}\"\n{UDP}", id(percent))
    });
    let experiment = Experiment::apply(&flows.scene.scenario(7, &faults.each_ref().map(String::as_str)));
    let lost = flows.burst(FIRST_PORT, count);
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
fn losses_come_in_the_pattern_that_was_asked_for() {
    if !root_or_skip() {
        return;
    }
    let mut lost = Flows::new(3).lost(
        3,
        &[
            ("model = \"gilbert-elliott\"\np = \"4%\"\nr = \"25%\"", 15_000),
            ("probability = \"20%\"", 10_000),
            ("model = \"periodic\"\nup = 7\ndown = 3", 2000),
        ],
    );
    let (periodic, independent, elliott) = (lost.pop().unwrap(), lost.pop().unwrap(), lost.pop().unwrap());
    let (bursts, gaps) = runs(&elliott, 15_000);
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
    // Independent losses have no bursts beyond chance.
    let [low, high] = binomial_interval(10_000, 0.2, 0.999);
    assert!((low..=high).contains(&(independent.len() as u64)), "{} lost", independent.len());
    let (mean, error) = mean(&runs(&independent, 10_000).0);
    assert!((mean - 1.25).abs() < Z_999 * error, "mean burst {mean} +- {error}");
    assert_eq!(periodic, (0..2000).filter(|n| n % 10 >= 7).collect::<Vec<u32>>());
}

#[test]
fn who_sends_is_told_of_a_local_drop_if_it_asked_and_of_a_loss_never() {
    if !root_or_skip() {
        return;
    }
    let (lossy, dropping) = (FIRST_PORT, FIRST_PORT + 1);
    let mut flows = Flows::new(2);
    let fault = |kind: &str, port: u16| {
        let keys = if kind == "loss" { "" } else { "nth = \"1+2\"\n" };
        format!(
            "id = \"{kind}\"\nkind = \"network.{kind}\"\n{keys}match = {{ protocol = \"udp\", remote_port = {port} }}"
        )
    };
    let (loss, drop) = (fault("loss", lossy), fault("local-drop", dropping));
    let experiment = Experiment::apply(&flows.scene.scenario(1, &[&loss, &drop]));
    let none = BTreeMap::new();
    for (host, counter) in [(SERVER_V4, "UdpSndbufErrors"), (SERVER_V6, "Udp6SndbufErrors")] {
        let (gone, errors) = flows.told(host, lossy, 1000, true);
        assert_eq!((gone.len(), errors), (1000, none.clone()), "{host}");
        let (gone, errors) = flows.told(host, dropping, 1000, true);
        assert_eq!((gone.len(), errors), (500, BTreeMap::from([("ENOBUFS".to_owned(), 500)])), "{host}");
        // Who did not ask is told nothing, and the stack counts it.
        let before = flows.scene.pair.client.counter(counter);
        let (gone, errors) = flows.told(host, dropping, 1000, false);
        assert_eq!((gone.len(), errors), (500, none.clone()), "{host}");
        let counted = flows.scene.pair.client.counter(counter) - before;
        // One that waits for a neighbour to be found is sent later, when there is nobody to be told.
        assert!((495..=500).contains(&counted), "{host}: {counted} counted");
    }
    let report = experiment.end();
    for (id, matched, injected) in [("loss", 2000, 2000), ("local-drop", 4000, 2000)] {
        let fault = report.fault(id);
        assert_eq!(
            (fault.matched, fault.injected, fault.segments_injected),
            (matched, injected, injected),
            "{id}"
        );
    }
    for host in [SERVER_V4, SERVER_V6] {
        assert_eq!(flows.told(host, lossy, 1000, true), (Vec::new(), none.clone()), "{host} after the end");
        assert_eq!(
            flows.told(host, dropping, 1000, true),
            (Vec::new(), none.clone()),
            "{host} after the end"
        );
    }
}
