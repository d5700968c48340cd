//! The word that was probably meant. Called wherever an unknown word is refused.

/// The one of `words` nearest to `word`, where one is near enough to be meant.
pub fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any word of ours: nothing is near, and the distance would cost time.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let most = (word.chars().count() / 3).max(2);
    words
        .map(|other| (distance(&word, &other.to_ascii_lowercase()), other))
        .filter(|(distance, other)| *distance <= most && *distance < other.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// The edit distance of Levenshtein: how many letters to insert, remove or replace.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for at in 0..right.len() {
            let replaced = diagonal + usize::from(right[at] != letter);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
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
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
