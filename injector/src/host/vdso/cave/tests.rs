//! The machine code run here, against the model and the true clocks.

use std::arch::asm;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;

use super::*;
use crate::host::vdso::image::{Image, Maps, Memory};

const SECOND: i64 = 1_000_000_000;

/// A cave in our own memory.
struct Mapped(NonNull<libc::c_void>);

impl Mapped {
    fn new(data: &Data) -> Self {
        Self::near(None, |_| data.clone())
    }

    /// At such an address if that is free, with data that may depend on where it really is.
    fn near(wish: Option<NonZeroUsize>, data: impl FnOnce(u64) -> Data) -> Self {
        let size = NonZeroUsize::new(4096).unwrap();
        // SAFETY: a new mapping takes nothing from anybody.
        let page = unsafe {
            mmap_anonymous(wish, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        };
        let page = page.unwrap();
        let bytes = data(page.addr().get() as u64).encode();
        assert_eq!(bytes.len(), length());
        // SAFETY: the page is ours, writable, and longer than the cave.
        unsafe { page.cast::<u8>().copy_from(NonNull::from(&bytes[0]), bytes.len()) };
        // SAFETY: nobody holds a reference into it.
        unsafe { mprotect(page, 4096, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC).unwrap() };
        Self(page)
    }

    fn at(&self, offset: usize) -> *const u8 {
        self.0.as_ptr().cast_const().cast::<u8>().wrapping_add(offset)
    }

    fn convert(&self, true_ns: i64, offset_ns: i64) -> (u64, u64) {
        let (code, table) =
            (self.at(offset_of(&raw const injector_vdso_convert)), self.at(slot(SLOTS) + CLOCK_IDS * 8));
        let (mut rax, rdx): (i64, u64);
        rax = true_ns;
        // SAFETY: the registers are those that the routine says it takes and changes.
        unsafe {
            asm!("call {code}", code = in(reg) code, inout("rax") rax, out("rdx") rdx, inout("r9") table => _,
                inout("r10") offset_ns => _, out("rcx") _, out("r11") _);
        }
        (rax.cast_unsigned(), rdx)
    }

    fn clock_gettime(&self, id: i32, time: *mut libc::timespec) -> i64 {
        // SAFETY: the code has this signature.
        let function: extern "C" fn(i32, *mut libc::timespec) -> i64 =
            unsafe { std::mem::transmute(self.at(entries()[0])) };
        function(id, time)
    }

    fn read_ns(&self, id: i32) -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(self.clock_gettime(id, &raw mut time), 0);
        assert!((0..SECOND).contains(&time.tv_nsec));
        time.tv_sec * SECOND + time.tv_nsec
    }

    fn gettimeofday(&self, time: *mut libc::timeval, zone: *mut libc::timezone) -> i64 {
        // SAFETY: the code has this signature.
        let function: extern "C" fn(*mut libc::timeval, *mut libc::timezone) -> i64 =
            unsafe { std::mem::transmute(self.at(entries()[1])) };
        function(time, zone)
    }

    fn time(&self, time: *mut i64) -> i64 {
        // SAFETY: the code has this signature.
        let function: extern "C" fn(*mut i64) -> i64 = unsafe { std::mem::transmute(self.at(entries()[2])) };
        function(time)
    }
}

fn true_ns(id: i32) -> i64 {
    let time = clock_gettime(ClockId::from_raw(id)).unwrap();
    time.tv_sec() * SECOND + time.tv_nsec()
}

fn hour_ahead() -> Data {
    let ahead = |add_ns| vec![Segment { add_ns, ..Segment::default() }];
    Data { realtime: ahead(3600 * SECOND), monotonic: ahead(-SECOND), ..Data::default() }
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let rate = prop_oneof![Just(0), Just(-(1i64 << 32)), -(1i64 << 33)..1i64 << 33];
    let period = prop_oneof![Just(0u64), 1..10_000_000_000u64];
    let one = (0..4_000_000_000_000_000_000i64, -(1i64 << 55)..1i64 << 55, rate, period);
    prop::collection::vec(one, 0..=MAX_SEGMENTS).prop_map(|mut rows| {
        rows.sort_unstable_by_key(|row| row.0);
        let row = |(start_ns, add_ns, rate_q32, period_ns)| Segment { start_ns, add_ns, rate_q32, period_ns };
        rows.into_iter().map(row).collect()
    })
}

proptest! {
    #[test]
    fn the_code_computes_the_model(
        segments in segments(), wild in 0..4_600_000_000_000_000_000i64, near in 0..100_000_000_000i64,
        offset_ns in -1_000_000_000_000i64..1_000_000_000_000,
    ) {
        let cave = Mapped::new(&Data { realtime: segments.clone(), ..Data::default() });
        let beside = segments.iter().flat_map(|one| [one.start_ns, one.start_ns - 1, one.start_ns + near]);
        for now in beside.chain([wild]) {
            let shown = Segment::shown_ns(&segments, now).cast_unsigned();
            prop_assert_eq!(cave.convert(now, 0), (shown / 1_000_000_000, shown % 1_000_000_000));
            // A clock that is ahead of its table's is moved by as much as that one.
            let moved = Segment::shown_ns(&segments, now) - now;
            let (seconds, rest) = cave.convert(now + offset_ns, offset_ns);
            if Segment::shown_ns(&segments, now) > 0 && now + offset_ns + moved >= 0 {
                let shown = (now + offset_ns + moved).cast_unsigned();
                prop_assert_eq!((seconds, rest), (shown / 1_000_000_000, shown % 1_000_000_000));
            }
        }
    }
}

