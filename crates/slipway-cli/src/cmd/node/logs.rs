use crate::context::Context;
use crate::failure::Failure;
use crate::node::find::{called, container_find, key};
use crate::node::foreground::{Pipe, output_write};
use slipway_api::node::NodeClient;

/// Print what a container has said
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Lines of the service stand between the container's own: 2026/11/28 21:22:16 container(7): starting container

Examples:
  slipway node logs web
  slipway node logs -f --tail 20 web")]
pub(crate) struct Args {
    /// The container's name or number
    name: String,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
}

pub(crate) async fn run(args: Args, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    let container = container_find(client, &args.name).await?;
    cx.on_interrupt(format!("the container goes on; 'slipway node logs -f {}' follows it again", called(&container)));
    let mut output = client.container_logs(&key(&container), args.tail, args.follow).await?;
    while let Some(part) = output.next().await? {
        if output_write(&part)? == Pipe::Closed {
            break;
        }
    }
    Ok(())
}
