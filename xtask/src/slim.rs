//! Takes out of the eBPF object what nobody reads who loads it.
//!
//! The debug information is three quarters of the object, and every start of injector parses all of it. What the kernel needs are the
//! types (`.BTF`) and which functions there are (`func_info`), without which it refuses callbacks (`check_ld_imm` in
//! `kernel/bpf/verifier.c`). The lines of source, one for each instruction, cost as much again here and in the kernel; whoever looks into
//! a verifier's log finds them in the object as it was linked, in `target/bpf-build`.

use anyhow::{Context as _, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// `struct btf_ext_header` (`tools/lib/bpf/libbpf_internal.h`): five 32-bit fields after the first eight bytes, and two more.
const HEADER_LEN: usize = 32;
const HEADER_LEN_AT: usize = 4;
const FUNC_INFO_OFF_AT: usize = 8;
const FUNC_INFO_LEN_AT: usize = 12;
const LINE_INFO_OFF_AT: usize = 16;
const LINE_INFO_LEN_AT: usize = 20;
const CORE_RELO_OFF_AT: usize = 24;
const CORE_RELO_LEN_AT: usize = 28;

/// The object without its debug information and its lines of source.
pub(crate) fn slim(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        // The relocations of `.BTF` and `.BTF.ext` are for a linker.
        section.delete = [".debug_", ".rel.debug_", ".rel.BTF"].iter().any(|start| name.starts_with(start));
        if name == ".BTF.ext" {
            let SectionData::Data(data) = &section.data else { bail!(".BTF.ext holds no data") };
            section.data = SectionData::Data(without_lines(data)?.into());
        }
    }
    builder.delete_orphans();
    // The linker keeps the names of symbols and sections in one table, and the builder writes two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut slim = Vec::new();
    builder.write(&mut slim)?;
    Ok(slim)
}

/// `.BTF.ext` with the functions alone.
fn without_lines(section: &[u8]) -> Result<Vec<u8>> {
    let field = |at: usize| -> Result<usize> {
        let bytes = section.get(at..at + 4).context(".BTF.ext is cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if field(HEADER_LEN_AT)? != HEADER_LEN || field(FUNC_INFO_OFF_AT)? != 0 || field(CORE_RELO_LEN_AT)? != 0 {
        bail!(".BTF.ext has another layout than the one that is known here");
    }
    let functions = field(FUNC_INFO_LEN_AT)?;
    let mut rest = section.get(..HEADER_LEN + functions).context(".BTF.ext is cut short")?.to_vec();
    for (at, value) in [(LINE_INFO_OFF_AT, functions), (LINE_INFO_LEN_AT, 0), (CORE_RELO_OFF_AT, functions)] {
        rest[at..at + 4].copy_from_slice(&u32::try_from(value)?.to_le_bytes());
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(lines: usize, relocations: u32) -> Vec<u8> {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for field in [32, 0, 12, 12, lines as u32, 12 + lines as u32, relocations] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend([7; 12]);
        bytes.extend(vec![8; lines]);
        bytes
    }

    #[test]
    fn the_functions_stay_and_the_lines_go() {
        assert_eq!(without_lines(&section(100, 0)).unwrap(), section(0, 0));
    }

    #[test]
    fn what_is_not_known_is_not_touched() {
        assert!(without_lines(&section(100, 8)).is_err());
        assert!(without_lines(&section(100, 0)[..40]).is_err());
        assert!(without_lines(&[]).is_err());
    }
}
