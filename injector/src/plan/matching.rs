//! A `match` table in the kernel's form.

use std::collections::{BTreeMap, BTreeSet};

use injector_common::matching as border;
use injector_common::matching::{FlagPattern, Match, PortRange};
use ipnet::IpNet;

use super::addresses::AddressSets;
use super::{PlanError, World};
use crate::scenario::{self, AddressRef, Family, Scenario};

/// The devices of one list in a rule.
type Devices = [u32; border::MAX_DEVICES];

/// Lowers one table of a fault; its address lists become numbered sets.
pub(super) fn lower(
    fault: &str,
    from: &scenario::Match,
    world: &World,
    sets: &mut AddressSets,
) -> Result<Match, PlanError> {
    let mut to = Match::default();
    headers(from, &mut to);
    (to.local_ports, to.local_port_count) = ports(&from.local_ports);
    (to.remote_ports, to.remote_port_count) = ports(&from.remote_ports);
    for (slot, flags) in to.tcp_flags.iter_mut().zip(&from.tcp_flags) {
        *slot = FlagPattern {
            mask: flags.mask,
            value: flags.value,
            no_payload: u8::from(flags.pure_ack),
            _pad: 0,
        };
    }
    to.tcp_flag_count = from.tcp_flags.len().min(border::MAX_FLAG_PATTERNS) as u32;
    to.devices = devices(fault, &from.interfaces, &world.devices)?;
    to.devices_excluded = devices(fault, &from.device_exclude, &world.devices)?;
    if !from.local.is_empty() {
        to.local_set = sets.number(networks(&from.local, &world.peers));
    }
    if !from.remote.is_empty() {
        to.remote_set = sets.number(networks(&from.remote, &world.peers));
    }
    to.keys = keys(from);
    Ok(to)
}

fn headers(from: &scenario::Match, to: &mut Match) {
    for &protocol in &from.protocols {
        to.protocols[usize::from(protocol) / 64] |= 1 << (protocol % 64);
    }
    for &dscp in &from.dscp {
        to.dscp |= 1 << (dscp & 63);
    }
    to.family = match from.family {
        Some(Family::V4) => 4,
        Some(Family::V6) => 6,
        None => 0,
    };
    if let Some(length) = from.length {
        (to.length_min, to.length_max) = (length.min, length.max.unwrap_or(u32::MAX));
    }
    to.established = u32::from(from.established == Some(true));
}

fn keys(from: &scenario::Match) -> u32 {
    let given = [
        (border::KEY_PROTOCOL, !from.protocols.is_empty()),
        (border::KEY_FAMILY, from.family.is_some()),
        (border::KEY_LOCAL_PORT, !from.local_ports.is_empty()),
        (border::KEY_REMOTE_PORT, !from.remote_ports.is_empty()),
        (border::KEY_LOCAL, !from.local.is_empty()),
        (border::KEY_REMOTE, !from.remote.is_empty()),
        (border::KEY_TCP_FLAGS, !from.tcp_flags.is_empty()),
        (border::KEY_LENGTH, from.length.is_some()),
        (border::KEY_DSCP, !from.dscp.is_empty()),
        (border::KEY_DEVICE, !from.interfaces.is_empty()),
        (border::KEY_DEVICE_EXCLUDED, !from.device_exclude.is_empty()),
        (border::KEY_ESTABLISHED, from.established.is_some()),
    ];
    given.iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).sum()
}

fn ports(from: &[scenario::PortRange]) -> ([PortRange; border::MAX_PORT_RANGES], u32) {
    let mut to = [PortRange::default(); border::MAX_PORT_RANGES];
    for (slot, range) in to.iter_mut().zip(from) {
        *slot = PortRange { low: range.low, high: range.high };
    }
    (to, from.len().min(border::MAX_PORT_RANGES) as u32)
}

/// A name that no device bears now gives no index: it matches nothing until such a device appears.
///
/// One name may be borne in several namespaces, each time by a device of another index. Where the rule has no room
/// for all of them, leaving some out would strike others than were meant.
fn devices(
    fault: &str,
    names: &[String],
    indices: &BTreeMap<String, Vec<u32>>,
) -> Result<Devices, PlanError> {
    let found: BTreeSet<u32> = names.iter().filter_map(|name| indices.get(name)).flatten().copied().collect();
    if found.len() > border::MAX_DEVICES {
        let borne = |name: &&String| indices.get(*name).is_some_and(|indices| !indices.is_empty());
        return Err(PlanError::TooManyDevices {
            fault: fault.to_owned(),
            names: names.iter().filter(borne).cloned().collect(),
            devices: found.len(),
            max: border::MAX_DEVICES,
        });
    }
    let mut to = [0; border::MAX_DEVICES];
    for (slot, index) in to.iter_mut().zip(found) {
        *slot = index;
    }
    Ok(to)
}

/// Every table of a scenario that can name devices, with the id of its fault.
fn tables(scenario: &Scenario) -> impl Iterator<Item = (&str, &scenario::Match)> {
    scenario.faults.iter().flat_map(|fault| {
        std::iter::once(&fault.matcher).chain(&fault.exclude).map(|table| (fault.id.as_str(), table))
    })
}

/// Whether a scenario names any device in its rules.
pub(crate) fn names_devices(scenario: &Scenario) -> bool {
    tables(scenario).any(|(_, table)| !(table.interfaces.is_empty() && table.device_exclude.is_empty()))
}

/// Whether the rules can hold the devices that the scenario names, given the devices of each namespace.
pub(crate) fn check_devices(scenario: &Scenario, namespaces: &[Vec<(String, u32)>]) -> Result<(), PlanError> {
    let indices = device_indices(scenario, namespaces)?;
    for (fault, table) in tables(scenario) {
        devices(fault, &table.interfaces, &indices)?;
        devices(fault, &table.device_exclude, &indices)?;
    }
    Ok(())
}

/// The devices of several network namespaces under one name each, or the reason why an index can't stand for
/// a name in a rule.
pub(crate) fn device_indices(
    scenario: &Scenario,
    namespaces: &[Vec<(String, u32)>],
) -> Result<BTreeMap<String, Vec<u32>>, PlanError> {
    let mut indices = BTreeMap::<String, Vec<u32>>::new();
    for (fault, table) in tables(scenario) {
        for name in table.interfaces.iter().chain(&table.device_exclude) {
            let all = namespaces.iter().flatten();
            let found: BTreeSet<u32> = all.clone().filter(|(n, _)| n == name).map(|(_, i)| *i).collect();
            if let Some((other, index)) = all.clone().find(|(n, i)| n != name && found.contains(i)) {
                return Err(PlanError::AmbiguousDevice {
                    fault: fault.to_owned(),
                    device: name.clone(),
                    index: *index,
                    other: other.clone(),
                });
            }
            indices.insert(name.clone(), found.into_iter().collect());
        }
    }
    Ok(indices)
}

/// The networks that a list of addresses and names of `[peers]` means.
pub(super) fn networks(list: &[AddressRef], peers: &BTreeMap<String, Vec<IpNet>>) -> Vec<IpNet> {
    list.iter()
        .flat_map(|item| match item {
            AddressRef::Net(network) => vec![*network],
            AddressRef::Peers(name) => peers.get(name).cloned().unwrap_or_default(),
        })
        .collect()
}
