//! Data goes to stdout, in the form asked for; everything else goes to stderr.

use crate::failure::Failure;
use crate::human::clean;
use serde::Serialize;
use std::io::Write;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Padding, Style};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people; its shape may change.
    #[default]
    Table,
    /// One document with the types of the API.
    Json,
    /// The same as YAML.
    Yaml,
    /// One line of JSON for each item.
    Jsonl,
}

/// The option that every command which prints data has.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Output {
    /// table, json, yaml or jsonl
    #[arg(
        id = "output_format",
        short = 'o',
        long = "output",
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) format: Format,
}

/// A table: a heading, rows, and which columns hold numbers.
pub(crate) struct Table {
    head: Vec<&'static str>,
    right: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is aligned to the right.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        let right = head.iter().enumerate().filter(|(_, name)| name.starts_with('>')).map(|(i, _)| i).collect();
        Self { head: head.iter().map(|name| name.trim_start_matches('>')).collect(), right, rows: Vec::new() }
    }

    /// Adds a row; texts of others are made harmless here.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    /// The table as text, without spaces at the ends of lines.
    pub(crate) fn render(self) -> String {
        let mut builder = Builder::default();
        builder.push_record(self.head);
        for row in self.rows {
            builder.push_record(row);
        }
        let mut table = builder.build();
        table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        for column in self.right {
            table.with(Modify::new(Columns::one(column)).with(Alignment::right()));
        }
        let mut text: String = table.to_string().lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
        if text.is_empty() {
            text.push('\n');
        }
        text
    }
}

impl Output {
    /// True when a program reads the answer.
    pub(crate) fn for_programs(&self) -> bool {
        self.format != Format::Table
    }

    /// Prints a list.
    pub(crate) fn list<T: Serialize>(&self, items: &[T], table: impl FnOnce(&[T]) -> Table) -> Result<(), Failure> {
        match self.format {
            Format::Table => print(&table(items).render()),
            Format::Jsonl => {
                let mut text = String::new();
                for item in items {
                    text.push_str(&line(item)?);
                    text.push('\n');
                }
                print(&text)
            }
            Format::Json | Format::Yaml => self.document(&items),
        }
    }

    /// Prints one thing; `text` is what people see.
    pub(crate) fn one<T: Serialize>(&self, item: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => print(&text(item)),
            Format::Json | Format::Yaml | Format::Jsonl => self.document(item),
        }
    }

    fn document<T: Serialize>(&self, item: &T) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => print(&serde_saphyr::to_string(item).map_err(|why| unprintable(&why))?),
            Format::Jsonl => print(&format!("{}\n", line(item)?)),
            Format::Json | Format::Table => {
                print(&format!("{}\n", serde_json::to_string_pretty(item).map_err(|why| unprintable(&why))?))
            }
        }
    }
}

fn line<T: Serialize>(item: &T) -> Result<String, Failure> {
    serde_json::to_string(item).map_err(|why| unprintable(&why))
}

fn unprintable(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(crate::failure::exit::FAILED, format!("writing the answer: {why}"))
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(why) => Err(Failure::io("writing to", std::path::Path::new("stdout"), &why)),
        Ok(()) => Ok(()),
    }
}

/// Names and values one below the other; values of others are made harmless here.
pub(crate) fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:width$}  {}\n", clean(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Table, facts};

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(vec!["a".into(), "1 B".into(), String::new()]);
        table.row(vec!["longer".into(), "100 MiB".into(), "x\u{1b}[1m".into()]);
        assert_eq!(table.render(), "NAME       SIZE  NOTE\na           1 B\nlonger  100 MiB  x\\u{1b}[1m\n");
    }

    #[test]
    fn facts_align_and_skip_what_is_empty() {
        assert_eq!(facts(&[("a", "1".into()), ("long", "2".into()), ("no", String::new())]), "a     1\nlong  2\n");
    }
}
