//! What outlives the service: every object, as lines in two files.
//!
//! `objects.log` in the run directory has each change before (an intent) and after the kernel's; it dies with the kernel, as what it
//! speaks of does. `objects.log` in the state directory has each object once, on stable storage before the kernel is asked for it, and
//! the number that was given last. A line that was cut by a crash is the last one, and is left out.

use crate::crash::crash_point;
use crate::object::{Entry, Phase, Proof};
use serde::{Deserialize, Serialize};
use slipway_api::node::{ObjectId, StepError};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The step of what a restart of the node took.
pub(crate) const RESTARTED: &str = "restart";
const NAME: &str = "objects.log";
/// A file of more lines than this, and of more than twice the objects, is written anew at the next start.
const LINES_FEW: usize = 256;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The boot that the following lines belong to.
    Boot(String),
    /// The number that was given last.
    Last(ObjectId),
    /// An object as it is now.
    Set(Box<Entry>),
    /// An object that is no more.
    Gone(ObjectId),
}

/// What was read at a start.
#[derive(Debug, Default)]
pub struct Restored {
    /// The objects. After a reboot none of them is there any more, and they say so.
    pub entries: Vec<Entry>,
    /// The number that was given last.
    pub last_id: ObjectId,
    /// The kernel is another one than the objects were made in.
    pub rebooted: bool,
}

/// The two files, open for more.
#[derive(Debug)]
pub struct Journal {
    run: File,
    state: File,
}

impl Journal {
    /// Opens both, reads what they have, and writes them anew without what is past.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(run_dir: &Path, state_dir: &Path, boot_id: &str) -> io::Result<(Self, Restored)> {
        let (state_file, run_file) = (state_dir.join(NAME), run_dir.join(NAME));
        let kept = read(&state_file)?;
        let ran = read(&run_file)?;
        let same_boot = ran.boot.as_deref() == Some(boot_id);
        let last_id = kept.last.max(ran.last);
        // What the run directory knows is newer; what only the state directory has was never begun, or is of another boot.
        let mut entries = kept.entries;
        if same_boot {
            entries.retain(|id, _| ran.entries.contains_key(id) || !ran.gone.contains(id));
            entries.extend(ran.entries);
        } else {
            for entry in entries.values_mut() {
                entry.proof = None::<Proof>;
                entry.phase = Phase::Lost(rebooted());
            }
        }
        let restored =
            Restored { last_id, rebooted: !same_boot && !entries.is_empty(), entries: entries.into_values().collect() };
        let few = |lines: usize| lines <= LINES_FEW || lines <= 2 * restored.entries.len();
        let run = match same_boot && few(ran.lines) {
            true => append(&run_file)?,
            false => write_anew(run_dir, &restored, Some(boot_id))?,
        };
        let state = match few(kept.lines) && kept.lines > 0 {
            true => append(&state_file)?,
            false => write_anew(state_dir, &restored, None)?,
        };
        Ok((Self { run, state }, restored))
    }

    /// Keeps new objects before the kernel is asked for them.
    ///
    /// # Errors
    /// When they are not on stable storage; then nothing may be made.
    pub fn intend<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry> + Clone,
        last_id: ObjectId,
    ) -> io::Result<()> {
        let lines = || entries.clone().map(|entry| Line::Set(Box::new(entry.clone())));
        crash_point("journal.intend.before");
        put(&mut self.run, lines())?;
        crash_point("journal.intend.run");
        put(&mut self.state, std::iter::once(Line::Last(last_id)).chain(lines()))?;
        crash_point("journal.intend.state");
        self.state.sync_data()?;
        crash_point("journal.intend.after");
        Ok(())
    }

    /// Keeps how an object stands now.
    ///
    /// # Errors
    /// When it could not be written; the kernel is asked at the next start in any case.
    pub fn note(&mut self, entry: &Entry) -> io::Result<()> {
        crash_point("journal.note.before");
        put(&mut self.run, std::iter::once(Line::Set(Box::new(entry.clone()))))?;
        crash_point("journal.note.after");
        Ok(())
    }

    /// Forgets objects that are gone. [`settle`](Self::settle) makes that hold through a crash of the node; without it, what nobody claims is
    /// found unclaimed again, and goes again.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn forget(&mut self, ids: &[ObjectId]) -> io::Result<()> {
        crash_point("journal.forget.before");
        put(&mut self.run, ids.iter().map(|id| Line::Gone(*id)))?;
        crash_point("journal.forget.run");
        put(&mut self.state, ids.iter().map(|id| Line::Gone(*id)))?;
        crash_point("journal.forget.after");
        Ok(())
    }

    /// Waits until all that was kept and forgotten is on stable storage.
    ///
    /// # Errors
    /// When it is not.
    pub fn settle(&mut self) -> io::Result<()> {
        self.state.sync_data()
    }
}

