//! From an operation of a target to what becomes of it, by the target's rules.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_loop, bpf_send_signal};
use injector_common::decide::{
    Memory as _, Outcome, decide_or_stay, free, note_strike, stay, stays, window_ns,
};
use injector_common::distribution::{Quantiles, quantile};
use injector_common::draw;
use injector_common::layout::{
    CONTROL_DEVICES, CONTROL_PATHS, CONTROL_TRACE, Control, MAX_RULES_PER_TARGET, Span,
};
use injector_common::operation::{
    self as op, FREEING, MAX_SYSCALLS, SUBJECT_DEVICE, SUBJECT_FREES, SUBJECT_MAGIC, SUBJECT_PATH,
    SUBJECT_STAYS, SUBJECT_SYSCALLS, SUBJECT_TYPES, SYSCALL_BASE, Subject,
};
use injector_common::packet::Packet;
use injector_common::rule::{
    ACTION_LOSE, ACTION_OPERATION, ACTION_ROT, ACTION_SIGNAL, ACTION_SLEEP, ACTION_UNCERTAINTY,
    OPERATION_ACTIONS, RULE_NAMES_DEVICES, RULE_STAYS, Rule,
};
use injector_common::treatment::{TREAT_DISTRIBUTED, TREAT_OFFSET};
use injector_common::window::is_over;

use crate::calls::may_sleep;
use crate::maps::{QUANTILES, RULES, SUBJECTS, needs, offset};
use crate::memory::{FaultMemory, blur};
use crate::nap::sleep_until;
use crate::object::Done;
use crate::path::{Path, field, half, word};
use crate::task::{count, count_missed, record};

/// What the rules make of an operation.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Fate {
    /// By how much it is later.
    pub(crate) delay_ns: u64,
    /// Random bits of the rot; of an uncertainty what is told, `TREAT_` bits.
    pub(crate) bits: u64,
    /// With which errno it fails; 0 is none. Where what is written is lost: whether it is.
    pub(crate) errno: u32,
    /// Which signal is sent; 0 is none.
    pub(crate) signal: u32,
    /// Bits to flip; the maximum error of a clock in microseconds.
    pub(crate) flips: u32,
    /// Byte at which the flips begin, or `u32::MAX` to draw it; the estimated error of a clock in microseconds.
    pub(crate) offset: u32,
    /// Index of the last rule by which it is later.
    pub(crate) slept_by: u32,
    _pad: u32,
}

impl Fate {
    /// Makes the verifier forget what a rule has made of it, see [`blur`]: the first eight words and the last eight. With padding to sixteen the
    /// programs would need more stack than Linux 6.1 has.
    #[inline(always)]
    fn blur(&mut self, any: u64) {
        const { assert!(size_of::<Self>() == 10 * size_of::<u32>()) };
        let words = (&raw mut *self).cast::<u32>();
        // SAFETY: it has ten words, of which any number is a value.
        unsafe {
            blur::<8, _>(&mut *words.cast::<[u32; 8]>(), any);
            blur::<8, _>(&mut *words.add(2).cast::<[u32; 8]>(), any);
        }
    }
}

/// What the rules of a target share while one operation walks through them; on the stack of its program.
struct Walk {
    target: u64,
    now_ns: u64,
    elapsed_ns: u64,
    first: u32,
    control_flags: u32,
    what: What,
    device: u32,
    magic: u32,
    fate: Fate,
    paths: [Path; 2],
}

/// What is done, in numbers.
#[repr(C)]
#[derive(Clone, Copy)]
struct What {
    operation: u32,
    syscall: u32,
    /// `S_IFMT >> 12` of what it is done to.
    kind: u32,
    place: u32,
}

/// Applies the rules of the target, in the order of the file, and does to its maker what they ask for; returns the negative errno of
/// the first that makes it fail, else 0.
#[inline(always)]
pub(crate) fn errno_of(control: &Control, target: u64, rules: Span, done: &Done) -> i64 {
    let fate = fate_of(control, target, rules, done);
    if may_sleep() {
        let until_ns = until(control, &fate);
        if until_ns != 0 {
            sleep_until(until_ns);
        }
    }
    if needs().action(ACTION_SIGNAL) && fate.signal != 0 {
        // SAFETY: the helper has no preconditions, and refuses what is no signal.
        unsafe { bpf_send_signal(fate.signal) };
    }
    -i64::from(fate.errno)
}

