//! Cleaning up after experiments whose controller has died, from nothing but their journals.

use nix::errno::Errno;

use super::file::remove_directory;
use super::{EntryOutcome, Journal, JournalError, Store};
use crate::host::facts::boot_id;

/// What came of cleaning up.
#[derive(Debug, Default)]
pub struct CleanReport {
    /// One report for each dead experiment, by id.
    pub experiments: Vec<ExperimentReport>,
}

impl CleanReport {
    /// Whether nothing of any dead experiment is left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.experiments.iter().all(|experiment| experiment.problem.is_none())
    }
}

/// What came of cleaning up after one experiment.
#[derive(Debug)]
pub struct ExperimentReport {
    /// Its id.
    pub id: String,
    /// Its name, if its journal got as far as that.
    pub name: Option<String>,
    /// Whether it is of an earlier boot, which has taken back everything by itself.
    pub rebooted: bool,
    /// What came of each thing that was left, the youngest first.
    pub outcomes: Vec<EntryOutcome>,
    /// Why its journal is still there; the next cleaning tries again.
    pub problem: Option<JournalError>,
}

/// Take back what dead experiments left on this host. Running ones are left alone.
pub fn clean(store: &Store) -> Result<CleanReport, JournalError> {
    let boot_id = boot_id()?;
    let mut report = CleanReport::default();
    for (directory, lock) in store.claim_dead()? {
        let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match Journal::take_over(&directory, lock) {
            Ok(journal) => report.experiments.push(finish(journal, &boot_id)),
            // It died before its header was whole, so before it made anything.
            Err(JournalError::NoHeader { .. } | JournalError::Io { source: Errno::ENOENT, .. }) => {
                let problem = remove_directory(&directory).err();
                report.experiments.push(ExperimentReport::new(id, None, problem));
            }
            Err(error) => report.experiments.push(ExperimentReport::new(id, None, Some(error))),
        }
    }
    Ok(report)
}

impl ExperimentReport {
    fn new(id: String, name: Option<String>, problem: Option<JournalError>) -> Self {
        Self { id, name, rebooted: false, outcomes: Vec::new(), problem }
    }
}

fn finish(mut journal: Journal, boot_id: &str) -> ExperimentReport {
    let header = journal.header();
    let mut report = ExperimentReport::new(header.id.clone(), Some(header.name.clone()), None);
    report.rebooted = header.boot_id != boot_id;
    if report.rebooted {
        report.problem = journal.discard().err();
        return report;
    }
    report.outcomes = journal.undo_all();
    report.problem = journal.close().err();
    report
}
