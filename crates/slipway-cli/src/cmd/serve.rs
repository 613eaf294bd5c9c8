//! `slipway serve`: the server.

use crate::context::Context;
use crate::failure::{Failure, chain, exit};
use crate::log::{LogFormat, init_server};
use slipway_server::{
    ExitReason, ServeOptions, ServeSettings, Setting, address_has_password, serve_options_merge, serve_settings_read,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Run the server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each setting comes from a flag, else from SLIPWAY_NAME, else from the file of --config (TOML, names as below \
with '_'), else it is the default; 'slipway config show --server --origin' prints all of them. When the server \
takes requests it prints 'slipway serve: ready on URL'. SIGTERM and Ctrl-C stop it after running requests. \
Exit code 70: the storage reported a lost write; see docs/exit-codes.md.

Examples:
  slipway serve --data /srv/slipway --listen 0.0.0.0:8440 --tls-self-made
  slipway serve --data ./data --listen 127.0.0.1:0 --admin-token-file admin.token
  slipway serve --config /etc/slipway/slipway.toml --log-format json")]
pub(crate) struct Args {
    #[command(flatten)]
    flags: ServeFlags,
    /// How the log on stderr looks: text or json; SLIPWAY_LOG filters it
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

/// The settings of a server as options; whoever asks what a server would do takes the same ones.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ServeFlags {
    /// The folder that holds everything [default: /var/lib/slipway]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:8440]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Write a token of the user 'admin' here at the first start; else a one-time code is printed
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// The certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Make a CA and a certificate; clients need SLIPWAY_CA=DIR/tls/ca.pem
    #[arg(long, conflicts_with = "tls_cert")]
    tls_self_made: bool,
    /// More names and addresses in that certificate, separated by commas
    #[arg(long, value_name = "NAMES")]
    tls_names: Option<String>,
    /// sqlite:PATH or postgres://USER@HOST/NAME [default: SQLite in DIR]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// s3://BUCKET/PREFIX?endpoint=URL [default: a folder in DIR]
    #[arg(long, value_name = "URL")]
    blobs: Option<String>,
    /// A file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let log_format = args.log_format;
    let (options, _) = args.flags.decide()?;
    init_server(cx, log_format);
    let data = options.data.display().to_string();
    let ended =
        slipway_server::serve(options, crate::signals::stop_asked()).await.map_err(|why| start_failure(&*why))?;
    match ended {
        ExitReason::Asked => Ok(()),
        ExitReason::Poisoned => Err(Failure::new(
            exit::POISONED,
            format!("the storage in {data} reported a lost write, so nothing more is committed"),
        )
        .next("check the disk ('dmesg'), start again, then run 'slipway check'")),
    }
}

/// Why the server did not start, or could not go on.
fn start_failure(why: &(dyn std::error::Error + 'static)) -> Failure {
    let mut causes = std::iter::successors(Some(why), |error| error.source());
    let io = causes.find_map(|error| error.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    let what = chain(why);
    let (exit, next) = match io {
        Some(std::io::ErrorKind::AddrInUse) => {
            (exit::CONFLICT, "choose another port with --listen, or 0 for a free one")
        }
        Some(std::io::ErrorKind::NotFound) => (exit::NOT_FOUND, SETTINGS_HINT),
        Some(std::io::ErrorKind::PermissionDenied) => {
            (exit::AUTH, "run it as the user whose folder that is, or change its rights")
        }
        Some(std::io::ErrorKind::StorageFull) => (exit::SPACE, "make room there, then start it again"),
        _ if what.contains("in use by process") => {
            (exit::CONFLICT, "stop that server first, or choose another folder with --data")
        }
        _ => (exit::FAILED, SETTINGS_HINT),
    };
    Failure::new(exit, what).next(next)
}

const SETTINGS_HINT: &str = "'slipway config show --server --origin' says where each setting comes from";

impl ServeFlags {
    /// All settings of the server and where each came from.
    pub(crate) fn decide(&self) -> Result<(ServeOptions, Vec<Setting>), Failure> {
        if self.database.iter().any(|address| address_has_password(address)) {
            return Err(Failure::usage("--database holds a password, which every user of this machine could read")
                .next("put the address into SLIPWAY_DATABASE or the file of --config, or the password into PGPASSWORD or ~/.pgpass"));
        }
        let wrong = |why: &(dyn std::error::Error + 'static)| {
            Failure::usage(chain(why)).next("'slipway serve --help' shows the settings")
        };
        let file = match &self.config {
            None => ServeSettings::default(),
            Some(path) => {
                if let Err(why) = std::fs::metadata(path) {
                    return Err(Failure::io("reading the configuration", path, &why));
                }
                serve_settings_read(path).map_err(|why| wrong(&*why))?
            }
        };
        let env = |name: &str| std::env::var(name).ok();
        let (options, lines) = serve_options_merge(&self.settings(), &env, &file).map_err(|why| wrong(&*why))?;
        options.check().map_err(|why| wrong(&*why))?;
        Ok((options, lines))
    }

    /// Something was said, so a server is meant.
    fn any(&self) -> bool {
        let said = serde_json::to_value(self.settings()).is_ok_and(|said| said != serde_json::json!({}));
        said || self.config.is_some()
    }

    /// The file with its settings, if one was named.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn settings(&self) -> ServeSettings {
        ServeSettings {
            data: self.data.clone(),
            listen: self.listen,
            admin_token_file: self.admin_token_file.clone().map(Some),
            tls_cert: self.tls_cert.clone().map(Some),
            tls_key: self.tls_key.clone().map(Some),
            tls_self_made: self.tls_self_made.then_some(true),
            tls_names: self.tls_names.clone(),
            database: self.database.clone().map(Some),
            blobs: self.blobs.clone().map(Some),
            ..ServeSettings::default()
        }
    }
}

/// Whether a client or a server is meant: for commands that look at either.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Subject {
    /// Look at 'slipway serve' instead; its options mean that too
    #[arg(long)]
    server: bool,
    #[command(flatten)]
    flags: ServeFlagsHidden,
}

impl Subject {
    /// The options of the server that is meant, if one is.
    pub(crate) fn server(&self) -> Option<&ServeFlags> {
        (self.server || self.flags.0.any()).then_some(&self.flags.0)
    }
}

/// The same options where they are understood but would fill the screen of `--help`.
#[derive(Clone, Debug, Default)]
struct ServeFlagsHidden(ServeFlags);

impl clap::Args for ServeFlagsHidden {
    fn augment_args(command: clap::Command) -> clap::Command {
        let shown = ServeFlags::augment_args(clap::Command::new("serve"));
        command.args(shown.get_arguments().map(|arg| arg.clone().hide(true)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServeFlagsHidden {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        ServeFlags::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}
