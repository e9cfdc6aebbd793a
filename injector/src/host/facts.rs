//! Facts about the kernel and the caller: each is yes, no and why, or unknown and why.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::errno_of;

/// A fact that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {source}")]
pub struct FactError {
    /// The file it stands in.
    pub path: &'static str,
    /// What the kernel said.
    pub source: Errno,
}

/// The answer to a question about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "detail", rename_all = "lowercase")]
pub enum Fact {
    /// It holds.
    Yes(String),
    /// It does not hold, for this reason.
    No(String),
    /// It can't be told, for this reason.
    Unknown(String),
}

impl Fact {
    /// Whether it is known to hold.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes(_))
    }

    fn unknown(path: &str, errno: Errno) -> Self {
        Self::Unknown(format!("cannot read {path}: {errno}"))
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes(detail) => write!(formatter, "yes: {detail}"),
            Self::No(why) => write!(formatter, "no: {why}"),
            Self::Unknown(why) => write!(formatter, "unknown: {why}"),
        }
    }
}

/// A privilege that injector needs, by its name in capabilities(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Capability {
    /// Attach to the network, change devices.
    CapNetAdmin,
    /// Enter namespaces.
    CapSysAdmin,
    /// Trace the kernel from BPF.
    CapPerfmon,
    /// Load BPF programs.
    CapBpf,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::CapNetAdmin, Self::CapSysAdmin, Self::CapPerfmon, Self::CapBpf];

    fn bit(self) -> u64 {
        1 << match self {
            Self::CapNetAdmin => 12,
            Self::CapSysAdmin => 21,
            Self::CapPerfmon => 38,
            Self::CapBpf => 39,
        }
    }

    /// `CAP_SYS_ADMIN` still includes what was split off from it.
    fn stands_in(self) -> Option<Self> {
        matches!(self, Self::CapPerfmon | Self::CapBpf).then_some(Self::CapSysAdmin)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CapNetAdmin => "CAP_NET_ADMIN",
            Self::CapSysAdmin => "CAP_SYS_ADMIN",
            Self::CapPerfmon => "CAP_PERFMON",
            Self::CapBpf => "CAP_BPF",
        })
    }
}

/// The user behind sudo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The name, where sudo gave one.
    pub user: Option<String>,
}

/// The user behind sudo, from the variables that it sets; `lookup` reads one of them.
#[must_use]
pub fn operator(lookup: impl Fn(&str) -> Option<String>) -> Option<Operator> {
    let number = |name| lookup(name)?.parse().ok();
    Some(Operator { uid: number("SUDO_UID")?, gid: number("SUDO_GID")?, user: lookup("SUDO_USER") })
}

/// What the kernel and the caller's privileges are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// The id that the kernel drew at this boot.
    pub boot_id: String,
    /// Whether the kernel lets root use all of BPF.
    pub unlocked: Fact,
    /// Whether the kernel describes its own types.
    pub btf: Fact,
    /// Whether BPF programs run as machine code.
    pub jit: Fact,
    /// Whether the caller's privileges count on the host, and not just in a user namespace.
    pub host_user_namespace: Fact,
    /// Whether the caller has each privilege.
    pub capabilities: Vec<(Capability, Fact)>,
}

impl Facts {
    /// Read them all.
    pub fn read() -> Result<Self, FactError> {
        Ok(Self {
            kernel_release: text_of("/proc/sys/kernel/osrelease")?,
            boot_id: boot_id()?,
            unlocked: unlocked(),
            btf: btf(),
            jit: jit(try_text_of("/proc/sys/net/core/bpf_jit_enable").as_deref().map_err(|errno| *errno)),
            host_user_namespace: host_user_namespace(try_text_of("/proc/self/uid_map")),
            capabilities: capabilities(&text_of("/proc/self/status")?),
        })
    }
}

/// The id that the kernel drew at this boot.
pub fn boot_id() -> Result<String, FactError> {
    text_of("/proc/sys/kernel/random/boot_id")
}

fn text_of(path: &'static str) -> Result<String, FactError> {
    try_text_of(path).map_err(|source| FactError { path, source })
}

fn try_text_of(path: &str) -> Result<String, Errno> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| errno_of(&error))
}

fn unlocked() -> Fact {
    let mounts = try_text_of("/proc/self/mountinfo").unwrap_or_default();
    let securityfs = mounts.lines().any(|line| line.contains(" - securityfs "));
    lockdown(try_text_of("/sys/kernel/security/lockdown"), securityfs)
}

/// The file lists the modes, the one in force in brackets.
fn lockdown(text: Result<String, Errno>, securityfs: bool) -> Fact {
    match text {
        Ok(text) => match text.split(['[', ']']).nth(1) {
            Some("none") => Fact::Yes("no lockdown".to_owned()),
            Some("integrity") => Fact::No(
                "lockdown mode is integrity: BPF may not write to user memory, and some hooks are refused"
                    .to_owned(),
            ),
            Some(mode) => Fact::No(format!("lockdown mode is {mode}: BPF may not read kernel memory")),
            None => Fact::Unknown(format!("/sys/kernel/security/lockdown says `{text}`")),
        },
        Err(Errno::ENOENT) if securityfs => Fact::Yes("this kernel has no lockdown".to_owned()),
        Err(Errno::ENOENT) => Fact::Unknown(
            "securityfs is not mounted: `mount -t securityfs none /sys/kernel/security`".to_owned(),
        ),
        Err(errno) => Fact::unknown("/sys/kernel/security/lockdown", errno),
    }
}

