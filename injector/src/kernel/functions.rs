//! A loader for programs at functions of the kernel: LSM hooks, and functions whose result a program may change (`fmod_ret`).
//!
//! Aya knows no `fmod_ret`, and loads a program once, where here one is loaded for each of several functions. So this takes the object
//! apart by aya's own parser, points it to the maps that aya has made, and loads and attaches by bpf(2). Once aya can do both,
//! this module goes. The links are aya's kind: descriptors, with which the attachment ends.

use std::collections::{BTreeMap, HashSet};
use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::Object;
use aya_obj::generated::{
    BPF_ALU64, BPF_CALL, BPF_F_SLEEPABLE, BPF_JMP, BPF_K, BPF_MOV, BPF_PSEUDO_KFUNC_CALL, bpf_attach_type,
    bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type,
};
use injector_common::operation::{CALL_MAY_FAIL, CALL_MAY_SLEEP, CALL_TASK_FROM_PID, CALL_TASK_RELEASE};
use nix::libc;

use super::KernelError;
use super::btf::Btf;

/// How a program gets at a function of the kernel, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// A hook of the BPF LSM: made for it, and missed by nobody.
    Lsm,
    /// The result of the function in front of all LSMs (`security_*`): where `bpf` is not among the active ones. A task that is
    /// preempted in the program makes others on its CPU pass by it (`bpf_prog_check_recur` in `include/linux/bpf.h`).
    Security,
    /// The result of a system call's function.
    Syscall,
    /// The beginning of a system call's function (`fentry`), where nothing can fail.
    Entry,
    /// The end of a system call's function (`fexit`).
    Exit,
}

impl Mechanism {
    /// Its name in plans and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Security | Self::Syscall => "fmod_ret",
            Self::Entry => "fentry",
            Self::Exit => "fexit",
        }
    }

    /// Whether what a program returns is what the function fails with.
    const fn may_fail(self) -> bool {
        matches!(self, Self::Lsm | Self::Security | Self::Syscall)
    }

    const fn types(self) -> (bpf_prog_type, bpf_attach_type) {
        match self {
            Self::Lsm => (bpf_prog_type::BPF_PROG_TYPE_LSM, bpf_attach_type::BPF_LSM_MAC),
            Self::Security | Self::Syscall => {
                (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_MODIFY_RETURN)
            }
            Self::Entry => (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_TRACE_FENTRY),
            Self::Exit => (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_TRACE_FEXIT),
        }
    }
}

/// A function of the kernel, and the program that decides what becomes of its calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// The function, such as `bpf_lsm_file_open` or `__x64_sys_fsync`.
    pub name: String,
    /// How it is got at.
    pub mechanism: Mechanism,
    /// The program.
    pub program: &'static str,
    /// Whether the program may sleep.
    pub sleeps: bool,
}

/// What is to be attached for several faults, each once: of two programs that are the same at one function, one that can do what both can.
///
/// Each applies the rules of all faults, so both of them would apply each rule twice.
pub fn merged<'a>(functions: impl Iterator<Item = &'a Function>) -> Vec<Function> {
    let mut merged = BTreeMap::<(&str, &str), Function>::new();
    for function in functions {
        let one = merged.entry((&function.name, function.program)).or_insert_with(|| function.clone());
        one.sleeps |= function.sleeps;
        // Of the beginning and the result of a function, the latter can make it fail too.
        one.mechanism = one.mechanism.min(function.mechanism);
    }
    merged.into_values().collect()
}

/// The programs, ready to be loaded.
pub struct Functions {
    object: Object,
    /// The object's own types, in the kernel: callbacks need them.
    types: OwnedFd,
    kernel: Arc<Btf>,
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").field("types", &self.types).finish_non_exhaustive()
    }
}

