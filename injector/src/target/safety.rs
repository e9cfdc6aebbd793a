//! Which targets are refused, since striking them may cost the operator the host: pure.

use std::collections::BTreeSet;
use std::fmt;

use crate::host::cgroup::Cgroup;
use crate::host::ssh::SshServer;

/// The flag that turns the refusal off.
pub const FORCE_FLAG: &str = "--force-unsafe-target";

/// What the operator has allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SafetyPolicy {
    /// Strike dangerous targets all the same.
    pub force: bool,
}

/// Why a target is dangerous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Danger {
    /// The root cgroup holds every process of the host.
    RootCgroup,
    /// The cgroup holds process 1.
    HoldsInit,
    /// The cgroup holds injector, which must not be hit by what it has to take back.
    HoldsInjector,
    /// An SSH server that the operator needs would be struck.
    Ssh(SshServer),
    /// It is process 1.
    Init,
    /// It is injector.
    Injector,
    /// Injector descends from it, and would be moved along.
    AncestorOfInjector,
    /// It is a thread of the kernel.
    KernelThread,
    /// It is the device by which an SSH session comes, and would be set down.
    CarriesSsh,
    /// It is the device of a default route, and would be set down.
    DefaultRoute,
}

impl fmt::Display for Danger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Ssh(server) => return write!(formatter, "{server}, would be struck"),
            Self::RootCgroup => "the root cgroup holds every process of this host",
            Self::HoldsInit => "it holds process 1",
            Self::HoldsInjector => "it holds injector itself",
            Self::Init => "every program of this host descends from it",
            Self::Injector => "it is injector itself",
            Self::AncestorOfInjector => "injector descends from it",
            Self::KernelThread => "it is a kernel thread",
            Self::CarriesSsh => "an SSH session comes by it, and it would be set down",
            Self::DefaultRoute => "a default route leads through it, and it would be set down",
        };
        formatter.write_str(words)
    }
}

/// The danger of a cgroup, given where process 1 and injector are.
pub(super) fn danger_of_cgroup(cgroup: &Cgroup, init: Option<&Cgroup>, own: &Cgroup) -> Option<Danger> {
    if cgroup.is_root() {
        Some(Danger::RootCgroup)
    } else if init.is_some_and(|init| cgroup.holds(init)) {
        Some(Danger::HoldsInit)
    } else {
        cgroup.holds(own).then_some(Danger::HoldsInjector)
    }
}

/// The danger of striking these processes, given the SSH servers that the operator needs.
pub(super) fn danger_to_ssh(struck: &BTreeSet<i32>, needed: &[SshServer]) -> Option<Danger> {
    needed.iter().find(|server| struck.contains(&server.pid)).map(|server| Danger::Ssh(*server))
}

/// The danger of a process, given injector's own pid and those of its ancestors.
pub(super) fn danger_of_process(
    pid: i32,
    kernel_thread: bool,
    own: i32,
    own_ancestors: &[i32],
) -> Option<Danger> {
    match pid {
        1 => Some(Danger::Init),
        _ if pid == own => Some(Danger::Injector),
        _ if kernel_thread => Some(Danger::KernelThread),
        _ => own_ancestors.contains(&pid).then_some(Danger::AncestorOfInjector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ssh::SshRole;

    fn cgroup(path: &str) -> Cgroup {
        Cgroup { path: path.to_owned(), id: 2, level: 1 }
    }

    #[test]
    fn cgroups() {
        let (init, own) = (cgroup("/init.scope"), cgroup("/user.slice/session"));
        let danger = |path| danger_of_cgroup(&cgroup(path), Some(&init), &own);
        assert_eq!(danger("/"), Some(Danger::RootCgroup));
        assert_eq!(danger("/init.scope"), Some(Danger::HoldsInit));
        assert_eq!(danger("/user.slice/session"), Some(Danger::HoldsInjector));
        assert_eq!(danger("/user.slice"), Some(Danger::HoldsInjector));
        assert_eq!(danger("/user.slice/session/child"), None);
        assert_eq!(danger("/system.slice/db"), None);
    }

    #[test]
    fn ssh_servers() {
        let server = |pid, role| SshServer { pid, name: "sshd", role };
        let needed = [server(700, SshRole::Listener), server(701, SshRole::OwnSession)];
        let danger = |struck: &[i32]| danger_to_ssh(&struck.iter().copied().collect(), &needed);
        assert_eq!(danger(&[1, 2]), None);
        let words = danger(&[700]).unwrap().to_string();
        assert_eq!(words, "sshd (process 700), which accepts SSH connections to this host, would be struck");
        assert!(danger(&[2, 701]).unwrap().to_string().contains("carries your SSH session"));
    }

    #[test]
    fn processes() {
        let danger = |pid, kernel_thread| danger_of_process(pid, kernel_thread, 50, &[40, 1]);
        assert_eq!(danger(1, false), Some(Danger::Init));
        assert_eq!(danger(50, false), Some(Danger::Injector));
        assert_eq!(danger(40, false), Some(Danger::AncestorOfInjector));
        assert_eq!(danger(2, true), Some(Danger::KernelThread));
        assert_eq!(danger(60, false), None);
    }
}
