//! The process that serves the file: each read of a page waits for the time that the map has for it, and then fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use injector_common::operation::{LONGEST_NAP_NS, NAPS};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::holder::{Holder, size_of_file};
use super::protocol::{self, Asked, MAX_WRITE, Request};

/// How often one that got a signal is looked at, whether it is being killed.
const LOOK: Duration = Duration::from_millis(20);

/// Serves until the line on stdout is closed at its other end. On stdin is the map of the times.
pub fn serve() -> io::Result<()> {
    let mut line = io::stdout();
    let mut server = match begin() {
        Ok(server) => server,
        Err(error) => {
            let detail = format!("{}: {}", error.step, crate::errno::name_of(&error.source));
            return writeln!(line, "{detail}");
        }
    };
    server.run()
}

/// What could not be done.
struct Failed {
    step: &'static str,
    source: io::Error,
}

/// Names a step that fails.
fn at<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Result<T, Failed> {
    result.map_err(|source| Failed { step, source: source.into() })
}

fn begin() -> Result<Server, Failed> {
    // To the nanosecond, and before others: who sleeps is to sleep no longer than was asked for. Without either it is a little later.
    // SAFETY: plain system calls on this process.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &libc::sched_param { sched_priority: 1 });
    }
    let page = at("sysconf", nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE))?;
    let page = page.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
    let device = at("/dev/fuse", File::options().read(true).write(true).open(super::DEVICE))?;
    let file = mount(&device)?;
    let wakes = at("the map of naps", Wakes::map(page))?;
    let size = size_of_file(page);
    let holder = at("fork", Holder::start(&file, size))?;
    Ok(Server { device, wakes, page, holder, naps: Naps::default(), is_ready: false, _file: file })
}

/// Mounts the file system, nowhere; its root is the file.
fn mount(device: &File) -> Result<OwnedFd, Failed> {
    let context = at("fsopen", fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC))?;
    let number = device.as_raw_fd().to_string();
    for (key, value) in [
        ("source", "injector"),
        ("fd", &*number),
        ("rootmode", "100400"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        at("fsconfig", fsconfig_set_string(context.as_fd(), key, value))?;
    }
    at("fsconfig", fsconfig_create(context.as_fd()))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    at("fsmount", fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes))
}

/// The map of the times at which naps end.
struct Wakes(NonNull<u64>);

impl Wakes {
    /// Maps what is on stdin.
    fn map(page: usize) -> io::Result<Self> {
        let length = (NAPS as usize * size_of::<u64>()).next_multiple_of(page);
        let length = std::num::NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a mapping of its own, which nothing else knows and which lasts as long as the process.
        let address = unsafe {
            mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, io::stdin().as_fd(), 0)
        }?;
        Ok(Self(address.cast()))
    }

    /// When the nap at a page ends.
    fn at(&self, page: u64) -> u64 {
        // SAFETY: the mask keeps it within the map. Volatile: the kernel's programs write it.
        unsafe { self.0.add(page as usize & (NAPS as usize - 1)).read_volatile() }
    }
}

/// Who sleeps.
#[derive(Debug, Default)]
struct Naps {
    /// By the time at which they end, and the number of the request.
    by_end: BTreeMap<(u64, u64), u32>,
    /// When they end, by the number of the request.
    ends: BTreeMap<u64, u64>,
    /// Those who got a signal, which may be one that kills.
    signalled: BTreeSet<u64>,
}

impl Naps {
    fn begin(&mut self, unique: u64, pid: u32, end_ns: u64) {
        self.by_end.insert((end_ns, unique), pid);
        self.ends.insert(unique, end_ns);
    }

    fn remove(&mut self, unique: u64) -> Option<u32> {
        self.signalled.remove(&unique);
        let end_ns = self.ends.remove(&unique)?;
        self.by_end.remove(&(end_ns, unique))
    }

    /// Those whose time has come.
    fn over(&mut self, now_ns: u64) -> Vec<u64> {
        let over = self.by_end.range(..=(now_ns, u64::MAX));
        let over: Vec<u64> = over.map(|((_, unique), _)| *unique).collect();
        for unique in &over {
            self.remove(*unique);
        }
        over
    }

    /// Those who are being killed, as `is_killed` says by the number of the thread.
    fn killed(&mut self, is_killed: impl Fn(u32) -> bool) -> Vec<u64> {
        let pid = |unique: &u64| self.by_end.get(&(*self.ends.get(unique)?, *unique)).copied();
        let killed: Vec<u64> =
            self.signalled.iter().copied().filter(|unique| pid(unique).is_none_or(&is_killed)).collect();
        for unique in &killed {
            self.remove(*unique);
        }
        killed
    }

    /// How long nothing happens by itself; `None` is for ever.
    fn quiet(&self, now_ns: u64) -> Option<Duration> {
        let next = self.by_end.first_key_value();
        let next = next.map(|((end_ns, _), _)| Duration::from_nanos(end_ns.saturating_sub(now_ns)));
        let look = (!self.signalled.is_empty()).then_some(LOOK);
        next.into_iter().chain(look).min()
    }
}

