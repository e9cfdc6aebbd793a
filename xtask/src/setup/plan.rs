//! From what is there to what to install. Pure. The plan is made anew after each round, so a step may open the
//! next one: a compiler first, then the linker that fits it.

use super::machine::Machine;
use super::toolchain::Compiler;
use std::collections::BTreeSet;
use std::fmt;

/// Programs that the builds, tests and the demo call, each with the packages that may have it, best first.
pub(crate) const PROGRAMS: [(&str, &[&str]); 31] = [
    ("cc", &["gcc"]),
    ("c++", &["g++"]),
    ("strip", &["binutils"]),
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    ("depmod", &["kmod"]),
    ("xz", &["xz-utils"]),
    ("ip", &["iproute2"]),
    ("tc", &["iproute2"]),
    ("ss", &["iproute2"]),
    ("nstat", &["iproute2"]),
    ("ping", &["iputils-ping"]),
    ("iperf3", &["iperf3"]),
    // Ubuntu has it among the kernel's tools.
    ("bpftool", &["bpftool", "linux-tools-generic"]),
    ("tcpdump", &["tcpdump"]),
    ("ethtool", &["ethtool"]),
    ("python3", &["python3"]),
    ("strace", &["strace"]),
    ("capsh", &["libcap2-bin"]),
    ("ps", &["procps"]),
    ("sysctl", &["procps"]),
    ("setpriv", &["util-linux"]),
    ("nsenter", &["util-linux"]),
    ("script", &["bsdutils", "bsdextrautils"]),
    ("awk", &["mawk", "gawk"]),
    // The server too, by another name, and none that is started.
    ("redis-check-rdb", &["redis-tools"]),
    ("redis-cli", &["redis-tools"]),
    ("faketime", &["faketime"]),
    ("java", &["default-jre-headless"]),
    ("mkfs.ext4", &["e2fsprogs"]),
    ("mkfs.xfs", &["xfsprogs"]),
    ("bindfs", &["bindfs"]),
];

/// Files that are needed: Debian's keys check the test kernels, also on Ubuntu.
pub(crate) const FILES: [(&str, &[&str]); 1] =
    [("/usr/share/keyrings/debian-archive-keyring.gpg", &["debian-archive-keyring"])];

/// Debian's compiler with its library source.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// The versions of LLVM that bpf-linker can be built with.
pub(crate) const LLVM_MAJORS: [u32; 3] = [21, 22, 23];
/// The versions that the older bpf-linker, which can borrow the LLVM of rustup's compiler, knows.
const RUST_LLVM_MAJORS: [u32; 3] = [20, 21, 22];
const LLVM_PACKAGES: [(u32, &str); 3] = [(21, "llvm-21-dev"), (22, "llvm-22-dev"), (23, "llvm-23-dev")];

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Refresh apt's lists: they may be empty, or name versions that the mirror no longer has.
    AptUpdate,
    AptInstall(Vec<&'static str>),
    /// Rustup's nightly with the library source.
    RustupNightly,
    /// Build bpf-linker with the distribution's LLVM of this major version.
    LinkerWithLlvm(u32),
    /// Build an older bpf-linker that uses the LLVM inside rustup's compiler.
    LinkerWithRustLlvm(u32),
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AptUpdate => write!(out, "apt-get update"),
            Self::AptInstall(packages) => write!(out, "apt-get install {}", packages.join(" ")),
            Self::RustupNightly => write!(out, "rustup toolchain install nightly, with rust-src"),
            Self::LinkerWithLlvm(major) => {
                write!(out, "cargo install bpf-linker, with LLVM {major} (about a minute)")
            }
            Self::LinkerWithRustLlvm(major) => {
                write!(out, "cargo install bpf-linker, with the LLVM {major} of rustup's compiler")
            }
        }
    }
}

/// Every package that a plan could name.
pub(crate) fn all_packages() -> Vec<&'static str> {
    let needed = PROGRAMS.into_iter().chain(FILES).flat_map(|(_, packages)| packages.iter().copied());
    let llvm = LLVM_PACKAGES.into_iter().map(|(_, package)| package);
    let unique = needed.chain(COMPILER_PACKAGES).chain(llvm).collect::<BTreeSet<_>>();
    unique.into_iter().collect()
}

/// The programs and files that are not there.
pub(crate) fn lacking(machine: &Machine) -> Vec<&'static str> {
    let all = PROGRAMS.into_iter().chain(FILES).map(|(name, _)| name);
    all.filter(|name| !machine.present.contains(name)).collect()
}

