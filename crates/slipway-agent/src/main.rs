//! The program on a machine: small, static, inside an initramfs. It flashes; it links neither server nor store.

mod args;
mod failure;
mod flash;
mod report;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;
use std::time::Duration;

/// How long an interrupted flash may take to leave its target in order.
const TIDY: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Already set is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let filter = tracing_subscriber::EnvFilter::try_from_env("SLIPWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
    match command_run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.rendered());
            ExitCode::from(failure.exit)
        }
    }
}

fn command_run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| Failure::new(1, format!("starting threads: {why}"), "look at the limits of this process"))?;
    let Command::Flash(args) = command;
    let ended = runtime.block_on(flash::run(args, TIDY));
    runtime.shutdown_timeout(TIDY);
    ended
}
