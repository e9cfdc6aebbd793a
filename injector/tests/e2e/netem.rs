//! `network.loss` beside netem's, where the kernel has that.

use std::process::{Command, Output};

use crate::iperf::{Iperf, Transfer};
use crate::scene::Scene;
use crate::support::{DEVICE, Experiment, root_or_skip};

/// Long enough that chance moves neither figure by 5 %: it is the number of time-outs that counts.
const ROUNDS: u64 = 4;
const STREAMS: u32 = 8;
const SECONDS: u32 = 5;

/// The queue is netem's in both cases, and too long to drop by itself. Its delay makes the round trip, and not how
/// fast an emulated machine is while another runs beside it, the bound of the throughput.
const QUEUE: &str = "netem limit 100000 delay 10ms";

/// Puts netem at the client's device; false where the kernel has none, which it must say in these words.
pub(crate) fn netem(scene: &Scene, options: &str) -> bool {
    let line = format!("-n {} qdisc replace dev {DEVICE} root {options}", scene.pair.client.name());
    let Output { status, stderr, .. } = Command::new("tc").args(line.split(' ')).output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(
        status.success() || errors.trim() == "Error: Specified qdisc kind is unknown.",
        "tc said {errors:?}"
    );
    status.success()
}

fn sum(transfers: &[Transfer]) -> Transfer {
    let sum = |of: fn(&Transfer) -> f64| transfers.iter().map(of).sum();
    Transfer {
        bytes: sum(|transfer| transfer.bytes),
        seconds: sum(|transfer| transfer.seconds),
        retransmitted: sum(|transfer| transfer.retransmitted),
    }
}

fn transfer(scene: &Scene) -> Transfer {
    Iperf::start(scene, 5201, (STREAMS, SECONDS), |command| scene.struck(command)).finish()
}

#[test]
fn a_tenth_lost_slows_tcp_as_netem_does() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    scene.shorten_timeouts();
    if !netem(&scene, QUEUE) {
        return;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        netem(&scene, QUEUE);
        let fault = "kind = \"network.loss\"\nprobability = \"10%\"";
        let experiment = Experiment::apply(&scene.scenario(round, &[fault]));
        ours.push(transfer(&scene));
        drop(experiment);
        netem(&scene, &format!("{QUEUE} loss 10%"));
        theirs.push(transfer(&scene));
    }
    println!("ours {ours:#?}, netem's {theirs:#?}");
    let (ours, theirs) = (sum(&ours), sum(&theirs));
    let retransmitted = ours.retransmitted_per_byte() / theirs.retransmitted_per_byte();
    let throughput = ours.throughput() / theirs.throughput();
    println!("retransmissions per byte {retransmitted}, throughput {throughput} of netem's");
    assert!((0.85..1.15).contains(&retransmitted), "{ours:?}, netem's {theirs:?}");
    assert!((0.85..1.15).contains(&throughput), "{ours:?}, netem's {theirs:?}");
}
