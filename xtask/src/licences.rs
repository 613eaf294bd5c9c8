//! Licences and bans: everything that is linked must be permissive, and one TLS library is enough.

use crate::run::{cargo, read};
use anyhow::{Result, bail};
use std::collections::BTreeSet;

const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "CC0-1.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Unlicense",
];
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "TLS is rustls with aws-lc-rs"),
    ("native-tls", "TLS is rustls with aws-lc-rs"),
    ("ring", "the one provider is aws-lc-rs"),
    ("serde_yaml", "no longer maintained"),
    ("chrono-tz", "times are jiff's"),
];

/// Whether an SPDX expression can be met with allowed licences alone.
fn expression_allowed(text: &str) -> bool {
    let text = text.replace('/', " OR ");
    let text = text.trim();
    let bare = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')).filter(|t| !t.contains(['(', ')']));
    if let Some(inner) = bare {
        return expression_allowed(inner);
    }
    if let Some(parts) = split(text, " AND ") {
        return parts.iter().all(|part| expression_allowed(part));
    }
    if let Some(parts) = split(text, " OR ") {
        return parts.iter().any(|part| expression_allowed(part));
    }
    ALLOWED.contains(&text)
}

/// Splits at the operator outside parentheses; `None` if it does not occur there.
fn split<'a>(text: &'a str, operator: &str) -> Option<Vec<&'a str>> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && text[i..].starts_with(operator) => {
                parts.push(&text[start..i]);
                start = i + operator.len();
            }
            _ => {}
        }
    }
    (!parts.is_empty()).then(|| {
        parts.push(&text[start..]);
        parts
    })
}

/// Fails with every package whose licence is not allowed or that is banned. What only tests use is not asked.
pub(crate) fn licences_check() -> Result<()> {
    let tree =
        ["tree", "--workspace", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}|{l}"];
    let text = read(cargo().args(tree))?;
    let packages: BTreeSet<_> = text.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|')).collect();
    let mut wrong = Vec::new();
    for (package, licence) in &packages {
        if !expression_allowed(licence) {
            wrong.push(format!("{package}: licence '{licence}' is not allowed"));
        }
        let name = package.split(' ').next().unwrap_or(package);
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            wrong.push(format!("{package} is banned: {why}"));
        }
    }
    if !wrong.is_empty() {
        bail!("licences:\n  {}", wrong.join("\n  "));
    }
    println!("licences: {} packages", packages.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::expression_allowed;

    #[test]
    fn expressions_are_read() {
        for (text, allowed) in [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-2.0", false),
            ("MIT AND GPL-2.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND LGPL-2.1", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("ISC AND (Apache-2.0 OR ISC)", true),
        ] {
            assert_eq!(expression_allowed(text), allowed, "{text}");
        }
    }
}
