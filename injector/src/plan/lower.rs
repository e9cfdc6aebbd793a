//! The scenario's faults as rules in the kernel's form, laid out by target and direction.

use std::collections::BTreeSet;

use injector_common::draw::{self, PURPOSE_STRIKE, PURPOSE_WINDOW};
use injector_common::frequency;
use injector_common::layout::{
    CONTROL_FINE_CLOCK, CONTROL_TRACE, MAX_LEVELS, MAX_RULES_PER_TARGET, Span, Target,
};
use injector_common::loss as model;
use injector_common::rule::{self as border, Rule};
use injector_common::window::Window;

use super::addresses::AddressSets;
use super::{Place, PlanError, World, dns, matching, operations, partition, spare, treat};
use crate::kernel::Image;
use crate::scenario::{Direction, Effect, Fault, Frequency, Loss, LossModel, Per, Scenario, When};
use injector_common::treatment::TREAT_KEEPS_ORDER;

/// The maps' content, and which rule belongs to which fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// What the maps hold.
    pub image: Image,
    /// For each rule, the position of its fault in the scenario.
    pub fault_of_rule: Vec<usize>,
}

/// Lays a scenario out in the kernel's form.
///
/// The rules of a target are those of its own faults and those of every target whose cgroup holds it, in
/// the order of the file, egress before ingress, and calls last.
pub fn lower(scenario: &Scenario, seed: u64, world: &World) -> Result<Lowered, PlanError> {
    let mut sets = AddressSets::default();
    let mut lowered = Lowered {
        image: Image {
            seed,
            faults: scenario.faults.len() as u32,
            // A record of decisions is worth its exact times.
            flags: if world.trace { CONTROL_TRACE | CONTROL_FINE_CLOCK } else { 0 },
            levels: levels(world)?,
            ..Image::default()
        },
        fault_of_rule: Vec::new(),
    };
    for (name, place) in &world.places {
        let faults = faults_on(scenario, world, place)?;
        let mut lay_out = |way| {
            let first = lowered.image.rules.len() as u32;
            for &(position, fault, target) in faults.iter().filter(|(_, f, _)| goes(f, way)) {
                let Some(fault) = partition::narrowed(fault, target, way, seed, world) else { continue };
                let mut rule = rule_at((position, &fault, way), seed, world, &mut sets)?;
                let spares = scenario.targets.get(target).is_none_or(|target| target.spares);
                if spares && matches!(place, Place::Interface { .. }) {
                    spare::apply(&mut rule, &fault, world, &mut sets);
                }
                link_to_others(&mut rule, scenario, position);
                lowered.image.rules.push(rule);
                lowered.fault_of_rule.push(position);
            }
            Ok(Span { first, count: lowered.image.rules.len() as u32 - first })
        };
        let [egress, ingress, calls] =
            [lay_out(border::EGRESS)?, lay_out(border::INGRESS)?, lay_out(border::CALL)?];
        check_rules(name, &[egress, ingress, calls])?;
        let target = Target { egress, ingress, calls };
        match place {
            Place::Cgroup { id, .. } => drop(lowered.image.targets.insert(*id, target)),
            Place::Interface { index, .. } => drop(lowered.image.interfaces.insert(*index, target)),
        }
    }
    lowered.image.addresses = sets.entries();
    treat::lay_out_tables(scenario, &mut lowered);
    dns::lay_out(scenario, &mut lowered);
    operations::lay_out(scenario, world, &mut lowered);
    lowered.image.keeps_order =
        lowered.image.rules.iter().any(|rule| rule.treatment.flags & TREAT_KEEPS_ORDER != 0);
    lowered.image.counts_connections = lowered.image.rules.iter().any(|rule| rule.treatment.after_bytes != 0);
    if lowered.image.rules.iter().any(looks_at_time) {
        lowered.image.flags |= CONTROL_FINE_CLOCK;
    }
    Ok(lowered)
}

