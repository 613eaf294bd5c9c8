//! One file for each verb.

pub(crate) mod channel;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod disk_view;
pub(crate) mod doctor;
pub(crate) mod flash;
pub(crate) mod image;
pub(crate) mod journal;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod nbd_export;
pub(crate) mod node;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod quota;
pub(crate) mod scrub;
pub(crate) mod serve;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod user;
pub(crate) mod verify;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Failure;

/// Runs a command of a client, and gives its exit code; `serve` and `completions`, which have no server to talk to, are run by `main`.
pub(crate) async fn run(command: Command, cx: &Context) -> Result<u8, Failure> {
    let done = match command {
        Command::Push(args) => push::run(args, cx).await,
        Command::Pull(args) => pull::run(args, cx).await,
        Command::Flash(args) => flash::run(args, cx).await,
        Command::Verify(args) => verify::run(args, cx).await,
        Command::NbdExport(args) => nbd_export::run(args, cx).await,
        Command::DiskView(args) => disk_view::run(*args, cx).await,
        // A process in a container has an exit code of its own.
        Command::Node(args) => return node::run(*args, cx).await,
        Command::Image(command) => image::run(command, cx).await,
        Command::Channel(command) => channel::run(command, cx).await,
        Command::Login(args) => login::run(args, cx).await,
        Command::Logout(args) => logout::run(args, cx).await,
        Command::Context(command) => context::run(command, cx),
        Command::User(command) => user::run(command, cx).await,
        Command::Quota(args) => quota::run(args, cx).await,
        Command::Token(command) => token::run(command, cx).await,
        Command::Task(command) => task::run(command, cx).await,
        Command::Prune(args) => prune::run(args, cx).await,
        Command::Check(args) => check::run(args, cx).await,
        Command::Scrub(command) => scrub::run(command, cx).await,
        Command::Journal(args) => journal::run(args, cx).await,
        Command::Config(command) => config::run(command, cx),
        Command::Serve(args) => serve::run(*args, cx).await,
        Command::Doctor(args) => doctor::run(*args, cx).await,
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(&args, cx),
    };
    done.map(|()| 0)
}
