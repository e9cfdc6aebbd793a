//! Finds the eBPF object that `cargo xtask build-ebpf` made, and refuses to embed a stale one.
//! It does not build the object: that takes another compiler, which `cargo build` should not need to know.

use std::path::{Path, PathBuf};

#[path = "../xtask/src/source_hash.rs"]
mod source_hash;

fn main() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let given = std::env::var_os("INJECTOR_EBPF_OBJECT").filter(|path| !path.is_empty());
    for line in report(&workspace, given.as_deref().map(Path::new)) {
        // Build scripts talk to cargo through stdout; a cargo that does not listen is no error of ours.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
    }
}

/// The lines for cargo: either the object's path or one sentence that says what to run.
pub(crate) fn report(workspace: &Path, given: Option<&Path>) -> Vec<String> {
    let mut out = vec!["cargo::rerun-if-env-changed=INJECTOR_EBPF_OBJECT".to_owned()];
    let object = given.map_or_else(|| workspace.join(source_hash::OBJECT), PathBuf::from);
    out.push(format!("cargo::rerun-if-changed={}", object.display()));
    if !object.is_file() {
        out.push(missing(given));
        return out;
    }
    if given.is_none() {
        for source in source_hash::SOURCES {
            out.push(format!("cargo::rerun-if-changed={}", workspace.join(source).display()));
        }
        let recorded = source_hash::sources_file(&object);
        out.push(format!("cargo::rerun-if-changed={}", recorded.display()));
        if let Some(error) = stale(workspace, &recorded) {
            out.push(error);
            return out;
        }
    }
    out.push(match object.canonicalize() {
        Ok(path) => format!("cargo::rustc-env=INJECTOR_EBPF_OBJECT={}", path.display()),
        Err(error) => format!("cargo::error=the eBPF object {}: {error}", object.display()),
    });
    out
}

fn missing(given: Option<&Path>) -> String {
    match given {
        Some(object) => format!(
            "cargo::error=the eBPF object {} that INJECTOR_EBPF_OBJECT names is missing: build it or unset the variable",
            object.display()
        ),
        // Where it was never built, the compiler for it may be missing too.
        None => {
            "cargo::error=the eBPF object is missing: run `cargo xtask setup`, then `cargo xtask build-ebpf`"
                .to_owned()
        }
    }
}

fn stale(workspace: &Path, recorded: &Path) -> Option<String> {
    let of_object = std::fs::read_to_string(recorded).unwrap_or_default();
    match source_hash::source_hash(workspace) {
        Ok(now) if now == of_object.trim() => None,
        Ok(_) => Some(
            "cargo::error=the eBPF object is older than its sources: run `cargo xtask build-ebpf`".to_owned(),
        ),
        Err(error) => Some(format!("cargo::error=cannot read the sources of the eBPF object: {error}")),
    }
}
