//! Clocks of a program of threads that read them all the time, through hundreds of patches and restores.
//!
//! The program is this one: a test that does something only when it is run as the victim of another.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use injector::host::process::ProcessId;
use injector::host::vdso::{Patched, Restored, mark, patch, restore};
use nix::errno::Errno;
use nix::libc;

use crate::clocks::{HOUR, MARK, ahead};
use crate::support::skipped_without_root;

/// Set for the victim: how many threads it has.
const VICTIM: &str = "INJECTOR_CLOCK_VICTIM";
/// How many patches and restores, for a longer run by hand.
const CYCLES: &str = "INJECTOR_CLOCK_CYCLES";

static STOP: AtomicBool = AtomicBool::new(false);
static QUEUED_SIGNALS: AtomicU64 = AtomicU64::new(0);
static ALARMS: AtomicU64 = AtomicU64::new(0);

#[test]
fn the_victim_when_it_is_run_as_one() {
    let Some(threads) = std::env::var(VICTIM).ok().and_then(|text| text.parse::<usize>().ok()) else {
        return;
    };
    handle_signals();
    let threads: Vec<_> = (0..threads).map(|_| std::thread::spawn(read_clocks)).collect();
    println!("\nready");
    // The end of the input is the sign to end.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    STOP.store(true, Ordering::Relaxed);
    let readings: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let signals = QUEUED_SIGNALS.load(Ordering::Relaxed);
    println!("\nresult {readings} {signals} {}", ALARMS.load(Ordering::Relaxed));
}

/// Count the signals that are queued, and read clocks in the handler of an alarm of 1 kHz.
fn handle_signals() {
    extern "C" fn queued(_: i32) {
        QUEUED_SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    extern "C" fn alarm(_: i32) {
        ALARMS.fetch_add(1, Ordering::Relaxed);
        check_realtime();
    }
    for (signal, handler) in [(libc::SIGRTMIN() + 1, queued as extern "C" fn(i32)), (libc::SIGALRM, alarm)] {
        // SAFETY: zeros are a valid structure, and the handlers only touch atomics and read clocks.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
        }
    }
    let every = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the structure outlives the call.
    let set = unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
    assert_eq!(set, 0);
}

fn seconds(time: &libc::timespec) -> i64 {
    assert!((0..1_000_000_000).contains(&time.tv_nsec), "{}", time.tv_nsec);
    time.tv_sec
}

/// By the system call itself.
fn true_time(clock: i32) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call.
    assert_eq!(unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time) }, 0);
    seconds(&time)
}

fn shown_time(clock: i32) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: -1 };
    // SAFETY: the structure outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    seconds(&time)
}

/// The true time, or an hour ahead of it, and nothing else.
fn check_realtime() {
    let shown = shown_time(libc::CLOCK_REALTIME);
    let ahead = shown - true_time(libc::CLOCK_REALTIME);
    assert!((-60..=0).contains(&ahead) || (3540..=3600).contains(&ahead), "{ahead}");
}

fn read_clocks() -> u64 {
    let mut readings = 0;
    while !STOP.load(Ordering::Relaxed) {
        check_realtime();
        let ahead = shown_time(libc::CLOCK_MONOTONIC) - true_time(libc::CLOCK_MONOTONIC);
        assert!((-60..=0).contains(&ahead), "{ahead}");
        for _ in 0..50 {
            let mut time = libc::timeval { tv_sec: 0, tv_usec: -1 };
            // SAFETY: the structure outlives the call.
            assert_eq!(unsafe { libc::gettimeofday(&raw mut time, std::ptr::null_mut()) }, 0);
            assert!((0..1_000_000).contains(&time.tv_usec));
            // SAFETY: it may be null.
            let now = unsafe { libc::time(std::ptr::null_mut()) };
            assert!((now - time.tv_sec).abs() < 3660);
            shown_time(libc::CLOCK_REALTIME_COARSE);
            readings += 3;
        }
        readings += 2;
    }
    readings
}

fn start_victim(threads: usize) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "clocks_busy::the_victim_when_it_is_run_as_one", "--nocapture"]);
    command.env(VICTIM, threads.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    find_line(&mut output, "ready");
    (child, output)
}

fn find_line(output: &mut BufReader<std::process::ChildStdout>, start: &str) -> String {
    output.lines().map(Result::unwrap).find(|line| line.starts_with(start)).unwrap()
}

#[test]
fn busy_threads_survive_many_patches_and_lose_no_signal() {
    if skipped_without_root() {
        return;
    }
    // One takes seconds in an emulated machine.
    let usual = if std::env::var_os("INJECTOR_VM").is_some() { 20 } else { 300 };
    let cycles: u32 = std::env::var(CYCLES).map_or(usual, |text| text.parse().unwrap());
    let (mut victim, mut output) = start_victim(4);
    let id = ProcessId::of(victim.id().cast_signed()).unwrap();
    let (mut sent, mut took) = (0u64, [Duration::ZERO; 2]);
    for _ in 0..cycles {
        sent += send_signals(id.pid, 5);
        let begin = Instant::now();
        assert_eq!(patch(id, MARK, &ahead(HOUR)).unwrap(), Patched::New);
        took[0] += begin.elapsed();
        assert_eq!(mark(id).unwrap(), Some(MARK));
        sent += send_signals(id.pid, 5);
        let begin = Instant::now();
        assert_eq!(restore(id, MARK).unwrap(), Restored::Removed);
        took[1] += begin.elapsed();
    }
    println!("patch {:?}, restore {:?} each of {cycles}", took[0] / cycles, took[1] / cycles);
    drop(victim.stdin.take());
    let result = find_line(&mut output, "result");
    let status = victim.wait().unwrap();
    assert!(status.success(), "{status} {:?}", status.signal());
    println!("{result}");
    let numbers: Vec<u64> = result.split(' ').skip(1).map(|text| text.parse().unwrap()).collect();
    assert_eq!(numbers[1], sent);
    assert!(numbers[0] > 0 && numbers[2] > 0);
}

/// Queue signals, waiting while the queue is full.
fn send_signals(pid: i32, count: u64) -> u64 {
    for _ in 0..count {
        loop {
            let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
            // SAFETY: the call takes plain values.
            let sent = Errno::result(unsafe { libc::sigqueue(pid, libc::SIGRTMIN() + 1, value) });
            match sent {
                Ok(_) => break,
                Err(error) => assert_eq!(error, Errno::EAGAIN),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    count
}
