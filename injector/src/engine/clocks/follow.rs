//! The thread that patches: who is in a target when it begins, and who begins a program in it later.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use crate::engine::urgent::prefer;
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy};
use crate::host::process::ProcessId;
use crate::host::vdso::{self, Clocks, VdsoError};
use crate::kill_point::kill_point;

/// How often it is looked who has entered a target otherwise than by a program that begins.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often it is looked whether those that were patched still are: what the kernel had no room to tell.
const LOOKS_TO_DISTRUST: u32 = 10;

/// How long the beginning waits until all are patched who are there: each takes milliseconds, and a thread that computes some tens of them.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// A target, and what its processes are to see.
#[derive(Debug)]
pub(super) struct Watched {
    /// The id of its fault, for messages.
    pub(super) fault: String,
    pub(super) cgroup: Cgroup,
    pub(super) clocks: Clocks,
}

/// What the thread tells of itself.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// For each target, how many programs were patched.
    patched: Vec<AtomicU64>,
    warnings: Mutex<Vec<String>>,
}

impl Log {
    pub(super) fn new(targets: usize) -> Self {
        Self { patched: (0..targets).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// How many programs of a target were patched.
    pub(super) fn patched(&self, target: usize) -> u64 {
        self.patched.get(target).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// What the operator should know since the last time.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn warn(&self, text: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

/// The thread. Dropping this ends it; what it has patched stays so.
#[derive(Debug)]
pub(super) struct Follower {
    end: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts it, and waits until those are patched that are there.
    pub(super) fn start(
        watched: Vec<Watched>,
        hierarchy: Hierarchy,
        begun: RingBuf<MapData>,
        mark: u64,
        log: Arc<Log>,
    ) -> std::io::Result<Self> {
        let end = Arc::new(EventFd::new()?);
        let told = Arc::clone(&end);
        let mut state = State { watched, hierarchy, begun, mark, log, known: BTreeMap::new(), looks: 0 };
        let (first, patched) = channel();
        let thread =
            std::thread::Builder::new().name("clocks".to_owned()).spawn(move || state.run(&told, &first))?;
        // Who is late is patched all the same.
        let _ = patched.recv_timeout(FIRST_PATIENCE);
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is known of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Patched,
    /// It could not be at this moment, and is tried once more.
    Busy,
    /// It can't be, and was told of.
    Refused,
}

struct State {
    watched: Vec<Watched>,
    hierarchy: Hierarchy,
    begun: RingBuf<MapData>,
    mark: u64,
    log: Arc<Log>,
    known: BTreeMap<ProcessId, Known>,
    looks: u32,
}

impl State {
    fn run(&mut self, told: &EventFd, first: &Sender<()>) {
        // A program that begins reads true clocks until it is patched.
        prefer();
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next {
                self.look();
                // Nobody waits for the later ones.
                let _ = first.send(());
                next = Instant::now() + LOOK_INTERVAL;
            }
            if self.wait(told, next.saturating_duration_since(Instant::now())) {
                return;
            }
            self.hear();
        }
    }

    /// Waits for news; true is that it is to end.
    fn wait(&self, told: &EventFd, within: Duration) -> bool {
        // SAFETY: the ring keeps its descriptor open for as long as this borrow of it lives.
        let ring = unsafe { BorrowedFd::borrow_raw(self.begun.as_raw_fd()) };
        let mut fds = [PollFd::new(told.as_fd(), PollFlags::POLLIN), PollFd::new(ring, PollFlags::POLLIN)];
        // Rounded up, so that the end is not waited for in many short sleeps.
        let within = PollTimeout::try_from(within.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, within) {
            Ok(_) => fds[0].any().unwrap_or(true),
            Err(error) => error != Errno::EINTR,
        }
    }

    /// Patches the programs that have begun.
    fn hear(&mut self) {
        let mut begun = BTreeSet::new();
        while let Some(item) = self.begun.next() {
            if let Some(pid) = item.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
                begun.insert(pid);
            }
        }
        for process in begun.into_iter().filter_map(|pid| ProcessId::of(pid).ok()) {
            let Ok(cgroup) = self.hierarchy.of_process(process.pid) else { continue };
            // What was patched is gone with the program that was.
            self.known.remove(&process);
            if let Some(target) = self.watched.iter().position(|watched| watched.cgroup.holds(&cgroup)) {
                self.meet(target, process);
            }
        }
    }

    /// Patches who is in a target and is not known.
    fn look(&mut self) {
        self.looks = self.looks.wrapping_add(1);
        let distrusts = self.looks.is_multiple_of(LOOKS_TO_DISTRUST);
        let mut present = BTreeSet::new();
        for target in 0..self.watched.len() {
            let pids = match self.hierarchy.procs(&self.watched[target].cgroup) {
                Ok(pids) => pids,
                // Removed while it was struck, which the session tells of.
                Err(CgroupError::Unknown { .. } | CgroupError::Io { .. }) => continue,
                Err(error) => {
                    self.log.warn(error.to_string());
                    continue;
                }
            };
            for process in pids.into_iter().filter_map(|pid| ProcessId::of(pid).ok()) {
                present.insert(process);
                let known = self.known.get(&process);
                if known.is_none() || distrusts && known != Some(&Known::Refused) {
                    self.meet(target, process);
                }
            }
        }
        self.known.retain(|process, _| present.contains(process));
    }

    fn meet(&mut self, target: usize, process: ProcessId) {
        // A child has its parent's patch, and most of those that are looked at again have theirs.
        if matches!(vdso::mark(process), Ok(Some(mark)) if mark == self.mark) {
            self.known.insert(process, Known::Patched);
            return;
        }
        let watched = &self.watched[target];
        match vdso::patch(process, self.mark, &watched.clocks) {
            Ok(_) => {
                kill_point("clocks patched");
                self.known.insert(process, Known::Patched);
                if let Some(count) = self.log.patched.get(target) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(VdsoError::Gone { .. }) => {}
            // In a vfork, or within the bytes: a second later it is not.
            Err(VdsoError::Busy { .. } | VdsoError::Stuck { .. })
                if self.known.get(&process) != Some(&Known::Busy) =>
            {
                self.known.insert(process, Known::Busy);
            }
            Err(error) => {
                if self.known.insert(process, Known::Refused) != Some(Known::Refused) {
                    let fault = &watched.fault;
                    self.log.warn(format!(
                        "the fault `{fault}`: the clocks of process {} stay true: {error}",
                        process.pid
                    ));
                }
            }
        }
    }
}
