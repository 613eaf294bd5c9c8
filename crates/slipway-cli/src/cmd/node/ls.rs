use crate::failure::Failure;
use crate::node::find::{Everything, Object};
use crate::node::show::object_table;
use crate::output::Output;
use slipway_api::node::NodeClient;

/// List attachments and mounts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node ls
  slipway node ls mount -o json")]
pub(crate) struct Args {
    /// attach or mount: only these
    #[arg(value_enum, value_name = "OBJECT", hide_possible_values = true)]
    only: Option<Only>,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Attach,
    Mount,
}

pub(crate) async fn run(args: Args, client: &NodeClient) -> Result<(), Failure> {
    let all = Everything::read(client).await?;
    let attaches = all.attaches.iter().map(|attach| Object::Attach(Box::new(attach.clone())));
    let mounts = all.mounts.iter().map(|mount| Object::Mount(Box::new(mount.clone())));
    let mut objects: Vec<Object> = match args.only {
        Some(Only::Attach) => attaches.collect(),
        Some(Only::Mount) => mounts.collect(),
        None => attaches.chain(mounts).collect(),
    };
    objects.sort_by_key(Object::id);
    args.output.list(&objects, |objects| object_table(objects, &all))
}
