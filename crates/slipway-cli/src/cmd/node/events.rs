use crate::failure::Failure;
use crate::human::clean;
use crate::output::{Format, Output, print};
use jiff::Timestamp;
use slipway_api::node::{NodeClient, NodeError, NodeEvent};
use std::time::Duration;

/// Show what happens on the node
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node events
  slipway node events -f --since 120 -o jsonl")]
pub(crate) struct Args {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only what came after the event with this number [default: all that the service remembers]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    since: u64,
    #[command(flatten)]
    output: Output,
}

/// What is remembered comes at once; a silence this long means that it is all.
const SILENCE: Duration = Duration::from_millis(500);
/// A service that restarts is asked again after this time.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: Args, client: &NodeClient) -> Result<(), Failure> {
    if args.follow && matches!(args.output.format, Format::Json | Format::Yaml) {
        return Err(Failure::usage("what goes on for ever is no single document").next("use -o jsonl with -f"));
    }
    match args.follow {
        true => follow(args, client).await,
        false => remembered(args, client).await,
    }
}

async fn remembered(args: Args, client: &NodeClient) -> Result<(), Failure> {
    let mut events = client.events(Some(args.since)).await?;
    let mut seen = Vec::new();
    while let Ok(next) = tokio::time::timeout(SILENCE, events.next()).await {
        match next? {
            Some(event) => seen.push(event),
            None => break,
        }
    }
    match args.output.format {
        Format::Table => seen.iter().try_for_each(|event| print(&line(event))),
        Format::Json | Format::Yaml | Format::Jsonl => args.output.list(&seen, |_| crate::output::Table::new(&[])),
    }
}

async fn follow(args: Args, client: &NodeClient) -> Result<(), Failure> {
    let mut since = args.since;
    let mut reached = false;
    loop {
        match events_print(&args, client, &mut since, &mut reached).await {
            Ok(()) => {}
            // Only one that was there before is waited for: a wrong address is told at once.
            Err(NodeError::Unreached { .. }) if reached => {}
            Err(why) => return Err(why.into()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn events_print(args: &Args, client: &NodeClient, since: &mut u64, reached: &mut bool) -> Result<(), NodeError> {
    let mut events = client.events(Some(*since)).await?;
    *reached = true;
    while let Some(event) = events.next().await? {
        *since = event.id;
        let text = match args.output.format {
            Format::Table => line(&event),
            Format::Json | Format::Yaml | Format::Jsonl => {
                format!("{}\n", serde_json::to_string(&event).unwrap_or_default())
            }
        };
        if print(&text).is_err() {
            break;
        }
    }
    Ok(())
}

/// One event on a line: `120  2026-11-28 21:22:16  container.started  web (7)  {"pid":12}`.
fn line(event: &NodeEvent) -> String {
    let at = Timestamp::from_millisecond(event.at_ms)
        .map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default();
    let object = match &event.name {
        Some(name) => format!("{name} ({})", event.object),
        None => event.object.to_string(),
    };
    let detail = if event.detail.is_null() { String::new() } else { format!("  {}", event.detail) };
    format!("{:>6}  {at}  {:<18}  {}{}\n", event.id, clean(&event.what), clean(&object), clean(&detail))
}