impl Functions {
    /// From the object whose maps aya has made.
    pub(super) fn new(elf: &[u8], ebpf: &Ebpf, kernel: Arc<Btf>) -> Result<Self, KernelError> {
        let failed = |error: &dyn std::error::Error| KernelError::Functions { detail: error.to_string() };
        let mut object = Object::parse(elf).map_err(|error| failed(&error))?;
        let features = aya::features();
        let types = match features.btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(|error| failed(&error))?,
            None => None,
        };
        let types =
            types.ok_or_else(|| KernelError::Functions { detail: "there are no types (BTF)".to_owned() })?;
        let types = load_types(&types.to_bytes())
            .map_err(|source| KernelError::Functions { detail: crate::errno::name_of(&source) })?;
        let maps = std::mem::take(&mut object.maps);
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let made =
            maps.iter().filter_map(|(name, map)| Some((name.as_str(), descriptor(ebpf.map(name)?)?, map)));
        object.relocate_maps(made, &sections).map_err(|error| failed(&error))?;
        object.relocate_calls(&sections).map_err(|error| failed(&error))?;
        object.sanitize_functions(features);
        Ok(Self { object, types, kernel })
    }

    /// Whether the kernel has a function.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.kernel.function(name).is_some()
    }

    /// Loads the program for a function. Nothing is attached.
    pub fn load(&self, function: &Function) -> Result<OwnedFd, KernelError> {
        let program = self.object.programs.get(function.program);
        let program = program.ok_or(KernelError::Missing { name: function.program })?;
        let code = self.object.functions.get(&program.function_key());
        let code = code.ok_or(KernelError::Missing { name: function.program })?;
        let refused = |source: io::Error, log: &[u8]| KernelError::Function {
            program: function.program,
            function: function.name.clone(),
            log: last_lines(log),
            source,
        };
        let Some(id) = self.kernel.function(&function.name) else {
            return Err(refused(io::Error::from_raw_os_error(libc::ENOENT), b""));
        };
        let instructions = self.replaced(&code.instructions, function);
        let infos = code.func_info.func_info_bytes();
        let (kind, attach) = function.mechanism.types();
        let load = |log: &mut [u8]| {
            // SAFETY: zeros are a value of the union, and all of its members are numbers.
            let mut attributes = unsafe { std::mem::zeroed::<bpf_attr>() };
            // SAFETY: the member for this command; it is written alone.
            let load = unsafe { &mut attributes.__bindgen_anon_3 };
            let name = function.program.trim_start_matches("injector_").bytes();
            for (to, from) in load.prog_name.iter_mut().take(15).zip(name) {
                *to = from.cast_signed();
            }
            load.prog_type = kind as u32;
            load.expected_attach_type = attach as u32;
            load.prog_flags = if function.sleeps { BPF_F_SLEEPABLE } else { 0 };
            load.insns = instructions.as_ptr() as u64;
            load.insn_cnt = instructions.len() as u32;
            load.license = c"Dual MIT/GPL".as_ptr() as u64;
            load.prog_btf_fd = self.types.as_raw_fd().cast_unsigned();
            load.func_info = infos.as_ptr() as u64;
            load.func_info_cnt = code.func_info.len() as u32;
            load.func_info_rec_size = code.func_info_rec_size as u32;
            load.attach_btf_id = id;
            if !log.is_empty() {
                (load.log_level, load.log_buf, load.log_size) =
                    (1, log.as_mut_ptr() as u64, log.len() as u32);
            }
            bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes)
        };
        load(&mut []).or_else(|first| {
            // Once more for the reason; it takes much longer.
            let mut log = vec![0; LOG_LEN];
            load(&mut log).map_err(|_| refused(first, &log))
        })
    }

    /// The program with its calls to the loader replaced, see [`injector_common::operation::CALL_MAY_SLEEP`].
    fn replaced(&self, instructions: &[bpf_insn], function: &Function) -> Vec<bpf_insn> {
        // Where a program may not sleep it is not asked for: older kernels have no such functions.
        let kernels = |name| if function.sleeps { self.kernel.function(name) } else { None };
        let replace = |instruction: &bpf_insn| {
            if u32::from(instruction.code) != BPF_JMP | BPF_CALL || instruction.src_reg() != 0 {
                return *instruction;
            }
            match instruction.imm.cast_unsigned() {
                CALL_MAY_SLEEP => number(u32::from(function.sleeps)),
                CALL_MAY_FAIL => number(u32::from(function.mechanism.may_fail())),
                CALL_TASK_FROM_PID => kernels("bpf_task_from_pid").map_or(number(0), kernel_call),
                CALL_TASK_RELEASE => kernels("bpf_task_release").map_or(number(0), kernel_call),
                _ => *instruction,
            }
        };
        instructions.iter().map(replace).collect()
    }

    /// Loads the program for a function and attaches it, until the descriptor that is returned is closed.
    pub fn attach(&self, function: &Function) -> Result<OwnedFd, KernelError> {
        let program = self.load(function)?;
        attach(program.as_fd()).map_err(|source| KernelError::Attach {
            program: function.program,
            place: format!("the function {}", function.name),
            source,
        })
    }
}

