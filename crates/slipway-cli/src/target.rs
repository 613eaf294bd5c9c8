//! What `flash` writes to: opened, described to the person, and asked about.

use crate::ask;
use crate::context::Context;
use crate::failure::{Failure, chain, exit, path_shown};
use crate::human::size;
use crate::source::raw_said;
use slipway_chunk::is_zero;
use slipway_disk::{
    DiskError, Faults, Shape, Target, TargetError, TargetKind, TargetOptions, TargetReader, target_open,
    target_open_to_read,
};
use slipway_format::PROBE_LEN;
use std::path::Path;

/// Opens a target for an image. A path below `/dev` is never created: it is a device that is not there.
pub(crate) fn open(path: &Path, shape: &Shape, create: bool) -> Result<Target, Failure> {
    let options = TargetOptions { create: create && !path.starts_with("/dev"), grow: false };
    Ok(target_open(path, shape, &options, Faults::none())?)
}

/// Opens a target only to compare it. One that is too small does not hold the image, whatever is on it.
pub(crate) fn open_to_verify(cx: &Context, path: &Path, shape: &Shape, image: &str) -> Result<TargetReader, Failure> {
    let opened = target_open_to_read(path, shape, Faults::none());
    if let Some(at) = opened.as_ref().ok().and_then(TargetReader::mounted_at) {
        cx.note(&format!("warning: {} is mounted on {at}: it may change while it is compared", path_shown(path)));
    }
    match opened {
        Err(TargetError::TooSmall { size, needed, .. }) => {
            let path_said = path_shown(path);
            Err(Failure::new(exit::VERIFY, format!("{path_said} has {size} bytes, {image} has {needed}"))
                .next(format!("'slipway flash {image} {}' needs a target that is large enough", path_shown(path))))
        }
        other => Ok(other?),
    }
}

/// Shows what will be overwritten and asks; without a terminal a device needs `--yes`.
pub(crate) async fn confirm(cx: &Context, target: &mut Target, image: &str, yes: bool) -> Result<(), Failure> {
    let lines = described(target)?;
    if target.facts().fresh {
        return Ok(());
    }
    let path = path_shown(&target.facts().path);
    for line in &lines {
        cx.note(line);
    }
    if yes {
        return Ok(());
    }
    match (cx.can_ask(), target.facts().kind) {
        (true, _) => match ask::confirm(&format!("Overwrite {path} with {image}?")).await? {
            true => Ok(()),
            false => Err(Failure::new(exit::INTERRUPTED, format!("{path} was left as it is"))
                .alone("the person has just said no")),
        },
        (false, TargetKind::Device) => {
            Err(Failure::usage(format!("{path} would be overwritten, and nobody can be asked here"))
                .next("look at the device, then add --yes"))
        }
        (false, TargetKind::File) => Ok(()),
    }
}

/// What a target is and what is on it, a line for each thing.
fn described(target: &mut Target) -> Result<Vec<String>, Failure> {
    let facts = target.facts().clone();
    let kind = match facts.kind {
        TargetKind::Device => "device",
        TargetKind::File => "file",
    };
    let mut lines = vec![format!("{}: {kind} of {} ({} bytes)", path_shown(&facts.path), size(facts.size), facts.size)];
    if facts.kind == TargetKind::Device {
        let model = facts.model.clone().unwrap_or_else(|| "unknown model".into());
        let serial = serial(&facts.path).map_or_else(|| "no serial number".into(), |serial| format!("serial {serial}"));
        lines.push(format!("{model}, {serial}, sectors of {}", facts.sector_size));
    }
    let len = usize::try_from(facts.size.min(target.shape().size)).unwrap_or(PROBE_LEN).min(PROBE_LEN);
    let head = target.read(0, len)?;
    lines.push(match is_zero(head) {
        true => "it begins with zeros".to_owned(),
        false => format!("on it: {}", raw_said(head)),
    });
    if facts.tail_bytes > 0 {
        lines.push(format!("{} beyond the image stay as they are", size(facts.tail_bytes)));
    }
    Ok(lines)
}

/// The serial number of the disk that a device is, or is a partition of.
fn serial(device: &Path) -> Option<String> {
    let name = device.file_name()?;
    let place = std::fs::canonicalize(Path::new("/sys/class/block").join(name)).ok()?;
    let disk = if place.join("partition").exists() { place.parent()?.to_owned() } else { place };
    ["serial", "device/serial", "device/wwid", "wwid"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(disk.join(file)).ok())
        .map(|text| crate::human::short(text.trim(), 64))
        .find(|text| !text.is_empty())
}

impl From<TargetError> for Failure {
    fn from(why: TargetError) -> Self {
        let what = chain(&why);
        let (exit, next) = match why {
            TargetError::Missing(_) => (exit::NOT_FOUND, "check the path; 'lsblk' lists the devices of this machine"),
            TargetError::Kind { .. } | TargetError::Link { .. } => {
                (exit::TARGET, "name a regular file or a block device")
            }
            TargetError::Locked(_) | TargetError::Busy(_) | TargetError::Held { .. } => (
                exit::TARGET,
                "'lsblk' and 'fuser -v DEVICE' show who uses it; end that, then run the same command again",
            ),
            TargetError::Mounted { .. } => (exit::TARGET, "unmount it with 'umount', then run the same command again"),
            TargetError::System { .. } => {
                (exit::TARGET, "choose another disk: 'lsblk -o NAME,SIZE,MODEL,SERIAL,MOUNTPOINTS'")
            }
            TargetError::Swap { .. } => (exit::TARGET, "'swapoff' it, then run the same command again"),
            TargetError::ReadOnly(_) => (exit::TARGET, "check the write protection: 'blockdev --getro DEVICE'"),
            TargetError::TooSmall { .. } => (exit::TARGET, "choose a larger target: 'lsblk -o NAME,SIZE,MODEL,SERIAL'"),
            TargetError::SectorSize { .. } => {
                (exit::TARGET, "choose a disk with the image's sector size: 'lsblk -o NAME,LOG-SEC'")
            }
            TargetError::NoMedium(_) => (exit::TARGET, "put a medium in, then run the same command again"),
            TargetError::Shape { .. } => (exit::USAGE, "'slipway image show REF' says what the image is"),
            TargetError::Disk(why) => return why.into(),
            TargetError::Io { act, path, source } => return Self::io(act, &path, &source),
        };
        Self::new(exit, what).next(next)
    }
}

impl From<DiskError> for Failure {
    fn from(why: DiskError) -> Self {
        let again = "run the same command again: it goes on where it stopped";
        let what = chain(&why);
        match why {
            DiskError::Io { source, .. }
                if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) =>
            {
                Self::new(exit::SPACE, what)
                    .next("make room there, then run the same command again: it goes on where it stopped")
            }
            DiskError::Io { .. } => {
                Self::new(exit::FAILED, what).next("look at 'dmesg' for the disk; then run the same command again")
            }
            DiskError::Flush { .. } | DiskError::Poisoned(_) => Self::new(exit::FAILED, what)
                .next("the disk may be failing: look at 'dmesg', then run the same command again"),
            DiskError::ReadBack { .. } => {
                Self::new(exit::VERIFY, what).next("the disk does not keep what is written to it: use another one")
            }
            DiskError::OutOfRange { .. } => Self::new(exit::FAILED, what).next(again),
            DiskError::Gpt { .. } => Self::new(exit::FAILED, what).next("run it again without --fix-gpt"),
        }
    }
}
