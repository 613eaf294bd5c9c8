use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::refs::{Object, object};
use slipway_api::VersionPick;

/// Put an image or a version into the trash; it can be restored for days
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is asked, because 'slipway image restore' brings it back until the grace time is over.

Examples:
  slipway image rm me/os:1
  slipway image rm me/os")]
pub(crate) struct Rm {
    /// owner/name, or owner/name:N for one version
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,
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
    for (object, text) in objects.iter().zip(&args.references) {
        match object {
            Object::Image(name) => client.image_trash(name).await?,
            Object::Version(name, number) => client.version_trash(name, &VersionPick::Number(*number)).await?,
        }
        cx.note(&format!("{text} is in the trash; 'slipway image restore {text}' brings it back."));
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
