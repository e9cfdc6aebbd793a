//! `cargo xtask setup`: looks at the machine, plans what is missing, installs it, says what was taken.
//! The look ([`machine`]) and the plan ([`plan`]) are apart, so that the plan is tested without a machine.

mod machine;
mod plan;
pub(crate) mod toolchain;

use crate::process;
use crate::say::say;
use anyhow::{Context as _, Result, bail};
use machine::Machine;
use plan::Step;
use std::collections::BTreeSet;
use std::process::Command;
use toolchain::Toolchain;

/// The version that was measured with the kernels of the matrix.
const BPF_LINKER: &str = "0.13.0";
/// The last version that can borrow the LLVM inside rustup's compiler, where no other LLVM is to be had.
const BPF_LINKER_RUST_LLVM: &str = "0.10.2";

/// Installs what is missing. Quick when nothing is: it only looks.
pub(crate) fn setup() -> Result<Toolchain> {
    let mut done = BTreeSet::new();
    loop {
        let machine = Machine::look();
        let steps = plan::plan(&machine, &done);
        if steps.is_empty() {
            return report(machine);
        }
        for step in steps {
            say!("setup: {step}");
            // Where a step fails there may be another way: the next plan knows that this one was tried.
            if let Err(error) = take(&step) {
                say!("setup: that failed: {error:#}");
            }
            done.insert(step);
        }
    }
}

fn report(machine: Machine) -> Result<Toolchain> {
    let lacking = plan::lacking(&machine);
    if !lacking.is_empty() {
        bail!("still missing after setup: {}: install them by hand", lacking.join(", "));
    }
    let toolchain = machine.toolchain.context(
        "no way was found to a compiler that builds `core` for BPF and a bpf-linker that fits it: install rustup's \
         nightly with rust-src, or Debian's rustc-web, rust-web-src and llvm-22-dev, then bpf-linker",
    )?;
    say!("compiler: {}", toolchain.compiler.describe());
    let linker = &toolchain.linker;
    let major = toolchain.compiler.llvm_major();
    say!("linker: bpf-linker {} ({}), links what LLVM {major} wrote", linker.version, linker.path.display());
    say!("tools: {}", plan::PROGRAMS.map(|(program, _)| program).join(" "));
    Ok(toolchain)
}

fn take(step: &Step) -> Result<()> {
    match step {
        Step::AptUpdate => process::run(apt().args(["--quiet", "--quiet", "update"])),
        Step::AptInstall(packages) => process::run(
            apt().args(["--quiet", "--yes", "--no-install-recommends", "install"]).args(packages),
        ),
        Step::RustupNightly => process::run(Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ])),
        Step::LinkerWithLlvm(major) => {
            let mut cargo = install_linker(BPF_LINKER);
            cargo.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
            // Without it llvm-sys looks in /usr/lib64 and the link fails.
            process::run(cargo.env("LLVM_PREFIX", machine::llvm_prefix(*major)))
        }
        Step::LinkerWithRustLlvm(major) => {
            let mut cargo = install_linker(BPF_LINKER_RUST_LLVM);
            cargo.args([
                "--no-default-features",
                "--features",
                &format!("llvm-{major},rust-llvm-{major},no-llvm-linking"),
            ]);
            process::run(&mut cargo)
        }
    }
}

fn install_linker(version: &str) -> Command {
    let mut cargo = crate::workspace::cargo();
    // Outside of the workspace: its configuration and target directory are none of the linker's business.
    cargo.current_dir("/").env_remove("CARGO_TARGET_DIR");
    cargo.args(["install", "--quiet", "--locked", "--force", "bpf-linker", "--version", version]);
    cargo
}

fn apt() -> Command {
    let mut command = process::as_root("env");
    // sudo drops the environment, so that it is given behind it.
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--option", "DPkg::Lock::Timeout=300"]);
    command
}
