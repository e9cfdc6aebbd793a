//! The ways to the true functions: the first instructions of a function, moved, and a jump to those behind them.
//!
//! The jump at a function's begin takes [`JUMP_BYTES`] bytes. The whole instructions that these belong to are
//! made to work elsewhere, with operands relative to where they are and branches corrected. What is not sure to work
//! so is not tried: the way is the system call then, with the same result at ten times the cost.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, Decoder, DecoderOptions, Instruction, InstructionBlock, OpKind,
};
use nix::libc;

use super::cave::JUMP_BYTES;

/// How many functions have a way: the first two of `FUNCTIONS`, as `time` goes by the first one.
pub(super) const SLOTS: usize = 2;
/// How long a way may be: four bytes, an instruction of 15 with a branch made longer, and the jump fit.
pub(super) const SLOT_BYTES: usize = 32;
/// `int3`, which is never reached.
const UNUSED: u8 = 0xCC;

type Slot = [u8; SLOT_BYTES];

/// The ways to the true functions, as they are in the cave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trampolines(pub(super) [Slot; SLOTS]);

impl Default for Trampolines {
    /// By system calls.
    fn default() -> Self {
        Self([libc::SYS_clock_gettime, libc::SYS_gettimeofday].map(system_call))
    }
}

impl Trampolines {
    /// Those of functions that are not patched, to be put at `slot`.
    pub(super) fn of<'a>(
        function: impl Fn(usize) -> Option<(u64, &'a [u8])>,
        slot: impl Fn(usize) -> u64,
    ) -> Self {
        let mut trampolines = Self::default();
        for (which, trampoline) in trampolines.0.iter_mut().enumerate() {
            if let Some(moved) = function(which).and_then(|(address, code)| moved(code, address, slot(which)))
            {
                *trampoline = moved;
            }
        }
        trampolines
    }

    /// Whether one of them is a system call that the vDSO might not have made.
    pub(super) fn make_system_calls(&self) -> bool {
        self.0.iter().zip(&Self::default().0).any(|(slot, system_call)| slot == system_call)
    }
}

/// A function of the C ABI that makes a system call of up to three arguments.
fn system_call(number: libc::c_long) -> Slot {
    let [a, b, c, d] = (number as u32).to_le_bytes();
    // mov eax, number; syscall; ret
    filled(&[0xB8, a, b, c, d, 0x0F, 0x05, 0xC3])
}

fn filled(code: &[u8]) -> Slot {
    let mut slot = [UNUSED; SLOT_BYTES];
    slot.iter_mut().zip(code).for_each(|(place, byte)| *place = *byte);
    slot
}

/// What at `slot` does the same as the function of this code at `address`, without its first [`JUMP_BYTES`] bytes;
/// none if that is not sure.
fn moved(code: &[u8], address: u64, slot: u64) -> Option<Slot> {
    let all: Vec<Instruction> =
        Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter().collect();
    let end = address + JUMP_BYTES as u64;
    let mut block: Vec<Instruction> = all.iter().copied().take_while(|one| one.ip() < end).collect();
    let behind = block.last().filter(|last| last.next_ip() >= end)?.next_ip();
    if all.iter().any(|one| may_go_to(one, address..behind)) {
        return None;
    }
    block.push(Instruction::with_branch(Code::Jmp_rel32_64, behind).ok()?);
    let block = InstructionBlock::new(&block, slot);
    let encoded = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE).ok()?;
    (encoded.code_buffer.len() <= SLOT_BYTES).then(|| filled(&encoded.code_buffer))
}

