//! The directory of all journals: registering an experiment, listing them.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::error::Conflict;
use super::file::{self, FILE_NAME, LOCK_NAME, io_error, remove_directory};
use super::{Header, Journal, JournalError, Recorded, conflicts};

/// Where journals are unless [`RUN_DIR_VARIABLE`] says otherwise.
pub const DEFAULT_BASE: &str = "/run/injector";

/// The environment variable that names another directory.
pub const RUN_DIR_VARIABLE: &str = "INJECTOR_RUN_DIR";

/// An experiment as its journal shows it.
#[derive(Debug)]
pub struct Experiment {
    /// The first line of its journal.
    pub header: Header,
    /// Whether its controller lives.
    pub alive: bool,
    /// What it has made, in that order.
    pub entries: Vec<Recorded>,
    /// Whether its last line was cut short.
    pub torn: bool,
}

/// All experiments of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those whose journal can be read, by id.
    pub experiments: Vec<Experiment>,
    /// The directories whose journal cannot be read, and why.
    pub unreadable: Vec<(PathBuf, JournalError)>,
}

/// The directory of all journals.
#[derive(Debug, Clone)]
pub struct Store {
    base: PathBuf,
}

impl Store {
    /// The store at a directory, which is made when the first experiment is registered.
    pub fn open(base: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let store = Self { base: base.into() };
        store.check_base()?;
        Ok(store)
    }

    /// The store of this host, or the one that the environment names.
    pub fn open_default() -> Result<Self, JournalError> {
        let named = env::var_os(RUN_DIR_VARIABLE).filter(|base| !base.is_empty());
        Self::open(named.unwrap_or_else(|| OsString::from(DEFAULT_BASE)))
    }

    /// Its directory.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Begin an experiment's journal, unless a running one strikes the same target.
    pub fn register(&self, header: Header) -> Result<Journal, JournalError> {
        check_id(&header.id)?;
        self.make_base()?;
        let _guard = self.lock(FlockArg::LockExclusive)?;
        for other in self.list_locked()?.experiments.iter().filter(|other| other.alive) {
            if let Some((our_target, their_target)) =
                conflicts(&header.targets, &other.header.targets).into_iter().next()
            {
                let (ours, theirs) = (header.name, other.header.name.clone());
                let id = other.header.id.clone();
                let conflict = Conflict { ours, our_target, theirs, id, their_target };
                return Err(JournalError::Conflict(Box::new(conflict)));
            }
        }
        let directory = self.base.join(&header.id);
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => JournalError::IdTaken { id: header.id.clone() },
            _ => io_error("create", &directory, &error),
        })?;
        let begun = lock_file(&directory.join(LOCK_NAME), FlockArg::LockExclusiveNonblock)
            .and_then(|lock| Journal::begin(&directory, header, lock));
        if begun.is_err() {
            // Nothing was made yet; an error here would hide the one at hand.
            let _ = remove_directory(&directory);
        }
        begun
    }

    /// All experiments, by id.
    pub fn list(&self) -> Result<Listing, JournalError> {
        if !self.base.exists() {
            return Ok(Listing::default());
        }
        let _guard = self.lock(FlockArg::LockShared)?;
        self.list_locked()
    }

    pub(super) fn list_locked(&self) -> Result<Listing, JournalError> {
        let mut listing = Listing::default();
        for directory in self.directories()? {
            let alive = is_locked(&directory.join(LOCK_NAME))?;
            match file::read(&directory.join(FILE_NAME)) {
                Ok(contents) => listing.experiments.push(Experiment {
                    header: contents.header,
                    alive,
                    entries: contents.entries,
                    torn: contents.torn,
                }),
                // It ended before it made anything, or between the listing and now.
                Err(JournalError::NoHeader { .. } | JournalError::Io { source: Errno::ENOENT, .. }) => {}
                Err(error) => listing.unreadable.push((directory, error)),
            }
        }
        Ok(listing)
    }

    /// The directories of dead experiments, each locked so that nobody else cleans it up.
    pub(super) fn claim_dead(&self) -> Result<Vec<(PathBuf, Flock<File>)>, JournalError> {
        if !self.base.exists() {
            return Ok(Vec::new());
        }
        let _guard = self.lock(FlockArg::LockExclusive)?;
        let mut claimed = Vec::new();
        for directory in self.directories()? {
            match lock_file(&directory.join(LOCK_NAME), FlockArg::LockExclusiveNonblock) {
                Ok(lock) => claimed.push((directory, lock)),
                Err(JournalError::Io { source: Errno::EAGAIN | Errno::ENOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }

    /// The journal of an experiment whose controller is dead, taken over; `None` while somebody has it.
    pub fn take_over(&self, id: &str) -> Result<Option<Journal>, JournalError> {
        check_id(id)?;
        let directory = self.base.join(id);
        let _guard = self.lock(FlockArg::LockExclusive)?;
        match lock_file(&directory.join(LOCK_NAME), FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Journal::take_over(&directory, lock).map(Some),
            Err(JournalError::Io { source: Errno::EAGAIN | Errno::ENOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn directories(&self) -> Result<Vec<PathBuf>, JournalError> {
        let failed = |error: &io::Error| io_error("list", &self.base, error);
        let mut directories = Vec::new();
        for entry in fs::read_dir(&self.base).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
        directories.sort();
        Ok(directories)
    }

    fn make_base(&self) -> Result<(), JournalError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.base);
        made.map_err(|error| io_error("create", &self.base, &error))?;
        self.check_base()
    }

    /// Whoever can write here can have root undo things: the directory must be the caller's alone.
    fn check_base(&self) -> Result<(), JournalError> {
        let metadata = match fs::symlink_metadata(&self.base) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("stat", &self.base, &error)),
        };
        let unsafe_directory = |why| Err(JournalError::UnsafeDirectory { path: self.base.clone(), why });
        if !metadata.is_dir() {
            return unsafe_directory("it is not a directory");
        }
        if metadata.mode() & 0o022 != 0 {
            return unsafe_directory("others may write to it");
        }
        if metadata.uid() != geteuid().as_raw() {
            return if geteuid().is_root() {
                unsafe_directory("it belongs to another user")
            } else {
                Err(io_error("open", &self.base, &io::Error::from(Errno::EACCES)))
            };
        }
        Ok(())
    }

    pub(super) fn lock(&self, how: FlockArg) -> Result<Flock<File>, JournalError> {
        lock_file(&self.base.join(LOCK_NAME), how)
    }
}

/// Keep everybody else out of the store for a moment.
pub(super) fn lock_store(base: &Path) -> Result<Flock<File>, JournalError> {
    lock_file(&base.join(LOCK_NAME), FlockArg::LockExclusive)
}

/// Whether somebody holds the lock of an experiment.
fn is_locked(path: &Path) -> Result<bool, JournalError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("open", path, &error)),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EAGAIN)) => Ok(true),
        Err((_, errno)) => Err(io_error("lock", path, &errno.into())),
    }
}

fn lock_file(path: &Path, how: FlockArg) -> Result<Flock<File>, JournalError> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = opened.map_err(|error| io_error("open", path, &error))?;
    Flock::lock(file, how).map_err(|(_, errno)| io_error("lock", path, &errno.into()))
}

fn check_id(id: &str) -> Result<(), JournalError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let good = !id.is_empty() && id.len() <= 64 && id.bytes().all(plain) && id != LOCK_NAME;
    if good { Ok(()) } else { Err(JournalError::BadId { id: id.to_owned() }) }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
