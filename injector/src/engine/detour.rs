//! The way round that what arrives at a device takes where some fault keeps it back: a filter, an ifb, an fq.

use super::attachments::{Hands, Site, need_clsact};
use super::error::EngineError;
use super::queue::Queue;
use crate::host::ifb;
use crate::host::netlink::Netlink;
use crate::host::netns::NetnsId;
use crate::host::tc::{self, Direction};
use crate::journal::Entry;
use crate::kernel::attach::Rung;
use crate::kernel::programs;
use crate::kill_point::kill_point;

use aya::programs::tc::SchedClassifierLink;
use nix::errno::Errno;

/// Preference of our filter where the device has none: the kernel counts down from here for those who ask for none.
const LAST: u16 = 0xC001;

/// The way round of one device.
#[derive(Debug)]
pub(super) struct Detour {
    /// Name of the ifb, by which it is known to be ours.
    ifb: String,
    /// Handle of the filter, likewise.
    handle: u32,
    /// Where packets wait.
    queue: Queue,
    program: &'static str,
}

impl Detour {
    /// For the n-th struck device of an experiment.
    pub(super) fn new(experiment: &str, n: usize, is_ethernet: bool, queue: Queue) -> Self {
        Self {
            ifb: format!("ifb{experiment}{n}"),
            handle: u32::from_str_radix(experiment, 16).unwrap_or(1).max(1),
            queue,
            program: programs::DEVICE_IN_ROUND.for_device(is_ethernet),
        }
    }

    /// Makes the way round, in the device's namespace: what waits on it before what leads to it.
    pub(super) fn make(
        &self,
        hands: &mut Hands<'_>,
        (rung, namespace): (Rung, NetnsId),
        device: (u32, &str),
    ) -> Result<Option<SchedClassifierLink>, EngineError> {
        hands.journal.append(Entry::IfbMade { netns: namespace, ifname: self.ifb.clone() })?;
        let ifb = ifb::make(&mut Netlink::open()?, &self.ifb).map_err(without_ifb)?;
        kill_point("ifb made");
        self.queue.put(hands.journal, namespace, (ifb.index, &self.ifb), false)?;
        let (way, program) = (Direction::Egress, self.program);
        let site = Site { rung, namespace, name: &self.ifb, index: ifb.index, way, program };
        let attached = site.attach(hands)?;
        self.redirect(hands, namespace, device, ifb.index)?;
        Ok(attached)
    }

    /// The filter goes last: what others drop or take at ingress, they go on to see as it comes.
    fn redirect(
        &self,
        hands: &mut Hands<'_>,
        netns: NetnsId,
        (ifindex, name): (u32, &str),
        ifb: u32,
    ) -> Result<(), EngineError> {
        // Of the kernel's two ways to attach programs only this one has filters of another kind.
        let _neighbours = need_clsact(hands, netns, (ifindex, name))?;
        let mut netlink = Netlink::open()?;
        let taken = tc::filters(&mut netlink, ifindex, Direction::Ingress)?;
        let pref = last_preference(taken.iter().map(|filter| filter.pref).max());
        let handle = self.handle;
        let ifname = name.to_owned();
        let to = self.ifb.clone();
        hands.journal.append(Entry::Redirect { netns, ifindex, ifname, pref, handle, ifb: to })?;
        ifb::redirect(&mut netlink, ifindex, (pref, handle), ifb).map_err(without_ifb)?;
        kill_point("redirected");
        Ok(())
    }
}

/// Behind all others.
fn last_preference(highest: Option<u16>) -> u16 {
    highest.map_or(LAST, |highest| highest.saturating_add(1).max(LAST))
}

/// What the kernel lacks for a way round has a name and a remedy.
fn without_ifb(error: crate::host::netlink::NetlinkError) -> EngineError {
    match error.errno() {
        Some(Errno::EOPNOTSUPP | Errno::ENOENT) => EngineError::NoIfb { detail: error.to_string() },
        _ => error.into(),
    }
}

/// Tries whether this kernel has what a way round takes, on a device of the current network namespace that nobody uses.
pub(super) fn try_detour(ifindex: u32) -> Result<(), EngineError> {
    let mut netlink = Netlink::open()?;
    let ifb = ifb::make(&mut netlink, "ifbtrial").map_err(without_ifb)?;
    tc::add_clsact(&mut netlink, ifindex).map_err(without_ifb)?;
    // The namespace of the trial takes all of it with it.
    ifb::redirect(&mut netlink, ifindex, (LAST, 1), ifb.index).map_err(without_ifb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_filter_goes_last() {
        assert_eq!(last_preference(None), LAST);
        assert_eq!(last_preference(Some(1)), LAST);
        assert_eq!(last_preference(Some(LAST)), LAST + 1);
        assert_eq!(last_preference(Some(u16::MAX)), u16::MAX);
    }
}
