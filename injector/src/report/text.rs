//! The report for people.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::{FaultReport, Outcome, Report};
use crate::plan::words;
use crate::scenario::quantity::format_ns;

/// The report as text, with colours if `colour`.
#[must_use]
pub fn render(report: &Report, colour: bool) -> String {
    let mut text = String::new();
    let outcome = match report.outcome {
        Outcome::Running => paint("running", colour, |t| t.cyan().to_string()),
        Outcome::Completed => paint("completed", colour, |t| t.green().to_string()),
        Outcome::Interrupted => paint("interrupted", colour, |t| t.yellow().to_string()),
        Outcome::Aborted => paint("aborted", colour, |t| t.red().to_string()),
        Outcome::Failed => paint("failed", colour, |t| t.red().to_string()),
    };
    // A second is as fine as a person reads it.
    let took = format_ns(report.duration_ns / 1_000_000 * 1_000_000);
    let _ = writeln!(
        text,
        "{}: {outcome} after {took}, seed {}",
        paint(&report.name, colour, |t| t.bold().to_string()),
        report.seed
    );
    table(&mut text, &report.faults, colour);
    for expectation in &report.expectations {
        let sign = if expectation.ok {
            paint("met", colour, |t| t.green().to_string())
        } else {
            paint("MISSED", colour, |t| t.red().to_string())
        };
        let _ = writeln!(text, "  expect {} {sign}: {}", expectation.fault, expectation.detail);
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "{}: {warning}", paint("warning", colour, |t| t.yellow().to_string()));
    }
    text
}

fn table(text: &mut String, faults: &[FaultReport], colour: bool) {
    let width = faults.iter().map(|f| f.id.len()).max().unwrap_or(0).max("fault".len());
    let head = format!(
        "  {:width$}  {:>12}  {:>12}  {:>12}  {:>10}  {:>10}  95% interval",
        "fault", "matched", "injected", "segments", "requested", "realised"
    );
    let _ = writeln!(text, "{}", paint(&head, colour, |t| t.dimmed().to_string()));
    for fault in faults {
        let _ = writeln!(
            text,
            "  {:width$}  {:>12}  {:>12}  {:>12}  {:>10}  {:>10}  {}",
            fault.id,
            fault.matched,
            fault.injected,
            fault.segments_injected,
            percent(fault.requested_rate),
            percent(fault.realised_rate),
            interval(fault.confidence_95),
        );
        if !fault.cuts.is_empty() {
            let _ = writeln!(text, "  {:width$}  {}", "", words(&fault.targets, &fault.cuts));
        }
        let spared = [
            (fault.spared_by_limit, "spared by the limit"),
            (fault.spared_by_budget, "spared by the budget"),
            (fault.unsplit, "super-packets not split"),
            (fault.queue_full, "dropped by the full queue"),
            (fault.failed, "could not be treated"),
        ];
        for (count, what) in spared.iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(text, "  {:width$}  {count} {what}", "");
        }
    }
}

fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.4}%", rate * 100.0))
}

fn interval(bounds: Option<[f64; 2]>) -> String {
    bounds.map_or_else(|| "-".to_owned(), |[low, high]| format!("{:.4}% - {:.4}%", low * 100.0, high * 100.0))
}

fn paint(text: &str, colour: bool, with: impl Fn(&str) -> String) -> String {
    if colour { with(text) } else { text.to_owned() }
}
