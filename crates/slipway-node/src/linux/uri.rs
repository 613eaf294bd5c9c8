//! What is at an address of the web, in memory: an archive unpacked, or the image of a file system. Nothing of it is on a disk.
//!
//! All is made where nobody sees it, in a mount or a file that has no name, and goes with its descriptor if anything fails or the service
//! dies. It gets its place when the last byte has come and the checksum is right.

mod download;
mod unpack;

use super::mountpoint::Mountpoint;
use super::{filesystem, loops, syscall, system};
use crate::crash::crash_point;
use crate::object::Proof;
use crate::refusal::DriverError;
use download::{Checksum, Download};
use rustix::fs::MemfdFlags;
use rustix::mount::MountAttrFlags;
use slipway_api::node::{MountUri, UriFormat};
use slipway_format::{StreamError, TREE_HEAD_LEN, TreeFormat, WRAP_HEAD_LEN, Wrap, tree_detect, unwrap, wrap_detect};
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

const SIZE_DEFAULT: u64 = 1 << 30;
const ENTRIES_DEFAULT: u64 = 1 << 18;
/// Each takes about a KiB of the kernel's memory that the size does not count.
const ENTRIES_MAX: u64 = 4_000_000;
const TIMEOUT_DEFAULT: u64 = 300;
const TIMEOUT_MAX: u64 = 3600;
/// Enough for every magic that is looked for: the farthest is ext4's at 1080.
const HEAD_LEN: usize = 4096;
/// Loop devices are whole sectors long.
const SECTOR: u64 = 4096;

/// What a download turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Tree(TreeFormat),
    /// A file system of this type.
    Image(&'static str),
}

/// What is asked for, looked at before anybody else is asked.
#[derive(Debug)]
struct Wanted {
    size: u64,
    entries: u64,
    time: Duration,
    checksum: Option<Checksum>,
    format: UriFormat,
    ro: bool,
}

impl Wanted {
    fn of(block: &MountUri) -> Result<Self, DriverError> {
        let wrong = |text: String| DriverError::request("uri", text);
        slipway_api::fetch_address(&block.uri).map_err(|error| wrong(format!("uri.uri: {error}")))?;
        let within = |name: &str, given: u64, default: u64, max: u64| match given {
            0 => Ok(default),
            given if given > max => Err(wrong(format!("uri.{name} {given} is more than {max}"))),
            given => Ok(given),
        };
        Ok(Self {
            size: within("size_limit", block.size_limit, SIZE_DEFAULT, 1 << 50)?,
            entries: within("entries_limit", block.entries_limit, ENTRIES_DEFAULT, ENTRIES_MAX)?,
            time: Duration::from_secs(within("timeout", block.timeout, TIMEOUT_DEFAULT, TIMEOUT_MAX)?),
            checksum: Checksum::of(&block.checksum).map_err(wrong)?,
            format: block.format,
            ro: block.ro,
        })
    }

    /// What the archive or image itself may have of bytes: headers and padding of archives are not in the tree.
    fn stream_max(&self) -> u64 {
        match self.format {
            UriFormat::Squashfs | UriFormat::Erofs | UriFormat::Ext4 => self.size,
            UriFormat::Auto | UriFormat::Tar | UriFormat::Cpio => self.size.saturating_mul(2).saturating_add(1 << 20),
        }
    }

