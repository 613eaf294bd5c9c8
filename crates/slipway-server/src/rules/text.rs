//! What people may write into free fields.

use slipway_api::{Code, ImageRef, Problem};
use std::collections::BTreeMap;

/// Longest description, in bytes.
const DESCRIPTION_MAX: usize = 16 << 10;
/// Labels of one image at most.
const LABELS_MAX: usize = 64;
/// Associated images at most.
const ASSOCIATED_MAX: usize = 64;

/// A sign that would make a terminal or a page show something other than what is stored.
fn is_treacherous(sign: char, lines: bool) -> bool {
    let bidirectional =
        matches!(sign, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidirectional || (sign.is_control() && !(lines && matches!(sign, '\n' | '\t')))
}

/// Checks a free text of at most `max` characters; `lines` allows line ends and tabs.
pub(crate) fn text_check(field: &str, text: &str, max: usize, lines: bool) -> Result<(), Problem> {
    if let Some(sign) = text.chars().find(|sign| is_treacherous(*sign, lines)) {
        let title = format!("{field} has the character {}, which is not allowed", sign.escape_unicode());
        return Err(Problem::new(Code::InvalidRequest, title).field(field));
    }
    match text.chars().count() {
        count if count > max => {
            let title = format!("{field} has {count} characters; at most {max} are allowed");
            Err(Problem::new(Code::InvalidRequest, title).field(field))
        }
        _ => Ok(()),
    }
}

/// Checks a title: one line, not empty.
pub(crate) fn title_check(text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new(Code::InvalidRequest, "title is empty").field("title"));
    }
    text_check("title", text, 200, false)
}

/// Checks a description.
pub(crate) fn description_check(text: &str) -> Result<(), Problem> {
    text_check("description", text, DESCRIPTION_MAX, true)
}

/// Checks the message of a version.
pub(crate) fn message_check(text: &str) -> Result<(), Problem> {
    text_check("message", text, 2000, true)
}

/// Checks the compression wished for downloads.
pub(crate) fn compression_check(text: &str) -> Result<(), Problem> {
    match text {
        "none" | "gzip" | "zstd" => Ok(()),
        _ => Err(Problem::new(Code::InvalidRequest, "compression is none of none, gzip and zstd").field("compression")),
    }
}

/// Checks labels: at most 64, keys of 1 to 63 and values of up to 255 characters.
pub(crate) fn labels_check(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    if labels.len() > LABELS_MAX {
        let title = format!("{} labels were given; at most {LABELS_MAX} are allowed", labels.len());
        return Err(Problem::new(Code::InvalidRequest, title).field("labels"));
    }
    for (key, value) in labels {
        if key.is_empty() {
            return Err(Problem::new(Code::InvalidRequest, "a label has an empty name").field("labels"));
        }
        text_check("labels", key, 63, false)?;
        text_check(&format!("labels.{key}"), value, 255, false)?;
    }
    Ok(())
}

/// Checks references of images; they need not exist. `me` becomes the caller, so that the meaning is fixed.
pub(crate) fn associated_check(references: Vec<String>, me: Option<&str>) -> Result<Vec<String>, Problem> {
    if references.len() > ASSOCIATED_MAX {
        let title = format!("{} associated images were given; at most {ASSOCIATED_MAX} are allowed", references.len());
        return Err(Problem::new(Code::InvalidRequest, title).field("associated"));
    }
    references
        .into_iter()
        .map(|text| {
            let mut image: ImageRef = text
                .parse()
                .map_err(|error| Problem::new(Code::InvalidName, format!("{error}")).field("associated"))?;
            if let ("me", Some(me)) = (image.owner.as_str(), me) {
                image.owner = me.to_owned();
            }
            Ok(image.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{associated_check, compression_check, labels_check, message_check, title_check};
    use std::collections::BTreeMap;

    #[test]
    fn texts_are_taken_or_refused() {
        for (text, title, message) in [
            ("6.9 kernel", true, true),
            ("", false, true),
            ("  ", false, true),
            ("two\nlines", false, true),
            ("a\u{202e}b", false, false),
            ("a\u{0}b", false, false),
            ("a\u{1b}[31m", false, false),
            ("Grüße 你好", true, true),
        ] {
            assert_eq!(title_check(text).is_ok(), title, "title {text:?}");
            assert_eq!(message_check(text).is_ok(), message, "message {text:?}");
        }
        assert!(title_check(&"a".repeat(201)).is_err());
        assert!(message_check(&"a".repeat(2001)).is_err());
        assert!(compression_check("lz4").is_err());
    }

    #[test]
    fn labels_and_references_are_bounded() {
        let label =
            |key: &str, value: &str| labels_check(&BTreeMap::from([(key.to_owned(), value.to_owned())])).is_ok();
        assert!(label("os", "debian"));
        assert!(!label("", "x"));
        assert!(!label(&"k".repeat(64), "x"));
        assert!(!label("k", &"v".repeat(256)));
        assert!(!label("k", "a\nb"));
        let many: BTreeMap<_, _> = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(labels_check(&many).is_err());
        let refs = |texts: &[&str]| associated_check(texts.iter().map(|t| (*t).to_owned()).collect(), Some("jan"));
        assert_eq!(refs(&["me/boot", "eva/x"]).unwrap(), ["jan/boot", "eva/x"]);
        assert!(refs(&["boot"]).is_err());
        assert!(refs(&["me/../x"]).is_err());
    }
}
