//! What the controller has of notified calls, in memory that it shares with the process that goes on after it.
//!
//! A call that was received and not answered is nobody's but of who knows its id. So the kernel writes it right into this memory, and no
//! instant is left in which a killed controller takes an id along.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;

use super::listener::Answer;

/// Threads that receive calls, each at a place of its own.
pub(super) const RECEIVERS: usize = 4;

/// Calls that are kept at once, for a time or for a piece: more are let go.
const KEPT: usize = 8192;

/// A call that is kept.
#[repr(C)]
struct Kept {
    /// Its id; 0 is none.
    id: AtomicU64,
    /// What it returns: 0 is not known, then it goes on; else one more, or the negative errno.
    returns: AtomicI64,
}

/// What is in the memory; all zeros at first.
#[repr(C)]
struct Layout {
    received: [libc::seccomp_notif; RECEIVERS],
    kept: [Kept; KEPT],
}

/// The mapped memory.
#[derive(Debug)]
pub(super) struct Board {
    layout: NonNull<Layout>,
}

// SAFETY: the memory is shared by atomics, but for the places of receivers, each of which one thread uses at a time.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

/// A kept call, until it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(usize);

impl Board {
    /// New memory, and the descriptor by which another process maps it.
    pub(super) fn create() -> io::Result<(Self, OwnedFd)> {
        let descriptor = memfd_create(c"injector-board", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&descriptor, size_of::<Layout>().cast_signed() as i64)?;
        Ok((Self::map(&descriptor)?, descriptor))
    }

    /// Maps the memory of a descriptor.
    pub(super) fn map(descriptor: impl AsFd) -> io::Result<Self> {
        let length = NonZeroUsize::new(size_of::<Layout>()).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a mapping of its own, as long as the file, which is taken away with `self`.
        let address = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, descriptor, 0) }?;
        Ok(Self { layout: address.cast() })
    }

    fn kept(&self) -> &[Kept; KEPT] {
        // SAFETY: the mapping lasts as long as `self`, and holds atomics there, whatever the other process writes.
        unsafe { &(*self.layout.as_ptr()).kept }
    }

    /// Where a receiver has its call.
    pub(super) fn place(&self, receiver: usize) -> *mut libc::seccomp_notif {
        // SAFETY: the mapping lasts as long as `self`, and the remainder keeps it inside.
        unsafe {
            (&raw mut (*self.layout.as_ptr()).received)
                .cast::<libc::seccomp_notif>()
                .add(receiver % RECEIVERS)
        }
    }

    /// Keeps a call, so that the place of its receiver is free again; `None` if there is no room.
    pub(super) fn keep(&self, id: u64) -> Option<Place> {
        let take = |kept: &Kept| kept.id.compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.kept().iter().position(take).map(Place)
    }

    /// Notes what a kept call returns, whoever answers it.
    pub(super) fn note(&self, place: Place, answer: Answer) {
        let returns = match answer {
            Answer::GoOn => 0,
            Answer::Fail(errno) => -i64::from(errno),
            Answer::Return(value) => value.saturating_add(1),
        };
        if let Some(kept) = self.kept().get(place.0) {
            kept.returns.store(returns, Ordering::Release);
        }
    }

    /// Forgets a call that was answered.
    pub(super) fn forget(&self, place: Place) {
        if let Some(kept) = self.kept().get(place.0) {
            kept.returns.store(0, Ordering::Relaxed);
            kept.id.store(0, Ordering::Release);
        }
    }

    /// All calls that may wait for an answer, and which. Some have theirs already.
    pub(super) fn waiting(&self) -> Vec<(u64, Answer)> {
        // Those of receivers last: one that is kept meanwhile is in both.
        let kept = self.kept().iter().map(|kept| {
            let answer = match kept.returns.load(Ordering::Acquire) {
                0 => Answer::GoOn,
                returns @ 1.. => Answer::Return(returns - 1),
                returns => Answer::Fail((-returns) as i32),
            };
            (kept.id.load(Ordering::Acquire), answer)
        });
        let received = (0..RECEIVERS).map(|receiver| {
            // SAFETY: inside of the mapping. Another process may write it, so it is read once, as a number.
            let id = unsafe { (&raw const (*self.place(receiver)).id).read_volatile() };
            (id, Answer::GoOn)
        });
        kept.chain(received).filter(|(id, _)| *id != 0).collect()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` has made, which nobody uses any more. One that can't be taken away lasts until the process ends.
        let _ = unsafe { munmap(self.layout.cast::<c_void>(), size_of::<Layout>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_kept_another_finds() {
        let (board, descriptor) = Board::create().unwrap();
        let other = Board::map(&descriptor).unwrap();
        assert_eq!(other.waiting(), []);
        let (one, two, three) = (board.keep(7).unwrap(), board.keep(8).unwrap(), board.keep(9).unwrap());
        // SAFETY: the place of a receiver, which this test is.
        unsafe { (*board.place(2)).id = 10 };
        board.note(two, Answer::Return(0));
        board.note(three, Answer::Fail(32));
        let all = [(7, Answer::GoOn), (8, Answer::Return(0)), (9, Answer::Fail(32)), (10, Answer::GoOn)];
        assert_eq!(other.waiting(), all);
        board.forget(one);
        board.forget(two);
        assert_eq!(other.waiting(), [all[2], all[3]]);
        assert_eq!(board.keep(11), Some(one), "the room is used again");
        assert_eq!(other.waiting()[0], (11, Answer::GoOn));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let (board, _descriptor) = Board::create().unwrap();
        assert!((1..=KEPT as u64).all(|id| board.keep(id).is_some()));
        assert_eq!(board.keep(99_999), None);
    }
}
