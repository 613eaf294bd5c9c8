use std::cell::RefCell;

use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use crate::error::FormatError;
use crate::frame_header::{Codec, FrameHeader};
use crate::ids::ChunkId;
use crate::verified::{Verified, verify};

/// A frame's raw bytes and where its chunks lie in them. They are not verified: [`verify`](Self::verify) or [`ids`](Self::ids) tell what they are.
#[derive(Clone, Debug)]
pub struct DecodedFrame {
    raw: Vec<u8>,
    lens: Vec<u32>,
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

impl DecodedFrame {
    /// Decodes one whole frame; `bytes` ends where it ends. Allocates at most the raw length that the header names, ≤ 256 KiB.
    ///
    /// # Errors
    /// What is not a frame; a base or a key id, which this version does not know; a payload that does not give the raw length exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::decode_in(bytes, Vec::new())
    }

    /// As [`decode`](Self::decode), into memory that was used before: who decodes many frames allocates none for each. What `space`
    /// holds is dropped; [`into_raw`](Self::into_raw) gives the memory back.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_in(bytes: &[u8], mut space: Vec<u8>) -> Result<Self, FormatError> {
        let what = "frame";
        let (header, head_len) = FrameHeader::decode(bytes)?.ok_or(FormatError::Truncated { what })?;
        if !header.base.is_empty() {
            return Err(FormatError::Unknown {
                what: "base of frame with a chunk count of",
                value: header.base.len() as u64,
            });
        }
        if header.key_id != 0 {
            return Err(FormatError::Unknown { what: "key id of frame", value: header.key_id.into() });
        }
        let payload = &bytes[head_len..];
        match payload.len().checked_sub(header.payload_len as usize) {
            None => return Err(FormatError::Truncated { what }),
            Some(0) => {}
            Some(extra) => return Err(FormatError::Trailing { what, extra }),
        }
        space.clear();
        match header.codec {
            Codec::Plain => space.extend_from_slice(payload),
            Codec::Zstd => decompress(payload, header.raw_len, &mut space)?,
        }
        Ok(Self { raw: space, lens: header.lens })
    }

    /// The memory of the raw bytes, for [`decode_in`](Self::decode_in).
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    pub fn chunk_count(&self) -> usize {
        self.lens.len()
    }

    /// Length in bytes of chunk `index`, or `None` behind the last.
    pub fn chunk_len(&self, index: usize) -> Option<u32> {
        self.lens.get(index).copied()
    }

    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Id and length of every chunk, in order; hashes everything.
    pub fn ids(&self) -> Vec<(ChunkId, u32)> {
        let mut rest = self.raw.as_slice();
        let id_next = |&len: &u32| {
            let (chunk, behind) = rest.split_at(len as usize);
            rest = behind;
            (ChunkId::of(chunk), len)
        };
        self.lens.iter().map(id_next).collect()
    }

    /// The `len` bytes at offset `at` of the raw bytes, if they are the chunk `id`.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] when the frame has no such bytes, [`FormatError::Mismatch`] when they are something else.
    pub fn verify(&self, at: u32, len: u32, id: &ChunkId) -> Result<Verified<'_>, FormatError> {
        let at = at as usize;
        let chunk = at
            .checked_add(len as usize)
            .and_then(|end| self.raw.get(at..end))
            .ok_or(FormatError::Truncated { what: "frame" })?;
        verify(chunk, id)
    }
}

