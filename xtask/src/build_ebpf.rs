//! `cargo xtask build-ebpf`: compiles the kernel half to `target/bpf/injector.o`.

use crate::say::say;
use crate::setup::toolchain::{self, BPF_TARGET, Toolchain};
use crate::slim;
use crate::{process, source_hash, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;

/// `debuginfo` must come through rustflags: set in the profile alone, `core` and the functions that are not
/// inlined have no `func_info`, and the kernel refuses to load callees. `target-cpu=v3` gives atomics that return.
const RUSTFLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];

/// Builds the object, puts it in its place and records the hash of its sources beside it.
pub(crate) fn build_ebpf(release_log: bool) -> Result<PathBuf> {
    let toolchain = toolchain::find()
        .context("no compiler and bpf-linker that fit each other were found: run `cargo xtask setup`")?;
    build_with(&toolchain, release_log)
}

fn build_with(toolchain: &Toolchain, release_log: bool) -> Result<PathBuf> {
    let root = workspace::root();
    // Its own target directory: two compilers in one directory would drive out each other's results.
    let target = root.join("target/bpf-build");
    // The hash comes first: an edit made during the build must leave a stale hash, not a fresh one.
    let hash = source_hash::source_hash(&root).context("cannot read the sources of the eBPF object")?;
    let flags = RUSTFLAGS.map(str::to_owned).into_iter();
    let flags = flags.chain([format!("-Clinker={}", toolchain.linker.path.display())]).collect::<Vec<_>>();
    let mut cargo = toolchain.compiler.cargo();
    cargo.args(["build", "--quiet", "--package", "injector-ebpf", "--bin", "injector", "--release"]);
    cargo.args(["--features", if release_log { "kernel,log" } else { "kernel" }]);
    cargo.args(["--target", BPF_TARGET, "-Zbuild-std=core"]);
    cargo.arg("--target-dir").arg(&target);
    // A panic in a BPF program is impossible code, not wrapping arithmetic: no overflow checks.
    cargo.args([
        "--config",
        "profile.release.overflow-checks=false",
        "--config",
        "profile.release.strip=false",
    ]);
    cargo.args(["--config", "profile.release.codegen-units=1"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
    process::run(&mut cargo)?;

    let object = root.join(source_hash::OBJECT);
    let built = target.join(BPF_TARGET).join("release/injector");
    install(&built, &object, &hash)?;
    let size = object.metadata()?.len();
    say!("built {} ({size} bytes) with {}", source_hash::OBJECT, toolchain.compiler.describe());
    Ok(object)
}

/// Copies only what changed: a new time stamp would rebuild every crate that embeds the object.
fn install(built: &std::path::Path, object: &std::path::Path, hash: &str) -> Result<()> {
    let bytes = std::fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    let bytes = slim::slim(&bytes).with_context(|| format!("cannot slim {}", built.display()))?;
    if let Some(dir) = object.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    write_if_new(object, &bytes)?;
    write_if_new(&source_hash::sources_file(object), format!("{hash}\n").as_bytes())
}

fn write_if_new(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_names_contents_and_new_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for source in source_hash::SOURCES {
            let path = root.join(source);
            if path.extension().is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            } else {
                std::fs::create_dir_all(path).unwrap();
            }
        }
        let empty = source_hash::source_hash(root).unwrap();
        assert_eq!(empty, source_hash::source_hash(root).unwrap());
        std::fs::write(root.join("injector-ebpf/src/a.rs"), "one").unwrap();
        let one = source_hash::source_hash(root).unwrap();
        std::fs::rename(root.join("injector-ebpf/src/a.rs"), root.join("injector-ebpf/src/b.rs")).unwrap();
        let renamed = source_hash::source_hash(root).unwrap();
        std::fs::write(root.join("injector-ebpf/src/b.rs"), "two").unwrap();
        let changed = source_hash::source_hash(root).unwrap();
        let mut all = vec![empty, one, renamed, changed];
        all.dedup();
        assert_eq!(all.len(), 4, "{all:?}");
    }

    #[test]
    fn an_unchanged_object_keeps_its_time_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o");
        write_if_new(&path, b"a").unwrap();
        let before = path.metadata().unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        write_if_new(&path, b"a").unwrap();
        assert_eq!(before, path.metadata().unwrap().modified().unwrap());
        write_if_new(&path, b"b").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"b");
    }
}
