//! Which server, with which token, trusting what: flag before environment before what `login` kept.

use crate::credentials::{self, Credentials, Kept, same_server};
use crate::failure::{Failure, exit};
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An option on the command line.
    Flag(&'static str),
    /// A variable of the environment.
    Env(&'static str),
    /// A context of the file that `login` writes.
    Kept {
        /// The context's name.
        context: String,
        /// The file.
        path: PathBuf,
    },
    /// Nobody said anything.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Kept { context, path } => write!(f, "context '{context}' in {}", path.display()),
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

    /// The same as text, to be kept.
    pub(crate) fn pem_text(&self) -> Result<String, Failure> {
        String::from_utf8(self.pem()?).map_err(|_| {
            Failure::usage("the CA file is not PEM text")
                .next("'openssl x509 -inform der -in FILE' turns a binary certificate into PEM")
        })
    }
}

/// The settings that every command but `serve` needs.
pub(crate) struct Settings {
    /// The server's address.
    pub(crate) url: Setting<String>,
    /// The token; never taken from the command line, which every user of the machine can read.
    pub(crate) token: Setting<String>,
    /// The certificates to trust instead of the system's.
    pub(crate) ca: Setting<Ca>,
    /// The kept context that is used.
    pub(crate) context: Setting<String>,
    /// Whose token it is, when the credentials say so.
    pub(crate) user: Option<String>,
    /// When the token ends, when the credentials say so.
    pub(crate) expires_at: Option<jiff::Timestamp>,
    /// Contexts are kept, but none is current.
    choice_open: bool,
}

/// What the command line says of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--url`.
    pub(crate) url: Option<String>,
    /// `--ca`.
    pub(crate) ca: Option<PathBuf>,
    /// `--context`.
    pub(crate) context: Option<String>,
}

/// What the environment says of the server.
#[derive(Clone, Debug, Default)]
struct Env {
    url: Option<String>,
    token: Option<String>,
    ca: Option<PathBuf>,
    context: Option<String>,
}

impl Env {
    fn read() -> Self {
        let read = |name: &str| {
            std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        Self {
            url: read("SLIPWAY_URL"),
            token: read("SLIPWAY_TOKEN"),
            ca: read("SLIPWAY_CA").map(PathBuf::from),
            context: read("SLIPWAY_CONTEXT"),
        }
    }
}

/// The context that `--context`, `SLIPWAY_CONTEXT` or the file itself names, whatever address is used.
pub(crate) fn context_named(flags: &Flags, kept: &Kept) -> Setting<String> {
    Setting::first([
        (flags.context.clone(), Origin::Flag("--context")),
        (Env::read().context, Origin::Env("SLIPWAY_CONTEXT")),
        (kept.current.clone(), Origin::Default),
    ])
}

impl Settings {
    /// Reads environment and credentials.
    pub(crate) fn load(flags: &Flags) -> Result<Self, Failure> {
        let path = credentials::path();
        let env = Env::read();
        // With server and token in the environment, a broken file must not stop a script that does not need it.
        let needless =
            flags.context.is_none() && flags.url.as_ref().or(env.url.as_ref()).is_some() && env.token.is_some();
        let kept = match &path {
            Some(path) if !needless => credentials::read(path)?,
            Some(_) | None => Kept::default(),
        };
        Self::merge(flags, env, &kept, path.unwrap_or_default())
    }

