//! The text that says what the disk is made of. Whatever it names is read as a word, and never opened.

use super::SECTOR;
use super::header::Header;
use crate::DiskError;
use crate::container::Container;

/// VMware's are 10 KiB; what is larger holds something else.
const TEXT_LEN_MAX: u64 = 256 << 10;
const FIRST_LINE: &str = "# Disk DescriptorFile";

/// The kinds of disk that are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateType {
    MonolithicSparse,
    StreamOptimized,
}

/// Why a text alone is no disk.
pub(super) fn text_refuse(container: &Container) -> Result<DiskError, DiskError> {
    let len = container.len().min(TEXT_LEN_MAX);
    let bytes = container.part("the text", 0, len as usize)?;
    let text = String::from_utf8_lossy(&bytes);
    let kind = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == "createType");
    let kind = match kind {
        Some((_, value)) => format!(" ({})", word_show(unquote(value))),
        None => String::new(),
    };
    Ok(container.refused(format!(
        "it is only the text of a disk{kind} and names another file that holds the bytes; make one file of them with 'qemu-img convert' or 'ovftool'"
    )))
}

/// Checks the text in the container: the disk is this file and nothing else.
pub(super) fn descriptor_check(container: &Container, header: &Header) -> Result<CreateType, DiskError> {
    let (at, len) = header.descriptor;
    if at == 0 || len == 0 {
        return Err(container.refused(
            "it has no text that describes the disk, so it is one extent of a disk in several files; make one file of them with 'qemu-img convert'",
        ));
    }
    if len > TEXT_LEN_MAX {
        return Err(container.refused(format!("the text that describes it has {len} bytes, more than {TEXT_LEN_MAX}")));
    }
    let bytes = container.part("the text that describes it", at, len as usize)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    // Names may be in any encoding; they are only shown.
    let text = String::from_utf8_lossy(&bytes[..end]);
    if text.lines().next().map(str::trim_end) != Some(FIRST_LINE) {
        return Err(container.damaged(format!("the text at byte {at} does not begin with '{FIRST_LINE}'")));
    }
    let mut words = Words::default();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if extent_access(line) {
            words.extents.push(line.to_owned());
        } else if let Some((key, value)) = line.split_once('=') {
            words.pair_take(container, key.trim(), unquote(value))?;
        } else {
            return Err(container.damaged(format!("its text has a line that is no setting: {}", word_show(line))));
        }
    }
    words.judge(container, header)
}

/// Whether a line is that of an extent: access, sectors, kind, name.
fn extent_access(line: &str) -> bool {
    let first = line.split([' ', '\t']).next().unwrap_or("");
    ["RW", "RDONLY", "NOACCESS"].iter().any(|access| first.eq_ignore_ascii_case(access))
}

fn unquote(value: &str) -> &str {
    let value = value.trim();
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// A word of the text for an error: short, without anything that a terminal obeys.
fn word_show(word: &str) -> String {
    crate::names::name_show(word)
}

#[derive(Default)]
struct Words {
    version: Option<String>,
    create_type: Option<String>,
    parent: Option<String>,
    extents: Vec<String>,
}

impl Words {
    fn pair_take(&mut self, container: &Container, key: &str, value: &str) -> Result<(), DiskError> {
        let lower = key.to_ascii_lowercase();
        let slot = match lower.as_str() {
            "version" => &mut self.version,
            "createtype" => &mut self.create_type,
            "parentcid" => &mut self.parent,
            _ => return other_check(container, key, &lower, value),
        };
        match slot.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(container.damaged(format!("its text says {} twice", word_show(key)))),
        }
    }

    fn judge(&self, container: &Container, header: &Header) -> Result<CreateType, DiskError> {
        let missing = |what: &str| container.damaged(format!("its text does not say {what}"));
        let version = self.version.as_deref().ok_or_else(|| missing("version"))?;
        if !matches!(version, "1" | "2" | "3" | "4") {
            return Err(container.refused(format!("its text has version {}; 1 to 4 are read", word_show(version))));
        }
        let create_type = match self.create_type.as_deref().ok_or_else(|| missing("createType"))? {
            "monolithicSparse" => CreateType::MonolithicSparse,
            "streamOptimized" => CreateType::StreamOptimized,
            other => {
                return Err(container.refused(format!(
                    "its createType is {}, a disk that lies in other files; make one file of them with 'qemu-img convert' or 'ovftool'",
                    word_show(other)
                )));
            }
        };
        let parent = self.parent.as_deref().ok_or_else(|| missing("parentCID"))?;
        if !parent.eq_ignore_ascii_case("ffffffff") {
            return Err(container.refused(format!(
                "it is a snapshot of a parent image (parentCID {}), whose file is not opened; consolidate it first",
                word_show(parent)
            )));
        }
        match &self.extents[..] {
            [only] => extent_check(container, header, only)?,
            extents => {
                return Err(container
                    .refused(format!("its text names {} extents; a disk in one file has exactly one", extents.len())));
            }
        }
        Ok(create_type)
    }
}

/// Settings that are not needed to read the disk, unless they tie it to another file or a key.
fn other_check(container: &Container, key: &str, lower: &str, value: &str) -> Result<(), DiskError> {
    if lower.contains("encrypt") || lower.contains("keysafe") || lower.contains("datafilekey") {
        return Err(container.refused(format!("it is encrypted ({}); decrypt it where its key is", word_show(key))));
    }
    if lower == "isnativesnapshot" && value.eq_ignore_ascii_case("yes") {
        return Err(container.refused("it is a native snapshot, which needs its parent; consolidate it first"));
    }
    let names_file = ["filename", "path", "sidecar", "nativeparenthint"].iter().any(|word| lower.contains(word));
    if names_file && !value.is_empty() {
        return Err(container.refused(format!(
            "it names another file ({} = {}), which is not opened; make one file of them with 'qemu-img convert' or 'ovftool'",
            word_show(key),
            word_show(value)
        )));
    }
    Ok(())
}

/// The one extent must be this file: sparse, as large as the header says, with a bare name (it may have been renamed since).
fn extent_check(container: &Container, header: &Header, line: &str) -> Result<(), DiskError> {
    let (words, name) = match line.split_once('"') {
        Some((words, rest)) => (words, rest.split_once('"')),
        None => (line, None),
    };
    let words: Vec<_> = words.split_whitespace().collect();
    let (&[access, sectors, kind], Some((name, rest))) = (&words[..], name) else {
        return Err(container.damaged(format!("its extent cannot be understood: {}", word_show(line))));
    };
    if !kind.eq_ignore_ascii_case("SPARSE") {
        return Err(container.refused(format!(
            "its extent is {}, whose bytes are in another file ({})",
            word_show(kind),
            word_show(name)
        )));
    }
    if access.eq_ignore_ascii_case("NOACCESS") {
        return Err(container.refused("its extent may not be accessed (NOACCESS)"));
    }
    if name.is_empty() || name.contains(['/', '\\']) || name.contains(char::is_control) || name == ".." {
        return Err(container.refused(format!("its extent names another file by a path ({})", word_show(name))));
    }
    if !matches!(rest.trim(), "" | "0") {
        return Err(container.refused(format!("its extent begins inside another file ({})", word_show(line))));
    }
    if sectors.parse::<u64>().ok() != Some(header.size / SECTOR) {
        return Err(container.damaged(format!(
            "its text says that the extent has {} sectors, its header says {}",
            word_show(sectors),
            header.size / SECTOR
        )));
    }
    Ok(())
}
