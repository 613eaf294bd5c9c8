use super::each;
use super::state::stopped;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::node::find::{Everything, Object, called, key, object_pick};
use slipway_api::node::{ContainerState, NodeClient};

/// Remove containers, mounts and attachments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What a removed object alone stood on goes with it. What something else stands on, or the kernel has in use, stays, and is named.

Examples:
  slipway node rm web
  slipway node rm -f web 12")]
pub(crate) struct Args {
    /// Names of containers, or numbers of anything
    #[arg(required = true, value_name = "NAME")]
    objects: Vec<String>,
    /// Stop containers that run; remove mounts and attachments although others count on them
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(args: Args, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    each(cx, &args.objects, async |name| {
        let all = Everything::read(client).await?;
        let object = object_pick(&all, &name)?;
        match &object {
            Object::Container(container) => {
                let runs = matches!(
                    container.state,
                    ContainerState::Running | ContainerState::Paused | ContainerState::Stopping
                );
                if runs && !args.force {
                    let name = called(container);
                    let what = format!("container {name} is {}", container.state.as_str());
                    return Err(Failure::new(exit::CONFLICT, what).next(format!(
                        "'slipway node stop {name}' ends it first; 'slipway node rm -f {name}' does both"
                    )));
                }
                if runs {
                    stopped(client, container, None).await?;
                }
                match client.container_delete(&key(container), args.force).await {
                    // One that removes itself at its end was faster.
                    Err(why) if runs && why.status() == Some(404) => {}
                    removed => drop(removed?),
                }
            }
            Object::Mount(mount) => {
                client.mount_delete(mount.id, args.force).await?;
            }
            Object::Attach(attach) => {
                client.attach_delete(attach.id, args.force).await?;
            }
        }
        cx.note(&format!("Removed {} {name}.", object.noun()));
        Ok(())
    })
    .await
}
