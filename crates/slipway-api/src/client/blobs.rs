use super::request::part_read;
use super::versions::{byte_range, range_check};
use super::{ApiError, Client};
use reqwest::{Method, Url};

/// Bytes of a pack, by the address that a layout gave.
#[derive(Clone, Debug)]
pub struct BlobRange<'a> {
    /// A path of this server, or an absolute URL; with its capability.
    pub address: &'a str,
    /// The first byte.
    pub at: u64,
    /// How many.
    pub len: u32,
}

impl Client {
    /// Reads exactly these bytes of a pack. They are not verified yet. The token is not sent: the address itself is the right to read.
    ///
    /// # Errors
    /// A problem with status 403, 404 or 410 means that the address has ended and a new layout helps. A body that is
    /// cut off is fetched again like a connection that broke.
    pub async fn blob_range(&self, range: &BlobRange<'_>) -> Result<Vec<u8>, ApiError> {
        let mut bytes = Vec::new();
        self.blob_range_into(range, &mut bytes).await?;
        Ok(bytes)
    }

    /// As [`blob_range`](Self::blob_range), into memory that was used before, in place of what it holds.
    ///
    /// # Errors
    /// As [`blob_range`](Self::blob_range); what `into` holds then means nothing.
    pub async fn blob_range_into(&self, range: &BlobRange<'_>, into: &mut Vec<u8>) -> Result<(), ApiError> {
        let url = match range.address.starts_with('/') {
            true => self.base_join(range.address)?,
            false => Url::parse(range.address)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https"))
                .ok_or_else(|| ApiError::protocol("reading a layout", "it names an address that is no URL"))?,
        };
        let mut broken = 0;
        loop {
            match self.blob_read(url.clone(), range, into).await {
                Err(ApiError::Transport { .. }) if broken < 3 => broken += 1,
                answer => return answer,
            }
        }
    }

    async fn blob_read(&self, url: Url, range: &BlobRange<'_>, body: &mut Vec<u8>) -> Result<(), ApiError> {
        let (at, len) = (range.at, u64::from(range.len));
        let act = "reading a pack";
        let ask = self.ask_url(Method::GET, act, url, true, false);
        let ask = ask.header("range", byte_range(at, len)).header("accept-encoding", "identity");
        let mut response = self.open(ask).await?;
        range_check(act, &response, at, len)?;
        body.clear();
        body.reserve_exact(range.len as usize);
        while let Some(part) = part_read(act, &mut response, self.inner.idle).await? {
            if (body.len() + part.len()) as u64 > len {
                return Err(ApiError::protocol(act, "more bytes came than asked for"));
            }
            body.extend_from_slice(&part);
        }
        match body.len() as u64 == len {
            true => Ok(()),
            false => {
                let reason = format!("the connection ended after {} of {len} bytes", body.len());
                Err(ApiError::Transport { act: act.to_owned(), reason })
            }
        }
    }
}
