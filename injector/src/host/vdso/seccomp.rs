//! Whether a thread's seccomp filters allow the system calls of the patch.
//!
//! Asked only where a function cannot be called by its moved instructions, so that the patch makes the system
//! call instead. The vDSO spared the process that call, so that a filter may never have seen one, and may kill for it. Most
//! filters (those of containers and of systemd's services) allow it, and are run here on what they would see.

use nix::errno::Errno;
use nix::libc::{self, sock_filter};
use procfs::process::Process;

use super::VdsoError;
use super::image::read_error;

/// `PTRACE_SECCOMP_GET_FILTER` of `linux/ptrace.h`.
const GET_FILTER: libc::c_uint = 0x420C;
/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xC000_003E;
/// The most instructions that a filter has.
const MOST_INSTRUCTIONS: usize = 4096;
/// `SECCOMP_RET_ACTION_FULL` and the two actions that let a call be.
const ACTION: u32 = 0xFFFF_0000;
const ALLOW: u32 = 0x7FFF_0000;
const LOG: u32 = 0x7FFC_0000;
/// How many words `struct seccomp_data` has.
const DATA_WORDS: usize = 16;
/// The clocks that programs read.
const CLOCKS: [u64; 7] = [0, 1, 4, 5, 6, 7, 11];

/// Refuse a stopped thread that would not survive the system calls, made from this address.
pub(super) fn check(pid: i32, tid: i32, address: u64, stack: u64) -> Result<(), VdsoError> {
    let status = Process::new(pid).and_then(|process| process.task_from_tid(tid)?.status());
    let status = status.map_err(|error| read_error(pid, "status", &error))?;
    match status.seccomp {
        None | Some(0) => return Ok(()),
        Some(2) => {}
        Some(_) => return Err(VdsoError::Seccomp { pid }),
    }
    let reads = CLOCKS.map(|clock| data(libc::SYS_clock_gettime, address, [clock, stack]));
    let calls: Vec<_> =
        reads.into_iter().chain([data(libc::SYS_gettimeofday, address, [stack, 0])]).collect();
    for index in 0.. {
        let filter = match filter_of(tid, index) {
            Ok(filter) => filter,
            Err(Errno::ENOENT) => return Ok(()),
            // A kernel without CONFIG_CHECKPOINT_RESTORE does not say.
            Err(_) => break,
        };
        if !calls.iter().all(|call| run(&filter, call).is_some_and(allows)) {
            break;
        }
    }
    Err(VdsoError::Seccomp { pid })
}

fn allows(result: u32) -> bool {
    matches!(result & ACTION, ALLOW | LOG)
}

/// `struct seccomp_data` in the words that a filter can load.
fn data(number: libc::c_long, address: u64, arguments: [u64; 2]) -> [u32; DATA_WORDS] {
    let mut words = [0; DATA_WORDS];
    (words[0], words[1]) = (number as u32, ARCHITECTURE);
    for (place, value) in [address, arguments[0], arguments[1]].into_iter().enumerate() {
        words[2 + 2 * place] = value as u32;
        words[3 + 2 * place] = (value >> 32) as u32;
    }
    words
}

/// One of the filters of a thread that we trace.
fn filter_of(tid: i32, index: usize) -> Result<Vec<sock_filter>, Errno> {
    let mut filter = vec![sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; MOST_INSTRUCTIONS];
    let index = std::ptr::without_provenance_mut::<libc::c_void>(index);
    // SAFETY: the kernel writes at most the 4096 instructions of the longest filter.
    let length = unsafe { libc::ptrace(GET_FILTER, tid, index, filter.as_mut_ptr()) };
    filter.truncate(Errno::result(length)? as usize);
    Ok(filter)
}

