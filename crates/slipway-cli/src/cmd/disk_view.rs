//! `slipway disk-view`: every version as a file in a folder.

use crate::context::Context;
use crate::failure::{Failure, exit, path_shown, reason};
use crate::human::size_read;
use crate::output::Output;
use crate::view::{Catalogue, Files, Follower, Mounted, Readers, access_of, mountpoint_check, ready_tell};
use slipway_transfer::{Cancel, FolderOptions, FrameCache, ReaderOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Show every version that you may read as a file: MOUNTPOINT/IMAGE-UUID/N.img
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is copied: what is read is fetched, verified and kept for a while. A deleted image is gone at once. Loop \
devices, qemu and 'cp --sparse=always' work on the files; for other users than yours name --group or --allow-other. \
It runs until Ctrl-C, SIGTERM or 'umount'.

Examples:
  slipway disk-view /disk --group disk --cache /var/cache/slipway/disk-view
  slipway disk-view ~/images
  slipway disk-view /srv/disk --allow-other --memory 512M -o json")]
pub(crate) struct Args {
    /// An empty folder
    mountpoint: PathBuf,
    /// Members of this group may read too, by name or number
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Ask the file's mode of all users, not only of yours
    #[arg(long)]
    allow_other: bool,
    /// Keep what was fetched in this folder, for longer than this program runs
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Bytes in that folder at most [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = size_read, requires = "cache")]
    cache_size: Option<u64>,
    /// Bytes of memory for what was fetched [default: 128M]
    #[arg(long, value_name = "SIZE", value_parser = size_read)]
    memory: Option<u64>,
    /// Seconds that the server may be silent before a read fails [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: Option<u64>,
    /// Write a line to this descriptor when the view is there
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    output: Output,
}

/// What is said when the view is there.
#[derive(serde::Serialize)]
struct Shown<'a> {
    mountpoint: String,
    server: &'a str,
    images: u64,
    pid: u32,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let access = access_of(args.group.as_deref())?;
    let path = mountpoint_check(&args.mountpoint)?;
    let client = cx.client_patient()?;
    let memory = args.memory.unwrap_or(128 << 20);
    let cache = match &args.cache {
        None => FrameCache::memory(memory),
        Some(folder) => {
            let options = FolderOptions { path: folder.clone(), bytes: args.cache_size.unwrap_or(10 << 30) };
            FrameCache::with_folder(memory, &options).map_err(cache_failure)?
        }
    };
    let cancel = Cancel::new();
    let patience = Duration::from_secs(args.timeout.unwrap_or(30));
    let options = ReaderOptions { patience, cancel: cancel.clone(), ..ReaderOptions::default() };
    let catalogue = Arc::new(Catalogue::default());
    let readers = Arc::new(Readers::new(client.clone(), cache.clone(), options));
    let follower = Follower::new(client.clone(), catalogue.clone(), readers.clone());
    // A wrong address or token is said now, and not by an empty folder.
    follower.refresh().await?;
    let files = Files::new(catalogue.clone(), readers, follower.clone(), access);
    let allow_other = args.allow_other || args.group.is_some();
    let asked = crate::signals::stop_asked();
    let (mut mounted, kernel) = Mounted::mount(&path, files, allow_other)?;
    follower.kernel_set(kernel);
    let following = tokio::spawn(follower.run());
    let told = ready_say(&args, &client, &path, catalogue.counts().0);
    let ended = match told {
        Ok(()) => tokio::select! {
            () = asked => None,
            ended = mounted.ended() => Some(ended),
        },
        Err(_) => None,
    };
    following.abort();
    cancel.cancel();
    tracing::info!(usage = ?cache.usage(), "the view ends");
    match ended {
        None => mounted.unmount().await,
        Some(Ok(())) => cx.note(&format!("{} was unmounted", path_shown(&path))),
        Some(Err(why)) => {
            let what = format!("answering the kernel at {}: {}", path_shown(&path), reason(&why));
            mounted.unmount().await;
            return Err(Failure::new(exit::FAILED, what).next("start it again; 'dmesg' may say more"));
        }
    }
    told
}

fn ready_say(args: &Args, client: &slipway_api::Client, path: &std::path::Path, images: u64) -> Result<(), Failure> {
    let shown = Shown { mountpoint: path_shown(path), server: client.server(), images, pid: std::process::id() };
    args.output.one(&shown, |shown| {
        format!("{} shows {} of {}\n", shown.mountpoint, crate::human::count(shown.images, "image"), shown.server)
    })?;
    ready_tell(args.ready_fd)
}

fn cache_failure(why: slipway_transfer::TransferError) -> Failure {
    Failure::from(why).next("name another folder with --cache, or leave it out to keep everything in memory")
}
