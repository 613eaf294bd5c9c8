//! The command line as clap reads it. It depends on nothing else, because the manual page is made from it too (`cargo xtask man`).

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Puts versions of disk images onto the disks of this machine, and runs system images on it.
#[derive(Debug, Parser)]
#[command(
    name = "slipway-agent",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
The environment says which server: SLIPWAY_URL, SLIPWAY_TOKEN, and SLIPWAY_CA for a file with its own CA. \
SLIPWAY_LOG filters the log, like slipway_transfer=debug.

Examples:
  slipway-agent flash jan/os:3 /dev/nvme0n1
  slipway-agent flash jan/os:stable /dev/disk/by-id/wwn-0x5000c500 --fix-gpt
  slipway-agent serve --socket-group operators"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Flash(FlashArgs),
    Serve(ServeArgs),
    /// Make, list and remove tokens for the node service
    #[command(subcommand)]
    Token(TokenCommand),
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Settings of the node service
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  slipway-agent config show
  slipway-agent config show --config /etc/slipway/node.toml")]
pub(crate) enum ConfigCommand {
    Show(ServeArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once
    #[command(after_help = "\
The node keeps only a hash of it. The name is for logs and for removing it.

Examples:
  slipway-agent token add monitoring --role read
  slipway-agent token add scheduler --role run --days 365")]
    Add {
        /// 1 to 64 letters, digits, '.', '_' and '-'
        name: String,
        /// read, run or admin
        #[arg(long, value_enum, hide_possible_values = true)]
        role: RoleName,
        /// Until it expires, at most 365
        #[arg(long, default_value_t = 90)]
        days: u64,
        #[command(flatten)]
        place: TokenPlace,
    },
    /// List the tokens, without what they are
    #[command(after_help = "\
Examples:
  slipway-agent token list
  slipway-agent token list -o json")]
    List {
        /// text or json
        #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text", hide_default_value = true)]
        #[arg(hide_possible_values = true)]
        output: Format,
        #[command(flatten)]
        place: TokenPlace,
    },
    /// Remove a token; it is refused from that moment on
    #[command(after_help = "\
Examples:
  slipway-agent token remove scheduler
  slipway-agent token remove scheduler --state-dir /var/lib/slipway-node")]
    Remove {
        /// As it was made with
        name: String,
        #[command(flatten)]
        place: TokenPlace,
    },
}

/// What the bearer of a token may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RoleName {
    Read,
    Run,
    Admin,
}

/// Whose tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenPlace {
    /// The service's [default: /var/lib/slipway-node]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Flash a version onto a disk or file of this machine; never asks
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A target that is mounted, in use, the system's own disk, too small or of another sector size is refused (exit \
code 10). An interrupted target cannot boot; the same command goes on where it stopped.

Examples:
  slipway-agent flash jan/os:3 /dev/nvme0n1
  slipway-agent flash jan/os /dev/disk/by-id/wwn-0x5000c500 -o json")]
pub(crate) struct FlashArgs {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    pub(crate) reference: String,
    /// A block device, or a file, which is made if it does not exist
    pub(crate) target: PathBuf,
    /// Accepted so that a line for 'slipway flash' works here too
    #[arg(long, hide = true)]
    pub(crate) yes: bool,
    /// Do not read back what was written
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Write a new backup partition table at the end of a larger disk
    #[arg(long)]
    pub(crate) fix_gpt: bool,
    /// text or json
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) output: Format,
}

/// Serve the node API: attach block devices, mount file systems, run system images
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Needs root. Each setting comes from a flag, else from SLIPWAY_NODE_NAME, else from the file of --config (TOML, \
names as below with '_'). When it answers it prints 'slipway-agent serve: ready on ADDRESS'. SIGTERM stops it; \
containers, mounts and devices stay, and the next start finds them.

Examples:
  slipway-agent serve
  slipway-agent serve --socket /run/node.sock --socket-group operators
  slipway-agent serve --listen 10.0.0.7:8450 --tls-cert node.pem --tls-key node.key --tls-client-ca ca.pem")]
pub(crate) struct ServeArgs {
    /// The unix socket [default: /run/slipway/node.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The group that may open the socket besides root
    #[arg(long, value_name = "GROUP")]
    pub(crate) socket_group: Option<String>,
    /// Also listen on TCP, with TLS unless it is loopback; repeatable, port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// What dies with the kernel: mounts, logs, containers [default: /run/slipway/node]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// What stays: numbers, descriptions, kept changes [default: /var/lib/slipway-node]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Clients must show a certificate of this CA, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Who may do what, TOML; without it only root over the socket may do anything
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// A file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
