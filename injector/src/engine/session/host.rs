//! What changes on the host while an experiment runs: processes, cgroups, devices and their names.

use super::{DEVICES_KEPT, Session};
use crate::engine::attachments::Attachments;
use crate::engine::begin::world;
use crate::engine::error::EngineError;
use crate::engine::takeover::Users;
use crate::host::cgroup::CgroupError;
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::plan::{self, Place};

impl Session {
    /// Every process of every cgroup target, or this one while there is none: what enters an empty cgroup
    /// later comes as a rule from here.
    pub(super) fn users(&mut self) -> Result<Users, EngineError> {
        let targets = &self.prepared.scenario.targets;
        let takeover = |name: &String| targets.get(name).is_some_and(|target| target.takeover);
        let mut users = Users::default();
        for (target, place) in &self.places {
            let Place::Cgroup { path, id, .. } = place else { continue };
            match self.hierarchy.open(path) {
                Ok(cgroup) if cgroup.id == *id => {
                    users.extend(&self.hierarchy.procs(&cgroup)?, takeover(target));
                }
                // Removed while it was struck: there is nothing left to take back. What takes its name is
                // another cgroup to the kernel.
                Ok(_) | Err(CgroupError::Unknown { .. }) => {
                    if self.vanished.insert(target.clone()) {
                        self.warnings.push(format!(
                            "the cgroup {path} of the target `{target}` was removed while it was struck: what was made anew under its name is not hit"
                        ));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let of_cgroups = self.places.iter().filter(|(_, place)| matches!(place, Place::Cgroup { .. }));
        let consents = of_cgroups.map(|(name, _)| name).any(takeover);
        Ok(users.or_self(consents))
    }

    /// Says what is lost with a takeover, where the plan has not said it already.
    pub(super) fn tell_losses(&mut self) {
        let losses = self.attachments.as_mut().map(Attachments::take_losses).unwrap_or_default();
        for loss in losses {
            if !self.warnings.contains(&loss) {
                self.warnings.push(loss);
            }
        }
    }

    /// Writes the rules again, or says that devices have appeared which they can't hold: while it runs that is
    /// no reason to end.
    pub(super) fn follow_names(&mut self) -> Result<(), EngineError> {
        let renamed = self.rename_devices();
        let Err(EngineError::Plan(error)) = renamed else { return renamed };
        if !self.warnings.iter().any(|warning| warning.starts_with(DEVICES_KEPT)) {
            let text = error.to_string();
            let text = text.split("\n\nhint").next().unwrap_or_default();
            self.warnings.push(format!("{DEVICES_KEPT}: {text}"));
        }
        Ok(())
    }

    /// Writes the rules again whose devices have other indices now.
    pub(super) fn rename_devices(&mut self) -> Result<(), EngineError> {
        let mut names = self.attachments.as_ref().map(Attachments::device_names).unwrap_or_default();
        // Of another namespace than the targets' no index may stand in a rule: one number, two devices.
        if self.places.values().any(|place| matches!(place, Place::Interface { .. })) {
            let own = link::list(&mut Netlink::open()?)?;
            names.push(own.into_iter().map(|device| (device.name, device.index)).collect());
        }
        let devices = plan::device_indices(&self.prepared.scenario, &names)?;
        let world = world(&self.prepared, &self.places, devices);
        let lowered = plan::lower(&self.prepared.scenario, self.prepared.seed, &world)?;
        for (index, rule) in lowered.image.rules_changed_since(&self.lowered.image) {
            self.kernel.set_rule(index, rule)?;
        }
        self.lowered = lowered;
        Ok(())
    }

    pub(super) fn check_devices(&self) -> Result<(), EngineError> {
        for (target, place) in &self.places {
            let Place::Interface { name, index, .. } = place else { continue };
            if link::get(&mut Netlink::open()?, *index)?.is_none() {
                return Err(EngineError::DeviceGone { target: target.clone(), device: name.clone() });
            }
        }
        Ok(())
    }
}