#[test]
fn each_clock_follows_its_table_and_the_others_are_true() {
    check_clocks(&Mapped::new(&hour_ahead()));
}

fn check_clocks(cave: &Mapped) {
    for id in [0, 1, 4, 5, 6, 7, 8, 9, 11, 2, 3] {
        // A machine without an RTC has no alarm clocks.
        if matches!(id, 8 | 9) && clock_gettime(ClockId::from_raw(id)).is_err() {
            continue;
        }
        let moved_ns = match id {
            0 | 5 | 8 | 11 => 3600 * SECOND,
            2 | 3 => 0,
            _ => -SECOND,
        };
        let before = true_ns(id);
        let shown = cave.read_ns(id);
        let after = true_ns(id);
        assert!((before..=after).contains(&(shown - moved_ns)), "clock {id}: {before} {shown} {after}");
    }
}

#[test]
fn gettimeofday_and_time() {
    check_gettimeofday_and_time(&Mapped::new(&hour_ahead()));
}

fn check_gettimeofday_and_time(cave: &Mapped) {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: -1 };
    let mut zone = [7i32; 2];
    let before = true_ns(0) / 1000;
    assert_eq!(cave.gettimeofday(&raw mut time, (&raw mut zone).cast()), 0);
    let after = true_ns(0) / 1000;
    let shown = (time.tv_sec - 3600) * 1_000_000 + time.tv_usec;
    assert!((before..=after).contains(&shown) && (0..1_000_000).contains(&time.tv_usec));
    assert_ne!(zone, [7, 7]);
    assert_eq!(cave.gettimeofday(std::ptr::null_mut(), std::ptr::null_mut()), 0);
    let before = true_ns(5) / SECOND;
    let mut stored = 0;
    let shown = cave.time(&raw mut stored) - 3600;
    assert!((before..=true_ns(5) / SECOND).contains(&shown));
    assert_eq!(stored - 3600, shown);
    assert!(cave.time(std::ptr::null_mut()) >= stored);
}

#[test]
fn the_true_functions_of_this_machine_are_called() {
    let pid = std::process::id().cast_signed();
    let image = Image::read(&Memory::open(pid, false).unwrap(), &Maps::read(pid).unwrap()).unwrap();
    // As near as the padding is what a jump reaches. What is free there, the loader has decided.
    let wishes = [1i64 << 20, 1 << 24, 1 << 28, -(1 << 26), -(1 << 28), -(1 << 29)];
    let cave = wishes.iter().find_map(|distance| {
        let wish = image.end().wrapping_add_signed(*distance) & !0xFFF;
        let data = |place: u64| {
            let trampolines =
                Trampolines::of(|which| image.function(which), |which| place + slot(which) as u64);
            Data { trampolines, ..hour_ahead() }
        };
        let cave = Mapped::near(NonZeroUsize::new(wish as usize), data);
        ((cave.at(0).addr() as u64).abs_diff(image.end()) < 1 << 30).then_some(cave)
    });
    let cave = cave.expect("room within reach of the vDSO");
    // SAFETY: the slots are within the page, which nobody writes any more.
    let slots = unsafe { std::slice::from_raw_parts(cave.at(slot(0)), SLOTS * SLOT_BYTES) };
    assert!(!Trampolines(slots.as_chunks().0.try_into().unwrap()).make_system_calls(), "{slots:x?}");
    check_clocks(&cave);
    check_gettimeofday_and_time(&cave);
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(cave.clock_gettime(500, &raw mut time), -i64::from(libc::EINVAL));
}

#[test]
fn errors_are_the_kernels() {
    let cave = Mapped::new(&hour_ahead());
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(cave.clock_gettime(0, std::ptr::null_mut()), -i64::from(libc::EFAULT));
    for id in [10, 12, 500, i32::MIN] {
        assert_eq!(cave.clock_gettime(id, &raw mut time), -i64::from(libc::EINVAL), "{id}");
    }
    let bad = std::ptr::without_provenance_mut(16);
    assert_eq!(cave.gettimeofday(bad, std::ptr::null_mut()), -i64::from(libc::EFAULT));
}

#[test]
fn the_end_of_a_cave_says_what_it_is() {
    let data = Data { prologues: [[1; 5], [2; 5], [3; 5]], generation: 9, mark: 77, ..Data::default() };
    let bytes = data.encode();
    let trailer = Trailer::decode(&bytes[bytes.len() - TRAILER_BYTES..]).unwrap();
    let expected = Trailer {
        prologues: data.prologues,
        generation: 9,
        length: length(),
        is_same_version: true,
        mark: 77,
    };
    assert_eq!(trailer, expected);
    assert_eq!(Trailer::decode(&[0; TRAILER_BYTES]), None);
}

#[test]
fn the_cave_fits_the_smallest_padding_that_was_measured() {
    // Debian's Linux 7.3 for x86-64 has 943 zeros there, 6.12 has 1007, 6.1 has 3559.
    assert!(length() <= 940, "{} bytes", length());
}

#[test]
fn jumps_go_both_ways() {
    assert_eq!(jump(0x1000, 0x1005), [0xE9, 0, 0, 0, 0]);
    assert_eq!(jump(0x1000, 0xFFF), [0xE9, 0xFA, 0xFF, 0xFF, 0xFF]);
}
