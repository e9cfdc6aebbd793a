//! The vDSO of another process: where it is, what is in it, and reading and writing it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use object::{Object as _, ObjectSymbol as _};
use procfs::ProcError;
use procfs::process::{MMapPath, Process};

use super::VdsoError;
use super::cave::{FUNCTIONS, JUMP_BYTES, TRAILER_BYTES, Trailer, length, slot};
use super::trampoline::{SLOTS, Trampolines};
use crate::host::errno_of;
use crate::host::process::errno_of_proc;

/// A 64-bit ELF file begins so.
const ELF64: &[u8] = b"\x7FELF\x02";

/// A process's memory by `/proc/PID/mem`.
pub(super) struct Memory {
    pid: i32,
    file: File,
}

impl Memory {
    pub(super) fn open(pid: i32, writable: bool) -> Result<Self, VdsoError> {
        let file = OpenOptions::new().read(true).write(writable).open(format!("/proc/{pid}/mem"));
        let failed = |error| match errno_of(&error) {
            Errno::ENOENT | Errno::ESRCH => VdsoError::Gone { pid },
            source => VdsoError::Read { pid, what: "mem", source },
        };
        Ok(Self { pid, file: file.map_err(failed)? })
    }

    pub(super) fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>, VdsoError> {
        let mut buffer = vec![0; bytes];
        self.file.read_exact_at(&mut buffer, address).map_err(|error| VdsoError::Read {
            pid: self.pid,
            what: "mem",
            source: errno_of(&error),
        })?;
        Ok(buffer)
    }

    /// Of what is asked for, what there is.
    pub(super) fn read_some(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        let read = self.file.read_at(&mut buffer, address).unwrap_or(0);
        buffer.truncate(read);
        buffer
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), VdsoError> {
        self.file
            .write_all_at(bytes, address)
            .map_err(|error| VdsoError::Write { pid: self.pid, source: errno_of(&error) })
    }
}

/// The ranges of a process's address space that matter here.
pub(super) struct Maps {
    /// The vDSO, if there is one.
    pub(super) vdso: Option<(u64, u64)>,
    /// All ranges, in order.
    pub(super) ranges: Vec<(u64, u64)>,
}

impl Maps {
    pub(super) fn read(pid: i32) -> Result<Self, VdsoError> {
        let maps = Process::new(pid).and_then(|process| process.maps());
        let maps = maps.map_err(|error| read_error(pid, "maps", &error))?;
        let vdso = maps.iter().find(|map| map.pathname == MMapPath::Vdso).map(|map| map.address);
        Ok(Self { vdso, ranges: maps.iter().map(|map| map.address).collect() })
    }

    /// The end of the range that holds an address.
    pub(super) fn end_of(&self, address: u64) -> Option<u64> {
        self.ranges.iter().find(|(start, end)| (*start..*end).contains(&address)).map(|(_, end)| *end)
    }
}

/// The vDSO of a process, as it is now.
pub(super) struct Image {
    pid: i32,
    /// Where it starts in the process.
    pub(super) base: u64,
    bytes: Vec<u8>,
    /// Where each of [`FUNCTIONS`] is, in the process, and its size.
    functions: [Option<(u64, usize)>; 3],
}

impl Image {
    pub(super) fn read(memory: &Memory, maps: &Maps) -> Result<Self, VdsoError> {
        let pid = memory.pid;
        let (base, end) = maps.vdso.ok_or(VdsoError::NoVdso { pid })?;
        let bytes = memory.read(base, (end - base) as usize)?;
        if !bytes.starts_with(ELF64) {
            return Err(VdsoError::ThirtyTwoBit { pid });
        }
        let layout = |why| VdsoError::Layout { pid, why };
        let elf = object::File::parse(&*bytes).map_err(|_| layout("it is no ELF file"))?;
        let mut functions = [None; 3];
        for symbol in elf.dynamic_symbols() {
            let place = FUNCTIONS.iter().position(|name| symbol.name() == Ok(name));
            if let Some(place) = place {
                let inside =
                    symbol.size() >= JUMP_BYTES as u64 && symbol.address() + symbol.size() <= end - base;
                let address = inside.then_some((base + symbol.address(), symbol.size() as usize));
                functions[place] = Some(address.ok_or(layout("a function is too short for a jump"))?);
            }
        }
        if functions[0].is_none() {
            return Err(layout("it has no `__vdso_clock_gettime`"));
        }
        drop(elf);
        Ok(Self { pid, base, bytes, functions })
    }

    /// Where it ends in the process.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// The functions that it has: which of [`FUNCTIONS`], and where in the process.
    pub(super) fn functions(&self) -> impl Iterator<Item = (usize, u64)> {
        self.functions.iter().enumerate().filter_map(|(which, function)| Some((which, (*function)?.0)))
    }

    /// The first bytes of a function.
    pub(super) fn prologue(&self, address: u64) -> Result<[u8; JUMP_BYTES], VdsoError> {
        let start = (address - self.base) as usize;
        let bytes = self.bytes.get(start..start + JUMP_BYTES).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(VdsoError::Layout { pid: self.pid, why: "a function is outside of it" })
    }

    /// All of a function, if there is such a one: where it is in the process, and its code.
    pub(super) fn function(&self, which: usize) -> Option<(u64, &[u8])> {
        let (address, size) = (*self.functions.get(which)?)?;
        let start = (address - self.base) as usize;
        Some((address, self.bytes.get(start..start + size)?))
    }

    /// What the slots of the cave hold, given that there is one of this version.
    pub(super) fn trampolines(&self) -> Option<Trampolines> {
        let start = self.bytes.len().checked_sub(length())?;
        let slots = self.bytes.get(start + slot(0)..start + slot(SLOTS))?;
        Some(Trampolines(slots.as_chunks().0.try_into().ok()?))
    }

    /// The cave that is in it.
    pub(super) fn trailer(&self) -> Option<Trailer> {
        Trailer::decode(self.bytes.get(self.bytes.len().checked_sub(TRAILER_BYTES)?..)?)
    }

    /// How many bytes at its end are free, given that the last `known` ones are ours.
    pub(super) fn room(&self, known: usize) -> usize {
        let before = &self.bytes[..self.bytes.len().saturating_sub(known)];
        known + before.iter().rev().take_while(|byte| **byte == 0).count()
    }
}

/// The cave at the end of a process's vDSO, without a look at anything else of it.
pub(super) fn trailer_of(pid: i32) -> Result<Option<Trailer>, VdsoError> {
    let Some((_, end)) = Maps::read(pid)?.vdso else { return Ok(None) };
    Ok(Trailer::decode(&Memory::open(pid, false)?.read(end - TRAILER_BYTES as u64, TRAILER_BYTES)?))
}

/// A file of `/proc/PID` that could not be read.
pub(super) fn read_error(pid: i32, what: &'static str, error: &ProcError) -> VdsoError {
    match errno_of_proc(error) {
        Errno::ENOENT | Errno::ESRCH => VdsoError::Gone { pid },
        source => VdsoError::Read { pid, what, source },
    }
}
