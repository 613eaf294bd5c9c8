//! `slipway-agent serve`: the node's rules over HTTP.

mod accept;
mod answer;
mod ask;
mod containers;
mod docs;
mod events;
mod exec;
mod health;
mod keys;
mod listen;
mod logs;
mod metrics;
mod notify;
mod noun;
mod objects;
mod patient;
mod peer;
mod place;
mod routes;
mod settings;
mod site;
mod tls;

use crate::args::ServeArgs;
use crate::failure::Failure;
use accept::{Door, Listener, connections_accept};
use notify::notify;
pub(crate) use settings::STATE_DIR;
use settings::Settings;
use site::Site;
use slipway_node::access::{Policy, PolicyError};
use slipway_node::{Host, HostConfig, NodeConfig};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// This very program, even if another has taken its name since.
const SELF: &str = "/proc/self/exe";
/// How long a stop waits for requests.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Prints every setting, its value and where it came from.
pub(crate) fn settings_show(args: &ServeArgs) -> Result<(), Failure> {
    let (_, lines) = settings::decide(args, &|name| std::env::var(name).ok())?;
    for line in lines {
        let value = if line.value.is_empty() { "not set" } else { &line.value };
        println!("{:17} {:30} {}", line.name, crate::failure::clean(value), crate::failure::clean(&line.origin));
    }
    Ok(())
}

/// Runs the service until it is told to stop.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let (settings, _) = settings::decide(args, &|name| std::env::var(name).ok())?;
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            4,
            "the node service mounts file systems and starts containers, which only root can",
            "run 'sudo slipway-agent serve', or start the unit slipway-agent.service",
        ));
    }
    // What containers inherit, and what our own files begin with.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    place::dir_make(&settings.run_dir)?;
    place::dir_make(&settings.state_dir)?;
    // The node first: whoever can connect finds what there is.
    let site = site_open(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // More than connections of both listeners: a call that hangs keeps none from looking.
        .max_blocking_threads(settings.connections_max.saturating_mul(2).saturating_add(64))
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(crate::threads_missing)?;
    let ended = runtime.block_on(serve(&settings, site));
    // What still waits for the kernel is found again at the next start.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

fn site_open(settings: &Settings) -> Result<Arc<Site>, Failure> {
    let policy = settings.policy.as_deref().map(Policy::read).transpose().map_err(policy_failure)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|why| place::io_failure("reading the number of this boot", &why))?;
    let config = HostConfig {
        run_dir: settings.run_dir.clone(),
        state_dir: settings.state_dir.clone(),
        shim: vec![SELF.to_owned(), crate::hidden::SHIM.to_owned()],
        exec: vec![SELF.to_owned(), crate::hidden::EXEC.to_owned()],
        export: export_program(settings),
        node: node_mark(&settings.run_dir),
        log_max: settings.log_max_bytes,
        boot_id: boot.trim().to_owned(),
        node_config: NodeConfig { deadline: settings.deadline, ..NodeConfig::default() },
    };
    let host = Host::open(config).map_err(|why| place::io_failure("opening the node", &why))?;
    Ok(Arc::new(Site::new(host, policy.unwrap_or_default(), settings)))
}

/// The export of an attachment of kind `slipway`, which outlives the service.
fn export_program(settings: &Settings) -> Vec<String> {
    let mut words = vec![SELF.to_owned(), crate::hidden::EXPORT.to_owned()];
    if let Some(ca) = &settings.server_ca {
        words.extend([crate::hidden::EXPORT_CA.to_owned(), ca.display().to_string()]);
    }
    words
}

/// A word that tells services of one machine apart, the same after each start: FNV-1a of the run directory.
fn node_mark(run_dir: &std::path::Path) -> String {
    let bytes = run_dir.as_os_str().as_encoded_bytes();
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

fn policy_failure(why: PolicyError) -> Failure {
    let (exit, next) = match &why {
        PolicyError::Read { .. } => (3, "check the path of --policy"),
        PolicyError::Open(_) => (4, "only root may write the file that says who may do what"),
        PolicyError::Wrong { .. } => (2, "docs/node.md shows what a policy can say"),
    };
    Failure::new(exit, why.to_string(), next)
}

async fn serve(settings: &Settings, site: Arc<Site>) -> Result<(), Failure> {
    let signals = |why: std::io::Error| place::io_failure("waiting for signals", &why);
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(signals)?;
    let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
    let mut listeners = vec![Listener::Unix(Arc::new(listen::socket_listen(settings)?))];
    let mut places = vec![format!("unix:{}", settings.socket.display())];
    for address in &settings.listen {
        let listener = listen::address_listen(*address).await?;
        let bound = listener.local_addr().map_err(|why| place::io_failure("asking where it listens", &why))?;
        places.push(format!("{}://{bound}", if tls.is_some() { "https" } else { "http" }));
        listeners.push(Listener::Tcp(listener, tls.clone()));
    }
    let (kill, tracker) = (CancellationToken::new(), site.works.clone());
    let door = Door {
        site: site.clone(),
        stop: site.stop.clone(),
        kill: kill.clone(),
        tracker: tracker.clone(),
        connections_max: settings.connections_max,
        patience: settings.patience,
    };
    let accepting: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(connections_accept(listener, door.clone()))).collect();
    for place in &places {
        eprintln!("slipway-agent serve: ready on {place}");
    }
    notify("READY=1");
    let mut beat = tokio::time::interval(notify::watchdog().unwrap_or(Duration::from_secs(3600)));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => site.policy_reload(),
            _ = beat.tick() => notify("WATCHDOG=1"),
        }
    }
    notify("STOPPING=1");
    tracing::info!("stopping; containers, mounts and devices stay");
    site.stop.cancel();
    for task in accepting {
        let _ = task.await;
    }
    tracker.close();
    if tokio::time::timeout(STOP_WAIT, tracker.wait()).await.is_err() {
        tracing::warn!(open = tracker.len(), "ending connections that did not end by themselves");
    }
    kill.cancel();
    tracker.wait().await;
    Ok(())
}
