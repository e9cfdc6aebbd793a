//! The cgroup v2 hierarchy: where it is mounted, which groups it has, who is in them.
//!
//! `mount` finds the hierarchy, `tree` changes it, `knobs` are the files by which groups are held, `signals` reach all processes of one. Only version 2 counts: the kernel's networking and BPF
//! helpers know a packet's v2 cgroup, never a v1 one.

mod error;
pub mod knobs;
mod mount;
mod signals;
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use error::{CgroupError, MoveRefusal};
pub use mount::{Mode, MountPoint, find_mount};
pub use signals::SignalError;

use super::errno_of;

/// The kernel gives the root of a hierarchy this id, and no other group ever.
const ROOT_ID: u64 = 1;

/// The initial cgroup namespace has this fixed inode (`PROC_CGROUP_INIT_INO`).
const INIT_NAMESPACE_INODE: u64 = 0xEFFF_FFFB;

/// One group of the v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its path from the root of the hierarchy, as in `/proc/PID/cgroup`: `/` or `/a/b`.
    pub path: String,
    /// The id that BPF helpers return: the kernfs id, which on 64-bit hosts is the directory's inode number.
    pub id: u64,
    /// Its depth below the root, which has level 0, as `bpf_skb_ancestor_cgroup_id` counts it.
    pub level: u32,
}

impl Cgroup {
    /// Whether this is the root of the hierarchy.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.path == "/"
    }

    /// Whether `other` lies somewhere below this group; a group is not its own ancestor.
    #[must_use]
    pub fn is_ancestor_of(&self, other: &Self) -> bool {
        is_below(&self.path, &other.path)
    }

    /// Whether this group is `other` or an ancestor of it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.path == other.path || self.is_ancestor_of(other)
    }
}

