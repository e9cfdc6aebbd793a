//! Faults of operations that are decided by the notifications of seccomp: which system calls are notified, and the rules in user space.
//!
//! `calls` says what each system call does and to what. That is all that is known beforehand; what a call is done to the engine looks up
//! (`engine/notify`), where the rules are applied as the kernel half applies its own.

mod calls;

use std::collections::BTreeSet;
use std::str::FromStr as _;

use injector_common::operation::{self as border, SUBJECT_SYSCALLS, Subject};
use injector_common::rule::{CALL, OPERATION, RULE_LINKED, Rule};
use syscalls::Sysno;

pub use calls::{CALLS, Call, Deed, Flags, Follows, Object, Path, Presence, When};

use super::subject::subject;
use crate::plan::addresses::AddressSets;
use crate::plan::{PlanError, World, distribution, lower};
use crate::scenario::{Effect, Fallback, Harm, Meant, OperationFault, Scenario, SyscallName};

/// The rule of a fault, with what the kernel half would find in its maps.
#[derive(Clone, Debug)]
pub struct NotifiedRule {
    /// The position of its fault in the scenario.
    pub position: usize,
    /// The rule.
    pub rule: Rule,
    /// Which operations it means.
    pub subject: Subject,
    /// The same as bits: where an operation is decided makes no difference here.
    pub operations: u64,
    /// What becomes of them.
    pub harm: Harm,
    /// The distribution of its delays, if they have one.
    pub quantiles: Vec<u64>,
}

/// The system calls that must be notified for an effect, by their numbers, each once; `None` if it has not asked for that.
#[must_use]
pub fn notified(effect: &Effect) -> Option<Vec<SyscallName>> {
    let Effect::Operations(OperationFault { meant, harm, fallback: Some(Fallback::Seccomp) }) = effect else {
        return None;
    };
    let mut calls: Vec<SyscallName> = match meant {
        Meant::Syscalls(calls) => calls.clone(),
        Meant::Operations(meant) => {
            let does =
                |call: &&Call| call.deeds.iter().any(|deed| meant.operations.contains(&deed.operation));
            let moves = |call: &&Call| !matches!(harm, Harm::Short(_)) || calls::MOVING.contains(&call.name);
            CALLS.iter().filter(does).filter(moves).filter_map(|call| named(call.name)).collect()
        }
    };
    calls.sort_unstable_by_key(|call| call.number);
    Some(calls)
}

fn named(name: &'static str) -> Option<SyscallName> {
    Sysno::from_str(name).ok().map(|call| SyscallName { number: call.id().cast_unsigned(), name })
}

/// What a system call does, by its number.
#[must_use]
pub fn deeds_of(number: u32) -> &'static [Deed] {
    let name = Sysno::new(number as usize).map(|call| call.name());
    let call = CALLS.iter().find(|call| Some(call.name) == name);
    call.map_or(&[], |call| call.deeds)
}

/// Whether somebody else can move fewer bytes than a system call was asked to.
#[must_use]
pub fn moves(number: u32) -> bool {
    Sysno::new(number as usize).is_some_and(|call| calls::MOVING.contains(&call.name()))
}

/// The rules of the faults that are decided so, in the order of the file.
pub fn rules(scenario: &Scenario, seed: u64, world: &World) -> Result<Vec<NotifiedRule>, PlanError> {
    let all = scenario.faults.iter().enumerate();
    let own = all.filter(|(position, _)| world.notified.contains(position));
    let mut rules = Vec::new();
    for (position, fault) in own {
        let Effect::Operations(meant) = &fault.effect else { continue };
        let slot = rules.len() as u32;
        let mut rule = lower::rule((fault, CALL), slot, seed, world, &mut AddressSets::default())?;
        rule.direction = OPERATION;
        let subject = subject(meant);
        let quantiles = match &meant.harm {
            Harm::Delay(times) => distribution::table(times).unwrap_or_default(),
            _ => Vec::new(),
        };
        // Of system calls the places are no operations.
        let named = subject.flags & SUBJECT_SYSCALLS != 0;
        let operations =
            if named { 0 } else { subject.operations.iter().fold(0, |bits, place| bits | place) };
        rules.push(NotifiedRule { position, rule, subject, operations, harm: meant.harm.clone(), quantiles });
    }
    link(scenario, &mut rules);
    Ok(rules)
}

/// Says of each rule whom it follows, and whether others follow it: those among themselves, see [`lower`].
fn link(scenario: &Scenario, rules: &mut [NotifiedRule]) {
    let positions: Vec<usize> = rules.iter().map(|rule| rule.position).collect();
    let slot_of = |id: &String| {
        positions.iter().position(|position| scenario.faults.get(*position).is_some_and(|own| own.id == *id))
    };
    let follows: Vec<Option<usize>> = positions
        .iter()
        .map(|position| scenario.faults.get(*position).and_then(|own| slot_of(own.after.as_ref()?)))
        .collect();
    for (slot, rule) in rules.iter_mut().enumerate() {
        let followed = follows.get(slot).copied().flatten();
        rule.rule.follows = followed.map_or(0, |other| other as u32 + 1);
        rule.rule.is_followed = u32::from(follows.contains(&Some(slot)));
        if rule.rule.follows != 0 || rule.rule.is_followed != 0 {
            rule.rule.flags |= RULE_LINKED;
        }
    }
}

/// The system calls of a fault by their names, for plans and reports.
#[must_use]
pub fn mechanism(calls: &[SyscallName]) -> String {
    let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
    format!("seccomp {}", names.join(" "))
}

/// What such a fault costs and does not do, in sentences.
#[must_use]
pub fn notes(effect: &Effect, why: &str) -> Vec<String> {
    let mut notes = vec![
        format!("by notifications of seccomp, as there is nothing better here ({why})"),
        "each of these system calls of the command waits until injector has decided over it, 10 to 40 us, struck or not; other calls and other processes pay nothing".to_owned(),
        "the command and its descendants alone, wherever they go; not what io_uring does and what 32-bit programs call. The decisions are not in the file of `--record`".to_owned(),
        "should injector be killed, another process of its own lets all calls go on until the last process under the filter has ended".to_owned(),
    ];
    let Effect::Operations(fault) = effect else { return notes };
    match &fault.harm {
        Harm::Short(_) => notes.push(
            "injector reads or writes the piece itself, at most 1 MiB, by a descriptor of the same open file; a call that would not become shorter is not counted".to_owned(),
        ),
        Harm::Delay(_) => notes.push(
            "a process waits before the operation is done, without CPU time; a SIGKILL ends it, as do the end of the experiment and the death of injector".to_owned(),
        ),
        _ => {}
    }
    if let Meant::Operations(meant) = &fault.meant
        && meant.operations.contains(&border::EXEC)
    {
        notes.push("exec: the start of the command itself is spared".to_owned());
    }
    notes
}

/// The positions of the faults that are decided so.
#[must_use]
pub fn positions(faults: &[crate::plan::PlannedFault]) -> BTreeSet<usize> {
    let all = faults.iter().enumerate();
    all.filter(|(_, fault)| !fault.notified.is_empty()).map(|(position, _)| position).collect()
}

#[cfg(test)]
mod tests;
