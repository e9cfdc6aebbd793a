//! The path of a file as the process that uses it sees it: names from the dentry up to the root of the process, over mounts.
//!
//! `bpf_d_path` can do it in a handful of hooks; this can in all of them, without a lock, as `d_path` would (`prepend_path` in
//! `fs/d_path.c`). A rename meanwhile gives a path that never was: it then means nothing, or what one of the two would.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_loop, bpf_probe_read_kernel,
};
use injector_common::glob::{Bytes, Comparison, MAX_PATH, MAX_STEPS, Step};

use crate::maps::{SUBJECTS, TEXTS, offset};
use crate::memory::exchange;

/// Buffers for paths. The user of one may be preempted, so they are not per CPU.
pub(crate) const TEXTS_COUNT: u32 = 512;

/// Where the bytes of a path end: they are written from behind.
const END: u32 = MAX_PATH as u32;

/// The longest name (`NAME_MAX`).
const MAX_NAME: u32 = 255;

/// Names and mounts on the way from a file to the root.
const MAX_CLIMB: u32 = 96;

/// Attempts at a buffer, each at another one.
const ATTEMPTS: u32 = 8;

/// A path.
#[repr(C)]
pub(crate) struct Text {
    busy: u64,
    /// How far it is made, and how far its comparison is. Here and not on the stack: of a map's values the verifier knows nothing, so it
    /// walks a step once, where it would follow the numbers of a stack from step to step.
    mount: u64,
    dentry: u64,
    at: u32,
    comparison: Comparison,
    /// With room behind the end, as the verifier takes the longest name for the length of each.
    bytes: [u8; 1280],
}

/// No path.
const NO_TEXT: u32 = u32::MAX;
/// No path, since no buffer was free.
const NO_ROOM: u32 = u32::MAX - 1;

/// Reads a word of the kernel's memory; 0 if there is none.
#[inline(always)]
pub(crate) fn word(address: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the helper reads what is there, or zeros the buffer.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const c_void) };
    value
}

/// Reads half a word of it.
#[inline(always)]
pub(crate) fn half(address: u64) -> u32 {
    let mut value = 0_u32;
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 4, address as *const c_void) };
    value
}

#[inline(always)]
pub(crate) const fn field(base: u64, offset: u32) -> u64 {
    base.wrapping_add(offset as u64)
}

/// A path that is being made.
#[repr(C)]
struct Climb {
    root_mount: u64,
    root_dentry: u64,
    text: u32,
    is_whole: u32,
}

/// A path that is made: its buffer, and where it begins there.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Path {
    text: u32,
    start: u32,
}

impl Path {
    pub(crate) const NONE: Self = Self { text: NO_TEXT, start: END };

    /// The path of a dentry below a mount (a `vfsmount`). None if it has no path, or a longer one, or no buffer is free.
    #[inline(always)]
    pub(crate) fn of(mount: u64, dentry: u64) -> Self {
        let Some(text) = claim(mount, dentry) else { return Self { text: NO_ROOM, start: END } };
        // SAFETY: the helper has no preconditions.
        let fs = word(field(unsafe { bpf_get_current_task() }, offset!(task_fs)));
        let root = field(fs, offset!(fs_root));
        let mut climb = Climb { root_mount: word(root), root_dentry: word(root + 8), text, is_whole: 0 };
        // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
        let is_whole = unsafe {
            bpf_loop(MAX_CLIMB, up as *mut c_void, (&raw mut climb).cast(), 0);
            (&raw const climb.is_whole).read_volatile()
        };
        let Some(made) = TEXTS.get_ptr_mut(text).filter(|_| is_whole != 0) else {
            release(text);
            return Self::NONE;
        };
        // SAFETY: the buffer is ours, and the place is inside.
        let start = unsafe {
            if (*made).at == END {
                // The root itself.
                (&raw mut (*made).bytes).cast::<u8>().add(END as usize - 1).write(b'/');
                (*made).at = END - 1;
            }
            (*made).at
        };
        Self { text, start }
    }

    /// Gives the buffer back.
    #[inline(always)]
    pub(crate) fn release(self) {
        if self.text < TEXTS_COUNT {
            release(self.text);
        }
    }

    /// Whether it is not known, since too many are being compared.
    #[inline(always)]
    pub(crate) const fn has_no_room(self) -> bool {
        self.text == NO_ROOM
    }

    /// Whether the pattern of a subject, which is so long, means it.
    #[inline(always)]
    pub(crate) fn is_meant(self, subject: u32, pattern_length: u32) -> bool {
        if self.text >= TEXTS_COUNT {
            return false;
        }
        let Some(text) = TEXTS.get_ptr_mut(self.text) else { return false };
        // SAFETY: the buffer is ours.
        unsafe { (&raw mut (*text).comparison).write(Comparison::default()) };
        let mut search = Search { subject, pattern_length, path: self, is_meant: 0 };
        // SAFETY: as above.
        unsafe {
            bpf_loop(MAX_STEPS, next_step as *mut c_void, (&raw mut search).cast(), 0);
            (&raw const search.is_meant).read_volatile() != 0
        }
    }
}

