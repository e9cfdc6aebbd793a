//! What the maps hold, before there are any.

use std::collections::BTreeMap;

use injector_common::dns::Questions;
use injector_common::layout::{AddressKey, Target};
use injector_common::operation::Subject;
use injector_common::rule::Rule;

/// What the maps of an experiment hold: numbers only, made by the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Seed of the experiment.
    pub seed: u64,
    /// Number of faults.
    pub faults: u32,
    /// Rules, those of one target and direction side by side.
    pub rules: Vec<Rule>,
    /// Targets by cgroup id.
    pub targets: BTreeMap<u64, Target>,
    /// Targets by device index.
    pub interfaces: BTreeMap<u32, Target>,
    /// Networks of the numbered sets, with the length of the prefix in bits of the mapped address, and
    /// whether they belong to the set (1) or are cut out of a larger network of it (0).
    pub addresses: Vec<(AddressKey, u32, u32)>,
    /// Depths at which targets live, deepest first.
    pub levels: Vec<u32>,
    /// The tables of distributions, one behind the other.
    pub quantiles: Vec<u64>,
    /// The opportunities of traced links in ms, one trace behind the other.
    pub opportunities: Vec<u32>,
    /// The questions that DNS faults mean.
    pub questions: Vec<Questions>,
    /// What the rules for operations mean.
    pub subjects: Vec<Subject>,
    /// The operations that system calls do, by their numbers; of those that do one.
    pub operations: BTreeMap<u32, u32>,
    /// Whether some rule keeps the order of a flow.
    pub keeps_order: bool,
    /// Whether some rule counts the bytes of connections.
    pub counts_connections: bool,
    /// `CONTROL_` bits.
    pub flags: u32,
}

impl Image {
    /// The rules that are others than in an older image, and their places.
    pub fn rules_changed_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = (u32, &'a Rule)> {
        let numbered = self.rules.iter().enumerate();
        numbered.filter(|(n, rule)| old.rules.get(*n) != Some(rule)).map(|(n, rule)| (n as u32, rule))
    }
}
