//! The space that is kept free, so that the database, deleting and pruning always have room to work in.

use crate::core::Core;
use slipway_api::{Code, Problem};

/// How much space there is on the disk that has the least beyond its reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free for this server.
    pub free: u64,
    /// Bytes of them that are kept for deleting: the larger of the setting in bytes and that in percent.
    pub reserve: u64,
}

impl Room {
    /// Whether uploads may go on.
    pub fn is_enough(&self) -> bool {
        self.free >= self.reserve
    }
}

/// Looks at every disk that the server writes to: the data folder's, the blobs' and the database's, which may be others. None if none can be
/// asked. It costs some microseconds, so it may be asked for each piece of a body.
pub fn room_get(core: &Core) -> Option<Room> {
    let config = &core.config;
    let rooms = config.reserve_folders.iter().filter_map(|folder| rustix::fs::statvfs(folder).ok()).map(|disk| {
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let percent = u64::try_from(u128::from(total) * u128::from(config.reserve_percent) / 100).unwrap_or(u64::MAX);
        Room { free: disk.f_bavail.saturating_mul(disk.f_frsize), reserve: config.reserve_bytes.max(percent) }
    });
    rooms.min_by_key(|room| i128::from(room.free) - i128::from(room.reserve))
}

/// Refuses more bytes while less than the reserve is free.
pub fn room_check(core: &Core) -> Result<(), Problem> {
    match room_get(core) {
        Some(room) if !room.is_enough() => {
            core.tallies.room_refused();
            let title = format!(
                "the server has {} MiB free and keeps {} MiB for deleting",
                room.free >> 20,
                room.reserve >> 20
            );
            Err(Problem::new(Code::NoSpace, title)
                .hint("delete versions and let an admin run `slipway prune --now`, or ask for a larger disk"))
        }
        Some(_) | None => Ok(()),
    }
}
