//! Threads that run as soon as they are due.

/// That of threaded interrupt handlers: a target that is real-time itself is struck on time too.
const PRIORITY: i32 = 50;

/// Makes the calling thread run as soon as it is due: it must do next to nothing. Where it may not, it is as exact as the machine is idle.
pub(super) fn prefer() {
    let parameters = nix::libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the call reads the parameters, which live until it returns, and changes nothing but this thread's scheduling.
    unsafe {
        nix::libc::sched_setscheduler(
            0,
            nix::libc::SCHED_FIFO | nix::libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
}
