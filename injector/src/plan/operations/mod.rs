//! Faults of operations in the kernel's form, and the functions of the kernel at which they are decided.
//!
//! For each operation there are mechanisms, best first, see [`Mechanism`]; which of them this kernel has is tried by the engine, and comes in
//! as a [`Ladder`]. Nothing else can be named: what a scenario makes fail is on the lists here, since an error from other hooks of the kernel
//! breaks it (`xfrm_decode_session` panics).

mod matrix;
pub mod notified;
mod subject;
mod tables;

use std::collections::BTreeSet;

use injector_common::operation as border;

pub use matrix::{Cell, Row, matrix};
pub(super) use subject::lay_out;
use tables::{
    CALLS, CLOCK_PROGRAMS, DECIDE_PROGRAM, HOOKS, Hook, LOST_PROGRAM, NAP_PROGRAM, OPERATION_BITS,
    PLAIN_READS, REST_PROGRAM, SYSCALL_PROGRAM,
};
pub use tables::{
    END_PROGRAM, LSM_TRIAL, SECURITY_TRIAL, SLEEP_TRIAL, TRIAL_PROGRAM, actions, flags, has_own_action,
    of_each_shape, syscall_function,
};

use crate::kernel::functions::{self, Function, Mechanism};
use crate::scenario::{Effect, Harm, Meant, SyscallName};

/// What the kernel has of each mechanism: why not, in words, of each that it has not.
#[derive(Debug, Clone)]
pub struct Rungs {
    /// Hooks of the BPF LSM.
    pub lsm: Tried,
    /// Sleeping at these.
    pub lsm_sleep: Tried,
    /// Changing the results of `security_*`.
    pub security: Tried,
    /// Changing the results of system calls.
    pub syscall: Tried,
    /// Sleeping at system calls.
    pub syscall_sleep: Tried,
    /// Being called where a system call begins.
    pub entry: Tried,
    /// Changing the memory of a process where a system call ends.
    pub end: Tried,
    /// Being asked by seccomp.
    pub seccomp: Tried,
}

/// Whether there is a mechanism, or why not.
pub type Tried = Result<(), String>;

/// The mechanisms and the functions of a kernel.
pub struct Ladder<'a> {
    /// The mechanisms.
    pub rungs: &'a Rungs,
    /// Whether the kernel has a function.
    pub has: &'a dyn Fn(&str) -> bool,
}

/// What this kernel can't do.
#[derive(Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The operations or system calls.
    pub what: Vec<String>,
    /// Why not.
    pub why: String,
}

impl Unavailable {
    /// Adds one more.
    fn add(&mut self, what: &str, why: &str) {
        self.what.push(what.to_owned());
        if self.why.is_empty() {
            why.clone_into(&mut self.why);
        } else if !self.why.contains(why) {
            self.why = format!("{}; {why}", self.why);
        }
    }
}

/// How an effect is had.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// By programs at these functions; none for effects on packets.
    Functions(BTreeSet<Function>),
    /// By notifications of these system calls.
    Notified {
        /// The system calls.
        calls: Vec<SyscallName>,
        /// Why there is nothing better.
        why: String,
    },
}

/// The best way to have an effect: the notifications of seccomp are the last, for who has asked for them.
pub fn way(effect: &Effect, ladder: &Ladder<'_>) -> Result<Way, Unavailable> {
    let mut missing = match functions(effect, ladder) {
        Ok(functions) => return Ok(Way::Functions(functions)),
        Err(missing) => missing,
    };
    let Some(calls) = notified::notified(effect) else { return Err(missing) };
    match &ladder.rungs.seccomp {
        Ok(()) => Ok(Way::Notified { calls, why: missing.why }),
        Err(why) => {
            missing.why = format!("{}; seccomp: {why}", missing.why);
            Err(missing)
        }
    }
}

/// Whether an effect could be had by the notifications of seccomp, were it asked for.
#[must_use]
pub const fn could_fall_back(effect: &Effect) -> bool {
    let Effect::Operations(fault) = effect else { return false };
    fault.fallback.is_none()
        && matches!(fault.harm, Harm::Error(_) | Harm::Delay(_) | Harm::Short(_) | Harm::Observe)
}

