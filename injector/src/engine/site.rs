//! One attachment of a traffic-control program to a device, and what the device needs for it.

use std::collections::BTreeSet;

use aya::programs::tc::{SchedClassifierLink, qdisc_add_clsact};

use super::attachments::Hands;
use super::error::EngineError;
use crate::host::link::set_gso_max_segs;
use crate::host::netlink::Netlink;
use crate::host::netns::NetnsId;
use crate::host::tc::{self, Direction, HookQdisc};
use crate::journal::{Entry, Journal, Neighbours};
use crate::kernel::attach::{self, FilterId, Rung};
use crate::kill_point::kill_point;

/// The handle of our filters: one program per preference, so any number does.
const FILTER_HANDLE: u32 = 1;

/// `gso_max_segs` at which every packet is one segment.
const SINGLE_SEGMENT: u32 = 1;

/// One attachment to come.
pub(super) struct Site<'a> {
    pub(super) rung: Rung,
    pub(super) namespace: NetnsId,
    pub(super) name: &'a str,
    pub(super) index: u32,
    pub(super) way: Direction,
    pub(super) program: &'static str,
}

impl Site<'_> {
    /// Attaches; must be called in the device's namespace.
    pub(super) fn attach(&self, hands: &mut Hands<'_>) -> Result<Option<SchedClassifierLink>, EngineError> {
        let link = match self.rung {
            Rung::Tcx => Some(attach::tcx(hands.kernel, self.program, self.name, self.way)?),
            Rung::Clsact => {
                self.attach_filter(hands)?;
                None
            }
        };
        kill_point("device attached");
        Ok(link)
    }

    fn attach_filter(&self, hands: &mut Hands<'_>) -> Result<(), EngineError> {
        let _neighbours = need_clsact(hands, self.namespace, (self.index, self.name))?;
        let mut netlink = Netlink::open()?;
        let taken: BTreeSet<u16> =
            tc::filters(&mut netlink, self.index, self.way)?.iter().map(|f| f.pref).collect();
        let pref = free_preference(&taken);
        let program_id = attach::classifier_id(hands.kernel, self.program)?;
        hands.journal.append(Entry::Filter {
            netns: self.namespace,
            ifindex: self.index,
            ifname: self.name.to_owned(),
            direction: self.way,
            pref,
            handle: FILTER_HANDLE,
            program_id,
        })?;
        attach::filter(
            hands.kernel,
            self.program,
            self.name,
            self.way,
            FilterId { pref, handle: FILTER_HANDLE },
        )?;
        Ok(())
    }
}

/// Makes a clsact qdisc on a device of the current namespace unless there is one. Until the filter is there too, no other
/// experiment may find the qdisc empty and delete it, so the caller keeps what is returned until then.
pub(super) fn need_clsact(
    hands: &mut Hands<'_>,
    netns: NetnsId,
    (ifindex, name): (u32, &str),
) -> Result<Neighbours, EngineError> {
    let made = Entry::ClsactMade { netns, ifindex, ifname: name.to_owned() };
    let neighbours = hands.journal.neighbours()?;
    match tc::hook_qdisc(&mut Netlink::open()?, ifindex)? {
        Some(HookQdisc::Clsact) => {
            if neighbours.same(&made).is_some() {
                hands.journal.append(made)?;
            }
        }
        Some(HookQdisc::Ingress) => return Err(EngineError::ForeignIngress { device: name.to_owned() }),
        None => {
            hands.journal.append(made)?;
            qdisc_add_clsact(name).map_err(|source| EngineError::Clsact {
                device: name.to_owned(),
                source: Box::new(source),
            })?;
            kill_point("clsact made");
        }
    }
    Ok(neighbours)
}

/// The preference before all that are taken, or the first free one when 1 is taken.
fn free_preference(taken: &BTreeSet<u16>) -> u16 {
    match taken.first() {
        Some(&lowest) if lowest > 1 => lowest - 1,
        None => 1,
        Some(_) => (1..=u16::MAX).find(|pref| !taken.contains(pref)).unwrap_or(u16::MAX),
    }
}

/// Makes a device of the current namespace send single segments.
pub(super) fn split(
    journal: &mut Journal,
    netns: NetnsId,
    index: u32,
    name: &str,
) -> Result<(), EngineError> {
    let mut netlink = Netlink::open()?;
    let neighbours = journal.neighbours()?;
    let Some(device) = crate::host::link::get(&mut netlink, index)? else { return Ok(()) };
    let entry = Entry::GsoMaxSegs {
        netns,
        ifindex: index,
        ifname: name.to_owned(),
        previous: device.gso_max_segs,
        set: SINGLE_SEGMENT,
    };
    if device.gso_max_segs == SINGLE_SEGMENT {
        // Another experiment's doing is shared, with the value that it found; otherwise it was so.
        if let Some(shared) = neighbours.same(&entry) {
            journal.append(shared.clone())?;
        }
        return Ok(());
    }
    journal.append(entry)?;
    set_gso_max_segs(&mut netlink, index, SINGLE_SEGMENT)?;
    kill_point("gso set");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_filter_goes_first_if_there_is_room() {
        let pref = |taken: &[u16]| free_preference(&taken.iter().copied().collect());
        assert_eq!(pref(&[]), 1);
        assert_eq!(pref(&[49152, 49151]), 49150);
        assert_eq!(pref(&[1, 2, 4]), 3);
    }
}
