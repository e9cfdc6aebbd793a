//! What is attached where, kept up to date while namespaces and devices come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::cgroup_skb::CgroupSkbLink;
use aya::programs::cgroup_sock::CgroupSockLink;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::tc::SchedClassifierLink;

use super::detour::Detour;
use super::error::EngineError;
use super::queue::Queue;
use super::site::{Site, split};
use super::takeover::Users;

use crate::host::link::{Device, LinkEvent, LinkWatch, attach_points, list};
use crate::host::netlink::Netlink;
use crate::host::netns::{NetnsId, enter, namespaces_beside};
use crate::host::tc::Direction;
use crate::journal::Journal;
use crate::kernel::attach::{self, Rung};
use crate::kernel::functions::Function;
use crate::kernel::{Kernel, programs, xdp};
use crate::kill_point::kill_point;

/// The two things that attaching changes, always together.
pub(super) struct Hands<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) journal: &'a mut Journal,
}

/// One network namespace in which cgroup targets are struck.
#[derive(Debug)]
struct Namespace {
    fd: OwnedFd,
    watch: LinkWatch,
    /// Attached devices by index. A filter has no link: the journal has it.
    devices: BTreeMap<u32, (String, Vec<SchedClassifierLink>)>,
    /// Names and indices of all its devices, attached or not.
    names: BTreeMap<u32, String>,
    /// Whether a configured root qdisc may be lost here.
    takeover: bool,
    /// Some device could not be attached at the last look: the next one tries again.
    is_stale: bool,
}

/// A device that is struck as a whole.
#[derive(Debug)]
pub(super) struct StruckDevice {
    /// Its name.
    pub(super) name: String,
    /// Its index.
    pub(super) index: u32,
    /// The directions in which it is struck, and the program of each.
    pub(super) ways: BTreeSet<(Direction, &'static str)>,
    /// Whether it must send single segments.
    pub(super) per_segment: bool,
    /// Where packets wait that leave and are kept back.
    pub(super) queue: Option<Queue>,
    /// Whether a configured root qdisc may be lost for that.
    pub(super) takeover: bool,
    /// What is done at XDP to what arrives, if anything is.
    pub(super) at_xdp: Option<AtXdp>,
    /// The way round of what arrives, if some of it is kept back.
    pub(super) detour: Option<Detour>,
}

/// What is done to packets at XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AtXdp {
    /// They are lost or changed.
    Takes,
    /// Some are sent back as another packet.
    SendsBack,
}

/// How cgroup targets are struck at the devices of their network namespaces.
#[derive(Debug, Default)]
pub(super) struct CgroupWays {
    /// Whether what they send is struck there.
    pub(super) egress: bool,
    /// Whether what arrives at them is.
    pub(super) arrival: bool,
    /// Whether the devices must send single segments.
    pub(super) per_segment: bool,
    /// Where what they send waits, if some of it is kept back.
    pub(super) queue: Option<Queue>,
    /// The way round of what arrives, if some of it is kept back.
    pub(super) detour: Option<Detour>,
}

/// All attachments of an experiment. Links go when this is dropped; filters go with the journal.
#[derive(Debug)]
pub(super) struct Attachments {
    rung: Rung,
    ways: CgroupWays,
    cgroups: Vec<CgroupSkbLink>,
    sockets: Vec<CgroupSockLink>,
    calls: Vec<CgroupSockAddrLink>,
    functions: Vec<OwnedFd>,
    namespaces: BTreeMap<NetnsId, Namespace>,
    devices: Vec<SchedClassifierLink>,
    /// By name, of devices in the controller's own namespace.
    xdp: BTreeMap<String, xdp::Attached>,
    /// What has been lost of configured root qdiscs, in sentences that nobody has been told yet.
    losses: Vec<String>,
}

impl Attachments {
    /// None yet.
    pub(super) fn new(rung: Rung, ways: CgroupWays) -> Self {
        Self {
            rung,
            ways,
            cgroups: Vec::new(),
            sockets: Vec::new(),
            calls: Vec::new(),
            functions: Vec::new(),
            namespaces: BTreeMap::new(),
            devices: Vec::new(),
            xdp: BTreeMap::new(),
            losses: Vec::new(),
        }
    }

    /// What has been lost of configured root qdiscs since the last call, in sentences.
    pub(super) fn take_losses(&mut self) -> Vec<String> {
        std::mem::take(&mut self.losses)
    }

