//! Names that a stranger chose: which ones are not taken at all, and how one is shown.

/// Longer names are cut when they are shown.
const SHOWN_MAX: usize = 80;

/// A name for an error: short, on one line, without anything that a terminal or a reader's eye obeys.
pub(crate) fn name_show(name: &str) -> String {
    let mut shown = String::from("'");
    for c in name.chars().take(SHOWN_MAX) {
        if c.is_control() || steers_text(c) || c == '\u{fffd}' { shown.push('?') } else { shown.push(c) }
    }
    shown.push_str(if name.chars().count() > SHOWN_MAX { "…'" } else { "'" });
    shown
}

/// Characters that turn the direction of text or are not seen.
fn steers_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{061c}' | '\u{feff}')
}

/// Why a name in an archive is not taken. No name is ever used as a path here; but an archive with such a name was made to harm
/// whoever unpacks it, and is not to be passed on.
pub(crate) fn name_fault(name: &[u8]) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.contains(&0) {
        return Some("has a NUL byte in it");
    }
    let Ok(text) = std::str::from_utf8(name) else {
        // Old archives have names in old encodings; their ASCII bytes still mean what they mean.
        return path_fault(&String::from_utf8_lossy(name));
    };
    if text.chars().any(char::is_control) {
        return Some("has control characters in it");
    }
    if text.chars().any(steers_text) {
        return Some("has characters in it that turn or hide text");
    }
    path_fault(text)
}

fn path_fault(name: &str) -> Option<&'static str> {
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    if name.starts_with(['/', '\\']) || drive {
        return Some("is an absolute path");
    }
    let mut parts = name.split(['/', '\\']);
    parts.any(|part| part == "..").then_some("climbs out of its folder with '..'")
}

#[cfg(test)]
mod tests {
    use super::{name_fault, name_show};

    #[test]
    fn rows() {
        for good in ["disk.img", "a/b/disk.vmdk", "./disk.raw", "..disk", "ümlaut", "a b", "x/"] {
            assert_eq!(name_fault(good.as_bytes()), None, "{good}");
        }
        assert_eq!(name_fault(b"caf\xe9.img"), None);
        for (bad, word) in [
            (&b""[..], "empty"),
            (b"a\0b", "NUL"),
            (b"a\nb", "control"),
            (b"a\x1b[2Jb", "control"),
            ("disk\u{202e}gmi.exe".as_bytes(), "turn or hide"),
            ("disk\u{200b}.img".as_bytes(), "turn or hide"),
            (b"/etc/passwd", "absolute"),
            (b"\\\\host\\x", "absolute"),
            (b"C:\\x", "absolute"),
            (b"..", "climbs"),
            (b"a/../../b", "climbs"),
            (b"a\\..\\b", "climbs"),
            (b"\xff/../b", "climbs"),
        ] {
            assert!(name_fault(bad).is_some_and(|why| why.contains(word)), "{bad:?}");
        }
        assert_eq!(name_show("a\x1b[1mb\u{202e}"), "'a?[1mb?'");
        assert_eq!(name_show(&"x".repeat(90)), format!("'{}…'", "x".repeat(80)));
    }
}
