//! The queue in which packets wait for their time: an fq at the root of each device by which they leave.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::error::EngineError;
use super::takeover::Replaced;
use crate::host::netlink::{Netlink, NetlinkError};
use crate::host::netns::{self, NetnsId};
use crate::host::qdisc;
use crate::journal::{Entry, Journal};
use crate::kill_point::kill_point;

/// What fq drops lies further in the future than this. Departures are looked at a little later than they were set.
const MARGIN_US: u64 = 1_000_000;

/// How often is looked whether a queue has run empty.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The queue that an experiment needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// Handle of our qdiscs: a major number that is the experiment's own.
    handle: u32,
    horizon_us: u32,
    longest_ns: u64,
}

impl Queue {
    /// For packets that are kept back for so long at most.
    pub(super) fn new(mark: u16, longest_ns: u64) -> Self {
        // Majors from 0x8000 on are what the kernel gives to those who ask for none, low ones what people type.
        let major = 0x4000 | u32::from(mark & 0x3fff);
        let horizon_us = (longest_ns / 1000).saturating_add(MARGIN_US);
        Self { handle: major << 16, horizon_us: u32::try_from(horizon_us).unwrap_or(u32::MAX), longest_ns }
    }

    /// Puts fq at the root of a device of the current network namespace, journalled first. One that is ours already, or
    /// another experiment's, serves as well. What is lost of what was there, because with `takeover` it may be, is returned
    /// in a sentence.
    pub(super) fn put(
        self,
        journal: &mut Journal,
        netns: NetnsId,
        device: (u32, &str),
        takeover: bool,
    ) -> Result<Option<String>, EngineError> {
        let (ifindex, name) = device;
        let mut netlink = Netlink::open()?;
        let neighbours = journal.neighbours()?;
        let entry = |handle, horizon_us, replaced| Entry::FqMade {
            netns,
            ifindex,
            ifname: name.to_owned(),
            handle,
            horizon_us,
            replaced,
        };
        let found = qdisc::root(&mut netlink, ifindex)?;
        // A device that is down has none to show, and gets one all the same for when it comes up.
        let Some(root) = found.filter(|root| !root.is_default()) else {
            journal.append(entry(self.handle, self.horizon_us, Vec::new()))?;
            qdisc::add_fq(&mut netlink, ifindex, self.handle, self.horizon_us)?;
            kill_point("fq made");
            return Ok(None);
        };
        let is_this = |other: &Entry| is_queue_of(other, netns, ifindex, root.handle);
        if journal.entries().iter().any(|recorded| !recorded.undone && is_this(&recorded.entry)) {
            return Ok(None);
        }
        // Another experiment's is shared, goes with the last of them, and reaches as far as the longest of them needs. What was
        // there before them is put back by the last.
        let theirs = neighbours.entries().filter(|other| is_this(other)).filter_map(|other| match other {
            Entry::FqMade { horizon_us, replaced, .. } => Some((*horizon_us, replaced.clone())),
            _ => None,
        });
        if let Some((theirs_us, replaced)) = theirs.max_by_key(|(horizon_us, _)| *horizon_us) {
            let horizon_us = self.horizon_us.max(theirs_us);
            journal.append(entry(root.handle, horizon_us, replaced))?;
            qdisc::change_fq(&mut netlink, ifindex, root.handle, horizon_us)?;
            return Ok(None);
        }
        let unstable = NetlinkError::Unstable { operation: "look at the root qdisc" };
        let Some(replaced) = Replaced::find(&mut netlink, ifindex)? else { return Err(unstable.into()) };
        let replaced = replaced.allowed(takeover, netns, name)?;
        let warning = replaced.warning(name);
        journal.append(entry(self.handle, self.horizon_us, replaced.pieces.clone()))?;
        // Somebody may have changed it while it was tried whether it can be put back.
        if !replaced.is_still_there(&mut netlink, ifindex)? {
            return Err(unstable.into());
        }
        qdisc::replace_by_fq(&mut netlink, ifindex, self.handle, self.horizon_us)?;
        kill_point("fq made");
        Ok(warning)
    }

    /// Waits until the queues that are ours alone are empty, no longer than any packet waits and no longer than
    /// `patience`. Returns the packets that wait still, which go with the queue.
    pub(super) fn drain(self, journal: &Journal, patience: Duration) -> u32 {
        let deadline = Instant::now() + patience.min(Duration::from_nanos(self.longest_ns) + LOOK_INTERVAL);
        let own: Vec<&Entry> = {
            let neighbours = journal.neighbours().ok();
            let shared =
                |entry: &Entry| neighbours.as_ref().is_some_and(|others| others.living_user(entry).is_some());
            let left = journal.entries().iter().filter(|recorded| !recorded.undone);
            left.map(|recorded| &recorded.entry).filter(|entry| !shared(entry)).collect()
        };
        loop {
            let waiting: u32 = own.iter().map(|entry| waiting(entry)).sum();
            if waiting == 0 || Instant::now() >= deadline {
                return waiting;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// Whether an entry means the fq with this handle on this device.
fn is_queue_of(entry: &Entry, netns: NetnsId, ifindex: u32, handle: u32) -> bool {
    matches!(entry, Entry::FqMade { netns: n, ifindex: i, handle: h, .. }
        if (*n, *i, *h) == (netns, ifindex, handle))
}

/// Packets that wait in one of our queues. A device that is gone has none.
fn waiting(entry: &Entry) -> u32 {
    let Entry::FqMade { netns, ifindex, handle, .. } = entry else { return 0 };
    let root = || {
        let namespace = netns::find(*netns).ok()??;
        let mut netlink = Netlink::open_in(namespace.as_fd()).ok()?;
        qdisc::root(&mut netlink, *ifindex).ok()?
    };
    root().filter(|root| root.handle == *handle).map_or(0, |root| root.waiting)
}

/// Tries whether this kernel has fq, on a device of the current network namespace that nobody uses.
pub(super) fn try_fq(ifindex: u32) -> Result<(), EngineError> {
    let mut netlink = Netlink::open()?;
    match qdisc::add_fq(&mut netlink, ifindex, 1 << 16, 0) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT)) => Err(EngineError::NoFq),
        Err(error) => Err(error.into()),
    }
}
