//! A fault's shared state, by the atomic instructions of BPF (cpu v3).

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use injector_common::decide::{Memory, Word};
use injector_common::needs::Needs;
use injector_common::packet::CLASSES;

use crate::maps::{DEPARTURES, FAULTS, SEQUENCES};

/// Attempts at the departure of a class: packets of one flow rarely meet on two CPUs.
const ORDER_ATTEMPTS: u32 = 4;

/// Makes all of a value 0, by words. The compiler would call `memset`, which goes from byte to byte here: for a parsed packet that takes
/// longer than all the rest of parsing.
///
/// # Safety
///
/// Zeros must be a value of the type.
#[inline(always)]
pub(crate) unsafe fn clear<T>(value: &mut T) {
    const {
        assert!(size_of::<T>().is_multiple_of(size_of::<u32>()) && align_of::<T>() >= align_of::<u32>());
    }
    let words = (&raw mut *value).cast::<u32>();
    for n in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: within the value, and aligned, as is asserted above; what zeros mean the caller has promised. Volatile keeps it from
        // becoming `memset` again.
        unsafe { words.add(n).write_volatile(0) };
    }
}

/// Makes the verifier forget what it knows of a value on the stack, of so many words from its beginning, which is a power of two; the value
/// stays as it is.
///
/// It walks on from each combination of what it knows apart, so where paths come together one has to be made of them. A word is written back
/// to where it came from. Which one that is the verifier can't tell from `any`, so from then on it takes each for unknown.
#[inline(always)]
pub(crate) fn blur<const WORDS: usize, T>(value: &mut T, any: u64) {
    const {
        assert!(WORDS.is_power_of_two() && size_of::<T>() >= WORDS * size_of::<u32>());
        assert!(align_of::<T>() >= align_of::<u32>());
    }
    // SAFETY: the word is within the value, and aligned, as is asserted above; it is written as it was.
    unsafe {
        let word = (&raw mut *value).cast::<u32>().add(any as usize & (WORDS - 1));
        word.write_volatile(word.read_volatile());
    }
}

/// The state of one fault, looked up where it is used: many rules have none.
pub(crate) struct FaultMemory {
    slot: u32,
    needs: Needs,
}

impl FaultMemory {
    #[inline(always)]
    pub(crate) const fn of(slot: u32, needs: Needs) -> Self {
        Self { slot, needs }
    }

    /// `None` when the fault has no slot, which is an error of the loader.
    #[inline(always)]
    fn word(&self, word: Word) -> Option<*mut u64> {
        let state = FAULTS.get_ptr_mut(self.slot)?;
        // SAFETY: `state` points to a whole map value, which is never freed while a program runs; no reference is made, the
        // words are only touched by atomic instructions.
        Some(unsafe {
            match word {
                Word::Ordinal => &raw mut (*state).ordinal,
                Word::Injected => &raw mut (*state).injected,
                Word::Budget => &raw mut (*state).budget,
                Word::EgressChannel => (&raw mut (*state).channels).cast::<u64>(),
                Word::IngressChannel => (&raw mut (*state).channels).cast::<u64>().add(1),
                Word::EgressLink => (&raw mut (*state).links).cast::<u64>(),
                Word::IngressLink => (&raw mut (*state).links).cast::<u64>().add(1),
                Word::First => &raw mut (*state).first_injected_ns,
            }
        })
    }
}

#[inline(always)]
pub(crate) fn add_one(word: *mut u64) -> u64 {
    add(word, 1)
}

/// Adds to an aligned word inside of a map value, and returns what was there before.
#[inline(always)]
pub(crate) fn add(word: *mut u64, value: u64) -> u64 {
    // Not `Relaxed`: LLVM 22 then emits the instruction that does not fetch, and the "old value" is the addend.
    // The kernel's JIT makes the same `lock xadd` of both.
    // SAFETY: the callers pass an aligned word inside of a map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, value) }
}

#[inline(always)]
pub(crate) fn exchange(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the callers pass an aligned word inside of a map value.
    let (_, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    done
}

impl Memory for FaultMemory {
    #[inline(always)]
    fn increment(&self, word: Word) -> u64 {
        // Without a slot no limit is ever left.
        self.word(word).map_or(u64::MAX, add_one)
    }

    #[inline(always)]
    fn next_sequence(&self, class: u32) -> u64 {
        match SEQUENCES.get_ptr_mut(self.slot * CLASSES + (class & (CLASSES - 1))) {
            Some(word) => add_one(word),
            None => 0,
        }
    }

    /// After a few attempts in vain another CPU's later time stands, and this packet may come a little early.
    #[inline(always)]
    fn not_before(&self, class: u32, at_ns: u64) -> u64 {
        let Some(word) = DEPARTURES.get_ptr_mut(self.slot * CLASSES + class) else { return at_ns };
        for _ in 0..ORDER_ATTEMPTS {
            // SAFETY: as in `load`.
            let last_ns = unsafe { word.read_volatile() };
            if last_ns >= at_ns {
                return last_ns;
            }
            if exchange(word, last_ns, at_ns) {
                break;
            }
        }
        at_ns
    }

    #[inline(always)]
    fn load(&self, word: Word) -> u64 {
        // SAFETY: an aligned word inside of a map value. BPF has no atomic load instruction before cpu v4;
        // an aligned 64-bit read is one, and volatile keeps it one.
        self.word(word).map_or(0, |word| unsafe { word.read_volatile() })
    }

    #[inline(always)]
    fn replace(&self, word: Word, old: u64, new: u64) -> bool {
        self.word(word).is_some_and(|word| exchange(word, old, new))
    }

    #[inline(always)]
    fn first_of(&self, slot: u32) -> u64 {
        Self::of(slot, self.needs).load(Word::First)
    }

    #[inline(always)]
    fn needs(&self) -> Needs {
        self.needs
    }
}
