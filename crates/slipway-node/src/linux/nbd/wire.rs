//! The numbers of the protocol that a client's handshake needs, as its document names them
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>). Everything on the wire is big-endian.

/// "NBDMAGIC": what a server begins with.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": the newstyle, and what each option begins with.
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
/// What follows the greeting of a server of the old style.
pub(super) const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
/// What each reply to an option begins with.
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

/// Flags of the handshake, of the server and of the client.
pub(super) mod handshake_flag {
    pub(in crate::linux::nbd) const FIXED_NEWSTYLE: u16 = 1;
    pub(in crate::linux::nbd) const NO_ZEROES: u16 = 2;
}

/// Options.
pub(super) mod option {
    pub(in crate::linux::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::linux::nbd) const STARTTLS: u32 = 5;
    pub(in crate::linux::nbd) const INFO: u32 = 6;
    pub(in crate::linux::nbd) const GO: u32 = 7;
}

/// Replies to options.
pub(super) mod answer {
    pub(in crate::linux::nbd) const ACK: u32 = 1;
    pub(in crate::linux::nbd) const INFO: u32 = 3;
    pub(in crate::linux::nbd) const ERROR: u32 = 0x8000_0000;
    pub(in crate::linux::nbd) const ERR_UNSUP: u32 = 0x8000_0001;
    pub(in crate::linux::nbd) const ERR_POLICY: u32 = 0x8000_0002;
    pub(in crate::linux::nbd) const ERR_INVALID: u32 = 0x8000_0003;
    pub(in crate::linux::nbd) const ERR_TLS_REQD: u32 = 0x8000_0005;
    pub(in crate::linux::nbd) const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub(in crate::linux::nbd) const ERR_SHUTDOWN: u32 = 0x8000_0007;
    pub(in crate::linux::nbd) const ERR_BLOCK_SIZE_REQD: u32 = 0x8000_0008;
}

/// Kinds of information about an export.
pub(super) mod info {
    pub(in crate::linux::nbd) const EXPORT: u16 = 0;
    pub(in crate::linux::nbd) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(super) mod export_flag {
    pub(in crate::linux::nbd) const HAS_FLAGS: u16 = 1;
    pub(in crate::linux::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::linux::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::linux::nbd) const SEND_FUA: u16 = 1 << 3;
    pub(in crate::linux::nbd) const ROTATIONAL: u16 = 1 << 4;
    pub(in crate::linux::nbd) const SEND_TRIM: u16 = 1 << 5;
    pub(in crate::linux::nbd) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::linux::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
    /// Those that a kernel does something with.
    pub(in crate::linux::nbd) const OF_KERNEL: u16 =
        HAS_FLAGS | READ_ONLY | SEND_FLUSH | SEND_FUA | ROTATIONAL | SEND_TRIM | SEND_WRITE_ZEROES | CAN_MULTI_CONN;
}

/// The longest string that the protocol allows.
pub(super) const STRING_MAX: usize = 4096;
