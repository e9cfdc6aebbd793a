//! Where threads are, and where they will go on when a signal handler of theirs returns.
//!
//! A thread in a signal handler has its interrupted place not in its registers but in the frame that the
//! kernel put on its stack. If that place is in the middle of an instruction that is about to be replaced, the
//! return would run garbage.

use std::ops::Range;

use super::VdsoError;
use super::image::{Maps, Memory};
use super::tracer::{Registers, Stopped};

/// How much of a stack is looked at. Handlers that use more before they are interrupted are not known.
const SCANNED_BYTES: u64 = 256 << 10;
/// How many stacks of one thread are looked at: its own, an alternate one for signals, and one to spare.
const STACKS: usize = 3;
/// The segment of 64-bit code in a frame: its upper parts are zero.
const USER_CS: u64 = 0x33;
/// `eflags` has this bit always, and no bit from the second on.
const EFLAGS_ALWAYS: u64 = 1 << 1;
const EFLAGS_NEVER: u64 = !0 << 22;

/// The first thread that is, or will be, within one of these ranges.
pub(super) fn find_inside(
    stopped: &Stopped,
    memory: &Memory,
    maps: &Maps,
    ranges: &[Range<u64>],
) -> Result<Option<i32>, VdsoError> {
    let is_inside = |address: u64| ranges.iter().any(|range| range.contains(&address));
    let registers = stopped.registers()?;
    let found = registers.iter().find(|thread| {
        is_inside(thread.instruction) || returns(thread, memory, maps).into_iter().any(is_inside)
    });
    Ok(found.map(|thread| thread.tid))
}

/// The places to which frames of signals on a thread's stacks return. What only looks like a frame is
/// returned too.
fn returns(thread: &Registers, memory: &Memory, maps: &Maps) -> Vec<u64> {
    let mut stacks = vec![thread.stack];
    let mut returns = Vec::new();
    let mut done = 0;
    while let Some(stack) = stacks.get(done).copied().filter(|_| done < STACKS) {
        done += 1;
        let start = stack.next_multiple_of(8);
        let Some(end) = maps.end_of(start) else { continue };
        let bytes = memory.read_some(start, (end - start).min(SCANNED_BYTES) as usize);
        for (interrupted_stack, instruction) in frames(&bytes) {
            returns.push(instruction);
            let is_elsewhere = maps.end_of(interrupted_stack).is_some_and(|other| other != end);
            if is_elsewhere && !stacks.contains(&interrupted_stack) {
                stacks.push(interrupted_stack);
            }
        }
    }
    returns
}

/// What looks like the end of the registers in a signal's frame: rsp, rip, eflags, cs.
fn frames(stack: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let words: &[[u8; 8]] = stack.as_chunks().0;
    words.windows(4).filter_map(|window| {
        let [stack, instruction, flags, segments] =
            <[[u8; 8]; 4]>::try_from(window).ok()?.map(u64::from_le_bytes);
        let is_frame = segments & 0x0000_FFFF_FFFF_FFFF == USER_CS
            && flags & EFLAGS_ALWAYS != 0
            && flags & EFLAGS_NEVER == 0;
        is_frame.then_some((stack, instruction))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_among_other_words() {
        let words: [u64; 8] = [1, 0x33, 0x7FFF_0000, 0x1234, 0x246, 0x002B_0000_0000_0033, 0, 0x33];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(frames(&bytes).collect::<Vec<_>>(), [(0x7FFF_0000, 0x1234)]);
    }
}