/// Whether the cgroup path `below` lies strictly below `above`.
#[must_use]
pub fn is_below(above: &str, below: &str) -> bool {
    if above == "/" {
        return below != "/";
    }
    below.strip_prefix(above).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// The path of the group that holds `path`; the root has none.
#[must_use]
pub fn parent_of(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// The v2 hierarchy as it is mounted on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
    root: String,
    mode: Mode,
}

impl Hierarchy {
    /// Find the hierarchy in the calling thread's mount table.
    pub fn find() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/thread-self/mountinfo");
        let text = fs::read_to_string(path).map_err(|error| io_error("read", path, &error))?;
        let MountPoint { mount, root, mode } = find_mount(&text)?;
        let hierarchy = Self { mount, root, mode };
        hierarchy.check_namespace()?;
        Ok(hierarchy)
    }

    /// Levels count from the true root, which only the initial cgroup namespace shows.
    fn check_namespace(&self) -> Result<(), CgroupError> {
        let inode = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino());
        let whole = if self.root == "/" {
            inode(&self.mount).map_err(|error| io_error("stat", &self.mount, &error))? == ROOT_ID
        } else {
            // A kernel without cgroup namespaces has no such file, and nothing to hide.
            inode(Path::new("/proc/self/ns/cgroup")).map_or(true, |inode| inode == INIT_NAMESPACE_INODE)
        };
        if whole { Ok(()) } else { Err(CgroupError::Namespaced { mount: self.mount.clone() }) }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Whether version 1 controllers are mounted beside it.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The root of the hierarchy, or the highest group that the mount shows.
    pub fn root(&self) -> Result<Cgroup, CgroupError> {
        self.open_path(&self.root)
    }

    /// Open a group by the name a person gives it: `/app/db`, `app/db`, or with the mount in front.
    pub fn open(&self, name: &str) -> Result<Cgroup, CgroupError> {
        self.open_path(&self.normalize(name)?)
    }

    /// The group that a process is in.
    pub fn of_process(&self, pid: i32) -> Result<Cgroup, CgroupError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|error| match errno_of(&error) {
            Errno::ENOENT | Errno::ESRCH => CgroupError::NoSuchProcess { pid },
            _ => io_error("read", &path, &error),
        })?;
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .ok_or(CgroupError::NotInHierarchy { pid })?;
        // A process may outlive its group's directory; then the kernel marks the path.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        if path.starts_with("/..") || !(path == self.root || is_below(&self.root, path)) {
            return Err(CgroupError::OutsideOfView { pid, path: path.to_owned(), mount: self.mount.clone() });
        }
        self.open_path(path)
    }

    /// Every process in the group and in all groups below it, by pid.
    ///
    /// Processes of other pid namespaces, which have no number here, are left out.
    pub fn procs(&self, cgroup: &Cgroup) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = self.own_procs(cgroup)?;
        for child in self.children(cgroup)? {
            pids.extend(self.procs(&child)?);
        }
        Ok(pids)
    }

    /// The processes in the group itself.
    pub fn own_procs(&self, cgroup: &Cgroup) -> Result<BTreeSet<i32>, CgroupError> {
        let directory = self.directory(&cgroup.path);
        match read_ids(&directory.join("cgroup.procs")) {
            Ok(pids) => Ok(pids),
            // A threaded group lists threads only; its processes are named by the domain above it.
            Err(Errno::EOPNOTSUPP) => {
                let path = directory.join("cgroup.threads");
                let threads = read_ids(&path).map_err(|source| io_errno("read", &path, source))?;
                Ok(threads.into_iter().filter_map(process_of_thread).collect())
            }
            Err(Errno::ENODEV | Errno::ENOENT) => Ok(BTreeSet::new()),
            Err(source) => Err(io_errno("read", &directory.join("cgroup.procs"), source)),
        }
    }

    /// The groups directly below, sorted by path.
    pub fn children(&self, cgroup: &Cgroup) -> Result<Vec<Cgroup>, CgroupError> {
        let directory = self.directory(&cgroup.path);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("list", &directory, &error)),
        };
        let mut children = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io_error("list", &directory, &error))?;
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = join(&cgroup.path, &entry.file_name().to_string_lossy());
            match self.open_path(&path) {
                Ok(child) => children.push(child),
                // It went away between the listing and now.
                Err(CgroupError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        children.sort();
        Ok(children)
    }

    /// The directory of a group.
    #[must_use]
    pub fn directory(&self, path: &str) -> PathBuf {
        let shown = if self.root == "/" { path } else { path.strip_prefix(&self.root).unwrap_or(path) };
        self.mount.join(shown.trim_start_matches('/'))
    }

    fn normalize(&self, name: &str) -> Result<String, CgroupError> {
        let bad = |why| CgroupError::BadPath { path: name.to_owned(), why };
        let shown = match Path::new(name).strip_prefix(&self.mount) {
            Ok(inside) => Path::new(&self.root).join(inside),
            Err(_) => Path::new("/").join(name),
        };
        let shown = shown.to_str().ok_or(bad("it is not UTF-8"))?;
        let parts: Vec<&str> = shown.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if name.is_empty() {
            return Err(bad("it is empty"));
        }
        if parts.contains(&"..") {
            return Err(bad("it has `..` in it"));
        }
        Ok(format!("/{}", parts.join("/")))
    }

    fn open_path(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let directory = self.directory(path);
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {
                let level = path.split('/').filter(|part| !part.is_empty()).count() as u32;
                Ok(Cgroup { path: path.to_owned(), id: metadata.ino(), level })
            }
            Ok(_) => Err(CgroupError::BadPath { path: path.to_owned(), why: "it is a file, not a group" }),
            Err(error) if matches!(errno_of(&error), Errno::ENOENT | Errno::ENOTDIR) => {
                Err(CgroupError::Unknown { path: path.to_owned(), nearest: self.nearest(path) })
            }
            Err(error) => Err(io_error("open", &directory, &error)),
        }
    }

    /// The existing group whose name is most like the first missing part of `path`.
    fn nearest(&self, path: &str) -> Option<String> {
        let (mut present, mut missing) = (parent_of(path)?, path);
        while !self.directory(present).is_dir() {
            (missing, present) = (present, parent_of(present)?);
        }
        let missing = missing.rsplit('/').next()?;
        let entries = fs::read_dir(self.directory(present)).ok()?;
        let names = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        nearest_of(missing, names.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .map(|name| join(present, &name))
    }
}

/// The candidate most like `word`, if any is like it at all.
pub(crate) fn nearest_of(word: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    const LIKE: f64 = 0.7;
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, &candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKE)
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))
        .map(|(_, candidate)| candidate)
}

/// The path of the group `name` below `parent`.
#[must_use]
pub fn join(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

fn read_ids(path: &Path) -> Result<BTreeSet<i32>, Errno> {
    let text = fs::read_to_string(path).map_err(|error| errno_of(&error))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|id| *id > 0).collect())
}

fn process_of_thread(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

fn io_error(action: &'static str, path: &Path, error: &io::Error) -> CgroupError {
    io_errno(action, path, errno_of(error))
}

fn io_errno(action: &'static str, path: &Path, source: Errno) -> CgroupError {
    CgroupError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
