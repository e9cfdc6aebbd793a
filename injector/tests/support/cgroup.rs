//! A cgroup of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::unique;

/// A cgroup below the root of the version 2 hierarchy. When it is dropped its processes are killed, and it and
/// what is below it is removed.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: String,
    directory: PathBuf,
}

impl Cgroup {
    /// A new one below the root.
    pub(crate) fn new() -> Self {
        Self::at(&format!("/{}", unique("injtest-")))
    }

    /// A new one below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self::at(&format!("{}/{name}", self.path))
    }

    fn at(path: &str) -> Self {
        let directory = mount_point().join(path.trim_start_matches('/'));
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        Self { path: path.to_owned(), directory }
    }

    /// Its path as a scenario names it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Where it is in the file system.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The processes that are in it, not below it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Moves a process into it.
    pub(crate) fn add(&self, pid: i32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.directory.exists() && Instant::now() < deadline {
            let _ = fs::write(self.directory.join("cgroup.kill"), "1");
            remove_tree(&self.directory);
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = self.directory.exists() && !std::thread::panicking();
        assert!(!left, "{} could not be removed", self.directory.display());
    }
}

/// Removes a cgroup and what is below it, as far as no process is in it.
fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// Where the version 2 hierarchy is mounted: not at `/sys/fs/cgroup` on a hybrid host.
pub(crate) fn mount_point() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = table.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4))?
    });
    PathBuf::from(mount.expect("no cgroup v2 hierarchy is mounted"))
}
