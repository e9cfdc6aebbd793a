//! Compiled programs, which find the clocks each in its own way: by the C library, and with none that is loaded.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::{Cgroup, Experiment, Located as _};
use crate::times_are_true;

/// Threads that wait for a signal together, and then print the seconds of the wall clock by each function that tells them.
const SOURCE: &str = r#"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>
static pthread_barrier_t all;
static void *tell(void *nothing) {
    struct timespec precise;
    struct timeval old;
    pthread_barrier_wait(&all);
    clock_gettime(CLOCK_REALTIME, &precise);
    gettimeofday(&old, NULL);
    printf("%ld %ld %ld\n", (long)precise.tv_sec, (long)old.tv_sec, (long)time(NULL));
    return nothing;
}
int main(void) {
    pthread_t threads[3];
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_barrier_init(&all, NULL, 4);
    for (int n = 0; n < 3; n++)
        pthread_create(&threads[n], NULL, tell, NULL);
    puts("runs");
    fflush(stdout);
    sigwait(&set, &signal);
    tell(NULL);
    for (int n = 0; n < 3; n++)
        pthread_join(threads[n], NULL);
    return 0;
}
"#;

const HOUR_S: i64 = 3600;

#[test]
fn threads_of_compiled_programs_see_the_time_that_was_asked_for() {
    // Guests have no compiler.
    if !times_are_true() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let source = directory.path().join("victim.c");
    std::fs::write(&source, SOURCE).unwrap();
    for flags in [&["-pthread"][..], &["-pthread", "-static"]] {
        let program = directory.path().join("victim");
        let status = Command::new("cc").args(flags).arg("-o").args([&program, &source]).status().unwrap();
        assert!(status.success(), "cc {flags:?}");
        let cgroup = Cgroup::new();
        let mut victim = Command::new(&program).in_cgroup(&cgroup).background();
        victim.wait_for_line("runs");
        let experiment = Experiment::apply(&format!(
            "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"clock.offset\"\noffset = \"+1h\"\n",
            cgroup.path()
        ));
        victim.signal(Signal::SIGUSR1);
        let said = victim.finish(Duration::from_secs(60));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let seconds: Vec<i64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert_eq!(seconds.len(), 12, "{said}");
        let is_off = |second: &i64| (0..3).contains(&(now + HOUR_S - second));
        assert!(seconds.iter().all(is_off), "{flags:?}: {said} at {now}");
        assert_eq!(experiment.end().only().injected, 1);
    }
}
