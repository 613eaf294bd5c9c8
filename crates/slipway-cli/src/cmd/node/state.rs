//! `slipway node start`, `stop` and `pause`.

use super::each;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::node::find::{called, container_find, key};
use crate::node::show::exit_text;
use slipway_api::node::{Container, ContainerState, NodeClient};
use std::time::Duration;

/// Start containers again, or go on with paused ones
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node start web
  slipway node start web db")]
pub(crate) struct Start {
    /// Names or numbers of containers
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Stop containers, and wait until they have ended
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The init is asked to end, and killed when it has not after its stop time (10 s, with systemd 90 s, or what --stop-time of 'run' says).

Examples:
  slipway node stop web
  slipway node stop --time 2s web db")]
pub(crate) struct Stop {
    /// Names or numbers of containers
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Kill after this time
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    time: Option<u64>,
}

/// Hold all processes of containers still
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway node pause web
  slipway node start web    # goes on")]
pub(crate) struct Pause {
    /// Names or numbers of containers
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn start(args: Start, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    each(cx, &args.names, async |name| {
        let container = container_find(client, &name).await?;
        let started = client.container_state(&key(&container), ContainerState::Running).await?;
        if let Some(failure) = not_started(&started) {
            return Err(failure);
        }
        cx.note(&format!("{name} runs."));
        Ok(())
    })
    .await
}

pub(crate) async fn stop(args: Stop, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    cx.on_interrupt("the containers go on stopping; 'slipway node ps -a' shows them");
    each(cx, &args.names, async |name| {
        let container = container_find(client, &name).await?;
        let ended = stopped(client, &container, args.time).await?;
        let how = ended.exit.as_ref().map(|exit| format!(" ({})", exit_text(exit))).unwrap_or_default();
        cx.note(&format!("{name} is {}{how}.", ended.state.as_str()));
        Ok(())
    })
    .await
}

pub(crate) async fn pause(args: Pause, cx: &Context, client: &NodeClient) -> Result<(), Failure> {
    each(cx, &args.names, async |name| {
        let container = container_find(client, &name).await?;
        client.container_state(&key(&container), ContainerState::Paused).await?;
        cx.note(&format!("{name} is paused; 'slipway node start {name}' goes on with it."));
        Ok(())
    })
    .await
}

/// Asks a container to end and waits until it has.
pub(crate) async fn stopped(
    client: &NodeClient,
    container: &Container,
    time: Option<u64>,
) -> Result<Container, Failure> {
    let key = key(container);
    let mut seen = client.container_stop(&key, time).await?;
    let mut pause = Duration::from_millis(20);
    while matches!(seen.state, ContainerState::Stopping | ContainerState::Running | ContainerState::Paused) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
        seen = match client.container_get(&key).await {
            // Somebody else has waited for its end too, and removed it.
            Err(why) if why.status() == Some(404) => return Ok(Container { state: ContainerState::Exited, ..seen }),
            found => found?,
        };
    }
    Ok(seen)
}

/// Why a container that should run does not.
pub(crate) fn not_started(container: &Container) -> Option<Failure> {
    let error = container.error.as_ref().filter(|_| container.state == ContainerState::Dead)?;
    let name = called(container);
    let failure = Failure::new(exit::FAILED, format!("starting container {name}: {}", error.text));
    Some(failure.next(match error.step.as_str() {
        "init" | "exec" | "command" => {
            "the command's first word must be an executable file of the container's own root, like /bin/sh".to_owned()
        }
        _ => format!("'slipway node logs {name}' has the whole story"),
    }))
}
