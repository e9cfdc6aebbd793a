//! The seed alone decides: the same packets on every run, and those that a model predicts.

use injector_common::P32_ONE;
use injector_common::frequency::Nth;
use injector_common::loss::{LossModel, MODEL_GILBERT_ELLIOTT, MODEL_MARKOV, MODEL_PERIODIC_PACKETS};
use injector_common::rule::{FREQUENCY_MODEL, FREQUENCY_NTH, FREQUENCY_PROBABILITY, Rule};

use crate::agent::Agent;
use crate::model::{self, p32};
use crate::scene::Scene;
use crate::support::{Experiment, SERVER_V4, root_or_skip};

const DATAGRAMS: u32 = 2000;
const FIRST_PORT: u16 = 5001;

/// A scene with a process that sends the datagrams of all flows, and one that takes them.
struct Flows {
    scene: Scene,
    sender: Agent,
    receiver: Agent,
}

impl Flows {
    fn new(count: u16) -> Self {
        let scene = Scene::new();
        let mut sender = Agent::start(|command| scene.struck(command));
        // From here on the way is open, and the other side's address known: a burst would not wait for them.
        assert_eq!(sender.ask(&format!("ping('{SERVER_V4}')")), 0);
        let mut receiver = Agent::start(|command| scene.remote(command));
        for port in FIRST_PORT..FIRST_PORT + count {
            receiver.ask(&format!("bind({port})"));
        }
        Self { scene, sender, receiver }
    }

    /// The numbers that one run loses of each flow. Flow n goes to port `FIRST_PORT + n` and meets the fault `wan-n`
    /// alone.
    fn lost(&mut self, seed: u64, frequencies: &[&str]) -> Vec<Vec<u32>> {
        let flows: Vec<(u16, &str)> = (FIRST_PORT..).zip(frequencies.iter().copied()).collect();
        let faults: Vec<String> = flows.iter().map(|(port, frequency)| fault(*port, frequency)).collect();
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let experiment = Experiment::apply(&self.scene.scenario(seed, &faults));
        let lost: Vec<Vec<u32>> = flows.iter().map(|(port, _)| self.lost_of(*port)).collect();
        let report = experiment.end();
        for ((port, frequency), lost) in flows.iter().zip(&lost) {
            let fault = report.fault(&id(*port));
            let counted = (fault.matched, fault.injected);
            assert_eq!(counted, (u64::from(DATAGRAMS), lost.len() as u64), "{frequency}");
        }
        lost
    }

    fn lost_of(&mut self, port: u16) -> Vec<u32> {
        self.sender.ask(&format!("burst('{SERVER_V4}', {port}, {DATAGRAMS})"));
        serde_json::from_value(self.receiver.ask(&format!("missing({DATAGRAMS}, {port})"))).unwrap()
    }
}

fn fault(port: u16, frequency: &str) -> String {
    format!(
        "id = \"{}\"\nkind = \"network.loss\"\n{frequency}\n\
         match = {{ protocol = \"udp\", remote_port = {port} }}",
        id(port)
    )
}

fn id(port: u16) -> String {
    format!("wan-{port}")
}

#[test]
fn one_seed_loses_the_same_datagrams_again_and_another_seed_others() {
    if !root_or_skip() {
        return;
    }
    let mut flows = Flows::new(1);
    let run = |flows: &mut Flows, seed| flows.lost(seed, &["probability = \"10%\""]).remove(0);
    let first = run(&mut flows, 42);
    // Each time from another ephemeral port; also in other namespaces, and another cgroup.
    assert_eq!(run(&mut flows, 42), first);
    assert_eq!(run(&mut Flows::new(1), 42), first);
    let other = run(&mut flows, 43);
    let common = other.iter().filter(|n| first.contains(n)).count();
    // Independent sets have 2000 * 10 % * 10 % = 20 numbers in common; 99.9 % of the time at most 35.
    assert!(common <= 35, "{common} of {} are the same", other.len());
    assert!(first.len() > 150 && other.len() > 150, "{} and {}", first.len(), other.len());
}

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

#[test]
fn a_user_space_model_predicts_every_decision_of_the_kernel() {
    if !root_or_skip() {
        return;
    }
    let (keys, rules): (Vec<&str>, Vec<Rule>) = cases().into_iter().unzip();
    let seen = Flows::new(keys.len() as u16).lost(99, &keys);
    for (((keys, rule), seen), port) in keys.iter().zip(rules).zip(seen).zip(FIRST_PORT..) {
        let expected = model::lost(99, &id(port), rule, (SERVER_V4, port), DATAGRAMS);
        assert!(!expected.is_empty(), "{keys} predicts nothing");
        assert_eq!(seen, expected, "{keys}");
    }
}
