//! The machine code that runs in the target, and the data behind it. The one place that is x86-64 through and
//! through.
//!
//! The code is position independent and is copied byte by byte, with its data right behind it, to the very
//! end of the vDSO's mapping, so that the last words say whether a process is patched. It only reads its data:
//! the tracer alone writes, while all threads are stopped. A thread that was stopped in the midst of a
//! conversion would go on with what is left of the old table, and so converts again if the generation changed.
//! The slots with the true functions between the two are written once, as a thread may be in them at any time.

use std::arch::global_asm;

use super::model::{MAX_SEGMENTS, Segment};
use super::trampoline::{SLOT_BYTES, SLOTS, Trampolines};

/// Ends each cave. Its bytes are no text and no code.
const MAGIC: u64 = 0xC10C_FA17_1DE0_1A7E;
/// Raise it with each change of the code or the layout.
const VERSION: u32 = 2;
/// Of the ids of clocks that are known (0 to 11), those that follow `CLOCK_REALTIME`: itself, coarse, alarm, TAI.
const REALTIME_CLOCKS: u32 = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 11;
/// Those that follow `CLOCK_MONOTONIC`: itself, raw, coarse, boottime, boottime's alarm.
const MONOTONIC_CLOCKS: u32 = 1 << 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 9;
/// How many ids of clocks have an offset.
pub(super) const CLOCK_IDS: usize = 12;
/// How many bytes of a function the jump takes.
pub(super) const JUMP_BYTES: usize = 5;
/// The functions that are patched. The plain names without a prefix are the same addresses.
pub(super) const FUNCTIONS: [&str; 3] = ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time"];

const SEGMENT_BYTES: usize = 32;
const TABLE_BYTES: usize = MAX_SEGMENTS * SEGMENT_BYTES;
/// The start of a segment that is not used: no time is that late.
const NEVER: i64 = i64::MAX;