/// What to do now; empty when all is there, or nothing that was not tried is left.
pub(crate) fn plan(machine: &Machine, done: &BTreeSet<Step>) -> Vec<Step> {
    let mut packages = tool_packages(machine);
    let mut steps = Vec::new();
    if machine.toolchain.is_none() {
        plan_toolchain(machine, done, &mut packages, &mut steps);
    }
    let mut packages = packages.into_iter().collect::<Vec<_>>();
    if !machine.has_apt {
        packages.clear();
    }
    if !packages.is_empty() && !done.contains(&Step::AptUpdate) {
        // Lists of another day lead to "404 Not Found" and to older compilers; a refresh takes seconds. What
        // else is to do may look different with fresh ones.
        return vec![Step::AptUpdate];
    }
    packages.retain(|package| machine.apt_knows.contains(package));
    if !packages.is_empty() {
        steps.insert(0, Step::AptInstall(packages));
    }
    steps.retain(|step| !done.contains(step));
    steps
}

/// For each missing program or file the first package that apt knows, or the first at all.
fn tool_packages(machine: &Machine) -> BTreeSet<&'static str> {
    let missing = PROGRAMS.into_iter().chain(FILES).filter(|(name, _)| !machine.present.contains(name));
    let choose = |packages: &'static [&'static str]| {
        packages.iter().find(|package| machine.apt_knows.contains(*package)).or(packages.first()).copied()
    };
    missing.filter_map(|(_, packages)| choose(packages)).collect()
}

fn plan_toolchain(
    machine: &Machine,
    done: &BTreeSet<Step>,
    packages: &mut BTreeSet<&'static str>,
    steps: &mut Vec<Step>,
) {
    match machine.compilers.iter().find_map(|compiler| way_to_linker(machine, done, compiler)) {
        Some(Way::Package(package)) => {
            packages.insert(package);
        }
        Some(Way::Step(step)) => steps.push(step),
        // No compiler, or one whose LLVM is newer than every linker: another compiler may do.
        None if COMPILER_PACKAGES.into_iter().all(|package| may_install(machine, done, package)) => {
            packages.extend(COMPILER_PACKAGES);
        }
        None if machine.has_rustup => steps.push(Step::RustupNightly),
        None => {}
    }
}

/// The next thing to do for a linker that reads a compiler's bitcode.
enum Way {
    Package(&'static str),
    Step(Step),
}

fn way_to_linker(machine: &Machine, done: &BTreeSet<Step>, compiler: &Compiler) -> Option<Way> {
    let major = compiler.llvm_major();
    let ours = Step::LinkerWithLlvm(major);
    if machine.llvm.contains(&major) && !done.contains(&ours) {
        return Some(Way::Step(ours));
    }
    let package = LLVM_PACKAGES.into_iter().find(|(one, _)| *one == major).map(|(_, package)| package);
    let package = package.filter(|_| !machine.llvm.contains(&major));
    if let Some(package) = package.filter(|package| may_install(machine, done, package)) {
        return Some(Way::Package(package));
    }
    let borrowed = Step::LinkerWithRustLlvm(major);
    let can_borrow = matches!(compiler, Compiler::RustupNightly { .. }) && RUST_LLVM_MAJORS.contains(&major);
    (can_borrow && !done.contains(&borrowed)).then_some(Way::Step(borrowed))
}

/// Whether apt has the package, or may have it once its lists are fresh, and was not asked for it yet.
fn may_install(machine: &Machine, done: &BTreeSet<Step>, package: &str) -> bool {
    let tried = done.iter().any(|step| matches!(step, Step::AptInstall(all) if all.contains(&package)));
    let may_be_known = machine.apt_knows.contains(package) || !done.contains(&Step::AptUpdate);
    machine.has_apt && may_be_known && !tried
}

#[cfg(test)]
mod tests {
    use super::super::toolchain::{Linker, Toolchain};
    use super::*;

    fn debian_compiler() -> Compiler {
        Compiler::Distribution { rustc: "/usr/bin/rustc".into(), release: "1.96.0".into(), llvm_major: 22 }
    }

    fn nightly(llvm_major: u32) -> Compiler {
        Compiler::RustupNightly { release: "1.99.0-nightly".into(), llvm_major }
    }

    /// Debian 12 with every tool, a fresh apt, and nothing of the toolchain.
    fn debian() -> Machine {
        Machine {
            present: PROGRAMS.into_iter().chain(FILES).map(|(name, _)| name).collect(),
            has_apt: true,
            apt_knows: all_packages().into_iter().filter(|name| *name != "llvm-23-dev").collect(),
            has_rustup: true,
            ..Machine::default()
        }
    }

    fn tried(steps: &[Step]) -> BTreeSet<Step> {
        steps.iter().cloned().collect()
    }

