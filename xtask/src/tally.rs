//! Reads the counts and the failures out of what test programs print.

use crate::stage::Tally;

/// Sums the `test result: ok. 3 passed; 0 failed; ...` lines of libtest.
pub(crate) fn libtest<'a>(lines: impl IntoIterator<Item = &'a str>) -> Tally {
    let mut total = Tally::default();
    for line in lines {
        let Some((_, counts)) = line.split_once("test result: ") else { continue };
        for part in counts.split([';', '.']) {
            let mut words = part.split_whitespace();
            let Some(count) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
            match words.next() {
                Some("passed") => total.passed += count,
                Some("failed") => total.failed += count,
                _ => {}
            }
        }
    }
    total
}

/// How many lines of a failure are repeated at the end of a run: the message and the place.
const LINES_OF_FAILURE: usize = 12;

/// The blocks `---- name stdout ----` of failed tests, each cut to its first lines, with where it ran in front.
pub(crate) fn failures<'a>(place: &str, lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut is_inside = false;
    for line in lines {
        if line.starts_with("---- ") && line.ends_with(" ----") {
            found.push(Vec::new());
            is_inside = true;
        } else if line == "failures:" || line.starts_with("stack backtrace:") {
            is_inside = false;
        }
        if let Some(block) = found.last_mut().filter(|_| is_inside) {
            block.push(line);
        }
    }
    let text = |block: &Vec<&str>| {
        let said = block.iter().filter(|line| !line.is_empty()).take(LINES_OF_FAILURE);
        said.fold(String::new(), |text, line| text + place + ": " + line + "\n")
    };
    found.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_its_message_without_the_trace() {
        let text = "test a ... FAILED\ntest b ... ok\n\nfailures:\n\n---- a stdout ----\n\nthread 'a' panicked at x.rs:1:2:\nno\n\
            stack backtrace:\n   0: f\n\n---- b stdout ----\nwhy\n\nfailures:\n    a\n    b\n";
        let found = failures("6.1", text.lines());
        assert_eq!(found[0], "6.1: ---- a stdout ----\n6.1: thread 'a' panicked at x.rs:1:2:\n6.1: no\n");
        assert_eq!(found[1..], ["6.1: ---- b stdout ----\n6.1: why\n"]);
        assert_eq!(failures("6.1", ["test result: ok. 3 passed"]), [""; 0]);
    }

    #[test]
    fn several_programs_are_summed() {
        let text = "running 2 tests\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        assert_eq!(libtest(text.lines()), Tally { passed: 13, failed: 2 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(libtest(["3 passed; 1 failed"]), Tally::default());
    }
}
