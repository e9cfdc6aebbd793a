//! The nearest valid word to one that is not.

/// The candidate most like `word`, if any is like it at all.
///
/// Restricted Damerau-Levenshtein, so that swapped letters count once; a word may be wrong in a third of its letters.
pub(crate) fn nearest<'w>(word: &str, candidates: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let folded = word.to_lowercase().replace('_', "-");
    let most_edits = (folded.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::osa_distance(&folded, &candidate.to_lowercase().replace('_', "-")), candidate)
        })
        .filter(|(edits, candidate)| *edits <= most_edits || is_start(&folded, candidate))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Whether one of the words is cut short from the other, as `prob` from `probability`.
fn is_start(word: &str, candidate: &str) -> bool {
    // Shorter starts are chance: `remote` is not meant as `r`.
    const LEAST: usize = 3;
    let candidate = candidate.to_lowercase().replace('_', "-");
    word.len().min(candidate.len()) >= LEAST && (candidate.starts_with(word) || word.starts_with(&candidate))
}

/// `did you mean ...`, or the list of the words there are.
pub(crate) fn hint<'w>(word: &str, candidates: impl IntoIterator<Item = &'w str> + Clone) -> Option<String> {
    if let Some(candidate) = nearest(word, candidates.clone()) {
        return Some(format!("did you mean `{candidate}`?"));
    }
    let all: Vec<String> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    (!all.is_empty()).then(|| format!("there is {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::{hint, nearest};

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_none() {
        let keys = ["probability", "nth", "limit", "remote_port"];
        assert_eq!(nearest("probabilty", keys), Some("probability"));
        assert_eq!(nearest("prob", keys), Some("probability"));
        assert_eq!(nearest("remote-port", keys), Some("remote_port"));
        assert_eq!(nearest("Limti", keys), Some("limit"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(hint("colour", ["a", "b"]).unwrap(), "there is `a`, `b`");
    }
}
