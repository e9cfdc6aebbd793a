//! The keys by which delays are given, for all kinds that delay something: packets, operations, system calls.

use std::sync::Arc;

use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::read::{Spanned, table};
use crate::scenario::{Distribution, Errors, Profile, Reader, Times};

/// The longest delay there is: fq's horizon is a 32-bit number of microseconds.
pub(super) const MAX_DELAY_NS: u64 = injector_common::distribution::MAX_DELAY_NS;

table! {
    /// How much later something comes.
    pub(crate) struct TimesTable {
        /// How much later each comes, such as `"40ms"`; with a distribution its mean. Mandatory without `profile`.
        "delay" delay: DurationNs,
        /// How far single delays lie from the mean: the standard deviation, or half the width of `"uniform"`. Default: 0.
        "jitter" jitter: DurationNs,
        /// How the delays are spread: `"uniform"` (default), `"normal"`, `"pareto"`, `"pareto-normal"`, `"exponential"`.
        "distribution" distribution: Distribution,
        /// A file of measured delays, whose distribution they have: `"rtt.csv"`. In place of the three above.
        "profile" profile: String,
    }
}

/// The delays, if they are right.
pub(super) fn read(table: &TimesTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Times> {
    match &table.profile {
        Some(path) => measured(table, path, errors),
        None => spread(table, own, errors),
    }
}

/// The delays of a file, which has everything that the other keys would say.
fn measured(table: &TimesTable, path: &Spanned<String>, errors: &mut Errors) -> Option<Times> {
    let others = [
        ("delay", table.delay.as_ref().map(|given| given.span)),
        ("jitter", table.jitter.as_ref().map(|given| given.span)),
        ("distribution", table.distribution.as_ref().map(|given| given.span)),
    ];
    let mut is_alone = true;
    for (key, span) in others.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        errors
            .at(span, format!("`profile` says all about the delays, so `{key}` has no meaning"))
            .hint(format!("leave `{key}` out, or `profile`"));
        is_alone = false;
    }
    let profile = Profile::read(path, errors)?;
    is_alone.then(|| Times::Measured(Arc::new(profile)))
}

/// The delays of a formula.
fn spread(table: &TimesTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Times> {
    let Some(delay) = table.delay.as_ref() else {
        errors.at(own.span(), "`delay` is missing").hint(
            "add `delay`: how much later each comes, such as `\"40ms\"`; or `profile`: a file of delays",
        );
        return None;
    };
    let distribution = table.distribution.as_ref().map_or(Distribution::Uniform, |given| given.value);
    // An exponential delay has one parameter unless it is given two.
    let own_spread = if distribution == Distribution::Exponential { delay.value.0 } else { 0 };
    let jitter_ns = table.jitter.as_ref().map_or(own_spread, |given| given.value.0);
    check(table, delay, distribution, jitter_ns, errors)?;
    Some(Times::Spread { delay_ns: delay.value.0, jitter_ns, distribution })
}

fn check(
    table: &TimesTable,
    delay: &Spanned<DurationNs>,
    distribution: Distribution,
    jitter_ns: u64,
    errors: &mut Errors,
) -> Option<()> {
    check_delay(delay, errors)?;
    if distribution != Distribution::Uniform && jitter_ns == 0 {
        let span = table.distribution.as_ref().map_or(delay.span, |given| given.span);
        errors
            .at(span, "a distribution without `jitter` is one fixed delay")
            .hint("add `jitter`, or leave `distribution` out");
        return None;
    }
    // How much of the jitter the shortest delay lies below the mean; the normal distribution has no shortest.
    let below = match distribution {
        Distribution::Uniform | Distribution::Exponential => 1.0,
        Distribution::Pareto => 1.0 / f64::sqrt(3.0),
        Distribution::Normal | Distribution::ParetoNormal => 0.0,
    };
    if let Some(jitter) = table.jitter.as_ref()
        && jitter_ns as f64 * below > delay.value.0 as f64
    {
        errors
            .at(jitter.span, format!("with a jitter of {} some delays would be negative", jitter.value))
            .expected(format!("at most \"{}\"", format_ns((delay.value.0 as f64 / below) as u64)))
            .hint("nothing comes before its time: give a smaller `jitter`, or a longer `delay`");
        return None;
    }
    if let Some(jitter) = table.jitter.as_ref().filter(|jitter| jitter.value.0 > MAX_DELAY_NS) {
        errors.at(jitter.span, "the jitter is too long").expected("at most \"1h\"");
        return None;
    }
    Some(())
}

/// Notes a delay that is none or too long.
pub(super) fn check_delay(delay: &Spanned<DurationNs>, errors: &mut Errors) -> Option<()> {
    if delay.value.0 == 0 {
        errors.at(delay.span, "a delay of nothing").expected("more than \"0s\"");
        return None;
    }
    if delay.value.0 > MAX_DELAY_NS {
        errors.at(delay.span, format!("a delay of {} is too long", delay.value)).expected("at most \"1h\"");
        return None;
    }
    Some(())
}
