//! `slipway image retention`: which versions are kept.

use crate::context::Context;
use crate::failure::Failure;
use crate::human::{clean, count, size, time};
use crate::output::{Output, Table, facts};
use crate::refs::image_ref;
use slipway_api::{
    AccountName, ImageRef, Retention, RetentionPlan, RetentionRun, RetentionSet, RetentionShown, RetentionSource,
};

/// Which versions of an image are kept: show, set, preview, run
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Each rule keeps the newest version of each of so many periods (UTC; weeks begin on Monday); what one rule \
keeps is kept. Versions that are protected, named by a channel or the parent of a running upload always \
stay. The others go into the trash, from where 'slipway image restore' brings them back.

Examples:
  slipway image retention set me/os --keep-last 3 --keep-daily 7
  slipway image retention preview me/os")]
pub(crate) enum Command {
    Show(Show),
    Set(Set),
    Preview(Preview),
    Run(Run),
}

/// Show the rules in force for an image, or for all of an account that have none of their own
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image retention show me/os
  slipway image retention show me")]
pub(crate) struct Show {
    /// owner/name, or the name of an account
    #[arg(value_name = "IMAGE")]
    object: String,
    #[command(flatten)]
    output: Output,
}

/// Set the rules of an image, or for all of an account that have none of their own
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The rules that are named replace all that were set before. The server applies them by itself once in a \
period (a day, unless its admin said otherwise), the first time one period after they were set.

Examples:
  slipway image retention set me/os --keep-last 3 --keep-daily 7 --keep-monthly 12
  slipway image retention set me --keep-daily 30
  slipway image retention set me/golden --keep-all
  slipway image retention set me/os --inherit")]
pub(crate) struct Set {
    /// owner/name, or the name of an account
    #[arg(value_name = "IMAGE")]
    object: String,
    #[command(flatten)]
    rules: Rules,
    /// Keep everything, whatever the account's or server's default
    #[arg(long, conflicts_with_all = RULES)]
    keep_all: bool,
    /// Have no own rules: those of the account or server hold
    #[arg(long, conflicts_with_all = RULES, conflicts_with = "keep_all")]
    inherit: bool,
    #[command(flatten)]
    output: Output,
}

/// Say which versions would go and what that would free; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bytes are counted frame by frame, as what nothing refers to any more once the trash is over; the disk gets \
them back at the prune after that. '(estimated)' means that counting would have taken too long.

Examples:
  slipway image retention preview me/os
  slipway image retention preview me/os --keep-last 3 --keep-weekly 8")]
pub(crate) struct Preview {
    /// owner/name
    image: String,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    output: Output,
}

/// Put the versions that the rules do not keep into the trash now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is asked, because 'slipway image restore' brings each back until the grace time is over.

Examples:
  slipway image retention run me/os
  slipway image retention run me/os --keep-last 1")]
pub(crate) struct Run {
    /// owner/name
    image: String,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    output: Output,
}

const RULES: [&str; 6] = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"];

/// Rules on the command line.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Rules {
    /// The newest N versions
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// The newest version of each of N hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The newest version of each of N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The newest version of each of N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The newest version of each of N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// The newest version of each of N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
}

impl Rules {
    /// None if no rule is named.
    fn given(self) -> Result<Option<Retention>, Failure> {
        let Self { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly } = self;
        let rules = Retention { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly };
        rules.check().map_err(|why| Failure::usage(why.to_string()).next("'--keep-all' keeps everything"))?;
        Ok((!rules.keeps_all()).then_some(rules))
    }
}

/// An image, or an account for all of its images.
enum Object {
    Image(ImageRef),
    Account(String),
}

