//! Entity tags: `ETag`, `If-Match`, `If-None-Match` (RFC 9110, sections 8.8.3 and 13).

use axum::http::{HeaderMap, header};
use slipway_api::{Code, Problem};

/// The tag of a row at a revision: `"REVISION-TEXT"`. The second part stands for the document itself, which also shows
/// what lies in other rows (a version's digest, once computed): a tag never says "unchanged" of a text that differs.
pub(crate) fn revision_tag(revision: u64, body: &[u8]) -> String {
    format!("\"{revision}-{}\"", &blake3::hash(body).to_hex()[..16])
}

/// The revision that `If-Match` wants; none without the header or with `*`. Only the revision counts, so `"REVISION"`
/// alone will do.
///
/// A tag that is not one of ours can match no row: it is a revision that no row has.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let bad = || Problem::new(Code::InvalidRequest, "If-Match is not an entity tag").field("if-match");
    let text = value.to_str().map_err(|_| bad())?.trim();
    if text == "*" {
        return Ok(None);
    }
    if text.contains(',') {
        return Err(Problem::new(Code::InvalidRequest, "If-Match names more than one entity tag").field("if-match"));
    }
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(bad)?;
    let revision = inner.split('-').next().unwrap_or_default();
    Ok(Some(revision.parse().unwrap_or(u64::MAX >> 1)))
}

/// Refuses unless `If-Match`, if given, names this tag or `*`.
pub(crate) fn match_text(headers: &HeaderMap, tag: &str) -> Result<(), Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(()) };
    let mut given = value.to_str().unwrap_or_default().split(',').map(str::trim);
    match given.any(|one| one == "*" || one == tag) {
        true => Ok(()),
        false => Err(Problem::new(Code::PreconditionFailed, format!("If-Match does not hold: the tag is {tag} now"))
            .field("if-match")
            .hint("read it again and decide anew")),
    }
}

/// Whether `If-None-Match` holds this tag (compared weakly, as for GET).
pub(crate) fn none_match(headers: &HeaderMap, tag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|one| one.trim() == "*" || plain(one) == plain(tag))
}

/// Whether a range may be answered: without `If-Range`, or when it names this very tag (compared strongly).
pub(crate) fn range_holds(headers: &HeaderMap, tag: &str) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, header, if_match, none_match, range_holds, revision_tag};

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn tags_match_or_not() {
        for (value, expected) in [
            ("\"7\"", Ok(Some(7))),
            ("\"7-00ff\"", Ok(Some(7))),
            ("*", Ok(None)),
            ("\"abc\"", Ok(Some(u64::MAX >> 1))),
            ("7", Err(400)),
            ("W/\"7\"", Err(400)),
            ("\"1\", \"2\"", Err(400)),
        ] {
            assert_eq!(if_match(&headers(header::IF_MATCH, value)).map_err(|p| p.status), expected, "{value}");
        }
        for (value, tag, held) in [
            ("\"7\"", "\"7\"", true),
            ("W/\"7\"", "\"7\"", true),
            ("\"6\", \"7\"", "\"7\"", true),
            ("*", "\"7\"", true),
            ("\"6\"", "\"7\"", false),
        ] {
            assert_eq!(none_match(&headers(header::IF_NONE_MATCH, value), tag), held, "{value}");
        }
        assert!(!range_holds(&headers(header::IF_RANGE, "W/\"7\""), "\"7\""));
        assert!(range_holds(&headers(header::IF_RANGE, "\"7\""), "\"7\""));
        assert!(range_holds(&HeaderMap::new(), "\"7\""));
        assert_ne!(revision_tag(7, b"a"), revision_tag(7, b"b"));
        assert_eq!(if_match(&headers(header::IF_MATCH, &revision_tag(7, b"a"))).unwrap(), Some(7));
    }
}
