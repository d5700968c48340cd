//! The known word that an unknown one is probably a misspelling of, for hints.

/// Returns the word of `words` with the smallest edit distance to `word`, in lower case; `None` if none is
/// close.
pub(crate) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than every known word. The distance takes quadratic time.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let limit = (word.chars().count() / 3).max(2);
    words
        .map(|known| (strsim::levenshtein(&word, &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance <= limit && *distance < known.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["memory-max", "memory-high", "tasks-max"];
        assert_eq!(nearest("memroy-max", words.into_iter()), Some("memory-max"));
        assert_eq!(nearest("MemoryMax", words.into_iter()), Some("memory-max"));
        assert_eq!(nearest("TASKSMAX", words.into_iter()), Some("tasks-max"));
        assert_eq!(nearest("zone", words.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(10_000), words.into_iter()), None);
    }
}
