//! The loaded object: its maps filled, its programs loaded one by one, armed last.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, SchedClassifier, Xdp};
use aya::{Ebpf, VerifierLogLevel, include_bytes_aligned};
use injector_common::dns::Questions;
use injector_common::layout::{
    AddressKey, CONNECTIONS, Control, Counters, FaultState, MAX_LEVELS, SET_BITS, Target, filter_place,
};
use injector_common::needs::Needs;
use injector_common::packet::CLASSES;
use injector_common::rule::Rule;
use injector_common::{ABI_VERSION, event::Event};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::error::KernelError;
use super::loader;
use super::shape::shape_of;

static OBJECT: &[u8] = include_bytes_aligned!(env!("INJECTOR_EBPF_OBJECT"));

/// Room for decisions between two visits of the reader, when an experiment is traced.
const TRACE_BYTES: u32 = 32 << 20;

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
    /// Whether some rule keeps the order of a flow.
    pub keeps_order: bool,
    /// Whether some rule counts the bytes of connections.
    pub counts_connections: bool,
    /// `CONTROL_` bits.
    pub flags: u32,
}

/// The object in the kernel. Dropping it takes all of it away.
#[derive(Debug)]
pub struct Kernel {
    ebpf: Ebpf,
    control: Control,
}

impl Image {
    /// The rules that are others than in an older image, and their places.
    pub fn rules_changed_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = (u32, &'a Rule)> {
        let numbered = self.rules.iter().enumerate();
        numbered.filter(|(n, rule)| old.rules.get(*n) != Some(rule)).map(|(n, rule)| (n as u32, rule))
    }
}

impl Kernel {
    /// Creates the maps and fills them. Nothing is attached, and nothing is armed.
    pub fn load(image: &Image, mark: u16) -> Result<Self, KernelError> {
        check_abi()?;
        let entries = |n: usize| (n as u32).max(1);
        let needs = needs_of(image);
        let shape = shape_of(image, needs);
        let needs = needs.bits();
        let mut loader = loader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("INJECTOR_NEEDS", &needs, true)
            .override_global("INJECTOR_SHAPE", &shape, true)
            .map_max_entries("TARGETS", entries(image.targets.len()))
            .map_max_entries("INTERFACES", entries(image.interfaces.len()))
            .map_max_entries("RULES", entries(image.rules.len()))
            .map_max_entries("COUNTERS", entries(image.rules.len()))
            .map_max_entries("FAULTS", image.faults.max(1))
            .map_max_entries("SEQUENCES", image.faults.max(1) * CLASSES)
            .map_max_entries("DEPARTURES", if image.keeps_order { image.faults.max(1) * CLASSES } else { 1 })
            .map_max_entries("CONNECTIONS", if image.counts_connections { CONNECTIONS } else { 1 })
            .map_max_entries("QUANTILES", entries(image.quantiles.len()))
            .map_max_entries("OPPORTUNITIES", entries(image.opportunities.len()))
            .map_max_entries("QUESTIONS", entries(image.questions.len()))
            .map_max_entries("ADDRESSES", entries(image.addresses.len()));
        if image.flags & injector_common::layout::CONTROL_TRACE != 0 {
            loader.map_max_entries("EVENTS", TRACE_BYTES);
        }
        let ebpf = loader.load(OBJECT).map_err(KernelError::object)?;
        let mut kernel = Self { ebpf, control: control_of(image, mark) };
        kernel.fill(image)?;
        // Not armed yet, but sockets are told apart from now on.
        kernel.write_control()?;
        Ok(kernel)
    }

    fn fill(&mut self, image: &Image) -> Result<(), KernelError> {
        let mut targets: HashMap<_, u64, Target> = self.typed("TARGETS")?;
        for (id, target) in &image.targets {
            targets.insert(id, target, 0).map_err(|e| KernelError::map("TARGETS", e))?;
        }
        for (word, bits) in filter_of(image.targets.keys().copied()) {
            let mut filter: Array<_, u64> = self.typed("FILTER")?;
            filter.set(word, bits, 0).map_err(|e| KernelError::map("FILTER", e))?;
        }
        let mut interfaces: HashMap<_, u32, Target> = self.typed("INTERFACES")?;
        for (index, target) in &image.interfaces {
            interfaces.insert(index, target, 0).map_err(|e| KernelError::map("INTERFACES", e))?;
        }
        let mut addresses: LpmTrie<_, AddressKey, u32> = self.typed("ADDRESSES")?;
        for (key, bits, value) in &image.addresses {
            addresses
                .insert(&Key::new(SET_BITS + bits, *key), *value, 0)
                .map_err(|e| KernelError::map("ADDRESSES", e))?;
        }
        let mut quantiles: Array<_, u64> = self.typed("QUANTILES")?;
        for (index, value) in image.quantiles.iter().enumerate() {
            quantiles.set(index as u32, value, 0).map_err(|e| KernelError::map("QUANTILES", e))?;
        }
        let mut opportunities: Array<_, u32> = self.typed("OPPORTUNITIES")?;
        for (index, value) in image.opportunities.iter().enumerate() {
            opportunities.set(index as u32, value, 0).map_err(|e| KernelError::map("OPPORTUNITIES", e))?;
        }
        let mut questions: Array<_, Questions> = self.typed("QUESTIONS")?;
        for (index, value) in image.questions.iter().enumerate() {
            questions.set(index as u32, value, 0).map_err(|e| KernelError::map("QUESTIONS", e))?;
        }
        for (index, rule) in image.rules.iter().enumerate() {
            self.set_rule(index as u32, rule)?;
        }
        Ok(())
    }

