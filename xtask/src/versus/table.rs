//! Medians of what the guest measured, and the tables that they make. Pure.

use super::plan::{self, BARE, DATAGRAM_BYTES, Tool};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Load {
    Udp,
    Tcp,
}

/// One measurement, as the guest prints it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Measurement {
    pub(super) case: String,
    pub(super) tool: Tool,
    pub(super) load: Load,
    pub(super) seconds: f64,
    /// Packets (UDP) or bytes of payload (TCP) that have arrived.
    pub(super) amount: f64,
    /// What all processors have worked.
    pub(super) cpu_s: f64,
}

/// A figure of one measurement: its name, and how it is computed and written.
struct Figure {
    title: String,
    load: Load,
    of: fn(&Measurement) -> f64,
    decimals: usize,
}

fn figures() -> [Figure; 4] {
    [
        Figure {
            title: format!(
                "UDP flood, datagrams of {DATAGRAM_BYTES} bytes: thousand packets per second that arrive"
            ),
            load: Load::Udp,
            of: |one| one.amount / one.seconds / 1e3,
            decimals: 2,
        },
        Figure {
            title: "UDP flood: CPU seconds for a million packets that arrive".to_owned(),
            load: Load::Udp,
            of: |one| one.cpu_s / (one.amount / 1e6),
            decimals: 1,
        },
        Figure {
            title: "One TCP stream: Mbit/s that arrive".to_owned(),
            load: Load::Tcp,
            of: |one| one.amount * 8.0 / one.seconds / 1e6,
            decimals: 0,
        },
        Figure {
            title: "One TCP stream: CPU seconds for a GB that arrives".to_owned(),
            load: Load::Tcp,
            of: |one| one.cpu_s / (one.amount / 1e9),
            decimals: 1,
        },
    ]
}

/// The middle one; of an even number the mean of the two in the middle. `None` of nothing.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let above = *values.get(values.len() / 2)?;
    let below = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(below, above))
}

/// The measurements in what the guest printed as data, one a line.
pub(super) fn parse(data: &str) -> Result<Vec<Measurement>> {
    let lines = data.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("the guest's data is not as expected: {line}"))
        })
        .collect()
}