fn object(text: &str) -> Result<Object, Failure> {
    match text {
        "me" => Ok(Object::Account("me".into())),
        _ if text.contains(['/', ':', '@']) => Ok(Object::Image(image_ref(text)?)),
        _ => Ok(Object::Account(text.parse::<AccountName>()?.to_string())),
    }
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    match command {
        Command::Show(args) => {
            let shown = match object(&args.object)? {
                Object::Image(image) => cx.client()?.retention_get(&image).await?,
                Object::Account(name) => cx.client()?.account_retention_get(&name).await?,
            };
            args.output.one(&shown, |shown| shown_text(&args.object, shown))
        }
        Command::Set(args) => set(args, cx).await,
        Command::Preview(args) => {
            let (image, rules) = (image_ref(&args.image)?, args.rules.given()?);
            let plan = cx.client()?.retention_preview(&image, rules.as_ref()).await?;
            args.output.one(&plan, plan_text)
        }
        Command::Run(args) => {
            let (image, rules) = (image_ref(&args.image)?, args.rules.given()?);
            let plan = cx.client()?.retention_run(&image, &RetentionRun { rules }).await?;
            args.output.one(&plan, plan_text)
        }
    }
}

async fn set(args: Set, cx: &Context) -> Result<(), Failure> {
    let rules = match (args.rules.given()?, args.keep_all, args.inherit) {
        (Some(rules), _, _) => Some(rules),
        (None, true, _) => Some(Retention::default()),
        (None, false, true) => None,
        (None, false, false) => {
            return Err(Failure::usage("no rule was named")
                .next("'slipway image retention set --help' lists the rules; --inherit takes them off"));
        }
    };
    let set = RetentionSet { rules };
    let object = object(&args.object)?;
    let shown = match &object {
        Object::Image(image) => cx.client()?.retention_set(image, &set).await?,
        Object::Account(name) => cx.client()?.account_retention_set(name, &set).await?,
    };
    args.output.one(&shown, |shown| shown_text(&args.object, shown))?;
    if let (Object::Image(image), false) = (object, shown.rules.keeps_all()) {
        cx.note(&format!("'slipway image retention preview {image}' says what would go."));
    }
    Ok(())
}

fn rules_text(rules: &Retention) -> String {
    if rules.keeps_all() {
        return "everything".to_owned();
    }
    let parts: Vec<String> = rules.rules().map(|(word, count)| format!("{word} {count}")).collect();
    parts.join(", ")
}

fn source_text(from: RetentionSource) -> &'static str {
    match from {
        RetentionSource::Image => "the image's own rules",
        RetentionSource::Account => "the account's rules",
        RetentionSource::Server => "the server's default",
        RetentionSource::Given => "rules given for this once",
    }
}

fn shown_text(object: &str, shown: &RetentionShown) -> String {
    let applied = match shown.every_seconds {
        None => "only when asked: 'slipway image retention run'".to_owned(),
        Some(seconds) if seconds % 86_400 == 0 => format!("every {}", count(seconds / 86_400, "day")),
        Some(seconds) => format!("every {}", count(seconds.div_ceil(3600), "hour")),
    };
    facts(&[
        ("Retention of", object.to_owned()),
        ("Keeps", rules_text(&shown.rules)),
        ("From", source_text(shown.from).to_owned()),
        ("Applied", applied),
    ])
}

fn plan_text(plan: &RetentionPlan) -> String {
    let mut table = Table::new(&[">VERSION", "WHEN", ">SIZE", "FATE", "BECAUSE"]);
    for version in &plan.versions {
        let fate = match (version.keep.is_empty(), plan.done) {
            (false, _) => "stays",
            (true, false) => "goes",
            (true, true) => "in trash",
        };
        let because = version.keep.join(", ");
        let row = vec![version.number.to_string(), time(version.created_at), size(version.size), fate.into(), because];
        table.row(row);
    }
    let mut out = table.render();
    let (image, rules) = (clean(&plan.image), rules_text(&plan.rules));
    let frees = format!("{}{}", size(plan.bytes_freed), if plan.bytes_exact { "" } else { " (estimated)" });
    out.push_str(&format!("\nKeeps {rules} ({}).\n", source_text(plan.from)));
    out.push_str(&match (plan.going, plan.done) {
        (0, _) => format!("Nothing of {image} goes.\n"),
        (going, false) => format!(
            "{} of {} would go into the trash, and free {frees} when they are gone for good.\n",
            count(going, "version"),
            image
        ),
        (going, true) => format!(
            "{} of {} went into the trash, and will free {frees} when they are gone for good; \
             'slipway image restore {image}:N' brings one back.\n",
            count(going, "version"),
            image
        ),
    });
    out
}