    /// Replaces one rule, for example when a device that it names has appeared.
    pub fn set_rule(&mut self, index: u32, rule: &Rule) -> Result<(), KernelError> {
        let mut rules: Array<_, Rule> = self.typed("RULES")?;
        rules.set(index, rule, 0).map_err(|e| KernelError::map("RULES", e))
    }

    /// Arms the programs from `start_ns` to `deadline_ns`, both `CLOCK_MONOTONIC`.
    pub fn arm(&mut self, start_ns: u64, deadline_ns: u64) -> Result<(), KernelError> {
        self.control = Control { armed: 1, start_ns, deadline_ns, ..self.control };
        self.write_control()
    }

    /// The kill switch: from here on no program strikes.
    pub fn disarm(&mut self) -> Result<(), KernelError> {
        self.control.armed = 0;
        self.write_control()
    }

    fn write_control(&mut self) -> Result<(), KernelError> {
        let value = self.control;
        let mut control: Array<_, Control> = self.typed("CONTROL")?;
        control.set(0, value, 0).map_err(|e| KernelError::map("CONTROL", e))
    }

    /// What each rule did so far, all CPUs together.
    pub fn counters(&mut self) -> Result<Vec<Counters>, KernelError> {
        let counters: PerCpuArray<_, Counters> = self.typed("COUNTERS")?;
        (0..counters.len())
            .map(|index| {
                let per_cpu = counters.get(&index, 0).map_err(|e| KernelError::map("COUNTERS", e))?;
                Ok(per_cpu.iter().fold(Counters::default(), add))
            })
            .collect()
    }

    /// What one fault remembers.
    pub fn fault_state(&mut self, slot: u32) -> Result<FaultState, KernelError> {
        let faults: Array<_, FaultState> = self.typed("FAULTS")?;
        faults.get(&slot, 0).map_err(|e| KernelError::map("FAULTS", e))
    }

    /// The ring of decisions, once.
    pub fn take_events(&mut self) -> Result<aya::maps::RingBuf<MapData>, KernelError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(KernelError::Missing { name: "EVENTS" })?;
        aya::maps::RingBuf::try_from(map).map_err(|e| KernelError::map("EVENTS", e))
    }

    /// Decisions that found no room in the ring.
    pub fn events_lost(&mut self) -> Result<u64, KernelError> {
        let lost: PerCpuArray<_, u64> = self.typed("EVENTS_LOST")?;
        let per_cpu = lost.get(&0, 0).map_err(|e| KernelError::map("EVENTS_LOST", e))?;
        Ok(per_cpu.iter().sum())
    }

    /// A traffic-control program, loaded.
    pub fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        let program: &mut SchedClassifier = program.try_into().map_err(|e| KernelError::program(name, e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(name, e))?;
        }
        Ok(program)
    }

    /// A cgroup program, loaded.
    pub fn cgroup_skb(&mut self, name: &'static str) -> Result<&mut CgroupSkb, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        let program: &mut CgroupSkb = program.try_into().map_err(|e| KernelError::program(name, e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(name, e))?;
        }
        Ok(program)
    }

    /// A program of a cgroup's calls, loaded.
    pub fn cgroup_sock_addr(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        let program: &mut CgroupSockAddr = program.try_into().map_err(|e| KernelError::program(name, e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(name, e))?;
        }
        Ok(program)
    }

    /// A program of a cgroup's new sockets, loaded.
    pub fn cgroup_sock(&mut self, name: &'static str) -> Result<&mut CgroupSock, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        let program: &mut CgroupSock = program.try_into().map_err(|e| KernelError::program(name, e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(name, e))?;
        }
        Ok(program)
    }

    /// A program of a cgroup's socket options, loaded.
    pub fn cgroup_sockopt(&mut self, name: &'static str) -> Result<&mut CgroupSockopt, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        let program: &mut CgroupSockopt = program.try_into().map_err(|e| KernelError::program(name, e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(name, e))?;
        }
        Ok(program)
    }

    /// Says whose the sockets are that are asked about next: those of the target with this cgroup id.
    pub fn set_owner(&mut self, target: u64) -> Result<(), KernelError> {
        let mut owner: Array<_, u64> = self.typed("OWNER")?;
        owner.set(0, target, 0).map_err(|e| KernelError::map("OWNER", e))
    }

    /// An XDP program, loaded.
    pub fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Missing { name })?;
        let program: &mut Xdp = program.try_into().map_err(|e| KernelError::program(name, e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(name, e))?;
        }
        Ok(program)
    }

    /// Names of all programs of the object, in order.
    #[must_use]
    pub fn program_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    }

    /// One program by name, whatever its type.
    pub fn program(&mut self, name: &str) -> Option<&mut aya::programs::Program> {
        self.ebpf.program_mut(name)
    }

    fn typed<'a, T>(&'a mut self, name: &'static str) -> Result<T, KernelError>
    where
        T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map_mut(name).ok_or(KernelError::Missing { name })?;
        T::try_from(map).map_err(|e| KernelError::map(name, e))
    }
}

