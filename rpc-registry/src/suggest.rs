//! "Did you mean": the candidate nearest to a misspelt word.

/// The candidate that fewest edits turn `word` into, if that is few enough to be a slip: at most
/// a third of the word, rounded up.
pub(crate) fn nearest<'a, S: AsRef<str>>(word: &str, candidates: &'a [S]) -> Option<&'a str> {
    // The table below grows with the word, which may be anything at all.
    if word.len() > 64 {
        return None;
    }
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate.as_ref()), candidate.as_ref()))
        .filter(|(edits, _)| *edits <= word.chars().count().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The Levenshtein distance: insertions, deletions and replacements of one character.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // row[j] is the distance between the part of `a` seen so far and the first j of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in
            [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("x", "x", 0)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn a_slip_is_corrected_and_another_word_is_not() {
        let known = ["file", "memory"];
        assert_eq!(nearest("fiel", &known), Some("file"));
        assert_eq!(nearest("memry", &known), Some("memory"));
        assert_eq!(nearest("zookeeper", &known), None);
        assert_eq!(nearest("", &known), None);
    }
}
