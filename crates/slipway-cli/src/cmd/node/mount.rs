//! `slipway node mount`: file trees.

use super::pair_read;
use crate::context::Context;
use crate::failure::Failure;
use crate::node::show::mount_source;
use crate::node::source::{Source, path};
use crate::output::Output;
use slipway_api::node::{
    Base, Mount, MountAttach, MountBind, MountKind, MountNfs, MountOverlay, MountUri, NodeAddress, NodeClient,
    ObjectId, UriFormat,
};
use std::path::PathBuf;

/// Mount a file tree: a device, a directory, NFS, an overlay, a download
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Prints the mount's number; 'slipway node run NUMBER COMMAND' runs something in it, 'slipway node rm NUMBER' unmounts it.

Examples:
  slipway node mount attach rescue.sqfs
  slipway node mount nfs s1.lab:/exports/home --ro
  slipway node mount overlay 3 --size 512M")]
pub(crate) enum Command {
    Attach(Attach),
    Bind(Bind),
    Nfs(Nfs),
    Overlay(Overlay),
    Uri(Uri),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Free words about it, once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair_read)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    output: Output,
}

/// The file system on an attachment, a device or in a file
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A device or file is attached for it, and detached with it.

Examples:
  slipway node mount attach 3 --fs-type ext4 --option noatime
  slipway node mount attach rescue.sqfs")]
pub(crate) struct Attach {
    /// The number of an attachment, a block device, or a file
    device: String,
    /// What is on it; seen by itself in files and devices of this machine
    #[arg(long, value_name = "TYPE")]
    fs_type: Option<String>,
    /// As mount(8) takes them, once for each
    #[arg(long = "option", value_name = "OPTION")]
    options: Vec<String>,
    /// No writes
    #[arg(long)]
    ro: bool,
    #[command(flatten)]
    common: Common,
}

/// A directory of the node, or of another mount
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node mount bind /srv/data --ro
  slipway node mount bind roots/debian --in 12 --recursive")]
pub(crate) struct Bind {
    /// The directory or file
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    path: PathBuf,
    /// The number of a mount in which the path begins, and which it cannot leave
    #[arg(long = "in", value_name = "MOUNT")]
    mount: Option<ObjectId>,
    /// With the mounts below it
    #[arg(long)]
    recursive: bool,
    /// No writes, in the mounts below it neither
    #[arg(long)]
    ro: bool,
    #[command(flatten)]
    common: Common,
}

/// A directory of an NFS server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node mount nfs s1.lab:/exports/home
  slipway node mount nfs s1.lab:/exports/roots --ro --nfs-version 4.1 --option nconnect=4")]
