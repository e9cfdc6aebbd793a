//! What `cargo build` says without the eBPF object, in the build script's own words.

#[allow(dead_code, reason = "its `main` is cargo's to call")]
#[path = "../../build.rs"]
mod script;

use std::path::Path;

use script::report;
use tempfile::TempDir;

/// The sources of the object, as the build script looks for them.
fn workspace() -> TempDir {
    let workspace = TempDir::new().unwrap();
    for part in ["injector-ebpf", "injector-common"] {
        std::fs::create_dir_all(workspace.path().join(part).join("src")).unwrap();
        std::fs::write(workspace.path().join(part).join("Cargo.toml"), "").unwrap();
    }
    workspace
}

/// The only line that ends the build, without what tells cargo so.
#[track_caller]
fn error(workspace: &Path, given: Option<&Path>) -> String {
    let lines = report(workspace, given);
    assert!(!lines.iter().any(|line| line.contains("cargo::rustc-env")), "{lines:?}");
    let mut errors = lines.iter().filter_map(|line| line.strip_prefix("cargo::error="));
    let error = errors.next().unwrap().to_owned();
    assert_eq!(errors.next(), None, "{lines:?}");
    error
}

#[test]
fn a_missing_object_is_one_sentence_that_says_what_to_run() {
    let workspace = workspace();
    assert_eq!(
        error(workspace.path(), None),
        "the eBPF object is missing: run `cargo xtask setup`, then `cargo xtask build-ebpf`"
    );
    let given = workspace.path().join("none.o");
    assert_eq!(
        error(workspace.path(), Some(&given)),
        format!(
            "the eBPF object {} that INJECTOR_EBPF_OBJECT names is missing: build it or unset the variable",
            given.display()
        )
    );
}

#[test]
fn an_object_of_other_sources_is_refused_unless_it_was_asked_for() {
    let workspace = workspace();
    let object = workspace.path().join("target/bpf/injector.o");
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, "").unwrap();
    std::fs::write(workspace.path().join("target/bpf/injector.o.sources"), "0123456789abcdef\n").unwrap();
    assert_eq!(
        error(workspace.path(), None),
        "the eBPF object is older than its sources: run `cargo xtask build-ebpf`"
    );
    let lines = report(workspace.path(), Some(&object));
    let wanted =
        format!("cargo::rustc-env=INJECTOR_EBPF_OBJECT={}", object.canonicalize().unwrap().display());
    assert_eq!(lines.last(), Some(&wanted), "{lines:?}");
}
