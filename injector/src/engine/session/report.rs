//! What an experiment has done so far, for people and programs.

use super::Session;
use crate::engine::error::EngineError;
use crate::kernel::xdp::Mode;
use crate::plan::{Place, PlannedFault};
use crate::report::{self, FaultReport, Outcome, Report};
use jiff::Timestamp;

impl Session {
    /// What happened so far.
    pub fn report(&mut self, outcome: Outcome, exit_status: Option<i32>) -> Result<Report, EngineError> {
        let faults = self.fault_reports()?;
        let mut warnings = self.warnings.clone();
        // What has not come yet is no miss while it runs.
        let over = outcome != Outcome::Running;
        if over {
            warnings.extend(report::warnings(&faults, &self.prepared.scenario.expectations));
        }
        let expected = if over { &self.prepared.scenario.expectations[..] } else { &[] };
        let expectations = report::expectations(expected, &faults);
        let running = self.armed.map(|(_, instant)| instant.elapsed()).unwrap_or_default();
        Ok(Report {
            name: self.prepared.scenario.name.clone(),
            id: self.prepared.id.clone(),
            seed: self.prepared.seed,
            outcome,
            kernel: self.prepared.kernel.clone(),
            started: self.armed.map_or_else(Timestamp::now, |(started, _)| started).to_string(),
            duration_ns: self.took.unwrap_or(running).as_nanos() as u64,
            expectations,
            faults,
            exit_status,
            error: None,
            warnings,
        })
    }

    fn fault_reports(&mut self) -> Result<Vec<FaultReport>, EngineError> {
        let counters = self.kernel.counters()?;
        let rung = self.prepared.rung;
        let of_fault = |position: usize| {
            let rules = self.lowered.fault_of_rule.iter().zip(&counters);
            let own = rules.filter(move |(fault, _)| **fault == position).map(|(_, counters)| *counters);
            own.chain(self.links.counters(position))
                .chain(self.deeds.counters(position))
                .chain(self.clocks.counters(position))
                .chain(self.notify.counters(position))
        };
        let faults = self.prepared.faults.iter().enumerate();
        let mechanism = |planned: &PlannedFault| planned.mechanism(rung, self.xdp_mode(planned));
        Ok(faults.map(|(n, planned)| report::fault(planned, mechanism(planned), of_fault(n))).collect())
    }

    fn xdp_mode(&self, fault: &PlannedFault) -> Option<Mode> {
        fault.targets.iter().find_map(|target| match self.places.get(target) {
            Some(Place::Interface { name, .. }) => self.xdp_modes.get(name).copied(),
            _ => None,
        })
    }
}
