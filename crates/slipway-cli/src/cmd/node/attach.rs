//! `slipway node attach`: block devices.

use super::pair_read;
use crate::context::Context;
use crate::failure::Failure;
use crate::node::show::attach_source;
use crate::node::{secret, source};
use crate::output::Output;
use slipway_api::node::{
    Attach, AttachIscsi, AttachKind, AttachLocal, AttachLoopback, AttachNbd, AttachRbd, AttachSlipway, Base, Mount,
    NbdTls, NodeAddress, NodeClient, ObjectId, RbdOptions,
};
use std::path::PathBuf;

/// Attach a block device: a file, iSCSI, Ceph, NBD, a version
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Prints the attachment's number; 'slipway node mount attach NUMBER' mounts what is on it, 'slipway node rm NUMBER' takes it away.

Examples:
  slipway node attach loopback disk.img --ro
  slipway node attach iscsi s1.lab iqn.2026-01.lab:data --initiator iqn.2026-01.lab:n17
  slipway node ls")]
pub(crate) enum Command {
    Loopback(Loopback),
    Local(Local),
    Iscsi(Box<Iscsi>),
    Rbd(Box<Rbd>),
    Nbd(Nbd),
    Slipway(Slipway),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Free words about it, once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair_read)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    output: Output,
}

/// A file as a block device
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node attach loopback disk.img --partitions
  slipway node attach loopback images/os.sqfs --in 12 --ro -o json")]