    /// Brings together what was asked for and what has come.
    fn content(&self, head: &[u8]) -> Result<Content, DriverError> {
        let found = content_detect(head);
        let fits = match (self.format, found) {
            (UriFormat::Auto, found) => found.is_some(),
            (UriFormat::Tar, Some(Content::Tree(TreeFormat::Tar)))
            | (UriFormat::Cpio, Some(Content::Tree(TreeFormat::Cpio)))
            | (UriFormat::Squashfs, Some(Content::Image("squashfs")))
            | (UriFormat::Erofs, Some(Content::Image("erofs")))
            | (UriFormat::Ext4, Some(Content::Image("ext4"))) => true,
            (UriFormat::Tar | UriFormat::Cpio | UriFormat::Squashfs | UriFormat::Erofs | UriFormat::Ext4, _) => false,
        };
        let is = match found {
            Some(Content::Tree(format)) => format.name(),
            Some(Content::Image(name)) => name,
            None => "none of tar, cpio, squashfs, erofs and ext4",
        };
        found.filter(|_| fits).ok_or_else(|| {
            let text = match self.format {
                UriFormat::Auto => format!("what is there is {is}"),
                format => format!("uri.format is {format:?}, but what is there is {is}").to_lowercase(),
            };
            DriverError::request("format", text)
        })
    }
}

fn content_detect(head: &[u8]) -> Option<Content> {
    if head.starts_with(b"hsqs") {
        return Some(Content::Image("squashfs"));
    }
    if head.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]) {
        return Some(Content::Image("erofs"));
    }
    // Before ext4: a tar may have any bytes there, an image has none where a tar has its checksum.
    if let Some(format) = tree_detect(&head[..head.len().min(TREE_HEAD_LEN)]) {
        return Some(Content::Tree(format));
    }
    (head.get(1080..1082) == Some(&[0x53, 0xef])).then_some(Content::Image("ext4"))
}

/// How much longer than other calls this one may take.
pub(super) fn time_more(block: &MountUri) -> Duration {
    Wanted::of(block).map(|wanted| wanted.time).unwrap_or_default()
}

pub(super) fn make(at: &Mountpoint, mark: &str, block: &MountUri) -> Result<Proof, DriverError> {
    let wanted = Wanted::of(block)?;
    let mut download = Download::begin(&block.uri, wanted.stream_max(), wanted.time)?;
    let sums = download.sums();
    let head = head_read(&mut download, WRAP_HEAD_LEN)?;
    let wrap = wrap_detect(&head);
    let mut stream = unwrap(wrap, Box::new(Cursor::new(head).chain(download)), wanted.stream_max());
    let head = head_read(&mut stream, HEAD_LEN)?;
    let content = wanted.content(&head)?;
    crash_point("uri.asked");
    let mut input = Cursor::new(head).chain(stream);
    let checked = |input: &mut dyn Read| {
        // The checksum is of all that was sent, so what is behind an archive's end counts too.
        std::io::copy(input, &mut std::io::sink()).map_err(|error| stream_error(error, wrap))?;
        sums.check(wanted.checksum.as_ref())
    };
    match content {
        Content::Tree(format) => {
            let (tree, mut rest) = unpack::tree_make(format, input, wanted.size, wanted.entries)?;
            crash_point("uri.tree.unpacked");
            checked(&mut rest)?;
            crash_point("uri.tree.checked");
            if wanted.ro {
                syscall::mount_read_only(&tree, false).map_err(|errno| system("mount_setattr", at.path(), errno))?;
            }
            at.prepare(true)?;
            at.put(tree)
        }
        Content::Image(fs_type) => {
            let file = image_keep(&mut input, &wanted, wrap)?;
            checked(&mut input)?;
            crash_point("uri.image.checked");
            image_mount(at, mark, fs_type, &file)
        }
    }
}

/// The image in a file that has no name.
fn image_keep(input: &mut dyn Read, wanted: &Wanted, wrap: Wrap) -> Result<File, DriverError> {
    let name = Path::new("an image in memory");
    let file = rustix::fs::memfd_create("slipway-image", MemfdFlags::CLOEXEC)
        .map_err(|errno| system("memfd_create", name, errno))?;
    let mut file = File::from(file);
    let len = std::io::copy(&mut input.take(wanted.size.saturating_add(1)), &mut file)
        .map_err(|error| stream_error(error, wrap))?;
    if len > wanted.size {
        return Err(too_large(wanted.size));
    }
    file.set_len(len.next_multiple_of(SECTOR)).map_err(|error| super::io_error("ftruncate", name, &error))?;
    Ok(file)
}

