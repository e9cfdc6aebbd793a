//! The addresses of the nodes of a partition: those that the scenario gives them, or those of their namespaces.
//! Reads alone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use ipnet::IpNet;

use super::error::EngineError;
use super::prepare::TargetPlan;
use super::survey;
use crate::host::address;
use crate::host::netlink::Netlink;
use crate::host::netns::{NetnsId, namespaces_of};
use crate::journal::conflicts;
use crate::plan::{self, PlanError};
use crate::scenario::Scenario;

/// The addresses of every node of every partition, now. Refuses nodes that they don't tell apart.
pub(super) fn addresses(
    scenario: &Scenario,
    targets: &BTreeMap<String, TargetPlan>,
    peers: &BTreeMap<String, Vec<IpNet>>,
) -> Result<BTreeMap<String, Vec<IpNet>>, EngineError> {
    let mut all = BTreeMap::new();
    for fault in &scenario.faults {
        let Some(nodes) = fault.effect.nodes() else { continue };
        check_apart(&fault.id, nodes, targets)?;
        let mut owners = BTreeMap::<NetnsId, &String>::new();
        for node in nodes {
            let Some(target) = targets.get(node) else {
                return Err(PlanError::Unresolved(node.clone()).into());
            };
            if let Some(given) = peers.get(node) {
                all.insert(node.clone(), given.clone());
                continue;
            }
            let found = Found::of(target)?;
            if let Some(other) = found.namespaces.iter().find_map(|id| owners.get(id)) {
                let nodes = [(*other).clone(), node.clone()];
                return Err(PlanError::SharedNamespace { fault: fault.id.clone(), nodes }.into());
            }
            owners.extend(found.namespaces.iter().map(|id| (*id, node)));
            if let Some(why) = found.unknown {
                let (fault, node) = (fault.id.clone(), node.clone());
                return Err(PlanError::UnknownAddresses { fault, node, why }.into());
            }
            all.insert(node.clone(), found.addresses);
        }
        plan::check_nodes(&fault.id, nodes, &all)?;
    }
    Ok(all)
}

/// Refuses a node that is, or holds, another one.
fn check_apart(
    fault: &str,
    nodes: &[String],
    targets: &BTreeMap<String, TargetPlan>,
) -> Result<(), EngineError> {
    for (n, node) in nodes.iter().enumerate() {
        let Some(target) = targets.get(node) else { continue };
        let overlaps = |other: &&String| {
            targets.get(*other).is_some_and(|other| !conflicts(&[target.key()], &[other.key()]).is_empty())
        };
        if let Some(other) = nodes[..n].iter().find(overlaps) {
            let nodes = [other.clone(), node.clone()];
            return Err(PlanError::NestedNodes { fault: fault.to_owned(), nodes }.into());
        }
    }
    Ok(())
}

/// What a node's processes say of its addresses.
struct Found {
    namespaces: BTreeSet<NetnsId>,
    addresses: Vec<IpNet>,
    /// Why there are none.
    unknown: Option<&'static str>,
}

impl Found {
    fn of(target: &TargetPlan) -> Result<Self, EngineError> {
        let mut found = Self { namespaces: BTreeSet::new(), addresses: Vec::new(), unknown: None };
        if target.is_interface() {
            found.unknown = Some("packets of any address pass an interface");
            return Ok(found);
        }
        let namespaces = namespaces_of(survey::processes(target)?)?;
        for (id, fd) in &namespaces {
            found.namespaces.insert(*id);
            let addresses = address::list(&mut Netlink::open_in(fd.as_fd())?)?;
            found.addresses.extend(addresses.into_iter().map(IpNet::from));
        }
        if namespaces.is_empty() {
            found.unknown = Some("it has no process yet, whose network namespace would tell");
        } else if found.addresses.is_empty() {
            found.unknown = Some("its network namespace has none but those of loopback");
        }
        Ok(found)
    }
}
