use super::*;
use crate::scenario::{Failure, Operations, Share};

fn asked(operations: &[u32], harm: Harm) -> Vec<&'static str> {
    let meant = Operations { operations: operations.to_vec(), ..Operations::default() };
    let fault = OperationFault { meant: Meant::Operations(meant), harm, fallback: Some(Fallback::Seccomp) };
    notified(&Effect::Operations(fault)).unwrap().into_iter().map(|call| call.name).collect()
}

const FAILS: Harm = Harm::Error(Failure { errno: 5, stays: false, frees: false });

#[test]
#[cfg(target_arch = "x86_64")]
fn every_call_has_a_number_and_every_operation_a_call() {
    for call in CALLS {
        assert!(named(call.name).is_some(), "{}", call.name);
        assert_eq!(deeds_of(named(call.name).unwrap().number).len(), call.deeds.len());
    }
    for (operation, name) in border::NAMES.iter().enumerate() {
        assert!(!asked(&[operation as u32], FAILS).is_empty(), "{name}");
    }
    assert!(calls::MOVING.iter().all(|name| moves(named(name).unwrap().number)));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn only_what_is_asked_for_is_notified() {
    assert_eq!(asked(&[border::FSYNC], FAILS), ["fsync"]);
    assert_eq!(asked(&[border::FSYNC, border::CLOSE], FAILS), ["close", "fsync"]);
    assert!(asked(&[border::READ], FAILS).contains(&"sendfile"));
    let short = asked(&[border::READ], Harm::Short(Share::Bytes(1)));
    assert_eq!(short, ["read", "pread64", "readv", "preadv", "preadv2"], "what can be moved by another");
    let effect = Effect::Operations(OperationFault {
        meant: Meant::Syscalls(vec![SyscallName { number: 74, name: "fsync" }]),
        harm: FAILS,
        fallback: None,
    });
    assert!(notified(&effect).is_none(), "nobody has asked for it");
    assert_eq!(mechanism(&[SyscallName { number: 74, name: "fsync" }]), "seccomp fsync");
}

#[test]
fn a_call_does_what_its_arguments_say() {
    let args = |n: usize, value| {
        let mut args = [0; 6];
        args[n] = value;
        args
    };
    for (when, value, holds) in [
        (When::Always, 0, true),
        (When::Has(2, AT_REMOVEDIR), 0x200, true),
        (When::Has(2, AT_REMOVEDIR), 0x100, false),
        (When::Lacks(2, AT_REMOVEDIR), 0x200, false),
        (When::Regular(2), 0o644, true),
        (When::Regular(2), 0o100_644, true),
        (When::Special(2), 0o010_644, true),
        (When::Regular(2), 0o010_644, false),
        (When::Locks(2), 7, true),
        (When::Locks(2), 3, false),
        (When::LocksNot(2), 3, true),
    ] {
        assert_eq!(when.holds(&args(2, value)), holds, "{when:?} {value:#o}");
    }
}

const AT_REMOVEDIR: u64 = 0x200;

#[test]
fn a_share_is_never_more_than_was_asked_for_and_never_nothing() {
    use crate::scenario::P32;
    let half = Share::Fraction(P32(1 << 31));
    for (share, asked, moved) in [
        (Share::Bytes(3), 10, 3),
        (Share::Bytes(30), 10, 10),
        (half, 11, 5),
        (half, 1, 1),
        (half, 0, 0),
        (half, u64::MAX, u64::MAX / 2),
        (Share::Bytes(1), 0, 0),
    ] {
        assert_eq!(share.of(asked), moved, "{share:?} of {asked}");
    }
}
