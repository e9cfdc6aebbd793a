//! The process that ends naps, for programs that sleep.
//!
//! A BPF program sleeps by reading a page that comes late (`injector-ebpf/src/nap.rs`). The pages are those of one file in a file system of
//! our own (FUSE), which is mounted nowhere; a process of its own has mapped it, and does nothing else, since whoever changes that process's
//! mappings waits for all readers. Another process serves the file: it keeps each read until its time, and then lets it fail, so that
//! no page is ever there. It is no part of the controller, which has memory of its own to map and work to do, and it ends with it.
//!
//! Here is the controller's end of it. `server` is that process, `protocol` what it speaks with the kernel, `holder` the one with the pages.

mod holder;
mod protocol;
mod server;

use std::io::{self, BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use injector_common::operation::Bed;

use super::error::EngineError;
use super::helper;
use crate::host::module;
use crate::kernel::Kernel;
use crate::kill_point::kill_point;

pub use server::serve;

/// The command by which injector starts it.
pub const COMMAND: &str = "sleeper";

/// Where the kernel lets file systems be served from.
const DEVICE: &str = "/dev/fuse";

/// The inode of the first pid namespace (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Why nothing can sleep here, whatever the kernel's programs can; `None` if it can.
pub(super) fn obstacle() -> Option<String> {
    let is_there = || std::fs::metadata(DEVICE).is_ok();
    if !is_there() {
        module::load(&[&["fuse"]]);
    }
    if !is_there() {
        return Some(format!("there is no {DEVICE}: the module fuse is missing"));
    }
    match std::fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() == FIRST_PID_NAMESPACE => None,
        // Programs know processes by their numbers there.
        Ok(_) => {
            Some("injector is in a pid namespace of its own: run it outside of the container".to_owned())
        }
        Err(error) => Some(format!("/proc/self/ns/pid: {}", crate::errno::name_of(&error))),
    }
}

/// The controller's end: dropping it ends the process, and all naps.
#[derive(Debug)]
pub(super) struct Sleeper {
    child: Child,
    /// When the other end of it is closed, the process ends.
    _line: UnixStream,
}

impl Sleeper {
    /// Starts it, and tells the kernel's programs where to sleep.
    pub(super) fn start(kernel: &mut Kernel) -> Result<Self, EngineError> {
        let failed = |detail: String| EngineError::NoSleep { detail };
        let (sleeper, bed) =
            Self::spawn(kernel.wakes()?).map_err(|error| failed(crate::errno::name_of(&error)))?;
        kernel.set_bed(bed.map_err(failed)?)?;
        kill_point("sleeper started");
        Ok(sleeper)
    }

    /// The process, and where it says that naps are taken.
    fn spawn(wakes: OwnedFd) -> io::Result<(Self, Result<Bed, String>)> {
        let (line, theirs) = UnixStream::pair()?;
        let mut command = helper::command(COMMAND);
        command.stdin(Stdio::from(wakes)).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null());
        let child = command.spawn()?;
        // Its end of the line is in the command until then.
        drop(command);
        let mut this = Self { child, _line: line.try_clone()? };
        let mut said = String::new();
        BufReader::new(line).read_line(&mut said)?;
        let bed = bed_of(said.trim_end());
        if bed.is_err() {
            this.child.wait()?;
        }
        Ok((this, bed))
    }

    /// Whether it is still there.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // One that has ended can't be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process says when it is ready: the number of the holder and its first address; else what went wrong.
fn bed_of(line: &str) -> Result<Bed, String> {
    let words: Vec<&str> = line.split(' ').collect();
    if let ["ready", pid, address, shift] = words[..]
        && let (Ok(pid), Ok(address), Ok(page_shift)) = (pid.parse(), address.parse(), shift.parse())
    {
        return Ok(Bed { address, pid, page_shift, ..Bed::default() });
    }
    Err(if line.is_empty() { "the process that ends naps did not begin".to_owned() } else { line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bed_is_read_or_the_reason_told() {
        let bed = Bed { address: 4096, pid: 7, page_shift: 12, ..Bed::default() };
        assert_eq!(bed_of("ready 7 4096 12"), Ok(bed));
        assert_eq!(bed_of("fsopen: EPERM"), Err("fsopen: EPERM".to_owned()));
        assert!(bed_of("").unwrap_err().contains("did not begin"));
    }
}
