//! Ignored tests are run by their names, so an ignored test with another name would never run.

use crate::run::{read, top};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// The names of ignored tests in a file that begin neither with `root_` nor with `long_`.
fn strays(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut ignored = false;
    for line in text.lines().map(str::trim_start) {
        ignored |= line.starts_with("#[ignore");
        let line = line.strip_prefix("async ").unwrap_or(line);
        if let Some(rest) = line.strip_prefix("fn ").filter(|_| ignored) {
            let name = rest.split('(').next().unwrap_or(rest);
            if !name.starts_with("root_") && !name.starts_with("long_") {
                found.push(name);
            }
            ignored = false;
        }
    }
    found
}

/// Fails with every ignored test that the test command would never run.
pub(crate) fn ignored_check() -> Result<()> {
    let files = read(Command::new("git").current_dir(top()).args(["ls-files", "crates/*.rs"]))?;
    let mut wrong = Vec::new();
    for file in files.lines().filter(|file| top().join(file).exists()) {
        let text = std::fs::read_to_string(top().join(file)).with_context(|| format!("reading {file}"))?;
        wrong.extend(strays(&text).into_iter().map(|name| format!("{file}: {name}")));
    }
    if !wrong.is_empty() {
        bail!("ignored tests are named root_… or long_…, or nothing runs them:\n  {}", wrong.join("\n  "));
    }
    println!("ignored: every ignored test has a name that is run");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::strays;

    #[test]
    fn names_that_nothing_runs_are_found() {
        let text = "#[test]\n#[ignore = \"needs root\"]\nfn root_a() {}\n#[ignore]\n    async fn b() {}\nfn c() {}\n";
        assert_eq!(strays(text), ["b"]);
    }
}
