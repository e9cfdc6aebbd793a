//! `injector bench`: what a packet pays for injector, by `BPF_PROG_TEST_RUN` on the running kernel.
//!
//! The cases run in turns, several rounds, so that a busy moment of the machine hits all alike; the median of
//! the rounds counts. Nothing is attached.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aya::programs::{Program, TestRun as _, TestRunAttrs, TestRunOptions};
use injector_common::layout::{AddressKey, Span, Target};
use injector_common::loss as model;
use injector_common::matching as border;
use injector_common::packet::Address;
use injector_common::rule::{
    ACTION_LOSS, EGRESS, FREQUENCY_ALWAYS, FREQUENCY_MODEL, FREQUENCY_PROBABILITY, INGRESS,
    RULE_SPARES_GATEWAYS, RULE_SPARES_NEIGHBOURS, RULE_SPARES_PORTS, Rule,
};
use serde::Serialize;

use super::args;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::engine::EngineError;
use crate::host::cgroup::{Cgroup, Hierarchy};
use crate::kernel::{Image, Kernel, programs};

/// Rounds of all cases.
const ROUNDS: usize = 51;
/// Targets and rules of the large cases.
const MANY: u64 = 1000;
/// Frames that the kernel hands to an XDP program at once, as a driver does (`NAPI_POLL_WEIGHT`).
const BATCH: u32 = 64;
/// Ids that no cgroup has: the kernel counts them up from 1.
const NO_CGROUP: u64 = 1 << 40;

/// What one case cost.
#[derive(Debug, Serialize)]
struct Cost {
    case: &'static str,
    /// Median of the rounds.
    median_ns: u64,
    /// Fastest round.
    fastest_ns: u64,
    /// At the median, of live frames at XDP, on one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_per_second: Option<u64>,
    /// The same as a share of what a program reaches that drops all and looks at nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_bare_drop: Option<f64>,
}

/// A program on a loaded object.
struct Case {
    name: &'static str,
    program: &'static str,
    kernel: Kernel,
    frames: Frames,
    rounds_ns: Vec<u64>,
}

/// What a program is run on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frames {
    /// One packet again and again.
    One,
    /// XDP: packets as a driver hands them over, each in a page of its own that is given back (5.18).
    Live,
}

pub(super) fn run(command: &args::Bench, output: &Output) -> Result<Exit, Failure> {
    let own = own_cgroup()?;
    let mut cases = cases(&own)?;
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let cost = case.measure(command.repeat)?;
            case.rounds_ns.push(cost);
        }
    }
    let mut costs: Vec<Cost> = cases.into_iter().map(Case::cost).collect();
    compare(&mut costs);
    if output.json {
        output.object(&costs);
        return Ok(Exit::Done);
    }
    for cost in &costs {
        output.data(&format!(
            "{:48} {:>5} ns (fastest {} ns){}\n",
            cost.case,
            cost.median_ns,
            cost.fastest_ns,
            rate(cost)
        ));
    }
    Ok(Exit::Done)
}

fn rate(cost: &Cost) -> String {
    let Some(packets) = cost.packets_per_second else { return String::new() };
    let share = cost.of_bare_drop.map(|share| format!(", {share:.2} of the bare drop")).unwrap_or_default();
    format!(" {:.1} Mpackets/s per core{share}", packets as f64 / 1e6)
}

/// Holds live frames at XDP against the program that only drops them.
fn compare(costs: &mut [Cost]) {
    let bare = costs.iter().find(|cost| cost.case == BARE_DROP).and_then(|cost| cost.packets_per_second);
    for cost in costs.iter_mut().filter(|cost| cost.case != BARE_DROP) {
        cost.of_bare_drop = cost.packets_per_second.zip(bare).map(|(own, bare)| own as f64 / bare as f64);
    }
}

fn own_cgroup() -> Result<Cgroup, EngineError> {
    Ok(Hierarchy::find()?.of_process(std::process::id().cast_signed())?)
}

