//! Attaching programs, by the best rung that this kernel has.
//!
//! On 6.6 and later a tcx link goes first into the device's chain and dies with its owner. Before that a
//! `cls_bpf` filter hangs on a `clsact` qdisc, and nothing but the journal remembers it. Functions that name a
//! device must be called in its network namespace.

use std::os::fd::{AsFd, BorrowedFd};

use aya::programs::cgroup_skb::CgroupSkbLink;
use aya::programs::cgroup_sock::CgroupSockLink;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::cgroup_sockopt::CgroupSockoptLink;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, LinkOrder, TcAttachType};

use super::{Kernel, KernelError, programs};
use crate::host::tc::Direction;

/// How traffic-control programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// A tcx link (6.6): owned by its descriptor.
    Tcx,
    /// A `cls_bpf` filter on a `clsact` qdisc: journalled, and taken away by netlink.
    Clsact,
}

impl Rung {
    /// The rung's name in plans and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

const fn attach_type(way: Direction) -> TcAttachType {
    match way {
        Direction::Egress => TcAttachType::Egress,
        Direction::Ingress => TcAttachType::Ingress,
    }
}

/// A filter as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterId {
    /// Preference.
    pub pref: u16,
    /// Handle.
    pub handle: u32,
}

/// The kernel's id of a loaded traffic-control program.
pub fn classifier_id(kernel: &mut Kernel, program: &'static str) -> Result<u32, KernelError> {
    let classifier = kernel.classifier(program)?;
    Ok(classifier.info().map_err(|e| KernelError::program(program, e))?.id())
}

/// The descriptor of a loaded traffic-control program, for a filter that is not aya's to make.
pub fn classifier_fd<'a>(
    kernel: &'a mut Kernel,
    program: &'static str,
) -> Result<BorrowedFd<'a>, KernelError> {
    let classifier = kernel.classifier(program)?;
    Ok(classifier.fd().map_err(|e| KernelError::program(program, e))?.as_fd())
}

/// Attaches a program first in the tcx chain of a device of the current network namespace.
pub fn tcx(
    kernel: &mut Kernel,
    program: &'static str,
    device: &str,
    way: Direction,
) -> Result<SchedClassifierLink, KernelError> {
    let place = || format!("{device} ({way}, tcx)");
    let classifier = kernel.classifier(program)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = classifier
        .attach_with_options(device, attach_type(way), options)
        .map_err(|e| KernelError::attach(program, place(), &e))?;
    classifier.take_link(link).map_err(|e| KernelError::attach(program, place(), &e))
}

/// Attaches a program as a filter of a device of the current network namespace, which has a `clsact` qdisc.
///
/// The filter outlives this process: the caller has journalled it, and deletes it.
pub fn filter(
    kernel: &mut Kernel,
    program: &'static str,
    device: &str,
    way: Direction,
    id: FilterId,
) -> Result<(), KernelError> {
    let place = || format!("{device} ({way}, clsact)");
    let classifier = kernel.classifier(program)?;
    let options = NlOptions { priority: id.pref, handle: TcHandle::from(id.handle), ..NlOptions::default() };
    let link = classifier
        .attach_with_options(device, attach_type(way), TcAttachOptions::Netlink(options))
        .map_err(|e| KernelError::attach(program, place(), &e))?;
    let link = classifier.take_link(link).map_err(|e| KernelError::attach(program, place(), &e))?;
    // aya would delete the filter in whatever network namespace the thread is in when it drops the link.
    std::mem::forget(link);
    Ok(())
}

/// Attaches a program to what arrives at a cgroup's sockets.
pub fn cgroup_ingress(
    kernel: &mut Kernel,
    program: &'static str,
    cgroup: impl AsFd,
    path: &str,
) -> Result<CgroupSkbLink, KernelError> {
    let place = || format!("the cgroup {path} (ingress)");
    let cgroup_skb = kernel.cgroup_skb(program)?;
    let link = cgroup_skb
        // `Single` sets no flag, and links of cgroup programs go side by side without one.
        .attach(cgroup, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single)
        .map_err(|e| KernelError::attach(program, place(), &e))?;
    cgroup_skb.take_link(link).map_err(|e| KernelError::attach(program, place(), &e))
}

/// Attaches the program that notes the sockets which a cgroup's processes make.
pub fn cgroup_sockets(
    kernel: &mut Kernel,
    cgroup: impl AsFd,
    path: &str,
) -> Result<CgroupSockLink, KernelError> {
    let program = programs::SOCKET_NEW;
    let place = || format!("the cgroup {path} (sockets)");
    let cgroup_sock = kernel.cgroup_sock(program)?;
    let link = cgroup_sock
        // As above.
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(|e| KernelError::attach(program, place(), &e))?;
    cgroup_sock.take_link(link).map_err(|e| KernelError::attach(program, place(), &e))
}

/// Attaches the program that notes the sockets of a cgroup which are asked about.
pub fn cgroup_options(
    kernel: &mut Kernel,
    cgroup: impl AsFd,
    path: &str,
) -> Result<CgroupSockoptLink, KernelError> {
    let program = programs::SOCKET_OLD;
    let place = || format!("the cgroup {path} (socket options)");
    let sockopt = kernel.cgroup_sockopt(program)?;
    let link = sockopt
        // As above.
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(|e| KernelError::attach(program, place(), &e))?;
    sockopt.take_link(link).map_err(|e| KernelError::attach(program, place(), &e))
}

/// Attaches a program to the calls of a cgroup's processes.
pub fn cgroup_call(
    kernel: &mut Kernel,
    program: &'static str,
    cgroup: impl AsFd,
    path: &str,
) -> Result<CgroupSockAddrLink, KernelError> {
    let place = || format!("the cgroup {path} (calls)");
    let sock_addr = kernel.cgroup_sock_addr(program)?;
    let link = sock_addr
        // As above: a link without a flag goes beside those of others.
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(|e| KernelError::attach(program, place(), &e))?;
    sock_addr.take_link(link).map_err(|e| KernelError::attach(program, place(), &e))
}