fn image_mount(at: &Mountpoint, mark: &str, fs_type: &str, file: &File) -> Result<Proof, DriverError> {
    let mounted = || {
        // The device goes with its last user: the mount, or, until there is one, this descriptor.
        let device = loops::of_memory(mark, file.as_fd())?;
        crash_point("uri.image.device.after");
        let attr = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        let options = filesystem::Options { attr: attr.bits(), own: vec!["ro".to_owned()] };
        let tree: OwnedFd = filesystem::mounted(fs_type, &device.path.display().to_string(), &options)?;
        crash_point("uri.image.mounted");
        at.prepare(true)?;
        at.put(tree)
    };
    let made = mounted();
    if made.is_err() {
        at.remove();
        // That it failed is what is said; a device that stays a moment longer goes by itself.
        let _ = loops::gone_wait(mark);
    }
    made
}

pub(super) fn undo(at: &Mountpoint, mark: &str) -> Result<(), DriverError> {
    at.unmount()?;
    crash_point("uri.undo.after");
    loops::gone_wait(mark)
}

fn head_read(input: &mut dyn Read, len: usize) -> Result<Vec<u8>, DriverError> {
    let mut head = Vec::with_capacity(len);
    input.take(len as u64).read_to_end(&mut head).map_err(|error| stream_error(error, Wrap::None))?;
    Ok(head)
}

fn too_large(limit: u64) -> DriverError {
    DriverError::request("unpack", format!("what is there takes more than the {limit} bytes of uri.size_limit"))
}

/// What a read of the stream failed of: the download, which says so itself, or what came.
fn stream_error(error: std::io::Error, wrap: Wrap) -> DriverError {
    let error = match error.downcast::<DriverError>() {
        Ok(error) => return error,
        Err(error) => error,
    };
    if let Some(StreamError::TooLarge { cap }) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        let text = format!("what is there unpacks to more than {cap} bytes; uri.size_limit allows no more");
        return DriverError::request("unpack", text);
    }
    match error.raw_os_error() {
        Some(_) => super::io_error("unpack", Path::new("memory"), &error),
        None => DriverError::request("unpack", format!("what is there ({}) cannot be read: {error}", wrap.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, MountUri, Wanted, content_detect};

    #[test]
    fn what_is_wanted_is_looked_at_first() {
        for (json, field) in [
            (r#"{"uri":"ftp://h/x"}"#, "uri.uri"),
            (r#"{"uri":"http://a:b@h/x"}"#, "uri.uri"),
            (r#"{"uri":"http://h/x","entries_limit":5000000}"#, "uri.entries_limit"),
            (r#"{"uri":"http://h/x","timeout":3601}"#, "uri.timeout"),
            (r#"{"uri":"http://h/x","checksum":"md5:00"}"#, "uri.checksum"),
            (r#"{"uri":"http://h/x","checksum":"sha256:00"}"#, "uri.checksum"),
        ] {
            let block: MountUri = serde_json::from_str(json).unwrap();
            let error = Wanted::of(&block).unwrap_err();
            assert!(error.status == 400 && error.error.text.contains(field), "{json}: {error}");
            assert!(!error.error.text.contains("a:b"), "{error}");
        }
    }

    #[test]
    fn contents_are_told_by_their_magic() {
        assert_eq!(content_detect(b"hsqs"), Some(Content::Image("squashfs")));
        let mut ext4 = vec![0; 4096];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(content_detect(&ext4), Some(Content::Image("ext4")));
        assert_eq!(content_detect(b""), None);
        let block: MountUri = serde_json::from_str(r#"{"uri":"http://h/x","format":"tar"}"#).unwrap();
        let error = Wanted::of(&block).unwrap().content(&ext4).unwrap_err();
        assert_eq!(error.error.text, "uri.format is tar, but what is there is ext4");
    }
}
