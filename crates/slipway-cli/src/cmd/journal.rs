//! `slipway journal`: every change, in the order in which it was committed.

use crate::context::Context;
use crate::failure::Failure;
use crate::human;
use crate::output::{Output, Table};
use crate::pages::{PAGE_ROWS, pages_all};

/// Show what was changed, when and by whom (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway journal --after 1200
  slipway journal --limit 50 -o jsonl")]
pub(crate) struct Args {
    /// Only entries with a larger number
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// At most so many entries
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let rows = args.limit.map_or(PAGE_ROWS, |limit| u32::try_from(limit).unwrap_or(PAGE_ROWS).clamp(1, PAGE_ROWS));
    // The journal's cursor is its number, so the pages are asked for by the last number seen.
    let entries = pages_all(args.limit, |cursor| {
        let after = cursor.and_then(|text| text.parse().ok()).unwrap_or(args.after);
        let client = &client;
        async move {
            let mut page = client.journal_list(after, Some(rows)).await?;
            page.next = match page.items.len() < rows as usize {
                true => None,
                false => page.items.last().map(|entry| entry.number.to_string()),
            };
            Ok(page)
        }
    })
    .await?;
    args.output.list(&entries, |entries| {
        let mut table = Table::new(&[">NUMBER", "WHEN", "WHO", "WHAT", "OBJECT", "DETAIL"]);
        for entry in entries {
            let detail = match &entry.detail {
                serde_json::Value::Null => String::new(),
                detail => human::short(&detail.to_string(), 60),
            };
            table.row(vec![
                entry.number.to_string(),
                human::time(entry.at),
                entry.actor.clone(),
                entry.verb.clone(),
                human::short(&entry.object, 50),
                detail,
            ]);
        }
        table
    })
}
