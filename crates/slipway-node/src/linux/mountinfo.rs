//! What is mounted, as the kernel lists it for a mount namespace.

use super::io_error;
use crate::refusal::DriverError;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo, as far as it is used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor`.
    pub(super) device: String,
    /// Where.
    pub(super) path: PathBuf,
    /// What the file system says of itself, with commas.
    pub(super) options: String,
}

/// Of the namespace of this thread.
pub(super) fn mounts() -> Result<Vec<Mounted>, DriverError> {
    let list = Path::new("/proc/thread-self/mountinfo");
    let text = std::fs::read(list).map_err(|error| io_error("read", list, &error))?;
    Ok(parse(&text))
}

/// See proc_pid_mountinfo(5): number, parent, major:minor, root, mount point, …; spaces and the like are octal.
pub(super) fn parse(text: &[u8]) -> Vec<Mounted> {
    let lines = text.split(|byte| *byte == b'\n');
    let mounted = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let path = OsString::from_vec(unescaped(fields.nth(1)?));
        // Any number of fields, a hyphen, then type, source and options.
        let options = fields.skip_while(|field| *field != b"-").nth(3).unwrap_or_default();
        Some(Mounted { device, path: path.into(), options: String::from_utf8_lossy(options).into_owned() })
    });
    mounted.collect()
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_are_read_with_their_escapes() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 - ext3 /dev/root rw\nshort\n\n37 36 0:5 / /proc rw - proc proc rw\n";
        let found = parse(text).into_iter().map(|m| (m.device, m.path.display().to_string(), m.options));
        let found: Vec<_> = found.collect();
        let rows = [("98:0", "/mnt 2\\x", "rw"), ("0:5", "/proc", "rw")];
        assert_eq!(found, rows.map(|(device, path, options)| (device.into(), path.into(), options.into())));
    }
}
