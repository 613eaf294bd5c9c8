use super::pair_read;
use super::state::not_started;
use crate::context::Context;
use crate::failure::Failure;
use crate::node::find::{called, key};
use crate::node::foreground::watch;
use crate::node::source::{Source, overlay};
use crate::output::Output;
use slipway_api::node::{Container, ContainerState, Mount, Network, NodeClient, Resources, Restart, RestartWhen};
use std::collections::BTreeMap;

/// Run a system image or a directory as a container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is written in it goes to memory, ROOT stays as it is (a mount by number does not). Without -d the output is \
printed and the init's exit code is this one's. A shell's words need a shell: /bin/sh -c \"…\"

Examples:
  slipway node run --rm rescue.sqfs /bin/sh -c \"echo hello\"
  slipway node run -d --name web --memory 512M --restart on-failure:3 web.ext4 /usr/sbin/nginx")]
pub(crate) struct Args {
    /// Its name, unique on the node
    #[arg(long)]
    name: Option<String>,
    /// Leave it running, and print its name
    #[arg(short, long)]
    detach: bool,
    /// Remove it when it has ended
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Its init is systemd
    #[arg(long)]
    systemd: bool,
    /// A variable; without a value that of this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Its directory [default: /]
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    #[arg(short, long, help = "UID[:GID] or a name of its own [default: root]")]
    user: Option<String>,
    /// Its host name [default: the node's]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// host, or none
    #[arg(long, value_enum, hide_possible_values = true)]
    network: Option<Net>,
    /// The most memory, like 512M
    #[arg(short, long, value_name = "SIZE", value_parser = crate::human::size_read)]
    memory: Option<u64>,
    /// Processors, like 1.5
    #[arg(long, value_name = "N", value_parser = cpus_read)]
    cpus: Option<u64>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    #[arg(long, value_name = "WHEN", value_parser = restart_read, requires = "detach")]
    #[arg(help = "no, on-failure[:TIMES] or always; with -d")]
    restart: Option<Restart>,
    /// Its time to end before it is killed [default: 10s; systemd: 90s]
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    stop_time: Option<u64>,
    /// All capabilities, no filter of system calls
    #[arg(long)]
    privileged: bool,
    /// A capability beside the usual ones
    #[arg(long, value_name = "NAME", conflicts_with = "privileged")]
    cap_add: Vec<String>,
    /// It cannot change its root
    #[arg(long, conflicts_with_all = ["changes", "persist"])]
    read_only: bool,
    /// Memory for what it changes [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = crate::human::size_read)]
    changes: Option<u64>,
    /// Keep what it changes under this name
    #[arg(long, value_name = "NAME", conflicts_with = "changes")]
    persist: Option<String>,
    /// The file system in the image, if it is not seen by itself
    #[arg(long, value_name = "TYPE")]
    fs_type: Option<String>,
    /// Free words about it
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair_read)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    output: Output,
    /// The number of a mount, an image, or a directory
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    root: String,
    /// What to run in it [default with --systemd: /sbin/init]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_hint = clap::ValueHint::Other)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Net {
    Host,
    None,
}

/// Memory for changes when nobody says anything: only what is used is taken.
const CHANGES: u64 = 1 << 30;

impl Args {
    /// Whether the command stays until the container ends.
    pub(crate) fn is_foreground(&self) -> bool {
        !self.detach
    }
}

pub(crate) async fn run(args: Args, cx: &Context, client: &NodeClient) -> Result<u8, Failure> {
    let (detach, rm, output) = (args.detach, args.rm, args.output.clone());
    if !detach && output.for_programs() {
        return Err(Failure::usage("without -d the container's own output is printed, which has no other form")
            .next("leave out -o, or add -d and see 'slipway node logs'"));
    }
    let wanted = container(args, client)?;
    let made = client.container_create(&wanted).await?;
    if let Some(failure) = not_started(&made) {
        // Nothing of it ever ran, so there is nothing to keep, and its name is free for the next attempt.
        let _ = client.container_delete(&key(&made), true).await;
        return Err(failure.next("correct that and run it again; nothing was left behind"));
    }
    if detach {
        output.one(&made, |made| format!("{}\n", called(made)))?;
        return Ok(0);
    }
    cx.detail(&format!("Container {} runs as process {}.", called(&made), made.pid.unwrap_or_default()));
    let watched = watch(cx, client, &made).await;
    if rm && watched.is_ok() {
        client.container_delete(&key(&made), false).await?;
    }
    watched
}

