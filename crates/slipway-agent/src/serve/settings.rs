//! What a node service is told: flags, then the environment, then a file, then defaults; and what cannot go together.

use crate::args::ServeArgs;
use crate::failure::Failure;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) socket_group: Option<String>,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) policy: Option<PathBuf>,
    /// The CA of the Slipway servers that versions are attached from; the system's roots if not given.
    pub(crate) server_ca: Option<PathBuf>,
    pub(crate) connections_max: usize,
    pub(crate) deadline: Duration,
    pub(crate) patience: Duration,
    pub(crate) log_max_bytes: u64,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// Every setting and its default. In the environment it is `SLIPWAY_NODE_` and the name in capitals.
const ALL: &[(&str, &str)] = &[
    ("socket", "/run/slipway/node.sock"),
    ("socket_group", ""),
    ("listen", ""),
    ("run_dir", "/run/slipway/node"),
    ("state_dir", STATE_DIR),
    ("tls_cert", ""),
    ("tls_key", ""),
    ("tls_client_ca", ""),
    ("policy", ""),
    ("server_ca", ""),
    ("connections_max", "256"),
    ("deadline_seconds", "30"),
    ("patience_seconds", "30"),
    ("log_max_bytes", "10485760"),
];

/// Where a node keeps what outlives its kernel.
pub(crate) const STATE_DIR: &str = "/var/lib/slipway-node";

/// A setting, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// Empty if it is not set.
    pub(crate) value: String,
    pub(crate) origin: String,
}

const NEXT: &str = "'slipway-agent serve --help' shows the settings";

fn wrong(what: impl Into<String>) -> Failure {
    Failure::new(2, what, NEXT)
}

/// Reads what there is.
pub(crate) fn decide(args: &ServeArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<(Settings, Vec<Line>), Failure> {
    let get = |name: &str| env(&variable(name)).filter(|value| !value.is_empty());
    let config = args.config.clone().or_else(|| get("config").map(PathBuf::from));
    let file = config.as_deref().map(file_read).transpose()?.unwrap_or_default();
    let mut lines = Vec::new();
    for (name, default) in ALL {
        let from_file = file.get(*name).map(|value| text_of(name, value)).transpose()?;
        let (value, origin) = if let Some(value) = flag_of(args, name)? {
            (value, format!("flag --{}", name.replace('_', "-")))
        } else if let Some(value) = get(name) {
            (value, format!("environment {}", variable(name)))
        } else if let Some(value) = from_file {
            (value, format!("file {}", config.as_deref().unwrap_or(Path::new("")).display()))
        } else {
            ((*default).to_owned(), "default".to_owned())
        };
        lines.push(Line { name, value, origin });
    }
    let settings = Settings::read(&lines)?;
    settings.check()?;
    Ok((settings, lines))
}

fn variable(name: &str) -> String {
    format!("SLIPWAY_NODE_{}", name.to_uppercase())
}

fn flag_of(args: &ServeArgs, name: &str) -> Result<Option<String>, Failure> {
    let path = match name {
        "socket" => &args.socket,
        "run_dir" => &args.run_dir,
        "state_dir" => &args.state_dir,
        "tls_cert" => &args.tls_cert,
        "tls_key" => &args.tls_key,
        "tls_client_ca" => &args.tls_client_ca,
        "policy" => &args.policy,
        "socket_group" => return Ok(args.socket_group.clone()),
        "listen" if args.listen.is_empty() => return Ok(None),
        "listen" => {
            return Ok(Some(args.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
        }
        // Only in the environment and the file.
        _ => &None,
    };
    let text = |path: &PathBuf| {
        path.to_str().map(str::to_owned).ok_or_else(|| wrong(format!("{name} is not UTF-8: {}", path.display())))
    };
    path.as_ref().map(text).transpose()
}

fn file_read(path: &Path) -> Result<toml::Table, Failure> {
    let text = std::fs::read_to_string(path).map_err(|why| {
        let exit = if why.kind() == std::io::ErrorKind::PermissionDenied { 4 } else { 3 };
        Failure::new(exit, format!("reading the settings in {}: {why}", path.display()), "check the path of --config")
    })?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|why| wrong(format!("reading the settings in {}: {}", path.display(), why.message())))?;
    match table.keys().find(|key| !ALL.iter().any(|(name, _)| name == key)) {
        Some(unknown) => {
            let known: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
            let next = format!("known are {}", known.join(", "));
            Err(Failure::new(2, format!("there is no setting '{unknown}' ({})", path.display()), next))
        }
        None => Ok(table),
    }
}

fn text_of(name: &str, value: &toml::Value) -> Result<String, Failure> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Array(list) if name == "listen" => {
            let texts: Option<Vec<&str>> = list.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(",")).ok_or_else(|| wrong("listen is no list of texts"))
        }
        _ => Err(wrong(format!("{name} is neither text nor number in the file of settings"))),
    }
}

