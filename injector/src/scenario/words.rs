//! The words of the language: enums that are written as one of a few texts.

use super::effect::{CorruptMode, Distribution, Per};
use super::model::{Direction, InterfaceHook};
use super::partition::Shape;
use super::reject::{IcmpError, ResetSide};

/// An enum whose values are words.
pub(crate) trait Word: Copy + 'static {
    /// What such a word is, for messages.
    const WHAT: &'static str;
    /// Every word and its value.
    const WORDS: &'static [(&'static str, Self)];
}

impl Word for Direction {
    const WHAT: &'static str = "direction";
    const WORDS: &'static [(&'static str, Self)] =
        &[("egress", Self::Egress), ("ingress", Self::Ingress), ("both", Self::Both)];
}

impl Word for InterfaceHook {
    const WHAT: &'static str = "hook";
    const WORDS: &'static [(&'static str, Self)] = &[("tc", Self::Tc), ("xdp", Self::Xdp)];
}

impl Word for Per {
    const WHAT: &'static str = "unit of loss";
    const WORDS: &'static [(&'static str, Self)] = &[("packet", Self::Packet), ("segment", Self::Segment)];
}

/// The name of a loss model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ModelName {
    #[default]
    Bernoulli,
    GilbertElliott,
    Markov,
    Periodic,
}

impl Word for ModelName {
    const WHAT: &'static str = "loss model";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("bernoulli", Self::Bernoulli),
        ("gilbert-elliott", Self::GilbertElliott),
        ("markov", Self::Markov),
        ("periodic", Self::Periodic),
    ];
}

impl Word for Distribution {
    const WHAT: &'static str = "distribution";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("uniform", Self::Uniform),
        ("normal", Self::Normal),
        ("pareto", Self::Pareto),
        ("pareto-normal", Self::ParetoNormal),
        ("exponential", Self::Exponential),
    ];
}

impl Word for CorruptMode {
    const WHAT: &'static str = "mode";
    const WORDS: &'static [(&'static str, Self)] = &[("wire", Self::Wire), ("silent", Self::Silent)];
}

/// How a leap second is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeapMode {
    Repeat,
    Smear,
}

impl Word for LeapMode {
    const WHAT: &'static str = "mode";
    const WORDS: &'static [(&'static str, Self)] = &[("repeat", Self::Repeat), ("smear", Self::Smear)];
}

/// A call of a program that can fail, or that one might expect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Connect,
    Bind,
    Sendmsg,
    Accept,
}

impl Word for Operation {
    const WHAT: &'static str = "operation";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("connect", Self::Connect),
        ("bind", Self::Bind),
        ("sendmsg", Self::Sendmsg),
        ("accept", Self::Accept),
    ];
}

impl Word for ResetSide {
    const WHAT: &'static str = "side";
    const WORDS: &'static [(&'static str, Self)] =
        &[("local", Self::Local), ("remote", Self::Remote), ("both", Self::Both)];
}

impl Word for IcmpError {
    const WHAT: &'static str = "ICMP error";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("port-unreachable", Self::PortUnreachable),
        ("host-unreachable", Self::HostUnreachable),
        ("net-unreachable", Self::NetUnreachable),
        ("admin-prohibited", Self::AdminProhibited),
        ("fragmentation-needed", Self::FragmentationNeeded),
    ];
}

/// A code point of explicit congestion notification that a router sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodePoint {
    CongestionExperienced,
}

impl Word for CodePoint {
    const WHAT: &'static str = "code point";
    const WORDS: &'static [(&'static str, Self)] = &[("ce", Self::CongestionExperienced)];
}

impl Word for Shape {
    const WHAT: &'static str = "shape";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("halves", Self::Halves),
        ("one", Self::One),
        ("bridge", Self::Bridge),
        ("majorities-ring", Self::MajoritiesRing),
    ];
}

/// What becomes of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkWord {
    Down,
}

impl Word for LinkWord {
    const WHAT: &'static str = "state of a link";
    const WORDS: &'static [(&'static str, Self)] = &[("down", Self::Down)];
}
