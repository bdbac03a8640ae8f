//! Which known key somebody probably meant.

/// The known word with the smallest edit distance, if at most a third of `word` differs.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    let limit = (word.chars().count() / 3).max(2);
    let scored = known.map(|candidate| (distance(word, candidate), candidate));
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate.clone())
}

/// Levenshtein's distance: single-character insertions, deletions and replacements.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // row[j]: distance of the part of `from` seen so far to the first j characters of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_symmetric_and_right() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("listn", "listen", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected);
            assert_eq!(distance(b, a), expected);
        }
    }

    #[test]
    fn a_word_like_none_of_them_has_no_neighbour() {
        let known = ["listen".to_owned(), "metrics".to_owned()];
        assert_eq!(nearest("lisen", known.iter()), Some("listen".to_owned()));
        assert_eq!(nearest("colour", known.iter()), None);
    }
}
