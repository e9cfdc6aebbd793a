//! The seed alone decides: the packets that a model predicts, and the same on every run.

use injector_common::P32_ONE;
use injector_common::frequency::Nth;
use injector_common::loss::{LossModel, MODEL_GILBERT_ELLIOTT, MODEL_MARKOV, MODEL_PERIODIC_PACKETS};
use injector_common::rule::{FREQUENCY_MODEL, FREQUENCY_NTH, FREQUENCY_PROBABILITY, Rule};

use crate::flows::{FIRST_PORT, Flows, id};
use crate::model::{self, p32};
use crate::support::{SERVER_V4, root_or_skip};

const DATAGRAMS: u32 = 2000;

fn nth(first: u64, last: u64, step: u64) -> Rule {
    Rule { frequency: FREQUENCY_NTH, nth: Nth { first, last, step }, ..Rule::default() }
}

fn chain(kind: u32, parameters: [u64; 5]) -> Rule {
    Rule {
        frequency: FREQUENCY_MODEL,
        model: LossModel { kind, parameters, ..LossModel::default() },
        ..Rule::default()
    }
}

/// What a scenario says, and the rule that it must mean.
fn cases() -> Vec<(&'static str, Rule)> {
    let bernoulli = |p| Rule { frequency: FREQUENCY_PROBABILITY, probability_p32: p32(p), ..Rule::default() };
    let elliott = [p32(0.02), p32(0.2), p32(0.3), p32(0.99), 0];
    let markov = [p32(0.02), p32(0.3), p32(0.1), p32(0.6), p32(0.01)];
    vec![
        ("probability = \"2.5%\"", bernoulli(0.025)),
        ("probability = \"33.3%\"\nlimit = 100", Rule { limit: 100, ..bernoulli(0.333) }),
        (
            "model = \"gilbert-elliott\"\np = \"2%\"\nr = \"20%\"\nh = \"30%\"\nk = \"99%\"",
            chain(MODEL_GILBERT_ELLIOTT, elliott),
        ),
        (
            "model = \"gilbert-elliott\"\np = \"1%\"\nr = \"25%\"",
            chain(MODEL_GILBERT_ELLIOTT, [p32(0.01), p32(0.25), 0, P32_ONE, 0]),
        ),
        (
            "model = \"markov\"\np13 = \"2%\"\np31 = \"30%\"\np32 = \"10%\"\np23 = \"60%\"\np14 = \"1%\"",
            chain(MODEL_MARKOV, markov),
        ),
        ("model = \"periodic\"\nup = 11\ndown = 2", chain(MODEL_PERIODIC_PACKETS, [11, 2, 0, 0, 0])),
        ("nth = \"17\"", nth(17, 17, 1)),
        ("nth = \"3+2\"", nth(3, u64::MAX, 2)),
        ("nth = \"3..10\"", nth(3, 10, 1)),
        ("nth = \"100..1900+7\"\nlimit = 50", Rule { limit: 50, ..nth(100, 1900, 7) }),
    ]
}

/// Runs the first so many cases; each loses what the model says.
#[track_caller]
fn assert_predicted(flows: &mut Flows, seed: u64, count: usize) -> Vec<Vec<u32>> {
    let (keys, rules): (Vec<&str>, Vec<Rule>) = cases().into_iter().take(count).unzip();
    let flows_of: Vec<(&str, u32)> = keys.iter().map(|keys| (*keys, DATAGRAMS)).collect();
    let lost = flows.lost(seed, &flows_of);
    for (((keys, rule), lost), port) in keys.iter().zip(rules).zip(&lost).zip(FIRST_PORT..) {
        let expected = model::lost(seed, &id(port), rule, (SERVER_V4, port), DATAGRAMS);
        assert!(!expected.is_empty(), "{keys} predicts nothing");
        assert_eq!(*lost, expected, "{keys} and seed {seed}");
    }
    lost
}

#[test]
fn a_user_space_model_predicts_every_decision_and_one_seed_loses_the_same_again() {
    if !root_or_skip() {
        return;
    }
    let all = cases().len();
    let first = assert_predicted(&mut Flows::new(all as u16), 99, all);
    // In other namespaces, another cgroup and from another ephemeral port.
    let mut flows = Flows::new(2);
    let again = assert_predicted(&mut flows, 99, 2);
    assert_eq!(again, first[..2]);
    let other = assert_predicted(&mut flows, 43, 1).remove(0);
    // Independent sets have 2000 * (2.5 %)^2 = 1.25 numbers in common; 99.9 % of the time at most 6.
    let common = other.iter().filter(|n| first[0].contains(n)).count();
    assert!(common <= 6, "{common} of {} are the same", other.len());
}
