//! "Did you mean": which of the words that exist a mistyped one was probably meant to be.

/// How alike two words must be, from 0 to 1. clap asks for 0.7 of its commands and options.
const ALIKE: f64 = 0.75;

/// The word most like `wanted`, if one is alike enough. An equal word is no suggestion.
pub(crate) fn nearest<'a>(wanted: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    words
        .into_iter()
        .filter(|word| *word != wanted)
        .map(|word| (likeness(&lower, word), word))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, word)| word)
}

/// The same for words that are written in capitals.
pub(crate) fn nearest_exact<'a>(wanted: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |word: &str| strsim::normalized_damerau_levenshtein(wanted, word);
    words.into_iter().filter(|word| alike(word) >= 0.85).max_by(|one, other| alike(one).total_cmp(&alike(other)))
}

/// Swapped, missing and doubled letters count little, another word counts much.
fn likeness(one: &str, other: &str) -> f64 {
    let alike = strsim::normalized_damerau_levenshtein(one, other);
    // One wrong letter in a short word is a typing error as well, though it is much of it.
    match one.chars().count().min(other.chars().count()) >= 3 && strsim::damerau_levenshtein(one, other) == 1 {
        true => alike.max(ALIKE),
        false => alike,
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn typing_errors_are_recognized_and_other_words_are_not() {
        let words = ["me/os", "me/debian-13", "jan/debian-13", "jan/home", "stable", "latest"];
        for (wanted, meant) in [
            ("me/oss", Some("me/os")),
            ("me/o", Some("me/os")),
            ("me/so", Some("me/os")),
            ("me/debain-13", Some("me/debian-13")),
            ("jna/debian-13", Some("jan/debian-13")),
            ("stabel", Some("stable")),
            ("Stable", Some("stable")),
            ("windows", None),
            ("eva/rocky-9", None),
            ("jna/home", Some("jan/home")),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, words), meant, "{wanted}");
        }
        assert_eq!(nearest("me/os", ["me/os"]), None);
        assert_eq!(nearest("lap", ["home", "lab"]), Some("lab"));
        assert_eq!(nearest("a", ["b", "x"]), None);
    }
}
