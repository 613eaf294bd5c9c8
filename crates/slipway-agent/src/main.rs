//! The program on a machine: small, static, inside an initramfs. It flashes and serves the node API; it links neither server nor store.

mod args;
mod export;
mod failure;
mod flash;
mod hidden;
mod presence;
mod report;
mod serve;
mod token;
mod tunnel;

use args::{Cli, Command, ConfigCommand};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;
use std::time::Duration;

/// Threads that wait for the network in a flash. As many as there are cores would do no more, and each costs memory.
const FLASH_THREADS: usize = 2;
/// How long an interrupted flash may take to leave its target in order.
const TIDY: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    // These live as long as what they serve: they begin before anything else takes memory or a thread.
    if let Some(ended) = hidden::verb_run() {
        return ended;
    }
    let cli = Cli::parse();
    // Already set is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    log_begin(match cli.command {
        Command::Serve(_) => "info",
        Command::Flash(_) | Command::Token(_) | Command::Config(_) => "off",
    });
    match command_run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.rendered());
            ExitCode::from(failure.exit)
        }
    }
}

fn log_begin(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SLIPWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

fn command_run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Token(command) => token::run(command),
        Command::Config(ConfigCommand::Show(args)) => serve::settings_show(&args),
        Command::Flash(args) => {
            slipway_disk::freed_memory_return(1);
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(FLASH_THREADS).enable_all().build().map_err(threads_missing)?;
            let ended = runtime.block_on(flash::run(args, TIDY));
            runtime.shutdown_timeout(TIDY);
            ended
        }
    }
}

fn threads_missing(why: std::io::Error) -> Failure {
    Failure::new(1, format!("starting threads: {why}"), "look at the limits of this process")
}
