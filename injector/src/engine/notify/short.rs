//! Reads and writes that move fewer bytes than was asked for: injector moves them itself, and the call returns how many they were.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use syscalls::Sysno;

use super::listener::Answer;
use super::look::Waiting;
use super::memory::{Pieces, descriptor, gather, read_pieces, scatter, status};

/// The most that is moved at once: a short call may always be shorter.
const LARGEST: u64 = 1 << 20;

/// How often it is looked, while there is nothing to move, whether the call still waits for it.
const LOOK_MS: u8 = 5;

/// `S_IFMT >> 12` of what has bytes without bounds between them: regular files, pipes, devices. An eventfd or a timer takes eight or none.
const STREAMS: [u32; 4] = [1, 2, 6, 8];
/// Those of them where there may be nothing to move for a while.
const WAITING: [u32; 2] = [1, 2];

/// `current` of `preadv2(2)`: at the position of the open file.
const AT_POSITION: i64 = -1;

/// What a call is to move.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Move {
    descriptor: i32,
    reads: bool,
    pieces: Pieces,
    offset: i64,
    flags: i32,
    may_wait: bool,
}

impl Move {
    /// That of a call; `None` if it moves nothing, or nothing that may be shorter.
    pub(super) fn of(call: &Waiting) -> Option<Self> {
        let [descriptor, address, length, offset, _, flags] = call.args;
        let name = Sysno::new(call.number as usize)?.name();
        let vector = || read_pieces(call.thread, address, length).ok();
        let at = offset.cast_signed();
        let (reads, pieces, offset, flags) = match name {
            "read" => (true, vec![(address, length)], AT_POSITION, 0),
            "write" => (false, vec![(address, length)], AT_POSITION, 0),
            // The kernel refuses a negative one, which is the position of these.
            "pread64" if at >= 0 => (true, vec![(address, length)], at, 0),
            "pwrite64" if at >= 0 => (false, vec![(address, length)], at, 0),
            "readv" => (true, vector()?, AT_POSITION, 0),
            "writev" => (false, vector()?, AT_POSITION, 0),
            "preadv" if at >= 0 => (true, vector()?, at, 0),
            "pwritev" if at >= 0 => (false, vector()?, at, 0),
            "preadv2" => (true, vector()?, at, flags as i32),
            "pwritev2" => (false, vector()?, at, flags as i32),
            _ => return None,
        };
        let descriptor = descriptor as i32;
        let kind = kind_of(call.thread, descriptor)?;
        let opened = opened_with(call.thread, descriptor)?;
        // Of unbuffered files a piece must have a size and an address that its memory here has not.
        if !STREAMS.contains(&kind) || opened & libc::O_DIRECT != 0 {
            return None;
        }
        let may_wait = WAITING.contains(&kind) && opened & libc::O_NONBLOCK == 0;
        Some(Self { descriptor, reads, pieces, offset, flags, may_wait })
    }

