//! Stages of a long command: each one's name when it starts, its wall time when it ends, a table at the end.

use crate::say::say;
use anyhow::Result;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How many checks a stage made: tests, programs, or simply the stage itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// A stage that is one check by itself (a build, a lint) and held.
    pub(crate) const ONE: Tally = Tally { passed: 1, failed: 0 };
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// A stage: its name and what it does.
pub(crate) type Stage = (&'static str, fn() -> Result<Tally>);

/// A stage that has ended.
#[derive(Debug)]
struct Ended {
    name: String,
    wall: Duration,
    tally: Tally,
}

/// The stages of one command, in order.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    ended: Vec<Ended>,
}

impl Stages {
    /// Runs one stage. An error is printed and counted, and the caller learns from the result whether to go on.
    pub(crate) fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<Tally>) -> bool {
        say!("==> {name}");
        let start = Instant::now();
        let result = stage();
        let wall = start.elapsed();
        if let Err(error) = &result {
            say!("error: {name}: {error:#}");
        }
        let good = self.end(name, wall, result.ok());
        say!("<== {name}: {} in {}", if good { "ok" } else { "FAILED" }, seconds(wall));
        good
    }

    /// Notes how a stage ended; without counts it is one failure.
    fn end(&mut self, name: &str, wall: Duration, tally: Option<Tally>) -> bool {
        let tally = tally.unwrap_or(Tally { passed: 0, failed: 1 });
        self.ended.push(Ended { name: name.to_owned(), wall, tally });
        tally.failed == 0
    }

    /// The sum over all stages so far.
    pub(crate) fn total(&self) -> Tally {
        self.ended.iter().fold(Tally::default(), |total, stage| total + stage.tally)
    }

    /// The names of the stages that failed.
    pub(crate) fn failed(&self) -> Vec<&str> {
        self.ended.iter().filter(|stage| stage.tally.failed > 0).map(|stage| stage.name.as_str()).collect()
    }

    /// A table of all stages: name, verdict, counts, wall time.
    pub(crate) fn table(&self) -> String {
        let width = self.ended.iter().map(|stage| stage.name.len()).max().unwrap_or(0).max("stage".len());
        let mut text = format!("{:width$}  {:>6}  {:>6}  {:>9}\n", "stage", "passed", "failed", "time");
        for Ended { name, wall, tally } in &self.ended {
            let mark = if tally.failed == 0 { "" } else { "  <- failed" };
            let _ = writeln!(
                text,
                "{name:width$}  {:>6}  {:>6}  {:>9}{mark}",
                tally.passed,
                tally.failed,
                seconds(*wall)
            );
        }
        text
    }
}

/// A wall time for people.
pub(crate) fn seconds(wall: Duration) -> String {
    let whole = wall.as_secs();
    if whole < 60 {
        format!("{:.1} s", wall.as_secs_f64())
    } else {
        format!("{} m {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_stage_is_counted_and_marked() {
        let mut stages = Stages::default();
        assert!(stages.end("good", Duration::ZERO, Some(Tally { passed: 7, failed: 0 })));
        assert!(!stages.end("bad", Duration::ZERO, None));
        assert_eq!(stages.failed(), ["bad"]);
        assert_eq!(stages.total(), Tally { passed: 7, failed: 1 });
        let table = stages.table();
        assert!(table.lines().nth(2).is_some_and(|line| line.ends_with("<- failed")), "{table}");
    }

    #[test]
    fn minutes_are_shown_as_minutes() {
        assert_eq!(seconds(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 m 05 s");
    }
}