/// Demands exactly one Zstandard frame that names its content size. The library alone would also take several frames in
/// a row and skippable ones, so that one chunk list could have many encodings.
fn decompress(payload: &[u8], raw_len: u32, raw: &mut Vec<u8>) -> Result<(), FormatError> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let bad = || FormatError::BadPayload { raw_len };
    let sole = payload.starts_with(&MAGIC)
        && zstd_safe::find_frame_compressed_size(payload) == Ok(payload.len())
        && matches!(zstd_safe::get_frame_content_size(payload), Ok(Some(size)) if size == u64::from(raw_len));
    if !sole {
        return Err(bad());
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        let decompressor = slot.as_mut().ok_or_else(bad)?;
        raw.reserve_exact(raw_len as usize);
        match decompressor.decompress_to_buffer(payload, raw) {
            Ok(len) if len == raw_len as usize => Ok(()),
            Ok(_) | Err(_) => Err(bad()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameBuilder;

    fn frame(codec: Codec, payload: &[u8], lens: &[u32]) -> Vec<u8> {
        let header = FrameHeader {
            codec,
            key_id: 0,
            base: Vec::new(),
            raw_len: lens.iter().sum(),
            payload_len: payload.len() as u32,
            lens: lens.to_vec(),
        };
        [header.encode(), payload.to_vec()].concat()
    }

    #[test]
    fn chunks_come_back_verified() {
        let parts = [vec![1; 5000], vec![2; 4096], vec![3]];
        let mut builder = FrameBuilder::new();
        for part in &parts {
            builder.push(ChunkId::of(part), part);
        }
        let encoded = builder.take().encode(3);
        let decoded = DecodedFrame::decode(&encoded.bytes).unwrap();
        assert_eq!(decoded.raw(), parts.concat());
        assert_eq!(decoded.ids(), encoded.chunks);
        assert_eq!(decoded.chunk_count(), 3);
        assert_eq!([0, 1, 2, 3].map(|i| decoded.chunk_len(i)), [Some(5000), Some(4096), Some(1), None]);
        let id = ChunkId::of(&parts[1]);
        let verified = decoded.verify(5000, 4096, &id).unwrap();
        assert_eq!((verified.id(), verified.bytes()), (&id, parts[1].as_slice()));
        assert!(matches!(decoded.verify(4999, 4096, &id), Err(FormatError::Mismatch { .. })));
        let beyond = [(5001, 4097), (9097, 1), (u32::MAX, u32::MAX)];
        for (at, len) in beyond {
            assert!(matches!(decoded.verify(at, len, &id), Err(FormatError::Truncated { .. })));
        }
    }

    #[test]
    fn memory_is_used_again() {
        let mut space = Vec::new();
        for (n, codec) in [Codec::Zstd, Codec::Plain, Codec::Zstd, Codec::Plain].into_iter().enumerate() {
            let raw = vec![n as u8; 8192];
            let payload = if codec == Codec::Zstd { zstd::bulk::compress(&raw, 3).unwrap() } else { raw.clone() };
            let (at, room) = (space.as_ptr(), space.capacity());
            let decoded = DecodedFrame::decode_in(&frame(codec, &payload, &[8192]), space).unwrap();
            assert_eq!(decoded.raw(), raw);
            space = decoded.into_raw();
            assert!(n == 0 || (space.as_ptr(), space.capacity()) == (at, room), "{n}");
        }
    }

    #[test]
    fn only_one_plain_zstd_frame_is_a_payload() {
        let raw = vec![7; 8192];
        let good = zstd::bulk::compress(&raw, 3).unwrap();
        let half = zstd::bulk::compress(&raw[..4096], 3).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9], good.as_slice()].concat();
        let unsized_ = zstd::stream::encode_all(raw.as_slice(), 3).unwrap();
        let check = |payload: &[u8], want: bool| {
            let decoded = DecodedFrame::decode(&frame(Codec::Zstd, payload, &[4096, 4096]));
            assert_eq!(decoded.is_ok(), want, "{payload:?}");
        };
        check(&good, true);
        check(&[half.clone(), half.clone()].concat(), false);
        check(&half, false);
        check(&skippable, false);
        check(&unsized_, false);
        check(&good[..good.len() - 1], false);
        check(&[good.as_slice(), &[0]].concat(), false);
        check(b"", false);
        check(&[0; 100], false);
    }

    #[test]
    fn unknown_and_wrong_lengths_are_named() {
        fn check(bytes: &[u8], want: &str) {
            let error = DecodedFrame::decode(bytes).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
        let good = frame(Codec::Plain, b"abc", &[3]);
        assert!(DecodedFrame::decode(&good).is_ok());
        check(&good[..good.len() - 1], "frame: ends too early");
        check(&good[..10], "frame: ends too early");
        check(&[good.as_slice(), b"d"].concat(), "frame: 1 bytes too many");
        let mut keyed = good.clone();
        keyed[6] = 5;
        check(&keyed, "key id of frame 5 is not known to this program");
        let mut based = good.clone();
        based[8] = 1;
        based.splice(20..20, [0; 32]);
        check(&based, "base of frame with a chunk count of 1 is not known to this program");
    }
}
