//! The queueing discipline at the root of a device: which is there, and an fq of our own in place of the default.
//!
//! fq (`net/sched/sch_fq.c`) is the one qdisc that lets a packet wait until its own time of departure. The default that the
//! kernel made by itself has no handle, and the kernel makes it again when ours is deleted. What somebody has configured
//! has a handle, and `qdisc_tree` knows whether it can be put back.

use nix::errno::Errno;
use nix::libc;

use super::Undone;
use super::netlink::{Netlink, NetlinkError, Request, u32_at};
use super::tc::{TCA_KIND, TCA_OPTIONS, TCMSG_LEN, tcmsg};

pub(super) const TC_H_ROOT: u32 = 0xFFFF_FFFF;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_FQ_PLIMIT: u16 = 1;
const TCA_FQ_FLOW_PLIMIT: u16 = 2;
const TCA_FQ_RATE_ENABLE: u16 = 5;
const TCA_FQ_ORPHAN_MASK: u16 = 10;
const TCA_FQ_HORIZON: u16 = 14;

/// Packets that may wait, all flows together. Only as many as wait take memory.
const PACKETS: u32 = 1_000_000;

/// The qdisc at the root of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootQdisc {
    /// Its kind: `fq`, `noqueue`, `mq`, ...
    pub kind: String,
    /// Its handle; 0 is that of a default that the kernel made by itself.
    pub handle: u32,
    /// Packets that wait in it.
    pub waiting: u32,
}

impl RootQdisc {
    /// Whether the kernel made it by itself, and would again.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.handle == 0
    }
}

/// The root qdisc of a device of the socket's namespace; `None` while the device is down and has none.
pub fn root(netlink: &mut Netlink, ifindex: u32) -> Result<Option<RootQdisc>, NetlinkError> {
    let request = Request::new("list the qdiscs", libc::RTM_GETQDISC, &tcmsg(ifindex, 0, 0, 0));
    let replies = netlink.dump(&request)?;
    Ok(replies.iter().find_map(|reply| {
        let (fixed, attributes) = reply.split(TCMSG_LEN)?;
        if u32_at(fixed, 4)? != ifindex || u32_at(fixed, 12)? != TC_H_ROOT {
            return None;
        }
        let queue = attributes.nested(TCA_STATS2).and_then(|stats| stats.get(TCA_STATS_QUEUE));
        Some(RootQdisc {
            kind: attributes.text(TCA_KIND)?,
            handle: u32_at(fixed, 8)?,
            // `struct gnet_stats_queue`: qlen, backlog, drops, ...
            waiting: queue.and_then(|queue| u32_at(queue, 0)).unwrap_or_default(),
        })
    }))
}

/// Put fq at the root of a device that has the default there.
pub fn add_fq(netlink: &mut Netlink, ifindex: u32, handle: u32, horizon_us: u32) -> Result<(), NetlinkError> {
    let request = fq("put fq at the root", ifindex, handle, horizon_us);
    netlink.execute(&request.flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL))
}

/// Put fq at the root of a device in place of what somebody has configured there.
pub fn replace_by_fq(
    netlink: &mut Netlink,
    ifindex: u32,
    handle: u32,
    horizon_us: u32,
) -> Result<(), NetlinkError> {
    let request = fq("put fq in place of the root qdisc", ifindex, handle, horizon_us);
    netlink.execute(&request.flags(libc::NLM_F_CREATE | libc::NLM_F_REPLACE))
}

/// Set the horizon of an fq that is there. What waits in it goes on waiting.
pub fn change_fq(
    netlink: &mut Netlink,
    ifindex: u32,
    handle: u32,
    horizon_us: u32,
) -> Result<(), NetlinkError> {
    netlink.execute(&fq("change the fq at the root", ifindex, handle, horizon_us))
}

fn fq(operation: &'static str, ifindex: u32, handle: u32, horizon_us: u32) -> Request {
    let options = Request::nested(&[
        (TCA_FQ_PLIMIT, &PACKETS.to_ne_bytes()),
        (TCA_FQ_FLOW_PLIMIT, &PACKETS.to_ne_bytes()),
        // Its pacing of sockets is left to TCP itself, as it was without fq.
        (TCA_FQ_RATE_ENABLE, &0_u32.to_ne_bytes()),
        // Packets without a socket are told apart by their whole hash: nobody waits behind what we keep back.
        (TCA_FQ_ORPHAN_MASK, &u32::MAX.to_ne_bytes()),
        (TCA_FQ_HORIZON, &horizon_us.to_ne_bytes()),
    ]);
    Request::new(operation, libc::RTM_NEWQDISC, &tcmsg(ifindex, handle, TC_H_ROOT, 0))
        .attribute(TCA_KIND, b"fq\0")
        .attribute(TCA_OPTIONS, &options)
}

/// Delete the fq at the root of a device, if it has the handle that we gave it. What waits in it is dropped.
pub fn delete_fq(netlink: &mut Netlink, ifindex: u32, handle: u32) -> Result<Undone, NetlinkError> {
    match root(netlink, ifindex)? {
        None => return Ok(Undone::AlreadyGone),
        Some(found) if found.is_default() => return Ok(Undone::AlreadyGone),
        Some(found) if found.kind != "fq" || found.handle != handle => {
            let why = format!(
                "the root qdisc is {} {:x}:, not fq {:x}:",
                found.kind,
                found.handle >> 16,
                handle >> 16
            );
            return Ok(Undone::NotOurs { why });
        }
        Some(_) => {}
    }
    let fixed = tcmsg(ifindex, handle, TC_H_ROOT, 0);
    match netlink.execute(&Request::new("delete the fq at the root", libc::RTM_DELQDISC, &fixed)) {
        Ok(()) => Ok(Undone::Removed),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(Undone::AlreadyGone),
        Err(error) => Err(error),
    }
}
