//! Compression of downloads, on request.

use std::io::Write as _;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use slipway_api::{Code, Problem};

use super::stream::Pieces;

/// How an answer's bytes are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// The one the client wants: zstd before gzip, and neither together with a range, which is of the raw bytes.
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        if headers.contains_key(header::RANGE) {
            return Self::Identity;
        }
        let mut wanted = Self::Identity;
        let given = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for one in given.flat_map(|text| text.split(',')) {
            let mut parts = one.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts.any(|part| {
                part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|quality| quality == 0.0))
            });
            match (name.to_ascii_lowercase().as_str(), refused) {
                ("zstd", false) => return Self::Zstd,
                ("gzip" | "x-gzip", false) => wanted = Self::Gzip,
                _ => {}
            }
        }
        wanted
    }

    /// The name in `Content-Encoding`.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(bytes).map(|()| std::mem::take(encoder.get_mut())),
            Self::Zstd(encoder) => encoder.write_all(bytes).map(|()| std::mem::take(encoder.get_mut())),
        }
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// Compresses the pieces of another source.
pub(crate) struct Encoded<P> {
    source: P,
    encoder: Option<Encoder>,
}

impl<P: Pieces> Encoded<P> {
    /// `coding` must not be [`Coding::Identity`], which has no encoder: then everything ends at once.
    pub(crate) fn new(source: P, coding: Coding) -> Result<Self, Problem> {
        let encoder = match coding {
            Coding::Identity => None,
            Coding::Gzip => Some(Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()))),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).map_err(failed)?;
                // A download is kept as a file, so it carries its own checksum.
                encoder.include_checksum(true).map_err(failed)?;
                Some(Encoder::Zstd(encoder))
            }
        };
        Ok(Self { source, encoder })
    }
}

fn failed(error: std::io::Error) -> Problem {
    Problem::new(Code::Internal, format!("compressing the download: {error}"))
}

impl<P: Pieces> Pieces for Encoded<P> {
    fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let Some(encoder) = self.encoder.as_mut() else { return Ok(None) };
            let out = match self.source.next()? {
                Some(bytes) => encoder.write(&bytes).map_err(failed)?,
                None => match self.encoder.take() {
                    Some(encoder) => encoder.finish().map_err(failed)?,
                    None => return Ok(None),
                },
            };
            // A run of zeros may give nothing for many pieces.
            if !out.is_empty() {
                return Ok(Some(Bytes::from(out)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Coding, Encoded, HeaderMap, Pieces, Problem, header};
    use std::io::Read as _;

    struct Zeros(u32);
    impl Pieces for Zeros {
        fn next(&mut self) -> Result<Option<Bytes>, Problem> {
            self.0 = self.0.saturating_sub(1);
            Ok((self.0 > 0).then(|| Bytes::from(vec![0; 100_000])))
        }
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let mut encoded = Encoded::new(Zeros(11), coding).unwrap();
            let mut all = Vec::new();
            while let Some(piece) = encoded.next().unwrap() {
                all.extend_from_slice(&piece);
            }
            let mut raw = Vec::new();
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&all[..]).read_to_end(&mut raw).unwrap(),
                _ => zstd::stream::read::Decoder::new(&all[..]).unwrap().read_to_end(&mut raw).unwrap(),
            };
            assert_eq!(raw, vec![0; 1_000_000], "{coding:?}");
        }
    }

    #[test]
    fn the_coding_is_what_the_client_takes() {
        for (accept, range, expected) in [
            ("", false, Coding::Identity),
            ("identity", false, Coding::Identity),
            ("gzip, deflate, br", false, Coding::Gzip),
            ("gzip, zstd", false, Coding::Zstd),
            ("zstd;q=0, gzip;q=0.5", false, Coding::Gzip),
            ("gzip;q=0", false, Coding::Identity),
            ("zstd", true, Coding::Identity),
        ] {
            let mut headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, accept.parse().unwrap())]);
            if range {
                headers.insert(header::RANGE, "bytes=0-1".parse().unwrap());
            }
            assert_eq!(Coding::wanted(&headers), expected, "{accept}");
        }
    }
}