/// The instruction `r0 = number`.
fn number(number: u32) -> bpf_insn {
    instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, number)
}

/// The instruction that calls the kernel's function with this id.
fn kernel_call(id: u32) -> bpf_insn {
    instruction(BPF_JMP | BPF_CALL, BPF_PSEUDO_KFUNC_CALL, id)
}

fn instruction(code: u32, source: u32, immediate: u32) -> bpf_insn {
    bpf_insn {
        code: code as u8,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, source as u8),
        off: 0,
        imm: immediate.cast_signed(),
    }
}

const LOG_LEN: usize = 1 << 20;

fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attributes = unsafe { std::mem::zeroed::<bpf_attr>() };
    // The name of the tracepoint stays empty: the program knows its function.
    attributes.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attributes)
}

fn load_types(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attributes = unsafe { std::mem::zeroed::<bpf_attr>() };
    // SAFETY: the member for this command; it is written alone.
    let load = unsafe { &mut attributes.__bindgen_anon_7 };
    (load.btf, load.btf_size) = (bytes.as_ptr() as u64, bytes.len() as u32);
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attributes)
}

/// bpf(2).
fn command(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: the union is whole, and what it points to outlives the call.
    let result: c_long = unsafe {
        libc::syscall(libc::SYS_bpf, command as c_long, &raw mut *attributes, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// bpf(2), for commands that return a descriptor.
fn bpf(wanted: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(command(wanted, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Instructions that the verifier has walked for a program, and its size in the kernel in bytes.
pub(super) fn insns_of(program: &OwnedFd) -> Result<(u32, u32), KernelError> {
    let failed = |source: io::Error| KernelError::Functions { detail: crate::errno::name_of(&source) };
    // SAFETY: as above.
    let mut info = unsafe { std::mem::zeroed::<bpf_prog_info>() };
    // SAFETY: as above.
    let mut attributes = unsafe { std::mem::zeroed::<bpf_attr>() };
    attributes.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attributes.info.info_len = size_of::<bpf_prog_info>() as u32;
    attributes.info.info = &raw mut info as u64;
    command(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes).map_err(failed)?;
    Ok((info.verified_insns, info.xlated_prog_len))
}

/// The descriptor of a map of a kind that the object has.
fn descriptor(map: &Map) -> Option<RawFd> {
    let data: &MapData = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// The end of the verifier's log, where the reason is.
fn last_lines(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // The very last are its statistics.
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with("processed ")).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_program_of_each_kind_is_attached_to_a_function() {
        let function = |name: &str, mechanism, program, sleeps| Function {
            name: name.to_owned(),
            mechanism,
            program,
            sleeps,
        };
        let all = [
            function("a", Mechanism::Entry, "p", false),
            function("a", Mechanism::Syscall, "p", false),
            function("a", Mechanism::Entry, "p", true),
            function("a", Mechanism::Exit, "q", false),
            function("b", Mechanism::Entry, "p", false),
        ];
        let merged = merged(all.iter());
        assert_eq!(merged, [function("a", Mechanism::Syscall, "p", true), all[3].clone(), all[4].clone()]);
    }

    #[test]
    fn the_reason_is_at_the_end_of_a_log() {
        let log = b"0: R1=ctx()\n1: r0 = 5\nR0 has value 5\nAt program exit\nprocessed 3 insns\n\0\0\0";
        assert_eq!(last_lines(log), "1: r0 = 5; R0 has value 5; At program exit");
        assert_eq!(last_lines(&[0; 4]), "");
    }
}