/// Says whom the fault follows, and whether others follow it: then the kernel half notes its first strike.
fn link_to_others(rule: &mut Rule, scenario: &Scenario, position: usize) {
    let Some(fault) = scenario.faults.get(position) else { return };
    let of = |id: &String| scenario.faults.iter().position(|other| other.id == *id);
    // The validation lets nobody wait for one that is not there; a slot that is not there never strikes.
    let slot_of = |id| of(id).unwrap_or(scenario.faults.len()) as u32;
    rule.follows = fault.after.as_ref().map_or(0, |id| slot_of(id) + 1);
    let follows_it =
        |other: &Fault| other.after.as_ref() == Some(&fault.id) && !other.effect.is_done_by_injector();
    rule.is_followed = u32::from(scenario.faults.iter().any(follows_it));
    if rule.follows != 0 || rule.is_followed != 0 {
        rule.flags |= border::RULE_LINKED;
    }
}

/// Whether a rule needs the time finer than the kernel's tick.
fn looks_at_time(rule: &Rule) -> bool {
    !rule.window.is_always_open()
        || rule.flags & border::RULE_LINKED != 0
        || rule.budget.period_ns != 0
        || rule.model.kind == model::MODEL_PERIODIC_TIME
        || matches!(rule.action, border::ACTION_DELAY | border::ACTION_RATE)
}

/// Depths at which targets live, deepest first, so that the innermost target is found first.
fn levels(world: &World) -> Result<Vec<u32>, PlanError> {
    let levels: BTreeSet<u32> = world
        .places
        .values()
        .filter_map(|place| match place {
            Place::Cgroup { level, .. } => Some(*level),
            Place::Interface { .. } => None,
        })
        .collect();
    if levels.len() > MAX_LEVELS {
        return Err(PlanError::TooManyLevels { levels: levels.len(), max: MAX_LEVELS });
    }
    Ok(levels.into_iter().rev().collect())
}

/// The faults that strike what is at `place`: its own, and those of every cgroup above it. Each with its position, and
/// the name of the target by which it strikes.
fn faults_on<'a>(
    scenario: &'a Scenario,
    world: &World,
    place: &Place,
) -> Result<Vec<(usize, &'a Fault, &'a str)>, PlanError> {
    let mut faults = Vec::new();
    // What injector does itself is no rule, and what seccomp notifies is none of the kernel half's.
    let all = scenario.faults.iter().enumerate();
    let is_own = |(position, fault): &(usize, &Fault)| {
        !fault.effect.is_done_by_injector() && !world.notified.contains(position)
    };
    for (position, fault) in all.filter(is_own) {
        for target in &fault.targets {
            let struck = world.places.get(target).ok_or_else(|| PlanError::Unresolved(target.clone()))?;
            if holds(struck, place) {
                faults.push((position, fault, target.as_str()));
            }
        }
    }
    Ok(faults)
}

