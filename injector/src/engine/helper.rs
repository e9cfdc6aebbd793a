//! Processes of injector's own beside the controller: they outlive it, and have nothing of it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;

use crate::kill_point;

/// A command of this program, in a session of its own, without the descriptors of this process but the standard ones.
pub(super) fn command(name: &str) -> Command {
    // Not by its name, which may be another program's by now, or nobody's.
    let mut command = Command::new("/proc/self/exe");
    command.arg(name).env_remove(kill_point::VARIABLE);
    // SAFETY: between fork and exec it makes two plain system calls, which are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // What ends the controller's group or terminal must not end it too.
            nix::unistd::setsid()?;
            // Somebody may wait for the end of what the controller has inherited.
            let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
            let marked = libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC);
            Ok(Errno::result(marked).map(drop)?)
        });
    }
    command
}
