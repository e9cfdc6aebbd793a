use injector_common::operation::{
    SUBJECT_DEVICE, SUBJECT_FREES, SUBJECT_MAGIC, SUBJECT_PATH, SUBJECT_STAYS, SUBJECT_TYPES,
};

use super::subject::{operations_of_calls, subject, subject_of_syscalls};
use super::*;
use crate::scenario::{
    Device, Failure, FileSystem, FileType, OperationFault, Operations, PathPattern, SyscallName, Times,
    Uncertainty,
};

const FAILURE: Failure = Failure { errno: 5, stays: false, frees: false };
const TEN_MS: Times = Times::Spread {
    delay_ns: 10_000_000,
    jitter_ns: 0,
    distribution: crate::scenario::Distribution::Uniform,
};

fn on(operations: &[u32], harm: Harm) -> Effect {
    let meant = Operations { operations: operations.to_vec(), ..Operations::default() };
    Effect::Operations(OperationFault { meant: Meant::Operations(meant), harm, fallback: None })
}

fn failing(operations: &[u32]) -> Effect {
    on(operations, Harm::Error(FAILURE))
}

fn slow(operations: &[u32]) -> Effect {
    on(operations, Harm::Delay(TEN_MS))
}

fn names(effect: &Effect, rungs: &Rungs) -> Vec<String> {
    let ladder = Ladder { rungs, has: &|_| true };
    functions(effect, &ladder).unwrap().into_iter().map(|function| function.name).collect()
}

fn missing(effect: &Effect, rungs: &Rungs) -> Unavailable {
    functions(effect, &Ladder { rungs, has: &|_| true }).unwrap_err()
}

fn all() -> Rungs {
    Rungs {
        lsm: Ok(()),
        lsm_sleep: Ok(()),
        security: Ok(()),
        syscall: Ok(()),
        syscall_sleep: Ok(()),
        entry: Ok(()),
        end: Ok(()),
        seccomp: Ok(()),
    }
}

fn no(why: &str) -> Tried {
    Err(why.to_owned())
}

#[test]
fn the_best_rung_that_there_is_is_taken() {
    assert_eq!(names(&failing(&[border::READ, border::WRITE]), &all()), ["bpf_lsm_file_permission"]);
    assert_eq!(names(&failing(&[border::EXEC]), &all()), ["bpf_lsm_bprm_check_security"]);
    let sync = syscall_function("fsync");
    assert_eq!(names(&failing(&[border::FSYNC]), &all()), [&*sync]);

    let inactive = Rungs { lsm: no("inactive"), ..all() };
    assert_eq!(names(&failing(&[border::EXEC]), &inactive), ["security_bprm_check"]);

    let old = Rungs { syscall: no("refused"), ..all() };
    let missing_some = missing(&failing(&[border::READ, border::FSYNC, border::CLOSE]), &old);
    assert_eq!(
        (missing_some.what, &*missing_some.why),
        (vec!["fsync".to_owned(), "close".to_owned()], "refused")
    );
    let locked = Rungs { lsm: no("EPERM"), security: no("EPERM too"), ..all() };
    assert_eq!(missing(&failing(&[border::READ]), &locked).why, "EPERM; EPERM too");
}

#[test]
fn delays_are_had_where_a_program_may_sleep() {
    let effect = slow(&[border::OPEN, border::FSYNC]);
    let found = functions(&effect, &Ladder { rungs: &all(), has: &|_| true }).unwrap();
    let exclusive: Vec<&str> =
        found.iter().filter(|one| is_exclusive(one)).map(|one| one.name.as_str()).collect();
    assert_eq!((exclusive, found.len()), (vec!["__x64_sys_fsync"], 4), "one before and one behind it");
    // An error at the same function is decided with the delay.
    let error = functions(&failing(&[border::FSYNC]), &Ladder { rungs: &all(), has: &|_| true }).unwrap();
    assert_eq!(merged(found.iter().chain(&error)), merged(found.iter()));
    assert_eq!(merged(error.iter()).len(), 1);
    assert_eq!(mechanism(&found), "fmod_ret.s __x64_sys_fsync + lsm.s file_open");
    // Reads come by a hook at which nobody may sleep.
    assert_eq!(
        mechanism(&functions(&slow(&[border::READ]), &Ladder { rungs: &all(), has: &|_| true }).unwrap()),
        "fmod_ret.s __x64_sys_pread64 + fmod_ret.s __x64_sys_preadv + fmod_ret.s __x64_sys_preadv2 + fmod_ret.s __x64_sys_read + \
         fmod_ret.s __x64_sys_readv"
    );
    let old = Rungs { syscall_sleep: no("EINVAL"), ..all() };
    assert_eq!(
        missing(&effect, &old),
        Unavailable { what: vec!["fsync".to_owned()], why: "EINVAL".to_owned() }
    );
    // The results of functions are no place to sleep either.
    let inactive = Rungs { lsm_sleep: no("inactive"), ..all() };
    assert_eq!(missing(&slow(&[border::OPEN]), &inactive).why, "inactive");
}

