//! The object as the kernel's verifier takes it.

use injector::kernel::{Image, Kernel, programs};
use injector_common::matching::{KEY_PROTOCOL, KEY_REMOTE, Match};
use injector_common::rule::{ACTION_CORRUPT, ACTION_LOSS, FREQUENCY_PROBABILITY, Rule};

use crate::support::skipped_without_root;

/// Instructions that the verifier walks in the egress program when it has these rules.
fn walked(rules: Vec<Rule>) -> u32 {
    let image = Image { faults: 1, rules, ..Image::default() };
    let mut kernel = Kernel::load(&image, 1).unwrap();
    let name = programs::EGRESS.for_device(true);
    kernel.classifier(name).unwrap().info().unwrap().verified_instruction_count().unwrap()
}

#[test]
fn the_verifier_walks_only_what_the_rules_ask_for() {
    if skipped_without_root() {
        return;
    }
    let loss = Rule { action: ACTION_LOSS, frequency: FREQUENCY_PROBABILITY, ..Rule::default() };
    let include = Match { keys: KEY_PROTOCOL | KEY_REMOTE, ..Match::default() };
    let corrupt = Rule { action: ACTION_CORRUPT, ..loss };
    let (one, matching) = (walked(vec![loss]), walked(vec![Rule { include, ..loss }]));
    let (changing, all) = (walked(vec![loss, corrupt]), walked(Vec::new()));
    assert!(
        one < matching && matching < all && one < changing && changing < all,
        "{one} {matching} {changing} {all}"
    );
    assert!(one * 2 < all, "one rule that only loses takes {one} of {all}");
}
