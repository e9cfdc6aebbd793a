//! `apply --detach`: the same command again in a session of its own, which says when it is armed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::exit::{Exit, Failure};
use super::output::Output;

const DETACH: &str = "--detach";

/// Starts the controller and waits until it is armed or has failed. `stdin` is what was read there, for a
/// controller that will want to read it again.
pub(super) fn start(stdin: Option<&str>, output: &Output) -> Result<Exit, Failure> {
    let (ready, theirs) = nix::unistd::pipe().context("no pipe could be made")?;
    let (errors, their_errors) = nix::unistd::pipe().context("no pipe could be made")?;
    for ours in [&ready, &errors] {
        fcntl(ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("a pipe could not be set up")?;
    }
    let program = std::env::current_exe().context("injector does not find itself")?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != DETACH);
    let mut command = Command::new(program);
    command.args(arguments).arg("--ready-fd").arg(theirs.as_raw_fd().to_string());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::null()).stderr(Stdio::from(their_errors));
    // SAFETY: setsid is a plain system call, which is all that may be done between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
    let mut child = command.spawn().context("the detached controller could not be started")?;
    drop(theirs);
    // The command keeps its copy of the errors' end until it is dropped.
    drop(command);
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // One that has ended does not read: what it said tells more than this error would.
        let _ = pipe.write_all(text.as_bytes());
    }
    let mut id = String::new();
    File::from(ready).read_to_string(&mut id).context("the detached controller could not be heard")?;
    if !id.is_empty() {
        if output.json {
            output.object(&serde_json::json!({ "id": id, "pid": child.id() }));
        } else {
            output.data(&format!("{id}\n"));
        }
        return Ok(Exit::Done);
    }
    let mut said = String::new();
    // What it said is worth showing even if it is cut short.
    let _ = File::from(errors).read_to_string(&mut said);
    output.talk(&said);
    let status = child.wait().context("the detached controller could not be waited for")?;
    Ok(Exit::Command(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Says on the pipe of `start` that the experiment is armed.
pub(super) fn say_ready(fd: i32, id: &str) {
    // SAFETY: the number was passed by `start`, which made the pipe for this, and nobody else here uses it.
    let pipe = unsafe { OwnedFd::from_raw_fd(fd) };
    // A parent that is gone does not wait any more.
    let _ = File::from(pipe).write_all(id.as_bytes());
}
