//! Places at which a test ends the controller by SIGKILL, to see what it leaves behind.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, raise};

/// Names the step, counted from 1, after which the process kills itself.
pub(crate) const VARIABLE: &str = "INJECTOR_KILL_AT";

static PASSED: AtomicU64 = AtomicU64::new(0);

/// Passes one step. Without the variable it costs a counter.
pub(crate) fn kill_point(step: &str) {
    static CHOSEN: OnceLock<Option<u64>> = OnceLock::new();
    let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()?.parse().ok());
    if *chosen == Some(number) {
        tracing::warn!(step, number, "killed on request");
        // A signal that could not be raised leaves the process alive, which the test sees.
        let _ = raise(Signal::SIGKILL);
    }
}