/// Whether an instruction may go to one of these addresses: a branch, one to a computed place, or no instruction.
fn may_go_to(instruction: &Instruction, addresses: std::ops::Range<u64>) -> bool {
    match instruction.op0_kind() {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            addresses.contains(&instruction.near_branch_target())
        }
        _ => matches!(instruction.code(), Code::INVALID | Code::Jmp_rm64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u64 = 0x7FFF_0000_0A00;
    const SLOT: u64 = ADDRESS + 0x1000;

    /// What is put into the slot, without what is not used of it.
    fn move_code(code: &[u8]) -> Option<Vec<u8>> {
        let slot = moved(code, ADDRESS, SLOT)?;
        let used = slot.iter().rposition(|byte| *byte != UNUSED)? + 1;
        Some(slot[..used].to_vec())
    }

    #[test]
    fn whole_instructions_are_moved_and_the_rest_is_jumped_to() {
        // push rbp; mov rbp, rsp; push r14; push rbx; ret
        let code = [0x55, 0x48, 0x89, 0xE5, 0x41, 0x56, 0x53, 0xC3];
        // Behind `push r14`, 6 bytes on, from 0x1000 + 6 + 5 on.
        let expected = [&code[..6], &[0xE9, 0xFB, 0xEF, 0xFF, 0xFF]].concat();
        assert_eq!(move_code(&code), Some(expected));
    }

    #[test]
    fn operands_and_branches_go_where_they_went() {
        // cmp dword ptr [rip - 0x6AC6], 0x7FFFFFFF; ret
        let load = [0x81, 0x3D, 0x3A, 0x95, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0xC3];
        let expected = [0x81, 0x3D, 0x3A, 0x85, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
        assert_eq!(move_code(&load).unwrap()[..10], expected);
        // cmp edi, 15; ja +3; xor eax, eax; ret; or eax, -1; ret: the short branch becomes a long one.
        let branch = [0x83, 0xFF, 0x0F, 0x77, 0x03, 0x31, 0xC0, 0xC3, 0x83, 0xC8, 0xFF, 0xC3];
        let expected = [0x83, 0xFF, 0x0F, 0x0F, 0x87, 0xFF, 0xEF, 0xFF, 0xFF, 0xE9, 0xF7, 0xEF, 0xFF, 0xFF];
        assert_eq!(move_code(&branch), Some(expected.to_vec()));
    }

    #[test]
    fn the_beginnings_of_stock_kernels_are_moved() {
        let push_rbp = [0x55];
        let beginnings: [&[&[u8]]; 4] = [
            // Debian's Linux 6.1: `mov rbp, rsp; push r13`, and `mov r10, rdi; mov r11, rsi`.
            &[&push_rbp, &[0x48, 0x89, 0xE5], &[0x41, 0x55]],
            &[&push_rbp, &[0x49, 0x89, 0xFA], &[0x49, 0x89, 0xF3]],
            // 6.12, both: `endbr64; push rbp`.
            &[&[0xF3, 0x0F, 0x1E, 0xFA], &push_rbp],
            // 7.3: `mov r11d, edi; mov rbp, rsp`.
            &[&push_rbp, &[0x41, 0x89, 0xFB], &[0x48, 0x89, 0xE5]],
        ];
        for instructions in beginnings {
            let beginning = instructions.concat();
            let moved = move_code(&[&beginning[..], &[0xC3]].concat()).unwrap();
            assert_eq!(moved[..beginning.len()], beginning);
            assert_eq!((moved[beginning.len()], moved.len()), (0xE9, beginning.len() + JUMP_BYTES));
        }
    }

    #[test]
    fn what_is_not_sure_is_left_to_the_system_call() {
        // A loop back to the second instruction, to the first, and a jump to a computed place.
        for end in [&[0xEB, 0xFB][..], &[0xEB, 0xF8], &[0xFF, 0xE0], &[0x06]] {
            let code = [&[0x48, 0x31, 0xC0, 0x48, 0xFF, 0xC0], end].concat();
            assert_eq!(move_code(&code), None, "{end:x?}");
        }
        assert!(move_code(&[0x48, 0x31, 0xC0, 0x48, 0xFF, 0xC0, 0xC3]).is_some());
        // Too short, cut in the middle, and too far away.
        assert_eq!(move_code(&[0x31, 0xC0, 0xC3]), None);
        assert_eq!(move_code(&[0x31, 0xC0, 0x48, 0x8B]), None);
        let code = [0x55, 0x48, 0x89, 0xE5, 0x41, 0x56, 0xC3];
        let trampolines = Trampolines::of(|_| Some((ADDRESS, &code[..3])), |_| SLOT);
        assert_eq!(trampolines, Trampolines::default());
        assert!(trampolines.make_system_calls());
        assert!(!Trampolines::of(|_| Some((ADDRESS, &code)), |_| SLOT).make_system_calls());
    }
}