pub(crate) struct Nfs {
    /// HOST:/PATH
    source: String,
    /// No writes
    #[arg(long)]
    ro: bool,
    /// Version of the protocol [default: 4.2]
    #[arg(long, value_name = "VERSION")]
    nfs_version: Option<String>,
    /// As nfs(5) has them, once for each
    #[arg(long = "option", value_name = "OPTION")]
    options: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Several trees as one, with changes on top
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --size and --persist changes go to the run directory of the service and end with the mount.

Examples:
  slipway node mount overlay 3 --size 512M
  slipway node mount overlay 7 3 --persist web-data")]
pub(crate) struct Overlay {
    /// Numbers of mounts, the first is the top
    #[arg(required = true, value_name = "MOUNT")]
    lower: Vec<ObjectId>,
    /// Changes go to memory, up to so many bytes
    #[arg(long, value_name = "SIZE", value_parser = crate::human::size_read, conflicts_with = "persist")]
    size: Option<u64>,
    /// Keep the changes under this name, for the next overlay that names it
    #[arg(long, value_name = "NAME")]
    persist: Option<String>,
    /// No changes at all
    #[arg(long, conflicts_with_all = ["size", "persist"])]
    ro: bool,
    #[command(flatten)]
    common: Common,
}

/// A download, unpacked or mounted in memory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node mount uri https://slip.lab/rescue.sqfs --checksum sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03
  slipway node mount uri http://10.0.0.5/root.tar.zst --format tar --size-limit 2G --entries-limit 1000000 --timeout 20m")]
pub(crate) struct Uri {
    /// http or https
    uri: String,
    /// auto, tar, cpio, squashfs, erofs or ext4
    #[arg(long, value_name = "FORMAT", value_parser = format_read, hide_possible_values = true)]
    format: Option<UriFormat>,
    /// sha256:HEX or blake3:HEX of the bytes as sent
    #[arg(long, value_name = "SUM")]
    checksum: Option<String>,
    /// The most memory that it may take [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = crate::human::size_read)]
    size_limit: Option<u64>,
    /// The most entries that an archive may have [default: 262144]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    entries_limit: Option<u64>,
    /// How long the download may take [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    timeout: Option<u64>,
    /// No writes
    #[arg(long)]
    ro: bool,
    #[command(flatten)]
    common: Common,
}

fn format_read(text: &str) -> Result<UriFormat, String> {
    serde_json::from_value(text.into()).map_err(|_| "write auto, tar, cpio, squashfs, erofs or ext4".into())
}

pub(crate) async fn run(command: Command, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    let address = client.address();
    let (mut mount, common) = match command {
        Command::Attach(args) => attach(args, address)?,
        Command::Bind(args) => bind(args, address)?,
        Command::Nfs(args) => nfs(args)?,
        Command::Overlay(args) => {
            let lower = args.lower.iter().map(|id| Mount { id: *id, ..Mount::default() }).collect();
            let block = MountOverlay {
                lower,
                ro: args.ro,
                size: args.size.unwrap_or(0),
                persist: args.persist.unwrap_or_default(),
                ..MountOverlay::default()
            };
            (Mount { kind: Some(MountKind::Overlay), overlay: Some(block), ..Mount::default() }, args.common)
        }
        Command::Uri(args) => {
            let block = MountUri {
                uri: args.uri,
                format: args.format.unwrap_or_default(),
                checksum: args.checksum.unwrap_or_default(),
                size_limit: args.size_limit.unwrap_or(0),
                entries_limit: args.entries_limit.unwrap_or(0),
                timeout: args.timeout.unwrap_or(0),
                ro: args.ro,
            };
            (Mount { kind: Some(MountKind::Uri), uri: Some(block), ..Mount::default() }, args.common)
        }
    };
    mount.labels = common.label.into_iter().collect();
    cx.on_interrupt("the node goes on with it; 'slipway node ls' shows what came of it");
    let made = client.mount_create(&mount).await?;
    if !common.output.for_programs() {
        cx.note(&format!("Mounted {} at {}; its number:", mount_source(&made), made.mountpoint));
    }
    common.output.one(&made, |made| format!("{}\n", made.id))
}

type Asked = (Mount, Common);

fn attach(args: Attach, address: &NodeAddress) -> Result<Asked, Failure> {
    let source = Source { address, text: &args.device, fs_type: args.fs_type.as_deref() };
    let (attach, fs_type) = source.attach(args.ro)?;
    let mut options = args.options;
    if args.ro && !options.iter().any(|option| option == "ro") {
        options.insert(0, "ro".into());
    }
    let options = (!options.is_empty()).then_some(options);
    let block = MountAttach { attach: Box::new(attach), fs_type, mount_options: options };
    Ok((Mount { kind: Some(MountKind::Attach), attach: Some(block), ..Mount::default() }, args.common))
}

fn bind(args: Bind, address: &NodeAddress) -> Result<Asked, Failure> {
    let (path, base, mount) = match args.mount {
        None => (path(address, &args.path)?, Base::Root, None),
        Some(id) => {
            let mount = Mount { id, ..Mount::default() };
            (args.path.display().to_string(), Base::Mount, Some(Box::new(mount)))
        }
    };
    let block = MountBind { path, base, mount, recursive: args.recursive, ro: args.ro };
    Ok((Mount { kind: Some(MountKind::Bind), bind: Some(block), ..Mount::default() }, args.common))
}

fn nfs(args: Nfs) -> Result<Asked, Failure> {
    // The path begins at the first ':/', so that an IPv6 address in brackets needs no other rule.
    let split = args.source.find(":/").filter(|at| *at > 0).ok_or_else(|| {
        Failure::usage(format!("'{}' names no server and directory", args.source))
            .next("write it like s1.lab:/exports/home")
    })?;
    let (host, path) = (&args.source[..split], &args.source[split + 1..]);
    let block = MountNfs {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        path: path.to_owned(),
        ro: args.ro,
        version: args.nfs_version.unwrap_or_default(),
        options: (!args.options.is_empty()).then_some(args.options),
    };
    Ok((Mount { kind: Some(MountKind::Nfs), nfs: Some(block), ..Mount::default() }, args.common))
}
