//! `cargo xtask verify`: loads every program on every kernel of the matrix and on this machine's, and holds the
//! verifier's instruction counts against the table in `docs/programs.md`, and the mechanisms for operations against `docs/operations.md`.

use crate::operations;
use crate::programs::Programs;
use crate::say::say;
use crate::stage::Tally;
use crate::vm::console::{DATA_MARKER, Verdict};
use crate::vm::kernels::{self, Kernel, Series};
use crate::vm::{self, Job, Run};
use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const TABLE: &str = "docs/programs.md";
const REMEDY: &str = "if the change is meant, run `cargo xtask verify --update` and commit the tables";

/// What `injector programs --json` says of one program.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Report {
    program: String,
    #[serde(rename = "type")]
    kind: String,
    loaded: bool,
    #[serde(default)]
    verified_insns: Option<u64>,
    #[serde(default)]
    error: Option<String>,
}

/// Verified instructions by program and kernel.
type Counts = BTreeMap<String, BTreeMap<String, u64>>;

/// What the loads on all kernels came to.
#[derive(Debug, Default)]
struct Found {
    counts: Counts,
    kinds: BTreeMap<String, String>,
    /// What can be done to operations, by kernel.
    operations: Vec<(Series, Vec<operations::Row>)>,
    loads: u64,
    problems: Vec<String>,
}

impl Found {
    /// Takes the report of one kernel. This machine's own kernel is not in the table: it is another one elsewhere.
    fn add(&mut self, kernel: &str, in_table: bool, programs: Vec<Report>) {
        if programs.is_empty() {
            self.problems.push(format!("{kernel}: the object holds no program"));
        }
        for one in programs {
            if !one.loaded {
                let error = one.error.unwrap_or_else(|| "no reason given".to_owned());
                self.problems.push(format!("{kernel}: {} does not load: {error}", one.program));
                continue;
            }
            self.loads += 1;
            if !in_table {
                continue;
            }
            match one.verified_insns {
                Some(count) => {
                    self.counts.entry(one.program.clone()).or_default().insert(kernel.to_owned(), count);
                    self.kinds.insert(one.program, one.kind);
                }
                None => self.problems.push(format!("{kernel}: {} has no instruction count", one.program)),
            }
        }
    }
}

/// `cargo xtask verify`, with a line of counts at the end.
pub(crate) fn command(update: bool) -> Result<()> {
    let programs = Programs::build()?;
    let tally = verify(&programs, update)?;
    say!("{} loads held, {} did not", tally.passed, tally.failed);
    if tally.failed == 0 { Ok(()) } else { bail!("verify failed") }
}

/// Loads everywhere, compares or rewrites the tables, says every problem, and counts loads.
fn verify(programs: &Programs, update: bool) -> Result<Tally> {
    let kernels =
        Series::ALL.into_iter().map(|series| kernels::get(series, false)).collect::<Result<Vec<_>>>()?;
    let runs = vm::run_all(&kernels, programs, &[Job::programs()])?;
    for run in runs.iter().filter(|run| run.verdict != Verdict::Exited(0)) {
        say!("{}: {}\n{}", run.kernel.series.name(), run.verdict, run.output.join("\n"));
    }
    verify_runs(programs, &runs, update)
}

/// Loads on this machine, and takes for the other kernels what their guests have said.
pub(crate) fn verify_runs(programs: &Programs, runs: &[Run], update: bool) -> Result<Tally> {
    let mut found = Found::default();
    let mut here = process::as_root(&programs.injector);
    let text = process::output(here.args(["programs", "--json"]))
        .context("`injector programs` failed on this machine's kernel")?;
    found.add("this machine", false, parse(&text)?);
    for run in runs {
        let name = run.kernel.series.name();
        let data = data_of(&run.output);
        match parse(&data) {
            Ok(programs) => found.add(name, true, programs),
            Err(error) => found.problems.push(format!("{name}: {error:#}")),
        }
        match operations::parse(&data) {
            Ok(rows) => found.operations.push((run.kernel.series, rows)),
            Err(error) => found.problems.push(format!("{name}: {error:#}")),
        }
    }
    conclude(found, &runs.iter().map(|run| run.kernel.clone()).collect::<Vec<_>>(), update)
}

/// Holds what was found against the tables, or writes them.
fn conclude(mut found: Found, kernels: &[Kernel], update: bool) -> Result<Tally> {
    let operations = operations::render(&found.operations);
    if update && found.problems.is_empty() {
        for (name, text) in [(TABLE, render(&found, kernels)), (operations::TABLE, operations)] {
            std::fs::write(workspace::root().join(name), text)
                .with_context(|| format!("cannot write {name}"))?;
            say!("wrote {name}");
        }
    } else {
        let committed = |name| std::fs::read_to_string(workspace::root().join(name)).unwrap_or_default();
        let differences = compare(&read_table(&committed(TABLE)), &found.counts);
        found.problems.extend(differences);
        let difference = operations::compare(&committed(operations::TABLE), &operations);
        found.problems.extend(difference.map(|words| format!("{words}: {REMEDY}")));
    }
    for problem in &found.problems {
        say!("error: {problem}");
    }
    Ok(Tally { passed: found.loads, failed: found.problems.len() as u64 })
}

/// The lines that a guest printed as data.
pub(crate) fn data_of(output: &[String]) -> String {
    let data = output.iter().filter_map(|line| line.strip_prefix(DATA_MARKER));
    data.collect::<Vec<_>>().join("\n")
}