/// What a filter answers; none if it is not understood.
fn run(filter: &[sock_filter], data: &[u32; DATA_WORDS]) -> Option<u32> {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
    let mut next = 0;
    loop {
        // The kernel has checked that jumps go forward, so this ends.
        let sock_filter { code, jt, jf, k } = *filter.get(next)?;
        next += 1;
        match u32::from(code) {
            // BPF_LD: ABS, IMM, LEN, MEM. BPF_LDX: IMM, LEN, MEM.
            0x20 => a = *data.get(k as usize / 4)?,
            0x00 => a = k,
            0x80 => a = DATA_WORDS as u32 * 4,
            0x60 => a = *memory.get(k as usize)?,
            0x01 => x = k,
            0x81 => x = DATA_WORDS as u32 * 4,
            0x61 => x = *memory.get(k as usize)?,
            // BPF_ST, BPF_STX, BPF_TAX, BPF_TXA.
            0x02 => *memory.get_mut(k as usize)? = a,
            0x03 => *memory.get_mut(k as usize)? = x,
            0x07 => x = a,
            0x87 => a = x,
            // BPF_RET: K, A.
            0x06 => return Some(k),
            0x16 => return Some(a),
            // BPF_JA, and the conditional jumps.
            0x05 => next += k as usize,
            code if code & 7 == 5 => {
                let operand = if code & 8 == 0 { k } else { x };
                next += usize::from(if compare(code, a, operand)? { jt } else { jf });
            }
            code if code & 7 == 4 => a = arithmetic(code, a, if code & 8 == 0 { k } else { x })?,
            _ => return None,
        }
    }
}

fn compare(code: u32, a: u32, operand: u32) -> Option<bool> {
    match code & 0xF0 {
        0x10 => Some(a == operand),
        0x20 => Some(a > operand),
        0x30 => Some(a >= operand),
        0x40 => Some(a & operand != 0),
        _ => None,
    }
}

fn arithmetic(code: u32, a: u32, operand: u32) -> Option<u32> {
    match code & 0xF0 {
        0x00 => Some(a.wrapping_add(operand)),
        0x10 => Some(a.wrapping_sub(operand)),
        0x20 => Some(a.wrapping_mul(operand)),
        0x30 => a.checked_div(operand),
        0x40 => Some(a | operand),
        0x50 => Some(a & operand),
        0x60 => a.checked_shl(operand),
        0x70 => a.checked_shr(operand),
        0x80 => Some(a.wrapping_neg()),
        0xA0 => Some(a ^ operand),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code, jt, jf, k }
    }

    #[test]
    fn a_filter_that_forbids_one_clock() {
        // Load the number; not clock_gettime: allow. Load the clock; TAI: kill. Else allow.
        let filter = [
            step(0x20, 0, 0, 0),
            step(0x15, 0, 3, 228),
            step(0x20, 0, 0, 16),
            step(0x15, 0, 1, 11),
            step(0x06, 0, 0, 0x8000_0000),
            step(0x06, 0, 0, ALLOW),
        ];
        let answer = |number, clock| run(&filter, &data(number, 1 << 40, [clock, 9])).map(allows);
        assert_eq!(answer(libc::SYS_clock_gettime, 0), Some(true));
        assert_eq!(answer(libc::SYS_clock_gettime, 11), Some(false));
        assert_eq!(answer(libc::SYS_gettimeofday, 11), Some(true));
        assert_eq!(run(&filter[..1], &data(0, 0, [0, 0])), None);
    }

    #[test]
    fn arithmetic_on_words() {
        // The upper half of the address, shifted, masked, and compared with a stored word.
        let filter = [
            step(0x00, 0, 0, 0x20),
            step(0x02, 0, 0, 3),
            step(0x61, 0, 0, 3),
            step(0x20, 0, 0, 12),
            step(0x74, 0, 0, 3),
            step(0x54, 0, 0, 0xFF),
            step(0x1D, 0, 1, 0),
            step(0x16, 0, 0, 0),
            step(0x06, 0, 0, 1),
        ];
        assert_eq!(run(&filter, &data(0, 0x0100 << 32, [0, 0])), Some(0x20));
        assert_eq!(run(&filter, &data(0, 0, [0, 0])), Some(1));
    }
}