fn cases(own: &Cgroup) -> Result<Vec<Case>, Failure> {
    let hit = |rules: Vec<Rule>| {
        let count = rules.len() as u32;
        let span = Span { first: 0, count };
        let target = Target { egress: span, ingress: span, ..Target::default() };
        image(own.level, BTreeMap::from([(own.id, target)]), rules)
    };
    let p10 = lossy(|rule| rule.frequency = FREQUENCY_PROBABILITY);
    let port = lossy(|rule| {
        rule.frequency = FREQUENCY_PROBABILITY;
        rule.include.keys = border::KEY_REMOTE_PORT | border::KEY_PROTOCOL;
        rule.include.protocols[0] = 1 << 6;
        rule.include.remote_ports[0] = border::PortRange { low: 5432, high: 5432 };
        rule.include.remote_port_count = 1;
    });
    let burst = lossy(|rule| {
        rule.frequency = FREQUENCY_MODEL;
        rule.model.kind = model::MODEL_GILBERT_ELLIOTT;
        rule.model.parameters = [1 << 25, 1 << 30, 0, 1 << 32, 0];
    });
    let all = lossy(|rule| rule.frequency = FREQUENCY_ALWAYS);
    let all_of_port = Rule { frequency: FREQUENCY_ALWAYS, ..port };
    let device = programs::DEVICE_OUT.for_device(true);
    Ok(vec![
        Case::new("empty program", programs::EMPTY, &image(own.level, BTreeMap::new(), Vec::new()))?,
        Case::new(
            "bystander, 1 cgroup, 1 rule",
            programs::EGRESS.for_device(true),
            &strangers(own.level, 1),
        )?,
        Case::new(
            "bystander, 1,000 cgroups, 1,000 rules",
            programs::EGRESS.for_device(true),
            &strangers(own.level, MANY),
        )?,
        Case::new("bystander at ingress, 1,000 cgroups", programs::INGRESS, &strangers(own.level, MANY))?,
        Case::new("matched on a device: loss 10 %", device, &on_device(&p10))?,
        Case::new("matched at a cgroup's ingress: loss 10 %", programs::INGRESS, &hit(vec![p10]))?,
        Case::new("matched: loss 10 % of TCP port 5432", programs::INGRESS, &hit(vec![port]))?,
        Case::new("matched: Gilbert-Elliott", programs::INGRESS, &hit(vec![burst]))?,
        Case::new("matched: 10 rules", programs::INGRESS, &hit(vec![p10; 10]))?,
        Case::new("XDP: bare drop", programs::XDP_DROP, &arriving(&all))?,
        Case::new("XDP: loss 100 %", programs::XDP, &arriving(&all))?,
        Case::new(BARE_DROP, programs::XDP_DROP, &arriving(&all))?.live(),
        Case::new("XDP, live frames: loss 100 %", programs::XDP, &arriving(&all))?.live(),
        Case::new("XDP, live frames: 100 %, SSH and gateway spared", programs::XDP, &sparing(&all))?.live(),
        Case::new("XDP, live frames: 100 % of TCP port 5432", programs::XDP, &arriving(&all_of_port))?.live(),
    ])
}

/// The case with which the others of live frames are compared.
const BARE_DROP: &str = "XDP, live frames: bare drop";

/// The device of a test run: the loopback of this network namespace.
const LOOPBACK: u32 = 1;

fn on_device(rule: &Rule) -> Image {
    let target = Target { egress: Span { first: 0, count: 1 }, ..Target::default() };
    device_image(target, &Rule { direction: EGRESS, ..*rule })
}

fn arriving(rule: &Rule) -> Image {
    let target = Target { ingress: Span { first: 0, count: 1 }, ..Target::default() };
    device_image(target, rule)
}

/// As on an interface of a host with a default gateway, which is not who sends.
fn sparing(rule: &Rule) -> Image {
    let flags = RULE_SPARES_NEIGHBOURS | RULE_SPARES_PORTS | RULE_SPARES_GATEWAYS;
    let rule = Rule { flags, spared_ports: [22, 0, 0, 0], spared_set: 1, ..*rule };
    let gateway = AddressKey { set: 1, address: Address::from_v4([10, 0, 0, 254]) };
    Image { addresses: vec![(gateway, 128, 1)], ..arriving(&rule) }
}