/// Why nothing of the kernel's cuts reads and writes short: see the page of `io.short`.
const NO_DEPUTY: &str = "no program of the kernel's can move fewer bytes, and say so";

/// The functions at which an effect is decided; empty for effects on packets.
pub fn functions(effect: &Effect, ladder: &Ladder<'_>) -> Result<BTreeSet<Function>, Unavailable> {
    let Effect::Operations(fault) = effect else { return Ok(BTreeSet::new()) };
    let mut functions = BTreeSet::new();
    let mut missing = Unavailable { what: Vec::new(), why: String::new() };
    let mut take = |name: &str, found: Found| match found {
        Ok(found) => functions.extend(found),
        Err(why) => missing.add(name, &why),
    };
    match &fault.meant {
        Meant::Operations(meant) => {
            for operation in &meant.operations {
                let name = border::NAMES[*operation as usize];
                take(name, at_operation(*operation, &fault.harm, ladder));
            }
        }
        Meant::Syscalls(calls) => {
            for call in calls {
                take(call.name, at_syscalls(&[call.name], &fault.harm, ladder));
            }
        }
    }
    if missing.what.is_empty() { Ok(functions) } else { Err(missing) }
}

/// Functions, or why there is none.
type Found = Result<Vec<Function>, String>;

fn at_operation(operation: u32, harm: &Harm, ladder: &Ladder<'_>) -> Found {
    match (place_of(operation, harm), harm) {
        (_, Harm::Short(_)) => Err(NO_DEPUTY.to_owned()),
        (border::AT_RESULT, _) => at_result(ladder),
        (border::AT_HOOK, Harm::Delay(_)) => at_hooks(operation, true, ladder),
        (border::AT_HOOK, _) => at_hooks(operation, false, ladder),
        (border::AT_END, _) => at_syscalls(&PLAIN_READS, harm, ladder),
        _ => {
            let calls: Vec<&str> = CALLS
                .iter()
                .filter(|(_, own)| own & OPERATION_BITS == operation)
                .map(|(name, _)| *name)
                .collect();
            at_syscalls(&calls, harm, ladder)
        }
    }
}

/// Where it is decided what becomes of an operation: the best place that knows what it is done to and can do it, on all kernels the same.
fn place_of(operation: u32, harm: &Harm) -> u32 {
    let mut hooks = HOOKS.iter().filter(|hook| hook.operations.contains(&operation));
    match harm {
        Harm::Lost => border::AT_RESULT,
        Harm::Corrupt { .. } => border::AT_END,
        Harm::Delay(_) if hooks.any(|hook| hook.sleeps) => border::AT_HOOK,
        Harm::Error(_) | Harm::Observe if hooks.next().is_some() => border::AT_HOOK,
        _ => border::AT_SYSCALL,
    }
}

fn at_hooks(operation: u32, sleeps: bool, ladder: &Ladder<'_>) -> Found {
    let hooks = HOOKS.iter().filter(|hook| hook.operations.contains(&operation) && hook.sleeps >= sleeps);
    let Rungs { lsm, lsm_sleep, security, .. } = ladder.rungs;
    // Where results of functions are changed nobody may sleep.
    let rungs = |hook: &Hook| {
        let lsm = if sleeps { lsm_sleep } else { lsm };
        let all = [(lsm, hook.lsm, Mechanism::Lsm), (security, hook.security, Mechanism::Security)];
        all.into_iter().take(if sleeps { 1 } else { 2 })
    };
    let function = |hook: &Hook| {
        let mut able = rungs(hook).filter(|(has, name, _)| has.is_ok() && (ladder.has)(name));
        able.next().map(|(_, name, mechanism)| Function {
            name: name.to_owned(),
            mechanism,
            program: hook.program,
            sleeps,
        })
    };
    let found: Vec<Function> = hooks.clone().filter_map(function).collect();
    if found.is_empty() { Err(why_not(hooks.flat_map(rungs).map(|(rung, ..)| rung))) } else { Ok(found) }
}

