//! What must have been seen at the end.

use crate::scenario::diagnostic::Errors;
use crate::scenario::document::ExpectTable;
use crate::scenario::model::{Expectation, Expected, Metric};
use crate::scenario::nearest;
use crate::scenario::quantity::clip;
use crate::scenario::read::Spanned;

/// One `[[expect]]`: an expectation for each metric that it names.
pub(super) fn expectations(
    item: &Spanned<ExpectTable>,
    ids: &[String],
    errors: &mut Errors,
) -> Vec<Expectation> {
    let table = &item.value;
    let counts = [
        (Metric::Matched, &table.matched),
        (Metric::Injected, &table.injected),
        (Metric::SegmentsInjected, &table.segments_injected),
    ];
    let counts = counts.into_iter().filter_map(|(metric, given)| {
        given.as_ref().map(|given| (metric, given.value.0, Expected::Count(given.value.1)))
    });
    let rate = table
        .realised_rate
        .as_ref()
        .map(|given| (Metric::RealisedRate, given.value.0, Expected::Rate(given.value.1)));
    let wanted: Vec<_> = counts.chain(rate).collect();
    if wanted.is_empty() && table.unread.is_empty() {
        errors.at(item.span, "the expectation expects nothing").hint(
            "add `matched`, `injected`, `segments_injected` or `realised_rate`, such as injected = \"> 0\"",
        );
    }
    let Some(fault) = &table.fault else { return Vec::new() };
    if !ids.contains(&fault.value) {
        let hint = nearest::hint(&fault.value, ids.iter().map(String::as_str));
        errors.at(fault.span, format!("unknown fault \"{}\"", clip(&fault.value))).maybe_hint(hint);
    }
    wanted
        .into_iter()
        .map(|(metric, comparison, value)| Expectation {
            fault: fault.value.clone(),
            metric,
            comparison,
            value,
        })
        .collect()
}