/// Whether a thread is being killed: by a SIGKILL, or by any other signal that ends it, which the kernel makes one of.
fn is_killed(thread: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else { return true };
    let masks = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    let bit = 1_u64 << (libc::SIGKILL - 1);
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & bit != 0)
}

struct Server {
    device: File,
    wakes: Wakes,
    page: usize,
    holder: Holder,
    naps: Naps,
    is_ready: bool,
    /// The file system lasts as long as its root is held.
    _file: OwnedFd,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 4096 + MAX_WRITE as usize + 4096];
        loop {
            let now_ns = now_ns();
            for unique in self.naps.over(now_ns) {
                self.end(unique);
            }
            if !self.naps.signalled.is_empty() {
                for unique in self.naps.killed(is_killed) {
                    self.end(unique);
                }
            }
            let timeout = self.naps.quiet(now_ns).map(TimeSpec::from_duration);
            let line = io::stdout();
            let mut polled = [
                PollFd::new(self.device.as_fd(), PollFlags::POLLIN),
                PollFd::new(line.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.holder.says.as_fd(), PollFlags::POLLIN),
            ];
            let watched = if self.is_ready { &mut polled[..2] } else { &mut polled[..] };
            match ppoll(watched, timeout, None) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let is = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
            let (asked, closed, said) = (is(&polled[0]), is(&polled[1]), !self.is_ready && is(&polled[2]));
            if closed {
                return Ok(());
            }
            if said {
                self.tell()?;
            }
            if asked {
                self.answer_one(&mut buffer)?;
            }
        }
    }

    /// Passes on where the holder has its pages.
    fn tell(&mut self) -> io::Result<()> {
        let mut bytes = [0; size_of::<isize>()];
        File::from(self.holder.says.try_clone()?).read_exact(&mut bytes)?;
        let address = isize::from_ne_bytes(bytes);
        let mut line = io::stdout();
        if address <= 0 {
            let errno = io::Error::from_raw_os_error(-address as i32);
            writeln!(line, "mmap: {}", crate::errno::name_of(&errno))?;
            return Err(errno);
        }
        writeln!(line, "ready {} {address} {}", self.holder.pid, self.page.trailing_zeros())?;
        line.flush()?;
        self.is_ready = true;
        Ok(())
    }

    fn answer_one(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let length = match self.device.read(buffer) {
            Ok(length) => length,
            // It was broken off before it was read.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(Asked { unique, pid, request }) = protocol::parse(&buffer[..length]) else { return Ok(()) };
        match request {
            Request::Init { minor } => self.say(&protocol::begun(unique, minor)),
            Request::Attributes => self.say(&protocol::attributes(unique, size_of_file(self.page) as u64)),
            Request::Open => self.say(&protocol::opened(unique)),
            Request::Read { offset } => {
                let end_ns = self.wakes.at(offset / self.page as u64);
                // Nobody asks for longer, but for what was never written.
                self.naps.begin(unique, pid, end_ns.min(now_ns().saturating_add(LONGEST_NAP_NS)));
            }
            Request::Interrupt { unique } => {
                self.naps.signalled.insert(unique);
            }
            Request::Forget => {}
            Request::Close => self.say(&protocol::answer(unique, 0)),
            Request::Other => self.say(&protocol::answer(unique, libc::ENOSYS)),
        }
        Ok(())
    }

    /// Ends a nap: the page does not come.
    fn end(&self, unique: u64) {
        self.say(&protocol::answer(unique, libc::EIO));
    }

    fn say(&self, bytes: &[u8]) {
        // Who has asked may be gone: then nobody waits for it.
        let _ = (&self.device).write(bytes);
    }
}

/// `CLOCK_MONOTONIC`.
fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_end_in_the_order_of_their_times() {
        let mut naps = Naps::default();
        for (unique, end_ns) in [(1, 300), (2, 100), (3, 200)] {
            naps.begin(unique, 7, end_ns);
        }
        assert_eq!(naps.quiet(40), Some(Duration::from_nanos(60)));
        assert_eq!(naps.over(99), [0; 0]);
        assert_eq!(naps.over(200), [2, 3]);
        assert_eq!(naps.over(1000), [1]);
        assert_eq!(naps.quiet(0), None);
    }

    #[test]
    fn who_is_killed_sleeps_no_longer_and_who_got_another_signal_does() {
        let mut naps = Naps::default();
        naps.begin(1, 10, u64::MAX);
        naps.begin(2, 20, u64::MAX);
        // One that has ended meanwhile is no nap any more.
        naps.signalled.extend([1, 2, 3]);
        assert_eq!(naps.quiet(0), Some(LOOK));
        assert_eq!(naps.killed(|pid| pid == 10), [1, 3]);
        assert_eq!((naps.ends.len(), naps.signalled.len()), (1, 1));
        assert!(!is_killed(std::process::id()));
        assert!(is_killed(u32::MAX));
    }
}
