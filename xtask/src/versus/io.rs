//! `cargo xtask versus --io`: what reads, writes and opens cost a bystander and a target of ours, under strace, and over a file system in user
//! space that passes all on. `io.py` measures it in the guest, by [`operate`].

use super::table::median;
use crate::vm::console::DATA_MARKER;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Instant;

const SCRIPT: &str = include_str!("io.py");

/// How often each operation is done in a measurement; where it is slow a tenth as often.
const COUNT: u32 = 20_000;

/// The program that is measured: this one, which is the guest's init too.
const PROGRAM: &str = "/init operate";

/// How long each operation took in one run, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Costs {
    read: f64,
    write: f64,
    open: f64,
}

/// One measurement, as the guest prints it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Measurement {
    tool: String,
    #[serde(flatten)]
    costs: Costs,
}

/// What is measured: its name in the guest, and in the table.
const ROWS: [(&str, &str); 7] = [
    (BARE, "nothing"),
    ("bystander", "ours, a bystander"),
    ("other-path", "ours, a target, of another path than is meant"),
    (TARGET, "ours, a target, counted and not struck"),
    ("fuse", "bindfs"),
    (SECCOMP, "strace, with `--seccomp-bpf`"),
    (STRACE, "strace"),
];
const BARE: &str = "nothing";
const TARGET: &str = "counted";
const STRACE: &str = "strace";
const SECCOMP: &str = "strace-seccomp";

/// An operation's name and its cost.
type Column = (&'static str, fn(&Costs) -> f64);

const COLUMNS: [Column; 3] =
    [("read", |costs| costs.read), ("write", |costs| costs.write), ("open", |costs| costs.open)];

#[derive(clap::Args)]
pub(crate) struct OperateArgs {
    /// The file
    file: PathBuf,
    /// How often
    count: u32,
}

/// `xtask operate`, in the guest: reads, writes and opens a file so often, and prints the time of each.
pub(crate) fn operate(args: &OperateArgs) -> Result<()> {
    crate::say::data(format_args!("{}", serde_json::to_string(&costs(args)?)?));
    Ok(())
}

fn costs(args: &OperateArgs) -> Result<Costs> {
    let file = File::options().read(true).write(true).open(&args.file)?;
    let mut byte = [0];
    Ok(Costs {
        read: nanoseconds(args.count, || file.read_at(&mut byte, 0).map(drop))?,
        write: nanoseconds(args.count, || file.write_at(b"x", 0).map(drop))?,
        open: nanoseconds(args.count, || File::open(&args.file).map(drop))?,
    })
}

/// The time of one of so many, after some that are not counted.
fn nanoseconds(count: u32, mut act: impl FnMut() -> std::io::Result<()>) -> Result<f64> {
    for _ in 0..count / 20 {
        act()?;
    }
    let start = Instant::now();
    for _ in 0..count {
        act()?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(count))
}

/// The command of the guest.
pub(super) fn command(rounds: u32) -> Vec<String> {
    let arguments = [DATA_MARKER, PROGRAM, &COUNT.to_string(), &rounds.to_string()].map(str::to_owned);
    ["/usr/bin/python3", "-c", SCRIPT].map(str::to_owned).into_iter().chain(arguments).collect()
}

/// The table in Markdown, from what the guest printed as data. A row that was not measured is an error.
pub(super) fn render(data: &str) -> Result<String> {
    let lines = data.lines().filter(|line| !line.trim().is_empty());
    let parsed = lines.map(|line| {
        serde_json::from_str(line).with_context(|| format!("the guest's data is not as expected: {line}"))
    });
    let measurements = parsed.collect::<Result<Vec<Measurement>>>()?;
    let cost = |tool: &str, of: fn(&Costs) -> f64| {
        let own = measurements.iter().filter(|one| one.tool == tool);
        median(own.map(|one| of(&one.costs)).collect()).with_context(|| format!("{tool} was not measured"))
    };
    let names = COLUMNS.map(|(name, _)| name).join(" | ");
    let mut text = format!("| | {names} |\n|---|{}\n", "---:|".repeat(COLUMNS.len()));
    for (tool, title) in ROWS {
        let ratios = COLUMNS.map(|(_, of)| Ok(format!("{:.2}", cost(tool, of)? / cost(BARE, of)?)));
        let ratios = ratios.into_iter().collect::<Result<Vec<_>>>()?;
        let _ = writeln!(text, "| {title} | {} |", ratios.join(" | "));
    }
    for (slow, title) in [(STRACE, "strace"), (SECCOMP, "strace with `--seccomp-bpf`"), ("fuse", "bindfs")] {
        let more = |tool, of| Ok::<_, anyhow::Error>(cost(tool, of)? - cost(BARE, of)?);
        let times = COLUMNS.map(|(_, of)| Ok(format!("{:.0}", more(slow, of)? / more(TARGET, of)?)));
        let times = times.into_iter().collect::<Result<Vec<_>>>()?;
        let _ = writeln!(
            text,
            "| what {title} adds, in what a counted target pays more | {} |",
            times.join(" | ")
        );
    }
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tool: &str, ns: f64) -> String {
        format!("{{\"tool\":\"{tool}\",\"read\":{ns},\"write\":{ns},\"open\":{}}}\n", 2.0 * ns)
    }

    #[test]
    fn rows_are_ratios_of_medians() {
        let mut data: String = ROWS.iter().map(|(tool, _)| line(tool, 100.0)).collect();
        data += &line("bystander", 120.0);
        data += &line("strace", 10_100.0);
        data += &line("strace", 20_100.0);
        data += &line("counted", 140.0);
        let text = render(&data).unwrap();
        assert!(text.contains("| nothing | 1.00 | 1.00 | 1.00 |\n"), "{text}");
        assert!(text.contains("| ours, a bystander | 1.10 | 1.10 | 1.10 |\n"), "{text}");
        assert!(text.contains("| strace | 101.00 |"), "{text}");
        assert!(text.contains("| what strace adds, in what a counted target pays more | 500 |"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        assert!(render(&line("nothing", 1.0)).unwrap_err().to_string().contains("bystander"));
        assert!(render("{}").is_err());
    }

    #[test]
    fn operations_are_done_and_timed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "y").unwrap();
        let costs = costs(&OperateArgs { file: file.path().to_owned(), count: 20 }).unwrap();
        assert!(costs.read > 0.0 && costs.write > 0.0 && costs.open > 0.0, "{costs:?}");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"x");
        assert!(operate(&OperateArgs { file: "/nonexistent".into(), count: 1 }).is_err());
    }
}
