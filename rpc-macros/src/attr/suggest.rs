/// The one of `candidates` that `word` is most likely a misspelling of.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // A third of the letters may be wrong; beyond that a suggestion is a guess.
    let (distance, best) = candidates.iter().map(|c| (distance(word, c), *c)).min()?;
    (distance <= word.chars().count().max(best.len()) / 3).then_some(best)
}

/// Levenshtein distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row[1..].iter_mut().zip(&b) {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = *cell;
            last = replaced.min(last + 1).min(*cell + 1);
            *cell = last;
        }
        row[0] = i + 1;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distance_counts_inserts_deletes_and_replacements() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("version", "verison"), 2);
    }

    #[test]
    fn a_near_miss_is_suggested_and_a_wild_guess_is_not() {
        let keys = ["name", "idempotent", "oneway", "timeout"];
        assert_eq!(nearest("idempotant", &keys), Some("idempotent"));
        assert_eq!(nearest("time_out", &keys), Some("timeout"));
        assert_eq!(nearest("one_way", &keys), Some("oneway"));
        assert_eq!(nearest("retries", &keys), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
