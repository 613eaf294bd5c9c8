//! The documentation: one page is made from the help texts, all are in the summary, and every link leads somewhere.

use crate::run::{read, top};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What every command says of itself; a test of the command line keeps these files as the program prints them.
const HELP: &str = "crates/slipway-cli/tests/golden/help";
const COMMANDS: &str = "docs/commands.md";
const SUMMARY: &str = "docs/SUMMARY.md";

/// The documentation.
#[derive(Args)]
pub(crate) struct DocsArgs {
    /// Write nothing; check that all is fresh, in the summary, and that links lead somewhere, as the test command does
    #[arg(long)]
    check: bool,
}

/// Writes the pages that are made from something else, or checks all of them.
pub(crate) fn docs_run(args: &DocsArgs) -> Result<()> {
    if args.check {
        return docs_check();
    }
    std::fs::write(top().join(COMMANDS), commands_page()?).with_context(|| format!("writing {COMMANDS}"))?;
    println!("docs: wrote {COMMANDS}");
    Ok(())
}

/// Fails with every page that is out of date or missing in the summary, and with every link that leads nowhere.
pub(crate) fn docs_check() -> Result<()> {
    let mut wrong = Vec::new();
    if std::fs::read_to_string(top().join(COMMANDS)).ok() != Some(commands_page()?) {
        wrong.push(format!("{COMMANDS} is not what the help texts say: 'cargo xtask docs' writes it"));
    }
    let listed = read(Command::new("git").current_dir(top()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.md",
    ]))?;
    let mut pages = BTreeMap::new();
    for file in listed.lines().filter(|file| top().join(file).exists()) {
        let text = std::fs::read_to_string(top().join(file)).with_context(|| format!("reading {file}"))?;
        pages.insert(file.to_owned(), text);
    }
    let summary = pages.get(SUMMARY).with_context(|| format!("{SUMMARY} is not there"))?;
    let named: BTreeSet<String> = links(summary).into_iter().map(|link| format!("docs/{link}")).collect();
    wrong.extend(
        pages
            .keys()
            .filter(|file| file.starts_with("docs/") && *file != SUMMARY && !named.contains(*file))
            .map(|file| format!("{file} is not in {SUMMARY}, so nobody finds it")),
    );
    for (file, text) in &pages {
        wrong.extend(links(text).into_iter().filter_map(|link| link_wrong(file, &link, &pages)));
    }
    if !wrong.is_empty() {
        bail!("docs:\n  {}", wrong.join("\n  "));
    }
    println!("docs: {} pages", pages.len());
    Ok(())
}

/// One page with the help of every command, in the order of their names.
fn commands_page() -> Result<String> {
    let folder = top().join(HELP);
    let entries = std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    files.sort_by_key(|file| file.file_stem().map(ToOwned::to_owned));
    let mut page = String::from(
        "# All commands\n\nWhat `--help` prints, command by command. This page is made by `cargo xtask docs`; change the help and not the page. What \
         holds for all commands is on the page of [the command line](cli.md).\n",
    );
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = command_name(&text).with_context(|| format!("{} has no usage line", file.display()))?;
        let depth = "#".repeat(name.split(' ').count().clamp(2, 3));
        page.push_str(&format!("\n{depth} {name}\n\n```text\n{}\n```\n", text.trim_end()));
    }
    Ok(page)
}

/// The command that a help text is of: its usage up to the first option or argument. (A file's name has '-' for each space, and some
/// commands have one of their own.)
fn command_name(help: &str) -> Option<String> {
    let usage = help.lines().find_map(|line| line.strip_prefix("Usage: "))?;
    Some(usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect::<Vec<_>>().join(" "))
}

/// Why a link of a page leads nowhere.
fn link_wrong(file: &str, link: &str, pages: &BTreeMap<String, String>) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => file.to_owned(),
        path => joined(Path::new(file).parent().unwrap_or(Path::new("")), path),
    };
    if !top().join(&target).exists() {
        return Some(format!("{file}: the link '{link}' leads to {target}, which is not there"));
    }
    let anchor = anchor?;
    let found = pages.get(&target).is_some_and(|text| anchors(text).contains(anchor));
    (!found).then(|| format!("{file}: the link '{link}' leads to no heading of {target}"))
}

/// A path relative to a folder, without `..` in it.
fn joined(folder: &Path, path: &str) -> String {
    let mut parts: Vec<&str> = folder.iter().filter_map(|part| part.to_str()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The lines of a page that are prose, without what is in code.
fn prose(text: &str) -> impl Iterator<Item = String> {
    let mut inside = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            return None;
        }
        // Every second part between backticks is code.
        (!inside).then(|| line.split('`').step_by(2).collect::<Vec<_>>().join("`"))
    })
}

/// Where the links of a page lead.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        for part in line.split("](").skip(1) {
            found.extend(part.split_once(')').map(|(link, _)| link.to_owned()));
        }
    }
    found
}

/// The names of a page's headings as mdBook and GitHub give them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in text.lines() {
        inside ^= line.trim_start().starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !inside) else { continue };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let slug: String = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let numbered = (1..).map(|number| format!("{slug}-{number}"));
        let name = std::iter::once(slug.clone()).chain(numbered).find(|name| !found.contains(name));
        found.extend(name);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, anchors, joined, link_wrong, links};

    #[test]
    fn links_and_headings_are_found() {
        let text = "# A page, with `code` in it\n[one](a.md) and [two](b.md#c-d)\n```sh\n[no](x.md)\n# no heading\n```\n`[no](y.md)` [three](#a)\n## A\n## A\n";
        assert_eq!(links(text), ["a.md", "b.md#c-d", "#a"]);
        let names = anchors(text);
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "a-1", "a-page-with-code-in-it"]);
        assert_eq!(joined(std::path::Path::new("docs/decisions"), "../../README.md"), "README.md");
    }

    #[test]
    fn dead_links_are_named() {
        let pages = BTreeMap::from([("README.md".to_owned(), "# Slipway\n".to_owned())]);
        for (link, dead) in [
            ("https://example.org", false),
            ("README.md", false),
            ("README.md#slipway", false),
            ("README.md#no-such", true),
            ("no-such.md", true),
            ("#no-such", true),
        ] {
            assert_eq!(link_wrong("README.md", link, &pages).is_some(), dead, "{link}");
        }
    }
}
