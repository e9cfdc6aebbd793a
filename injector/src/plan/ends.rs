//! Faults that begin when the window of another one closes: once the seed is known that is a time.

use injector_common::draw::{self, PURPOSE_WINDOW};

use super::lower::window;
use crate::scenario::{Fault, Scenario};

/// Makes times of all `after_end`. They count from where those of the other fault count from.
#[must_use]
pub fn with_ends(mut scenario: Scenario, seed: u64) -> Scenario {
    // One of those that wait for each other in a row is resolved in each round; the validation lets nobody wait for himself.
    for _ in 0..scenario.faults.len() {
        let resolved: Vec<Option<Fault>> =
            scenario.faults.iter().map(|fault| resolved(&scenario, fault, seed)).collect();
        for (fault, resolved) in scenario.faults.iter_mut().zip(resolved) {
            if let Some(resolved) = resolved {
                *fault = resolved;
            }
        }
    }
    scenario
}

/// A fault with the time at which it begins, if it waits for an end that is known.
fn resolved(scenario: &Scenario, fault: &Fault, seed: u64) -> Option<Fault> {
    let id = fault.after_end.as_ref()?;
    let other = scenario.faults.iter().find(|other| other.id == *id && other.after_end.is_none())?;
    let stream = draw::stream(seed, draw::fault_number(other.id.as_bytes()), PURPOSE_WINDOW);
    let (_, end_ns) = window(&other.when, stream).span_ns(0)?;
    let mut resolved = fault.clone();
    resolved.after_end = None;
    resolved.after.clone_from(&other.after);
    resolved.when.start_ns = resolved.when.start_ns.saturating_add(end_ns);
    Some(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Overrides, Source, load};

    fn faults(text: &str) -> Vec<Fault> {
        let text = format!("duration = \"1m\"\nseed = 1\n[target.db]\ncgroup = \"/db\"\n{text}");
        with_ends(load(&Source::text("ends.toml", text), &Overrides::default()).unwrap(), 1).faults
    }

    fn fault(id: &str, when: &str) -> String {
        format!("[[fault]]\nid = \"{id}\"\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = {{ {when} }}\n")
    }

    #[test]
    fn an_end_is_a_time() {
        let text = fault("third", "after_end = \"second\"")
            + &fault("second", "after_end = \"first\", start = \"1s\", for = \"2s\"")
            + &fault("first", "start = \"5s\", for = \"3s\"");
        let starts: Vec<u64> =
            faults(&text).iter().map(|fault| fault.when.start_ns / 1_000_000_000).collect();
        assert_eq!(starts, [11, 9, 5]);
    }

    #[test]
    fn it_is_that_of_the_window_as_it_is_drawn() {
        let text = fault("a", "for = \"3s\", jitter = \"10s\"") + &fault("b", "after_end = \"a\"");
        let faults = faults(&text);
        let stream = draw::stream(1, draw::fault_number(b"a"), PURPOSE_WINDOW);
        let end_ns = window(&faults[0].when, stream).span_ns(0).unwrap().1;
        assert!(end_ns > 3_000_000_000, "{end_ns}");
        assert_eq!(faults[1].when.start_ns, end_ns);
    }

    #[test]
    fn it_counts_from_where_the_other_counts() {
        let text =
            fault("a", "") + &fault("b", "after = \"a\", for = \"3s\"") + &fault("c", "after_end = \"b\"");
        let faults = faults(&text);
        assert_eq!(faults[2].after.as_deref(), Some("a"));
        assert_eq!(faults[2].when.start_ns, 3_000_000_000);
    }
}
