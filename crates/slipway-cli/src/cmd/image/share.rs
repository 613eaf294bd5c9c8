use super::show::image_text;
use crate::context::Context;
use crate::failure::Failure;
use crate::follow::task_follow;
use crate::output::Output;
use crate::refs::image_ref;
use slipway_api::{AccountName, SharingChange};

/// Say who may read an image besides its owner
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Before new readers gain access, content may have to move to where they may read it; this waits for that. Who \
is removed may go on reading versions made so far until addresses already handed out end (at most 12 hours).

Examples:
  slipway image share me/os --add jan --add eva
  slipway image share me/os --public
  slipway image share me/os --private --remove jan")]
pub(crate) struct Args {
    /// owner/name
    image: String,
    /// Everyone with an account may read it
    #[arg(long, conflicts_with = "private")]
    public: bool,
    /// No longer everyone
    #[arg(long)]
    private: bool,
    /// Let this user read it; once for each
    #[arg(long, value_name = "USER")]
    add: Vec<String>,
    /// No longer let this user read it; once for each
    #[arg(long, value_name = "USER")]
    remove: Vec<String>,
    /// Do not wait until the content has moved
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let name = image_ref(&args.image)?;
    let public = match (args.public, args.private) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        (false, false) => None,
    };
    let change = SharingChange { public, add: names(&args.add)?, remove: names(&args.remove)? };
    if change == SharingChange::default() {
        return Err(Failure::usage(format!("nobody to share {name} with was named"))
            .next("add --public, --private, --add USER or --remove USER"));
    }
    let client = cx.client()?;
    let mut image = client.sharing_change(&name, &change).await?;
    if let (Some(task), false) = (image.sharing.task, args.no_wait) {
        task_follow(cx, &client, task, None).await?;
        image = client.image_get(&name).await?;
    }
    // The versions are not what was asked for here.
    image.versions = None;
    args.output.one(&image, image_text)
}

fn names(texts: &[String]) -> Result<Vec<AccountName>, Failure> {
    texts.iter().map(|text| text.parse().map_err(Failure::from)).collect()
}
