//! The loaded object: its maps filled, its programs loaded one by one, armed last.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map};
use aya::programs::{CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, SchedClassifier, Xdp};
use aya::{Ebpf, VerifierLogLevel, include_bytes_aligned};
use injector_common::dns::Questions;
use injector_common::layout::{
    AddressKey, CONNECTIONS, Control, Counters, FaultState, MAX_LEVELS, SET_BITS, Target, filter_place,
};
use injector_common::needs::Needs;
use injector_common::operation::{Bed, Subject};
use injector_common::packet::CLASSES;
use injector_common::rule::Rule;
use injector_common::{ABI_VERSION, event::Event};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::btf::Btf;
use super::error::KernelError;
use super::functions::Functions;
use super::image::Image;
use super::loader;
use super::shape::shape_of;

static OBJECT: &[u8] = include_bytes_aligned!(env!("INJECTOR_EBPF_OBJECT"));

/// Room for decisions between two visits of the reader, when an experiment is traced.
const TRACE_BYTES: u32 = 32 << 20;

/// The object in the kernel. Dropping it takes all of it away.
#[derive(Debug)]
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    control: Control,
    /// Where the image has operations.
    functions: Option<Functions>,
}

impl Kernel {
    /// Creates the maps and fills them. Nothing is attached, and nothing is armed.
    pub fn load(image: &Image, mark: u16) -> Result<Self, KernelError> {
        check_abi()?;
        let entries = |n: usize| (n as u32).max(1);
        let needs = needs_of(image);
        let shape = shape_of(image, needs);
        let needs = needs.bits();
        let types = if image.subjects.is_empty() { None } else { Some(Btf::of_kernel()?) };
        let offsets = types.as_deref().map(Btf::offsets).transpose()?.unwrap_or_default();
        let mut loader = loader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("INJECTOR_NEEDS", &needs, true)
            .override_global("INJECTOR_SHAPE", &shape, true)
            .override_global("INJECTOR_OFFSETS", &offsets, true)
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
            .map_max_entries("SUBJECTS", entries(image.subjects.len()))
            .map_max_entries("ADDRESSES", entries(image.addresses.len()));
        if image.flags & injector_common::layout::CONTROL_TRACE != 0 {
            loader.map_max_entries("EVENTS", TRACE_BYTES);
        }
        let ebpf = loader.load(OBJECT).map_err(KernelError::object)?;
        // Before anybody takes a map out of it.
        let functions = types.map(|types| Functions::new(OBJECT, &ebpf, types)).transpose()?;
        let mut kernel = Self { ebpf, control: control_of(image, mark), functions };
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
        let mut subjects: Array<_, Subject> = self.typed("SUBJECTS")?;
        for (index, value) in image.subjects.iter().enumerate() {
            subjects.set(index as u32, value, 0).map_err(|e| KernelError::map("SUBJECTS", e))?;
        }
        let mut operations: Array<_, u32> = self.typed("OPERATIONS")?;
        for (number, operation) in &image.operations {
            operations.set(*number, operation + 1, 0).map_err(|e| KernelError::map("OPERATIONS", e))?;
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

    /// What one fault remembers.
    pub fn fault_state(&mut self, slot: u32) -> Result<FaultState, KernelError> {
        let faults: Array<_, FaultState> = self.typed("FAULTS")?;
        faults.get(&slot, 0).map_err(|e| KernelError::map("FAULTS", e))
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

    /// The programs at functions of the kernel. There are some if the image has subjects.
    pub fn functions(&self) -> Result<&Functions, KernelError> {
        self.functions.as_ref().ok_or(KernelError::Missing { name: "SUBJECTS" })
    }

    /// Says where programs sleep.
    pub fn set_bed(&mut self, bed: Bed) -> Result<(), KernelError> {
        let mut beds: Array<_, Bed> = self.typed("BED")?;
        beds.set(0, bed, 0).map_err(|e| KernelError::map("BED", e))
    }

    /// The map of the times at which naps end, for the process that ends them.
    pub fn wakes(&mut self) -> Result<OwnedFd, KernelError> {
        let map = self.ebpf.map("WAKES").ok_or(KernelError::Missing { name: "WAKES" })?;
        let Map::Array(data) = map else { return Err(KernelError::Missing { name: "WAKES" }) };
        let fd = data.fd().as_fd().try_clone_to_owned();
        fd.map_err(|source| KernelError::Functions { detail: crate::errno::name_of(&source) })
    }

    /// System calls that no program was free to delay, so far.
    pub fn passed_by(&mut self) -> Result<u64, KernelError> {
        let passed_by: Array<_, u64> = self.typed("PASSED_BY")?;
        passed_by.get(&0, 0).map_err(|e| KernelError::map("PASSED_BY", e))
    }

    /// How often the program of a trial was called.
    pub fn trial_calls(&mut self) -> Result<u64, KernelError> {
        let calls: Array<_, u64> = self.typed("TRIAL")?;
        calls.get(&0, 0).map_err(|e| KernelError::map("TRIAL", e))
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

    pub(super) fn typed<'a, T>(&'a mut self, name: &'static str) -> Result<T, KernelError>
    where
        T: TryFrom<&'a mut Map, Error = aya::maps::MapError>,
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

pub(super) fn add(a: Counters, b: &Counters) -> Counters {
    // What one CPU has counted another one may have taken back.
    let sum = u64::wrapping_add;
    Counters {
        matched: sum(a.matched, b.matched),
        segments_matched: sum(a.segments_matched, b.segments_matched),
        injected: sum(a.injected, b.injected),
        segments_injected: sum(a.segments_injected, b.segments_injected),
        spared_by_limit: sum(a.spared_by_limit, b.spared_by_limit),
        spared_by_budget: sum(a.spared_by_budget, b.spared_by_budget),
        contended: sum(a.contended, b.contended),
        unsplit: sum(a.unsplit, b.unsplit),
        queue_full: sum(a.queue_full, b.queue_full),
        failed: sum(a.failed, b.failed),
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
