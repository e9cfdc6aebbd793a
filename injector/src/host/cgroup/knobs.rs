//! The files of a cgroup by which its processes are held: the freezer, limits, and which controllers its children have.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;

use super::{Cgroup, CgroupError, Hierarchy, io_error};

/// The freezer of a cgroup, since Linux 5.2 (`kernel/cgroup/freezer.c`).
pub const FREEZE: &str = "cgroup.freeze";
/// Kills all that is in a cgroup, also what forks meanwhile, since Linux 5.14.
pub const KILL: &str = "cgroup.kill";
/// Whether anybody is in it, and whether all of them rest.
pub const EVENTS: &str = "cgroup.events";
const SUBTREE: &str = "cgroup.subtree_control";

impl Hierarchy {
    /// What a file of a cgroup says, without the white space around it.
    pub fn read_knob(&self, path: &str, file: &str) -> Result<String, CgroupError> {
        let whole = self.directory(path).join(file);
        let text = fs::read_to_string(&whole).map_err(|error| io_error("read", &whole, &error))?;
        Ok(text.trim().to_owned())
    }

    /// Writes a file of a cgroup.
    pub fn write_knob(&self, path: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        // Not `fs::write`, which would make the file of a cgroup that is gone.
        let mut opened = self.open_knob(path, file, true)?;
        let written = opened.write_all(value.as_bytes());
        written.map_err(|error| io_error("write", &self.directory(path).join(file), &error))
    }

    /// Opens a file of a cgroup, for writing or for reading.
    pub fn open_knob(&self, path: &str, file: &str, write: bool) -> Result<fs::File, CgroupError> {
        let whole = self.directory(path).join(file);
        let opened = fs::OpenOptions::new().write(write).read(!write).open(&whole);
        opened.map_err(|error| io_error("open", &whole, &error))
    }

    /// Whether a group is told to be frozen.
    pub fn is_told_to_freeze(&self, path: &str) -> Result<bool, CgroupError> {
        Ok(self.read_knob(path, FREEZE)? == "1")
    }

    /// Whether nobody in the group runs, by its own freezer or that of a group above.
    pub fn is_frozen(&self, path: &str) -> Result<bool, CgroupError> {
        let events = self.read_knob(path, EVENTS)?;
        Ok(events.lines().any(|line| line == "frozen 1"))
    }

    /// The controllers of version 2 on this host: those that no hierarchy of version 1 has.
    pub fn controllers(&self) -> Result<BTreeSet<String>, CgroupError> {
        let root = self.root()?;
        Ok(words(&self.read_knob(&root.path, "cgroup.controllers")?))
    }

    /// The groups above `cgroup`, from the root down.
    pub fn above(&self, cgroup: &Cgroup) -> Result<Vec<Cgroup>, CgroupError> {
        let mut above = Vec::new();
        let mut next = super::parent_of(&cgroup.path);
        while let Some(path) = next {
            above.push(self.open_path(path)?);
            // The mount may show a part of the hierarchy alone.
            next = if path == self.root { None } else { super::parent_of(path) };
        }
        above.reverse();
        Ok(above)
    }

    /// Gives the children of a group a controller, or takes it from them.
    pub fn set_controller(&self, path: &str, controller: &str, on: bool) -> Result<(), CgroupError> {
        self.write_knob(path, SUBTREE, &format!("{}{controller}", if on { '+' } else { '-' }))
    }

    /// Whether the children of a group have a controller.
    pub fn has_controller(&self, path: &str, controller: &str) -> Result<bool, CgroupError> {
        Ok(words(&self.read_knob(path, SUBTREE)?).contains(controller))
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
