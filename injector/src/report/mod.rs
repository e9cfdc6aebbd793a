//! What an experiment did: the stable object that `--json` prints, and its text.
//!
//! Pure: counters and plans come in, numbers and words go out.

mod confidence;
mod text;

use injector_common::layout::Counters;
use serde::Serialize;

pub use confidence::wilson;
pub use text::render;

use crate::kinds::{self, Strikes};
use crate::plan::PlannedFault;
use crate::scenario::{Expectation, Expected, Metric};

/// How an experiment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It runs still: what `status` shows.
    Running,
    /// It ran to its end.
    Completed,
    /// A signal or `injector stop` ended it.
    Interrupted,
    /// A guard ended it.
    Aborted,
    /// An error ended it.
    Failed,
}

/// The last line that `apply` and `run` print with `--json`. Keys are added, never changed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub name: String,
    /// Id of the experiment.
    pub id: String,
    /// Seed of all draws.
    pub seed: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Release of the kernel.
    pub kernel: String,
    /// When it was armed, RFC 3339.
    pub started: String,
    /// From armed to disarmed.
    pub duration_ns: u64,
    /// What each fault did.
    pub faults: Vec<FaultReport>,
    /// What was expected, and whether it came.
    pub expectations: Vec<ExpectationReport>,
    /// Exit status of the command of `run`; 128 + the signal's number if a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// The error behind `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the reader should know: faults that matched nothing, devices that vanished.
    pub warnings: Vec<String>,
}

/// What one fault did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultReport {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// The hooks that carried it.
    pub mechanism: String,
    /// The names of its targets: one, or the nodes of a partition.
    pub targets: Vec<String>,
    /// The pairs of nodes that a partition cut off from each other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<[String; 2]>,
    /// The fault for whose first strike it waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Packets that it meant, inside its windows.
    pub matched: u64,
    /// Packets that it struck.
    pub injected: u64,
    /// The matched ones in packets on the wire.
    pub segments_matched: u64,
    /// The struck ones in packets on the wire.
    pub segments_injected: u64,
    /// Share of the matches that it was asked to strike; null where none was asked for.
    pub requested_rate: Option<f64>,
    /// Share that it struck; null if it matched nothing.
    pub realised_rate: Option<f64>,
    /// 95 % confidence interval of the rate behind the realised one (Wilson); null if it matched nothing.
    pub confidence_95: Option<[f64; 2]>,
    /// Let go by `limit`.
    pub spared_by_limit: u64,
    /// Let go by `budget`.
    pub spared_by_budget: u64,
    /// Let go because other CPUs kept changing the fault's state.
    pub contended: u64,
    /// Super-packets that a fault per segment met.
    pub unsplit: u64,
    /// Dropped, because the queue in front of a link was full.
    pub queue_full: u64,
    /// Struck, and could not be treated: no memory, or no packet of the form that it takes.
    pub failed: u64,
}

/// Whether an expectation held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExpectationReport {
    /// Id of the fault.
    pub fault: String,
    /// Whether it held.
    pub ok: bool,
    /// What was expected and what was seen.
    pub detail: String,
}

/// The report of one fault from the counters of its rules.
#[must_use]
pub fn fault(
    planned: &PlannedFault,
    mechanism: String,
    counters: impl IntoIterator<Item = Counters>,
) -> FaultReport {
    let mut report = FaultReport {
        id: planned.id.clone(),
        kind: planned.kind.to_owned(),
        mechanism,
        targets: planned.targets.clone(),
        cuts: planned.cuts.clone(),
        after: planned.after.clone(),
        matched: 0,
        injected: 0,
        segments_matched: 0,
        segments_injected: 0,
        requested_rate: planned.requested_rate,
        realised_rate: None,
        confidence_95: None,
        spared_by_limit: 0,
        spared_by_budget: 0,
        contended: 0,
        unsplit: 0,
        queue_full: 0,
        failed: 0,
    };
    for c in counters {
        report.matched += c.matched;
        report.injected += c.injected;
        report.segments_matched += c.segments_matched;
        report.segments_injected += c.segments_injected;
        report.spared_by_limit += c.spared_by_limit;
        report.spared_by_budget += c.spared_by_budget;
        report.contended += c.contended;
        report.unsplit += c.unsplit;
        report.queue_full += c.queue_full;
        report.failed += c.failed;
    }
    // Without a hook nothing is drawn: what the controller does itself is no sample.
    if report.matched > 0 && !(planned.hooks.is_empty() && planned.functions.is_empty()) {
        report.realised_rate = Some(report.injected as f64 / report.matched as f64);
        report.confidence_95 = Some(wilson(report.injected, report.matched, confidence::Z_95));
    }
    report
}

