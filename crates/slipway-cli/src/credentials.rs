//! What `login` and `context` keep: servers with their tokens and CAs, each under a name, in one file that only its owner may read.

use crate::failure::{Failure, exit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A server and what is needed to talk to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    /// The server's address. The token is never sent to another one.
    pub(crate) url: String,
    /// Whose token it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) user: Option<String>,
    /// The secret; none until somebody logs in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) token: Option<String>,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) expires_at: Option<jiff::Timestamp>,
    /// The certificates to trust, as PEM, kept here so that the file they came from may move.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ca: Option<String>,
}

/// The content of `credentials.toml`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Kept {
    /// The context that is used when nobody names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All of them by name.
    pub(crate) contexts: BTreeMap<String, Credentials>,
}

/// The name of the context that a file of the first shape becomes: one server and no names.
const UNNAMED: &str = "default";

impl Kept {
    /// The context of this name, or which ones there are.
    pub(crate) fn named(&self, name: &str) -> Result<&Credentials, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let near = crate::near::nearest(name, self.contexts.keys().map(String::as_str));
            let next = match (near, self.contexts.is_empty()) {
                (Some(near), _) => format!("did you mean '{near}'? 'slipway context ls' lists them"),
                (None, true) => format!("'slipway context add {name} URL' makes it, 'slipway login URL' too"),
                (None, false) => "'slipway context ls' lists them".into(),
            };
            Failure::new(exit::NOT_FOUND, format!("there is no context '{name}'")).next(next)
        })
    }

    /// A name for a server that nobody has named: its host, with a number if that is taken.
    pub(crate) fn name_for(&self, url: &str) -> String {
        if let Some((name, _)) = self.contexts.iter().find(|(_, kept)| same_server(&kept.url, url)) {
            return name.clone();
        }
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
        let host =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&*host, |(host, _)| host);
        let host: String = host.chars().filter(|c| name_char(*c)).collect();
        let host = if name_check(&host).is_ok() { host } else { "server".to_owned() };
        let numbered = (2..).map(|number| format!("{host}-{number}"));
        std::iter::once(host.clone()).chain(numbered).find(|name| !self.contexts.contains_key(name)).unwrap_or(host)
    }
}

fn name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
}

/// Refuses names that a shell or an eye could take for something else.
pub(crate) fn name_check(name: &str) -> Result<(), Failure> {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    match first && name.len() <= 63 && name.chars().all(name_char) {
        true => Ok(()),
        false => Err(Failure::usage(format!("'{}' is no name for a context", crate::human::clean(name)))
            .next("use a-z, 0-9, '.', '_' and '-', the first a letter or digit, like 'lab'")),
    }
}

/// Whether two addresses are those of one server.
pub(crate) fn same_server(one: &str, other: &str) -> bool {
    let bare = |url: &str| url.trim_end_matches('/').to_ascii_lowercase();
    bare(one) == bare(other)
}

/// `$XDG_CONFIG_HOME/slipway/credentials.toml`, else `~/.config/slipway/credentials.toml`; `None` without a home.
pub(crate) fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| Path::new(value).is_absolute()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("slipway").join("credentials.toml"))
}

/// The same for whoever cannot go on without it.
pub(crate) fn path_must() -> Result<PathBuf, Failure> {
    path().ok_or_else(|| {
        Failure::usage("neither XDG_CONFIG_HOME nor HOME is set").next("set HOME, or use SLIPWAY_URL and SLIPWAY_TOKEN")
    })
}

/// Reads the file; nothing is kept when there is none.
pub(crate) fn read(path: &Path) -> Result<Kept, Failure> {
    let text = match std::fs::read_to_string(path) {
        Err(why) if matches!(why.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Kept::default());
        }
        Err(why) => return Err(Failure::io("reading", path, &why)),
        Ok(text) => text,
    };
    let meta = std::fs::metadata(path).map_err(|why| Failure::io("reading", path, &why))?;
    if meta.mode() & 0o077 != 0 {
        return Err(Failure::new(
            exit::AUTH,
            format!("{} can be read by others (mode {:o})", path.display(), meta.mode() & 0o777),
        )
        .next(format!(
            "'chmod 600 {}'; if others may have seen it, 'slipway login' again and 'slipway token rm' the old one",
            path.display()
        )));
    }
    let read = toml::from_str::<Kept>(&text).ok().or_else(|| {
        // The first shape: one server without a name.
        let one = toml::from_str::<Credentials>(&text).ok()?;
        Some(Kept { current: Some(UNNAMED.into()), contexts: [(UNNAMED.to_owned(), one)].into() })
    });
    // The parser's own message quotes the line, which may hold the secret.
    read.ok_or_else(|| {
        Failure::usage(format!("reading {}: it is not what 'slipway login' writes", path.display()))
            .next(format!("move it away ('mv {0} {0}.old'), then 'slipway login URL' writes it anew", path.display()))
    })
}

