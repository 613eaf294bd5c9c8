//! Addresses that may hold a password, as text.

use std::ops::Range;

/// Blacks out the passwords of an address like `postgres://user:password@host/name?password=…`.
pub(crate) fn redacted(text: &str) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for range in passwords(text) {
        out.push_str(&text[at..range.start]);
        out.push_str("***");
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Whether an address holds a password. On a command line every user of the machine could read it.
pub fn address_has_password(text: &str) -> bool {
    passwords(text).iter().any(|range| !range.is_empty())
}

/// Where the passwords of an address are, in order.
fn passwords(text: &str) -> Vec<Range<usize>> {
    let Some(start) = text.find("://").map(|at| at + 3) else { return Vec::new() };
    let rest = &text[start..];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // A password with a bare '/' in it ends the authority too early; what follows the colon is no port then.
    let cut = authority.split_once(':').is_some_and(|(_, port)| !port.bytes().all(|byte| byte.is_ascii_digit()));
    let end = authority.rfind('@').or_else(|| rest.rfind('@').filter(|_| cut && !authority.starts_with('[')));
    let mut found = Vec::new();
    if let Some(end) = end
        && let Some(colon) = rest[..end].find(':')
    {
        found.push(start + colon + 1..start + end);
    }
    let after = start + end.unwrap_or(0);
    let Some(query) = text[after..].find('?').map(|at| after + at + 1) else { return found };
    let mut at = query;
    for pair in text[query..].split('&') {
        // The name may be percent-encoded as well as the value.
        let name = form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name.into_owned());
        if name.as_deref() == Some("password") {
            found.push(at + pair.find('=').map_or(pair.len(), |equals| equals + 1)..at + pair.len());
        }
        at += pair.len() + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{address_has_password, redacted};

    #[test]
    fn passwords_are_found() {
        for (text, shown) in [
            ("postgres://me:secret@db/x", "postgres://me:***@db/x"),
            ("postgres://me:s:e@c@db:5432/x", "postgres://me:***@db:5432/x"),
            ("postgres://me:se/cr?et@db/x", "postgres://me:***@db/x"),
            (
                "postgres://db/x?user=me&password=secret&sslmode=require",
                "postgres://db/x?user=me&password=***&sslmode=require",
            ),
            ("postgres://me:one@/x?%70assword=two", "postgres://me:***@/x?%70assword=***"),
            ("postgres://db?password=a@b:c", "postgres://db?password=***"),
            ("postgresql://db:5432?password=a@b", "postgresql://db:5432?password=***"),
        ] {
            assert_eq!(redacted(text), shown);
            assert!(address_has_password(text) && !address_has_password(shown.replace("***", "").as_str()), "{text}");
        }
        for text in [
            "",
            "8440",
            "sqlite:a?password=b",
            "postgres://db/x",
            "postgres://me@db:5432/x?application_name=a@b",
            "postgres://[::1]:5432/x?application_name=a@b",
            "postgres://db:5432/a@b",
            "s3://bucket/p?endpoint=http://a:9000",
        ] {
            assert_eq!(redacted(text), text);
            assert!(!address_has_password(text), "{text}");
        }
    }
}
