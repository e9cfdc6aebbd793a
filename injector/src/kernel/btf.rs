//! The running kernel's types (BTF): where the fields of its structures lie, and which functions it has.
//!
//! Only what the kernel half reads is looked up; relocation of programs (CO-RE) is not done here. The format is that of
//! `Documentation/bpf/btf.rst`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use injector_common::operation::Offsets;
use object::Endianness;

/// Where the kernel has its own.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// How the names of functions begin to which programs are attached, and which they call.
const FUNCTIONS: [&str; 5] = ["bpf_lsm_", "security_", "__x64_sys_", "__arm64_sys_", "bpf_task_"];

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// What can be wrong with the kernel's types.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// They are not there, or can't be read.
    #[error("the kernel's types (BTF) could not be read from {path}: {}", crate::errno::name_of(.source))]
    Read {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// They are not what the format says.
    #[error("the kernel's types (BTF) are damaged, or newer than this injector: {what} at byte {at}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A structure has no such field.
    #[error("this kernel's `struct {of}` has no `{field}`")]
    NoField {
        /// The structure.
        of: String,
        /// The field.
        field: String,
    },
}

/// The types of a kernel.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    endianness: Endianness,
    /// Where each type begins; the first is `void`, and has none.
    types: Vec<usize>,
    strings: usize,
    structs: HashMap<Box<str>, u32>,
    functions: HashMap<Box<str>, u32>,
}

/// The head of a type.
#[derive(Clone, Copy)]
struct Head {
    at: usize,
    name: u32,
    kind: u32,
    count: usize,
    has_bit_fields: bool,
    refers: u32,
}

impl Btf {
    /// Those of the running kernel. They are 5 MB, which takes some 10 ms to read, so they are read once.
    pub fn of_kernel() -> Result<Arc<Self>, BtfError> {
        static READ: OnceLock<Arc<Btf>> = OnceLock::new();
        if let Some(read) = READ.get() {
            return Ok(Arc::clone(read));
        }
        let read = Self::read(Path::new(VMLINUX))?;
        Ok(Arc::clone(READ.get_or_init(|| Arc::new(read))))
    }

    fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path)
            .map_err(|source| BtfError::Read { path: path.display().to_string(), source })?;
        Self::parse(data)
    }

    /// Takes them apart.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let damaged = |what, at| BtfError::Damaged { what, at };
        let endianness = match data.first_chunk::<2>() {
            Some(magic) if u16::from_le_bytes(*magic) == MAGIC => Endianness::Little,
            Some(magic) if u16::from_be_bytes(*magic) == MAGIC => Endianness::Big,
            _ => return Err(damaged("no magic number", 0)),
        };
        let mut this = Self {
            data,
            endianness,
            types: vec![0],
            strings: 0,
            structs: HashMap::new(),
            functions: HashMap::new(),
        };
        let word = |at: usize| this.word(at).map(|word| word as usize);
        let [header, types, length, strings] = [word(4)?, word(8)?, word(12)?, word(16)?];
        if header < HEADER_LEN {
            return Err(damaged("a short header", 4));
        }
        this.strings = header + strings;
        let (mut at, end) = (header + types, header + types + length);
        while at < end {
            let head = this.head_at(at)?;
            let id = this.types.len() as u32;
            this.types.push(at);
            if matches!(head.kind, KIND_STRUCT | KIND_FUNC) && this.is_asked_for(head) {
                let name: Box<str> = this.string(head.name).into();
                let names = if head.kind == KIND_FUNC { &mut this.functions } else { &mut this.structs };
                names.entry(name).or_insert(id);
            }
            at += TYPE_LEN + tail_of(head).ok_or(damaged("an unknown kind", at))?;
        }
        Ok(this)
    }

    /// Whether it is a structure, or a function to which programs are attached. Of the others there are ten times as many.
    fn is_asked_for(&self, head: Head) -> bool {
        let name = self.data.get(self.strings + head.name as usize..).unwrap_or_default();
        head.kind == KIND_STRUCT || FUNCTIONS.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
    }

    /// The id of a function whose name begins as those do to which programs are attached.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.functions.get(name).copied()
    }

    /// Where a field lies in a structure, in bytes from its start. `field` may go into structures: `d_name.len`.
    pub fn offset(&self, of: &str, field: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoField { of: of.to_owned(), field: field.to_owned() };
        let mut id = *self.structs.get(of).ok_or_else(missing)?;
        let mut offset_bits = 0;
        for name in field.split('.') {
            let (bits, inner) = self.member(id, name)?.ok_or_else(missing)?;
            offset_bits += bits;
            id = inner;
        }
        Ok(offset_bits / 8)
    }

    /// A member of a structure by its name, also if it is one of a member without a name: where it lies in bits, and its type.
    fn member(&self, id: u32, name: &str) -> Result<Option<(u32, u32)>, BtfError> {
        let head = self.resolve(id)?;
        if !matches!(head.kind, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        for n in 0..head.count {
            let at = head.at + TYPE_LEN + n * MEMBER_LEN;
            let (name_at, inner, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let bits = if head.has_bit_fields { offset & 0x00ff_ffff } else { offset };
            let own = self.string(name_at);
            if own == name {
                return Ok(Some((bits, inner)));
            }
            if own.is_empty()
                && let Some((further, inner)) = self.member(inner, name)?
            {
                return Ok(Some((bits + further, inner)));
            }
        }
        Ok(None)
    }

    /// A type behind its qualifiers and other names.
    fn resolve(&self, mut id: u32) -> Result<Head, BtfError> {
        // A chain that is longer is a circle.
        for _ in 0..32 {
            let at =
                *self.types.get(id as usize).ok_or(BtfError::Damaged { what: "an unknown type", at: 0 })?;
            let head = self.head_at(at)?;
            match head.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => id = head.refers,
                _ => return Ok(head),
            }
        }
        Err(BtfError::Damaged { what: "a circle of types", at: 0 })
    }

    fn head_at(&self, at: usize) -> Result<Head, BtfError> {
        let (name, info, refers) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
        Ok(Head {
            at,
            name,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 != 0,
            refers,
        })
    }

    fn word(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.data.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let bytes = bytes.ok_or(BtfError::Damaged { what: "an early end", at })?;
        Ok(match self.endianness {
            Endianness::Little => u32::from_le_bytes(*bytes),
            Endianness::Big => u32::from_be_bytes(*bytes),
        })
    }

    /// What is no text has no name.
    fn string(&self, at: u32) -> &str {
        let rest = self.data.get(self.strings + at as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }

    /// Where the kernel half finds what it reads.
    pub fn offsets(&self) -> Result<Offsets, BtfError> {
        let at = |of, field| self.offset(of, field);
        // The number and the first arguments of a system call, by architecture.
        let (number, [first, second, third]) = if cfg!(target_arch = "x86_64") {
            ("orig_ax", [at("pt_regs", "di")?, at("pt_regs", "si")?, at("pt_regs", "dx")?])
        } else {
            let registers = at("pt_regs", "regs")?;
            ("syscallno", [registers, registers + 8, registers + 16])
        };
        Ok(Offsets {
            file_path: at("file", "f_path")?,
            file_inode: at("file", "f_inode")?,
            dentry_parent: at("dentry", "d_parent")?,
            dentry_length: at("dentry", "d_name.len")?,
            dentry_name: at("dentry", "d_name.name")?,
            dentry_inode: at("dentry", "d_inode")?,
            dentry_super: at("dentry", "d_sb")?,
            mount_root: at("vfsmount", "mnt_root")?,
            mount_inner: at("mount", "mnt")?,
            mount_parent: at("mount", "mnt_parent")?,
            mount_point: at("mount", "mnt_mountpoint")?,
            mount_namespace: at("mount", "mnt_ns")?,
            inode_mode: at("inode", "i_mode")?,
            inode_super: at("inode", "i_sb")?,
            super_flags: at("super_block", "s_flags")?,
            super_device: at("super_block", "s_dev")?,
            super_magic: at("super_block", "s_magic")?,
            task_fs: at("task_struct", "fs")?,
            task_files: at("task_struct", "files")?,
            fs_root: at("fs_struct", "root")?,
            files_table: at("files_struct", "fdt")?,
            table_size: at("fdtable", "max_fds")?,
            table_files: at("fdtable", "fd")?,
            task_cred: at("task_struct", "cred")?,
            task_real_cred: at("task_struct", "real_cred")?,
            socket_file: at("socket", "file")?,
            exec_file: at("linux_binprm", "file")?,
            regs_number: at("pt_regs", number)?,
            regs_first: first,
            regs_second: second,
            regs_third: third,
        })
    }
}

/// Bytes behind the head of a type; `None` of a kind that is not known.
fn tail_of(head: Head) -> Option<usize> {
    Some(match head.kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => head.count * 12,
        KIND_ENUM | KIND_FUNC_PROTO => head.count * 8,
        // Pointers, forward declarations, other names, qualifiers, functions, floats, tags.
        2 | 7..=KIND_FUNC | 16 | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernels_structures_have_what_is_read() {
        let btf = match Btf::of_kernel() {
            Ok(btf) => btf,
            Err(BtfError::Read { source, .. }) => {
                assert_eq!(
                    source.kind(),
                    std::io::ErrorKind::NotFound,
                    "a kernel without BTF is the only reason to skip"
                );
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let offsets = btf.offsets().unwrap();
        // `struct path` is a mount and a dentry, which is taken for granted.
        assert_eq!((btf.offset("path", "mnt").unwrap(), btf.offset("path", "dentry").unwrap()), (0, 8));
        #[cfg(target_arch = "x86_64")]
        assert_eq!((offsets.regs_number, offsets.regs_first), (120, 112));
        assert_eq!(offsets.inode_mode, 0);
        assert!(btf.function("security_file_permission").is_some());
        assert!(btf.function("no_such_function_at_all").is_none());
        assert!(matches!(btf.offset("file", "no_such_field"), Err(BtfError::NoField { .. })));
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        assert!(matches!(Btf::parse(Vec::new()), Err(BtfError::Damaged { .. })));
        assert!(matches!(
            Btf::parse(vec![0x9f, 0xeb, 1, 0]),
            Err(BtfError::Damaged { what: "an early end", at: 4 })
        ));
        let mut short = vec![0; 64];
        short[..8].copy_from_slice(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]);
        // One type, of a kind that nobody knows.
        short[12..16].copy_from_slice(&12_u32.to_le_bytes());
        short[28..32].copy_from_slice(&(31_u32 << 24).to_le_bytes());
        assert!(matches!(Btf::parse(short), Err(BtfError::Damaged { what: "an unknown kind", at: 24 })));
    }
}
