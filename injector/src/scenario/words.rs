//! The words of the language: enums that are written as one of a few texts.

use super::model::{Direction, Per};

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
