//! Strict JSON: bounded in size and depth, unknown members refused by name.

use serde::Serialize;
use serde::de::DeserializeOwned;
use slipway_api::{Code, Problem};

/// Bytes of a JSON body at most.
pub(crate) const JSON_MAX: u64 = 1 << 20;
/// How deep arrays and objects may lie in each other.
const DEPTH_MAX: usize = 64;

/// Reads `body` as `T`. The problem names the member at fault.
pub(crate) fn json_read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if depth(body) > DEPTH_MAX {
        return Err(Problem::new(
            Code::InvalidRequest,
            format!("the JSON body is nested deeper than {DEPTH_MAX} levels"),
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let at = error.path().to_string();
        shape_problem("the JSON body", &at, &error.into_inner().to_string())
    })?;
    match reader.end() {
        Ok(()) => Ok(read),
        Err(error) => Err(shape_problem("the JSON body", ".", &error.to_string())),
    }
}

/// Reads a query string as `T`. The problem names the parameter at fault.
pub(crate) fn query_read<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    // PostgreSQL keeps no NUL in a text and would answer with an error of its own.
    if query.contains("%00") {
        return Err(Problem::new(Code::InvalidRequest, "reading the query: it holds a NUL character"));
    }
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let at = error.path().to_string();
        shape_problem("the query", &at, &error.into_inner().to_string())
    })
}

/// An unknown member's path is that of the object around it, so its name is taken from serde's words.
fn shape_problem(what: &str, at: &str, why: &str) -> Problem {
    let quoted = |before: &str| why.strip_prefix(before).and_then(|rest| rest.split('`').next());
    let member =
        quoted("unknown field `").or_else(|| quoted("missing field `")).or_else(|| quoted("duplicate field `"));
    let field = match (at, member) {
        ("." | "?", None) => None,
        ("." | "?", Some(member)) => Some(member.to_owned()),
        (at, None) => Some(at.to_owned()),
        (at, Some(member)) if at == member || at.ends_with(&format!(".{member}")) => Some(at.to_owned()),
        (at, Some(member)) => Some(format!("{at}.{member}")),
    };
    let problem = Problem::new(Code::InvalidRequest, format!("reading {what}: {}", printable(why)));
    match field {
        Some(field) => problem.field(printable(&field)),
        None => problem,
    }
}

/// What the client wrote comes back in the answer and in logs, so control and bidirectional characters are escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(300)
        .flat_map(|c| {
            let hidden = c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
            let (plain, escaped) = if hidden { (None, Some(c.escape_unicode())) } else { (Some(c), None) };
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// The deepest nesting, counted without recursion and outside of strings only.
fn depth(body: &[u8]) -> usize {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in body {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'[' | b'{') => {
                now += 1;
                deepest = deepest.max(now);
            }
            (false, b']' | b'}') => now = now.saturating_sub(1),
            (false, _) => {}
        }
    }
    deepest
}

/// Writes an answer. Our own wire types always can be written: their maps have text keys.
pub(crate) fn json_write<T: Serialize>(value: &T) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::new(Code::Internal, format!("writing the answer: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{depth, json_read, printable, query_read};
    use slipway_api::{ImageNew, PageQuery, TokenNew};

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (body, field, says) in [
            (r#"{"ref":"me/os","colour":1}"#, Some("colour"), "unknown field"),
            (r#"{"title":"x"}"#, Some("ref"), "missing field"),
            (r#"{"ref":"a/b","ref":"c/d"}"#, Some("ref"), "duplicate field"),
            (r#"{"ref":7}"#, Some("ref"), "invalid type"),
            (r#"{"ref":"a/b","labels":{"os":1}}"#, Some("labels.os"), "invalid type"),
            (r#"{"ref":"a/b","associated":["x",1]}"#, Some("associated[1]"), "invalid type"),
            (r#"{"ref":"a/b","type":"moon"}"#, Some("type"), "unknown variant"),
            (r#"{"ref":null}"#, Some("ref"), "invalid type"),
            (r#"{"ref":"a/b"} x"#, None, "trailing"),
            (r#"{"ref":"a/b""#, None, "EOF"),
            ("", None, "EOF"),
            (&deep, None, "deeper"),
        ] {
            let problem = json_read::<ImageNew>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.field.as_deref(), field, "{body:.60} {problem}");
            assert!(problem.title.contains(says), "{body:.60} {problem}");
        }
        assert!(json_read::<ImageNew>(br#"{"ref":"a/b"}"#).is_ok());
        assert!(json_read::<TokenNew>(br#"{"name":"x","ttl_seconds":1e400}"#).is_err());
        assert!(json_read::<TokenNew>(br#"{"name":"\ud800"}"#).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_query_is_named() {
        for (query, field) in [
            ("limit=x", Some("limit")),
            ("colour=1", Some("colour")),
            ("limit=1&limit=2", Some("limit")),
            ("trash=2", Some("trash")),
        ] {
            let problem = query_read::<PageQuery>(query).unwrap_err();
            assert_eq!(problem.field.as_deref(), field, "{query} {problem}");
        }
        assert_eq!(query_read::<PageQuery>("limit=5&q=a%20b").unwrap().q.as_deref(), Some("a b"));
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        for (body, levels) in [("1", 0), ("[]", 1), (r#"{"a":["[[["]}"#, 2), (r#"["\"[["]"#, 1), ("]]]]", 0)] {
            assert_eq!(depth(body.as_bytes()), levels, "{body}");
        }
        assert_eq!(printable("a\u{202e}b\nc"), "a\\u{202e}b\\u{a}c");
    }
}
