//! Devices that are set down and up again: a fault that the controller itself does.

use std::collections::BTreeMap;
use std::time::Duration;

use injector_common::layout::Counters;
use injector_common::window::Window;

use super::error::EngineError;
use super::prepare::{Prepared, TargetPlan};
use super::watchdog::Watchdog;
use crate::host::link::{self, Device};
use crate::host::link_state::{LinkState, LinkStateError};
use crate::host::netlink::Netlink;
use crate::host::netns::NetnsId;
use crate::host::{address, route, ssh};
use crate::journal::{Entry, Journal};
use crate::kill_point::kill_point;
use crate::plan::{self, PlanError};
use crate::scenario::{Effect, Scenario};
use crate::target::{Danger, SafetyPolicy, Strike, TargetError, TargetWarning};

/// Refuses devices that must not be set down, or that could not be put back. What is forced all the same is a warning.
pub(super) fn check(
    scenario: &Scenario,
    targets: &BTreeMap<String, TargetPlan>,
    policy: SafetyPolicy,
) -> Result<Vec<String>, EngineError> {
    let (mut warnings, mut known) = (Vec::new(), BTreeMap::new());
    for fault in scenario.faults.iter().filter(|fault| fault.effect == Effect::Link) {
        let refused = |why: String| PlanError::Link { fault: fault.id.clone(), why };
        for target in fault.targets.iter().filter_map(|name| targets.get(name)) {
            let (spec, device) = match target {
                TargetPlan::Found(found) => match &found.strike {
                    Strike::Interface { device, .. } if device.loopback => {
                        return Err(refused("a loopback device has no link".to_owned()).into());
                    }
                    Strike::Interface { device, .. } => (&found.spec, device),
                    _ => return Err(refused("its target is no `interface`".to_owned()).into()),
                },
                TargetPlan::Run(_) => return Err(refused("its target is no `interface`".to_owned()).into()),
            };
            if let Some(other) = known.insert(device.index, &fault.id) {
                return Err(refused(format!("`{other}` sets {} down too", device.name)).into());
            }
            let mut netlink = Netlink::open()?;
            let state = match LinkState::read(&mut netlink, device) {
                Err(LinkStateError::Netlink(error)) => return Err(error.into()),
                Err(LinkStateError::Unrestorable(why)) => {
                    return Err(refused(format!("{} can't be put back: {why}", device.name)).into());
                }
                Ok(state) => state,
            };
            match danger(&mut netlink, device, &state)? {
                Some(danger) if !policy.force => {
                    return Err(TargetError::Unsafe { target: spec.clone(), danger }.into());
                }
                Some(danger) => warnings.push(TargetWarning::Forced { danger }.to_string()),
                None => {}
            }
        }
    }
    Ok(warnings)
}

fn danger(netlink: &mut Netlink, device: &Device, state: &LinkState) -> Result<Option<Danger>, EngineError> {
    let (own, all) = (address::of_device(netlink, device.index)?, address::list(netlink)?);
    // A session whose address is not here ends in another network namespace.
    for session in ssh::needed_sessions()?.into_iter().filter(|session| all.contains(&session.local.ip())) {
        let (local, remote) = (session.local.ip(), session.remote.ip());
        // What arrives by one device may be answered by another, and neither may go down.
        if own.contains(&local) || route::device_towards(netlink, local, remote)? == Some(device.index) {
            return Ok(Some(Danger::CarriesSsh));
        }
    }
    Ok(state.has_default_route().then_some(Danger::DefaultRoute))
}

