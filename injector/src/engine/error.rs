//! What can end an experiment.

use crate::errno::name_of;
use crate::host::cgroup::CgroupError;
use crate::host::facts::FactError;
use crate::host::netlink::NetlinkError;
use crate::host::netns::NetnsError;
use crate::host::process::ProcessError;
use crate::journal::{JournalError, UndoError};
use crate::kernel::KernelError;
use crate::plan::PlanError;
use crate::target::TargetError;

/// An error of an experiment; each has been reverted before anybody sees it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The scenario can't be planned on this host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel half failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The journal could not be written or is in another experiment's way.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A target could not be found, or must not be struck.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A cgroup operation failed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Netlink failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A process could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A fact about the host could not be read.
    #[error(transparent)]
    Fact(#[from] FactError),
    /// A device has an ingress qdisc, which keeps clsact out. Whether the kernel has no tcx or `--tc clsact` was
    /// asked for is not known here.
    #[error("the device {device} has an `ingress` qdisc, which keeps `clsact` out")]
    ForeignIngress {
        /// The device.
        device: String,
    },
    /// Another experiment sends what arrives at a device the way round.
    #[error(
        "another experiment keeps back what arrives at {device}, and one of the two would have the other's packets"
    )]
    WayTaken {
        /// The device.
        device: String,
    },
    /// A device has a configured root qdisc that can't be put back as it is.
    #[error(
        "the device {device} in net:[{namespace}] has the root qdisc {qdisc}, which can't be put back as it is: {}",
        .lost.join("; ")
    )]
    LastingQdisc {
        /// The device.
        device: String,
        /// Inode of its network namespace.
        namespace: u64,
        /// Its qdisc.
        qdisc: String,
        /// What would be lost, each in words.
        lost: Vec<String>,
    },
    /// A device has somebody's program at XDP.
    #[error(
        "the device {device} has an XDP program, {program}, which is not ours to replace, and room for one only"
    )]
    ForeignXdp {
        /// The device.
        device: String,
        /// Its program, by id and name.
        program: String,
    },
    /// The kernel has no queue that keeps departure times.
    #[error("this kernel has no fq qdisc, in which packets wait for their time")]
    NoFq,
    /// The kernel has no way round for what arrives.
    #[error("this kernel can't keep back what arrives: {detail}")]
    NoIfb {
        /// What it lacks, in its own words.
        detail: String,
    },
    /// The kernel lets nobody make these operations fail.
    #[error("the fault `{fault}` can't be had on this kernel, {}: {why}", what.join(", "))]
    NoOperation {
        /// The fault.
        fault: String,
        /// The operations or system calls.
        what: Vec<String>,
        /// Why not, in the kernel's words.
        why: String,
        /// Whether the notifications of seccomp could have it, were they asked for.
        could_fall_back: bool,
    },
    /// The command could not be put under its filter.
    #[error("the command could not be put under its seccomp filter, {step}: {}", name_of(.source))]
    Notify {
        /// What failed.
        step: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Nothing can sleep.
    #[error("operations can't be delayed here: {detail}")]
    NoSleep {
        /// What failed.
        detail: String,
    },
    /// The process that ends naps is gone.
    #[error("the process by which operations are delayed has ended: nothing is delayed any more")]
    SleeperGone,
    /// The kernel has neither tcx nor what filters hang on.
    #[error("this kernel has no filters that are BPF programs: {detail}")]
    NoClsact {
        /// What it lacks, in its own words.
        detail: String,
    },
    /// The clsact qdisc could not be made.
    #[error("no `clsact` qdisc could be made on {device}: {source}")]
    Clsact {
        /// The device.
        device: String,
        /// The cause.
        #[source]
        source: Box<aya::programs::tc::TcError>,
    },
    /// A device that is struck as a whole disappeared.
    #[error("the device {device} of the target `{target}` disappeared while it was struck")]
    DeviceGone {
        /// The target.
        target: String,
        /// The device.
        device: String,
    },
    /// A device could not be set up again, or not with all that it had.
    #[error("a device could not be put back: {0}")]
    Link(#[source] Box<UndoError>),
    /// A device has something by now that could not be put back.
    #[error("{device} is not set down any more: {why}")]
    LinkChanged {
        /// The device.
        device: String,
        /// What it has.
        why: String,
    },
    /// The limits of a controller can't be had.
    #[error(
        "this host has no `{controller}` controller of cgroup version 2{}",
        if *is_hybrid { ": version 1 has it" } else { "" }
    )]
    NoController {
        /// Which.
        controller: &'static str,
        /// Whether hierarchies of version 1 are mounted.
        is_hybrid: bool,
    },
    /// A controller could not be given to a cgroup.
    #[error("the children of cgroup {cgroup} can't have the `{controller}` controller: {source}")]
    ControllerRefused {
        /// Which.
        controller: &'static str,
        /// The cgroup.
        cgroup: String,
        /// What the kernel said.
        source: nix::errno::Errno,
    },
    /// What injector does itself failed.
    #[error("{0}")]
    Deed(String),
    /// A name of `[peers]` has no address.
    #[error("the peer `{name}` has no address: {detail}")]
    Peer {
        /// The host name.
        name: String,
        /// What the resolver said.
        detail: String,
    },
    /// The command of `run` could not be started.
    #[error("`{command}` could not be started: {}", name_of(.source))]
    Spawn {
        /// The command.
        command: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Signals, sockets or timers failed.
    #[error("the controller's own runtime failed: {}", name_of(.0))]
    Runtime(#[source] std::io::Error),
    /// The experiment has ended already.
    #[error("the experiment has ended")]
    Ended,
    /// The record of decisions could not be written.
    #[error("the record could not be written: {}", name_of(.0))]
    Record(#[source] std::io::Error),
    /// The kernel half can't be had here.
    #[error("{what}: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not.
        why: String,
    },
    /// The process may not do what this takes.
    #[error("injector lacks {}", missing.join(", "))]
    Privileges {
        /// The capabilities.
        missing: Vec<String>,
    },
    /// Something is left on the host.
    #[error("{} things could not be taken back:\n{}", .0.len(), .0.join("\n"))]
    Leftovers(Vec<String>),
}

impl EngineError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::Journal(error) => return error.hint(),
            Self::Target(error) => return error.hint(),
            Self::Cgroup(error) => return error.hint(),
            Self::Netns(error) => return error.hint(),
            Self::Netlink(error) => return error.hint(),
            Self::Process(error) => return error.hint(),
            Self::WayTaken { .. } => {
                "wait for its end (`injector status`), or take what its own dead one has left away (`injector clean`)"
            }
            Self::ForeignIngress { device } => {
                return Some(format!(
                    "remove it if it is yours (`tc qdisc del dev {device} ingress`), or do without clsact: Linux 6.6 and later have tcx, which is taken unless `--tc clsact` is given"
                ));
            }
            Self::LastingQdisc { device, .. } => {
                return Some(format!(
                    "packets that are kept back wait in an fq at the root: `takeover = true` in the target lets it take the place all the same, and what can be put back is; or take the qdisc away yourself, `tc qdisc del dev {device} root` in that namespace"
                ));
            }
            Self::ForeignXdp { .. } => {
                "leave `hook` out of the target: traffic control strikes behind that program; or detach it first if it is yours (`ip link` shows it, libxdp's dispatcher too)"
            }
            Self::NoFq => "load the module (`modprobe sch_fq`), or use a kernel with CONFIG_NET_SCH_FQ",
            Self::NoIfb { .. } => {
                "load the modules (`modprobe -a ifb act_mirred act_gact cls_matchall cls_bpf sch_ingress`), or keep packets back on the side that sends them"
            }
            Self::NoOperation { could_fall_back: true, .. } => {
                "`fallback = \"seccomp\"` in the fault has it for the command, by notifications that cost 10 to 40 us for each of its calls; `injector doctor` says which mechanisms there are"
            }
            Self::Notify { .. } => {
                "the command was ended; `injector doctor` tries the same. In a container its own seccomp profile may be in the way"
            }
            Self::NoOperation { .. } => {
                "`injector doctor` says which mechanisms there are: without lockdown (`lockdown=none`) operations fail by the BPF LSM or fmod_ret, and system calls by their names from about Linux 7.0 on"
            }
            Self::NoSleep { .. } => {
                "file systems in user space are needed (FUSE): `modprobe fuse`, outside of containers"
            }
            Self::SleeperGone => "everything was taken back; somebody has ended it, or memory ran out",
            Self::NoClsact { .. } => {
                "load the modules (`modprobe -a sch_ingress cls_bpf`); Linux 6.6 and later have tcx, which does without them"
            }
            Self::DeviceGone { .. } => {
                "everything else was taken back; apply the scenario again when the device is there"
            }
            Self::NoController { controller: "cpu", .. } => {
                "boot with `systemd.unified_cgroup_hierarchy=1`; or take processor time away by pauses: `process.pause` with `for = \"80ms\", every = \"100ms\"` leaves a fifth"
            }
            Self::NoController { .. } => "boot with `systemd.unified_cgroup_hierarchy=1`",
            Self::ControllerRefused { source: nix::errno::Errno::EBUSY, .. } => {
                "processes are in that cgroup itself, and the kernel wants them in its leaves: take a target whose neighbours have cgroups of their own"
            }
            Self::ControllerRefused { .. } => {
                "a threaded cgroup, or one above it, takes no such controller: name a target that is a domain of its own"
            }
            Self::Deed(_) => "everything was taken back",
            Self::Peer { .. } => "write the address itself, or add the name to /etc/hosts",
            Self::Spawn { .. } => "give the command as the shell would find it, after `--`",
            Self::Link(error) => return error.hint(),
            Self::LinkChanged { .. } => {
                "everything was taken back; leave the device as it is while the experiment runs"
            }
            Self::Leftovers(_) => "`injector clean` tries again",
            Self::Privileges { .. } => "run it as root: `sudo injector ...`",
            Self::Unsupported { .. } => "`injector doctor` says what this kernel can do",
            Self::Plan(_)
            | Self::Kernel(_)
            | Self::Fact(_)
            | Self::Record(_)
            | Self::Ended
            | Self::Clsact { .. }
            | Self::Runtime(_) => return None,
        };
        Some(fixed.to_owned())
    }
}
