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

/// Bytes of a disk of `total` bytes that are kept for deleting.
pub fn reserve_of(total: u64, bytes: u64, percent: u64) -> u64 {
    let part = u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX);
    bytes.max(part)
}

/// Looks at every disk that the server writes to: the data folder's, the blobs' and the database's, which may be others. None if none can be
/// asked. It costs some microseconds, so it may be asked for each piece of a body.
pub fn room_get(core: &Core) -> Option<Room> {
    let config = &core.config;
    let rooms = config.reserve_folders.iter().filter_map(|folder| rustix::fs::statvfs(folder).ok()).map(|disk| {
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let reserve = reserve_of(total, config.reserve_bytes, config.reserve_percent);
        Room { free: disk.f_bavail.saturating_mul(disk.f_frsize), reserve }
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
            Err(Problem::new(Code::NoSpace, title).hint(
                "`slipway image rm --now` ends versions, then an admin frees their bytes with `slipway prune --now`",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Room, reserve_of};

    #[test]
    fn the_larger_of_bytes_and_percent_is_kept() {
        for (total, bytes, percent, reserve) in [
            (1000, 10, 2, 20),
            (1000, 30, 2, 30),
            (1000, 0, 0, 0),
            (u64::MAX, 0, 90, u64::MAX / 10 * 9),
            (64 << 20, 1, 25, 16 << 20),
        ] {
            assert!(reserve_of(total, bytes, percent).abs_diff(reserve) < 10, "{percent} % of {total}");
        }
        for (free, enough) in [(9, false), (10, true), (11, true)] {
            assert_eq!(Room { free, reserve: 10 }.is_enough(), enough);
        }
    }
}
