//! Files with what proves this node to servers. They lie in one folder, root's alone; requests say their names, and nothing says their content.

use super::io_error;
use crate::refusal::DriverError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// More is no token.
const TOKEN_MAX: usize = 4096;
/// More is neither key nor certificates.
const TEXT_MAX: u64 = 256 << 10;
const STEP: &str = "credentials";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Credentials(PathBuf);

impl Credentials {
    pub(super) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The token in a file; empty for no name. `field` is what the request calls it.
    pub(super) fn token(&self, field: &str, name: &str) -> Result<String, DriverError> {
        let text = self.text(field, name)?;
        let token = text.trim();
        let wrong = token.is_empty() || token.len() > TOKEN_MAX || token.chars().any(|c| c.is_control() || c == ' ');
        if wrong && !name.is_empty() {
            return Err(DriverError::request(STEP, format!("{field} '{name}' does not hold a token")));
        }
        Ok(token.to_owned())
    }

    /// What is in a file; empty for no name.
    ///
    /// # Errors
    /// 400 when it is not there, no file of root's alone, or no text.
    pub(super) fn text(&self, field: &str, name: &str) -> Result<String, DriverError> {
        if name.is_empty() {
            return Ok(String::new());
        }
        let refused = |text: String| DriverError::request(STEP, format!("{field} '{name}' {text}"));
        if name.contains(['/', '\0']) || matches!(name, "." | "..") || name.len() > 255 {
            let text = format!("{field} is the name of a file in the service's credentials folder, without a slash");
            return Err(DriverError::request(STEP, text));
        }
        let path = self.0.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        let file = File::from(opened.map_err(|errno| match errno {
            Errno::NOENT => refused(format!("is not there: put it into {}", path.display())),
            Errno::LOOP => refused("is a link, and must be a file".into()),
            errno => super::system("open", &path, errno),
        })?);
        let facts = file.metadata().map_err(|error| io_error("stat", &path, &error))?;
        if !facts.is_file() {
            return Err(refused("is no regular file".into()));
        }
        if facts.uid() != 0 || facts.permissions().mode() & 0o077 != 0 {
            let text = format!("may be read by others than root: chown root {0}; chmod 600 {0}", path.display());
            return Err(refused(text));
        }
        let mut text = String::new();
        let read = file.take(TEXT_MAX + 1).read_to_string(&mut text);
        match read {
            Ok(len) if len as u64 <= TEXT_MAX => Ok(text),
            Ok(_) => Err(refused(format!("has more than {TEXT_MAX} bytes"))),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(refused("is no text".into())),
            Err(error) => Err(io_error("read", &path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Credentials;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    #[ignore = "needs root"]
    fn root_tokens_are_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_owned();
        let credentials = Credentials::at(&dir);
        for (name, mode, text) in [
            ("good", 0o600, "slp_secret\n"),
            ("open", 0o640, "slp_secret"),
            ("empty", 0o600, "\n"),
            ("two", 0o600, "a b"),
        ] {
            fs::write(dir.join(name), text).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::write(dir.join("long"), "x".repeat(5000)).unwrap();
        fs::set_permissions(dir.join("long"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.join("theirs"), "slp_secret").unwrap();
        fs::set_permissions(dir.join("theirs"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(dir.join("theirs"), Some(1000), None).unwrap();
        symlink(dir.join("good"), dir.join("link")).unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        assert_eq!(credentials.token("slipway.token_ref", "good").unwrap(), "slp_secret");
        assert_eq!(credentials.token("slipway.token_ref", "").unwrap(), "");
        for (name, word) in [
            ("open", "chmod 600"),
            ("theirs", "chown root"),
            ("empty", "does not hold a token"),
            ("two", "does not hold a token"),
            ("long", "does not hold a token"),
            ("link", "is a link"),
            ("dir", "no regular file"),
            ("none", "is not there"),
            ("../x", "without a slash"),
            ("/etc/shadow", "without a slash"),
            ("..", "without a slash"),
        ] {
            let error = credentials.token("slipway.token_ref", name).unwrap_err();
            assert!(error.status == 400 && error.error.text.contains(word), "{name}: {error}");
            assert!(!error.error.text.contains("slp_secret"));
        }
    }
}
