//! Which mechanisms for operations this kernel has, each tried, and which of them the faults take.
//!
//! A program of the BPF LSM loads and attaches also where `bpf` is not among the active LSMs, and then is never called. So a trial is
//! not over before the program has counted a call.

use std::os::fd::OwnedFd;

use injector_common::operation::Subject;
use injector_common::rule::{ACTION_ROT, Rule};
use nix::unistd::{getpgid, getpid};

use super::error::EngineError;
use super::{notify, sleep};
use crate::kernel::functions::{Function, Mechanism};
use crate::kernel::{Image, Kernel, KernelError};
use crate::plan::PlannedFault;
use crate::plan::operations::{
    self, END_PROGRAM, LSM_TRIAL, Ladder, Row, Rungs, SECURITY_TRIAL, SLEEP_TRIAL, TRIAL_PROGRAM, Way,
};
use crate::scenario::{Fault, Scenario, Selector};

/// The active LSMs, where securityfs is mounted.
const ACTIVE: &str = "/sys/kernel/security/lsm";

/// Takes the functions for each fault, if some strikes operations.
pub(super) fn choose(
    scenario: &Scenario,
    only: Option<Mechanism>,
    faults: &mut [PlannedFault],
) -> Result<(), EngineError> {
    if !scenario.faults.iter().any(|fault| fault.effect.strikes_operations()) {
        return Ok(());
    }
    let mut kernel = trial_kernel()?;
    let mut rungs = try_all(&mut kernel);
    let left_out = || Err("not asked for".to_owned());
    match only {
        Some(Mechanism::Lsm) => rungs.security = left_out(),
        Some(Mechanism::Security) => (rungs.lsm, rungs.lsm_sleep) = (left_out(), left_out()),
        _ => {}
    }
    let functions = kernel.functions()?;
    let ladder = Ladder { rungs: &rungs, has: &|name| functions.has(name) };
    for (fault, planned) in scenario.faults.iter().zip(faults.iter_mut()) {
        let way = operations::way(&fault.effect, &ladder).map_err(|missing| EngineError::NoOperation {
            fault: fault.id.clone(),
            what: missing.what,
            why: missing.why,
            could_fall_back: operations::could_fall_back(&fault.effect) && is_of_command(scenario, fault),
        })?;
        match way {
            Way::Functions(functions) => {
                planned.functions = functions;
                planned.notes.extend(operations::notes(&fault.effect, &planned.functions));
            }
            Way::Notified { calls, why } => {
                planned.notes.extend(operations::notified::notes(&fault.effect, &why));
                planned.notified = calls;
            }
        }
    }
    refuse_to_wait(scenario, faults)
}

fn is_of_command(scenario: &Scenario, fault: &Fault) -> bool {
    let targets = fault.targets.iter().filter_map(|name| scenario.targets.get(name));
    targets.into_iter().all(|target| target.selector == Selector::Command)
}

/// Refuses faults of the kernel half that wait for one that seccomp notifies, and the other way round: neither sees the other's strikes. What injector
/// does itself sees both.
fn refuse_to_wait(scenario: &Scenario, faults: &[PlannedFault]) -> Result<(), EngineError> {
    let is_notified = |id: &String| faults.iter().any(|own| own.id == *id && !own.notified.is_empty());
    for fault in scenario.faults.iter().filter(|fault| !fault.effect.is_done_by_injector()) {
        let Some(other) = fault.after.as_ref().filter(|other| is_notified(other) != is_notified(&fault.id))
        else {
            continue;
        };
        let notified = if is_notified(other) { other } else { &fault.id };
        return Err(EngineError::Unsupported {
            what: format!("the fault `{}` waits for `{other}`", fault.id),
            why: format!(
                "`{notified}` is decided by notifications of seccomp here and the other one in the kernel, where neither is told of the other"
            ),
        });
    }
    Ok(())
}

/// Tries the mechanisms, and says what can be done by them to each operation.
pub fn survey() -> Result<(Rungs, Vec<Row>), EngineError> {
    let mut kernel = trial_kernel()?;
    let rungs = try_all(&mut kernel);
    let functions = kernel.functions()?;
    let rows = operations::matrix(&Ladder { rungs: &rungs, has: &|name| functions.has(name) });
    Ok((rungs, rows))
}