fn rebooted() -> StepError {
    let text = "the node was restarted since; delete it, or make it again".to_owned();
    StepError { step: RESTARTED.into(), errno: None, text }
}

#[derive(Default)]
struct Read {
    boot: Option<String>,
    last: ObjectId,
    entries: BTreeMap<ObjectId, Entry>,
    gone: std::collections::BTreeSet<ObjectId>,
    lines: usize,
}

fn read(path: &Path) -> io::Result<Read> {
    let mut read = Read::default();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(read),
        Err(error) => return Err(error),
    };
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Ok(parsed) = serde_json::from_slice::<Line>(line) else {
            // The last line may be cut; more behind it would mean that something else wrote here.
            if line.ends_with(b"\n") {
                let text = format!("{}: line {} is not of this service", path.display(), read.lines + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            break;
        };
        read.lines += 1;
        match parsed {
            Line::Boot(boot) => read.boot = Some(boot),
            Line::Last(last) => read.last = read.last.max(last),
            Line::Set(entry) => {
                read.last = read.last.max(entry.id);
                read.gone.remove(&entry.id);
                read.entries.insert(entry.id, *entry);
            }
            Line::Gone(id) => {
                read.entries.remove(&id);
                read.gone.insert(id);
            }
        }
    }
    Ok(read)
}

/// Cuts off what a crash left of a line, so that the next one begins on its own.
fn append(path: &Path) -> io::Result<File> {
    let text = std::fs::read(path)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let file = OpenOptions::new().append(true).open(path)?;
    if whole < text.len() {
        file.set_len(whole as u64)?;
    }
    Ok(file)
}

fn write_anew(dir: &Path, restored: &Restored, boot_id: Option<&str>) -> io::Result<File> {
    let part: PathBuf = dir.join(format!("{NAME}.new"));
    crash_point("journal.anew.before");
    let mut file = File::create(&part)?;
    let head = boot_id.map(|boot| Line::Boot(boot.to_owned())).into_iter();
    let entries = restored.entries.iter().map(|entry| Line::Set(Box::new(entry.clone())));
    put(&mut file, head.chain([Line::Last(restored.last_id)]).chain(entries))?;
    file.sync_data()?;
    crash_point("journal.anew.written");
    std::fs::rename(&part, dir.join(NAME))?;
    File::open(dir)?.sync_all()?;
    crash_point("journal.anew.after");
    Ok(file)
}

fn put(file: &mut File, lines: impl Iterator<Item = Line>) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::Journal;
    use crate::{Draft, Phase, Table};
    use std::io::Write;

    #[test]
    fn objects_come_back_and_a_cut_line_is_left_out() {
        let (run, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |boot: &str| Journal::open(run.path(), state.path(), boot);
        let (mut journal, restored) = open("a").unwrap();
        assert!(restored.entries.is_empty() && !restored.rebooted);
        let mut table = Table::default();
        let bind = r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#;
        for _ in 0..3 {
            let draft = Draft::mount(serde_json::from_str(bind).unwrap()).unwrap();
            let ids = table.admit(draft, 0).unwrap();
            journal.intend(ids.iter().map(|id| table.get(*id).unwrap()), table.last_id()).unwrap();
            table.made(ids[0], None);
            journal.note(table.get(ids[0]).unwrap()).unwrap();
        }
        table.removed(3);
        journal.forget(&[3]).unwrap();
        drop(journal);
        std::fs::OpenOptions::new()
            .append(true)
            .open(run.path().join("objects.log"))
            .unwrap()
            .write_all(br#"{"set":{"id":1,"#)
            .unwrap();
        let (journal, restored) = open("a").unwrap();
        assert_eq!(restored.entries, table.iter().cloned().collect::<Vec<_>>());
        assert_eq!((restored.last_id, restored.rebooted), (3, false));
        drop(journal);
        // Another kernel: what there was is said to be lost, and numbers go on.
        std::fs::remove_file(run.path().join("objects.log")).unwrap();
        for _ in 0..2 {
            let (_, restored) = open("b").unwrap();
            assert_eq!(restored.last_id, 3);
            assert!(restored.entries.iter().all(|entry| matches!(entry.phase, Phase::Lost(_))));
            assert_eq!(restored.entries.len(), 2);
        }
        std::fs::write(run.path().join("objects.log"), "not ours\n").unwrap();
        assert!(open("b").unwrap_err().to_string().contains("line 1 is not of this service"));
    }
}
