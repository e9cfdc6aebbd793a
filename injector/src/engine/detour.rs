//! The way round that what arrives at a device takes where some fault keeps it back: a filter, an ifb, an fq.

use super::attachments::Hands;
use super::error::EngineError;
use super::queue::Queue;
use super::site::{Site, need_clsact};
use crate::host::ifb::{self, Which};
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::host::netns::NetnsId;
use crate::host::tc::{self, Direction};
use crate::journal::Entry;
use crate::kernel::attach::{self, Rung};
use crate::kernel::{Kernel, programs};
use crate::kill_point::kill_point;

use aya::programs::tc::SchedClassifierLink;
use nix::errno::Errno;

/// Preference of our filter where the device has none: the kernel counts down from here for those who ask for none.
const LAST: u16 = 0xC001;

/// How the name of an ifb ends that is for what arrives at cgroups; those of devices end in a number.
const OF_CGROUPS: &str = "c";

/// A way round.
#[derive(Clone, Debug)]
pub(super) struct Detour {
    /// Name of the ifb, by which it is known to be ours.
    ifb: String,
    /// Handle of the filter, likewise.
    handle: u32,
    /// Where packets wait.
    queue: Queue,
    takes: Takes,
}

/// What takes a way round.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// All that arrives at a device; on the way this program has the rules.
    All { program: &'static str },
    /// What has the mark of packets that a program has decided to keep back where they arrived.
    Marked,
}

impl Detour {
    /// For the n-th struck device of an experiment.
    pub(super) fn new(experiment: &str, n: usize, is_ethernet: bool, queue: Queue) -> Self {
        let takes = Takes::All { program: programs::DEVICE_IN_ROUND.for_device(is_ethernet) };
        Self::of(experiment, &n.to_string(), queue, takes)
    }

    /// For what arrives at cgroups: one for all devices of a network namespace.
    pub(super) fn of_cgroups(experiment: &str, queue: Queue) -> Self {
        Self::of(experiment, OF_CGROUPS, queue, Takes::Marked)
    }

    fn of(experiment: &str, which: &str, queue: Queue, takes: Takes) -> Self {
        let handle = u32::from_str_radix(experiment, 16).unwrap_or(1).max(1);
        Self { ifb: format!("ifb{experiment}{which}"), handle, queue, takes }
    }

    /// Makes the way round, in the device's namespace: what waits on it before what leads to it.
    pub(super) fn make(
        &self,
        hands: &mut Hands<'_>,
        (rung, namespace): (Rung, NetnsId),
        device: (u32, &str),
    ) -> Result<Option<SchedClassifierLink>, EngineError> {
        let ifb = self.make_ifb(hands, namespace)?;
        let attached = match self.takes {
            Takes::All { program } => {
                let (way, name) = (Direction::Egress, &*self.ifb);
                Site { rung, namespace, name, index: ifb, way, program }.attach(hands)?
            }
            Takes::Marked => None,
        };
        self.redirect(hands, namespace, device, ifb)?;
        Ok(attached)
    }

    /// The index of the ifb in the current namespace, which is made where there is none yet.
    fn make_ifb(&self, hands: &mut Hands<'_>, netns: NetnsId) -> Result<u32, EngineError> {
        let mut netlink = Netlink::open()?;
        let made = Entry::IfbMade { netns, ifname: self.ifb.clone() };
        if has(hands, &made)
            && let Some(ifb) = link::list(&mut netlink)?.into_iter().find(|device| device.name == self.ifb)
        {
            // Its queue is there too, unless the last look failed in between.
            self.queue.put(hands.journal, netns, (ifb.index, &self.ifb), false)?;
            return Ok(ifb.index);
        }
        hands.journal.append(made)?;
        let ifb = ifb::make(&mut netlink, &self.ifb).map_err(without_ifb)?;
        kill_point("ifb made");
        self.queue.put(hands.journal, netns, (ifb.index, &self.ifb), false)?;
        Ok(ifb.index)
    }

    /// Whether another experiment's way round of the same device would take what is ours, or ours what is its.
    fn is_in_the_way(&self, other: &Entry, netns: NetnsId, ifindex: u32) -> bool {
        let Entry::Redirect { netns: n, ifindex: i, ifb, .. } = other else { return false };
        // Those of cgroups take what has their own mark and nothing else.
        let takes_all = matches!(self.takes, Takes::All { .. }) || !ifb.ends_with(OF_CGROUPS);
        takes_all && (*n, *i) == (netns, ifindex)
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
        let neighbours = need_clsact(hands, netns, (ifindex, name))?;
        if neighbours.entries().any(|other| self.is_in_the_way(other, netns, ifindex)) {
            return Err(EngineError::WayTaken { device: name.to_owned() });
        }
        let mut netlink = Netlink::open()?;
        let taken = tc::filters(&mut netlink, ifindex, Direction::Ingress)?;
        // A namespace that is used again has the filters still that it had.
        let ours = |entry: &Entry| matches!(entry, Entry::Redirect { netns: n, ifindex: i, .. } if (*n, *i) == (netns, ifindex));
        let is_ours = hands.journal.entries().iter().any(|made| !made.undone && ours(&made.entry));
        if is_ours && taken.iter().any(|filter| filter.handle == self.handle) {
            return Ok(());
        }
        let pref = last_preference(taken.iter().map(|filter| filter.pref).max());
        let handle = self.handle;
        let ifname = name.to_owned();
        let to = self.ifb.clone();
        hands.journal.append(Entry::Redirect { netns, ifindex, ifname, pref, handle, ifb: to })?;
        match self.takes {
            Takes::All { .. } => ifb::redirect(&mut netlink, ifindex, (pref, handle), ifb, Which::All),
            Takes::Marked => {
                let chooser = attach::classifier_fd(hands.kernel, programs::ROUND)?;
                let which = Which::Chosen(chooser, programs::ROUND);
                ifb::redirect(&mut netlink, ifindex, (pref, handle), ifb, which)
            }
        }
        .map_err(without_ifb)?;
        kill_point("redirected");
        Ok(())
    }
}

/// Whether the journal has an entry that was not taken back.
fn has(hands: &Hands<'_>, entry: &Entry) -> bool {
    hands.journal.entries().iter().any(|made| !made.undone && made.entry == *entry)
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

/// Tries whether this kernel has what a way round takes, on a device of the current network namespace that nobody uses: for all that
/// arrives, or with a kernel half for what is marked.
pub(super) fn try_detour(ifindex: u32, marked: Option<&mut Kernel>) -> Result<(), EngineError> {
    let mut netlink = Netlink::open()?;
    let ifb = ifb::make(&mut netlink, "ifbtrial").map_err(without_ifb)?;
    tc::add_clsact(&mut netlink, ifindex).map_err(without_ifb)?;
    let which = match marked {
        None => Which::All,
        Some(kernel) => Which::Chosen(attach::classifier_fd(kernel, programs::ROUND)?, programs::ROUND),
    };
    // The namespace of the trial takes all of it with it.
    ifb::redirect(&mut netlink, ifindex, (LAST, 1), ifb.index, which).map_err(without_ifb)
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