fn btf() -> Fact {
    let path = "/sys/kernel/btf/vmlinux";
    match fs::metadata(path).map_err(|error| errno_of(&error)) {
        Ok(_) => Fact::Yes(path.to_owned()),
        Err(Errno::ENOENT) if Path::new("/sys/kernel").exists() => {
            Fact::No("this kernel was built without CONFIG_DEBUG_INFO_BTF".to_owned())
        }
        Err(Errno::ENOENT) => Fact::Unknown("/sys is not mounted".to_owned()),
        Err(errno) => Fact::unknown(path, errno),
    }
}

fn jit(text: Result<&str, Errno>) -> Fact {
    match text {
        Ok("0") => Fact::No("it is off: `sysctl net.core.bpf_jit_enable=1`".to_owned()),
        Ok(_) => Fact::Yes("net.core.bpf_jit_enable".to_owned()),
        Err(Errno::ENOENT) => Fact::Unknown(
            "net.core.bpf_jit_enable is not there: this kernel has no BPF JIT, or this is not the host's network \
             namespace"
                .to_owned(),
        ),
        Err(errno) => Fact::unknown("/proc/sys/net/core/bpf_jit_enable", errno),
    }
}

fn host_user_namespace(uid_map: Result<String, Errno>) -> Fact {
    match uid_map {
        Ok(map) if map.split_whitespace().eq(["0", "0", "4294967295"]) => {
            Fact::Yes("all user ids are the host's".to_owned())
        }
        Ok(_) => Fact::No("this is a user namespace: its root has no say over the host".to_owned()),
        Err(Errno::ENOENT) => Fact::Yes("this kernel has no user namespaces".to_owned()),
        Err(errno) => Fact::unknown("/proc/self/uid_map", errno),
    }
}

fn capabilities(status: &str) -> Vec<(Capability, Fact)> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let fact = |capability: Capability| {
        let Some(effective) = effective else {
            return Fact::Unknown("/proc/self/status has no CapEff".to_owned());
        };
        let has = |capability: Capability| effective & capability.bit() != 0;
        if has(capability) {
            return Fact::Yes("effective".to_owned());
        }
        match capability.stands_in().filter(|other| has(*other)) {
            Some(other) => Fact::Yes(format!("{other} includes it")),
            None => Fact::No("not effective: run as root".to_owned()),
        }
    };
    Capability::ALL.map(|capability| (capability, fact(capability))).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_modes() {
        let of = |text: &str| lockdown(Ok(text.to_owned()), true);
        assert!(of("[none] integrity confidentiality").is_yes());
        assert!(matches!(of("none [integrity] confidentiality"), Fact::No(why) if why.contains("integrity")));
        assert!(matches!(of("none integrity [confidentiality]"), Fact::No(_)));
        assert!(matches!(of(""), Fact::Unknown(_)));
    }

    #[test]
    fn an_unmounted_securityfs_is_unknown_with_the_remedy() {
        let fact = lockdown(Err(Errno::ENOENT), false);
        assert!(matches!(&fact, Fact::Unknown(why) if why.contains("mount -t securityfs")), "{fact}");
        assert!(lockdown(Err(Errno::ENOENT), true).is_yes());
        let fact = lockdown(Err(Errno::EACCES), true);
        assert!(fact.to_string().contains("EACCES"), "{fact}");
    }

    #[test]
    fn capabilities_by_name() {
        let of = |mask: &str| capabilities(&format!("Name:\tx\nCapEff:\t{mask}\n"));
        assert!(of("000001ffffffffff").iter().all(|(_, fact)| fact.is_yes()));
        assert!(of("0000000000000000").iter().all(|(_, fact)| matches!(fact, Fact::No(_))));
        let yes: Vec<_> = of("0000000000200000").into_iter().filter(|(_, fact)| fact.is_yes()).collect();
        let names: Vec<_> = yes.iter().map(|(capability, _)| capability.to_string()).collect();
        assert_eq!(names, ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert!(matches!(&capabilities("")[0].1, Fact::Unknown(_)));
    }

    #[test]
    fn a_user_namespace_is_told() {
        assert!(host_user_namespace(Ok("0          0 4294967295".to_owned())).is_yes());
        assert!(matches!(host_user_namespace(Ok("0 1000 1".to_owned())), Fact::No(_)));
    }

    #[test]
    fn jit_states() {
        assert!(jit(Ok("1")).is_yes());
        assert!(matches!(jit(Ok("0")), Fact::No(_)));
        assert!(matches!(jit(Err(Errno::ENOENT)), Fact::Unknown(_)));
    }

    #[test]
    fn the_user_behind_sudo() {
        let lookup = |name: &str| match name {
            "SUDO_UID" | "SUDO_GID" => Some("1000".to_owned()),
            "SUDO_USER" => Some("ada".to_owned()),
            _ => None,
        };
        assert_eq!(operator(lookup), Some(Operator { uid: 1000, gid: 1000, user: Some("ada".to_owned()) }));
        assert_eq!(operator(|_| None), None);
        assert_eq!(operator(|name| (name == "SUDO_UID").then(|| "x".to_owned())), None);
    }

    #[test]
    fn this_host() {
        let facts = Facts::read().unwrap();
        assert_eq!(facts.boot_id.len(), 36);
        assert!(facts.kernel_release.starts_with(|digit: char| digit.is_ascii_digit()));
    }
}
