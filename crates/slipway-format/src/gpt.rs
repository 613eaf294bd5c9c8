//! The GUID partition table (UEFI 2.10, chapter 5): read from hostile input, and its backup rewritten
//! for a disk of another size.

mod header;
mod resize;
mod table;

pub use header::{Header, backup_header_matches, parse_header};
pub use resize::{Resized, backup_write};
pub use table::{Partition, Table, parse_table};

/// What the first eight bytes of a header say.
pub const SIGNATURE: [u8; 8] = *b"EFI PART";
/// The most bytes of partition entries that are read: 1 MiB. The usual array has 16 KiB.
pub const ENTRIES_MAX: u64 = 1 << 20;

/// Why bytes are not a partition table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// The bytes do not begin with [`SIGNATURE`].
    #[error("there is no GPT header")]
    Absent,
    /// Fewer bytes than the thing has.
    #[error("the {what} has {got} bytes where {needed} are needed")]
    Short {
        /// Header or partition entries.
        what: &'static str,
        /// Bytes given.
        got: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A checksum is wrong: the table is damaged.
    #[error("the checksum of the GPT {0} is wrong")]
    Checksum(&'static str),
    /// A field holds a value that no valid table has.
    #[error("GPT field {field} is {value}, which cannot be")]
    Field {
        /// The field's name in the UEFI specification, in lower case.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Two partitions cover the same sector.
    #[error("GPT partitions {0} and {1} overlap")]
    Overlap(u32, u32),
    /// The new end of the disk would cut off a partition.
    #[error("GPT partition {number} ends at sector {last}, beyond the last usable sector {limit}")]
    Beyond {
        /// Its number, from 1.
        number: u32,
        /// Its last sector.
        last: u64,
        /// The last sector a partition may use.
        limit: u64,
    },
}
