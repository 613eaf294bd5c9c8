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

    /// The table as text, without spaces at the ends of lines. On a terminal that is too narrow, long texts are cut; a pipe gets all.
    pub(crate) fn render(self) -> String {
        self.render_within(crate::style::columns(std::io::stdout()))
    }

    fn render_within(mut self, width: Option<usize>) -> String {
        if let Some(width) = width {
            self.narrow(width);
        }
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

    /// Cuts the longest texts until a row fits. The first column, by which a row is named, and numbers stay whole.
    fn narrow(&mut self, width: usize) {
        let column = |at: usize, rows: &[Vec<String>]| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> =
            self.head.iter().enumerate().map(|(at, name)| name.len().max(column(at, &self.rows))).collect();
        while widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) > width {
            let over = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) - width;
            let longest = (1..widths.len()).filter(|at| !self.right.contains(at)).max_by_key(|at| widths[*at]);
            let Some(at) = longest.filter(|at| widths[*at] > COLUMN_MIN) else { return };
            let next = (1..widths.len()).filter(|other| *other != at && !self.right.contains(other));
            let floor = next.map(|other| widths[other]).max().unwrap_or(0).min(widths[at] - 1).max(COLUMN_MIN);
            widths[at] = widths[at].saturating_sub(over).max(floor);
            for row in &mut self.rows {
                if let Some(cell) = row.get_mut(at) {
                    *cell = crate::human::short(cell, widths[at]);
                }
            }
        }
    }
}

/// A text is never cut to less, however narrow the terminal is; it is what a date and time need.
const COLUMN_MIN: usize = 16;

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
    Failure::new(crate::failure::exit::FAILED, format!("writing the answer: {why}")).next("try another form with -o")
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
        assert_eq!(table.render_within(None), "NAME       SIZE  NOTE\na           1 B\nlonger  100 MiB  x\\u{1b}[1m\n");
    }

    #[test]
    fn narrow_terminals_cut_texts_and_pipes_do_not() {
        let table = || {
            let mut table = Table::new(&["IMAGE", ">SIZE", "TITLE", "MESSAGE"]);
            table.row(vec![
                "somebody/with-a-long-name".into(),
                "1.5 GiB".into(),
                "A title that is rather long".into(),
                "A message of which nobody knows when it will end, if it ever does".into(),
            ]);
            table
        };
        let widest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap();
        let whole = table().render_within(None);
        assert!(whole.contains("if it ever does") && whole.contains("rather long"));
        for width in [130, 100, 80, 72] {
            let text = table().render_within(Some(width));
            assert!(widest(&text) <= width, "{width}: {text}");
            assert!(text.contains("somebody/with-a-long-name") && text.contains("1.5 GiB"), "{text}");
            assert_eq!(text.contains('…'), width < 130, "{text}");
        }
        // Too narrow for anything: still readable, and it ends.
        let narrowest = table().render_within(Some(10));
        assert!(narrowest.contains("A title that is…  A message of wh…"), "{narrowest}");
    }

    #[test]
    fn facts_align_and_skip_what_is_empty() {
        assert_eq!(facts(&[("a", "1".into()), ("long", "2".into()), ("no", String::new())]), "a     1\nlong  2\n");
    }
}
