//! What a reading of a patched clock costs, next to an unpatched one.
//!
//! The program that is patched is this one, as that of `clocks_busy`.

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use injector::host::process::ProcessId;
use injector::host::vdso::{Patched, patch};
use nix::libc;

use crate::clocks::{HOUR, MARK, ahead};
use crate::support::skipped_without_root;

/// Set for the victim.
const VICTIM: &str = "INJECTOR_CLOCK_COST_VICTIM";
const ROUNDS: u32 = 200;
const READINGS: u32 = 2000;
/// How many times as much a reading may cost. Measured are 1.4; a system call is ten times as much.
const MOST: u64 = 4;

#[test]
fn the_victim_when_it_is_run_as_one() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    println!("\nready");
    for _ in std::io::stdin().lines() {
        let vdso = cost_ps(|time| {
            // SAFETY: the structure outlives the call.
            i64::from(unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, time) })
        });
        let call = cost_ps(|time| {
            // SAFETY: the structure outlives the call.
            unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, time) }
        });
        println!("\nresult {vdso} {call}");
    }
}

/// The cost of one reading in the best of the rounds, as others use the machine too.
fn cost_ps(read: impl Fn(*mut libc::timespec) -> i64) -> u64 {
    let round = |_| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let begin = Instant::now();
        for _ in 0..READINGS {
            assert_eq!(read(black_box(&raw mut time)), 0);
        }
        begin.elapsed().as_nanos() as u64 * 1000 / u64::from(READINGS)
    };
    (0..ROUNDS).map(round).min().unwrap()
}

fn ask(questions: &mut ChildStdin, answers: &mut BufReader<ChildStdout>) -> [u64; 2] {
    writeln!(questions).unwrap();
    let result = answers.lines().map(Result::unwrap).find(|line| line.starts_with("result ")).unwrap();
    let numbers: Vec<u64> = result.split(' ').skip(1).map(|text| text.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// What readings cost in a victim that is run by a command: at first, and after `change`, each by the vDSO and by a system call.
fn costs(mut command: Command, change: impl FnOnce(ProcessId)) -> [[u64; 2]; 2] {
    command.args(["--exact", "clocks_cost::the_victim_when_it_is_run_as_one", "--nocapture"]);
    command.env(VICTIM, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut victim = command.spawn().unwrap();
    let mut questions = victim.stdin.take().unwrap();
    let mut answers = BufReader::new(victim.stdout.take().unwrap());
    let before = ask(&mut questions, &mut answers);
    change(ProcessId::of(victim.id().cast_signed()).unwrap());
    let after = ask(&mut questions, &mut answers);
    drop(questions);
    assert!(victim.wait().unwrap().success());
    [before, after]
}

fn patched_costs() -> [[u64; 2]; 2] {
    costs(Command::new(std::env::current_exe().unwrap()), |id| {
        assert_eq!(patch(id, MARK, &ahead(HOUR)).unwrap(), Patched::New);
    })
}

/// As many times as much as ours a reading by libfaketime costs at least. Measured are 1.8 to 2.2.
const FAKETIME: f64 = 1.5;

#[test]
fn a_patched_clock_is_read_in_less_time_than_one_of_libfaketime() {
    // Guests have no faketime, and what they emulate costs other than what it costs by itself.
    if skipped_without_root() || std::env::var_os("INJECTOR_VM").is_some() {
        return;
    }
    let [[true_ps, call_ps], [patched_ps, _]] = patched_costs();
    let mut faketime = Command::new("faketime");
    faketime.args(["-f", "+1h"]).arg(std::env::current_exe().unwrap());
    faketime.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let [[preloaded_ps, _], _] = costs(faketime, |_| ());
    println!("true {true_ps} ps, patched {patched_ps} ps, libfaketime {preloaded_ps} ps");
    // Where the vDSO makes the system call itself, that is what both cost.
    if true_ps * 4 <= call_ps * 3 {
        let ratio = preloaded_ps as f64 / patched_ps as f64;
        assert!(ratio >= FAKETIME, "patched {patched_ps} ps, libfaketime {preloaded_ps} ps");
    }
}

#[test]
fn a_patched_clock_is_read_without_a_system_call() {
    if skipped_without_root() {
        return;
    }
    let [[true_ps, call_ps], [patched_ps, _]] = patched_costs();
    println!("true {true_ps} ps, patched {patched_ps} ps, system call {call_ps} ps");
    if patched_ps > MOST * true_ps {
        // Of a machine whose clock source cannot be used by programs, the vDSO makes the system call itself.
        assert!(true_ps * 4 > call_ps * 3, "true {true_ps} ps, patched {patched_ps} ps, call {call_ps} ps");
    }
}
