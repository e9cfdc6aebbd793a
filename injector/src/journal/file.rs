//! One experiment's journal: appended before each thing is made, read back by whoever cleans up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::entry::Line;
use super::store::lock_store;
use super::undo::{UndoError, undo};
use super::{Entry, Header, JournalError, Recorded, VERSION};
use crate::engine::control::SOCKET_NAME;
use crate::host::{Undone, errno_of};
use crate::kill_point::kill_point;

pub(super) const FILE_NAME: &str = "journal.jsonl";
pub(super) const LOCK_NAME: &str = "lock";

/// What came of taking one entry back.
#[derive(Debug)]
pub struct EntryOutcome {
    /// What was to be taken back.
    pub entry: Entry,
    /// How that went.
    pub result: Result<Undone, UndoError>,
}

/// The journal of one experiment, held by its controller or by whoever cleans up after it.
///
/// As long as this value lives, a lock on the directory tells everybody else that the experiment does too.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    file: File,
    /// The length of what is whole: everything behind it is torn.
    len: u64,
    damaged: bool,
    header: Header,
    entries: Vec<Recorded>,
    _lock: Flock<File>,
}

impl Journal {
    /// Begin the journal in a directory that was just made.
    pub(super) fn begin(directory: &Path, header: Header, lock: Flock<File>) -> Result<Self, JournalError> {
        let path = directory.join(FILE_NAME);
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(|error| io_error("create", &path, &error))?;
        let mut journal = Self {
            directory: directory.to_owned(),
            file,
            len: 0,
            damaged: false,
            header: header.clone(),
            entries: Vec::new(),
            _lock: lock,
        };
        journal.write(&Line::Header { header })?;
        Ok(journal)
    }

    /// Take over the journal of a dead experiment.
    pub(super) fn take_over(directory: &Path, lock: Flock<File>) -> Result<Self, JournalError> {
        let path = directory.join(FILE_NAME);
        let contents = read(&path)?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|error| io_error("open", &path, &error))?;
        let mut journal = Self {
            directory: directory.to_owned(),
            file,
            len: contents.len,
            damaged: false,
            header: contents.header,
            entries: contents.entries,
            _lock: lock,
        };
        if contents.torn {
            journal.mend();
        }
        Ok(journal)
    }

    /// The first line.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was written, in that order.
    #[must_use]
    pub fn entries(&self) -> &[Recorded] {
        &self.entries
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Remember a thing **before** it is made. On an error nothing may be made.
    ///
    /// Gives the number by which [`Self::undone`] knows the entry.
    pub fn append(&mut self, entry: Entry) -> Result<usize, JournalError> {
        self.write(&Line::Made { entry: entry.clone() })?;
        kill_point("journalled");
        self.entries.push(Recorded { entry, undone: false });
        Ok(self.entries.len() - 1)
    }

    /// Remember that a thing is gone, so that nobody looks for it again.
    pub fn undone(&mut self, index: usize) -> Result<(), JournalError> {
        if let Some(recorded) = self.entries.get_mut(index) {
            recorded.undone = true;
            self.write(&Line::Undone { index })?;
        }
        Ok(())
    }

    /// Take one entry back.
    pub fn undo(&mut self, index: usize) -> Option<EntryOutcome> {
        let entry = self.entries.get(index).filter(|recorded| !recorded.undone)?.entry.clone();
        // Nobody else may begin to use it between the look and the deed. Without a look it is ours alone.
        let neighbours = self.neighbours().ok();
        let result = match neighbours.as_ref().and_then(|others| others.living_user(&entry)) {
            Some(user) => Ok(Undone::NotOurs { why: format!("the experiment {user} uses it too") }),
            None if self.leads_to(&entry) => Err(UndoError::InUse),
            None => undo(&entry, &self.header.id),
        };
        kill_point("undone");
        if result.is_ok() {
            // Taking back twice does no harm, so a disk too full to note it is no failure.
            let _ = self.undone(index);
        }
        Some(EntryOutcome { entry, result })
    }

    /// Whether a filter that is still there sends packets to an ifb: without it they would be lost.
    fn leads_to(&self, entry: &Entry) -> bool {
        let Entry::IfbMade { netns: of, ifname } = entry else { return false };
        let mut left = self.entries.iter().filter(|recorded| !recorded.undone);
        left.any(|recorded| matches!(&recorded.entry, Entry::Redirect { netns, ifb, .. } if netns == of && ifb == ifname))
    }

    /// Take back all that is left, the youngest first; a failure does not keep the others from it.
    pub fn undo_all(&mut self) -> Vec<EntryOutcome> {
        (0..self.entries.len()).rev().filter_map(|index| self.undo(index)).collect()
    }

    /// End the experiment: remove its directory, unless something is left on the host.
    pub fn close(self) -> Result<(), JournalError> {
        let count = self.entries.iter().filter(|recorded| !recorded.undone).count();
        if count > 0 {
            return Err(JournalError::Outstanding { id: self.header.id.clone(), count });
        }
        self.discard()
    }

    /// Remove the directory, whatever the entries say: a reboot has taken them back.
    pub(super) fn discard(self) -> Result<(), JournalError> {
        // Whoever lists or claims experiments holds the store's lock, and must not see half a directory.
        let _guard = self.directory.parent().and_then(|base| lock_store(base).ok());
        remove_directory(&self.directory)
    }

    fn write(&mut self, line: &Line) -> Result<(), JournalError> {
        let path = || self.directory.join(FILE_NAME);
        if self.damaged {
            return Err(JournalError::Damaged { path: path() });
        }
        let mut text = serde_json::to_vec(line).map_err(|source| JournalError::Encode { source })?;
        text.push(b'\n');
        let written =
            self.file.write_all(&text).and_then(|()| self.file.flush()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let error = io_error("write", &path(), &error);
            self.mend();
            return Err(error);
        }
        self.len += text.len() as u64;
        Ok(())
    }

    /// Cut off a torn line, or else the next one would be glued to it.
    fn mend(&mut self) {
        self.damaged = self.file.set_len(self.len).is_err();
    }
}