/// Reads an event as the ring has it; `None` if it has another size.
#[must_use]
pub fn decode_event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the length is right, `Event` is repr(C) without padding and takes every bit pattern, and the
    // read makes no demand on alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

/// What the programs must be able to do. An image without rules is a trial, for which they must be able to do everything.
fn needs_of(image: &Image) -> Needs {
    if image.rules.is_empty() {
        return Needs::ALL;
    }
    Needs::of(&image.rules, image.flags & injector_common::layout::CONTROL_TRACE != 0)
}

/// The words of the filter that are not 0.
fn filter_of(targets: impl Iterator<Item = u64>) -> BTreeMap<u32, u64> {
    let mut words = BTreeMap::new();
    for (word, bit) in targets.map(filter_place) {
        *words.entry(word).or_default() |= bit;
    }
    words
}

fn control_of(image: &Image, mark: u16) -> Control {
    let mut levels = [0; MAX_LEVELS];
    for (slot, &level) in levels.iter_mut().zip(&image.levels) {
        *slot = level;
    }
    Control {
        abi_version: ABI_VERSION,
        seed: image.seed,
        level_count: image.levels.len().min(MAX_LEVELS) as u32,
        flags: image.flags,
        levels,
        mark: u32::from(mark),
        ..Control::default()
    }
}

fn add(a: Counters, b: &Counters) -> Counters {
    Counters {
        matched: a.matched + b.matched,
        segments_matched: a.segments_matched + b.segments_matched,
        injected: a.injected + b.injected,
        segments_injected: a.segments_injected + b.segments_injected,
        spared_by_limit: a.spared_by_limit + b.spared_by_limit,
        spared_by_budget: a.spared_by_budget + b.spared_by_budget,
        contended: a.contended + b.contended,
        unsplit: a.unsplit + b.unsplit,
        queue_full: a.queue_full + b.queue_full,
        failed: a.failed + b.failed,
    }
}

/// The halves are compiled by different compilers: the object must say the version of the border that it
/// was built with.
fn check_abi() -> Result<(), KernelError> {
    let found = abi_of(OBJECT);
    if found == Some(ABI_VERSION) { Ok(()) } else { Err(KernelError::Abi { found }) }
}

fn abi_of(elf: &[u8]) -> Option<u32> {
    let file = object::File::parse(elf).ok()?;
    let symbol = file.symbols().find(|s| s.name() == Ok("INJECTOR_ABI_VERSION"))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let data = section.data().ok()?;
    let start = usize::try_from(symbol.address()).ok()?;
    Some(u32::from_le_bytes(data.get(start..start + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_has_every_target_and_few_strangers() {
        let targets = (0..1000_u64).map(|n| 5_000 + 97 * n);
        let filter = filter_of(targets.clone());
        let has = |id| {
            let (word, bit) = filter_place(id);
            filter.get(&word).is_some_and(|bits| bits & bit != 0)
        };
        assert!(targets.clone().all(has));
        let strangers = (200_000..300_000).filter(|id| has(*id)).count();
        // 1,000 of 16,384 bits are about 6 %.
        assert!(strangers < 7_000, "{strangers} of 100,000 pass");
    }

    #[test]
    fn the_object_speaks_this_version() {
        assert_eq!(abi_of(OBJECT), Some(ABI_VERSION));
        assert_eq!(abi_of(b"no object"), None);
    }

    #[test]
    fn the_object_is_free_for_the_kernel() {
        let file = object::File::parse(OBJECT).unwrap();
        assert_eq!(file.section_by_name("license").unwrap().data().unwrap(), b"Dual MIT/GPL\0");
    }

    #[test]
    fn an_event_of_another_size_is_refused() {
        assert_eq!(decode_event(&[0; 111]), None);
        assert_eq!(decode_event(&[0; 112]), Some(Event::default()));
    }
}
