//! What the kernel's client is told over netlink, and what it shows in sysfs. Numbers as in linux/nbd-netlink.h.

use crate::linux::io_error;
use crate::linux::netlink::{Attributes, Family};
use crate::refusal::DriverError;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const FAMILY: &str = "nbd";
const GROUP: &str = "nbd_mc_group";
const MODULE: &str = "/sys/module/nbd";
const MODPROBE: &str = "/sbin/modprobe";

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const LINK_DEAD: u8 = 4;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// A device as the kernel is to make it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device<'a> {
    pub(super) size: u64,
    pub(super) block_size: u32,
    pub(super) flags: u16,
    /// Seconds until a connection without an answer is taken for dead.
    pub(super) timeout: u64,
    /// Seconds that a request waits while there is no connection.
    pub(super) dead_timeout: u64,
    /// What it is found by.
    pub(super) mark: &'a str,
}

impl Device<'_> {
    /// Without a number: the kernel takes a free one, or makes one more.
    fn attributes(&self, sockets: &[i32]) -> Attributes {
        Attributes::default()
            .u64(SIZE_BYTES, self.size)
            .u64(BLOCK_SIZE_BYTES, self.block_size.into())
            .u64(TIMEOUT, self.timeout)
            .u64(SERVER_FLAGS, self.flags.into())
            .u64(DEAD_CONN_TIMEOUT, self.dead_timeout)
            .text(BACKEND_IDENTIFIER, self.mark)
            .nested(SOCKETS, &sockets_list(sockets))
    }
}

fn sockets_list(sockets: &[i32]) -> Attributes {
    sockets.iter().fold(Attributes::default(), |list, socket| {
        list.nested(SOCK_ITEM, &Attributes::default().u32(SOCK_FD, socket.cast_unsigned()))
    })
}

/// Loads the kernel's client if it is not there.
///
/// # Errors
/// When this kernel has none.
pub(super) fn module_load() -> Result<(), DriverError> {
    if Path::new(MODULE).exists() {
        return Ok(());
    }
    let ran = Command::new(MODPROBE)
        .arg("nbd")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let said = match &ran {
        Ok(out) if out.status.success() => return Ok(()),
        Ok(out) => String::from_utf8_lossy(&out.stderr).trim().chars().take(200).collect(),
        Err(error) => format!("{MODPROBE}: {error}"),
    };
    let text =
        format!("the kernel module nbd is not loaded and could not be: {said}; load it, or boot a kernel that has it");
    Err(DriverError::other("modprobe", text))
}

fn family() -> Result<Family, DriverError> {
    Family::open(FAMILY).map_err(|errno| match errno {
        Errno::NOENT => DriverError::other(
            "netlink",
            "this kernel has no NBD over netlink, or this is not its first network namespace",
        ),
        errno => DriverError::system("netlink", errno, "the kernel's NBD client"),
    })
}

/// Makes a device of connections; gives its number.
pub(super) fn connect(device: &Device<'_>, sockets: &[OwnedFd]) -> Result<u32, DriverError> {
    let sockets: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let said = family()?.ask(CONNECT, &device.attributes(&sockets));
    let said = said.map_err(|errno| DriverError::system("nbd_connect", errno, "the kernel's NBD client"))?;
    let index = said.iter().find_map(|said| said.u32(INDEX));
    index.ok_or_else(|| DriverError::other("nbd_connect", "the kernel did not say which device it made"))
}

/// Gives a device a connection in place of a dead one; without a dead one nothing changes.
pub(super) fn reconnect(index: u32, mark: &str, socket: &OwnedFd) -> Result<(), DriverError> {
    let attributes = Attributes::default()
        .u32(INDEX, index)
        // Another device of this number is not touched: the kernel compares.
        .text(BACKEND_IDENTIFIER, mark)
        .nested(SOCKETS, &sockets_list(&[socket.as_raw_fd()]));
    let done = family()?.ask(RECONFIGURE, &attributes);
    done.map(drop)
        .map_err(|errno| DriverError::system("nbd_reconfigure", errno, device_path(index).display().to_string()))
}

/// Ends the connections of a device.
pub(super) fn disconnect(index: u32) -> Result<(), DriverError> {
    let done = family()?.ask(DISCONNECT, &Attributes::default().u32(INDEX, index));
    done.map(drop)
        .map_err(|errno| DriverError::system("nbd_disconnect", errno, device_path(index).display().to_string()))
}

/// Hears of connections that died.
pub(super) struct Deaths(Family);

impl Deaths {
    /// From now on; each look waits at most so long.
    pub(super) fn hear(wait: Duration) -> Result<Self, DriverError> {
        let family = family()?;
        family.join(GROUP, wait).map_err(|errno| DriverError::system("netlink", errno, GROUP))?;
        Ok(Self(family))
    }

    /// The devices that lost a connection meanwhile; `None` when some may have been missed.
    pub(super) fn next(&self) -> Result<Option<Vec<u32>>, Errno> {
        match self.0.hear() {
            Ok(said) => {
                let dead = said.iter().filter(|said| said.command == LINK_DEAD);
                Ok(Some(dead.filter_map(|said| said.u32(INDEX)).collect()))
            }
            Err(Errno::NOBUFS) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

pub(super) fn device_path(index: u32) -> PathBuf {
    format!("/dev/nbd{index}").into()
}

/// A device's folder in sysfs.
pub(super) fn sysfs(index: u32) -> PathBuf {
    format!("/sys/block/nbd{index}").into()
}

/// The mark of a device, if it is in use and has one.
pub(super) fn mark_of(index: u32) -> Option<String> {
    let text = fs::read_to_string(sysfs(index).join("backend")).ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// Every device that has a mark.
pub(super) fn marked() -> Result<Vec<(u32, String)>, DriverError> {
    let blocks = Path::new("/sys/block");
    let mut found = Vec::new();
    for entry in fs::read_dir(blocks).map_err(|error| io_error("readdir", blocks, &error))? {
        let name = entry.map_err(|error| io_error("readdir", blocks, &error))?.file_name();
        let index = name.to_str().and_then(|name| name.strip_prefix("nbd")?.parse().ok());
        if let Some((index, mark)) = index.and_then(|index| Some((index, mark_of(index)?))) {
            found.push((index, mark));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Device, sockets_list};
    use crate::linux::netlink::Attributes;

    #[test]
    fn a_device_has_all_that_the_kernel_needs() {
        let device =
            Device { size: 1 << 20, block_size: 512, flags: 3, timeout: 30, dead_timeout: 31, mark: "slipway:x:nbd-7" };
        let item = |socket| Attributes::default().u32(1, socket);
        let list = Attributes::default().nested(1, &item(5)).nested(1, &item(6));
        assert_eq!(sockets_list(&[5, 6]), list);
        let wanted = Attributes::default()
            .u64(2, 1 << 20)
            .u64(3, 512)
            .u64(4, 30)
            .u64(5, 3)
            .u64(8, 31)
            .text(10, "slipway:x:nbd-7")
            .nested(7, &list);
        assert_eq!(device.attributes(&[5, 6]), wanted);
    }
}
