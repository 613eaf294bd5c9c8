use super::run::variables;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::node::find::{container_find, key};
use crate::node::foreground::{error_write, output_write};
use crate::node::show::exit_code;
use crate::node::terminal::{self, RawTerminal};
use slipway_api::node::{ExecFrame, ExecNew, ExecReader, ExecWriter, NodeClient, NodeError, TerminalSize};
use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Run a command in a container that runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command's exit code is this command's. With -t it gets a terminal, and every key goes to it, Ctrl-C too.

Examples:
  slipway node exec web /bin/ps
  slipway node exec -it web /bin/sh
  tar -c data | slipway node exec -i web /bin/tar -x -C /srv")]
pub(crate) struct Args {
    /// Hand stdin on to it
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// A variable; without a value that of this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Its directory [default: that of the init]
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    #[arg(short, long, help = "UID[:GID] or a name of the container's own [default: the init's]")]
    user: Option<String>,
    /// The container's name or number
    name: String,
    /// What to run
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_hint = clap::ValueHint::Other)]
    command: Vec<String>,
}

/// What goes to the command.
enum Input {
    Bytes(Vec<u8>),
    End,
    Size(TerminalSize),
}

/// What comes from it.
type Said = Result<ExecFrame, NodeError>;

pub(crate) async fn run(args: Args, cx: &Context, client: &NodeClient) -> Result<u8, Failure> {
    let raw = args.tty && args.interactive;
    if raw && !terminal::stdin_is_terminal() {
        return Err(
            Failure::usage("-t needs a terminal, and stdin is none").next("leave out -t; -i alone hands a pipe on")
        );
    }
    let container = container_find(client, &args.name).await?;
    let what = ExecNew {
        command: args.command,
        env: environment(args.env, args.tty)?,
        cwd: args.cwd.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        tty: args.tty,
        size: args.tty.then(terminal::size).flatten(),
    };
    let (reader, writer) = client.container_exec(&key(&container), &what).await?;
    cx.detail(&format!("Running in container {}.", args.name));
    // The terminal is raw only from here on, and as before when this goes out of scope, however that happens.
    let _raw = match raw {
        true => Some(
            RawTerminal::begin().map_err(|why| Failure::io("preparing", std::path::Path::new("the terminal"), &why))?,
        ),
        false => None,
    };
    passed(reader, writer, args.interactive, args.tty).await
}

fn environment(given: Vec<String>, tty: bool) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let mut env = variables(given)?;
    // What draws on a terminal must know which one it is.
    if let (true, Ok(term)) = (tty && !env.contains_key("TERM"), std::env::var("TERM")) {
        env.insert("TERM".into(), term);
    }
    Ok(env)
}

/// Passes everything on in both directions until the command has ended.
async fn passed(reader: ExecReader, writer: ExecWriter, interactive: bool, tty: bool) -> Result<u8, Failure> {
    // Each direction has a task of its own: a command that does not read must not keep its output from being shown.
    let (say, mut said) = mpsc::channel(16);
    let reading = tokio::spawn(read_all(reader, say));
    let (give, given) = mpsc::channel(16);
    let writing = tokio::spawn(write_all(writer, given));
    match interactive {
        true => stdin_pass(give.clone()),
        false => drop(give.send(Input::End).await),
    }
    let ended = pumped(&mut said, &give, tty).await;
    reading.abort();
    writing.abort();
    ended
}

async fn pumped(said: &mut mpsc::Receiver<Said>, give: &mpsc::Sender<Input>, tty: bool) -> Result<u8, Failure> {
    let heard = |kind: SignalKind| {
        signal(kind).map_err(|why| Failure::io("waiting for", std::path::Path::new("signals"), &why))
    };
    let (mut winch, mut term) = (heard(SignalKind::window_change())?, heard(SignalKind::terminate())?);
    let (mut hup, mut int) = (heard(SignalKind::hangup())?, heard(SignalKind::interrupt())?);
    loop {
        let gone = tokio::select! {
            frame = said.recv() => match frame {
                Some(Ok(ExecFrame::Stdout(bytes))) => { output_write(&bytes)?; continue }
                Some(Ok(ExecFrame::Stderr(bytes))) => { error_write(&bytes)?; continue }
                Some(Ok(ExecFrame::Exit(exit))) => return Ok(exit_code(&exit)),
                Some(Err(why)) => return Err(why.into()),
                None => return Err(Failure::new(exit::FAILED, "the command's output ended without its exit code")
                    .next("look at the log of the node's service")),
            },
            _ = winch.recv() => {
                if let (true, Some(size)) = (tty, terminal::size()) {
                    // A full channel means that a newer size will follow.
                    let _ = give.try_send(Input::Size(size));
                }
                continue
            }
            _ = term.recv() => 15,
            _ = hup.recv() => 1,
            _ = int.recv() => 2,
        };
        // The command goes with its connection.
        return Ok(128 + gone);
    }
}

async fn read_all(mut reader: ExecReader, say: mpsc::Sender<Said>) {
    loop {
        let frame = reader.next().await;
        let last = !matches!(frame, Ok(ExecFrame::Stdout(_) | ExecFrame::Stderr(_)));
        if say.send(frame).await.is_err() || last {
            return;
        }
    }
}

async fn write_all(mut writer: ExecWriter, mut given: mpsc::Receiver<Input>) {
    while let Some(input) = given.recv().await {
        let sent = match input {
            Input::Bytes(bytes) => writer.input(&bytes).await,
            Input::End => writer.input_end().await,
            Input::Size(size) => writer.resize(size).await,
        };
        // A command that has closed its input, or has ended, takes no more; how it ended comes the other way.
        if sent.is_err() {
            return;
        }
    }
}

/// Reads stdin on a thread of its own, which may wait for ever for somebody to type.
fn stdin_pass(give: mpsc::Sender<Input>) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let input = match stdin.read(&mut buffer) {
                Ok(len @ 1..) => Input::Bytes(buffer[..len].to_vec()),
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => Input::End,
            };
            let end = matches!(input, Input::End);
            if give.blocking_send(input).is_err() || end {
                return;
            }
        }
    });
}
