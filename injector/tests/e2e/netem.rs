//! `network.loss` beside netem's, where the kernel has that.

use std::process::{Command, Output};

use crate::iperf::{Iperf, Transfer};
use crate::scene::Scene;
use crate::support::{DEVICE, Experiment, root_or_skip};

/// Long enough that chance alone moves neither figure by 6 %: it is the number of time-outs that counts.
const FEWEST_ROUNDS: usize = 3;
/// What else the host does moves them further, and comes and goes: rounds are added until both figures are inside
/// the tolerance, or there are so many. It is a sequential test that looks at most eight times. Looks at sums that
/// share most of their rounds are nearly one look: a figure that is off by twice the tolerance still fails.
const MOST_ROUNDS: usize = 10;
/// Retransmissions per byte and throughput, of netem's. The first is what a loss does; an emulated machine that runs
/// another program beside it for one round moves the second by a third, as losses at twice the rate would by more than half.
const TOLERATED: [std::ops::Range<f64>; 2] = [0.85..1.15, 0.6..1.67];
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

/// Retransmissions per byte and throughput, ours to netem's.
fn ratios(ours: &[Transfer], theirs: &[Transfer]) -> [f64; 2] {
    let (ours, theirs) = (sum(ours), sum(theirs));
    [ours.retransmitted_per_byte() / theirs.retransmitted_per_byte(), ours.throughput() / theirs.throughput()]
}

/// The port whose packets are lost by us, and the one whose packets our program sees and lets pass.
const OURS: u16 = 5201;
const THEIRS: u16 = 5202;

fn transfer(scene: &Scene, port: u16) -> Transfer {
    Iperf::start(scene, port, (STREAMS, SECONDS), |command| scene.struck(command)).finish()
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
    // In all rounds of both: what it takes to run injector at all is in both figures, and only the losses differ.
    let fault = format!("kind = \"network.loss\"\nprobability = \"10%\"\nmatch = {{ remote_port = {OURS} }}");
    let _experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=MOST_ROUNDS {
        netem(&scene, QUEUE);
        ours.push(transfer(&scene, OURS));
        netem(&scene, &format!("{QUEUE} loss 10%"));
        theirs.push(transfer(&scene, THEIRS));
        let ratios = ratios(&ours, &theirs);
        println!("round {round}: retransmissions per byte and throughput {ratios:?} of netem's");
        if round >= FEWEST_ROUNDS
            && TOLERATED.iter().zip(ratios).all(|(tolerated, ratio)| tolerated.contains(&ratio))
        {
            return;
        }
    }
    panic!("{:?} of netem's; ours {ours:#?}, netem's {theirs:#?}", ratios(&ours, &theirs));
}
