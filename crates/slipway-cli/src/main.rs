//! The command line: `slipway` for people, and `slipway serve`.

mod args;
mod ask;
mod cmd;
mod complete;
mod context;
mod credentials;
mod doctor;
mod failure;
mod follow;
mod human;
mod log;
mod near;
mod node;
mod output;
mod packed;
mod pages;
mod progress;
mod refs;
mod settings;
mod signals;
mod source;
mod style;
mod suggest;
mod target;
mod view;
mod words;

use args::{Cli, Command};
use clap::{CommandFactory, FromArgMatches};
use context::Context;
use failure::{Failure, exit};
use std::process::ExitCode;
use std::time::Duration;

/// How long an interrupted command may take to put things in order, such as removing a file that it had begun.
const TIDY: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    if cmd::completions::answer_shell() {
        return ExitCode::SUCCESS;
    }
    let read = Cli::command()
        .color(style::colour_early(std::env::args_os().skip(1)))
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match read {
        Ok(cli) => cli,
        Err(why) => return usage_print(&why),
    };
    // Already set is as good: both ends of TLS use the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cx = Context::new(cli.global.clone());
    match command_run(cli.command, &cx) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(cx.paint_err());
            ExitCode::from(failure.exit)
        }
    }
}

/// Heaps of all threads of a server together: fewer keep less of what was freed, more stand less in each other's way.
const SERVER_HEAPS: u16 = 2;

/// Runs a command, and gives the exit code when nothing failed: 0, or that of a process in a container.
fn command_run(command: Command, cx: &Context) -> Result<u8, Failure> {
    // Before there are threads that have heaps of their own.
    match &command {
        Command::Push(_) | Command::Pull(_) | Command::Flash(_) => slipway_disk::freed_memory_return(1),
        Command::Serve(_) => slipway_disk::freed_memory_return(SERVER_HEAPS),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|why| {
        Failure::new(exit::FAILED, format!("starting threads: {}", failure::reason(&why)))
            .next("look at the limits of this account with 'ulimit -a'")
    })?;
    let ended = match command {
        // The server ends by itself on a signal, after it has put everything in order.
        Command::Serve(args) => runtime.block_on(cmd::serve::run(*args, cx)).map(|()| 0),
        // So does a view: it unmounts.
        Command::DiskView(args) => {
            log::init_view(cx);
            runtime.block_on(cmd::disk_view::run(*args, cx)).map(|()| 0)
        }
        // And what is tied to a container: Ctrl-C is for that, or everything is undone first. No names of images are in its failures.
        Command::Node(args) => {
            log::init_client(cx);
            match args.hears_signals() {
                true => runtime.block_on(cmd::node::run(*args, cx)),
                false => runtime.block_on(client_run(Command::Node(args), cx)),
            }
        }
        command => {
            log::init_client(cx);
            runtime.block_on(async {
                match client_run(command, cx).await {
                    Err(failure) => Err(suggest::failure_enrich(failure, cx).await),
                    Ok(code) => Ok(code),
                }
            })
        }
    };
    // A thread that waits for stdin would hold up a command that has ended.
    runtime.shutdown_background();
    ended
}

/// Runs a command until it ends, or until Ctrl-C or SIGTERM; a transfer then gets the time to leave its target in order.
async fn client_run(command: Command, cx: &Context) -> Result<u8, Failure> {
    let mut running = std::pin::pin!(cmd::run(command, cx));
    tokio::select! {
        ended = &mut running => return ended,
        () = signals::stop_asked() => cx.cancel(),
    }
    let failure = Failure::new(exit::INTERRUPTED, "interrupted");
    match cx.interrupt() {
        None => Err(failure.next("nothing is left to do; run the command again when you like")),
        Some(interrupt) => {
            let limit = if interrupt.tidy { TIDY } else { Duration::ZERO };
            match tokio::time::timeout(limit, running).await {
                Ok(Ok(code)) => Ok(code),
                Ok(Err(_)) | Err(_) => Err(failure.next(interrupt.next)),
            }
        }
    }
}

/// Prints what clap says. It quotes the command line, so nothing in there may steer the terminal.
fn usage_print(why: &clap::Error) -> ExitCode {
    let harmless = std::env::args_os().all(|arg| arg.to_str().is_some_and(|arg| human::clean(arg) == arg));
    if harmless {
        let _ = why.print();
    } else {
        let text: String =
            why.render().to_string().lines().flat_map(|line| [human::clean(line), "\n".into()]).collect();
        eprint!("{text}");
    }
    ExitCode::from(u8::try_from(why.exit_code()).unwrap_or(exit::USAGE))
}
