//! Which node, with which token and certificates: flag before environment before what is kept.

use crate::context::Context;
use crate::credentials::{self, Kept};
use crate::failure::{Failure, exit};
use slipway_api::node::{NodeAddress, NodeClient, NodeConfig};
use std::path::{Path, PathBuf};

/// The options of every command of a node.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Place {
    /// unix:/PATH, https://HOST:PORT, or a name that 'slipway context ls' lists
    #[arg(long, global = true, hide = true, value_name = "ADDRESS")]
    pub(crate) node: Option<String>,
    /// A file that holds the node's token
    #[arg(long, global = true, hide = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// Our certificate, for a node that asks for one
    #[arg(long, global = true, hide = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) cert: Option<PathBuf>,
    /// Its key, if it is not in the same file
    #[arg(long, global = true, hide = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
}

impl Place {
    /// A client of the node that is meant.
    pub(crate) fn client(&self, cx: &Context) -> Result<NodeClient, Failure> {
        let flags = cx.flags();
        if flags.url.is_some() {
            return Err(Failure::usage("--url names a server of images, not a node")
                .next("name the node with --node, as in '--node https://n17.lab:8450'"));
        }
        let named = self.node.clone().or(flags.context).or_else(|| variable("SLIPWAY_NODE"));
        let mut config = match named.as_deref() {
            None => NodeConfig::new(NodeAddress::usual()),
            Some(text) if text.contains([':', '/']) => NodeConfig::new(address_read(text)?),
            Some(name) => kept(name)?,
        };
        if let Some(token) = self.token()? {
            config.token = Some(token);
        }
        let ca = flags.ca.or_else(|| variable("SLIPWAY_NODE_CA").map(PathBuf::from));
        if let Some(path) = ca {
            config.ca_pem = Some(file_read("reading the CA", &path)?);
        }
        config.identity_pem = self.identity()?;
        Ok(NodeClient::new(&config)?)
    }

    /// Never from the command line, which every user of the machine can read.
    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.token_file else { return Ok(variable("SLIPWAY_NODE_TOKEN")) };
        let text = String::from_utf8(file_read("reading the token", path)?).unwrap_or_default();
        Ok(Some(text.trim().to_owned()))
    }

    fn identity(&self) -> Result<Option<Vec<u8>>, Failure> {
        let path = |given: &Option<PathBuf>, name| given.clone().or_else(|| variable(name).map(PathBuf::from));
        let (cert, key) = (path(&self.cert, "SLIPWAY_NODE_CERT"), path(&self.key, "SLIPWAY_NODE_KEY"));
        let Some(cert) = cert else {
            return match key {
                None => Ok(None),
                Some(_) => Err(Failure::usage("a key is named, but no certificate")
                    .next("name both: --cert FILE --key FILE, or one file that holds both with --cert")),
            };
        };
        let mut pem = file_read("reading the certificate", &cert)?;
        if let Some(key) = key {
            pem.push(b'\n');
            pem.extend(file_read("reading the key", &key)?);
        }
        Ok(Some(pem))
    }
}

/// The node that the environment names, for whoever must not ask or complain.
pub(crate) fn client_of_environment() -> Option<NodeClient> {
    let address = match variable("SLIPWAY_NODE") {
        None => NodeAddress::usual(),
        Some(text) if text.contains([':', '/']) => text.parse().ok()?,
        Some(name) => return NodeClient::new(&kept(&name).ok()?).ok(),
    };
    let mut config = NodeConfig::new(address);
    config.token = variable("SLIPWAY_NODE_TOKEN");
    config.ca_pem = variable("SLIPWAY_NODE_CA").and_then(|path| std::fs::read(path).ok());
    NodeClient::new(&config).ok()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn file_read(act: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|why| Failure::io(act, path, &why))
}

fn address_read(text: &str) -> Result<NodeAddress, Failure> {
    text.parse().map_err(|why| {
        Failure::usage(format!("node address '{text}' {why}"))
            .next("write it like unix:/run/slipway/node.sock or https://n17.lab:8450")
    })
}

fn kept(name: &str) -> Result<NodeConfig, Failure> {
    let kept = match credentials::path() {
        Some(path) => credentials::read(&path)?,
        None => Kept::default(),
    };
    let entry = kept.named(name).map_err(|why| {
        Failure::new(exit::NOT_FOUND, why.what).next(format!(
            "{}; an address has a ':' in it, like unix:/run/slipway/node.sock",
            why.next.unwrap_or_default()
        ))
    })?;
    let mut config = NodeConfig::new(address_read(&entry.url)?);
    config.token.clone_from(&entry.token);
    config.ca_pem = entry.ca.clone().map(String::into_bytes);
    Ok(config)
}
