//! Which compiler and linker build the eBPF object. `-Z build-std` takes an unstable compiler with its own
//! library source, and bpf-linker's LLVM must read that compiler's bitcode: both are tried, not guessed.

use crate::process;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The smallest crate that makes bitcode: it needs no `core`, so the trial takes milliseconds. With its debug
/// information it has the records that an older LLVM can't read; without, it would pass where the object fails.
const TRIAL: &str = "#![feature(no_core)]\n#![no_core]\n";

/// The target of the kernel half.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build `core` for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Rustup's nightly toolchain with the rust-src component.
    RustupNightly { release: String, llvm_major: u32 },
    /// A distribution's rustc with its source package: stable, unlocked by `RUSTC_BOOTSTRAP`.
    Distribution { rustc: PathBuf, release: String, llvm_major: u32 },
}

impl Compiler {
    /// The major version of the LLVM that writes the bitcode.
    pub(crate) fn llvm_major(&self) -> u32 {
        match self {
            Self::RustupNightly { llvm_major, .. } | Self::Distribution { llvm_major, .. } => *llvm_major,
        }
    }

    /// One line for people: which compiler was taken.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::RustupNightly { release, llvm_major } => {
                format!("rustup nightly {release}, LLVM {llvm_major}")
            }
            Self::Distribution { rustc, release, llvm_major } => {
                format!("the distribution's rustc {release} ({}), LLVM {llvm_major}", rustc.display())
            }
        }
    }

    /// The cargo that drives this compiler.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self {
            Self::RustupNightly { .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command.env_remove("RUSTC");
                command
            }
            Self::Distribution { rustc, .. } => {
                let mut command = crate::workspace::cargo();
                command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", rustc);
                command
            }
        };
        command.current_dir(crate::workspace::root());
        command
    }

    fn rustc(&self) -> Command {
        match self {
            Self::RustupNightly { .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
            Self::Distribution { rustc, .. } => {
                let mut command = Command::new(rustc);
                command.env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

/// A bpf-linker that linked this compiler's bitcode in a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

/// Every compiler on this machine that can build `core` for BPF, the preferred one first.
pub(crate) fn compilers() -> Vec<Compiler> {
    rustup_nightly().into_iter().chain(distribution()).collect()
}

/// The first compiler whose bitcode the installed bpf-linker links.
pub(crate) fn find() -> Option<Toolchain> {
    compilers()
        .into_iter()
        .find_map(|compiler| linker_for(&compiler).map(|linker| Toolchain { compiler, linker }))
}

fn rustup_nightly() -> Option<Compiler> {
    process::find("rustup")?;
    let text = quiet(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"]))?;
    let sysroot = quiet(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    has_library_source(Path::new(sysroot.trim())).then_some(())?;
    let (release, llvm_major) = parse_version(&text)?;
    Some(Compiler::RustupNightly { release, llvm_major })
}

fn distribution() -> Option<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    // Debian's source package puts the library under the compiler's own sysroot.
    (rustc.is_file() && has_library_source(Path::new("/usr"))).then_some(())?;
    let (release, llvm_major) = parse_version(&quiet(Command::new(&rustc).arg("-vV"))?)?;
    is_new_enough(&release).then_some(())?;
    Some(Compiler::Distribution { rustc, release, llvm_major })
}

/// Whether a release is at least the workspace's `rust-version`.
fn is_new_enough(release: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        (parts.next(), parts.next())
    };
    numbers(release) >= numbers(env!("CARGO_PKG_RUST_VERSION"))
}

fn has_library_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

/// Compiles and links an empty crate: `None` when there is no bpf-linker or it can't read the bitcode.
pub(crate) fn linker_for(compiler: &Compiler) -> Option<Linker> {
    let path = process::find("bpf-linker").or_else(cargo_home_linker)?;
    let version = quiet(Command::new(&path).arg("--version"))?;
    try_link(compiler, &path).ok()?;
    let version = version.trim().trim_start_matches("bpf-linker ").to_owned();
    Some(Linker { path, version })
}

/// Cargo installs there also when PATH does not name it.
fn cargo_home_linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))?;
    Some(home.join("bin/bpf-linker")).filter(|path| path.is_file())
}

fn try_link(compiler: &Compiler, linker: &Path) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let source = dir.path().join("trial.rs");
    let bitcode = dir.path().join("trial.bc");
    std::fs::write(&source, TRIAL)?;
    let mut rustc = compiler.rustc();
    rustc.args(["--crate-type=lib", "--emit=llvm-bc", "-g", "--target", BPF_TARGET, "-o"]);
    process::output(rustc.arg(&bitcode).arg(&source))?;
    process::output(Command::new(linker).arg(&bitcode).arg("-o").arg(dir.path().join("trial.o")))?;
    Ok(())
}

fn quiet(command: &mut Command) -> Option<String> {
    process::output(command).ok()
}

/// The release and LLVM's major version in what `rustc -vV` prints.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:")?.to_owned();
    let llvm_major = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((release, llvm_major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_verbose_output() {
        let text = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("release: 1.96.0\n"), None);
    }

    #[test]
    fn an_old_compiler_is_not_taken() {
        assert!(is_new_enough("1.96.0") && is_new_enough("2.0.0-nightly"));
        assert!(!is_new_enough("1.85.0") && !is_new_enough("1.9.0"));
    }
}