/// A program at a function: how it gets there, its name, and whether it sleeps.
type Part = (Mechanism, &'static str, bool);

/// At the functions of system calls: all of these that the kernel has.
fn at_syscalls(names: &[&str], harm: &Harm, ladder: &Ladder<'_>) -> Found {
    let rungs = ladder.rungs;
    const DECIDE: Part = (Mechanism::Entry, DECIDE_PROGRAM, false);
    const REST: Part = (Mechanism::Syscall, REST_PROGRAM, false);
    let (rung, parts): (_, &[Part]) = match harm {
        Harm::Delay(_) => (&rungs.syscall_sleep, &[DECIDE, (Mechanism::Syscall, NAP_PROGRAM, true), REST]),
        Harm::Signal(_) | Harm::Observe => (&rungs.entry, &[(Mechanism::Entry, SYSCALL_PROGRAM, false)]),
        Harm::Corrupt { .. } => (&rungs.end, &[(Mechanism::Exit, END_PROGRAM, false)]),
        Harm::Uncertainty(_) => return at_clocks(names, ladder),
        Harm::Error(_) | Harm::Lost | Harm::Short(_) => {
            (&rungs.syscall, &[(Mechanism::Syscall, SYSCALL_PROGRAM, false)])
        }
    };
    rung.clone()?;
    let functions = names.iter().map(|name| syscall_function(name)).filter(|name| (ladder.has)(name));
    let at = |name: String| {
        let part =
            |&(mechanism, program, sleeps)| Function { name: name.clone(), mechanism, program, sleeps };
        parts.iter().map(part).collect::<Vec<_>>()
    };
    let found: Vec<Function> = functions.flat_map(at).collect();
    if found.is_empty() { Err(why_not([rung].into_iter())) } else { Ok(found) }
}

/// At the ends of the functions of system calls that tell of the clock.
fn at_clocks(names: &[&str], ladder: &Ladder<'_>) -> Found {
    let rung = &ladder.rungs.end;
    rung.clone()?;
    let program =
        |name: &str| CLOCK_PROGRAMS.iter().find(|(call, _)| *call == name).map(|(_, program)| *program);
    let function = |name: &&str| {
        let (function, program) = (syscall_function(name), program(name)?);
        (ladder.has)(&function).then_some(Function {
            name: function,
            mechanism: Mechanism::Exit,
            program,
            sleeps: false,
        })
    };
    let found: Vec<Function> = names.iter().filter_map(function).collect();
    if found.is_empty() { Err(why_not([rung].into_iter())) } else { Ok(found) }
}

/// At the function whose result is what was written.
fn at_result(ladder: &Ladder<'_>) -> Found {
    let rung = &ladder.rungs.security;
    rung.clone()?;
    let function = Function {
        name: "security_file_permission".to_owned(),
        mechanism: Mechanism::Security,
        program: LOST_PROGRAM,
        sleeps: false,
    };
    if (ladder.has)(&function.name) { Ok(vec![function]) } else { Err(why_not([rung].into_iter())) }
}

fn why_not<'a>(rungs: impl Iterator<Item = &'a Tried>) -> String {
    let mut reasons: Vec<&str> = rungs.filter_map(|rung| rung.as_ref().err()).map(String::as_str).collect();
    reasons.dedup();
    if reasons.is_empty() { "it has no such function".to_owned() } else { reasons.join("; ") }
}

/// Whether a function is served by one sleeper on a CPU at a time: the kernel lets nobody into such a program while another one is in it. Hooks
/// of the LSM have no such rule (`bpf_prog_check_recur` in `include/linux/bpf.h`).
#[must_use]
pub fn is_exclusive(function: &Function) -> bool {
    function.program == NAP_PROGRAM
}

