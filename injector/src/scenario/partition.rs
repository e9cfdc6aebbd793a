//! Who can't reach whom in a partition.

use super::matching::AddressRef;

/// Who can't reach whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partition {
    /// One target and others, which need not be targets.
    Peers {
        /// What comes from these is lost.
        from: Vec<AddressRef>,
        /// What goes to these is lost. Not both lists are empty.
        to: Vec<AddressRef>,
    },
    /// Targets among each other.
    Nodes {
        /// Which of them can't reach which.
        shape: Shape,
        /// Names of targets, each once; at least [`Shape::least`].
        nodes: Vec<String>,
    },
}

/// How nodes are parted, as the nemeses of Jepsen do it (`jepsen.nemesis`). Every cut goes both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Two halves, the smaller one first: of an odd number a minority and a majority (`partition-random-halves`).
    Halves,
    /// One node, and all others (`partition-random-node`).
    One,
    /// Two halves, and one node that both can reach (`bridge`).
    Bridge,
    /// Each node reaches a majority, itself included, and no two nodes the same one (`partition-majorities-ring`).
    MajoritiesRing,
}

impl Shape {
    /// The fewest nodes of which there is such a shape.
    #[must_use]
    pub const fn least(self) -> usize {
        match self {
            Self::Halves | Self::One => 2,
            Self::Bridge | Self::MajoritiesRing => 3,
        }
    }
}