/// The JSON array in what the command printed: warnings may stand before it.
fn parse(text: &str) -> Result<Vec<Report>> {
    let start = if text.starts_with('[') { Some(0) } else { text.find("\n[").map(|at| at + 1) };
    let json = &text[start.with_context(|| format!("no JSON array in {:?}", process::tail(text, 3)))?..];
    let mut values = serde_json::Deserializer::from_str(json).into_iter();
    values
        .next()
        .context("no value")?
        .context("`injector programs --json` printed something else than expected")
}

/// What is not as committed: programs that came or went, counts more than a tenth higher.
fn compare(committed: &Counts, found: &Counts) -> Vec<String> {
    let mut problems = Vec::new();
    let names = committed.keys().chain(found.keys()).collect::<BTreeSet<_>>();
    for name in names {
        let (Some(before), Some(now)) = (committed.get(name), found.get(name)) else {
            let what = if found.contains_key(name) { "is not in" } else { "is gone, but in" };
            problems.push(format!("{name} {what} {TABLE}: {REMEDY}"));
            continue;
        };
        for (kernel, count) in now {
            match before.get(kernel) {
                Some(old) if *count * 10 > *old * 11 => problems.push(format!(
                    "{kernel}: {name} takes {count} verified instructions, {TABLE} says {old}: {REMEDY}"
                )),
                Some(_) => {}
                None => problems.push(format!("{kernel}: {name} has no count in {TABLE}: {REMEDY}")),
            }
        }
    }
    problems
}

fn render(found: &Found, kernels: &[Kernel]) -> String {
    let mut text = "# Programs and what the verifier walks\n\n\
        Every eBPF program of injector is loaded on each stock Debian kernel below. A cell is the number of\n\
        instructions that the kernel's verifier processed. Written by `cargo xtask verify --update`;\n\
        `cargo xtask verify` fails when a program does not load or a count grows by more than a tenth.\n\n"
        .to_owned();
    for kernel in kernels {
        let _ = writeln!(text, "- {}: {} (package {})", kernel.series.name(), kernel.release, kernel.version);
    }
    let names = kernels.iter().map(|kernel| kernel.series.name()).collect::<Vec<_>>();
    let _ = writeln!(text, "\n| program | type | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---:|".repeat(names.len()));
    for (program, counts) in &found.counts {
        let kind = found.kinds.get(program).map_or("", String::as_str);
        let cells = names.iter().map(|name| counts.get(*name).map_or_else(|| "-".to_owned(), u64::to_string));
        let _ = writeln!(text, "| {program} | {kind} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

/// Reads back what [`render`] wrote.
fn read_table(text: &str) -> Counts {
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| program |"));
    let kernels = lines.next().map(cells).unwrap_or_default();
    let mut counts = Counts::new();
    for row in lines.skip(1).take_while(|line| line.starts_with('|')).map(cells) {
        let Some((program, values)) = row.split_first() else { continue };
        let by_kernel = kernels.iter().skip(2).zip(values.iter().skip(1));
        let by_kernel = by_kernel.filter_map(|(kernel, value)| Some((kernel.clone(), value.parse().ok()?)));
        counts.insert(program.clone(), by_kernel.collect());
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(program: &str, count: u64) -> Report {
        let (program, kind) = (program.to_owned(), "sched_cls".to_owned());
        Report { program, kind, loaded: true, verified_insns: Some(count), error: None }
    }

    fn kernel(series: Series) -> Kernel {
        let none = std::path::PathBuf::new;
        let (release, version) = ("6.1.0-1-amd64".to_owned(), "6.1.9-1".to_owned());
        Kernel { series, release, version, vmlinuz: none(), config: none(), modules: none() }
    }

    #[test]
    fn the_table_is_read_back_as_it_was_written() {
        let mut found = Found::default();
        found.add("6.1", true, vec![loaded("egress", 1_000), loaded("ingress", 7)]);
        found.add("7.3", true, vec![loaded("egress", 900), loaded("ingress", 8)]);
        let text = render(&found, &[kernel(Series::V6_1), kernel(Series::V7_3)]);
        assert_eq!(read_table(&text), found.counts);
        assert_eq!(compare(&read_table(&text), &found.counts), [""; 0]);
    }

    #[test]
    fn growth_by_more_than_a_tenth_a_new_and_a_lost_program_are_problems() {
        let table = |counts: &[(&str, u64)]| {
            let mut found = Found::default();
            found.add("6.1", true, counts.iter().map(|(name, count)| loaded(name, *count)).collect());
            found.counts
        };
        let committed = table(&[("a", 100), ("b", 100), ("gone", 1)]);
        let problems = compare(&committed, &table(&[("a", 110), ("b", 111), ("new", 1)]));
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(problems[0].contains("b takes 111") && problems[0].contains("verify --update"));
        assert!(problems[1].starts_with("gone is gone") && problems[2].starts_with("new is not in"));
    }

    #[test]
    fn a_program_that_does_not_load_is_a_problem_everywhere() {
        let text = "warning: x\n[{\"program\":\"a\",\"type\":\"sched_cls\",\"loaded\":false,\"error\":\"EACCES\"}]\n";
        let mut found = Found::default();
        found.add("this machine", false, parse(text).unwrap());
        assert_eq!(found.problems, ["this machine: a does not load: EACCES"]);
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn data_is_told_from_what_tests_print() {
        let lines = ["injector-vm: data [", "test a ... ok", "injector-vm: data ]"].map(str::to_owned);
        assert_eq!(data_of(&lines), "[\n]");
    }
}
