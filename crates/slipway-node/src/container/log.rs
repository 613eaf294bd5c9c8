//! A container's log: its own output, and the service's lines between, in files of a bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A log that is being written. When it is full, it becomes `NAME.1`, and what was there is gone.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    max: u64,
    id: u64,
    begins_line: bool,
}

impl Log {
    pub(super) fn open(path: &Path, id: u64, max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len, max, id, begins_line: true })
    }

    /// Output of the container, as it came.
    pub(super) fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + bytes.len() as u64 > self.max {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            *self = Self::open(&self.path, self.id, self.max)?;
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        self.begins_line = bytes.last().is_none_or(|byte| *byte == b'\n');
        Ok(())
    }

    /// A line of the service: `YYYY/MM/DD HH:MM:SS container(ID): text`.
    pub(super) fn line(&mut self, now_ms: i64, text: &str) -> io::Result<()> {
        let begin = if self.begins_line { "" } else { "\n" };
        let line = format!("{begin}{} container({}): {text}\n", stamp(now_ms), self.id);
        self.output(line.as_bytes())
    }
}

/// UTC, from milliseconds since 1970. The calendar is Howard Hinnant's `civil_from_days`.
fn stamp(now_ms: i64) -> String {
    let seconds = now_ms.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}/{month:02}/{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::{Log, stamp};

    #[test]
    fn stamps_are_utc() {
        for (ms, text) in [
            (0, "1970/01/01 00:00:00"),
            (951_782_399_000, "2000/02/28 23:59:59"),
            (951_782_400_999, "2000/02/29 00:00:00"),
            (1_763_660_548_000, "2025/11/20 17:42:28"),
        ] {
            assert_eq!(stamp(ms), text);
        }
    }

    #[test]
    fn a_full_log_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.log");
        let mut log = Log::open(&path, 7, 100).unwrap();
        log.output(b"no end of line").unwrap();
        log.line(0, "container created").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "no end of line\n1970/01/01 00:00:00 container(7): container created\n");
        for _ in 0..10 {
            log.output(&[b'x'; 60]).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 60);
        assert_eq!(std::fs::metadata(folder.path().join("7.log.1")).unwrap().len(), 60);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