    fn merge(flags: &Flags, env: Env, kept: &Kept, path: PathBuf) -> Result<Self, Failure> {
        let context = context_choose(flags, &env, kept);
        let entry = context.value.as_deref().map(|name| kept.named(name)).transpose()?;
        let from_kept = || Origin::Kept { context: context.value.clone().unwrap_or_default(), path: path.clone() };
        let kept_url = (entry.map(|entry| entry.url.clone()), from_kept());
        let kept_token = (entry.and_then(|entry| entry.token.clone()), from_kept());
        let kept_ca = (entry.and_then(|entry| entry.ca.clone()).map(Ca::Pem), from_kept());
        let env_url = (env.url, Origin::Env("SLIPWAY_URL"));
        let env_token = (env.token, Origin::Env("SLIPWAY_TOKEN"));
        let env_ca = (env.ca.map(Ca::Path), Origin::Env("SLIPWAY_CA"));
        let flag_url = (flags.url.clone(), Origin::Flag("--url"));
        let flag_ca = (flags.ca.clone().map(Ca::Path), Origin::Flag("--ca"));
        // A context that is named on the command line is a flag: all that it has goes before the environment.
        let (url, token, ca) = match flags.context.is_some() {
            true => (
                Setting::first([kept_url]),
                Setting::first([kept_token, env_token]),
                Setting::first([flag_ca, kept_ca, env_ca]),
            ),
            false => (
                Setting::first([flag_url, env_url, kept_url]),
                Setting::first([env_token, kept_token]),
                Setting::first([flag_ca, env_ca, kept_ca]),
            ),
        };
        let owned = entry.filter(|_| matches!(token.origin, Origin::Kept { .. }));
        let user = owned.and_then(|entry| entry.user.clone());
        let expires_at = owned.and_then(|entry| entry.expires_at);
        let choice_open = context.value.is_none() && !kept.contexts.is_empty();
        Ok(Self { url, token, ca, context, user, expires_at, choice_open })
    }

    /// The server's address, or how to name one.
    pub(crate) fn url(&self) -> Result<&str, Failure> {
        self.url.value.as_deref().ok_or_else(|| {
            let next = match self.choice_open {
                true => "'slipway context ls' lists what is kept, 'slipway context use NAME' chooses",
                false => "'slipway login URL', or set SLIPWAY_URL and SLIPWAY_TOKEN",
            };
            Failure::usage("no server is named").next(next)
        })
    }

    /// The token, or how to get one.
    pub(crate) fn token(&self) -> Result<&str, Failure> {
        let url = self.url()?;
        self.token.value.as_deref().ok_or_else(|| {
            let next = format!("{}, or set SLIPWAY_TOKEN", self.login_hint());
            Failure::new(exit::AUTH, format!("no token for {url}")).next(next)
        })
    }

    /// The command that makes a new token for this server.
    pub(crate) fn login_hint(&self) -> String {
        match (&self.context.value, &self.url.value) {
            (Some(context), _) => format!("'slipway login --context {context}'"),
            (None, Some(url)) => format!("'slipway login {url}'"),
            (None, None) => "'slipway login URL'".into(),
        }
    }
}

/// Which kept context goes with what was said.
fn context_choose(flags: &Flags, env: &Env, kept: &Kept) -> Setting<String> {
    if flags.context.is_some() {
        return Setting { value: flags.context.clone(), origin: Origin::Flag("--context") };
    }
    let preferred = Setting::first([
        (env.context.clone(), Origin::Env("SLIPWAY_CONTEXT")),
        (kept.current.clone(), Origin::Default),
    ]);
    let Some(url) = flags.url.as_ref().or(env.url.as_ref()) else { return preferred };
    // A token belongs to the server that gave it: what is kept for one server is never sent to another.
    let fits = |entry: &Credentials| same_server(&entry.url, url);
    if preferred.value.as_ref().and_then(|name| kept.contexts.get(name)).is_some_and(fits) {
        return preferred;
    }
    let found = kept.contexts.iter().find(|(_, entry)| fits(entry)).map(|(name, _)| name.clone());
    Setting { value: found, origin: Origin::Default }
}

#[cfg(test)]
mod tests {
    use super::{Env, Flags, Origin, Settings};
    use crate::credentials::{Credentials, Kept};
    use std::path::PathBuf;

    fn entry(letter: &str) -> Credentials {
        Credentials {
            url: format!("https://{letter}.lab"),
            user: Some("jan".into()),
            token: (letter != "c").then(|| format!("slp_{letter}")),
            expires_at: None,
            ca: Some("PEM".into()),
        }
    }

    fn kept(letters: &[&str]) -> Kept {
        let contexts = letters.iter().map(|letter| ((*letter).to_owned(), entry(letter))).collect();
        Kept { current: letters.first().map(|letter| (*letter).to_owned()), contexts }
    }

