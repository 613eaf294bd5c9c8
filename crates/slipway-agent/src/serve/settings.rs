//! What a node service is told: flags, then the environment, then a file, then defaults; and what cannot go together.

use crate::args::ServeArgs;
use crate::failure::Failure;
use serde::Deserialize;
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
    pub(crate) log_max_bytes: u64,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// A file of settings; each name is also a variable, `SLIPWAY_NODE_` and the name in capitals.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    socket: Option<PathBuf>,
    socket_group: Option<String>,
    listen: Option<Vec<SocketAddr>>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    policy: Option<PathBuf>,
    server_ca: Option<PathBuf>,
    connections_max: Option<usize>,
    deadline_seconds: Option<u64>,
    log_max_bytes: Option<u64>,
}

/// Where a node keeps what stays, unless told otherwise.
pub(crate) const STATE_DIR: &str = "/var/lib/slipway-node";
const NEXT: &str = "'slipway-agent serve --help' shows the settings";

fn wrong(what: impl Into<String>) -> Failure {
    Failure::new(2, what, NEXT)
}

/// Reads what there is.
pub(crate) fn decide(args: &ServeArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Failure> {
    let get = |name: &str| env(&format!("SLIPWAY_NODE_{}", name.to_uppercase())).filter(|value| !value.is_empty());
    let config = args.config.clone().or_else(|| get("config").map(PathBuf::from));
    let file = config.as_deref().map(file_read).transpose()?.unwrap_or_default();
    let path = |flag: &Option<PathBuf>, name: &str, file: Option<PathBuf>| {
        flag.clone().or_else(|| get(name).map(PathBuf::from)).or(file)
    };
    let listen = match (args.listen.as_slice(), get("listen")) {
        (flags @ [_, ..], _) => flags.to_vec(),
        ([], Some(text)) => text.split(',').map(|one| address_read(one.trim())).collect::<Result<_, _>>()?,
        ([], None) => file.listen.unwrap_or_default(),
    };
    let number = |name: &str, file: Option<u64>, default: u64, least: u64| -> Result<u64, Failure> {
        let value = match get(name) {
            Some(text) => text
                .parse()
                .map_err(|_| wrong(format!("SLIPWAY_NODE_{} is '{text}', which is no number", name.to_uppercase())))?,
            None => file.unwrap_or(default),
        };
        if value < least { Err(wrong(format!("{name} is {value}; it must be at least {least}"))) } else { Ok(value) }
    };
    let cert = path(&args.tls_cert, "tls_cert", file.tls_cert);
    let key = path(&args.tls_key, "tls_key", file.tls_key);
    let client_ca = path(&args.tls_client_ca, "tls_client_ca", file.tls_client_ca);
    let tls = match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca }),
        (None, None, None) => None,
        _ => return Err(wrong("TLS needs both tls_cert and tls_key; tls_client_ca is of use only with them")),
    };
    let settings = Settings {
        socket: path(&args.socket, "socket", file.socket).unwrap_or_else(|| "/run/slipway/node.sock".into()),
        socket_group: args.socket_group.clone().or_else(|| get("socket_group")).or(file.socket_group),
        listen,
        run_dir: path(&args.run_dir, "run_dir", file.run_dir).unwrap_or_else(|| "/run/slipway/node".into()),
        state_dir: path(&args.state_dir, "state_dir", file.state_dir).unwrap_or_else(|| STATE_DIR.into()),
        tls,
        policy: path(&args.policy, "policy", file.policy),
        server_ca: path(&None, "server_ca", file.server_ca),
        connections_max: number("connections_max", file.connections_max.map(|max| max as u64), 256, 1)? as usize,
        deadline: Duration::from_secs(number("deadline_seconds", file.deadline_seconds, 30, 1)?),
        log_max_bytes: number("log_max_bytes", file.log_max_bytes, 10 << 20, 4096)?,
    };
    settings.check()?;
    Ok(settings)
}

fn address_read(text: &str) -> Result<SocketAddr, Failure> {
    text.parse()
        .map_err(|_| wrong(format!("listen is '{text}'; it must be an address and a port, such as 127.0.0.1:8450")))
}

fn file_read(path: &Path) -> Result<File, Failure> {
    let text = std::fs::read_to_string(path).map_err(|why| {
        let exit = if why.kind() == std::io::ErrorKind::PermissionDenied { 4 } else { 3 };
        Failure::new(exit, format!("reading the settings in {}: {why}", path.display()), "check the path of --config")
    })?;
    toml::from_str(&text).map_err(|why| wrong(format!("reading the settings in {}: {}", path.display(), why.message())))
}

impl Settings {
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
        let settings = decide(&args, &env).unwrap();
        assert_eq!(settings.socket.to_str(), Some("/flag/s"));
        assert_eq!(settings.state_dir.to_str(), Some("/env/state"));
        assert_eq!(settings.run_dir.to_str(), Some("/file/run"));
        assert_eq!((settings.listen.len(), settings.connections_max), (1, 9));
        assert_eq!(settings.deadline.as_secs(), 30);
    }

    #[test]
    fn what_cannot_go_together_is_refused() {
        let args = |words: &[&str]| {
            let words = ["slipway-agent", "serve"].iter().chain(words);
            match <crate::args::Cli as clap::Parser>::try_parse_from(words).unwrap().command {
                crate::args::Command::Serve(args) => args,
                crate::args::Command::Flash(_) | crate::args::Command::Token(_) => unreachable!(),
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
        let long = format!("/{}", "x".repeat(107));
        assert!(decide(&args(&["--socket", &long]), &|_| None).unwrap_err().what.contains("107 bytes"));
        let env = |name: &str| (name == "SLIPWAY_NODE_LISTEN").then(|| "127.0.0.1:1,::1".to_owned());
        assert!(decide(&args(&[]), &env).unwrap_err().what.contains("'::1'"));
    }
}
