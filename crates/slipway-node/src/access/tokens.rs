//! Bearer tokens: given out once, kept as a hash, for a role and a time.

use super::{Caller, Role};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What every token of a node begins with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "sln_";
/// Random bytes in a token.
const RANDOM: usize = 32;
/// Days that a token lives at most.
pub(super) const DAYS_MAX: u64 = 365;

/// A token as it is given out.
pub struct Token(String);

impl Token {
    /// The text itself, for the one line that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Whose it is, for the log; unique.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// BLAKE3 of it, in hex. What is as random as a token needs no slow hash.
    hash: String,
    /// From when on it is refused, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// The tokens of a node: `tokens.json` in its state directory, which only root reads. It is read at each use, so that a token that
/// was removed is refused at once.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// In this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("tokens.json"))
    }

    /// All that are kept, the expired ones too.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn rows(&self) -> io::Result<Vec<TokenRow>> {
        match fs::read(&self.0) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("{}: {error}", self.0.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", self.0.display()))),
        }
    }

    /// Makes a token. Its text is nowhere but in the answer.
    ///
    /// # Errors
    /// For a name that is taken or not fit, a time that is too long, or when the file cannot be written.
    pub fn add(&self, name: &str, role: Role, days: u64, now_ms: i64) -> io::Result<Token> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        if name.is_empty()
            || name.len() > 64
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            return Err(wrong(format!(
                "the name '{}' is not 1 to 64 letters, digits, '.', '_' and '-'",
                name.escape_debug()
            )));
        }
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(wrong(format!("a token lives for 1 to {DAYS_MAX} days, not {days}")));
        }
        let lock = self.lock()?;
        let mut rows = self.rows()?;
        rows.retain(|row| row.expires_at_ms > now_ms);
        if rows.iter().any(|row| row.name == name) {
            return Err(wrong(format!("there is a token '{name}' already; remove it first, or choose another name")));
        }
        let mut random = [0; RANDOM];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let token = Token(random.iter().fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}")));
        let hash = hash_of(token.reveal());
        let expires_at_ms = now_ms + days as i64 * 24 * 60 * 60 * 1000;
        rows.push(TokenRow { name: name.to_owned(), role, hash, expires_at_ms });
        self.write(&rows)?;
        drop(lock);
        Ok(token)
    }

    /// Takes a token back; false when there is none of that name.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let lock = self.lock()?;
        let mut rows = self.rows()?;
        let before = rows.len();
        rows.retain(|row| row.name != name);
        if rows.len() < before {
            self.write(&rows)?;
        }
        drop(lock);
        Ok(rows.len() < before)
    }

    /// Who shows this token, if it is one of ours and has not expired.
    ///
    /// # Errors
    /// When the file cannot be read; then nobody is let in.
    pub fn caller(&self, shown: &str, now_ms: i64) -> io::Result<Option<Caller>> {
        // How far two hashes agree says nothing about the token.
        let hash = hash_of(shown);
        let row = self.rows()?.into_iter().find(|row| row.hash == hash && row.expires_at_ms > now_ms);
        Ok(row.map(|row| Caller { name: format!("token {}", row.name), role: row.role, is_local_root: false }))
    }

    fn lock(&self) -> io::Result<File> {
        let file =
            File::options().create(true).truncate(false).write(true).mode(0o600).open(self.0.with_extension("lock"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    }

    fn write(&self, rows: &[TokenRow]) -> io::Result<()> {
        let next = self.0.with_extension("next");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec_pretty(rows)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.0)?;
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        File::open(dir)?.sync_all()
    }
}

fn hash_of(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::{DAYS_MAX, Role, TokenFile};

    #[test]
    fn a_token_opens_until_it_expires_or_is_removed_and_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::new(dir.path());
        assert_eq!(file.caller("sln_", 0).unwrap(), None);
        let token = file.add("farm", Role::Run, 1, 1000).unwrap();
        let other = file.add("eye", Role::Read, DAYS_MAX, 1000).unwrap();
        let kept = std::fs::read_to_string(dir.path().join("tokens.json")).unwrap();
        assert!(!kept.contains(token.reveal()) && !kept.contains(&token.reveal()[4..]));
        let caller = file.caller(token.reveal(), 1001).unwrap().unwrap();
        assert_eq!((caller.name.as_str(), caller.role, caller.is_local_root), ("token farm", Role::Run, false));
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(file.caller(token.reveal(), 1000 + day).unwrap(), None);
        assert_eq!(file.caller(&token.reveal()[..60], 1001).unwrap(), None);
        assert!(file.remove("eye").unwrap() && !file.remove("eye").unwrap());
        assert_eq!(file.caller(other.reveal(), 1001).unwrap(), None);
        assert_eq!(format!("{token:?}"), "Token(…)");
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata(dir.path().join("tokens.json")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn names_are_unique_and_times_have_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::new(dir.path());
        file.add("a", Role::Read, 1, 0).unwrap();
        assert!(file.add("a", Role::Read, 1, 0).unwrap_err().to_string().contains("already"));
        // An expired one is forgotten, and its name is free.
        file.add("a", Role::Read, 1, i64::from(u32::MAX)).unwrap();
        for (name, days) in [("", 1), ("a/b", 1), ("b", 0), ("b", DAYS_MAX + 1)] {
            assert!(file.add(name, Role::Read, days, 0).is_err(), "{name} {days}");
        }
    }
}
