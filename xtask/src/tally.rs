//! Reads the counts out of what test programs print.

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

#[cfg(test)]
mod tests {
    use super::*;

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