fn device_image(target: Target, rule: &Rule) -> Image {
    Image {
        faults: 1,
        interfaces: BTreeMap::from([(LOOPBACK, target)]),
        rules: vec![*rule],
        ..Image::default()
    }
}

fn lossy(change: impl FnOnce(&mut Rule)) -> Rule {
    // A tenth, in units of 2^-32.
    let mut rule =
        Rule { action: ACTION_LOSS, direction: INGRESS, probability_p32: 429_496_730, ..Rule::default() };
    change(&mut rule);
    rule
}

fn image(level: u32, targets: BTreeMap<u64, Target>, rules: Vec<Rule>) -> Image {
    Image { faults: 1, levels: vec![level], targets, rules, ..Image::default() }
}

/// Targets that the caller does not belong to, a rule each.
fn strangers(level: u32, count: u64) -> Image {
    let targets = (0..count)
        .map(|n| {
            let span = Span { first: n as u32, count: 1 };
            (NO_CGROUP + n, Target { egress: span, ingress: span, ..Target::default() })
        })
        .collect();
    let rule = lossy(|rule| rule.direction = EGRESS);
    image(level, targets, vec![rule; count as usize])
}

impl Case {
    fn new(name: &'static str, program: &'static str, image: &Image) -> Result<Self, EngineError> {
        let mut kernel = Kernel::load(image, 1)?;
        // A deadline that does not come, so that the whole path is walked.
        kernel.arm(0, u64::MAX)?;
        match program {
            programs::INGRESS => drop(kernel.cgroup_skb(program)?),
            programs::XDP | programs::XDP_DROP => drop(kernel.xdp(program)?),
            _ => drop(kernel.classifier(program)?),
        }
        Ok(Self { name, program, kernel, frames: Frames::One, rounds_ns: Vec::new() })
    }

    fn live(self) -> Self {
        Self { frames: Frames::Live, ..self }
    }

    fn measure(&mut self, repeat: u32) -> Result<u64, Failure> {
        let packet = packet();
        let attrs = match self.frames {
            Frames::One => TestRunAttrs::new(),
            Frames::Live => TestRunAttrs::new().xdp_live_frames(BATCH),
        };
        let options = TestRunOptions { data_in: Some(&packet), repeat, attrs, ..TestRunOptions::new() };
        let result = match self.kernel.program(self.program) {
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            Some(Program::CgroupSkb(program)) => program.test_run(options),
            Some(Program::Xdp(program)) => program.test_run(options),
            _ => return Err(anyhow::anyhow!("there is no program {}", self.program).into()),
        };
        let result = result.with_context(|| format!("{} could not be run", self.program))?;
        Ok(result.duration.as_nanos() as u64)
    }

    fn cost(mut self) -> Cost {
        self.rounds_ns.sort_unstable();
        let at = |n: usize| self.rounds_ns.get(n).copied().unwrap_or(0);
        let median_ns = at(self.rounds_ns.len() / 2);
        let live = self.frames == Frames::Live && median_ns > 0;
        Cost {
            case: self.name,
            median_ns,
            fastest_ns: at(0),
            packets_per_second: live.then(|| 1_000_000_000 / median_ns),
            of_bare_drop: None,
        }
    }
}

/// A TCP segment of an established connection to port 5432, behind an Ethernet header.
fn packet() -> Vec<u8> {
    let mut packet = vec![0; 14 + 20 + 20 + 100];
    packet[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    let ip = &mut packet[14..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&140_u16.to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    ip[12..16].copy_from_slice(&[10, 0, 0, 2]);
    ip[16..20].copy_from_slice(&[10, 0, 0, 1]);
    ip[20..22].copy_from_slice(&5432_u16.to_be_bytes());
    ip[22..24].copy_from_slice(&40_000_u16.to_be_bytes());
    ip[32] = 0x50;
    ip[33] = 0x18;
    packet
}
