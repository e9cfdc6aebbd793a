//! What changes the hierarchy: making and removing leaves, moving processes.

use std::fs;
use std::io::Write as _;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::{Cgroup, CgroupError, Hierarchy, MoveRefusal, errno_of, io_error, join, parent_of};

/// A group stays busy for a moment after its last process has ended.
const REMOVE_ATTEMPTS: u32 = 50;
/// Processes that fork while they are moved out are caught in the next round.
const EVACUATE_ROUNDS: u32 = 100;
const REMOVE_INTERVAL: Duration = Duration::from_millis(10);

impl Hierarchy {
    /// Make the group `name` below `parent`, as one that takes processes.
    pub fn create_leaf(&self, parent: &Cgroup, name: &str) -> Result<Cgroup, CgroupError> {
        if name.is_empty() || name.contains(['/', '\n']) || name.starts_with('.') {
            return Err(CgroupError::BadPath { path: name.to_owned(), why: "it is not one plain name" });
        }
        let path = join(&parent.path, name);
        let directory = self.directory(&path);
        fs::create_dir(&directory)
            .map_err(|error| CgroupError::Create { path: path.clone(), source: errno_of(&error) })?;
        let checked = self.check_domain(&path);
        if checked.is_err() {
            // Best effort: the error at hand says more than one about the removal would.
            let _ = fs::remove_dir(&directory);
        }
        checked?;
        self.open_path(&path)
    }

    /// Whether a group made below this one takes processes: below a threaded one it does not.
    pub fn check_takes_leaves(&self, parent: &Cgroup) -> Result<(), CgroupError> {
        // The root of the hierarchy has no type.
        if parent.is_root() { Ok(()) } else { self.check_domain(&parent.path) }
    }

    /// A new group below a threaded one is "domain invalid", which no process can enter.
    fn check_domain(&self, path: &str) -> Result<(), CgroupError> {
        let file = self.directory(path).join("cgroup.type");
        let kind = fs::read_to_string(&file).map_err(|error| io_error("read", &file, &error))?;
        match kind.trim() {
            "domain" => Ok(()),
            kind => Err(CgroupError::NotADomain { path: path.to_owned(), kind: kind.to_owned() }),
        }
    }

    /// The file through which a process enters a group, for a child that enters before it runs its program:
    /// there, writing `0` moves the writer.
    pub fn open_procs_file(&self, cgroup: &Cgroup) -> Result<fs::File, CgroupError> {
        let file = self.directory(&cgroup.path).join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(&file).map_err(|error| io_error("open", &file, &error))
    }

    /// Remove an empty group. One that is gone already is fine.
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let directory = self.directory(path);
        let mut attempt = 1;
        loop {
            match fs::remove_dir(&directory).map_err(|error| errno_of(&error)) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EBUSY) if attempt < REMOVE_ATTEMPTS => thread::sleep(REMOVE_INTERVAL),
                Err(source) => return Err(CgroupError::Remove { path: path.to_owned(), source }),
            }
            attempt += 1;
        }
    }

    /// Move a process, with all its threads, into a group.
    pub fn move_process(&self, pid: i32, to: &Cgroup) -> Result<(), CgroupError> {
        let file = self.directory(&to.path).join("cgroup.procs");
        let written = fs::OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut file| file.write_all(pid.to_string().as_bytes()));
        written.map_err(|error| {
            let source = errno_of(&error);
            CgroupError::Move { pid, to: to.path.clone(), refusal: MoveRefusal::of(source), source }
        })
    }

    /// Move a process into the group `path`, or the nearest one above it that takes it; the root takes any.
    pub fn move_to_or_above(&self, pid: i32, path: &str) -> Result<(), CgroupError> {
        let moved = self.open_path(path).and_then(|to| self.move_process(pid, &to));
        let unfit = match &moved {
            Err(CgroupError::Unknown { .. }) => true,
            Err(CgroupError::Move { refusal, .. }) => {
                use MoveRefusal::{GroupGone, InternalProcesses, Threaded};
                matches!(refusal, GroupGone | InternalProcesses | Threaded)
            }
            _ => false,
        };
        match parent_of(path) {
            Some(parent) if unfit => self.move_to_or_above(pid, parent),
            _ => moved,
        }
    }

    /// Remove a group with all below it, after moving whoever is in there to the group above.
    pub fn dissolve(&self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        let Some(parent) = parent_of(&cgroup.path) else {
            return Err(CgroupError::Remove { path: cgroup.path.clone(), source: Errno::EBUSY });
        };
        for _ in 0..EVACUATE_ROUNDS {
            let pids = self.procs(cgroup)?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                match self.move_to_or_above(pid, parent) {
                    Err(CgroupError::Move { refusal: MoveRefusal::ProcessGone, .. }) => {}
                    moved => moved?,
                }
            }
        }
        self.remove_tree(cgroup)
    }

    fn remove_tree(&self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        for child in self.children(cgroup)? {
            self.remove_tree(&child)?;
        }
        self.remove(&cgroup.path)
    }
}