/// What a journal says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    pub(super) entries: Vec<Recorded>,
    /// Whether the last line was cut short by a death or a full disk.
    pub(super) torn: bool,
    len: u64,
}

pub(super) fn read(path: &Path) -> Result<Contents, JournalError> {
    let bytes = fs::read(path).map_err(|error| io_error("read", path, &error))?;
    parse(&bytes, path)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Contents, JournalError> {
    let no_header = || JournalError::NoHeader { path: path.to_owned() };
    let mut lines = Vec::new();
    let (mut len, mut torn) = (0, false);
    let mut rows = bytes.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((row, text)) = rows.next() {
        let last = rows.peek().is_none();
        if last && !text.ends_with(b"\n") {
            torn = true;
            break;
        }
        match decode(text, row == 0, path) {
            Ok(line) => lines.push(line),
            Err(Refusal::Version(error)) => return Err(error),
            // Blocks that never reached the disk read as zeros: as torn as a short line.
            Err(Refusal::Syntax(_)) if last => {
                torn = true;
                break;
            }
            Err(Refusal::Syntax(source)) => {
                return Err(JournalError::Corrupt { path: path.to_owned(), line: row + 1, source });
            }
        }
        len += text.len() as u64;
    }
    let mut lines = lines.into_iter();
    let Some(Line::Header { header }) = lines.next() else { return Err(no_header()) };
    let mut entries: Vec<Recorded> = Vec::new();
    for line in lines {
        match line {
            Line::Made { entry } => entries.push(Recorded { entry, undone: false }),
            Line::Undone { index } => {
                if let Some(recorded) = entries.get_mut(index) {
                    recorded.undone = true;
                }
            }
            Line::Header { .. } => {}
        }
    }
    Ok(Contents { header, entries, torn, len })
}

enum Refusal {
    Version(JournalError),
    Syntax(serde_json::Error),
}

fn decode(text: &[u8], first: bool, path: &Path) -> Result<Line, Refusal> {
    if first {
        // The version alone is read first: the rest may look otherwise in another version.
        let value: serde_json::Value = serde_json::from_slice(text).map_err(Refusal::Syntax)?;
        let version =
            value.pointer("/header/version").and_then(serde_json::Value::as_u64).unwrap_or_default();
        if version > u64::from(VERSION) {
            let version = version as u32;
            return Err(Refusal::Version(JournalError::Version { path: path.to_owned(), version }));
        }
    }
    serde_json::from_slice(text).map_err(Refusal::Syntax)
}

/// The journal goes first: without it, whoever sees the rest of the directory knows that nothing is left.
pub(super) fn remove_directory(directory: &Path) -> Result<(), JournalError> {
    for name in [FILE_NAME, SOCKET_NAME, LOCK_NAME] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &path, &error));
            }
            _ => {}
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", directory, &error)),
        _ => Ok(()),
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, error: &io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source: errno_of(error) }
}

#[cfg(test)]
#[path = "file_tests.rs"]
pub(super) mod tests;
