//! What `login` keeps: the server, the token and the CA, in a file that only its owner may read.

use crate::failure::{Failure, exit};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The content of `credentials.toml`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    /// The server's address. The token is never sent to another one.
    pub(crate) url: String,
    /// Whose token it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) user: Option<String>,
    /// The secret.
    pub(crate) token: String,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) expires_at: Option<jiff::Timestamp>,
    /// The certificates to trust, as PEM, kept here so that the file they came from may move.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ca: Option<String>,
}

/// `$XDG_CONFIG_HOME/slipway/credentials.toml`, else `~/.config/slipway/credentials.toml`; `None` without a home.
pub(crate) fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| Path::new(value).is_absolute()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("slipway").join("credentials.toml"))
}

/// Reads the file; `Ok(None)` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Credentials>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Err(why) if matches!(why.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
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
    // The parser's own message quotes the line, which may hold the secret.
    toml::from_str(&text).map(Some).map_err(|_| {
        Failure::usage(format!("reading {}: it is not what 'slipway login' writes", path.display()))
            .next("'slipway login URL' writes it anew")
    })
}

/// Writes the file beside its place with mode 0600, then moves it there, so that no moment shows half of it or shows it to others.
pub(crate) fn write(path: &Path, credentials: &Credentials) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|why| Failure::io("making", folder, &why))?;
    let text = toml::to_string(credentials)
        .map_err(|why| Failure::new(exit::FAILED, format!("writing {}: {why}", path.display())))?;
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

/// Removes the file; false when there was none.
pub(crate) fn remove(path: &Path) -> Result<bool, Failure> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(Failure::io("removing", path, &why)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Credentials, read, remove, write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn credentials_come_back_and_stay_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slipway/credentials.toml");
        assert!(read(&path).unwrap().is_none());
        let kept = Credentials {
            url: "https://slip.lab".into(),
            user: Some("jan".into()),
            token: "slp_x".into(),
            expires_at: None,
            ca: Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".into()),
        };
        write(&path, &kept).unwrap();
        write(&path, &kept).unwrap();
        assert!(read(&path).unwrap().unwrap() == kept);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("slipway")).unwrap().count(), 1);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).err().unwrap();
        assert!(refused.what.contains("640") && refused.next.unwrap().contains("chmod 600"));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "url = \"x\"\ntoken = slp_secret\n").unwrap();
        let refused = read(&path).err().unwrap();
        assert!(!refused.rendered().contains("slp_secret"));
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }
}