    /// Attaches the ingress program to a cgroup.
    pub(super) fn attach_cgroup(
        &mut self,
        kernel: &mut Kernel,
        directory: &std::fs::File,
        path: &str,
    ) -> Result<(), EngineError> {
        self.cgroups.push(attach::cgroup_ingress(kernel, programs::INGRESS, directory, path)?);
        kill_point("cgroup attached");
        Ok(())
    }

    /// Attaches what notes the sockets of a cgroup, so that what arrives at them is known where it arrives.
    pub(super) fn attach_sockets(
        &mut self,
        kernel: &mut Kernel,
        directory: &std::fs::File,
        path: &str,
    ) -> Result<(), EngineError> {
        self.sockets.push(attach::cgroup_sockets(kernel, directory, path)?);
        self.cgroups.push(attach::cgroup_ingress(kernel, programs::SOCKET_SEEN, directory, path)?);
        kill_point("sockets attached");
        Ok(())
    }

    /// Attaches a program to the calls of a cgroup's processes.
    pub(super) fn attach_call(
        &mut self,
        kernel: &mut Kernel,
        program: &'static str,
        (directory, path): (&std::fs::File, &str),
    ) -> Result<(), EngineError> {
        self.calls.push(attach::cgroup_call(kernel, program, directory, path)?);
        kill_point("calls attached");
        Ok(())
    }

    /// Attaches a program to a function of the kernel.
    pub(super) fn attach_function(
        &mut self,
        kernel: &Kernel,
        function: &Function,
    ) -> Result<(), EngineError> {
        self.functions.push(kernel.functions()?.attach(function)?);
        kill_point("function attached");
        Ok(())
    }

    /// Attaches the programs of a device that is struck as a whole, in the controller's own namespace.
    pub(super) fn attach_device(
        &mut self,
        hands: &mut Hands<'_>,
        namespace: NetnsId,
        device: &StruckDevice,
    ) -> Result<(), EngineError> {
        if let Some(queue) = device.queue {
            let on = (device.index, device.name.as_str());
            self.losses.extend(queue.put(hands.journal, namespace, on, device.takeover)?);
        }
        if let Some(detour) = &device.detour {
            self.devices.extend(detour.make(hands, (self.rung, namespace), (device.index, &device.name))?);
        }
        for &(way, program) in &device.ways {
            let site =
                Site { rung: self.rung, namespace, name: &device.name, index: device.index, way, program };
            self.devices.extend(site.attach(hands)?);
        }
        if let Some(done) = device.at_xdp {
            let at = (device.name.as_str(), device.index);
            self.xdp.insert(device.name.clone(), super::xdp::attach(hands.kernel, at, done)?);
            kill_point("xdp attached");
        }
        if device.per_segment {
            split(hands.journal, namespace, device.index, &device.name)?;
        }
        Ok(())
    }

    /// Attaches in every namespace that the processes use and that is not yet known, and drops those that
    /// nobody uses any more. Returns whether a name or index of a device changed.
    pub(super) fn scan(&mut self, hands: &mut Hands<'_>, users: &Users) -> Result<bool, EngineError> {
        let (used, new) = namespaces_beside(self.namespaces.keys(), users.pids.iter().copied())?;
        let (consenting, new_and_consenting) =
            namespaces_beside(self.namespaces.keys(), users.consenting.iter().copied())?;
        let mut changed = false;
        // A namespace that we hold open lives on, with all its devices. Filters need it until the end, though:
        // no link would take them away.
        if self.rung == Rung::Tcx {
            let before = self.namespaces.len();
            self.namespaces.retain(|id, _| used.contains(id));
            changed = self.namespaces.len() != before;
        }
        for id in consenting {
            if let Some(known) = self.namespaces.get_mut(&id) {
                known.takeover = true;
            }
        }
        for (id, fd) in new {
            self.enter_namespace(hands, (id, fd), new_and_consenting.contains_key(&id))?;
            changed = true;
        }
        for id in self.namespaces.keys().copied().collect::<Vec<_>>() {
            changed |= self.follow_devices(hands, id)?;
        }
        Ok(changed)
    }

    fn enter_namespace(
        &mut self,
        hands: &mut Hands<'_>,
        (id, fd): (NetnsId, OwnedFd),
        takeover: bool,
    ) -> Result<(), EngineError> {
        // The watch first, the list after it: no device falls between the two.
        let watch = LinkWatch::open_in(fd.as_fd())?;
        let devices = list(&mut Netlink::open_in(fd.as_fd())?)?;
        let (devices_of, names, is_stale) = (BTreeMap::new(), BTreeMap::new(), false);
        let namespace = Namespace { fd, watch, devices: devices_of, names, takeover, is_stale };
        self.namespaces.insert(id, namespace);
        self.attach_new(hands, id, &devices)
    }

