//! Paths: patterns like `/images/{owner}/{slug}`, matched part by part.

use super::ask::Params;

/// Whether `path` fits `pattern`, and the variable parts if it does. A part that is not UTF-8 behind its escapes fits nothing.
pub(crate) fn path_match(pattern: &'static str, path: &str) -> Option<Params> {
    let mut params = Params::new();
    let mut given = path.split('/');
    for wanted in pattern.split('/') {
        let part = given.next()?;
        match wanted.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            None if wanted == part => {}
            None => return None,
            // `{name...}` takes the rest of the path, also an empty one.
            Some(name) if name.ends_with("...") => {
                let rest = given.fold(part.to_owned(), |all, part| format!("{all}/{part}"));
                params.push((&name[..name.len() - 3], percent_decode(&rest)?));
                return Some(params);
            }
            Some(_) if part.is_empty() => return None,
            Some(name) => params.push((name, percent_decode(part)?)),
        }
    }
    given.next().is_none().then_some(params)
}

/// The names of a pattern's variable parts.
pub(crate) fn path_params(pattern: &'static str) -> impl Iterator<Item = &'static str> {
    let inner = |part: &'static str| part.strip_prefix('{')?.strip_suffix('}');
    pattern.split('/').filter_map(inner).map(|name| name.trim_end_matches('.'))
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        rest = after;
        // `from_str_radix` alone would also take a sign.
        let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::path_match;

    #[test]
    fn paths_fit_or_not() {
        let fits = |pattern, path| path_match(pattern, path).map(|p| p.into_iter().map(|(_, v)| v).collect::<Vec<_>>());
        let some = |parts: &[&str]| Some(parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        for (pattern, path, expected) in [
            ("/a/{b}", "/a/x", some(&["x"])),
            ("/a/{b}", "/a/", None),
            ("/a/{b}", "/a", None),
            ("/a/{b}", "/a/x/", None),
            ("/a/{b}/c", "/a/x/c", some(&["x"])),
            ("/a/{b}/c", "/a/x/d", None),
            ("/a/{b}", "/a/%2e%2E%2Fx", some(&["../x"])),
            ("/a/{b}", "/a/%zz", None),
            ("/a/{b}", "/a/%+1", None),
            ("/a/{b}", "/a/%ff", None),
            ("/a/{b}", "/a/%2", None),
            ("/docs/{file...}", "/docs/", some(&[""])),
            ("/docs/{file...}", "/docs/x/y.js", some(&["x/y.js"])),
            ("/docs/{file...}", "/docs", None),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }
}