/// All tables in Markdown. A case that was not measured is an error.
pub(super) fn render(measurements: &[Measurement]) -> Result<String> {
    let mut text = String::new();
    for figure in figures() {
        let cell = |case: &str, tool: Tool| {
            let of_cell = measurements
                .iter()
                .filter(|one| one.case == case && one.tool == tool && one.load == figure.load);
            median(of_cell.map(figure.of).collect())
        };
        let Some(bare) = cell(BARE, Tool::Bare) else { bail!("nothing was measured without a fault") };
        let _ = writeln!(text, "{}. Without any fault {bare:.*}.\n", figure.title, figure.decimals);
        text.push_str("| fault | ours, a cgroup | netem, filtered | ratio | ours, the device | netem, at the root | ratio |\n");
        text.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
        for case in plan::cases() {
            let pair = |ours, theirs| cell(case, ours).zip(cell(case, theirs));
            let Some(confined) = pair(Tool::Cgroup, Tool::NetemFiltered) else {
                bail!("{case:?} was not measured")
            };
            let whole = pair(Tool::Interface, Tool::NetemRoot);
            let cells = [Some(confined), whole].map(|pair| cells(pair, figure.decimals));
            let _ = writeln!(text, "| {case} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    Ok(text.trim_end().to_owned())
}

/// Ours, theirs, and how much ours is of theirs.
fn cells(pair: Option<(f64, f64)>, decimals: usize) -> String {
    pair.map_or_else(
        || "| |".to_owned(),
        |(ours, theirs)| {
            // Nothing arrived, so nothing can be said of it.
            let ratio = ours / theirs;
            let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() };
            format!("{ours:.decimals$} | {theirs:.decimals$} | {ratio}")
        },
    )
}

/// Puts a text between two marker lines of a document.
pub(super) fn replace_between(document: &str, begin: &str, end: &str, text: &str) -> Result<String> {
    let (before, rest) = document.split_once(begin).with_context(|| format!("there is no {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("there is no {end} behind {begin}"))?;
    Ok(format!("{before}{begin}\n\n{text}\n\n{end}{after}"))
}

/// What is between them.
pub(super) fn between<'a>(document: &'a str, begin: &str, end: &str) -> Result<&'a str> {
    let (_, rest) = document.split_once(begin).with_context(|| format!("there is no {begin}"))?;
    let (text, _) = rest.split_once(end).with_context(|| format!("there is no {end} behind {begin}"))?;
    Ok(text)
}

/// The sections of kernels, each with what was measured last on its series; the oldest kernel first.
pub(super) fn merged(known: &str, new: &str) -> String {
    const HEADING: &str = "### Linux ";
    let mut sections = BTreeMap::new();
    for text in [known, new] {
        for section in text.split(HEADING).map(str::trim).filter(|section| !section.is_empty()) {
            let number = |part: &str| part.parse::<u32>().unwrap_or(0);
            let mut parts = section.split(|c: char| !c.is_ascii_digit()).map(number);
            let series = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
            sections.insert(series, format!("{HEADING}{section}"));
        }
    }
    sections.into_values().collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_that_were_not_measured_keep_what_they_have() {
        let known = "\n\n### Linux 6.12.1-amd64\n\nold\n\n### Linux 7.3.4\n\nold\n";
        assert_eq!(
            merged(known, "### Linux 6.12.9\n\nnew"),
            "### Linux 6.12.9\n\nnew\n\n### Linux 7.3.4\n\nold"
        );
        let all = merged(known, "### Linux 6.1.192\n\nnew");
        assert!(all.starts_with("### Linux 6.1.192\n\nnew\n\n### Linux 6.12.1-amd64"), "{all}");
        assert_eq!(between("a <b>x<e>", "<b>", "<e>").unwrap(), "x");
    }

    fn measured(case: &str, tool: Tool, load: Load, amount: f64) -> Measurement {
        Measurement { case: case.to_owned(), tool, load, seconds: 2.0, amount, cpu_s: 1.0 }
    }

    fn all() -> Vec<Measurement> {
        let mut all = Vec::new();
        for load in [Load::Udp, Load::Tcp] {
            all.push(measured(BARE, Tool::Bare, load, 4e6));
            for case in plan::cases() {
                let tools = [
                    (Tool::Cgroup, 1e6),
                    (Tool::NetemFiltered, 2e6),
                    (Tool::Cgroup, 3e6),
                    (Tool::Cgroup, 9e9),
                ];
                all.extend(tools.map(|(tool, amount)| measured(case, tool, load, amount)));
            }
        }
        all
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_row_has_the_medians_and_their_ratio() {
        let text = render(&all()).unwrap();
        assert!(text.contains("that arrive. Without any fault 2000.00.\n"), "{text}");
        assert!(text.contains("| loss of 1 % | 1500.00 | 1000.00 | 1.50 | | | |\n"), "{text}");
        assert!(text.contains("| loss of 1 % | 0.3 | 0.5 | 0.67 | | | |\n"), "{text}");
        assert!(text.contains("| loss of 1 % | 12 | 8 | 1.50 | | | |\n"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        let without = |case: &str| all().into_iter().filter(|one| one.case != case).collect::<Vec<_>>();
        assert!(render(&without(BARE)).is_err());
        assert!(render(&without("loss of 1 %")).unwrap_err().to_string().contains("loss of 1 %"));
    }

    #[test]
    fn the_guests_lines_are_read() {
        let line = r#"{"case": "nothing", "tool": "netem-root", "load": "tcp", "seconds": 2.0, "amount": 5, "cpu_s": 1.0}"#;
        let parsed = parse(&format!("{line}\n\n")).unwrap();
        assert_eq!(parsed, [measured("nothing", Tool::NetemRoot, Load::Tcp, 5.0)]);
        assert!(parse("{}").is_err());
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = "a\n<b>\nold\n<e>\nz\n";
        assert_eq!(replace_between(document, "<b>", "<e>", "new").unwrap(), "a\n<b>\n\nnew\n\n<e>\nz\n");
        assert!(replace_between("a", "<b>", "<e>", "new").is_err());
    }
}
