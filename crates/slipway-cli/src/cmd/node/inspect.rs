use crate::failure::Failure;
use crate::node::find::{Everything, object_pick};
use crate::node::show::object_text;
use crate::output::Output;
use slipway_api::node::NodeClient;

/// Show an object with all that it stands on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node inspect web
  slipway node inspect 12 -o json")]
pub(crate) struct Args {
    /// A container's name, or the number of anything
    #[arg(value_name = "NAME")]
    object: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, client: &NodeClient) -> Result<(), Failure> {
    let all = Everything::read(client).await?;
    let object = object_pick(&all, &args.object)?;
    args.output.one(&object, |object| object_text(object, &all))
}
