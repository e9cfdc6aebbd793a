//! `docs/operations.md`: what can be done to each operation on each kernel, from what `injector doctor --json` says there. Pure.

use crate::vm::kernels::Series;
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where the table is.
pub(crate) const TABLE: &str = "docs/operations.md";

/// What `injector doctor --json` says, as far as it is asked here.
#[derive(Debug, Deserialize)]
struct Doctor {
    operations: Vec<Row>,
}

/// What can be done to one operation on one kernel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Row {
    operation: String,
    error: Cell,
    delay: Cell,
    lost: Cell,
    corrupt: Cell,
}

/// How it is done, or why it is not.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Cell {
    By(String),
    Never(String),
    Refused(String),
}

/// A kind, what it does, and its column.
type Effect = (&'static str, &'static str, fn(&Row) -> &Cell);

const EFFECTS: [Effect; 4] = [
    ("io.error", "The operation fails", |row| &row.error),
    ("io.delay", "The operation takes longer", |row| &row.delay),
    ("io.lost", "What is written is lost", |row| &row.lost),
    ("io.corrupt", "What is read is wrong", |row| &row.corrupt),
];

/// The rows of one kernel, from the lines that its guest printed as data.
pub(crate) fn parse(data: &str) -> Result<Vec<Row>> {
    let mut objects = data.lines().filter(|line| line.starts_with('{'));
    let line = objects.next().context("`injector doctor --json` printed no object")?;
    let doctor: Doctor = serde_json::from_str(line)
        .context("`injector doctor --json` printed something else than expected")?;
    anyhow::ensure!(!doctor.operations.is_empty(), "`injector doctor` found no operation");
    Ok(doctor.operations)
}

/// The whole document.
pub(crate) fn render(kernels: &[(Series, Vec<Row>)]) -> String {
    let mut text = "# Operations and what can be done to them\n\n\
        By which mechanism each operation is struck on each stock Debian kernel, whose packages are [here](programs.md), with `bpf` among the\n\
        active LSMs. `-` is refused, for the reason below the table. What the operations are is [here](kinds/io.error.md#operations), what the\n\
        mechanisms are [here](kinds/io.error.md#kernel-effects). Written by `cargo xtask verify --update`, from `injector doctor --json`.\n"
        .to_owned();
    for effect in EFFECTS {
        section(&mut text, effect, kernels);
    }
    text
}

fn section(text: &mut String, (kind, title, cell): Effect, kernels: &[(Series, Vec<Row>)]) {
    let _ = writeln!(text, "\n## {title}\n\n[`{kind}`](kinds/{kind}.md).\n");
    let names = kernels.iter().map(|(series, _)| series.name()).collect::<Vec<_>>();
    let _ = writeln!(text, "| operation | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    let mut reasons = Vec::new();
    let mut never = BTreeMap::<&str, Vec<String>>::new();
    for row in kernels.first().into_iter().flat_map(|(_, rows)| rows) {
        let of = |rows: &[Row]| rows.iter().find(|one| one.operation == row.operation).map(cell).cloned();
        if let Cell::Never(why) = cell(row) {
            never.entry(why).or_default().push(format!("`{}`", row.operation));
            continue;
        }
        let cells = kernels.iter().map(|(_, rows)| match of(rows) {
            Some(Cell::By(mechanism)) => short(&mechanism),
            Some(Cell::Refused(why) | Cell::Never(why)) => {
                let at = reasons.iter().position(|one| *one == why).unwrap_or_else(|| {
                    reasons.push(why);
                    reasons.len() - 1
                });
                format!("- ({})", at + 1)
            }
            None => "?".to_owned(),
        });
        let _ = writeln!(text, "| `{}` | {} |", row.operation, cells.collect::<Vec<_>>().join(" | "));
    }
    for (at, why) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}{}. {why}", if at == 0 { "\n" } else { "" }, at + 1);
    }
    for (why, operations) in never {
        let _ = writeln!(text, "\nRefused on every kernel, since {why}: {}.", operations.join(", "));
    }
}

/// A mechanism with each way once, and the system calls by their names: `fmod_ret.s read, readv`.
fn short(mechanism: &str) -> String {
    let mut ways = Vec::<(&str, Vec<&str>)>::new();
    for part in mechanism.split(" + ") {
        let (way, function) = part.split_once(' ').unwrap_or((part, ""));
        let name = function.strip_prefix("__x64_sys_").unwrap_or(function);
        match ways.iter_mut().find(|(one, _)| *one == way) {
            Some((_, names)) => names.push(name),
            None => ways.push((way, vec![name])),
        }
    }
    let ways = ways.iter().map(|(way, names)| format!("{way} `{}`", names.join("`, `")));
    ways.collect::<Vec<_>>().join("; ")
}

/// What is not as committed: the first line that differs.
pub(crate) fn compare(committed: &str, found: &str) -> Option<String> {
    if committed == found {
        return None;
    }
    let (mut before, mut now) = (committed.lines(), found.lines());
    loop {
        let (old, new) = (before.next(), now.next());
        if old != new || old.is_none() {
            let [old, new] = [old, new].map(|line| line.unwrap_or("the end"));
            return Some(format!("{TABLE} says {old:?}, the kernels {new:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(delay: &str) -> Vec<Row> {
        let line = format!(
            "{{\"kernel\":\"1\",\"operations\":[{{\"operation\":\"write\",\"error\":{{\"by\":\"lsm file_permission\"}},\
             \"delay\":{delay},\"lost\":{{\"by\":\"fmod_ret security_file_permission\"}},\"corrupt\":{{\"never\":\"it reads no bytes\"}}}}]}}"
        );
        parse(&format!("[]\n{line}\n")).unwrap()
    }

    #[test]
    fn a_row_has_its_mechanisms_and_the_reasons_once() {
        let old = rows(r#"{"refused":"EINVAL"}"#);
        let new = rows(r#"{"by":"fmod_ret.s __x64_sys_pwrite64 + fmod_ret.s __x64_sys_write"}"#);
        let text = render(&[(Series::V6_1, old.clone()), (Series::V6_12, old), (Series::V7_3, new)]);
        assert!(text.contains("| `write` | lsm `file_permission` | lsm `file_permission` |"), "{text}");
        assert!(
            text.contains("| `write` | - (1) | - (1) | fmod_ret.s `pwrite64`, `write` |\n\n1. EINVAL\n"),
            "{text}"
        );
        assert!(text.contains("\nRefused on every kernel, since it reads no bytes: `write`.\n"), "{text}");
    }

    #[test]
    fn the_first_line_that_differs_is_told() {
        assert_eq!(compare("a\nb\n", "a\nb\n"), None);
        let told = compare("a\nb\nc\n", "a\nx\ny\n").unwrap();
        assert!(told.contains("\"b\"") && told.contains("\"x\""), "{told}");
        assert!(compare("a\n", "a\nb\n").unwrap().contains("the end"));
        assert!(compare("", "a\n").is_some());
    }

    #[test]
    fn a_doctor_that_says_nothing_of_operations_is_an_error() {
        assert!(parse("").is_err());
        assert!(parse("{\"kernel\":\"1\"}").is_err());
        assert!(parse("{\"operations\":[]}").is_err());
    }
}
