use crate::context::Context;
use crate::failure::Failure;
use crate::follow::task_follow;
use crate::output::{Output, facts};
use crate::refs::version_ref;
use slipway_api::{Version, VersionPick};

/// Show the digests of a version; have the server compute them if it has not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The server computes BLAKE3 and SHA-256 of every version by itself, but not of images with more than 64 GiB of holes: hashes \
must go through every zero byte. Here they are computed whatever it takes; only who may change the image can ask for it.

Examples:
  slipway image digest me/os:1
  slipway image digest me/os:1 --anew -o json")]
pub(crate) struct Args {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    reference: String,
    /// Compute them again, and compare
    #[arg(long)]
    anew: bool,
    /// Print the task and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

/// The digests, for programs.
#[derive(serde::Serialize)]
struct Answer {
    #[serde(rename = "ref")]
    reference: String,
    digest: Option<String>,
    sha256: Option<String>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let wanted = version_ref(&args.reference)?;
    let client = cx.client()?;
    let mut version = client.version_resolve(&wanted).await?;
    let pick = VersionPick::Number(version.number);
    if args.anew || !is_known(&version) {
        let task = client.version_digest(&wanted.image, &pick).await?;
        if args.no_wait {
            return args.output.one(&task, |task| format!("{}\n", task.id));
        }
        task_follow(cx, &client, task.id, None).await?;
        version = client.version_get(&wanted.image, &pick).await?;
    }
    let answer = Answer {
        reference: format!("{}:{}", wanted.image, version.number),
        digest: version.digest.map(|digest| digest.to_string()),
        sha256: version.sha256,
    };
    args.output.one(&answer, |answer| {
        facts(&[
            ("BLAKE3", answer.digest.clone().unwrap_or_default()),
            ("SHA-256", answer.sha256.clone().unwrap_or_default()),
        ])
    })
}

fn is_known(version: &Version) -> bool {
    version.digest.is_some() && version.sha256.is_some()
}