fn is_of_packets(fault: &FaultReport) -> bool {
    kinds::find(&fault.kind).is_none_or(|kind| kind.strikes() == Strikes::Packets)
}

/// Warnings that the numbers themselves give.
#[must_use]
pub fn warnings(faults: &[FaultReport], expected: &[Expectation]) -> Vec<String> {
    let mut warnings = Vec::new();
    let struck = |id: &String| faults.iter().any(|fault| fault.id == *id && fault.injected > 0);
    for fault in faults {
        // What is only looked at may well not be there, where somebody says what is expected of it.
        let is_told = fault.kind.ends_with(".observe") && expected.iter().any(|one| one.fault == fault.id);
        let has_missed = fault.matched == 0 && !is_told;
        if let Some(other) = fault.after.as_ref().filter(|other| has_missed && !struck(other)) {
            warnings.push(format!("the fault `{}` never began: `{other}` has not struck", fault.id));
        } else if has_missed {
            let missed = if is_of_packets(fault) {
                "no packet met its target, `match` and `when`"
            } else {
                "no operation met its target, its own keys and `when`"
            };
            warnings.push(format!("the fault `{}` matched nothing: {missed}", fault.id));
        } else if fault.contended > 0 {
            let what = if is_of_packets(fault) {
                "packets go, because CPUs competed for its state"
            } else {
                "operations go, because too many slept at once, or were being compared, or CPUs competed for its state"
            };
            warnings.push(format!("the fault `{}` let {} {what}", fault.id, fault.contended));
        }
        if fault.failed > 0 {
            warnings.push(format!(
                "the fault `{}` could not treat {} of the packets that it struck: docs/kinds/{}.md says which it can't",
                fault.id, fault.failed, fault.kind
            ));
        }
    }
    warnings
}

/// Checks what was expected.
#[must_use]
pub fn expectations(expected: &[Expectation], faults: &[FaultReport]) -> Vec<ExpectationReport> {
    expected.iter().map(|e| check(e, faults.iter().find(|f| f.id == e.fault))).collect()
}

fn check(expected: &Expectation, fault: Option<&FaultReport>) -> ExpectationReport {
    let wanted = format!("{} {} {}", expected.metric.name(), expected.comparison.symbol(), expected.value);
    let (ok, seen) = match fault {
        None => (false, "there is no such fault".to_owned()),
        Some(fault) => compare(expected, fault),
    };
    ExpectationReport { fault: expected.fault.clone(), ok, detail: format!("expected {wanted}, seen {seen}") }
}

fn compare(expected: &Expectation, fault: &FaultReport) -> (bool, String) {
    let count = match expected.metric {
        Metric::Matched => fault.matched,
        Metric::Injected => fault.injected,
        Metric::SegmentsInjected => fault.segments_injected,
        Metric::RealisedRate => return compare_rate(expected, fault),
    };
    match expected.value {
        Expected::Count(value) => (expected.comparison.holds(&count, &value), count.to_string()),
        Expected::Rate(_) => (false, count.to_string()),
    }
}

fn compare_rate(expected: &Expectation, fault: &FaultReport) -> (bool, String) {
    let Some(seen) = fault.realised_rate else { return (false, "no match".to_owned()) };
    let wanted = match expected.value {
        Expected::Rate(rate) => rate.as_f64(),
        Expected::Count(count) => count as f64,
    };
    (expected.comparison.holds(&seen, &wanted), format!("{:.4}%", seen * 100.0))
}