fn trial_kernel() -> Result<Kernel, EngineError> {
    // A rule, so that the verifier need not walk through all that rules can ask for.
    let rules = vec![Rule { action: ACTION_ROT, ..Rule::default() }];
    let image = Image { rules, faults: 1, subjects: vec![Subject::default()], ..Image::default() };
    Ok(Kernel::load(&image, 1)?)
}

fn try_all(kernel: &mut Kernel) -> Rungs {
    // Asked for by its number: what a process asks of itself by 0 comes by no hook.
    let ask = || {
        let _ = getpgid(Some(getpid()));
    };
    let getpgid = operations::syscall_function("getpgid");
    let (at_hooks, at_syscalls) = ("BPF LSM, sleeping", "fmod_ret at functions of system calls, sleeping");
    Rungs {
        seccomp: notify::trial(),
        lsm_sleep: try_sleep(kernel, Mechanism::Lsm, SLEEP_TRIAL).map_err(|why| format!("{at_hooks}: {why}")),
        syscall_sleep: try_sleep(kernel, Mechanism::Syscall, &getpgid)
            .map_err(|why| format!("{at_syscalls}: {why}")),
        entry: try_one(kernel, Mechanism::Entry, &getpgid, &ask).map_err(|why| format!("fentry: {why}")),
        end: try_load(kernel, Mechanism::Exit, (END_PROGRAM, &getpgid), false)
            .map_err(|why| format!("fexit, writing to the memory of processes: {why}")),
        lsm: try_one(kernel, Mechanism::Lsm, LSM_TRIAL, &ask).map_err(|why| explain_lsm(&why)),
        security: try_one(kernel, Mechanism::Security, SECURITY_TRIAL, &ask)
            .map_err(|why| format!("fmod_ret at security_*: {why}")),
        syscall: try_one(kernel, Mechanism::Syscall, &getpgid, &ask)
            .map_err(|why| format!("fmod_ret at functions of system calls: {why}")),
    }
}

fn explain_lsm(why: &str) -> String {
    match std::fs::read_to_string(ACTIVE) {
        Ok(active) if !active.trim().split(',').any(|lsm| lsm == "bpf") => {
            format!("BPF LSM: {why}, and `bpf` is not among the active LSMs ({})", active.trim())
        }
        _ => format!("BPF LSM: {why}"),
    }
}

/// Attaches the program that counts, does something that comes by the function, and asks whether it was called.
fn try_one(kernel: &mut Kernel, mechanism: Mechanism, name: &str, act: &dyn Fn()) -> Result<(), String> {
    let function = Function { name: name.to_owned(), mechanism, program: TRIAL_PROGRAM, sleeps: false };
    let link: OwnedFd =
        kernel.functions().and_then(|functions| functions.attach(&function)).map_err(|e| words(&e))?;
    let before = kernel.trial_calls().map_err(|e| words(&e))?;
    act();
    let after = kernel.trial_calls().map_err(|e| words(&e))?;
    drop(link);
    if after > before { Ok(()) } else { Err("its programs load, and are never called".to_owned()) }
}

/// Whether a program may sleep there, and there is something to sleep by. It is not called: that hooks are is seen by others.
fn try_sleep(kernel: &Kernel, mechanism: Mechanism, name: &str) -> Result<(), String> {
    try_load(kernel, mechanism, (TRIAL_PROGRAM, name), true)?;
    // It loads without the function too, and would never sleep.
    if !kernel.functions().is_ok_and(|functions| functions.has("bpf_task_from_pid")) {
        return Err("it has no bpf_task_from_pid (Linux 6.2)".to_owned());
    }
    sleep::obstacle().map_or(Ok(()), Err)
}

/// Whether the kernel takes a program.
fn try_load(
    kernel: &Kernel,
    mechanism: Mechanism,
    (program, name): (&'static str, &str),
    sleeps: bool,
) -> Result<(), String> {
    let function = Function { name: name.to_owned(), mechanism, program, sleeps };
    kernel.functions().and_then(|functions| functions.load(&function)).map(drop).map_err(|e| words(&e))
}

/// What the kernel said, without what was tried.
fn words(error: &KernelError) -> String {
    match error {
        KernelError::Function { source, log, .. } if log.is_empty() => crate::errno::name_of(source),
        KernelError::Function { source, log, .. } => format!("{} ({log})", crate::errno::name_of(source)),
        KernelError::Attach { source, .. } => crate::errno::name_of(source),
        other => other.to_string(),
    }
}
