//! What can go wrong with journals, and the remedy for each.

use std::path::PathBuf;

use nix::errno::Errno;

use super::TargetKey;
use crate::host::facts::FactError;

/// A journal operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The directory of the journals could be changed by others.
    #[error("{} is not safe for journals: {why}", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The id cannot be the name of a directory.
    #[error("`{id}` cannot be an experiment's id")]
    BadId {
        /// The id.
        id: String,
    },
    /// An experiment of this id is there.
    #[error("there is already an experiment `{id}`")]
    IdTaken {
        /// The id.
        id: String,
    },
    /// A running experiment strikes the same target.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// A journal has no whole header: its experiment ended before it made anything.
    #[error("the journal {} has no header", path.display())]
    NoHeader {
        /// The file.
        path: PathBuf,
    },
    /// A line in the middle of a journal cannot be read.
    #[error("line {line} of the journal {} cannot be read", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A newer injector wrote the journal.
    #[error("the journal {} has version {version}, which this injector does not know", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// An entry could not be turned into a line.
    #[error("cannot encode a journal entry")]
    Encode {
        /// Why.
        source: serde_json::Error,
    },
    /// After a failed write the file could not be mended, so that nothing may be added to it.
    #[error("the journal {} is damaged by an earlier failed write", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Not everything was taken back.
    #[error("experiment `{id}` left {count} thing(s) on this host")]
    Outstanding {
        /// The experiment.
        id: String,
        /// How many.
        count: usize,
    },
    /// The boot id could not be read.
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// Two experiments that must not run at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("experiment `{ours}` would strike {our_target} while `{theirs}` ({id}) strikes {their_target}")]
pub struct Conflict {
    /// The name of the new experiment.
    pub ours: String,
    /// Its target.
    pub our_target: TargetKey,
    /// The name of the running experiment.
    pub theirs: String,
    /// The id of the running experiment.
    pub id: String,
    /// Its target.
    pub their_target: TargetKey,
}

impl JournalError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source: Errno::ENOSPC | Errno::EDQUOT, path, .. } => {
                return Some(format!("make room on the file system of {}", path.display()));
            }
            Self::Io { source: Errno::EACCES | Errno::EPERM, .. } => "run as root",
            Self::Io { source: Errno::EROFS, .. } => {
                "set INJECTOR_RUN_DIR to a directory on a writable file system"
            }
            Self::UnsafeDirectory { .. } => {
                "it must be a directory that only its owner, the caller, can write to"
            }
            Self::BadId { .. } => "use letters, digits, `-` and `_`",
            Self::IdTaken { .. } => "choose another id, or run `injector clean` if it has died",
            Self::Conflict(conflict) => {
                return Some(format!("wait for it to end, or stop it: `injector stop {}`", conflict.id));
            }
            Self::Version { .. } => "clean up with the injector that ran the experiment",
            Self::Corrupt { path, .. } => {
                let directory = path.parent().unwrap_or(path).display();
                return Some(format!("a reboot drops all that it names; then remove {directory}"));
            }
            Self::Outstanding { .. } => "run `injector clean`",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
