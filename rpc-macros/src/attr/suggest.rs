use strsim::levenshtein;

/// The candidate that is most similar to `word`; `None` if all are too different.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // More than a third of wrong letters would make the suggestion a guess.
    let (distance, best) = candidates.iter().map(|c| (levenshtein(word, c), *c)).min()?;
    (distance <= word.chars().count().max(best.len()) / 3).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::nearest;

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
