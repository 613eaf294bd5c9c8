//! Which server, with which token, trusting what: flag before environment before what `login` kept.

use crate::credentials::{self, Credentials};
use crate::failure::{Failure, exit};
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An option on the command line.
    Flag(&'static str),
    /// A variable of the environment.
    Env(&'static str),
    /// The file that `login` writes.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    /// The value, if there is one.
    pub(crate) value: Option<T>,
    /// Where it came from.
    pub(crate) origin: Origin,
}

impl<T> Setting<T> {
    fn first(candidates: impl IntoIterator<Item = (Option<T>, Origin)>) -> Self {
        for (value, origin) in candidates {
            if value.is_some() {
                return Self { value, origin };
            }
        }
        Self { value: None, origin: Origin::Default }
    }
}

/// Certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ca {
    /// A PEM file.
    Path(PathBuf),
    /// PEM text from the credentials.
    Pem(String),
}

impl Ca {
    /// The PEM bytes.
    pub(crate) fn pem(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Path(path) => std::fs::read(path).map_err(|why| Failure::io("reading the CA", path, &why)),
            Self::Pem(text) => Ok(text.clone().into_bytes()),
        }
    }
}

/// The three settings that every command but `serve` needs.
pub(crate) struct Settings {
    /// The server's address.
    pub(crate) url: Setting<String>,
    /// The token; never taken from the command line, which every user of the machine can read.
    pub(crate) token: Setting<String>,
    /// The certificates to trust instead of the system's.
    pub(crate) ca: Setting<Ca>,
    /// Whose token it is, when the credentials say so.
    pub(crate) user: Option<String>,
}

/// What the command line says of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--url`.
    pub(crate) url: Option<String>,
    /// `--ca`.
    pub(crate) ca: Option<PathBuf>,
}

fn env(name: &'static str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

impl Settings {
    /// Reads environment and credentials.
    pub(crate) fn load(flags: &Flags) -> Result<Self, Failure> {
        let path = credentials::path();
        let env_url = env("SLIPWAY_URL");
        let env_token = env("SLIPWAY_TOKEN");
        // With server and token in the environment, a broken file must not stop a script that does not need it.
        let kept = match (&path, flags.url.as_ref().or(env_url.as_ref()), &env_token) {
            (Some(_), Some(_), Some(_)) | (None, _, _) => None,
            (Some(path), _, _) => credentials::read(path)?,
        };
        Ok(Self::merge(flags, env_url, env_token, env("SLIPWAY_CA").map(PathBuf::from), kept, path.unwrap_or_default()))
    }

    fn merge(
        flags: &Flags,
        env_url: Option<String>,
        env_token: Option<String>,
        env_ca: Option<PathBuf>,
        kept: Option<Credentials>,
        path: PathBuf,
    ) -> Self {
        let file = || Origin::File(path.clone());
        let url = Setting::first([
            (flags.url.clone(), Origin::Flag("--url")),
            (env_url, Origin::Env("SLIPWAY_URL")),
            (kept.as_ref().map(|kept| kept.url.clone()), file()),
        ]);
        // A token belongs to the server that gave it: what login kept for one server is never sent to another.
        let same = |kept: &&Credentials| url.value.as_deref().map(bare) == Some(bare(&kept.url));
        let kept = kept.as_ref().filter(same);
        let token =
            Setting::first([(env_token, Origin::Env("SLIPWAY_TOKEN")), (kept.map(|kept| kept.token.clone()), file())]);
        let ca = Setting::first([
            (flags.ca.clone().map(Ca::Path), Origin::Flag("--ca")),
            (env_ca.map(Ca::Path), Origin::Env("SLIPWAY_CA")),
            (kept.and_then(|kept| kept.ca.clone()).map(Ca::Pem), file()),
        ]);
        let user = kept.filter(|_| matches!(token.origin, Origin::File(_))).and_then(|kept| kept.user.clone());
        Self { url, token, ca, user }
    }

    /// The server's address, or how to name one.
    pub(crate) fn url(&self) -> Result<&str, Failure> {
        self.url.value.as_deref().ok_or_else(|| {
            Failure::usage("no server is named").next("'slipway login URL', or set SLIPWAY_URL and SLIPWAY_TOKEN")
        })
    }

    /// The token, or how to get one.
    pub(crate) fn token(&self) -> Result<&str, Failure> {
        let url = self.url()?;
        self.token.value.as_deref().ok_or_else(|| {
            Failure::new(exit::AUTH, format!("no token for {url}"))
                .next(format!("'slipway login {url}', or set SLIPWAY_TOKEN"))
        })
    }
}

fn bare(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{Flags, Origin, Settings};
    use crate::credentials::Credentials;
    use std::path::PathBuf;

    fn kept() -> Option<Credentials> {
        Some(Credentials {
            url: "https://a.lab".into(),
            user: Some("jan".into()),
            token: "slp_a".into(),
            expires_at: None,
            ca: Some("PEM".into()),
        })
    }

    fn merged(flag: Option<&str>, env: Option<&str>, token: Option<&str>, kept: Option<Credentials>) -> Settings {
        let flags = Flags { url: flag.map(str::to_owned), ca: None };
        Settings::merge(&flags, env.map(str::to_owned), token.map(str::to_owned), None, kept, PathBuf::from("/c"))
    }

    #[test]
    fn flag_goes_before_environment_before_file() {
        for (flag, env, token, url, origin, has_token) in [
            (None, None, None, "https://a.lab", Origin::File("/c".into()), Some("slp_a")),
            (None, Some("https://a.lab/"), None, "https://a.lab/", Origin::Env("SLIPWAY_URL"), Some("slp_a")),
            (Some("https://b.lab"), Some("https://a.lab"), None, "https://b.lab", Origin::Flag("--url"), None),
            (Some("https://b.lab"), None, Some("slp_b"), "https://b.lab", Origin::Flag("--url"), Some("slp_b")),
        ] {
            let settings = merged(flag, env, token, kept());
            assert_eq!(settings.url().unwrap(), url);
            assert_eq!(settings.url.origin, origin);
            assert_eq!(settings.token.value.as_deref(), has_token);
            // The CA of one server says nothing of another.
            assert_eq!(settings.ca.value.is_some(), !url.contains("b.lab"));
        }
        assert_eq!(merged(None, None, None, None).url().unwrap_err().exit, 2);
        assert_eq!(merged(Some("http://x"), None, None, None).token().unwrap_err().exit, 4);
    }
}
