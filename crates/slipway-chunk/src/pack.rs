use std::io::{self, Write};

use crate::footer::{FOOTER_LEN_MAX, Footer, FrameEntry, PackTrailer};
use crate::frame::EncodedFrame;
use crate::ids::Digest;

/// Length in bytes of what begins a pack; the first frame follows it.
pub const PACK_HEADER_LEN: u64 = 8;
const HEADER: [u8; PACK_HEADER_LEN as usize] = *b"SLPK\x01\0\0\0";

/// What was written, in bytes. `digest` is of the whole pack, trailer included (what `b3sum` prints of the file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackReceipt {
    pub len: u64,
    /// The frames alone, with their headers.
    pub frames_len: u64,
    pub digest: Digest,
    pub footer: Footer,
}

/// Writes a pack from front to back: header, frames, footer, trailer. Nothing is ever sought back to, so it can be a multipart upload.
pub struct PackWriter<W: Write> {
    out: W,
    hasher: blake3::Hasher,
    footer: Footer,
    footer_len: u64,
    len: u64,
}

impl<W: Write> PackWriter<W> {
    /// Writes the header.
    pub fn new(out: W) -> io::Result<Self> {
        let footer = Footer::default();
        let mut writer = Self { out, hasher: blake3::Hasher::new(), footer_len: footer.encoded_len(), footer, len: 0 };
        writer.put(&HEADER)?;
        Ok(writer)
    }

    /// Appends a frame. After an error the pack cannot be finished sensibly: drop it.
    ///
    /// # Errors
    /// What the output says; `InvalidInput` when the footer would grow beyond [`FOOTER_LEN_MAX`].
    pub fn frame_append(&mut self, frame: &EncodedFrame) -> io::Result<()> {
        let entry = FrameEntry {
            offset: self.len,
            len: frame.bytes.len() as u32,
            raw_len: frame.raw_len,
            chunks: frame.chunks.clone(),
        };
        let footer_len = self.footer_len + entry.encoded_len() as u64;
        if footer_len > FOOTER_LEN_MAX {
            let reason = "appending frame to pack: its footer is full";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        self.put(&frame.bytes)?;
        self.footer_len = footer_len;
        self.footer.frames.push(entry);
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no frame was appended yet.
    pub fn is_empty(&self) -> bool {
        self.footer.frames.is_empty()
    }

    /// Bytes that the footer would have if the pack were finished now.
    pub fn footer_len(&self) -> u64 {
        self.footer_len
    }

    /// Bytes of the frames written so far.
    pub fn frames_len(&self) -> u64 {
        self.len - PACK_HEADER_LEN
    }

    /// Writes footer and trailer, and flushes. Making it durable is up to who owns the output.
    pub fn finish(mut self) -> io::Result<(W, PackReceipt)> {
        let frames_len = self.frames_len();
        let footer_offset = self.len;
        let bytes = self.footer.encode();
        self.put(&bytes)?;
        let trailer = PackTrailer {
            footer_offset,
            footer_len: bytes.len() as u64,
            footer_digest: Digest::of(&bytes),
            digest: self.digest(),
        };
        self.put(&trailer.encode())?;
        self.out.flush()?;
        let receipt = PackReceipt { len: self.len, frames_len, digest: self.digest(), footer: self.footer };
        Ok((self.out, receipt))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footer::PACK_TRAILER_LEN;
    use crate::frame::FrameBuilder;
    use crate::frame_decode::DecodedFrame;
    use crate::ids::ChunkId;

    fn frame(number: u8) -> EncodedFrame {
        let mut builder = FrameBuilder::new();
        let chunk = vec![number; 4096 * (1 + usize::from(number))];
        builder.push(ChunkId::of(&chunk), &chunk);
        builder.take().encode(3)
    }

    #[test]
    fn a_pack_is_read_from_its_end() {
        let mut writer = PackWriter::new(Vec::new()).unwrap();
        assert!(writer.is_empty());
        let frames: Vec<_> = (0..5).map(frame).collect();
        for frame in &frames {
            writer.frame_append(frame).unwrap();
        }
        let frames_len = writer.frames_len();
        assert_eq!(frames_len, frames.iter().map(|f| f.bytes.len() as u64).sum::<u64>());
        let (bytes, receipt) = writer.finish().unwrap();
        assert_eq!(receipt.len, bytes.len() as u64);
        assert_eq!(receipt.frames_len, frames_len);
        assert_eq!(receipt.digest, Digest::of(&bytes));

        let body = bytes.len() - PACK_TRAILER_LEN;
        let trailer = PackTrailer::decode(&bytes[body..]).unwrap();
        assert_eq!(trailer.pack_len(), receipt.len);
        assert_eq!(trailer.digest, Digest::of(&bytes[..body]));
        let footer_bytes = &bytes[trailer.footer_offset as usize..body];
        let footer = trailer.footer_decode(footer_bytes).unwrap();
        assert_eq!(footer, receipt.footer);
        for (entry, frame) in footer.frames.iter().zip(&frames) {
            let at = entry.offset as usize;
            let stored = &bytes[at..at + entry.len as usize];
            assert_eq!(stored, frame.bytes);
            assert_eq!(DecodedFrame::decode(stored).unwrap().ids(), entry.chunks);
        }
    }

    #[test]
    fn a_changed_footer_is_noticed() {
        let mut writer = PackWriter::new(Vec::new()).unwrap();
        writer.frame_append(&frame(1)).unwrap();
        let (bytes, _) = writer.finish().unwrap();
        let body = bytes.len() - PACK_TRAILER_LEN;
        let trailer = PackTrailer::decode(&bytes[body..]).unwrap();
        let begin = trailer.footer_offset as usize;
        for at in begin..body {
            let mut footer = bytes[begin..body].to_vec();
            footer[at - begin] ^= 1;
            assert!(trailer.footer_decode(&footer).is_err(), "{at}");
        }
        let mut moved = trailer.clone();
        moved.footer_offset += 1;
        assert!(moved.footer_decode(&bytes[begin..body]).is_err());
    }

    #[test]
    fn an_empty_pack_is_a_pack() {
        let (bytes, receipt) = PackWriter::new(Vec::new()).unwrap().finish().unwrap();
        assert_eq!((receipt.frames_len, bytes.len()), (0, 8 + 12 + 88));
        let trailer = PackTrailer::decode(&bytes[20..]).unwrap();
        assert_eq!(trailer.footer_decode(&bytes[8..20]).unwrap(), Footer::default());
    }

    #[test]
    fn a_full_disk_is_an_error_at_every_byte() {
        struct Limited(usize);
        impl Write for Limited {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let len = bytes.len().min(self.0);
                self.0 -= len;
                if len == 0 && !bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                Ok(len)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        fn write(space: usize) -> io::Result<u64> {
            let mut writer = PackWriter::new(Limited(space))?;
            writer.frame_append(&frame(0))?;
            Ok(writer.finish()?.1.len)
        }
        let need = write(1 << 20).unwrap() as usize;
        for space in 0..need {
            assert!(write(space).is_err(), "{space}");
        }
        assert!(write(need).is_ok());
    }
}
