/// Bounds of a flash. The defaults keep it within about 60 MB, whatever the size of image and target; beyond a bound data is
/// fetched instead of found on the target, and nothing ever fails for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Chunks of the target that are remembered to be found elsewhere; 16 bytes each.
    pub index: usize,
    /// Chunks that are copied within the target; about 120 bytes each.
    pub moves: usize,
    /// Blocks of 4 KiB of what will be overwritten whose hashes are remembered, so that it is not read again; 16 bytes each, and as much
    /// for each chunk of them.
    pub prints: usize,
    /// Bytes that are held while the place they came from is overwritten.
    pub held: u64,
    /// Chunks whose places are gathered before they are fetched, so that a frame with chunks of many segments comes once; about
    /// 90 bytes each.
    pub needs: usize,
    /// Bytes between two frames that are fetched along with them rather than asked for apart.
    pub gap: u32,
    /// Bytes of one request.
    pub range: u32,
    /// Raw bytes of the frames of one request.
    pub range_raw: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            index: 600_000,
            moves: 150_000,
            prints: 262_144,
            held: 16 << 20,
            needs: 100_000,
            gap: 64 << 10,
            range: 3 << 19,
            range_raw: 4 << 20,
        }
    }
}
