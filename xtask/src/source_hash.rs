//! One number for the sources of the eBPF object: `cargo xtask build-ebpf` writes it beside the object,
//! injector's build script compares it. The build script includes this very file, so it uses std alone.

use std::io;
use std::path::{Path, PathBuf};

/// What the object is made of, relative to the workspace.
pub(crate) const SOURCES: [&str; 4] =
    ["injector-ebpf/src", "injector-ebpf/Cargo.toml", "injector-common/src", "injector-common/Cargo.toml"];

/// The object, relative to the workspace: a fixed place, whatever `CARGO_TARGET_DIR` says, so that
/// every target directory of one clone shares one object.
pub(crate) const OBJECT: &str = "target/bpf/injector.o";

/// What is appended to the object's path for the file that holds the number.
pub(crate) const SOURCES_SUFFIX: &str = ".sources";

/// The path of the file that holds the number of `object`.
pub(crate) fn sources_file(object: &Path) -> PathBuf {
    let mut name = object.as_os_str().to_owned();
    name.push(SOURCES_SUFFIX);
    name.into()
}

/// A hash (FNV-1a, 64 bits) of the names and contents of all sources, as hexadecimal digits.
pub(crate) fn source_hash(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&workspace.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in &files {
        let name = file.strip_prefix(workspace).unwrap_or(file);
        let content = std::fs::read(file)?;
        // The length parts the name from the content: moving bytes from one to the other is a change.
        for bytes in [name.as_os_str().as_encoded_bytes(), &content.len().to_le_bytes(), &content] {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    Ok(format!("{hash:016x}"))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
