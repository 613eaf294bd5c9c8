//! A container that is watched until it ends, and its output.

use super::find::{called, key};
use super::show::exit_code;
use super::sieve::Sieve;
use crate::context::Context;
use crate::failure::{Failure, exit};
use slipway_api::node::{Container, ContainerState, NodeClient, NodeError};
use std::io::Write;
use std::time::{Duration, Instant};

/// Whether somebody still reads what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    Open,
    Closed,
}

/// Writes bytes of a container to stdout, as they are.
pub(crate) fn output_write(bytes: &[u8]) -> Result<Pipe, Failure> {
    written(std::io::stdout().lock(), bytes, "stdout")
}

/// The same to stderr.
pub(crate) fn error_write(bytes: &[u8]) -> Result<Pipe, Failure> {
    written(std::io::stderr().lock(), bytes, "stderr")
}

fn written(mut out: impl Write, bytes: &[u8], name: &str) -> Result<Pipe, Failure> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(Pipe::Open),
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(Pipe::Closed),
        Err(why) => Err(Failure::io("writing to", std::path::Path::new(name), &why)),
    }
}

/// How long a service that restarts is waited for. The container runs on without it.
const AWAY_MAX: Duration = Duration::from_secs(20);

/// Prints what a container says until it has ended, and gives the exit code of its init.
pub(crate) async fn follow(client: &NodeClient, container: &Container) -> Result<u8, Failure> {
    let mut sieve = Sieve::new(container.id);
    let mut tail = None;
    loop {
        let ended = output_follow(client, container, tail, &mut sieve).await;
        let seen = seen_again(client, container, ended.err()).await?;
        if matches!(seen.state, ContainerState::Exited | ContainerState::Dead) {
            output_write(&sieve.end())?;
            let code = seen.exit.as_ref().map(exit_code);
            return code.ok_or_else(|| {
                Failure::new(exit::FAILED, format!("container {} ended, and nobody saw how", called(&seen)))
                    .next(format!("'slipway node logs {}' shows its last words", called(&seen)))
            });
        }
        // The stream ended before the container did: go on with what comes from now.
        tail = Some(0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn output_follow(
    client: &NodeClient,
    container: &Container,
    tail: Option<u64>,
    sieve: &mut Sieve,
) -> Result<(), NodeError> {
    let mut output = client.container_logs(&key(container), tail, true).await?;
    while let Some(part) = output.next().await? {
        // Nobody may read any more; the container goes on all the same, and so does the wait for its end.
        let _ = output_write(&sieve.feed(&part));
    }
    Ok(())
}

/// The container as it is now, from a service that may just restart.
async fn seen_again(client: &NodeClient, container: &Container, lost: Option<NodeError>) -> Result<Container, Failure> {
    let begun = Instant::now();
    let mut lost = lost.filter(|why| why.status().is_some());
    loop {
        match client.container_get(&key(container)).await {
            Ok(seen) => return lost.take().map_or(Ok(seen), |why| Err(why.into())),
            Err(why @ NodeError::Unreached { .. }) if begun.elapsed() >= AWAY_MAX => {
                let failure = Failure::from(why);
                let name = called(container);
                return Err(failure.next(format!(
                    "the container runs without the service; start that, then 'slipway node logs -f {name}' follows it again"
                )));
            }
            Err(NodeError::Unreached { .. }) => tokio::time::sleep(Duration::from_millis(250)).await,
            Err(why) => return Err(why.into()),
        }
    }
}

/// Watches a container until it ends. The first Ctrl-C or SIGTERM asks it to end, the second leaves it alone.
pub(crate) async fn watch(cx: &Context, client: &NodeClient, container: &Container) -> Result<u8, Failure> {
    let mut following = std::pin::pin!(follow(client, container));
    tokio::select! {
        ended = &mut following => return ended,
        () = crate::signals::stop_asked() => {}
    }
    let name = called(container);
    cx.note(&format!("Stopping {name}; Ctrl-C again leaves it alone."));
    let asking = async {
        match client.container_stop(&key(container), None).await {
            Ok(_) => std::future::pending().await,
            Err(why) => Failure::from(why),
        }
    };
    tokio::select! {
        ended = &mut following => ended,
        failure = asking => Err(failure),
        () = crate::signals::stop_asked() => Err(Failure::new(exit::INTERRUPTED, format!("container {name} is still stopping"))
            .next(format!("'slipway node logs -f {name}' follows it again, 'slipway node rm -f {name}' ends it"))),
    }
}
