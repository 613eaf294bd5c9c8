use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::refs::{Object, object};
use slipway_api::VersionPick;

/// Put an image or a version into the trash; it can be restored for days
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is asked, because 'slipway image restore' brings it back until the grace time is over. --now does not wait \
for that: nothing brings it back, so its name has to be typed, or --yes given. Its bytes then go with the next prunes; \
an admin's 'slipway prune --now' frees them at once.

Examples:
  slipway image rm me/os:1
  slipway image rm me/os
  slipway image rm me/os:2 --now --yes")]
pub(crate) struct Rm {
    /// owner/name, or owner/name:N for one version
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,
    /// End it at once, in the trash or not; it cannot be restored
    #[arg(long)]
    now: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Take an image or a version out of the trash
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image restore me/os:1
  slipway image restore me/os
  slipway image ls --trash")]
pub(crate) struct Restore {
    /// owner/name, or owner/name:N for one version
    reference: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn rm(args: Rm, cx: &Context) -> Result<(), Failure> {
    // All names are read before the first deletion, so that a typing mistake in the last one deletes nothing.
    let objects = args.references.iter().map(|text| object(text)).collect::<Result<Vec<_>, _>>()?;
    let client = cx.client()?;
    if args.now && !args.yes {
        now_confirm(&args.references, cx).await?;
    }
    for (object, text) in objects.iter().zip(&args.references) {
        match (object, args.now) {
            (Object::Image(name), false) => client.image_trash(name).await?,
            (Object::Image(name), true) => client.image_end(name).await?,
            (Object::Version(name, number), false) => {
                client.version_trash(name, &VersionPick::Number(*number)).await?;
            }
            (Object::Version(name, number), true) => client.version_end(name, &VersionPick::Number(*number)).await?,
        }
        match args.now {
            true => {
                cx.note(&format!("{text} has ended; the next prunes free its bytes, 'slipway prune --now' at once."))
            }
            false => cx.note(&format!("{text} is in the trash; 'slipway image restore {text}' brings it back.")),
        }
    }
    Ok(())
}

/// Asks for each name to be typed: nothing brings it back.
async fn now_confirm(references: &[String], cx: &Context) -> Result<(), Failure> {
    if !cx.can_ask() {
        return Err(Failure::usage("--now cannot be undone, and nobody can be asked here")
            .next("give --yes as well, or leave out --now"));
    }
    for text in references {
        let question = format!("Nothing brings {text} back. Type its name to end it:");
        if crate::ask::typed(&question).await? != *text {
            return Err(Failure::usage(format!("that is not '{text}', so nothing was ended"))
                .next("run it again and type the name, or leave out --now: the trash keeps it for a while"));
        }
    }
    Ok(())
}

pub(crate) async fn restore(args: Restore, cx: &Context) -> Result<(), Failure> {
    let said = format!("{} is back\n", crate::human::clean(&args.reference));
    match object(&args.reference)? {
        Object::Image(name) => args.output.one(&cx.client()?.image_restore(&name).await?, |_| said),
        Object::Version(name, number) => args.output.one(&cx.client()?.version_restore(&name, number).await?, |_| said),
    }
}