fn holds(outer: &Place, inner: &Place) -> bool {
    match (outer, inner) {
        (Place::Cgroup { path: outer, .. }, Place::Cgroup { path: inner, .. }) => {
            let outer = outer.trim_end_matches('/');
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (Place::Interface { index: outer, .. }, Place::Interface { index: inner, .. }) => outer == inner,
        _ => false,
    }
}

/// Whether a fault has a rule for packets of a direction, or for calls.
fn goes(fault: &Fault, way: u32) -> bool {
    // Operations are calls too, by the hooks of another kind.
    let calls = fault.effect.calls().is_some() || fault.effect.strikes_operations();
    match (way, calls) {
        (border::CALL, calls) => calls,
        (_, true) => false,
        (border::EGRESS, false) => fault.direction != Direction::Ingress,
        (_, false) => fault.direction != Direction::Egress,
    }
}

fn check_rules(target: &str, spans: &[Span; 3]) -> Result<(), PlanError> {
    match spans.iter().find(|span| span.count > MAX_RULES_PER_TARGET) {
        Some(span) => Err(PlanError::TooManyRules {
            target: target.to_owned(),
            rules: span.count as usize,
            max: MAX_RULES_PER_TARGET as usize,
        }),
        None => Ok(()),
    }
}

/// The rule of one fault in one direction, or for calls.
fn rule_at(
    (position, fault, way): (usize, &Fault, u32),
    seed: u64,
    world: &World,
    sets: &mut AddressSets,
) -> Result<Rule, PlanError> {
    let mut rule = rule((fault, way), position as u32, seed, world, sets)?;
    rule.direction = if fault.effect.strikes_operations() { border::OPERATION } else { way };
    Ok(rule)
}

/// The rule of a fault, wherever it strikes.
pub(super) fn rule(
    (fault, way): (&Fault, u32),
    slot: u32,
    seed: u64,
    world: &World,
    sets: &mut AddressSets,
) -> Result<Rule, PlanError> {
    let number = draw::fault_number(fault.id.as_bytes());
    let mut rule = Rule {
        fault: slot,
        stream: draw::stream(seed, number, PURPOSE_STRIKE),
        limit: fault.limit.unwrap_or(border::NO_LIMIT),
        window: window(&fault.when, draw::stream(seed, number, PURPOSE_WINDOW)),
        include: matching::lower(&fault.id, &dns::matcher(fault, way), world, sets)?,
        ..Rule::default()
    };
    if let Some(exclude) = &fault.exclude {
        rule.exclude = matching::lower(&fault.id, exclude, world, sets)?;
        rule.flags |= border::RULE_EXCLUDES;
    }
    if let Some(budget) = fault.budget {
        rule.budget = frequency::Budget { count: budget.count, period_ns: budget.per_ns };
    }
    how_often(&mut rule, fault);
    match fault.effect {
        Effect::Loss(loss) => lose(&mut rule, &loss),
        Effect::LocalDrop => rule.action = border::ACTION_LOCAL_DROP,
        Effect::Partition(_) => rule.action = border::ACTION_LOSS,
        Effect::Link | Effect::Process(_) | Effect::Clock(_) => {}
        _ => treat::apply(&mut rule, fault, seed),
    }
    Ok(rule)
}

/// The windows of the faults that injector does itself, each with the position of its fault.
pub(crate) fn own_windows(scenario: &Scenario, seed: u64) -> Vec<(usize, Window)> {
    let all = scenario.faults.iter().enumerate();
    let number = |fault: &Fault| draw::fault_number(fault.id.as_bytes());
    all.filter(|(_, fault)| fault.effect.is_done_by_injector())
        .map(|(n, fault)| (n, window(&fault.when, draw::stream(seed, number(fault), PURPOSE_WINDOW))))
        .collect()
}

pub(super) fn window(when: &When, stream: u64) -> Window {
    Window {
        start_ns: when.start_ns,
        for_ns: when.for_ns.unwrap_or(0),
        every_ns: when.every_ns.unwrap_or(0),
        jitter_ns: when.jitter_ns,
        stream,
    }
}

fn how_often(rule: &mut Rule, fault: &Fault) {
    match fault.frequency {
        Frequency::Probability(p) if p.0 >= injector_common::P32_ONE => {
            rule.frequency = border::FREQUENCY_ALWAYS;
        }
        Frequency::Probability(p) => {
            rule.frequency = border::FREQUENCY_PROBABILITY;
            rule.probability_p32 = p.0;
        }
        Frequency::Nth(nth) => {
            rule.frequency = border::FREQUENCY_NTH;
            rule.nth = frequency::Nth { first: nth.first, last: nth.last, step: nth.step };
        }
    }
}

fn lose(rule: &mut Rule, loss: &Loss) {
    rule.action = border::ACTION_LOSS;
    if loss.per == Per::Segment {
        rule.flags |= border::RULE_PER_SEGMENT;
    }
    let (kind, parameters) = match loss.model {
        LossModel::Bernoulli => return,
        LossModel::GilbertElliott { p, r, h, k } => (model::MODEL_GILBERT_ELLIOTT, [p.0, r.0, h.0, k.0, 0]),
        LossModel::Markov { p13, p31, p32, p23, p14 } => {
            (model::MODEL_MARKOV, [p13.0, p31.0, p32.0, p23.0, p14.0])
        }
        LossModel::PeriodicPackets { up, down } => (model::MODEL_PERIODIC_PACKETS, [up, down, 0, 0, 0]),
        LossModel::PeriodicTime { up_ns, down_ns } => (model::MODEL_PERIODIC_TIME, [up_ns, down_ns, 0, 0, 0]),
    };
    rule.frequency = border::FREQUENCY_MODEL;
    rule.model = model::LossModel { kind, _pad: 0, parameters };
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
