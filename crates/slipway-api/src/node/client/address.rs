use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a node's service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAddress {
    /// A unix socket of this machine.
    Unix(PathBuf),
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    Url(String),
}

impl NodeAddress {
    /// Where a service listens when nobody says anything else.
    pub fn usual() -> Self {
        Self::Unix("/run/slipway/node.sock".into())
    }

    /// Whether the service runs on this machine as far as the address tells, so that both see the same paths.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl std::fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl FromStr for NodeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match Path::new(path).is_absolute() && !path.contains('\0') {
                true => Ok(Self::Unix(path.into())),
                false => Err("names no absolute path after 'unix:'".into()),
            };
        }
        let Ok(url) = reqwest::Url::parse(text) else {
            return Err("is neither unix:/PATH nor a URL".into());
        };
        match url.scheme() {
            "http" | "https" if url.host_str().is_none() => Err("names no host".into()),
            "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
                Err("has a name or password in it".into())
            }
            "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
                Err("has a query or fragment".into())
            }
            "http" if !is_loopback(&url) => {
                Err("would send everything in the clear; only https leaves this machine".into())
            }
            "http" | "https" => Ok(Self::Url(text.trim_end_matches('/').to_owned())),
            _ => Err("does not begin with unix:, http:// or https://".into()),
        }
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::NodeAddress;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("unix:/run/slipway/node.sock", Some("unix:/run/slipway/node.sock")),
            ("unix:///run/x.sock", Some("unix:/run/x.sock")),
            ("https://n17.lab:8450/", Some("https://n17.lab:8450")),
            ("http://127.0.0.1:8450", Some("http://127.0.0.1:8450")),
            ("http://[::1]:8450", Some("http://[::1]:8450")),
            ("http://localhost:1", Some("http://localhost:1")),
            ("http://n17.lab:8450", None),
            ("http://127.0.0.1.evil.example", None),
            ("https://jan:pw@n17.lab", None),
            ("https://n17.lab/?x=1", None),
            ("unix:node.sock", None),
            ("/run/slipway/node.sock", None),
            ("tcp://n17", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<NodeAddress>().ok().map(|address| address.to_string()).as_deref(), shown, "{text}");
        }
    }
}