    fn text(value: Option<&str>) -> Option<String> {
        value.map(str::to_owned)
    }

    /// Flags, then environment: address, context, token.
    type Said<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    fn merged(
        (flag, flag_context, url, context, token): Said,
        kept: &Kept,
    ) -> Result<Settings, crate::failure::Failure> {
        let flags = Flags { url: text(flag), ca: None, context: text(flag_context) };
        let env = Env { url: text(url), token: text(token), ca: None, context: text(context) };
        Settings::merge(&flags, env, kept, PathBuf::from("/c"))
    }

    #[test]
    fn flag_goes_before_environment_before_file() {
        let kept = kept(&["a", "b", "c"]);
        let origin = |context: &str| Origin::Kept { context: context.into(), path: "/c".into() };
        for (said, url, from, token) in [
            ((None, None, None, None, None), "https://a.lab", origin("a"), Some("slp_a")),
            (
                (None, None, Some("https://a.lab/"), None, None),
                "https://a.lab/",
                Origin::Env("SLIPWAY_URL"),
                Some("slp_a"),
            ),
            (
                (Some("https://x.lab"), None, Some("https://a.lab"), None, None),
                "https://x.lab",
                Origin::Flag("--url"),
                None,
            ),
            (
                (Some("https://x.lab"), None, None, None, Some("slp_x")),
                "https://x.lab",
                Origin::Flag("--url"),
                Some("slp_x"),
            ),
            // Another context's token is found by its server.
            ((Some("https://b.lab"), None, None, None, None), "https://b.lab", Origin::Flag("--url"), Some("slp_b")),
            ((None, None, None, Some("b"), None), "https://b.lab", origin("b"), Some("slp_b")),
            ((None, None, None, Some("b"), Some("slp_x")), "https://b.lab", origin("b"), Some("slp_x")),
            (
                (None, None, Some("https://a.lab"), Some("b"), None),
                "https://a.lab",
                Origin::Env("SLIPWAY_URL"),
                Some("slp_a"),
            ),
            // A context on the command line goes before all of the environment.
            (
                (None, Some("b"), Some("https://a.lab"), Some("a"), Some("slp_x")),
                "https://b.lab",
                origin("b"),
                Some("slp_b"),
            ),
            ((None, Some("c"), None, None, Some("slp_x")), "https://c.lab", origin("c"), Some("slp_x")),
        ] {
            let settings = merged(said, &kept).unwrap();
            assert_eq!(settings.url().unwrap(), url, "{said:?}");
            assert_eq!(settings.url.origin, from, "{said:?}");
            assert_eq!(settings.token.value.as_deref(), token, "{said:?}");
            // The CA of one server says nothing of another.
            assert_eq!(settings.ca.value.is_some(), !url.contains("x.lab"), "{said:?}");
            assert_eq!(settings.user.is_some(), token.is_some_and(|token| token != "slp_x"), "{said:?}");
        }
    }

    #[test]
    fn what_is_missing_names_the_command_that_helps() {
        let nothing = (None, None, None, None, None);
        for (said, kept, code, next) in [
            (nothing, kept(&[]), 2, "slipway login URL"),
            (nothing, Kept { current: None, ..kept(&["a"]) }, 2, "slipway context use"),
            ((Some("http://x"), None, None, None, None), kept(&["a"]), 4, "slipway login http://x"),
            (nothing, kept(&["c"]), 4, "slipway login --context c"),
            ((None, Some("aa"), None, None, None), kept(&["a"]), 3, "slipway context ls"),
            ((None, Some("lab"), None, None, None), kept(&[]), 3, "slipway context add lab URL"),
        ] {
            let failure = merged(said, &kept).and_then(|settings| settings.token().map(drop)).unwrap_err();
            assert_eq!(failure.exit, code, "{said:?}: {failure:?}");
            assert!(failure.next.as_deref().unwrap().contains(next), "{said:?}: {failure:?}");
        }
    }
}
