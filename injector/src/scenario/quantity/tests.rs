use proptest::prelude::*;

use super::{Budget, DurationNs, LengthRange, Nth, P32, QuantityError};

fn p32(text: &str) -> Result<P32, QuantityError> {
    text.parse()
}

#[test]
fn percentages_are_exact() {
    assert_eq!(p32("100%"), Ok(P32::ONE));
    assert_eq!(p32("0%"), Ok(P32::ZERO));
    assert_eq!(p32("50 %"), Ok(P32(1 << 31)));
    // 0.1 % is 4294967.296 units and 2.5 % is 107374182.4: rounded to the nearest.
    assert_eq!(p32("0.1%"), Ok(P32(4_294_967)));
    assert_eq!(p32("2.5%"), Ok(P32(107_374_182)));
    assert_eq!(p32("0.00000003%"), Ok(P32(1)));
    assert_eq!(p32("00100.000000000000000000000000000%"), Ok(P32::ONE));
}

#[test]
fn percentages_out_of_bounds_are_refused() {
    for (text, part) in [
        ("150%", "more than 100 %"),
        ("100.00000000000001%", "more than 100 %"),
        ("-5%", "negative"),
        ("0.05", "needs a unit, such as \"0.05%\""),
        ("5ms", "\"ms\" is not a unit of probability"),
        ("0.00000000001%", "less than the resolution"),
        ("1.%", "not a percentage"),
        (".5%", "not a percentage"),
        ("1.2.3%", "not a percentage"),
        ("", "empty"),
    ] {
        let error = p32(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn times_are_exact() {
    for (text, ns) in [
        ("50ms", 50_000_000),
        ("1.5s", 1_500_000_000),
        ("1h30m", 5_400_000_000_000),
        ("1m 30s", 90_000_000_000),
        ("2min", 120_000_000_000),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("0s", 0),
        ("1d", 86_400_000_000_000),
    ] {
        assert_eq!(text.parse(), Ok(DurationNs(ns)), "{text}");
    }
}

#[test]
fn times_out_of_bounds_are_refused() {
    for (text, part) in [
        ("50", "\"50\" needs a unit, such as \"50ms\""),
        ("-5s", "negative"),
        ("5sec", "\"sec\" is not a unit of time"),
        ("0.1ns", "finer than a nanosecond"),
        ("30s1m", "long to short"),
        ("1s2s", "long to short"),
        ("600000d", "584 years"),
        ("soon", "not a time"),
    ] {
        let error = text.parse::<DurationNs>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert_eq!(
        "5sec".parse::<DurationNs>().unwrap_err().hint().unwrap(),
        "did you mean `s`? The units are ns, us, ms, s, m, h, d"
    );
}

#[test]
fn choices_of_matches() {
    let nth = |first, last, step| Ok(Nth { first, last, step });
    assert_eq!("3".parse(), nth(3, 3, 1));
    assert_eq!("3+2".parse(), nth(3, u64::MAX, 2));
    assert_eq!("3..10".parse(), nth(3, 10, 1));
    assert_eq!("3..10+2".parse(), nth(3, 10, 2));
    for text in ["0", "3+0", "10..3", "last", "3+", "3..", "+2", "-1", "3.10", "x"] {
        text.parse::<Nth>().unwrap_err();
    }
}

#[test]
fn budgets_and_lengths() {
    assert_eq!("1000/s".parse(), Ok(Budget { count: 1000, per_ns: 1_000_000_000 }));
    assert_eq!("5/100ms".parse(), Ok(Budget { count: 5, per_ns: 100_000_000 }));
    assert_eq!("6/min".parse(), Ok(Budget { count: 6, per_ns: 60_000_000_000 }));
    for text in ["1000", "0/s", "5/0s", "5/week", "/s", "4294967296/s", "-1/s"] {
        text.parse::<Budget>().unwrap_err();
    }
    assert_eq!(">= 1000".parse(), Ok(LengthRange { min: 1000, max: None }));
    assert_eq!("<100".parse(), Ok(LengthRange { min: 0, max: Some(99) }));
    assert_eq!("100..200".parse(), Ok(LengthRange { min: 100, max: Some(200) }));
    for text in ["1000", "= 5", "< 0", "> 4294967295", "200..100", ">= 5KiB"] {
        text.parse::<LengthRange>().unwrap_err();
    }
}

proptest! {
    #[test]
    fn a_probability_reads_back(units in 0..=P32::ONE.0) {
        let p = P32(units);
        prop_assert_eq!(p.to_string().parse::<P32>(), Ok(p));
    }

    #[test]
    fn a_time_reads_back(ns: u64) {
        prop_assert_eq!(DurationNs(ns).to_string().parse::<DurationNs>(), Ok(DurationNs(ns)));
    }

    #[test]
    fn a_choice_of_matches_reads_back(first in 1..u64::MAX, more: Option<u64>, step in 1..u64::MAX) {
        let last = more.map_or(u64::MAX, |more| first.saturating_add(more));
        let nth = Nth { first, last, step };
        prop_assert_eq!(nth.to_string().parse::<Nth>(), Ok(nth));
    }

    #[test]
    fn a_budget_reads_back(count in 1..=u64::from(u32::MAX), per_ns in 1..u64::MAX) {
        let budget = Budget { count, per_ns };
        prop_assert_eq!(budget.to_string().parse::<Budget>(), Ok(budget));
    }

    #[test]
    fn a_length_reads_back(min: u32, more: Option<u32>) {
        let range = LengthRange { min, max: more.map(|more| min.saturating_add(more)) };
        prop_assert_eq!(range.to_string().parse::<LengthRange>(), Ok(range));
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        read_all(&text);
    }

    #[test]
    fn text_that_looks_like_a_quantity_never_panics(text in "[-+.,/%0-9 a-z=<>µ]{0,40}") {
        read_all(&text);
    }
}

fn read_all(text: &str) {
    let _ = (text.parse::<P32>(), text.parse::<DurationNs>(), text.parse::<Nth>());
    let _ = (text.parse::<Budget>(), text.parse::<LengthRange>());
}