    /// The steps after apt's lists were refreshed.
    fn plan_with_fresh_lists(machine: &Machine, done: &[Step]) -> Vec<Step> {
        let mut done = tried(done);
        done.insert(Step::AptUpdate);
        plan(machine, &done)
    }

    #[test]
    fn nothing_is_done_where_all_is_there() {
        let linker = Linker { path: "/bin/bpf-linker".into(), version: "0.13.0".into() };
        let compiler = debian_compiler();
        let machine = Machine { toolchain: Some(Toolchain { compiler, linker }), ..debian() };
        assert_eq!(plan(&machine, &BTreeSet::new()), []);
        assert_eq!(lacking(&machine), [""; 0]);
    }

    #[test]
    fn a_fresh_debian_takes_a_compiler_then_its_llvm_then_the_linker() {
        let mut machine = debian();
        assert_eq!(plan(&machine, &BTreeSet::new()), [Step::AptUpdate]);
        let first = plan_with_fresh_lists(&machine, &[]);
        assert_eq!(first, [Step::AptInstall(vec!["rust-web-src", "rustc-web"])]);
        machine.compilers = vec![debian_compiler()];
        let second = plan_with_fresh_lists(&machine, &first);
        assert_eq!(second, [Step::AptInstall(vec!["llvm-22-dev"])]);
        machine.llvm.insert(22);
        assert_eq!(plan_with_fresh_lists(&machine, &second), [Step::LinkerWithLlvm(22)]);
    }

    #[test]
    fn lists_are_refreshed_once_and_first() {
        let mut machine = debian();
        machine.present.remove("tcpdump");
        assert_eq!(plan(&machine, &BTreeSet::new()), [Step::AptUpdate]);
        machine.apt_knows.clear();
        // Still unknown afterwards: the package is given up, and rustup is the way to a compiler.
        assert_eq!(plan_with_fresh_lists(&machine, &[]), [Step::RustupNightly]);
        assert_eq!(lacking(&machine), ["tcpdump"]);
    }

    #[test]
    fn missing_tools_are_one_install_and_two_tools_of_one_package_are_one_name() {
        let mut machine = debian();
        for tool in ["tc", "ip", "ethtool", "/usr/share/keyrings/debian-archive-keyring.gpg"] {
            machine.present.remove(tool);
        }
        machine.compilers = vec![debian_compiler()];
        machine.llvm.insert(22);
        let packages = vec!["debian-archive-keyring", "ethtool", "iproute2"];
        let steps = plan_with_fresh_lists(&machine, &[]);
        assert_eq!(steps, [Step::AptInstall(packages), Step::LinkerWithLlvm(22)]);
    }

    #[test]
    fn the_second_name_of_a_package_is_taken_where_the_first_is_unknown() {
        let mut machine = debian();
        machine.present.remove("bpftool");
        machine.apt_knows.remove("bpftool");
        machine.compilers = vec![nightly(22)];
        machine.llvm.insert(22);
        let install = Step::AptInstall(vec!["linux-tools-generic"]);
        assert_eq!(plan_with_fresh_lists(&machine, &[]), [install, Step::LinkerWithLlvm(22)]);
    }

    #[test]
    fn without_an_llvm_package_nightly_lends_its_own() {
        let mut machine = debian();
        machine.compilers = vec![nightly(22)];
        machine.apt_knows.remove("llvm-22-dev");
        assert_eq!(plan_with_fresh_lists(&machine, &[]), [Step::LinkerWithRustLlvm(22)]);
    }

    #[test]
    fn a_nightly_newer_than_every_linker_gives_way_to_debians_compiler() {
        let mut machine = debian();
        machine.compilers = vec![nightly(23)];
        let first = plan_with_fresh_lists(&machine, &[]);
        assert_eq!(first, [Step::AptInstall(vec!["rust-web-src", "rustc-web"])]);
        machine.compilers.push(debian_compiler());
        assert_eq!(plan_with_fresh_lists(&machine, &first), [Step::AptInstall(vec!["llvm-22-dev"])]);
    }

    #[test]
    fn a_machine_without_apt_uses_rustup_and_a_plan_ends() {
        let machine = Machine { has_apt: false, ..debian() };
        assert_eq!(plan(&machine, &BTreeSet::new()), [Step::RustupNightly]);
        assert_eq!(plan(&machine, &tried(&[Step::RustupNightly])), []);
    }

    #[test]
    fn a_compiler_package_that_gave_no_compiler_leads_to_rustup() {
        let done = [Step::AptInstall(vec!["rust-web-src", "rustc-web"])];
        assert_eq!(plan_with_fresh_lists(&debian(), &done), [Step::RustupNightly]);
    }
}
