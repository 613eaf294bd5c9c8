//! Long files and long functions need a reason: one line each in xtask/sizes.toml.

use crate::run::{read, top};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::process::Command;

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 80;

/// The functions of a rustfmt-formatted file that are longer than allowed, with their lengths.
fn long_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else { continue };
        let close = format!("{}}}", " ".repeat(indent));
        let Some(length) = lines[start..].iter().position(|l| *l == close || l.ends_with(';') && *l == lines[start])
        else {
            continue;
        };
        if length + 1 > FUNCTION_LINES {
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line;
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Fails with everything that is long and not listed, and with every listing that is no longer needed.
pub(crate) fn sizes_check() -> Result<()> {
    let listed = top().join("xtask/sizes.toml");
    let text = std::fs::read_to_string(&listed).with_context(|| format!("reading {}", listed.display()))?;
    let mut reasons: BTreeMap<String, String> = toml::from_str(&text).context("reading xtask/sizes.toml")?;
    let mut wrong = Vec::new();
    let files = read(Command::new("git").current_dir(top()).args(["ls-files", "*.rs"]))?;
    for file in files.lines() {
        let Ok(text) = std::fs::read_to_string(top().join(file)) else { continue };
        let lines = text.lines().count();
        if lines > FILE_LINES && reasons.remove(file).is_none() {
            wrong.push(format!("{file} has {lines} lines; over {FILE_LINES} need a reason in xtask/sizes.toml"));
        }
        for (name, lines) in long_functions(&text) {
            let key = format!("{file}::{name}");
            if reasons.remove(&key).is_none() {
                wrong.push(format!("{key} has {lines} lines; over {FUNCTION_LINES} need a reason in xtask/sizes.toml"));
            }
        }
    }
    wrong.extend(reasons.keys().map(|key| format!("{key} is listed in xtask/sizes.toml but is not long")));
    if !wrong.is_empty() {
        bail!("sizes:\n  {}", wrong.join("\n  "));
    }
    println!("sizes: {} files", files.lines().count());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::long_functions;

    #[test]
    fn a_long_function_is_found_by_name() {
        let body = "    x();\n".repeat(79);
        let text = format!("pub fn short() {{\n    y();\n}}\n\n    pub async fn long(a: u8) {{\n{body}    }}\n");
        assert_eq!(long_functions(&text), [("long".to_owned(), 81)]);
    }
}