fn container(args: Args, client: &NodeClient) -> Result<Container, Failure> {
    let command = match (args.command.is_empty(), args.systemd) {
        (false, _) => shell_words::join(&args.command),
        (true, true) => "/sbin/init".to_owned(),
        (true, false) => {
            return Err(Failure::usage("what to run is missing")
                .next(format!("name it behind the root: 'slipway node run {} /bin/sh -c \"…\"'", args.root)));
        }
    };
    if args.command.first().is_some_and(|program| !program.starts_with('/')) {
        let program = args.command.first().map_or("", String::as_str);
        return Err(Failure::usage(format!("'{program}' is no absolute path; no PATH is searched for an init"))
            .next(format!("write where it is in the container, like /bin/{program}")));
    }
    let resources = Resources {
        memory: args.memory.unwrap_or(0),
        cpu_millis: args.cpus.unwrap_or(0),
        pids: args.pids.unwrap_or(0),
        ..Resources::default()
    };
    let source = Source { address: client.address(), text: &args.root, fs_type: args.fs_type.as_deref() };
    let mount = root(source.tree()?, args.read_only, args.changes, args.persist);
    Ok(Container {
        name: args.name.unwrap_or_default(),
        mount: Some(mount),
        command,
        systemd: args.systemd,
        state: ContainerState::Running,
        env: variables(args.env)?,
        cwd: args.cwd.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        hostname: args.hostname.unwrap_or_default(),
        network: args.network.map(|network| match network {
            Net::Host => Network::Host,
            Net::None => Network::None,
        }),
        resources: (resources != Resources::default()).then_some(resources),
        privileged: args.privileged.then_some(true),
        capabilities: args.cap_add,
        read_only: args.read_only,
        stop_timeout: args.stop_time,
        restart: args.restart,
        labels: args.label.into_iter().collect(),
        ..Container::default()
    })
}

/// A mount that is there already is the root as it is, unless changes are to go elsewhere. Everything else is never changed.
fn root(tree: Mount, read_only: bool, changes: Option<u64>, persist: Option<String>) -> Mount {
    let there = tree.id > 0;
    match (read_only, there && changes.is_none() && persist.is_none()) {
        (true, _) | (_, true) => tree,
        (false, false) => overlay(tree, changes.unwrap_or(CHANGES), persist),
    }
}

pub(crate) fn variables(given: Vec<String>) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = std::env::var(&text).map_err(|_| {
                    Failure::usage(format!("the variable {text} is not set here"))
                        .next(format!("say its value: --env {text}=VALUE"))
                })?;
                (text, value)
            }
        };
        if name.is_empty() {
            return Err(Failure::usage("a variable has no name").next("write it like --env NAME=VALUE"));
        }
        env.insert(name, value);
    }
    Ok(env)
}

fn cpus_read(text: &str) -> Result<u64, String> {
    let wrong = || "write it like 2 or 0.5".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).map(|whole| whole + part).filter(|millis| *millis > 0).ok_or_else(wrong)
}

fn restart_read(text: &str) -> Result<Restart, String> {
    let wrong = || "write no, on-failure, on-failure:3 or always".to_owned();
    let (when, max) = match text.split_once(':') {
        Some((when, max)) => (when, max.parse::<u64>().ok().filter(|max| *max > 0).ok_or_else(wrong)?),
        None => (text, 0),
    };
    let when: RestartWhen = serde_json::from_value(when.into()).map_err(|_| wrong())?;
    match (when, max) {
        (RestartWhen::No | RestartWhen::Always, 1..) => Err(wrong()),
        _ => Ok(Restart { when, max }),
    }
}

#[cfg(test)]
mod tests {
    use super::{cpus_read, restart_read, root, variables};
    use slipway_api::node::{Mount, RestartWhen};

    #[test]
    fn limits_are_read() {
        for (text, millis) in [
            ("1", Some(1000)),
            ("1.5", Some(1500)),
            ("0.25", Some(250)),
            ("0.001", Some(1)),
            ("0", None),
            ("1.", None),
            ("x", None),
            ("1.2345", None),
            ("-1", None),
        ] {
            assert_eq!(cpus_read(text).ok(), millis, "{text}");
        }
        for (text, read) in [
            ("no", Some((RestartWhen::No, 0))),
            ("always", Some((RestartWhen::Always, 0))),
            ("on-failure:3", Some((RestartWhen::OnFailure, 3))),
            ("on-failure:0", None),
            ("always:3", None),
            ("never", None),
        ] {
            assert_eq!(restart_read(text).ok().map(|restart| (restart.when, restart.max)), read, "{text}");
        }
        assert_eq!(variables(vec!["A=b=c".into()]).unwrap()["A"], "b=c");
        assert_eq!(variables(vec!["SLIPWAY_TEST_NOT_SET".into()]).unwrap_err().exit, 2);
    }

    #[test]
    fn roots_are_covered_unless_they_are_mounts_already() {
        let there = Mount { id: 3, ..Mount::default() };
        let image = Mount::default();
        let is_overlay = |mount: Mount| mount.overlay.map(|block| (block.size, block.persist));
        assert_eq!(is_overlay(root(there.clone(), false, None, None)), None);
        assert_eq!(is_overlay(root(there.clone(), false, Some(5), None)), Some((5, String::new())));
        assert_eq!(is_overlay(root(there, false, None, Some("x".into()))), Some((0, "x".into())));
        assert_eq!(is_overlay(root(image.clone(), false, None, None)), Some((1 << 30, String::new())));
        assert_eq!(is_overlay(root(image, true, None, None)), None);
    }
}