    /// How many bytes it asks for.
    pub(super) fn asked(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length))
    }

    /// Moves so many bytes in place of the call, and says what it returns. `is_wanted` says whether anybody waits for that still.
    pub(super) fn done(&self, thread: i32, bytes: u64, is_wanted: &dyn Fn() -> bool) -> Answer {
        let Some(file) = descriptor(thread, self.descriptor) else { return Answer::GoOn };
        if !is_wanted() || self.may_wait && !self.is_ready(&file, thread, is_wanted) {
            return Answer::GoOn;
        }
        match self.moved(&file, thread, bytes.min(LARGEST) as usize) {
            Ok(moved) => Answer::Return(moved),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                if errno == libc::EPIPE && !self.reads {
                    // As the kernel does for who writes to nobody.
                    // SAFETY: a plain system call; the thread waits in its call.
                    unsafe { libc::syscall(libc::SYS_tkill, thread, libc::SIGPIPE) };
                }
                Answer::Fail(errno)
            }
        }
    }

    /// Waits until there is something to move. Who gets a signal meanwhile, or is not wanted, is let go: the call itself does what is right.
    fn is_ready(&self, file: &OwnedFd, thread: i32, is_wanted: &dyn Fn() -> bool) -> bool {
        let events = if self.reads { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        loop {
            let mut files = [PollFd::new(file.as_fd(), events)];
            match poll(&mut files, PollTimeout::from(LOOK_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
            if !is_wanted() || has_signal(thread) {
                return false;
            }
        }
    }

    fn moved(&self, file: &OwnedFd, thread: i32, bytes: usize) -> io::Result<i64> {
        let mut piece = vec![0_u8; bytes];
        if !self.reads {
            let there = gather(thread, &self.pieces, &mut piece)?;
            piece.truncate(there);
        }
        let iov = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
        let (number, offset) = (file.as_raw_fd(), self.offset);
        // SAFETY: the piece is ours alone and lives until the call returns.
        let moved = unsafe {
            if self.reads {
                libc::preadv2(number, &raw const iov, 1, offset, self.flags)
            } else {
                libc::pwritev2(number, &raw const iov, 1, offset, self.flags)
            }
        };
        let moved = Errno::result(moved)?;
        if self.reads && moved > 0 {
            scatter(thread, &self.pieces, piece.get(..moved as usize).unwrap_or_default())?;
        }
        Ok(moved as i64)
    }
}

fn kind_of(thread: i32, number: i32) -> Option<u32> {
    let stat = std::fs::metadata(format!("/proc/{thread}/fd/{number}")).ok()?;
    Some((stat.mode() & 0o170_000) >> 12)
}

/// The flags with which a file was opened.
fn opened_with(thread: i32, number: i32) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(flags.trim(), 8).ok()
}

/// Whether a thread has a signal that it neither blocks nor ignores.
fn has_signal(thread: i32) -> bool {
    let bits = |key| status(thread, key).and_then(|word| u64::from_str_radix(&word, 16).ok()).unwrap_or(0);
    (bits("SigPnd") | bits("ShdPnd")) & !bits("SigBlk") & !bits("SigIgn") != 0
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    fn call(name: &str, args: [u64; 6]) -> Waiting {
        let number = name.parse::<Sysno>().unwrap().id().cast_unsigned();
        Waiting { id: 1, thread: std::process::id().cast_signed(), number, args }
    }

    #[test]
    fn so_many_bytes_are_moved_at_the_position_of_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        file.rewind().unwrap();
        let mut buffer = [b'.'; 10];
        let number = file.as_raw_fd() as u64;
        let read = call("read", [number, buffer.as_mut_ptr() as u64, 10, 0, 0, 0]);
        let read = Move::of(&read).unwrap();
        assert_eq!(read.asked(), 10);
        let me = std::process::id().cast_signed();
        assert_eq!(read.done(me, 3, &|| true), Answer::Return(3));
        assert_eq!(std::hint::black_box(&buffer), b"012.......");
        assert_eq!(read.done(me, 3, &|| false), Answer::GoOn);
        let write = call("pwrite64", [number, b"abcdef".as_ptr() as u64, 6, 8, 0, 0]);
        assert_eq!(Move::of(&write).unwrap().done(me, 4, &|| true), Answer::Return(4));
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "34567abcd", "the position is behind what was read");
    }

    #[test]
    fn what_has_bounds_is_not_cut() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Move::of(&call("read", [one.as_raw_fd() as u64, 8, 10, 0, 0, 0])), None, "a socket");
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        assert_eq!(Move::of(&call("read", [event.as_raw_fd() as u64, 8, 8, 0, 0, 0])), None);
        assert_eq!(Move::of(&call("fsync", [1, 0, 0, 0, 0, 0])), None);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let moves = Move::of(&call("read", [reader.as_raw_fd() as u64, 8, 8, 0, 0, 0])).unwrap();
        assert!(moves.may_wait);
        let gone = call("write", [writer.as_raw_fd() as u64, b"12".as_ptr() as u64, 2, 0, 0, 0]);
        drop(reader);
        // With a thread that is not there nobody gets a signal, and nothing is moved.
        let moves = Move::of(&gone).unwrap();
        assert_eq!(moves.done(i32::MAX, 1, &|| true), Answer::GoOn);
    }
}
