//! The maps. The loader sets `max_entries` to what the plan needs and checks `ABI`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use injector_common::layout::{
    AddressKey, ConnectionKey, Control, Counters, FILTER_WORDS, FaultState, Target,
};
use injector_common::needs::Needs;
use injector_common::operation::{Bed, MAX_SYSCALLS, NAPS, Offsets, Pending, Subject};
use injector_common::packet::Address;
use injector_common::rule::Rule;
use injector_common::shape::Shape;

use crate::path::{TEXTS_COUNT, Text};
use crate::reject::Quote;
use crate::strike::Walk;

/// The version of the border that this object was built with.
#[unsafe(no_mangle)]
pub(crate) static INJECTOR_ABI_VERSION: u32 = injector_common::ABI_VERSION;

/// What the rules can ask for, all of it unless the loader says less. In read-only data, which the verifier knows.
#[unsafe(no_mangle)]
static INJECTOR_NEEDS: u64 = Needs::ALL.bits();

/// What the rules can ask for.
#[inline(always)]
pub(crate) fn needs() -> Needs {
    // SAFETY: a static of the object. Volatile, since the loader writes another value than the compiler sees.
    Needs::from_bits(unsafe { (&raw const INJECTOR_NEEDS).read_volatile() })
}

/// Where the rules are, as far as the loader knows it. In read-only data too.
#[unsafe(no_mangle)]
pub(crate) static INJECTOR_SHAPE: Shape = Shape::UNKNOWN;

/// Reads a field of the shape; volatile for the same reason.
macro_rules! shape {
    ($($field:ident).+) => {
        // SAFETY: a static of the object, and all of it are numbers.
        unsafe { (&raw const crate::maps::INJECTOR_SHAPE.$($field).+).read_volatile() }
    };
}
pub(crate) use shape;

/// One of the spared addresses of the shape.
#[inline(always)]
pub(crate) fn spared(at: usize) -> Address {
    // SAFETY: as above; the callers stay within the array.
    unsafe { (&raw const INJECTOR_SHAPE.spared).cast::<Address>().add(at).read_volatile() }
}

/// Where the kernel's own structures have what is read of them: zeros unless the loader has looked. In read-only data too.
#[unsafe(no_mangle)]
pub(crate) static INJECTOR_OFFSETS: Offsets = {
    // SAFETY: all of it are numbers.
    unsafe { core::mem::zeroed() }
};

/// Reads one of the offsets; volatile for the same reason.
macro_rules! offset {
    ($($field:ident).+) => {
        // SAFETY: a static of the object, and all of it are numbers.
        unsafe { (&raw const crate::maps::INJECTOR_OFFSETS.$($field).+).read_volatile() }
    };
}
pub(crate) use offset;

/// The experiment.
#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// Targets by cgroup id.
#[map]
pub(crate) static TARGETS: HashMap<u64, Target> = HashMap::with_max_entries(1, 0);

/// A bit for each target: a stranger is told by one look here, without the hash table.
#[map]
pub(crate) static FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, 0);

/// Targets by device index, in the network namespace of the controller.
#[map]
pub(crate) static INTERFACES: HashMap<u32, Target> = HashMap::with_max_entries(1, 0);

/// All rules, those of one target and direction side by side.
#[map]
pub(crate) static RULES: Array<Rule> = Array::with_max_entries(1, 0);

/// What the faults remember.
#[map]
pub(crate) static FAULTS: Array<FaultState> = Array::with_max_entries(1, 0);

/// Sequence numbers of the draws: `CLASSES` per fault.
#[map]
pub(crate) static SEQUENCES: Array<u64> = Array::with_max_entries(1, 0);

/// The latest departure of each class, for delays that keep order: `CLASSES` per fault, or one entry if none does.
#[map]
pub(crate) static DEPARTURES: Array<u64> = Array::with_max_entries(1, 0);

/// The tables of the distributions, `TABLE_ENTRIES` each.
#[map]
pub(crate) static QUANTILES: Array<u64> = Array::with_max_entries(1, 0);

/// The opportunities of traced links, those of one trace side by side.
#[map]
pub(crate) static OPPORTUNITIES: Array<u32> = Array::with_max_entries(1, 0);

/// Payload that connections have carried, for faults that begin after so many bytes; one entry if none does.
#[map]
pub(crate) static CONNECTIONS: LruHashMap<ConnectionKey, u64> = LruHashMap::with_max_entries(1, 0);

/// What the rules did.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Networks in numbered sets.
#[map]
pub(crate) static ADDRESSES: LpmTrie<AddressKey, u32> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Decisions, when the experiment is traced.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 12, 0);

/// Decisions that found no room in `EVENTS`, per CPU.
#[map]
pub(crate) static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The packet at hand, one per direction and CPU.
#[map]
pub(crate) static WALKS: PerCpuArray<Walk> = PerCpuArray::with_max_entries(2, 0);

/// The ICMP error that is being made, one per direction and CPU.
#[map]
pub(crate) static QUOTES: PerCpuArray<Quote> = PerCpuArray::with_max_entries(2, 0);

/// What the rules for operations mean.
#[map]
pub(crate) static SUBJECTS: Array<Subject> = Array::with_max_entries(1, 0);

/// Paths that are being compared.
#[map]
pub(crate) static TEXTS: Array<Text> = Array::with_max_entries(TEXTS_COUNT, 0);

/// The operation that each system call does, by its number, and one more; 0 of those that do none, which are most.
#[map]
pub(crate) static OPERATIONS: Array<u32> = Array::with_max_entries(MAX_SYSCALLS, 0);

/// Where naps are taken.
#[map]
pub(crate) static BED: Array<Bed> = Array::with_max_entries(1, 0);

/// When each nap ends, `CLOCK_MONOTONIC`. Read by the process that ends them.
#[map]
pub(crate) static WAKES: Array<u64> = Array::with_max_entries(NAPS, BPF_F_MMAPABLE);

/// What is decided of the system calls of threads that are to sleep in them.
#[map]
pub(crate) static PENDING: LruHashMap<u64, Pending> = LruHashMap::with_max_entries(NAPS, 0);

/// System calls that no program was free to delay.
#[map]
pub(crate) static PASSED_BY: Array<u64> = Array::with_max_entries(1, 0);

/// Calls of a hook that is tried.
#[map]
pub(crate) static TRIAL: Array<u64> = Array::with_max_entries(1, 0);
