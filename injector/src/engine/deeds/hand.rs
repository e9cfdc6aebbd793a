//! How each deed is begun and ended: files of a cgroup that are written, signals that are sent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::Failures;
use crate::errno::name_of;
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy, SignalError, knobs};
use crate::host::errno_of;
use crate::host::process::ProcessId;

/// How long the end waits for a command to have been started: as long as a program takes to begin on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// What a step needs, with its files open.
#[derive(Debug)]
pub(super) enum Hand {
    /// The freezer of a cgroup.
    Freezer {
        /// `cgroup.freeze`.
        switch: File,
        /// `cgroup.events`, which says whether anybody is in it.
        events: File,
    },
    /// SIGSTOP and SIGCONT.
    Stopper {
        /// Where the cgroups are.
        hierarchy: Hierarchy,
        /// Whose processes.
        cgroup: Cgroup,
        /// Who was stopped before, and stays so.
        spared: BTreeSet<ProcessId>,
        /// Who got the signal.
        stopped: BTreeSet<ProcessId>,
    },
    /// A signal that ends processes.
    Killer {
        /// Where the cgroups are.
        hierarchy: Hierarchy,
        /// Whose processes.
        cgroup: Cgroup,
        /// Which signal.
        signal: Signal,
        /// The command that starts them again.
        restart: Option<String>,
        /// Where it is told that it could not be started.
        failures: Failures,
        /// What ends when the command has been started.
        starting: Option<Receiver<()>>,
    },
    /// A limit of a cgroup.
    Limit {
        /// Where the cgroups are.
        hierarchy: Hierarchy,
        /// Whose limit.
        cgroup: Cgroup,
        /// Its file.
        file: &'static str,
        /// What it says while the fault lasts.
        set: String,
        /// What it said before.
        previous: String,
    },
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Signal(#[from] SignalError),
    #[error("{what}: {source}")]
    Write { what: &'static str, source: Errno },
}

impl Hand {
    /// The freezer of a cgroup.
    pub(super) fn freezer(hierarchy: &Hierarchy, cgroup: &Cgroup) -> Result<Self, CgroupError> {
        Ok(Self::Freezer {
            switch: hierarchy.open_knob(&cgroup.path, knobs::FREEZE, true)?,
            events: hierarchy.open_knob(&cgroup.path, knobs::EVENTS, false)?,
        })
    }

    /// Begins it; how often something was done, which is once but for signals that end processes, and not at all if nobody is there.
    pub(super) fn begin(&mut self) -> Result<u64, HandError> {
        match self {
            Self::Freezer { switch, events } => {
                // Looked at before: the pause counts from the write on.
                let is_populated = is_populated(events);
                let is_done = write(switch, "1", "the cgroup could not be frozen")?;
                Ok(u64::from(is_done && is_populated))
            }
            Self::Stopper { hierarchy, cgroup, spared, stopped } => {
                *stopped = hierarchy.stop_all(cgroup, spared)?;
                Ok(u64::from(!stopped.is_empty()))
            }
            Self::Killer { hierarchy, cgroup, signal, .. } => Ok(hierarchy.signal_all(cgroup, *signal)?),
            Self::Limit { hierarchy, cgroup, file, set, previous } => {
                // What is tighter already stays, and nothing is done.
                if set == previous || !hierarchy.is_there(cgroup)? {
                    return Ok(0);
                }
                hierarchy.write_knob(&cgroup.path, file, set)?;
                Ok(1)
            }
        }
    }

    /// Ends it.
    pub(super) fn end(&mut self) -> Result<(), HandError> {
        match self {
            Self::Freezer { switch, .. } => write(switch, "0", "the cgroup could not be thawed").map(drop),
            Self::Stopper { hierarchy, cgroup, spared, stopped } => {
                hierarchy.continue_all(cgroup, spared, stopped)?;
                stopped.clear();
                Ok(())
            }
            Self::Killer { restart: None, .. } => Ok(()),
            Self::Killer { hierarchy, cgroup, restart: Some(command), failures, starting, .. } => {
                let (started, receiver) = channel();
                *starting = Some(receiver);
                start_again(
                    (hierarchy.clone(), cgroup.clone()),
                    command.clone(),
                    Arc::clone(failures),
                    started,
                );
                Ok(())
            }
            Self::Limit { hierarchy, cgroup, file, set, previous } => {
                // What somebody has changed meanwhile is theirs.
                if hierarchy.is_there(cgroup)? && hierarchy.read_knob(&cgroup.path, file)? == *set {
                    hierarchy.write_knob(&cgroup.path, file, previous)?;
                }
                Ok(())
            }
        }
    }

    /// Waits until a command that starts the target again has been started: nobody would start it once this process has ended.
    pub(super) fn finish(&mut self) {
        if let Self::Killer { starting, .. } = self
            && let Some(starting) = starting.take()
        {
            // Nothing is ever sent: the other end goes when the command runs, or has failed.
            let _ = starting.recv_timeout(START_PATIENCE);
        }
    }

    /// Whether something of it stays until it is ended.
    pub(super) const fn lasts(&self) -> bool {
        !matches!(self, Self::Killer { .. })
    }

    /// Whether it is a limit, which may take long to set.
    pub(super) const fn is_limit(&self) -> bool {
        matches!(self, Self::Limit { .. })
    }
}

/// Whether anybody is in a cgroup.
fn is_populated(events: &mut File) -> bool {
    let mut text = String::new();
    let read = events.rewind().and_then(|()| events.read_to_string(&mut text));
    // What can't be read is no proof of emptiness.
    read.is_err() || text.lines().any(|line| line == "populated 1")
}

/// Writes a file of a cgroup; false if the cgroup is gone.
fn write(mut file: &File, value: &str, what: &'static str) -> Result<bool, HandError> {
    match file.write_all(value.as_bytes()).map_err(|error| errno_of(&error)) {
        Ok(()) => Ok(true),
        Err(Errno::ENODEV) => Ok(false),
        Err(source) => Err(HandError::Write { what, source }),
    }
}

/// Runs the command that starts the target again, in its cgroup if that is there still, and in a session of its own.
///
/// By a thread: it enters the cgroup before it runs, and waits there if that is paused. The thread also takes its exit status.
fn start_again(
    (hierarchy, cgroup): (Hierarchy, Cgroup),
    text: String,
    failures: Failures,
    started: Sender<()>,
) {
    std::thread::spawn(move || {
        let child = start(&hierarchy, &cgroup, &text);
        drop(started);
        if let Err(error) = child.and_then(|mut child| child.wait()) {
            let text = format!("`{text}` could not be started: {}", name_of(&error));
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    });
}

fn start(hierarchy: &Hierarchy, cgroup: &Cgroup, text: &str) -> std::io::Result<Child> {
    // A supervisor may have removed the cgroup, and makes it anew when it starts the service.
    let is_there = hierarchy.is_there(cgroup).unwrap_or(false);
    let procs = is_there.then(|| hierarchy.open_procs_file(cgroup).ok()).flatten();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec it makes two plain system calls, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            procs.as_ref().map_or(Ok(()), |mut procs| procs.write_all(b"0"))?;
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    command.spawn()
}