#[test]
fn losses_and_rot_have_one_place_each() {
    assert_eq!(names(&on(&[border::WRITE], Harm::Lost), &all()), ["security_file_permission"]);
    let rot = on(&[border::READ], Harm::Corrupt { bits: 1, offset: None });
    assert_eq!(names(&rot, &all()), ["pread64", "read"].map(syscall_function));
    assert_eq!(missing(&rot, &Rungs { end: no("EPERM"), ..all() }).why, "EPERM");
}

#[test]
fn what_a_kernel_has_not_is_left_out_as_long_as_there_is_another() {
    let rungs = all();
    let old = Ladder { rungs: &rungs, has: &|name| !name.contains("file_truncate") };
    let found = functions(&failing(&[border::TRUNCATE]), &old).unwrap();
    assert_eq!(mechanism(&found), "lsm path_truncate");
    let none = Ladder { rungs: &rungs, has: &|_| false };
    assert_eq!(functions(&failing(&[border::READ]), &none).unwrap_err().why, "it has no such function");
    assert_eq!(functions(&slow(&[border::READ]), &none).unwrap_err().why, "it has no such function");
}

#[test]
fn every_operation_has_a_hook_or_a_system_call_of_its_name() {
    for (number, name) in border::NAMES.iter().enumerate() {
        let number = number as u32;
        let has_hook = HOOKS.iter().any(|hook| hook.operations.contains(&number));
        assert!(has_hook || CALLS.contains(&(*name, number)), "{name}");
        if crate::scenario::operation::can_sleep(number) {
            let found = names(&slow(&[number]), &all());
            assert!(!found.is_empty(), "{name}");
        }
    }
    assert_eq!(operations_of_calls().len(), CALLS.len(), "every call has a number");
}

#[test]
fn the_matrix_has_each_operation_with_its_mechanism_or_the_reason() {
    let rungs = Rungs { syscall: no("EINVAL"), ..all() };
    let rows = matrix(&Ladder { rungs: &rungs, has: &|_| true });
    let of = |name: &str| rows.iter().find(|row| row.operation == name).unwrap();
    assert_eq!(rows.len(), border::NAMES.len());
    assert_eq!(of("write").error, Cell::By("lsm file_permission".to_owned()));
    assert_eq!(of("write").lost, Cell::By("fmod_ret security_file_permission".to_owned()));
    assert_eq!(of("fsync").error, Cell::Refused("EINVAL".to_owned()));
    assert_eq!(of("open").delay, Cell::By("lsm.s file_open".to_owned()));
    assert!(matches!(of("rename").delay, Cell::Never(_)) && matches!(of("write").corrupt, Cell::Never(_)));
    // As it crosses to who keeps the table.
    let json = serde_json::to_value(of("read")).unwrap();
    assert_eq!(json["corrupt"]["by"], "fexit __x64_sys_pread64 + fexit __x64_sys_read");
    assert_eq!(json["lost"]["never"], "only what write(2) and pwrite(2) write can be lost");
}

#[test]
fn subjects_hold_bits_and_patterns() {
    let meant = Operations {
        operations: vec![border::WRITE, border::FALLOCATE],
        path: Some(PathPattern::new("/data/*").unwrap()),
        types: vec![FileType::Regular],
        device: Some(Device { major: 8, minor: 1 }),
        filesystem: Some(FileSystem(0xef53)),
    };
    let bits = 1 << border::WRITE | 1 << border::FALLOCATE;
    let stays = Failure { errno: 28, stays: false, frees: true };
    let fault =
        |harm| subject(&OperationFault { meant: Meant::Operations(meant.clone()), harm, fallback: None });
    let full = fault(Harm::Error(stays));
    assert_eq!(full.operations, [bits, 0, 0, 0]);
    assert_eq!(fault(Harm::Delay(TEN_MS)).operations, [0, bits, 0, 0]);
    assert_eq!(fault(Harm::Lost).operations, [0, 0, 0, bits]);
    let flags = SUBJECT_PATH | SUBJECT_TYPES | SUBJECT_DEVICE | SUBJECT_MAGIC;
    assert_eq!((full.flags, full.types), (flags | SUBJECT_STAYS | SUBJECT_FREES, 1 << 8));
    assert_eq!((full.device, full.magic), (0x80_0001, 0xef53));
    assert_eq!(&full.pattern[..full.pattern_length as usize], b"/data/\x01");
    let calls = vec![SyscallName { number: 0, name: "read" }, SyscallName { number: 257, name: "openat" }];
    let subject = subject_of_syscalls(&calls, &Harm::Lost);
    assert_eq!((subject.syscalls[0], subject.syscalls[4], subject.operations), (1, 2, [0, 1, 0, 0]));
    let told = Harm::Uncertainty(Uncertainty::default());
    assert_eq!(subject_of_syscalls(&calls, &told).operations, [0, 0, 1, 0]);
}
