//! `slipway-agent flash`: the same flash as on the command line, for machines: it never asks.

use crate::args::{FlashArgs as Args, Format};
use crate::failure::Failure;
use crate::report::Report;
use slipway_api::{Client, ClientConfig, VersionRef};
use slipway_disk::{Faults, TargetOptions, target_open};
use slipway_transfer::{Control, FlashOptions, Flashed, RemoteContent, TransferError, flash};
use std::path::Path;
use std::time::Duration;

/// What a flash came to, as `slipway flash -o json` prints it.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(rename = "ref")]
    reference: String,
    target: String,
    #[serde(flatten)]
    flashed: &'a Flashed,
}

pub(crate) async fn run(args: Args, tidy: Duration) -> Result<(), Failure> {
    let wanted: VersionRef = args.reference.parse().map_err(|why: slipway_api::ReferenceError| {
        Failure::new(2, why.to_string(), "references look like jan/os, jan/os:3 or jan/os:stable")
    })?;
    let client = client_new()?;
    let report = Report::default();
    let control = Control::new(move |event| report.event(event));
    let mut running = std::pin::pin!(flash_run(&args, &client, &wanted, &control));
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = stop_asked() => {
            control.cancel.cancel();
            match tokio::time::timeout(tidy, running).await {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(_)) | Err(_) => Err(TransferError::Cancelled.into()),
            }
        }
    };
    let (name, flashed) = ended?;
    let target = crate::failure::clean(&args.target.display().to_string());
    let text = match args.output {
        Format::Text => format!(
            "{target} holds {name}: {} bytes fetched, {} written, {} in place\n",
            flashed.fetched_bytes, flashed.written_bytes, flashed.matched_bytes
        ),
        Format::Json => {
            let answer = Answer { reference: name, target, flashed: &flashed };
            let text = serde_json::to_string(&answer).map_err(|why| {
                Failure::new(1, format!("writing the answer: {why}"), "the flash is done; ask with -o text")
            })?;
            text + "\n"
        }
    };
    use std::io::Write;
    // The flash is done; a console that is gone does not undo it.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

async fn flash_run(
    args: &Args,
    client: &Client,
    wanted: &VersionRef,
    control: &Control,
) -> Result<(String, Flashed), Failure> {
    let content = RemoteContent::open(client, wanted).await?;
    // A path below /dev is never created: it is a device that is not there.
    let create = !args.target.starts_with("/dev");
    let options = TargetOptions { create, grow: false };
    let target = target_open(&args.target, &content.shape(), &options, Faults::none()).map_err(TransferError::from)?;
    let options = FlashOptions { verify: !args.no_verify, fix_gpt: args.fix_gpt, ..FlashOptions::default() };
    Ok((content.name(), flash(&content, target, &options, control).await?))
}

fn client_new() -> Result<Client, Failure> {
    let set =
        |name: &str| std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let missing = |name: &str, exit: u8| {
        Failure::new(exit, format!("{name} is not set"), format!("export {name}, then run the same command again"))
    };
    let url = set("SLIPWAY_URL").ok_or_else(|| missing("SLIPWAY_URL", 2))?;
    let token = set("SLIPWAY_TOKEN").ok_or_else(|| missing("SLIPWAY_TOKEN", 4))?;
    let ca_pem = match set("SLIPWAY_CA") {
        None => None,
        Some(path) => Some(std::fs::read(&path).map_err(|source| TransferError::Io {
            act: "reading the CA",
            name: Path::new(&path).display().to_string(),
            source,
        })?),
    };
    let config = ClientConfig { token: Some(token), ca_pem, attempts: 8, ..ClientConfig::new(url) };
    Client::new(&config).map_err(|why| TransferError::from(why).into())
}

/// Ends on Ctrl-C or SIGTERM, which is how a machine that shuts down asks.
async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => (),
        _ = tokio::signal::ctrl_c() => (),
    }
}
