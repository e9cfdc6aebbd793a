//! What is on this machine: reads, changes nothing.

use super::plan;
use super::toolchain::{self, Compiler, Linker, Toolchain};
use crate::process;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine as the planner sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// Those of [`plan::PROGRAMS`] and [`plan::FILES`] that are there.
    pub(crate) present: BTreeSet<&'static str>,
    /// Whether there is an apt.
    pub(crate) has_apt: bool,
    /// Packages that apt could install (only asked for when something is missing).
    pub(crate) apt_knows: BTreeSet<&'static str>,
    /// Whether there is a rustup.
    pub(crate) has_rustup: bool,
    /// The compilers that can build `core` for BPF, the preferred one first.
    pub(crate) compilers: Vec<Compiler>,
    /// A compiler and a linker that fit.
    pub(crate) toolchain: Option<Toolchain>,
    /// Major versions of LLVM with their development files.
    pub(crate) llvm: BTreeSet<u32>,
}

impl Machine {
    /// Looks. Apt is asked only if something is missing: that takes longer than all the rest.
    pub(crate) fn look() -> Self {
        let compilers = toolchain::compilers();
        let fits = |compiler: &Compiler| {
            toolchain::linker_for(compiler)
                .map(|linker: Linker| Toolchain { compiler: compiler.clone(), linker })
        };
        let mut machine = Self {
            present: present(),
            has_apt: process::find("apt-get").is_some(),
            has_rustup: process::find("rustup").is_some(),
            toolchain: compilers.iter().find_map(fits),
            compilers,
            llvm: plan::LLVM_MAJORS
                .into_iter()
                .filter(|major| llvm_prefix(*major).join("bin/llvm-config").exists())
                .collect(),
            ..Self::default()
        };
        if machine.has_apt && (!plan::lacking(&machine).is_empty() || machine.toolchain.is_none()) {
            machine.apt_knows = apt_knows();
        }
        machine
    }
}

/// Where Debian puts one version of LLVM.
pub(crate) fn llvm_prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

fn present() -> BTreeSet<&'static str> {
    let programs = plan::PROGRAMS
        .into_iter()
        .map(|(program, _)| program)
        .filter(|program| process::find(program).is_some());
    let files = plan::FILES.into_iter().map(|(file, _)| file).filter(|file| Path::new(file).exists());
    programs.chain(files).collect()
}

/// The packages that apt has a candidate for.
fn apt_knows() -> BTreeSet<&'static str> {
    let names = plan::all_packages();
    let mut apt = Command::new("apt-cache");
    let text = process::output(apt.env("LC_ALL", "C").arg("policy").args(&names)).unwrap_or_default();
    names.into_iter().filter(|name| has_candidate(&text, name)).collect()
}

fn has_candidate(policy: &str, package: &str) -> bool {
    let mut lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package)).skip(1);
    lines
        .find_map(|line| line.trim().strip_prefix("Candidate:"))
        .is_some_and(|candidate| candidate.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_not_known() {
        let policy = "tcpdump:\n  Installed: (none)\n  Candidate: 4.99\n  Version table:\nllvm-22-dev:\n  Installed: (none)\n  Candidate: (none)\n";
        assert!(has_candidate(policy, "tcpdump"));
        assert!(!has_candidate(policy, "llvm-22-dev"));
        assert!(!has_candidate(policy, "qemu"));
    }
}