/// A buffer that nobody uses, for the way up from here.
#[inline(always)]
fn claim(mount: u64, dentry: u64) -> Option<u32> {
    // SAFETY: the helper has no preconditions.
    let first = unsafe { bpf_get_current_pid_tgid() } as u32;
    for attempt in 0..ATTEMPTS {
        let index = first.wrapping_add(attempt.wrapping_mul(17)) & (TEXTS_COUNT - 1);
        let text = TEXTS.get_ptr_mut(index)?;
        // SAFETY: the word is inside of a map value, which is never freed while a program runs.
        if exchange(unsafe { &raw mut (*text).busy }, 0, 1) {
            // SAFETY: it is ours now.
            unsafe { ((*text).mount, (*text).dentry, (*text).at) = (mount, dentry, END) };
            return Some(index);
        }
    }
    None
}

#[inline(always)]
fn release(index: u32) {
    if let Some(text) = TEXTS.get_ptr_mut(index) {
        // In order behind what was read of it.
        // SAFETY: as above.
        exchange(unsafe { &raw mut (*text).busy }, 1, 0);
    }
}

/// One round of `bpf_loop`: a name, or a mount. Returns 1 to stop.
unsafe extern "C" fn up(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `Path::of` passes a pointer to its own `Climb`.
    let climb = unsafe { &mut *context.cast::<Climb>() };
    let Some(text) = TEXTS.get_ptr_mut(climb.text) else { return 1 };
    // SAFETY: the buffer is ours, and nobody has a reference to it.
    let (mount, dentry, end) = unsafe { ((*text).mount, (*text).dentry, (*text).at) };
    if dentry == climb.root_dentry && mount == climb.root_mount {
        climb.is_whole = 1;
        return 1;
    }
    let parent = word(field(dentry, offset!(dentry_parent)));
    if dentry == word(field(mount, offset!(mount_root))) || dentry == parent {
        let outer = mount.wrapping_sub(offset!(mount_inner) as u64);
        let above = word(field(outer, offset!(mount_parent)));
        if above == outer || above == 0 {
            // The root of a namespace, or of what is mounted nowhere, as pipes are.
            climb.is_whole = u32::from(namespace_of(mount) != 0 && !is_of_kernel(mount));
            return 1;
        }
        let (dentry, mount) = (word(field(outer, offset!(mount_point))), field(above, offset!(mount_inner)));
        // SAFETY: as above.
        unsafe { ((*text).dentry, (*text).mount) = (dentry, mount) };
        return 0;
    }
    let length = half(field(dentry, offset!(dentry_length)));
    let name = word(field(dentry, offset!(dentry_name)));
    if length == 0 || length > MAX_NAME || length >= end {
        return 1;
    }
    let at = end - length;
    // SAFETY: the buffer is ours; the name ends at or before the end of the path, and the masks, which change nothing, say to the
    // verifier that it ends within the buffer.
    unsafe {
        let bytes = (&raw mut (*text).bytes).cast::<u8>();
        let place = bytes.add((at & END) as usize);
        bpf_probe_read_kernel(place.cast(), length & MAX_NAME, name as *const c_void);
        bytes.add(((at - 1) & END) as usize).write(b'/');
        ((*text).at, (*text).dentry) = (at - 1, parent);
    }
    0
}

/// The namespace of a mount; 0 of what a lazy unmount has left.
#[inline(always)]
fn namespace_of(mount: u64) -> u64 {
    word(field(mount.wrapping_sub(offset!(mount_inner) as u64), offset!(mount_namespace)))
}

/// Whether the kernel has mounted it for itself: `MNT_NS_INTERNAL` of `fs/mount.h`, an error in place of a namespace.
#[inline(always)]
pub(crate) fn is_of_kernel(mount: u64) -> bool {
    namespace_of(mount) >= (-4095_i64) as u64
}

/// A comparison on its way.
#[repr(C)]
struct Search {
    subject: u32,
    pattern_length: u32,
    path: Path,
    is_meant: u32,
}

impl Bytes for Search {
    #[inline(always)]
    fn pattern(&self, at: u32) -> u8 {
        SUBJECTS
            .get(self.subject)
            .and_then(|subject| subject.pattern.get((at & 0xff) as usize))
            .map_or(0, |byte| *byte)
    }

    #[inline(always)]
    fn path(&self, at: u32) -> u8 {
        let at = self.path.start.wrapping_add(at) & END;
        let Some(text) = TEXTS.get_ptr(self.path.text) else { return 0 };
        // SAFETY: the buffer is ours, and the mask keeps the place inside. No reference: the comparison beside it is being changed.
        unsafe { (&raw const (*text).bytes).cast::<u8>().add(at as usize).read() }
    }

    #[inline(always)]
    fn pattern_length(&self) -> u32 {
        self.pattern_length
    }

    #[inline(always)]
    fn path_length(&self) -> u32 {
        END - self.path.start
    }
}

/// One round of `bpf_loop`: a step of the comparison. Returns 1 to stop.
unsafe extern "C" fn next_step(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `Path::is_meant` passes a pointer to its own `Search`.
    let search = unsafe { &mut *context.cast::<Search>() };
    let Some(text) = TEXTS.get_ptr_mut(search.path.text) else { return 1 };
    // SAFETY: the buffer is ours, and nobody else has a reference to this part of it.
    let comparison = unsafe { &mut (*text).comparison };
    let step = comparison.step(&*search);
    search.is_meant = u32::from(step == Step::Matches);
    i64::from(step != Step::GoesOn)
}