/// The links of an experiment.
#[derive(Debug)]
pub(super) struct Links {
    all: Vec<Link>,
    id: String,
    duration: Duration,
    /// Who sets them up again if this process can't.
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Link {
    /// Position of its fault.
    fault: usize,
    window: Window,
    index: u32,
    /// Where the journal has it while it is down.
    entry: Option<usize>,
    times: u64,
}

impl Links {
    /// All of them, up.
    pub(super) fn new(prepared: &Prepared) -> Self {
        let (mut all, scenario) = (Vec::new(), &prepared.scenario);
        let windows = plan::own_windows(scenario, prepared.seed).into_iter();
        for (fault, window) in windows.filter(|(fault, _)| scenario.faults[*fault].effect == Effect::Link) {
            let names = scenario.faults[fault].targets.iter();
            for target in names.filter_map(|name| prepared.targets.get(name)) {
                let TargetPlan::Found(found) = target else { continue };
                let Strike::Interface { device, .. } = &found.strike else { continue };
                all.push(Link { fault, window, index: device.index, entry: None, times: 0 });
            }
        }
        let duration = Duration::from_nanos(scenario.duration_ns);
        Self { all, id: prepared.id.clone(), duration, watchdog: None }
    }

    /// Sets down and up what is due so long after the start.
    pub(super) fn follow(&mut self, elapsed: Duration, journal: &mut Journal) -> Result<(), EngineError> {
        // A controller that was stopped meanwhile may come here after the end.
        let is_over = elapsed >= self.duration;
        let is_open = |link: &Link| !is_over && link.window.is_open(elapsed.as_nanos() as u64);
        // Those first that are to be up: one that fails holds up no other, and the next look tries again.
        let mut failed = None;
        for link in self.all.iter_mut().filter(|link| !is_open(link)) {
            if let Err(error) = link.up(journal) {
                failed.get_or_insert(error);
            }
        }
        for n in 0..self.all.len() {
            if is_open(&self.all[n]) && self.all[n].entry.is_none() {
                self.watch(elapsed)?;
                self.all[n].down(journal)?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sets all up that are down. What fails stays in the journal, which is taken back later, and tells of it.
    pub(super) fn all_up(&mut self, journal: &mut Journal) {
        for link in &mut self.all {
            let _ = link.up(journal);
        }
    }

    /// Nothing goes down without somebody who would set it up.
    fn watch(&mut self, elapsed: Duration) -> Result<(), EngineError> {
        if !self.watchdog.as_mut().is_some_and(Watchdog::is_alive) {
            let left = self.duration.saturating_sub(elapsed);
            self.watchdog = Some(Watchdog::start(&self.id, left).map_err(EngineError::Runtime)?);
        }
        Ok(())
    }

    /// How often the devices of a fault went down.
    pub(super) fn counters(&self, fault: usize) -> impl Iterator<Item = Counters> {
        let own = self.all.iter().filter(move |link| link.fault == fault);
        own.map(|link| Counters { matched: link.times, injected: link.times, ..Counters::default() })
    }
}

impl Link {
    /// Sets it up again, if it is down.
    fn up(&mut self, journal: &mut Journal) -> Result<(), EngineError> {
        let Some(entry) = self.entry else { return Ok(()) };
        if let Some(Err(error)) = journal.undo(entry).map(|outcome| outcome.result) {
            return Err(EngineError::Link(Box::new(error)));
        }
        self.entry = None;
        Ok(())
    }

    fn down(&mut self, journal: &mut Journal) -> Result<(), EngineError> {
        let mut netlink = Netlink::open()?;
        // One that is gone is the session's to tell of.
        let Some(device) = link::get(&mut netlink, self.index)? else { return Ok(()) };
        let state = match LinkState::read(&mut netlink, &device) {
            Err(LinkStateError::Netlink(error)) => return Err(error.into()),
            Err(LinkStateError::Unrestorable(why)) => {
                return Err(EngineError::LinkChanged { device: device.name, why: why.to_string() });
            }
            Ok(state) => state,
        };
        let (netns, ifindex, ifname) = (NetnsId::of_self()?, device.index, device.name);
        self.entry = Some(journal.append(Entry::LinkDown { netns, ifindex, ifname, state })?);
        link::set_up(&mut netlink, self.index, false)?;
        self.times += 1;
        kill_point("link down");
        Ok(())
    }
}
