//! The steps of a patch and of its removal.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::cave::{self, CLOCK_IDS, Data, FUNCTIONS, JUMP_BYTES, Trailer};
use super::frames::find_inside;
use super::image::{Image, Maps, Memory, trailer_of};
use super::offsets::offsets_ns;
use super::tracer::Stopped;
use super::trampoline::Trampolines;
use super::{Clocks, Patched, Restored, VdsoError, seccomp};
use crate::host::process::{self, ProcessId};

/// How long to go on trying to stop a process with all its threads in good places.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to let it run between attempts at first. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn patch(id: ProcessId, mark: u64, clocks: &Clocks) -> Result<Patched, VdsoError> {
    clocks.check()?;
    if mark == 0 {
        return Err(VdsoError::Request { why: "the mark is 0, which means that there is no patch" });
    }
    check_target(id)?;
    let offsets_ns = offsets_ns(id.pid)?;
    let mut pause = FIRST_PAUSE;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = on_own_thread(|| {
            let target = Target::stop(id)?;
            target.patch(mark, clocks, offsets_ns)
        });
        match attempt {
            Err(VdsoError::Busy { .. }) if Instant::now() < deadline => {}
            result => return result,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

pub(super) fn restore(id: ProcessId, mark: u64) -> Result<Restored, VdsoError> {
    let found = match self::mark(id) {
        Err(VdsoError::Gone { .. }) => return Ok(Restored::Gone),
        found => found?,
    };
    if found.is_none_or(|found| found != mark) {
        return Ok(Restored::NotPatched);
    }
    let result = on_own_thread(|| Target::stop(id)?.restore(mark));
    match result {
        Err(VdsoError::Gone { .. }) => Ok(Restored::Gone),
        result => result,
    }
}

pub(super) fn mark(id: ProcessId) -> Result<Option<u64>, VdsoError> {
    let trailer = trailer_of(id.pid);
    // What was read is of this process only if it lives now.
    if !id.is_alive() {
        return Err(VdsoError::Gone { pid: id.pid });
    }
    Ok(trailer?.map(|trailer| trailer.mark).filter(|mark| *mark != 0))
}

/// Refuse what can never be patched, before anything is stopped.
fn check_target(id: ProcessId) -> Result<(), VdsoError> {
    let pid = id.pid;
    if pid == std::process::id().cast_signed() {
        return Err(VdsoError::OwnProcess { pid });
    }
    match process::inspect(pid) {
        Ok(info) if info.id == id && info.kernel_thread => Err(VdsoError::KernelThread { pid }),
        _ if id.is_alive() => Ok(()),
        _ => Err(VdsoError::Gone { pid }),
    }
}

/// Do it on a thread whose end detaches whatever is still traced.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, VdsoError> + Send) -> Result<T, VdsoError> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

/// Where a function is, and the jump that belongs there.
type Jump = (u64, [u8; JUMP_BYTES]);

/// A process that is stopped, and its vDSO.
struct Target {
    pid: i32,
    memory: Memory,
    maps: Maps,
    image: Image,
    // Dropped last: the memory is of use only until then.
    stopped: Stopped,
}

impl Target {
    fn stop(id: ProcessId) -> Result<Self, VdsoError> {
        let pid = id.pid;
        let stopped = Stopped::stop(pid)?;
        // While it is traced by us its pid is its own.
        if !id.is_alive() {
            return Err(VdsoError::Gone { pid });
        }
        let memory = Memory::open(pid, true)?;
        let maps = Maps::read(pid)?;
        let image = Image::read(&memory, &maps)?;
        Ok(Self { pid, memory, maps, image, stopped })
    }

    /// The threads must be allowed the system calls that the vDSO spared them so far, if there will be any.
    fn check_seccomp(&self, trampolines: &Trampolines) -> Result<(), VdsoError> {
        if !trampolines.make_system_calls() {
            return Ok(());
        }
        let address = self.image.end() - cave::length() as u64;
        let mut threads = self.stopped.registers()?.into_iter();
        threads.try_for_each(|thread| seccomp::check(self.pid, thread.tid, address, thread.stack))
    }

    fn patch(&self, mark: u64, clocks: &Clocks, offsets_ns: [i64; CLOCK_IDS]) -> Result<Patched, VdsoError> {
        let found = self.image.trailer();
        let ours = self.ours(found.as_ref(), mark)?;
        let start = self.image.end() - cave::length() as u64;
        let jumps = self.image.functions().map(|(which, address)| {
            let entry = start + cave::entries()[which] as u64;
            (address, cave::jump(address, entry))
        });
        let jumps: Vec<Jump> = jumps.collect();
        if ours.is_none() {
            self.check_room(found.as_ref())?;
        }
        let trampolines = self.trampolines(found.as_ref());
        self.check_seccomp(&trampolines)?;
        let data = Data {
            trampolines,
            offsets_ns,
            realtime: clocks.realtime.clone(),
            monotonic: clocks.monotonic.clone(),
            prologues: ours.map_or_else(|| self.prologues(), |trailer| Ok(trailer.prologues))?,
            generation: found.as_ref().map_or(0, |trailer| trailer.generation.wrapping_add(1)),
            mark,
        };
        self.check_threads(&jumps, found.as_ref())?;
        // The cave first: a jump to it must never be without it, wherever we are killed.
        self.memory.write(start, &data.encode())?;
        for (address, bytes) in jumps {
            self.memory.write(address, &bytes)?;
        }
        Ok(if ours.is_some() { Patched::Updated } else { Patched::New })
    }

    fn restore(&self, mark: u64) -> Result<Restored, VdsoError> {
        let found = self.image.trailer();
        let Some(trailer) = found.as_ref().filter(|trailer| trailer.mark == mark) else {
            return Ok(Restored::NotPatched);
        };
        self.ours(found.as_ref(), mark)?;
        for (which, address) in self.image.functions() {
            self.memory.write(address, &trailer.prologues[which])?;
        }
        // A thread may be in the cave, or return into it from a handler, whose frame may be anywhere: so the
        // code stays for good. Its tables are empty from now on, and nobody's.
        let generation = trailer.generation.wrapping_add(1);
        let trampolines = self.trampolines(found.as_ref());
        let data = Data { trampolines, prologues: trailer.prologues, generation, ..Data::default() };
        let start = self.image.end() - cave::length() as u64;
        self.memory.write(start, &data.encode())?;
        Ok(Restored::Removed)
    }

    /// The patch of this mark that is there; an error if it is another's.
    fn ours<'a>(&self, found: Option<&'a Trailer>, mark: u64) -> Result<Option<&'a Trailer>, VdsoError> {
        let pid = self.pid;
        match found {
            None | Some(Trailer { mark: 0, .. }) => Ok(None),
            Some(trailer) if trailer.mark != mark => Err(VdsoError::OtherMark { pid, mark: trailer.mark }),
            Some(trailer) if !trailer.is_same_version => Err(VdsoError::OtherVersion { pid }),
            Some(trailer) => Ok(Some(trailer)),
        }
    }

    /// The cave must fit into the padding, or into what another one left there.
    fn check_room(&self, left_behind: Option<&Trailer>) -> Result<(), VdsoError> {
        let needed_bytes = cave::length();
        let free_bytes = self.image.room(left_behind.map_or(0, |trailer| trailer.length));
        if free_bytes < needed_bytes {
            return Err(VdsoError::NoRoom { pid: self.pid, free_bytes, needed_bytes });
        }
        Ok(())
    }

    /// The ways to the true functions. A thread may be in those that are there, so they stay what they are.
    fn trampolines(&self, found: Option<&Trailer>) -> Trampolines {
        let kept = found.filter(|trailer| trailer.is_same_version).and_then(|_| self.image.trampolines());
        let slot = |which| self.image.end() - (cave::length() - cave::slot(which)) as u64;
        kept.unwrap_or_else(|| Trampolines::of(|which| self.image.function(which), slot))
    }

    /// The first bytes of the functions of a vDSO that is not patched.
    fn prologues(&self) -> Result<[[u8; JUMP_BYTES]; 3], VdsoError> {
        let mut prologues = [[0; JUMP_BYTES]; 3];
        for (which, address) in self.image.functions() {
            prologues[which] = self.image.prologue(address)?;
            // A jump, or a breakpoint.
            if matches!(prologues[which][0], 0xE9 | 0xCC) {
                return Err(VdsoError::Foreign { pid: self.pid, function: FUNCTIONS[which] });
            }
        }
        Ok(prologues)
    }

    /// No thread may be in the middle of instructions that are about to be replaced.
    fn check_threads(&self, jumps: &[Jump], found: Option<&Trailer>) -> Result<(), VdsoError> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (address, bytes) in jumps {
            // Even of a patch of ours a jump may be missing, if its making or its removal was killed.
            if self.image.prologue(*address)? != *bytes {
                ranges.push(address + 1..address + JUMP_BYTES as u64);
            }
        }
        // Another version's code is about to be replaced. A function that it called would return into it.
        if found.is_some_and(|trailer| !trailer.is_same_version) {
            ranges.push(self.image.base..self.image.end());
        }
        if ranges.is_empty() {
            return Ok(());
        }
        let inside = find_inside(&self.stopped, &self.memory, &self.maps, &ranges)?;
        inside.map_or(Ok(()), |tid| Err(VdsoError::Busy { pid: self.pid, tid }))
    }
}
