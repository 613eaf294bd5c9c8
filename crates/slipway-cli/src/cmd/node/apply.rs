use super::pair_read;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::human::duration;
use crate::node::apply::{Attempt, Row, foretold, plan, replacement_refused};
use crate::node::definition::{self, FILE_MAX};
use crate::node::find::Everything;
use crate::node::secret;
use crate::node::show::exit_text;
use crate::node::variables::{Variables, name_fits};
use crate::output::{Output, Table};
use slipway_api::node::{Container, ContainerKey, ContainerState, NodeClient};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bring what a file defines onto the node
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is YAML or JSON: attachments, mounts and containers in the shape of the API, as several documents or a list; a container \
needs a name. What is there as defined stays; what is missing is made; when something fails on the way, what was made goes again. \
${name} in a text stands for what --set says, $${ for itself.

Examples:
  slipway node apply -f web.yaml
  slipway node apply -f examples/node/nfs-overlay-systemd.yaml --set server=s1.lab --wait
  slipway node apply -f web.yaml --dry-run -o json")]
pub(crate) struct Args {
    /// The file, - for stdin
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// What ${NAME} stands for, once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair_read)]
    set: Vec<(String, String)>,
    /// The same out of a file, for secrets
    #[arg(long, value_name = "NAME=FILE", value_parser = pair_read)]
    set_file: Vec<(String, String)>,
    /// Stop and remove containers that are not as defined, and make them anew
    #[arg(long)]
    replace: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Wait until all containers run, with systemd until it is ready
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Wait no longer than this [default: 5m]
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = crate::human::duration_read)]
    timeout: Option<u64>,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let json = args.file.extension().is_some_and(|extension| extension == "json");
    let mut variables = variables(&args)?;
    let definitions = definition::read(&name, &file_read(&args.file)?, json, &mut variables)?;
    let all = Everything::read(client).await?;
    let steps = plan(&definitions, &all);
    if !args.replace
        && let Some(failure) = replacement_refused(&definitions, &steps)
    {
        return Err(failure);
    }
    if args.dry_run {
        args.output.list(&foretold(&definitions, &steps), table)?;
        cx.note("Nothing was changed: this is what would be done.");
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let hearing = {
        let (stop, cx, asked) = (stop.clone(), cx.clone(), crate::signals::stop_asked());
        tokio::spawn(async move {
            asked.await;
            stop.store(true, Ordering::Relaxed);
            cx.note("Ending after this step; what was made goes again.");
        })
    };
    let rows = Attempt::new(client, &stop).run(&definitions, &steps).await?;
    args.output.list(&rows, table)?;
    if args.wait {
        let limit = Duration::from_secs(args.timeout.unwrap_or(300));
        ready_wait(client, &rows, limit, &stop).await?;
    }
    hearing.abort();
    Ok(())
}

fn file_read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().take(FILE_MAX + 1).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text)),
    };
    read.map_err(|why| match why.kind() {
        std::io::ErrorKind::InvalidData => Failure::usage(format!("reading {}: it is no text", path.display()))
            .next("name a file of definitions; 'slipway node run' takes an image itself"),
        _ => Failure::io("reading", path, &why),
    })?;
    match text.len() as u64 > FILE_MAX {
        true => Err(Failure::usage(format!("reading {}: it is larger than 1 MiB", path.display()))
            .next("name a file of definitions; 'slipway node run' takes an image itself")),
        false => Ok(text),
    }
}

fn variables(args: &Args) -> Result<Variables, Failure> {
    let mut values = BTreeMap::new();
    let set = args.set.iter().map(|(name, value)| (name, Ok(value.clone())));
    let files = args.set_file.iter().map(|(name, file)| (name, secret::read("--set-file", Path::new(file))));
    for (name, value) in set.chain(files) {
        if !name_fits(name) {
            return Err(Failure::usage(format!("'{name}' is no name for a variable"))
                .next("use letters, digits, '_', '.' and '-', no digit first"));
        }
        if values.insert(name.clone(), value?).is_some() {
            return Err(Failure::usage(format!("the variable {name} is set twice")).next("leave one of them out"));
        }
    }
    Ok(Variables::new(values))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["OBJECT", "NAME", ">ID", "RESULT"]);
    for row in rows {
        let id = row.id.map(|id| id.to_string()).unwrap_or_default();
        table.row(vec![row.object.into(), row.name.clone(), id, row.result.into()]);
    }
    table
}

/// After this time what has begun is taken for running.
const SETTLED: Duration = Duration::from_millis(500);

/// Waits until the containers run. What was made stays, whatever comes of the waiting.
async fn ready_wait(client: &NodeClient, rows: &[Row], limit: Duration, stop: &AtomicBool) -> Result<(), Failure> {
    let begun = Instant::now();
    for id in rows.iter().filter(|row| row.object == "container").filter_map(|row| row.id) {
        loop {
            let seen = client.container_get(&ContainerKey::Id(id)).await?;
            if is_ready(&seen)? {
                break;
            }
            let next =
                format!("'slipway node logs {0}' shows what it says, 'slipway node ps -a' what it is at", seen.name);
            if stop.load(Ordering::Relaxed) {
                return Err(
                    Failure::new(exit::INTERRUPTED, format!("container {} is not ready yet", seen.name)).next(next)
                );
            }
            if begun.elapsed() >= limit {
                let what = format!("container {} is not ready after {}", seen.name, duration(limit));
                return Err(Failure::new(exit::TRY_AGAIN, what).next(next));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // One that ends as soon as it has begun does not run.
    tokio::time::sleep(SETTLED).await;
    for id in rows.iter().filter(|row| row.object == "container").filter_map(|row| row.id) {
        is_ready(&client.container_get(&ContainerKey::Id(id)).await?)?;
    }
    Ok(())
}

fn is_ready(container: &Container) -> Result<bool, Failure> {
    match container.state {
        ContainerState::Running => Ok(!container.systemd || container.ready),
        // One that was asked to be created only, or has done its work.
        ContainerState::Created | ContainerState::Exited => Ok(true),
        ContainerState::Paused | ContainerState::Stopping => Ok(false),
        ContainerState::Dead if container.restart.is_some() => Ok(false),
        ContainerState::Dead => {
            let how = container.exit.as_ref().map(exit_text).unwrap_or_default();
            Err(Failure::new(exit::FAILED, format!("container {} has ended ({how})", container.name))
                .next(format!("'slipway node logs {}' shows what it said", container.name)))
        }
    }
}
