//! What goes to the log, and how it looks. `SLIPWAY_LOG` takes the filters of `tracing_subscriber`, like `info,slipway_server=debug`.

use crate::context::Context;
use tracing_subscriber::EnvFilter;

/// How the server's log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object in a line.
    Json,
}

/// The log of a client: silent unless somebody asks.
pub(crate) fn init_client(cx: &Context) {
    let default = match cx.verbosity() {
        0 => "off",
        1 => "slipway=info,slipway_api=info,slipway_transfer=info",
        _ => "slipway=debug,slipway_api=debug,slipway_transfer=debug,slipway_disk=debug",
    };
    init(cx, default, LogFormat::Text);
}

/// The log of a client that goes on by itself: why something could not be read stands nowhere else.
pub(crate) fn init_view(cx: &Context) {
    let default = match cx.verbosity() {
        0 => "warn,fuser=error",
        1 => "info,fuser=error",
        _ => "info,fuser=info,slipway=debug,slipway_api=debug,slipway_transfer=debug",
    };
    init(cx, default, LogFormat::Text);
}

/// The log of the server.
pub(crate) fn init_server(cx: &Context, format: LogFormat) {
    let default = match cx.verbosity() {
        0 => "info",
        1 => "info,slipway_server=debug,slipway_store=debug",
        _ => "debug",
    };
    init(cx, default, format);
}

fn init(cx: &Context, default: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_env("SLIPWAY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(cx.paint_err().is_on());
    // A second start in one process keeps the first log, which is what a test wants.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
