use crate::context::Context;
use crate::failure::Failure;
use crate::human::count;
use crate::node::show::container_table;
use crate::output::Output;
use slipway_api::node::{ContainerState, NodeClient};

/// List containers that run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node ps
  slipway node ps -a -o json")]
pub(crate) struct Args {
    /// Also those that have ended, or were never started
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    let mut containers = client.container_list().await?;
    containers.sort_by_key(|container| container.id);
    let before = containers.len();
    if !args.all {
        containers.retain(|container| {
            matches!(container.state, ContainerState::Running | ContainerState::Paused | ContainerState::Stopping)
        });
    }
    args.output.list(&containers, container_table)?;
    let hidden = before - containers.len();
    if containers.is_empty() && hidden > 0 && !args.output.for_programs() {
        cx.note(&format!("{} not running: 'slipway node ps -a' shows them too.", count(hidden as u64, "container")));
    }
    Ok(())
}