pub(crate) struct Loopback {
    /// The file
    #[arg(value_hint = clap::ValueHint::FilePath)]
    path: PathBuf,
    /// The number of a mount in which the path begins, and which it cannot leave
    #[arg(long = "in", value_name = "MOUNT")]
    mount: Option<ObjectId>,
    /// No writes
    #[arg(long)]
    ro: bool,
    /// Show the partitions on it as devices of their own
    #[arg(long)]
    partitions: bool,
    /// Past the page cache of the file system below
    #[arg(long)]
    direct_io: bool,
    /// 512 or 4096 [default: 512]
    #[arg(long, value_name = "BYTES", value_parser = crate::human::size_read)]
    sector_size: Option<u64>,
    /// Leave out the beginning of the file
    #[arg(long, value_name = "SIZE", value_parser = crate::human::size_read)]
    offset: Option<u64>,
    /// The device's size, if it is not the rest of the file
    #[arg(long, value_name = "SIZE", value_parser = crate::human::size_read)]
    size_limit: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// A block device that is there already
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node attach local /dev/disk/by-id/wwn-0x5000c500-part2
  slipway node attach local /dev/sdb1 --label use=scratch")]
pub(crate) struct Local {
    /// The device
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    path: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// A unit of an iSCSI target
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node attach iscsi s1.lab iqn.2026-01.lab:data --initiator iqn.2026-01.lab:n17 --lun 1 --dead-timeout 2m
  slipway node attach iscsi s1.lab iqn.2026-01.lab:os --initiator iqn.2026-01.lab:n17 --user n17 --password-file chap")]
pub(crate) struct Iscsi {
    /// The target's host name or address, with :PORT if that is not 3260
    host: String,
    /// The target's name (IQN)
    target: String,
    /// What this node calls itself (IQN)
    #[arg(long, value_name = "IQN")]
    initiator: String,
    /// The unit
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    lun: u64,
    /// No writes
    #[arg(long)]
    ro: bool,
    /// The CHAP user
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The file with the CHAP password, - for stdin
    #[arg(long, value_name = "FILE", requires = "user", value_hint = clap::ValueHint::FilePath)]
    password_file: Option<PathBuf>,
    /// The name by which the target must prove itself
    #[arg(long, value_name = "NAME", requires = "password_in_file")]
    user_in: Option<String>,
    /// The file with the password for that
    #[arg(long, value_name = "FILE", requires = "user_in", value_hint = clap::ValueHint::FilePath)]
    password_in_file: Option<PathBuf>,
    /// Outstanding commands of the session [default: 128]
    #[arg(long, value_name = "N")]
    max_commands: Option<u64>,
    /// Outstanding requests of the device [default: 16]
    #[arg(long, value_name = "N")]
    queue_depth: Option<u64>,
    /// The device's scheduler [default: mq-deadline]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// How long a request may wait for a server that is away [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    dead_timeout: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// A Ceph block device
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node attach rbd images/os@golden --monitor 10.0.0.5 --user n17 --secret-file /etc/ceph/n17.key
  slipway node attach rbd data/home --monitor 10.0.0.5 --monitor [fd00::5]:6789 --user n17 --secret-file -")]
pub(crate) struct Rbd {
    /// POOL/IMAGE or POOL/IMAGE@SNAPSHOT
    image: String,
    /// A monitor's address, once for each
    #[arg(long, value_name = "HOST", required = true)]
    monitor: Vec<String>,
    /// The Ceph user, without 'client.'
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The file with the user's key, - for stdin
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    secret_file: PathBuf,
    /// The image's namespace in the pool
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// No writes; snapshots never take any
    #[arg(long)]
    ro: bool,
    /// Only for this node: take the image's lock and keep it
    #[arg(long, conflicts_with = "ro")]
    exclusive: bool,
    /// How long to wait for the cluster
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    mount_timeout: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// An export of an NBD server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --tls-ca everything crosses the network in the clear. The node reads the files of
these names in its service's credentials directory.

Examples:
  slipway node attach nbd s1.lab --export os --ro --tls-ca disks-ca.pem
  slipway node attach nbd unix:/run/nbd.sock")]
pub(crate) struct Nbd {
    /// Host name or address, with :PORT if that is not 10809; or unix:/PATH
    server: String,
    /// The export's name; the server's default if not given
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
    /// No writes
    #[arg(long)]
    ro: bool,
    /// Connections at once [default: 1]
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    /// How long a request may wait for a server that is away [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    dead_timeout: Option<u64>,
    /// Speak TLS only: the name of the file on the node with the CA of the server's certificate
    #[arg(long, value_name = "NAME")]
    tls_ca: Option<String>,
    /// The name of the file with the node's own certificate
    #[arg(long, value_name = "NAME", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<String>,
    /// The name of the file with its key
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    tls_key: Option<String>,
    /// The name in the server's certificate, if it is another than the server's
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_name: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// A version of an image, read-only, verified as it is read
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The node reads the token out of the file of this name in its service's credentials directory.

Examples:
  slipway node attach slipway jan/os:3 --server https://slip.lab --token-ref lab
  slipway node attach slipway system/rescue:stable --server https://slip.lab")]
pub(crate) struct Slipway {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    reference: String,
    /// The server of the image; that of this command line if not given
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The name of the token's file on the node
    #[arg(long, value_name = "NAME")]
    token_ref: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(crate) async fn run(command: Command, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    let address = client.address();
    let (mut attach, common) = match command {
        Command::Loopback(args) => loopback(args, address)?,
        Command::Local(args) => {
            let local = AttachLocal { path: source::path(address, &args.path)? };
            (Attach { kind: Some(AttachKind::Local), local: Some(local), ..Attach::default() }, args.common)
        }
        Command::Iscsi(args) => iscsi(*args)?,
        Command::Rbd(args) => rbd(*args)?,
        Command::Nbd(args) => nbd(args)?,
        Command::Slipway(args) => slipway(args, cx)?,
    };
    attach.labels = common.label.into_iter().collect();
    cx.on_interrupt("the node goes on with it; 'slipway node ls' shows what came of it");
    let made = client.attach_create(&attach).await?;
    if !common.output.for_programs() {
        cx.note(&format!("Attached {} as {}; its number:", attach_source(&made), made.device_file));
    }
    common.output.one(&made, |made| format!("{}\n", made.id))
}

type Asked = (Attach, Common);

fn loopback(args: Loopback, address: &NodeAddress) -> Result<Asked, Failure> {
    let (path, base, mount) = match args.mount {
        None => (source::path(address, &args.path)?, Base::Root, None),
        Some(id) => {
            let mount = Mount { id, ..Mount::default() };
            (args.path.display().to_string(), Base::Mount, Some(Box::new(mount)))
        }
    };
    let block = AttachLoopback {
        path,
        base,
        mount,
        read_partitions: args.partitions,
        ro: args.ro,
        direct_io: args.direct_io,
        sector_size: args.sector_size.unwrap_or(0),
        offset: args.offset.unwrap_or(0),
        size_limit: args.size_limit.unwrap_or(0),
    };
    Ok((Attach { kind: Some(AttachKind::Loopback), loopback: Some(block), ..Attach::default() }, args.common))
}

fn iscsi(args: Iscsi) -> Result<Asked, Failure> {
    let (host, port) = host_port(&args.host)?;
    let password = |option, file: Option<PathBuf>| file.map(|file| secret::read(option, &file)).transpose();
    let block = AttachIscsi {
        initiator: args.initiator,
        target: args.target,
        host,
        port,
        lun: args.lun,
        max_commands: args.max_commands.unwrap_or(0),
        queue_depth: args.queue_depth.unwrap_or(0),
        scheduler: args.scheduler.unwrap_or_default(),
        username: args.user.unwrap_or_default(),
        password: password("--password-file", args.password_file)?.unwrap_or_default(),
        username_in: args.user_in.unwrap_or_default(),
        password_in: password("--password-in-file", args.password_in_file)?.unwrap_or_default(),
        ro: args.ro,
        dead_timeout: args.dead_timeout.unwrap_or(0),
    };
    Ok((Attach { kind: Some(AttachKind::Iscsi), iscsi: Some(block), ..Attach::default() }, args.common))
}

fn rbd(args: Rbd) -> Result<Asked, Failure> {
    let wrong = || {
        Failure::usage(format!("'{}' is no image of a pool", args.image))
            .next("write it like POOL/IMAGE, or POOL/IMAGE@SNAPSHOT")
    };
    let (pool, image) = args.image.split_once('/').ok_or_else(wrong)?;
    let (image, snapshot) = image.split_once('@').unwrap_or((image, ""));
    if pool.is_empty() || image.is_empty() {
        return Err(wrong());
    }
    let options = RbdOptions {
        name: args.user.clone(),
        secret: secret::read("--secret-file", &args.secret_file)?,
        namespace: args.namespace.clone().unwrap_or_default(),
        ro: args.ro,
        exclusive: args.exclusive,
        mount_timeout: args.mount_timeout.unwrap_or(0),
        ..RbdOptions::default()
    };
    let block = AttachRbd {
        device_id: 0,
        monitors: args.monitor.clone(),
        pool: pool.to_owned(),
        image: image.to_owned(),
        snapshot: snapshot.to_owned(),
        options: Some(options),
    };
    Ok((Attach { kind: Some(AttachKind::Rbd), rbd: Some(block), ..Attach::default() }, args.common))
}

fn nbd(args: Nbd) -> Result<Asked, Failure> {
    let mut block = AttachNbd {
        export: args.export.unwrap_or_default(),
        ro: args.ro,
        connections: args.connections.unwrap_or(0),
        dead_timeout: args.dead_timeout.unwrap_or(0),
        tls: args.tls_ca.map(|ca_ref| NbdTls {
            ca_ref,
            cert_ref: args.tls_cert.unwrap_or_default(),
            key_ref: args.tls_key.unwrap_or_default(),
            name: args.tls_name.unwrap_or_default(),
        }),
        ..AttachNbd::default()
    };
    match args.server.strip_prefix("unix:") {
        Some(path) => block.socket = path.to_owned(),
        None => (block.host, block.port) = host_port(&args.server)?,
    }
    Ok((Attach { kind: Some(AttachKind::Nbd), nbd: Some(block), ..Attach::default() }, args.common))
}

fn slipway(args: Slipway, cx: &Context) -> Result<Asked, Failure> {
    let reference = args.reference.parse::<slipway_api::VersionRef>()?;
    if args.reference.starts_with("me/") {
        return Err(Failure::usage("'me' is you, and the node does not know who you are")
            .next("write the owner's name, as 'slipway image ls' shows it"));
    }
    let server = match args.server {
        Some(server) => crate::context::url_checked(&server)?.to_owned(),
        None => cx.settings()?.url()?.to_owned(),
    };
    let block =
        AttachSlipway { reference: reference.to_string(), server, token_ref: args.token_ref.unwrap_or_default() };
    Ok((Attach { kind: Some(AttachKind::Slipway), slipway: Some(block), ..Attach::default() }, args.common))
}

/// `host`, `host:port`, `[address]:port`; no port is 0.
fn host_port(text: &str) -> Result<(String, u64), Failure> {
    let wrong =
        || Failure::usage(format!("'{text}' is no host")).next("write it like s1.lab, s1.lab:3260 or [fd00::5]:3260");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (host, rest.strip_prefix(':'))
        }
        // More than one colon without brackets is an IPv6 address.
        None if text.matches(':').count() == 1 => {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        }
        None => (text, None),
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(wrong());
    }
    let port = port.map(|port| port.parse::<u16>().map_err(|_| wrong())).transpose()?;
    Ok((host.to_owned(), port.unwrap_or(0).into()))
}

#[cfg(test)]
mod tests {
    use super::host_port;

    #[test]
    fn hosts_are_read() {
        for (text, read) in [
            ("s1.lab", Some(("s1.lab", 0))),
            ("s1.lab:3261", Some(("s1.lab", 3261))),
            ("[fd00::5]:1", Some(("fd00::5", 1))),
            ("[fd00::5]", Some(("fd00::5", 0))),
            ("fd00::5", Some(("fd00::5", 0))),
            ("s1:x", None),
            ("s1:70000", None),
            ("", None),
            ("a b", None),
            ("[x", None),
        ] {
            let found = host_port(text).ok();
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), read, "{text}");
        }
    }
}
