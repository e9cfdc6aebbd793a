//! What else a packet can be: a datagram of IPv6, and one that is sent in fragments.

use std::collections::BTreeMap;

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{Experiment, Located as _, SERVER_V4, SERVER_V6, root_or_skip, sh};
use crate::udp::{Receiver, Sender};

const UDP: &str = "match = { protocol = \"udp\" }";

/// A scene in which both sides know each other, so that nothing waits for a neighbour.
fn acquainted() -> Scene {
    let scene = Scene::new();
    for address in [SERVER_V4, SERVER_V6] {
        scene.spared(&mut sh(&format!("ping -n -q -c 1 -W 5 {address}"))).text();
    }
    scene
}

/// Sends numbered datagrams over IPv6 from the struck cgroup, which asks for errors if it is told to; returns how
/// many were lost and the errors of `sendto`. The receiver itself may have lost none.
fn transfer(scene: &Scene, count: u32, recverr: bool) -> (usize, BTreeMap<String, u32>) {
    let dropped = ["Udp6RcvbufErrors", "Udp6InErrors"];
    let before = scene.pair.server.counters(&dropped);
    let receiver = Receiver::start(SERVER_V6, 5001, count, |command| scene.remote(command));
    let sender = Sender { recverr, ..Sender::new(SERVER_V6, 5001, count) };
    let errors = sender.send(|command| scene.struck(command));
    let lost = receiver.lost();
    assert_eq!(scene.pair.server.counters(&dropped), before, "the receiver dropped some itself");
    (lost.len(), errors)
}

#[test]
fn sendto_succeeds_while_everything_over_ipv6_is_lost() {
    if !root_or_skip() {
        return;
    }
    let scene = acquainted();
    let experiment = Experiment::apply(&scene.scenario(1, &[&format!("kind = \"network.loss\"\n{UDP}")]));
    let none = BTreeMap::new();
    assert_eq!(transfer(&scene, 1000, true), (1000, none.clone()));
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected, fault.segments_injected), (1000, 1000, 1000));
    assert_eq!(transfer(&scene, 1000, true), (0, none), "after the end");
}

#[test]
fn a_local_drop_over_ipv6_is_told_to_a_sender_who_asked_and_to_no_other() {
    if !root_or_skip() {
        return;
    }
    let scene = acquainted();
    let fault = format!("kind = \"network.local-drop\"\nnth = \"1+2\"\n{UDP}");
    let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    assert_eq!(transfer(&scene, 1000, true), (500, BTreeMap::from([("ENOBUFS".to_owned(), 500)])));
    // Who did not ask is told nothing, and the stack counts it.
    let counted = || scene.pair.client.counter("Udp6SndbufErrors");
    let before = counted();
    assert_eq!(transfer(&scene, 1000, false), (500, BTreeMap::new()));
    // One that waits for a neighbour to be found is sent later, when there is nobody to be told.
    assert!((495..=500).contains(&(counted() - before)), "{} counted", counted() - before);
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (2000, 1000));
    assert_eq!(transfer(&scene, 1000, true), (0, BTreeMap::new()), "after the end");
}

/// Keys of a `match`, and how many of three fragments it means. That many are lost.
const FRAGMENTS: [(&str, u64); 4] = [
    ("protocol = \"udp\"", 3),
    // Later fragments have no ports.
    ("protocol = \"udp\", remote_port = 5001", 1),
    ("protocol = \"udp\", remote_port = 5002", 0),
    // Nor are they spared by one.
    ("protocol = \"udp\", not = { remote_port = 5001 }", 2),
];

#[test]
fn fragments_are_packets_of_which_the_first_alone_has_ports() {
    if !root_or_skip() {
        return;
    }
    let scene = acquainted();
    let mut client = Agent::start(|command| scene.struck(command));
    let mut server = Agent::start(|command| scene.remote(command));
    server.ask("bind()");
    for (address, names) in
        [(SERVER_V4, ["IpReasmReqds", "IpReasmOKs"]), (SERVER_V6, ["Ip6ReasmReqds", "Ip6ReasmOKs"])]
    {
        // How many fragments arrive, how many datagrams are whole, how many the program gets.
        let mut send = || {
            let before = scene.pair.server.counters(&names);
            client.ask(&format!("udp('{address}', size=4000)"));
            let received = server.ask("received()").as_u64().unwrap();
            let after = scene.pair.server.counters(&names);
            (after[0] - before[0], after[1] - before[1], received)
        };
        assert_eq!(send(), (3, 1, 1), "{address} without a fault");
        for (keys, meant) in FRAGMENTS {
            let fault = format!("kind = \"network.loss\"\nmatch = {{ {keys} }}");
            let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
            let whole = u64::from(meant == 0);
            assert_eq!(send(), (3 - meant, whole, whole), "{address} under {keys}");
            let fault = experiment.end().only();
            assert_eq!((fault.matched, fault.injected), (meant, meant), "{address} under {keys}");
            assert_eq!(fault.segments_injected, meant, "a fragment is a packet on the wire");
        }
    }
}