/// Reads the file, changes what it keeps, and writes it; two commands at once take turns. A file that keeps nothing is removed.
pub(crate) fn change<T>(path: &Path, change: impl FnOnce(&mut Kept) -> Result<T, Failure>) -> Result<T, Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|why| Failure::io("making", folder, &why))?;
    // The folder itself is the lock, so that nothing is left behind.
    let lock = std::fs::File::open(folder).map_err(|why| Failure::io("opening", folder, &why))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|why| Failure::io("locking", folder, &why.into()))?;
    let mut kept = read(path)?;
    let answer = change(&mut kept)?;
    match kept.contexts.is_empty() {
        true => remove(path)?,
        false => write(path, &kept)?,
    }
    Ok(answer)
}

/// Writes the file beside its place with mode 0600, then moves it there, so that no moment shows half of it or shows it to others.
fn write(path: &Path, kept: &Kept) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let text = toml::to_string(kept).map_err(|why| {
        Failure::new(exit::FAILED, format!("writing {}: {why}", path.display()))
            .next("please report this; SLIPWAY_URL and SLIPWAY_TOKEN work without the file")
    })?;
    let draft = folder.join(format!(".credentials.{}", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let written =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.and_then(|()| std::fs::rename(&draft, path)).map_err(|why| {
        let _ = std::fs::remove_file(&draft);
        Failure::io("writing", path, &why)
    })
}

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("removing", path, &why)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Kept, change, name_check, read};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn lab() -> Credentials {
        Credentials {
            url: "https://slip.lab".into(),
            user: Some("jan".into()),
            token: Some("slp_x".into()),
            expires_at: None,
            ca: Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".into()),
        }
    }

    #[test]
    fn credentials_come_back_and_stay_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slipway/credentials.toml");
        assert!(read(&path).unwrap() == Kept::default());
        for name in ["lab", "lab", "home"] {
            let put = |kept: &mut Kept| {
                kept.contexts.insert(name.to_owned(), lab());
                Ok(())
            };
            change(&path, put).unwrap();
        }
        let kept = read(&path).unwrap();
        assert!(kept.contexts.len() == 2 && kept.contexts["lab"] == lab() && kept.current.is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("slipway")).unwrap().count(), 1);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).err().unwrap();
        assert!(refused.what.contains("640") && refused.next.unwrap().contains("chmod 600"));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let empty = |kept: &mut Kept| {
            kept.contexts.clear();
            Ok(())
        };
        change(&path, empty).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_read_shows_no_secret_and_the_first_shape_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.toml");
        let put = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        put("url = \"x\"\ntoken = slp_secret\n");
        let refused = read(&path).err().unwrap();
        assert!(!refused.rendered(crate::style::Paint::NONE).contains("slp_secret") && refused.next.is_some());
        put("url = \"https://slip.lab\"\ntoken = \"slp_x\"\n");
        let kept = read(&path).unwrap();
        assert_eq!(kept.current.as_deref(), Some("default"));
        assert_eq!(kept.contexts["default"].token.as_deref(), Some("slp_x"));
    }

    #[test]
    fn servers_get_names() {
        let mut kept = Kept::default();
        for (url, name) in [
            ("https://slip.lab", "slip.lab"),
            ("https://slip.lab/", "slip.lab"),
            ("https://slip.lab:8440", "slip.lab-2"),
            ("http://127.0.0.1:8440", "127.0.0.1"),
            ("http://[::1]:8440", "1"),
        ] {
            let given = kept.name_for(url);
            assert_eq!(given, name, "{url}");
            assert!(name_check(&given).is_ok());
            kept.contexts.entry(given).or_insert(Credentials { url: url.into(), ..lab() });
        }
        for name in ["", "-x", "a b", "A", "a/b", "a\u{1b}"] {
            assert!(name_check(name).is_err(), "{name:?}");
        }
        let missing = kept.named("slip.lap").err().unwrap();
        assert!(missing.exit == 3 && missing.next.unwrap().contains("'slip.lab'"));
    }
}
