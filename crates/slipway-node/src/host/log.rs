//! A container's log as its readers see it: both files as one, from the start or from the last lines on, and on while it grows.

use super::{Host, Which};
use crate::refusal::{DriverError, Refusal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes that are looked at at once for the ends of lines.
const BLOCK: u64 = 16 << 10;

/// Reads a log.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    /// The file that is read now, and the newer one after it.
    files: Vec<File>,
    changes: OwnedFd,
}

impl Host {
    /// The log of a container, from its start, or with its last `tail` lines only.
    ///
    /// # Errors
    /// 404; 500 when it cannot be read.
    pub fn log(&self, which: &Which, tail: Option<u64>) -> Result<LogReader, Refusal> {
        let id = self.container(which)?.id;
        let path = self.runtime.files(id).log();
        let opened = LogReader::open(&path, tail);
        opened.map_err(|error| DriverError::other("log", format!("{}: {error}", path.display())).into())
    }
}

impl LogReader {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        if let Some(dir) = path.parent() {
            let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE_SELF;
            inotify::add_watch(&changes, dir, flags)?;
        }
        let mut files = files_open(path)?;
        if let Some(lines) = tail {
            files = tail_seek(files, lines)?;
        }
        Ok(Self { path: path.to_owned(), files, changes })
    }

    /// Reads on. Waits for more for at most `wait` when there is none yet; 0 then. `None` when the container and its log are gone. Blocks.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<Option<usize>> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.changes_forget();
            let Some(file) = self.files.first_mut() else { return Ok(None) };
            match file.read(buffer)? {
                0 => {}
                len => return Ok(Some(len)),
            }
            if self.files.len() > 1 {
                self.files.remove(0);
                continue;
            }
            match File::open(&self.path) {
                // Put aside: to its very end first, since it may have grown before that.
                Ok(newer) if !same(&newer.metadata()?, &self.files[0].metadata()?) => self.files.push(newer),
                Ok(_) if left.is_zero() => return Ok(Some(0)),
                Ok(_) => self.change_wait(left),
                Err(error) if error.kind() == ErrorKind::NotFound => match self.path.parent().is_some_and(Path::exists)
                {
                    // Between two files.
                    true if !left.is_zero() => std::thread::sleep(Duration::from_millis(1)),
                    true => return Ok(Some(0)),
                    false => return Ok(None),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn changes_forget(&self) {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut reader = inotify::Reader::new(&self.changes, &mut buffer);
        while reader.next().is_ok() {}
    }

    fn change_wait(&self, wait: Duration) {
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let _ = poll(&mut [PollFd::new(&self.changes, PollFlags::IN)], Some(&wait));
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The file that was put aside, if there is one, and the one that is written.
fn files_open(path: &Path) -> io::Result<Vec<File>> {
    let mut aside = path.to_owned().into_os_string();
    aside.push(".1");
    loop {
        let now = File::open(path)?;
        let old = match File::open(&aside) {
            Ok(old) => old,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![now]),
            Err(error) => return Err(error),
        };
        // Else it was put aside in this very moment.
        if !same(&old.metadata()?, &now.metadata()?) {
            return Ok(vec![old, now]);
        }
    }
}

/// Goes to where the last lines begin. A last line without its end is one too.
fn tail_seek(mut files: Vec<File>, lines: u64) -> io::Result<Vec<File>> {
    let (mut is_last, mut found, mut block) = (true, 0, Vec::new());
    for n in (0..files.len()).rev() {
        let file = &mut files[n];
        let mut at = file.metadata()?.len();
        if lines == 0 {
            file.seek(SeekFrom::Start(at))?;
            files.drain(..n);
            return Ok(files);
        }
        while at > 0 {
            let from = at.saturating_sub(BLOCK);
            file.seek(SeekFrom::Start(from))?;
            block.clear();
            file.take(at - from).read_to_end(&mut block)?;
            for (offset, byte) in block.iter().enumerate().rev() {
                // The very last one ends a line, and begins none.
                if *byte == b'\n' && !is_last {
                    found += 1;
                    if found == lines {
                        file.seek(SeekFrom::Start(from + offset as u64 + 1))?;
                        files.drain(..n);
                        return Ok(files);
                    }
                }
                is_last = false;
            }
            at = from;
        }
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::LogReader;
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    fn all(reader: &mut LogReader) -> String {
        let mut text = Vec::new();
        let mut buffer = [0; 7];
        while let Some(len @ 1..) = reader.read(&mut buffer, Duration::ZERO).unwrap() {
            text.extend_from_slice(&buffer[..len]);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn both_files_are_one_and_the_last_lines_are_found_over_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (old, now, tail, said) in [
            (None, "", None, ""),
            (None, "", Some(3), ""),
            (None, "a\nb\n", None, "a\nb\n"),
            (None, "a\nb\n", Some(0), ""),
            (None, "a\nb\n", Some(1), "b\n"),
            (None, "a\nb\nc", Some(1), "c"),
            (None, "a\nb\nc", Some(2), "b\nc"),
            (None, "a\n\n\n", Some(2), "\n\n"),
            (Some("a\nb\n"), "c\nd\n", None, "a\nb\nc\nd\n"),
            (Some("a\nb\n"), "c\nd\n", Some(2), "c\nd\n"),
            (Some("a\nb\n"), "c\nd\n", Some(3), "b\nc\nd\n"),
            (Some("a\nb\nc"), "d\ne\n", Some(2), "cd\ne\n"),
            (Some("a\nb\n"), "c\nd\n", Some(9), "a\nb\nc\nd\n"),
        ] {
            let _ = fs::remove_file(dir.path().join("log.1"));
            if let Some(old) = old {
                fs::write(dir.path().join("log.1"), old).unwrap();
            }
            fs::write(&path, now).unwrap();
            assert_eq!(all(&mut LogReader::open(&path, tail).unwrap()), said, "{old:?} {now:?} {tail:?}");
        }
        let long: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, &long).unwrap();
        let tail = all(&mut LogReader::open(&path, Some(5000)).unwrap());
        assert!(tail.starts_with("line 5000\n") && tail.ends_with("line 9999\n"));
    }

    #[test]
    fn a_reader_follows_over_a_change_of_files_until_all_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("7");
        fs::create_dir(&sub).unwrap();
        let path = sub.join("log");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        let mut reader = LogReader::open(&path, None).unwrap();
        assert_eq!(all(&mut reader), "one\n");
        let (thread_path, thread_sub) = (path.clone(), sub.clone());
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            file.write_all(b"two\n").unwrap();
            fs::rename(&thread_path, thread_sub.join("log.1")).unwrap();
            fs::write(&thread_path, "three\n").unwrap();
        });
        let mut text = String::new();
        let mut buffer = [0; 64];
        while text.len() < 10 {
            let len = reader.read(&mut buffer, Duration::from_secs(10)).unwrap().unwrap();
            text.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
        }
        assert_eq!(text, "two\nthree\n");
        writer.join().unwrap();
        assert_eq!(reader.read(&mut buffer, Duration::from_millis(20)).unwrap(), Some(0));
        fs::remove_dir_all(&sub).unwrap();
        assert_eq!(reader.read(&mut buffer, Duration::from_secs(10)).unwrap(), None);
    }
}
