//! What a kernel and its processes have of ours: taken before and after, so that a test can say that nothing was left, and what, on what,
//! if something was. It asks the kernel itself and believes nothing that the service says.

mod kernel;
mod mark;
mod process;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use process::Figures;

/// How long what was asked to go may take to be gone: the kernel lets go of devices and namespaces a moment after their last user.
const SETTLE: Duration = Duration::from_secs(5);

/// What of a machine is looked at. Others may work on it at the same time, so a test looks only at what bears its names.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// What has one of these in its name, or in what it stands on, is in; everything, if there are none.
    words: Vec<String>,
    /// Folders whose files are counted too.
    folders: Vec<PathBuf>,
}

impl Scope {
    /// Everything: for a guest that nobody else works on.
    pub fn machine() -> Self {
        Self::default()
    }

    /// What was made from files below a folder, or in it; the folder's own files are not counted.
    pub fn below(top: &Path) -> Self {
        let top = top.canonicalize().unwrap_or_else(|_| top.to_owned());
        Self { words: vec![top.display().to_string()], folders: Vec::new() }
    }

    /// Also what has this in its name, such as a service's control groups.
    pub fn named(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    /// Also the files in a folder, as deep as they go without crossing a mount.
    pub fn files_in(mut self, folder: &Path) -> Self {
        self.folders.push(folder.to_owned());
        self
    }

    fn has(&self, texts: &[&str]) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| texts.iter().any(|text| text.contains(word.as_str())))
    }
}

/// Something that a machine has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    /// "loop device", "mount", "process" …
    pub kind: &'static str,
    /// Which.
    pub name: String,
    /// What it stands on, or what it is.
    pub on: String,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.name, self.on)
    }
}

/// All that was in a scope at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<Thing>);

/// How two of them differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What is there only now.
    pub leaked: Vec<Thing>,
    /// What is there no more.
    pub gone: Vec<Thing>,
}

impl Census {
    /// Looks at all of it. What vanishes meanwhile is left out.
    pub fn take(scope: &Scope) -> Self {
        let mut things = BTreeSet::new();
        let mounts = kernel::mounts(scope, &mut things);
        kernel::loops(scope, &mut things);
        kernel::networks(scope, &mut things);
        kernel::groups(scope, &mut things);
        kernel::keys(scope, &mut things);
        kernel::files(scope, &mounts, &mut things);
        process::processes(scope, &mut things);
        Self(things)
    }

    /// What was found.
    pub fn things(&self) -> impl Iterator<Item = &Thing> {
        self.0.iter()
    }

    /// What has changed since `before`.
    pub fn diff(&self, before: &Self) -> Difference {
        Difference {
            leaked: self.0.difference(&before.0).cloned().collect(),
            gone: before.0.difference(&self.0).cloned().collect(),
        }
    }
}

impl Difference {
    /// Nothing came and nothing went.
    pub fn is_empty(&self) -> bool {
        self.leaked.is_empty() && self.gone.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for thing in &self.leaked {
            writeln!(f, "left: {thing}")?;
        }
        for thing in &self.gone {
            writeln!(f, "taken away: {thing}")?;
        }
        Ok(())
    }
}

/// Holds a census until the end of a test, and fails the test if something is left, or something else was taken away, when it is dropped.
#[derive(Debug)]
pub struct CensusGuard {
    scope: Scope,
    before: Census,
}

impl CensusGuard {
    /// Takes the first census.
    pub fn new(scope: Scope) -> Self {
        let before = Census::take(&scope);
        Self { scope, before }
    }

    /// How it differs now, after what goes a moment later has had time to go.
    pub fn difference(&self) -> Difference {
        let begun = Instant::now();
        loop {
            let difference = Census::take(&self.scope).diff(&self.before);
            if difference.is_empty() || begun.elapsed() > SETTLE {
                return difference;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails if it differs.
    ///
    /// # Panics
    /// With all that was left or taken away.
    #[track_caller]
    pub fn check(&self) {
        let difference = self.difference();
        assert!(difference.is_empty(), "the census is not what it was:\n{difference}");
    }
}

impl Drop for CensusGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Census, CensusGuard, Scope};
    use std::process::Stdio;

    #[test]
    fn what_is_left_is_named_and_what_is_not_ours_is_not() {
        let top = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let guard = CensusGuard::new(Scope::below(top.path()).files_in(top.path()));
        std::fs::write(elsewhere.path().join("x"), "").unwrap();
        guard.check();
        let file = top.path().join("deep/left");
        std::fs::create_dir(top.path().join("deep")).unwrap();
        std::fs::write(&file, "").unwrap();
        let mut reader = std::process::Command::new("sh");
        let mut reader = reader.args(["-c", "read x; :"]).arg(top.path()).stdin(Stdio::piped()).spawn().unwrap();
        let difference = Census::take(&guard.scope).diff(&guard.before);
        let text = difference.to_string();
        assert!(text.contains(&format!("left: file {}", file.display())), "{text}");
        assert!(text.contains(&format!("left: process {}", reader.id())), "{text}");
        assert_eq!((difference.leaked.len(), difference.gone.len()), (3, 0), "{text}");
        drop(reader.stdin.take());
        reader.wait().unwrap();
        std::fs::remove_dir_all(top.path().join("deep")).unwrap();
        guard.check();
    }
}