/// What is to be attached for several faults: each program once at a function, since each applies the rules of all faults.
#[must_use]
pub fn merged<'a>(functions: impl Iterator<Item = &'a Function>) -> Vec<Function> {
    let mut merged = functions::merged(functions);
    let decides = |function: &&Function| function.program == DECIDE_PROGRAM;
    let ahead: BTreeSet<String> =
        merged.iter().filter(decides).map(|function| function.name.clone()).collect();
    // Where it is decided ahead of those that sleep, it is not decided once more.
    merged.retain(|function| function.program != SYSCALL_PROGRAM || !ahead.contains(&function.name));
    merged
}

/// Whether something sleeps, by a process that ends its naps.
#[must_use]
pub fn sleep<'a>(functions: impl IntoIterator<Item = &'a Function>) -> bool {
    functions.into_iter().any(|function| function.sleeps)
}

/// The functions of a fault by their names, such as `lsm file_permission`, for plans and reports.
#[must_use]
pub fn mechanism(functions: &BTreeSet<Function>) -> String {
    let short = |function: &Function| {
        let name = function.name.strip_prefix("bpf_lsm_").unwrap_or(&function.name);
        format!("{}{} {name}", function.mechanism.name(), if function.sleeps { ".s" } else { "" })
    };
    // Those around the ones that sleep are a part of them.
    let own = functions.iter().filter(|function| ![DECIDE_PROGRAM, REST_PROGRAM].contains(&function.program));
    own.map(short).collect::<Vec<_>>().join(" + ")
}

/// What an effect does not do here, in sentences.
#[must_use]
pub fn notes(effect: &Effect, functions: &BTreeSet<Function>) -> Vec<String> {
    let Effect::Operations(fault) = effect else { return Vec::new() };
    let mut notes = Vec::new();
    let mut note = |text: &str| notes.push(text.to_owned());
    let by = |mechanism| functions.iter().any(|function| function.mechanism == mechanism);
    if by(Mechanism::Security) {
        note(
            "by the result of the function in front of all LSMs (fmod_ret): where a task is preempted there, others on its CPU may pass by",
        );
    }
    if by(Mechanism::Syscall) || by(Mechanism::Entry) || by(Mechanism::Exit) {
        note(
            "by the function of the system call: what io_uring does and what 32-bit programs call does not come by; where a task is preempted in the program, others on its CPU may pass by, uncounted",
        );
    }
    if by(Mechanism::Syscall) && sleep(functions) {
        note(
            "by several programs at each system call, as one serves one sleeper on a CPU at a time: more than 4 are attached when all are busy, up to 24; what passes by until then is counted as `contended`, and not delayed",
        );
    }
    match &fault.harm {
        Harm::Delay(_) => note(
            "a process sleeps before the operation is done, without CPU time; a SIGKILL ends it, as do the end of the experiment and the death of injector",
        ),
        Harm::Signal(_) => note(
            "the call goes on: what it does may be done before the signal is seen; with an error of the same call it is not",
        ),
        Harm::Lost => note(
            "write and pwrite alone: not writev, io_uring, sendfile, splice and mappings. After a lost write(2) the file's position is where it was, as after one in append mode, so that the next one takes its place",
        ),
        Harm::Corrupt { .. } => note(
            "read and pread alone: not readv, io_uring, sendfile, splice and mappings; the kernel logs that a program may write to the memory of processes",
        ),
        Harm::Uncertainty(_) => note(
            "what the call returns (TIME_OK, TIME_ERROR) stays true; the kernel logs that a program may write to the memory of processes",
        ),
        Harm::Error(_) | Harm::Short(_) | Harm::Observe => {}
    }
    if let (Meant::Operations(meant), Harm::Error(failure)) = (&fault.meant, &fault.harm) {
        let has = |operation| meant.operations.contains(&operation);
        if has(border::READ) || has(border::WRITE) {
            note(
                "read, write: what goes by sockets is `recv` and `send`; what is read and written by a mapping (mmap) does not come by",
            );
        }
        if has(border::OPEN) {
            note("open: a file that is being made has been made by then; `create` fails before");
        }
        if failure.frees {
            note(
                "unlink, rmdir and truncate of what is meant free room whether they succeed or not, and how much it is is not known: the fault is counted anew",
            );
        }
    }
    notes
}

#[cfg(test)]
mod tests;
