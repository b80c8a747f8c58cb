//! "Did you mean": the candidate nearest to a misspelt word.

use strsim::levenshtein;

/// Words beyond this length, in bytes, are not compared: the comparison takes quadratic time.
const MAX_WORD: usize = 64;

/// The candidate with the smallest edit distance to `word`, if that is at most a third of the word,
/// rounded up.
pub(crate) fn nearest<'a, S: AsRef<str>>(word: &str, candidates: &'a [S]) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let most = word.chars().count().div_ceil(3);
    candidates
        .iter()
        .map(|candidate| (levenshtein(word, candidate.as_ref()), candidate.as_ref()))
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_corrected_and_another_word_is_not() {
        let known = ["file", "memory"];
        assert_eq!(nearest("fiel", &known), Some("file"));
        assert_eq!(nearest("memry", &known), Some("memory"));
        assert_eq!(nearest("zookeeper", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"f".repeat(65), &known), None);
    }
}