// The slots hold the functions' own beginnings (`trampoline`), which are C code for the C ABI: what has to outlive
// a call of one is in registers that it keeps, and the stack is aligned to 16 bytes at the call. Only when the
// function has written its result is the caller's memory touched here, so that bad pointers fail as ever.
global_asm!(
    r#"
    .pushsection .rodata.injector_vdso_cave, "a", @progbits
    .balign 16
    .globl injector_vdso_cave, injector_vdso_gettimeofday, injector_vdso_time
    .globl injector_vdso_convert, injector_vdso_slots, injector_vdso_end
    .hidden injector_vdso_cave, injector_vdso_gettimeofday, injector_vdso_time
    .hidden injector_vdso_convert, injector_vdso_slots, injector_vdso_end

// int clock_gettime(clockid_t id = edi, struct timespec *time = rsi)
injector_vdso_cave:
    cmp edi, {clock_ids}
    jae injector_vdso_slots
    mov eax, {changed_clocks}
    bt eax, edi
    jnc injector_vdso_slots
    push rbx
    push rbp
    push r12
    // The upper half of an `int` argument is not defined.
    mov ebp, edi
    mov rbx, rsi
2:  mov r12, [rip + injector_vdso_generation]
    mov edi, ebp
    mov rsi, rbx
    call injector_vdso_slots
    test eax, eax
    jnz 4f
    lea r9, [rip + injector_vdso_realtime]
    mov eax, {realtime_clocks}
    bt eax, ebp
    jc 3f
    lea r9, [rip + injector_vdso_monotonic]
3:  lea r10, [rip + injector_vdso_data]
    mov r10, [r10 + rbp * 8]
    imul rax, [rbx], 1000000000
    add rax, [rbx + 8]
    call injector_vdso_convert
    cmp r12, [rip + injector_vdso_generation]
    jne 2b
    mov [rbx], rax
    mov [rbx + 8], rdx
    xor eax, eax
4:  pop r12
    pop rbp
    pop rbx
    ret

// int gettimeofday(struct timeval *time = rdi, struct timezone *zone = rsi), each of which may be null
injector_vdso_gettimeofday:
    test rdi, rdi
    jz injector_vdso_slots + {slot_bytes}
    push rbx
    push rbp
    push r12
    mov rbx, rdi
    mov rbp, rsi
2:  mov r12, [rip + injector_vdso_generation]
    mov rdi, rbx
    mov rsi, rbp
    call injector_vdso_slots + {slot_bytes}
    test eax, eax
    jnz 4b
    lea r9, [rip + injector_vdso_realtime]
    xor r10d, r10d
    imul rax, [rbx], 1000000000
    imul rdx, [rbx + 8], 1000
    add rax, rdx
    call injector_vdso_convert
    cmp r12, [rip + injector_vdso_generation]
    jne 2b
    mov [rbx], rax
    // A number of 32 bits divided by 1000.
    imul rdx, rdx, 274877907
    shr rdx, 38
    mov [rbx + 8], rdx
    xor eax, eax
    jmp 4b

// time_t time(time_t *time = rdi), which may be null: the coarse clock's seconds, as the kernel has it
injector_vdso_time:
    push rdi
    sub rsp, 16
    mov edi, 5
    mov rsi, rsp
    call injector_vdso_cave
    mov rax, [rsp]
    add rsp, 16
    pop rdi
    test rdi, rdi
    jz 4f
    mov [rdi], rax
4:  ret

// The true time rax in ns of a clock that is r10 ns ahead of its table's, by the table r9, to the shown
// seconds rax and nanoseconds rdx. Changes rcx, r10 and r11 too.
injector_vdso_convert:
    mov r11, rax
    sub r11, r10
    lea rcx, [r9 + {table_bytes}]
2:  cmp rcx, r9
    je 5f
    sub rcx, {segment_bytes}
    cmp r11, [rcx]
    jl 2b
    sub r11, [rcx]
    mov r10, rax
    mov rax, r11
    imul qword ptr [rcx + 16]
    shrd rax, rdx, 32
    add r10, rax
    cmp qword ptr [rcx + 24], 0
    je 3f
    mov rax, r11
    xor edx, edx
    div qword ptr [rcx + 24]
    test al, 1
    jnz 4f
3:  add r10, [rcx + 8]
4:  mov rax, r10
5:  xor edx, edx
    test rax, rax
    cmovs rax, rdx
    // A division by 10^9 costs tens of cycles on some processors; this is exact, as 10^9 is 2^9 * 5^9.
    mov r10, rax
    shr rax, 9
    movabs rcx, 0x44B82FA09B5A53
    mul rcx
    mov rax, rdx
    shr rax, 11
    imul rdx, rax, -1000000000
    add rdx, r10
    ret

    .balign 8
injector_vdso_slots:
    .zero {slots} * {slot_bytes}
injector_vdso_data:
    .zero {clock_ids} * 8
injector_vdso_realtime:
    .zero {table_bytes}
injector_vdso_monotonic:
    .zero {table_bytes}
    // The functions' own first bytes, eight for each; then generation, length and version, mark, magic.
    .zero {functions} * 8
injector_vdso_generation:
    .zero 8
    .zero 24
injector_vdso_end:
    .popsection
    "#,
    clock_ids = const CLOCK_IDS,
    changed_clocks = const REALTIME_CLOCKS | MONOTONIC_CLOCKS,
    slots = const SLOTS,
    slot_bytes = const SLOT_BYTES,
    realtime_clocks = const REALTIME_CLOCKS,
    table_bytes = const TABLE_BYTES,
    segment_bytes = const SEGMENT_BYTES,
    functions = const FUNCTIONS.len(),
);

unsafe extern "C" {
    static injector_vdso_cave: u8;
    static injector_vdso_gettimeofday: u8;
    static injector_vdso_time: u8;
    #[cfg(test)]
    static injector_vdso_convert: u8;
    static injector_vdso_slots: u8;
    static injector_vdso_end: u8;
}

/// The distance of a place in the assembly from its begin.
fn offset_of(place: *const u8) -> usize {
    place.addr() - (&raw const injector_vdso_cave).addr()
}

/// How many bytes of the target's vDSO are taken.
pub(super) fn length() -> usize {
    offset_of(&raw const injector_vdso_end)
}

