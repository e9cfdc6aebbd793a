//! What faults of operations mean, in the kernel's form.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use injector_common::layout::{CONTROL_DEVICES, CONTROL_PATHS};
use injector_common::operation::{
    AT_END, AT_SYSCALL, SUBJECT_DEVICE, SUBJECT_FREES, SUBJECT_MAGIC, SUBJECT_PATH, SUBJECT_STAYS,
    SUBJECT_SYSCALLS, SUBJECT_TYPES, Subject,
};
use injector_common::rule::{RULE_NAMES_DEVICES, RULE_STAYS};
use syscalls::Sysno;

use super::place_of;
use super::tables::CALLS;
use crate::plan::{Lowered, World};
use crate::scenario::{Effect, Harm, Meant, OperationFault, Operations, Scenario, SyscallName};

/// Lays out what the faults mean, and tells their rules where that is.
pub(in crate::plan) fn lay_out(scenario: &Scenario, world: &World, lowered: &mut Lowered) {
    let all = scenario.faults.iter().enumerate();
    for (position, fault) in all.filter(|(position, _)| !world.notified.contains(position)) {
        let Effect::Operations(own) = &fault.effect else { continue };
        let subject = subject(own);
        if subject.flags & SUBJECT_PATH != 0 {
            lowered.image.flags |= CONTROL_PATHS;
        }
        if subject.flags & (SUBJECT_DEVICE | SUBJECT_MAGIC) != 0 {
            lowered.image.flags |= CONTROL_DEVICES;
        }
        let mut flags = 0;
        if subject.flags & (SUBJECT_DEVICE | SUBJECT_MAGIC) != 0 {
            flags |= RULE_NAMES_DEVICES;
        }
        if subject.flags & SUBJECT_STAYS != 0 {
            flags |= RULE_STAYS;
        }
        let entry = lowered.image.subjects.len() as u32;
        lowered.image.subjects.push(subject);
        let own = lowered.image.rules.iter_mut().zip(&lowered.fault_of_rule);
        for (rule, _) in own.filter(|(_, fault)| **fault == position) {
            rule.treatment.overhead = entry;
            rule.flags |= flags;
        }
    }
    if !lowered.image.subjects.is_empty() {
        lowered.image.operations = operations_of_calls();
    }
}

/// The operations that system calls do, by the numbers of both.
pub(super) fn operations_of_calls() -> BTreeMap<u32, u32> {
    let number = |name| Sysno::from_str(name).ok().map(|call| call.id().cast_unsigned());
    CALLS.iter().filter_map(|(name, operation)| Some((number(name)?, *operation))).collect()
}

pub(super) fn subject(fault: &OperationFault) -> Subject {
    let mut subject = match &fault.meant {
        Meant::Operations(meant) => subject_of_operations(meant, &fault.harm),
        Meant::Syscalls(calls) => subject_of_syscalls(calls, &fault.harm),
    };
    if let Harm::Error(failure) = &fault.harm {
        // What frees room is only asked for by who stays until then.
        subject.flags |= if failure.stays || failure.frees { SUBJECT_STAYS } else { 0 };
        subject.flags |= if failure.frees { SUBJECT_FREES } else { 0 };
    }
    subject
}

fn subject_of_operations(meant: &Operations, harm: &Harm) -> Subject {
    let mut subject = Subject {
        types: meant.types.iter().fold(0, |bits, kind| bits | 1 << *kind as u32),
        ..Subject::default()
    };
    for operation in &meant.operations {
        if let Some(bits) = subject.operations.get_mut(place_of(*operation, harm) as usize) {
            *bits |= 1 << operation;
        }
    }
    if subject.types != 0 {
        subject.flags |= SUBJECT_TYPES;
    }
    if let Some(device) = meant.device {
        subject.flags |= SUBJECT_DEVICE;
        subject.device = device.major << 20 | device.minor;
    }
    if let Some(kind) = meant.filesystem {
        subject.flags |= SUBJECT_MAGIC;
        subject.magic = kind.0;
    }
    if let Some(path) = &meant.path {
        subject.flags |= SUBJECT_PATH;
        subject.pattern_length = path.compiled.len() as u32;
        for (slot, byte) in subject.pattern.iter_mut().zip(&path.compiled) {
            *slot = *byte;
        }
    }
    subject
}

pub(super) fn subject_of_syscalls(calls: &[SyscallName], harm: &Harm) -> Subject {
    let mut subject = Subject { flags: SUBJECT_SYSCALLS, ..Subject::default() };
    let place = if matches!(harm, Harm::Uncertainty(_)) { AT_END } else { AT_SYSCALL };
    subject.operations[place as usize] = 1;
    for call in calls {
        if let Some(word) = subject.syscalls.get_mut(call.number as usize / 64) {
            *word |= 1 << (call.number % 64);
        }
    }
    subject
}