    /// Applies what the watch of one namespace has seen. Any event ends in a fresh list, which is cheap and
    /// can't drift from the truth.
    fn follow_devices(&mut self, hands: &mut Hands<'_>, id: NetnsId) -> Result<bool, EngineError> {
        let Some(namespace) = self.namespaces.get_mut(&id) else { return Ok(false) };
        let mut changed = namespace.is_stale;
        while let Some(event) = namespace.watch.try_next()? {
            if let LinkEvent::Gone { index, .. } = event {
                namespace.devices.remove(&index);
                namespace.names.remove(&index);
            }
            changed = true;
        }
        if changed {
            let devices = list(&mut Netlink::open_in(namespace.fd.as_fd())?)?;
            self.attach_new(hands, id, &devices)?;
        }
        Ok(changed)
    }

    fn attach_new(&mut self, hands: &mut Hands<'_>, id: NetnsId, all: &[Device]) -> Result<(), EngineError> {
        let Some(namespace) = self.namespaces.get_mut(&id) else { return Ok(()) };
        namespace.names = all.iter().map(|device| (device.index, device.name.clone())).collect();
        if !self.ways.egress && !self.ways.arrival {
            // What arrives is struck at the cgroup, but its rules may name devices too.
            return Ok(());
        }
        // Until all are attached: an error leaves by the `?` below, and what it leaves out is tried at the next look.
        namespace.is_stale = true;
        for device in attach_points(all) {
            if namespace.devices.contains_key(&device.index) {
                continue;
            }
            let (rung, ways, takeover) = (self.rung, &self.ways, namespace.takeover);
            let mut lost = None;
            let attached = enter(namespace.fd.as_fd(), || {
                attach_ways(hands, (rung, id), ways, &device, (takeover, &mut lost))
            })?;
            self.losses.extend(lost);
            match attached {
                Ok(links) => drop(namespace.devices.insert(device.index, (device.name.clone(), links))),
                // It may have gone away between the list and the attachment, whatever the error was then.
                Err(_) if is_gone(namespace, device.index)? => {}
                Err(error) => return Err(error),
            }
        }
        namespace.is_stale = false;
        Ok(())
    }

    /// Names and indices of the devices of each namespace.
    pub(super) fn device_names(&self) -> Vec<Vec<(String, u32)>> {
        let names = |ns: &Namespace| ns.names.iter().map(|(index, name)| (name.clone(), *index)).collect();
        self.namespaces.values().map(names).collect()
    }

    /// Number of devices with a program, for status and logs.
    pub(super) fn device_count(&self) -> usize {
        self.devices.len()
            + self.xdp.len()
            + self.namespaces.values().map(|ns| ns.devices.len()).sum::<usize>()
    }

    /// The devices that are struck at XDP, and how.
    pub(super) fn at_xdp(&self) -> &BTreeMap<String, xdp::Attached> {
        &self.xdp
    }

    /// Number of namespaces in which cgroup targets are struck.
    pub(super) fn namespace_count(&self) -> usize {
        self.namespaces.len()
    }
}

/// Attaches what cgroup targets need to one device, in its namespace.
fn attach_ways(
    hands: &mut Hands<'_>,
    (rung, namespace): (Rung, NetnsId),
    ways: &CgroupWays,
    device: &Device,
    (takeover, lost): (bool, &mut Option<String>),
) -> Result<Vec<SchedClassifierLink>, EngineError> {
    let (name, index) = (&*device.name, device.index);
    let site = |way, program: programs::Classifier| {
        let program = program.for_device(device.is_ethernet());
        Site { rung, namespace, name, index, way, program }
    };
    let mut links = Vec::new();
    if ways.egress {
        // Before the program: what it sends to a device without the queue would not wait.
        if let Some(queue) = ways.queue {
            *lost = queue.put(hands.journal, namespace, (index, name), takeover)?;
        }
        links.extend(site(Direction::Egress, programs::EGRESS).attach(hands)?);
        if ways.per_segment {
            split(hands.journal, namespace, index, name)?;
        }
    }
    if ways.arrival {
        // Likewise.
        if let Some(detour) = &ways.detour {
            links.extend(detour.make(hands, (rung, namespace), (index, name))?);
        }
        links.extend(site(Direction::Ingress, programs::ARRIVE).attach(hands)?);
    }
    Ok(links)
}

fn is_gone(namespace: &Namespace, index: u32) -> Result<bool, EngineError> {
    Ok(crate::host::link::get(&mut Netlink::open_in(namespace.fd.as_fd())?, index)?.is_none())
}