impl Settings {
    fn read(lines: &[Line]) -> Result<Self, Failure> {
        let text = |name: &str| {
            let line = lines.iter().find(|line| line.name == name);
            line.map(|line| line.value.clone()).filter(|value| !value.is_empty())
        };
        let path = |name: &str| text(name).map(PathBuf::from);
        let dir = |name: &str| path(name).unwrap_or_default();
        let number = |name: &str, least: u64| -> Result<u64, Failure> {
            let value = text(name).unwrap_or_default();
            match value.parse() {
                Ok(number) if number >= least => Ok(number),
                Ok(_) => Err(wrong(format!("{name} is {value}; it must be at least {least}"))),
                Err(_) => Err(wrong(format!("{name} is '{value}', which is no number"))),
            }
        };
        let address = |one: &str| {
            one.trim().parse().map_err(|_| {
                wrong(format!("listen is '{}'; it must be an address and a port, such as 127.0.0.1:8450", one.trim()))
            })
        };
        let listen = text("listen").map(|all| all.split(',').map(address).collect::<Result<_, _>>()).transpose()?;
        let tls = match (path("tls_cert"), path("tls_key"), path("tls_client_ca")) {
            (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca }),
            (None, None, None) => None,
            _ => return Err(wrong("TLS needs both tls_cert and tls_key; tls_client_ca is of use only with them")),
        };
        Ok(Self {
            socket: dir("socket"),
            socket_group: text("socket_group"),
            listen: listen.unwrap_or_default(),
            run_dir: dir("run_dir"),
            state_dir: dir("state_dir"),
            tls,
            policy: path("policy"),
            server_ca: path("server_ca"),
            connections_max: usize::try_from(number("connections_max", 1)?).unwrap_or(usize::MAX).min(1 << 16),
            deadline: Duration::from_secs(number("deadline_seconds", 1)?),
            patience: Duration::from_secs(number("patience_seconds", 1)?),
            log_max_bytes: number("log_max_bytes", 4096)?,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        for (name, path) in [("socket", &self.socket), ("run_dir", &self.run_dir), ("state_dir", &self.state_dir)] {
            if !path.is_absolute() {
                return Err(wrong(format!("{name} is '{}'; it must be an absolute path", path.display())));
            }
        }
        // 108 bytes with the NUL at its end: the kernel's limit.
        if self.socket.as_os_str().len() > 107 {
            return Err(wrong(format!("socket is '{}'; a socket's path has at most 107 bytes", self.socket.display())));
        }
        if self.run_dir.starts_with(&self.state_dir) || self.state_dir.starts_with(&self.run_dir) {
            return Err(wrong("run_dir and state_dir lie in each other; choose two folders beside each other"));
        }
        if self.socket_group.is_some() && self.socket.starts_with(&self.run_dir) {
            return Err(wrong(format!(
                "socket '{}' lies in run_dir, which only root can enter, so that socket_group is of no use",
                self.socket.display()
            )));
        }
        for address in &self.listen {
            if self.tls.is_none() && !address.ip().is_loopback() {
                return Err(Failure::new(
                    2,
                    format!("listening on {address} without TLS would show tokens to the network"),
                    "give --tls-cert and --tls-key (and --tls-client-ca for client certificates), or listen on 127.0.0.1",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ServeArgs, decide};

    #[test]
    fn flags_come_before_the_environment_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, "socket = '/file/s'\nstate_dir = '/file/state'\nrun_dir = '/file/run'\nlisten = ['127.0.0.1:7']\nconnections_max = 9").unwrap();
        let args = ServeArgs { socket: Some("/flag/s".into()), config: Some(file), ..ServeArgs::default() };
        let env = |name: &str| (name == "SLIPWAY_NODE_STATE_DIR").then(|| "/env/state".to_owned());
        let settings = decide(&args, &env).unwrap().0;
        assert_eq!(settings.socket.to_str(), Some("/flag/s"));
        assert_eq!(settings.state_dir.to_str(), Some("/env/state"));
        assert_eq!(settings.run_dir.to_str(), Some("/file/run"));
        assert_eq!((settings.listen.len(), settings.connections_max), (1, 9));
        assert_eq!(settings.deadline.as_secs(), 30);
        let (_, lines) = decide(&args, &env).unwrap();
        let origin = |name: &str| lines.iter().find(|line| line.name == name).unwrap().origin.clone();
        assert_eq!((origin("socket"), origin("deadline_seconds")), ("flag --socket".into(), "default".into()));
        assert_eq!(origin("state_dir"), "environment SLIPWAY_NODE_STATE_DIR");
        assert!(origin("listen").starts_with("file /"));
    }

    #[test]
    fn what_cannot_go_together_is_refused() {
        let args = |words: &[&str]| {
            let words = ["slipway-agent", "serve"].iter().chain(words);
            match <crate::args::Cli as clap::Parser>::try_parse_from(words).unwrap().command {
                crate::args::Command::Serve(args) => args,
                _ => unreachable!(),
            }
        };
        for (words, word) in [
            (&["--listen", "0.0.0.0:1"][..], "without TLS"),
            (&["--tls-cert", "x"], "tls_key"),
            (&["--tls-client-ca", "x"], "tls_cert"),
            (&["--socket", "x"], "absolute"),
            (&["--run-dir", "/a", "--state-dir", "/a/b"], "in each other"),
            (&["--run-dir", "/a", "--socket", "/a/s", "--socket-group", "g"], "only root"),
            (&["--config", "/nowhere/x.toml"], "/nowhere"),
        ] {
            let failure = decide(&args(words), &|_| None).unwrap_err();
            assert!(failure.what.contains(word), "{words:?}: {}", failure.what);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        for (text, word) in [
            ("sockett = '/x'", "no setting 'sockett'"),
            ("deadline_seconds = 'soon'", "'soon', which is no number"),
            ("deadline_seconds = 0", "at least 1"),
            ("listen = [1]", "no list of texts"),
            ("socket = true", "neither text nor number"),
        ] {
            std::fs::write(&file, text).unwrap();
            let failure = decide(&args(&["--config", file.to_str().unwrap()]), &|_| None).unwrap_err();
            assert!(failure.what.contains(word), "{text}: {}", failure.what);
        }
        let long = format!("/{}", "x".repeat(107));
        assert!(decide(&args(&["--socket", &long]), &|_| None).unwrap_err().what.contains("107 bytes"));
        let env = |name: &str| (name == "SLIPWAY_NODE_LISTEN").then(|| "127.0.0.1:1,::1".to_owned());
        assert!(decide(&args(&[]), &env).unwrap_err().what.contains("'::1'"));
    }
}
