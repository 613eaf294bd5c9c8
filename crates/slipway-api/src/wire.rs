//! The binary bodies of the upload protocol.

use slipway_chunk::{ChunkId, SegmentId};

/// Ids in one `missing` call at most.
pub const MISSING_MAX: usize = 32_768;
/// Bytes in one `frames` body at most.
pub const FRAMES_MAX: u64 = 64 << 20;
/// Bytes in one `segments` body at most.
pub const SEGMENTS_MAX: u64 = 64 << 20;
/// The media type of the binary bodies.
pub const MEDIA: &str = "application/vnd.slipway";

/// Ids one after the other, 32 bytes each.
pub fn ids_encode<'a>(ids: impl IntoIterator<Item = &'a [u8; 32]>) -> Vec<u8> {
    ids.into_iter().flatten().copied().collect()
}

/// The reverse of [`ids_encode`]; `None` if the length is not a multiple of 32 or there are more than [`MISSING_MAX`].
pub fn ids_decode(body: &[u8]) -> Option<Vec<[u8; 32]>> {
    let (ids, rest) = body.as_chunks::<32>();
    (rest.is_empty() && ids.len() <= MISSING_MAX).then(|| ids.to_vec())
}

/// Chunk ids of a body.
pub fn chunk_ids_decode(body: &[u8]) -> Option<Vec<ChunkId>> {
    Some(ids_decode(body)?.into_iter().map(ChunkId::from_bytes).collect())
}

/// Segment ids of a body.
pub fn segment_ids_decode(body: &[u8]) -> Option<Vec<SegmentId>> {
    Some(ids_decode(body)?.into_iter().map(SegmentId::from_bytes).collect())
}

/// A bit for each id in the order asked, lowest bit first; 1 = missing.
pub fn bits_encode(bits: &[bool]) -> Vec<u8> {
    let mut out = vec![0u8; bits.len().div_ceil(8)];
    for (i, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
        out[i / 8] |= 1 << (i % 8);
    }
    out
}

/// The reverse of [`bits_encode`] for `count` ids; `None` if the length does not fit or a bit beyond the end is set.
pub fn bits_decode(body: &[u8], count: usize) -> Option<Vec<bool>> {
    if body.len() != count.div_ceil(8) {
        return None;
    }
    if (count..body.len() * 8).any(|i| body[i / 8] >> (i % 8) & 1 == 1) {
        return None;
    }
    Some((0..count).map(|i| body[i / 8] >> (i % 8) & 1 == 1).collect())
}

/// One segment of a `segments` body: a 4-byte little-endian length, then the encoded segment.
pub fn segment_append(body: &mut Vec<u8>, encoded: &[u8]) {
    let len = u32::try_from(encoded.len()).expect("a segment of 256 MiB has at most 65,536 extents of 36 bytes");
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(encoded);
}

/// The segments of a body; `None` if the lengths do not add up.
pub fn segments_split(mut body: &[u8]) -> Option<Vec<&[u8]>> {
    let mut out = Vec::new();
    while !body.is_empty() {
        let (len, rest) = body.split_first_chunk::<4>()?;
        let (segment, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        out.push(segment);
        body = rest;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{bits_decode, bits_encode, ids_decode, segment_append, segments_split};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn bits_come_back(bits in proptest::collection::vec(any::<bool>(), 0..100)) {
            let body = bits_encode(&bits);
            prop_assert_eq!(bits_decode(&body, bits.len()), Some(bits));
        }

        #[test]
        fn segments_come_back(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..10)) {
            let mut body = Vec::new();
            parts.iter().for_each(|p| segment_append(&mut body, p));
            prop_assert_eq!(segments_split(&body).unwrap(), parts);
        }

        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (segments_split(&body), ids_decode(&body), bits_decode(&body, 37));
        }
    }
}
