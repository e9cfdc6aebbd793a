//! How far the clocks of a process are ahead of the one that their table is in terms of.
//!
//! A segment starts at one moment for all clocks of its table, but TAI is seconds ahead of `CLOCK_REALTIME`,
//! `CLOCK_BOOTTIME` counts a suspension that `CLOCK_MONOTONIC` does not, and a process in another time namespace
//! sees both of these moved.

use std::fs;

use nix::time::{ClockId, clock_gettime};

use super::VdsoError;
use super::cave::CLOCK_IDS;
use crate::host::errno_of;

const SECOND_NS: i64 = 1_000_000_000;
/// Clocks are read one after another, so that their distance comes out a bit too long; of some, the shortest.
const READINGS: usize = 5;

/// The offsets of a process's clocks, by their ids.
pub(super) fn offsets_ns(pid: i32) -> Result<[i64; CLOCK_IDS], VdsoError> {
    let (monotonic_ns, boottime_ns) = moved_by_namespace(pid)?;
    let between = |base, clock| (0..READINGS).map(|_| distance_ns(base, clock)).min().unwrap_or(0);
    let mut offsets = [0; CLOCK_IDS];
    // TAI differs by whole seconds.
    let tai_ns = between(ClockId::CLOCK_REALTIME, ClockId::CLOCK_TAI);
    offsets[index_of(ClockId::CLOCK_TAI)] = (tai_ns + SECOND_NS / 2).div_euclid(SECOND_NS) * SECOND_NS;
    for clock in [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_MONOTONIC_COARSE] {
        offsets[index_of(clock)] = monotonic_ns;
    }
    let raw = ClockId::CLOCK_MONOTONIC_RAW;
    offsets[index_of(raw)] = between(ClockId::CLOCK_MONOTONIC, raw) + monotonic_ns;
    let boottime_ns = between(ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME) + boottime_ns;
    for clock in [ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_BOOTTIME_ALARM] {
        offsets[index_of(clock)] = boottime_ns;
    }
    Ok(offsets)
}

fn index_of(clock: ClockId) -> usize {
    clock.as_raw() as usize
}

fn distance_ns(base: ClockId, clock: ClockId) -> i64 {
    let read = |clock| clock_gettime(clock).map(|time| time.tv_sec() * SECOND_NS + time.tv_nsec());
    let (base, clock) = (read(base), read(clock));
    base.and_then(|base| clock.map(|clock| clock - base)).unwrap_or(0)
}

/// How far the monotonic and the boottime clock of a process are ahead of ours.
fn moved_by_namespace(pid: i32) -> Result<(i64, i64), VdsoError> {
    let failed = |error| VdsoError::Read { pid, what: "ns/time", source: errno_of(&error) };
    // A kernel without time namespaces moves nothing.
    let Ok(own) = fs::read_link("/proc/self/ns/time") else { return Ok((0, 0)) };
    if fs::read_link(format!("/proc/{pid}/ns/time")).map_err(failed)? == own {
        return Ok((0, 0));
    }
    let read = |path: String| fs::read_to_string(path).map_err(failed);
    let (ours, theirs) =
        (read("/proc/self/timens_offsets".to_owned())?, read(format!("/proc/{pid}/timens_offsets"))?);
    let moved =
        |clock| offset_in(&theirs, clock).zip(offset_in(&ours, clock)).map(|(one, other)| one - other);
    let both = moved("monotonic").zip(moved("boottime"));
    both.ok_or(VdsoError::Layout { pid, why: "the offsets of its time namespace cannot be read" })
}

/// From lines of a clock's name, seconds and nanoseconds.
fn offset_in(offsets: &str, clock: &str) -> Option<i64> {
    let line = offsets.lines().find_map(|line| line.strip_prefix(clock))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i64>);
    let (seconds, rest) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    seconds.checked_mul(SECOND_NS)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offsets_of_a_namespace() {
        let text = "monotonic          10         5\nboottime           -1         0\n";
        assert_eq!(offset_in(text, "monotonic"), Some(10 * SECOND_NS + 5));
        assert_eq!(offset_in(text, "boottime"), Some(-SECOND_NS));
        assert_eq!(offset_in("", "boottime"), None);
    }

    #[test]
    fn our_own_clocks() {
        let offsets = offsets_ns(std::process::id().cast_signed()).unwrap();
        assert_eq!((offsets[0], offsets[1], offsets[11] % SECOND_NS), (0, 0, 0));
        assert!(offsets[7] > -1_000_000);
    }
}