/// Where the entries of [`FUNCTIONS`] are, from the begin.
pub(super) fn entries() -> [usize; 3] {
    [0, offset_of(&raw const injector_vdso_gettimeofday), offset_of(&raw const injector_vdso_time)]
}

/// Where slot `which` is, from the begin.
pub(super) fn slot(which: usize) -> usize {
    code().len() + which * SLOT_BYTES
}

/// The code without its slots and its data.
pub(super) fn code() -> &'static [u8] {
    // SAFETY: the assembly above has no gap between these symbols, and is never written.
    unsafe {
        std::slice::from_raw_parts(&raw const injector_vdso_cave, offset_of(&raw const injector_vdso_slots))
    }
}

/// What the code calls and reads, and what takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Data {
    /// The true functions.
    pub(super) trampolines: Trampolines,
    /// How far each clock is ahead of its table's, by its id.
    pub(super) offsets_ns: [i64; CLOCK_IDS],
    pub(super) realtime: Vec<Segment>,
    pub(super) monotonic: Vec<Segment>,
    /// The bytes that the jumps replaced.
    pub(super) prologues: [[u8; JUMP_BYTES]; 3],
    /// Differs after each change.
    pub(super) generation: u64,
    /// Whose patch it is; 0 for nobody's.
    pub(super) mark: u64,
}

impl Data {
    /// The code and this data.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = code().to_vec();
        bytes.extend(self.trampolines.0.as_flattened());
        let mut put = |value: u64| bytes.extend(value.to_le_bytes());
        self.offsets_ns.iter().for_each(|offset| put(offset.cast_unsigned()));
        for table in [&self.realtime, &self.monotonic] {
            let unused = Segment { start_ns: NEVER, ..Segment::default() };
            let rows = table.iter().copied().chain(std::iter::repeat(unused));
            for row in rows.take(MAX_SEGMENTS) {
                let [start, add, rate] = [row.start_ns, row.add_ns, row.rate_q32].map(i64::cast_unsigned);
                [start, add, rate, row.period_ns].into_iter().for_each(&mut put);
            }
        }
        for prologue in &self.prologues {
            let mut word = [0; 8];
            word[..JUMP_BYTES].copy_from_slice(prologue);
            put(u64::from_le_bytes(word));
        }
        let shape = u64::from(VERSION) << 32 | length() as u64;
        [self.generation, shape, self.mark, MAGIC].into_iter().for_each(put);
        bytes
    }
}

/// How many bytes at the end of a vDSO [`Trailer::decode`] wants.
pub(super) const TRAILER_BYTES: usize = 7 * 8;

/// The last words of a cave that is in a process: all that is needed to take it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trailer {
    /// The bytes that the jumps replaced.
    pub(super) prologues: [[u8; JUMP_BYTES]; 3],
    /// Its generation.
    pub(super) generation: u64,
    /// The cave's length.
    pub(super) length: usize,
    /// Whether this injector made it.
    pub(super) is_same_version: bool,
    /// Whose it is; 0 if it is only what was left behind.
    pub(super) mark: u64,
}

impl Trailer {
    /// From the last [`TRAILER_BYTES`] of a vDSO; none if no cave ends there.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let words: Vec<[u8; 8]> = bytes.as_chunks().0.to_vec();
        let [first, second, third, generation, shape, mark, magic] = <[[u8; 8]; 7]>::try_from(words).ok()?;
        let [generation, shape, mark, magic] = [generation, shape, mark, magic].map(u64::from_le_bytes);
        (magic == MAGIC).then(|| Self {
            prologues: [first, second, third].map(|[a, b, c, d, e, ..]| [a, b, c, d, e]),
            generation,
            length: (shape & u64::from(u32::MAX)) as usize,
            is_same_version: shape == (u64::from(VERSION) << 32 | length() as u64),
            mark,
        })
    }
}

/// The jump to `target` from `place`.
pub(super) fn jump(place: u64, target: u64) -> [u8; JUMP_BYTES] {
    let distance = target.wrapping_sub(place + JUMP_BYTES as u64) as u32;
    let [a, b, c, d] = distance.to_le_bytes();
    [0xE9, a, b, c, d]
}

#[cfg(test)]
mod tests;
