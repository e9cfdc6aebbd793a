//! What several experiments use at once: a clsact or fq qdisc, a device's limit of segments, a controller of cgroups.
//!
//! Whoever shares such a thing has it in its own journal, as if it had made it, so that it goes with the last
//! of them and not with the first.

use std::fs::File;

use nix::fcntl::{Flock, FlockArg};

use super::{Entry, Experiment, Journal, JournalError, Store};

/// The other experiments of a store. While this lives none of them can share or take back anything.
#[derive(Debug)]
pub struct Neighbours {
    experiments: Vec<Experiment>,
    _guard: Flock<File>,
}

impl Journal {
    /// The other experiments beside this one.
    pub fn neighbours(&self) -> Result<Neighbours, JournalError> {
        let base = self.directory().parent().unwrap_or(self.directory());
        let store = Store::open(base)?;
        let guard = store.lock(FlockArg::LockExclusive)?;
        let mut experiments = store.list_locked()?.experiments;
        experiments.retain(|experiment| experiment.header.id != self.header().id);
        Ok(Neighbours { experiments, _guard: guard })
    }
}

impl Neighbours {
    /// What one of them, alive or dead, has made of the same kind in the same place, and not yet taken back.
    #[must_use]
    pub fn same(&self, entry: &Entry) -> Option<&Entry> {
        self.experiments.iter().find_map(|experiment| same_of(experiment, entry))
    }

    /// What all of them, alive or dead, have made and not yet taken back.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        let recorded = self.experiments.iter().flat_map(|experiment| &experiment.entries);
        recorded.filter(|recorded| !recorded.undone).map(|recorded| &recorded.entry)
    }

    /// The id of a living one that uses the same thing.
    #[must_use]
    pub fn living_user(&self, entry: &Entry) -> Option<&str> {
        let mut living = self.experiments.iter().filter(|experiment| experiment.alive);
        living.find(|e| same_of(e, entry).is_some()).map(|e| e.header.id.as_str())
    }
}

fn same_of<'a>(experiment: &'a Experiment, entry: &Entry) -> Option<&'a Entry> {
    let mut left = experiment.entries.iter().filter(|recorded| !recorded.undone);
    left.find(|recorded| is_same(&recorded.entry, entry)).map(|recorded| &recorded.entry)
}

#[allow(clippy::many_single_char_names, reason = "two of each, side by side")]
/// Whether both mean one thing on the host. A device may have another name by now.
fn is_same(one: &Entry, other: &Entry) -> bool {
    match (one, other) {
        (Entry::ClsactMade { netns: a, ifindex: i, .. }, Entry::ClsactMade { netns: b, ifindex: j, .. })
        | (Entry::FqMade { netns: a, ifindex: i, .. }, Entry::FqMade { netns: b, ifindex: j, .. })
        | (Entry::LinkDown { netns: a, ifindex: i, .. }, Entry::LinkDown { netns: b, ifindex: j, .. }) => {
            (a, i) == (b, j)
        }
        (
            Entry::GsoMaxSegs { netns: a, ifindex: i, set: s, .. },
            Entry::GsoMaxSegs { netns: b, ifindex: j, set: t, .. },
        ) => (a, i, s) == (b, j, t),
        (
            Entry::ControllerEnabled { id: a, controller: c, .. },
            Entry::ControllerEnabled { id: b, controller: d, .. },
        ) => (a, c) == (b, d),
        _ => false,
    }
}