/// Until when its maker sleeps, `CLOCK_MONOTONIC`; 0 is not at all. Nobody does for longer than the experiment.
#[inline(always)]
pub(crate) fn until(control: &Control, fate: &Fate) -> u64 {
    if !needs().action(ACTION_SLEEP) || fate.delay_ns == 0 {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let until_ns = unsafe { bpf_ktime_get_ns() }.saturating_add(fate.delay_ns);
    if until_ns < control.deadline_ns { until_ns } else { control.deadline_ns }
}

/// Applies the rules of the target.
#[inline(always)]
pub(crate) fn fate_of(control: &Control, target: u64, rules: Span, done: &Done) -> Fate {
    let fate = Fate { delay_ns: 0, bits: 0, errno: 0, signal: 0, flips: 0, offset: 0, slept_by: 0, _pad: 0 };
    // The coarse clock is not for programs at functions of the kernel.
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if is_over(now_ns, control.deadline_ns) {
        return fate;
    }
    let mut walk = Walk {
        target,
        now_ns,
        elapsed_ns: now_ns.wrapping_sub(control.start_ns),
        first: rules.first,
        control_flags: control.flags,
        what: What { operation: done.operation, syscall: done.syscall, kind: done.kind, place: done.place },
        device: 0,
        magic: 0,
        fate,
        paths: [Path::NONE; 2],
    };
    // Else the rules are walked through once for each operation that a hook knows, and once more behind a rule that has struck.
    blur::<4, _>(&mut walk.what, now_ns);
    walk.fate.blur(now_ns);
    let dentry = done.names[0].1;
    if needs().flags(RULE_NAMES_DEVICES) != 0 && control.flags & CONTROL_DEVICES != 0 && dentry != 0 {
        let superblock = word(field(dentry, offset!(dentry_super)));
        walk.device = half(field(superblock, offset!(super_device)));
        walk.magic = half(field(superblock, offset!(super_magic)));
    }
    if control.flags & CONTROL_PATHS != 0 {
        for (path, (mount, dentry)) in walk.paths.iter_mut().zip(done.names) {
            if dentry != 0 {
                *path = Path::of(mount, dentry);
            }
        }
        // There is one, there is none, there is no room for it: of each.
        blur::<4, _>(&mut walk.paths, now_ns);
    }
    let count = rules.count.min(MAX_RULES_PER_TARGET);
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    let fate = unsafe {
        bpf_loop(count, next_rule as *mut c_void, (&raw mut walk).cast(), 0);
        (&raw const walk.fate).read_volatile()
    };
    for path in walk.paths {
        path.release();
    }
    fate
}

/// One round of `bpf_loop`, which the verifier walks once and not for each rule. Returns 1 to stop.
unsafe extern "C" fn next_rule(at: u32, context: *mut c_void) -> i64 {
    // SAFETY: `fate_of` passes a pointer to its own `Walk`.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    apply(walk, walk.first + at);
    i64::from(walk.fate.errno != 0)
}

/// Applies one rule.
#[inline(always)]
fn apply(walk: &mut Walk, index: u32) {
    let Some(rule) = RULES.get(index) else { return };
    if rule.action >= 64 || OPERATION_ACTIONS >> rule.action & 1 == 0 {
        return;
    }
    let place = rule.treatment.overhead;
    let Some(subject) = SUBJECTS.get(place) else { return };
    let Some(number) = number_of(walk, subject) else { return };
    if !is_of_subject(walk, subject) {
        return;
    }
    if subject.flags & SUBJECT_PATH != 0 {
        let length = subject.pattern_length;
        if !walk.paths[0].is_meant(place, length) && !walk.paths[1].is_meant(place, length) {
            if walk.paths[0].has_no_room() || walk.paths[1].has_no_room() {
                count_missed(index);
            }
            return;
        }
    }
    let memory = FaultMemory::of(rule.fault, needs().of_operations());
    if needs().flags(RULE_STAYS) != 0
        && subject.flags & SUBJECT_FREES != 0
        && FREEING >> (number & 63) & 1 != 0
    {
        free(&memory);
        return;
    }
    let packet = op::packet(number);
    let outcome = decided(walk, rule, subject, &packet, &memory);
    if outcome == Outcome::NotMeant {
        return;
    }
    count(index, outcome);
    let before_ns = walk.fate.delay_ns;
    if outcome == Outcome::Injected {
        strike(&mut walk.fate, (rule, index), &packet, &memory);
        walk.fate.blur(walk.now_ns);
    }
    if walk.control_flags & CONTROL_TRACE != 0 {
        let delay_ns = walk.fate.delay_ns.wrapping_sub(before_ns);
        record(rule, (walk.target, walk.now_ns, delay_ns), (index, outcome), packet);
    }
}

/// Whether what it is done to is of a type, on a device and in a file system that the subject means.
#[inline(always)]
fn is_of_subject(walk: &Walk, subject: &Subject) -> bool {
    let flags = subject.flags;
    if needs().flags(RULE_NAMES_DEVICES) != 0
        && (flags & SUBJECT_DEVICE != 0 && subject.device != walk.device
            || flags & SUBJECT_MAGIC != 0 && subject.magic != walk.magic)
    {
        return false;
    }
    flags & SUBJECT_TYPES == 0 || subject.types >> (walk.what.kind & 15) & 1 != 0
}

#[inline(always)]
fn decided(walk: &Walk, rule: &Rule, subject: &Subject, packet: &Packet, memory: &FaultMemory) -> Outcome {
    let Some(window_ns) = window_ns(rule, walk.elapsed_ns, memory) else { return Outcome::NotMeant };
    let may_stay = needs().flags(RULE_STAYS) != 0 && subject.flags & SUBJECT_STAYS != 0;
    let has_struck = may_stay && stays(rule, window_ns, memory);
    let outcome = decide_or_stay(rule, packet, (walk.elapsed_ns, window_ns), memory, has_struck);
    if outcome == Outcome::Injected {
        note_strike(rule, walk.elapsed_ns, memory);
        if may_stay && !has_struck {
            stay(rule, window_ns, memory);
        }
    }
    outcome
}

/// What a rule that strikes makes of the operation.
#[inline(always)]
fn strike(fate: &mut Fate, (rule, index): (&Rule, u32), packet: &Packet, memory: &FaultMemory) {
    let needs = needs();
    let treatment = &rule.treatment;
    match rule.action {
        ACTION_OPERATION if needs.action(ACTION_OPERATION) => fate.errno = treatment.count,
        ACTION_LOSE if needs.action(ACTION_LOSE) => fate.errno = 1,
        ACTION_SIGNAL if needs.action(ACTION_SIGNAL) => fate.signal = treatment.count,
        ACTION_SLEEP if needs.action(ACTION_SLEEP) => {
            let delay_ns = if treatment.flags & TREAT_DISTRIBUTED == 0 {
                treatment.delay_ns
            } else {
                quantile(&Lookup, treatment.table, drawn(rule, packet, memory))
            };
            fate.delay_ns = fate.delay_ns.saturating_add(delay_ns);
            fate.slept_by = index;
        }
        ACTION_ROT if needs.action(ACTION_ROT) => {
            fate.bits = drawn(rule, packet, memory);
            fate.flips = treatment.bits;
            fate.offset = if treatment.flags & TREAT_OFFSET == 0 { u32::MAX } else { treatment.offset };
        }
        ACTION_UNCERTAINTY if needs.action(ACTION_UNCERTAINTY) => {
            fate.bits = u64::from(treatment.flags);
            (fate.flips, fate.offset) = (treatment.bits, treatment.offset);
        }
        _ => {}
    }
}

/// Bits of a value that a rule draws.
#[inline(always)]
fn drawn(rule: &Rule, packet: &Packet, memory: &FaultMemory) -> u64 {
    let class = packet.class(rule.direction);
    draw::draw(rule.treatment.stream, class, memory.next_sequence(class))
}

/// The tables of distributions.
struct Lookup;

impl Quantiles for Lookup {
    #[inline(always)]
    fn at(&self, index: u32) -> u64 {
        QUANTILES.get(index).copied().unwrap_or(0)
    }
}

/// The number by which a subject means the operation; `None` if it does not.
#[inline(always)]
fn number_of(walk: &Walk, subject: &Subject) -> Option<u16> {
    let places = (&raw const subject.operations).cast::<u64>();
    // SAFETY: the mask keeps it within the array of four. Volatile: the compiler would take the mask away.
    let operations = unsafe { places.add((walk.what.place & 3) as usize).read_volatile() };
    if subject.flags & SUBJECT_SYSCALLS != 0 {
        const MASK: u32 = MAX_SYSCALLS / 64 - 1;
        let number = walk.what.syscall;
        let words = (&raw const subject.syscalls).cast::<u64>();
        // SAFETY: the mask keeps it within the array. Volatile, and before the number is compared: the compiler would take the mask away,
        // and the verifier of Linux 6.1 forgets the comparison.
        let word = unsafe { words.add((number >> 6 & MASK) as usize).read_volatile() };
        let is_meant = operations != 0 && number < MAX_SYSCALLS && word >> (number & 63) & 1 != 0;
        return is_meant.then_some(SYSCALL_BASE + number as u16);
    }
    let number = walk.what.operation;
    (number < u64::BITS && operations >> (number & 63) & 1 != 0).then_some(number as u16)
}
