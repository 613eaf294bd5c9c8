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
        self.blob_range_in(range, || std::future::ready(Vec::new())).await
    }

    /// As [`blob_range`](Self::blob_range), into memory that is lent when the answer begins, in place of what it holds: until then a request
    /// takes none.
    ///
    /// # Errors
    /// As [`blob_range`](Self::blob_range).
    pub async fn blob_range_in<B, L>(&self, range: &BlobRange<'_>, lend: impl Fn() -> L) -> Result<B, ApiError>
    where
        B: AsMut<Vec<u8>>,
        L: Future<Output = B>,
    {
        let url = match range.address.starts_with('/') {
            true => self.base_join(range.address)?,
            false => Url::parse(range.address)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https"))
                .ok_or_else(|| ApiError::protocol("reading a layout", "it names an address that is no URL"))?,
        };
        let mut broken = 0;
        loop {
            match self.blob_read(url.clone(), range, &lend).await {
                Err(ApiError::Transport { .. }) if broken < 3 => broken += 1,
                answer => return answer,
            }
        }
    }

    async fn blob_read<B, L>(&self, url: Url, range: &BlobRange<'_>, lend: impl Fn() -> L) -> Result<B, ApiError>
    where
        B: AsMut<Vec<u8>>,
        L: Future<Output = B>,
    {
        let (at, len) = (range.at, u64::from(range.len));
        let act = "reading a pack";
        let ask = self.ask_url(Method::GET, act, url, true, false);
        let ask = ask.header("range", byte_range(at, len)).header("accept-encoding", "identity");
        let mut response = self.open(ask).await?;
        range_check(act, &response, at, len)?;
        let mut lent = lend().await;
        let body = lent.as_mut();
        body.clear();
        body.reserve_exact(range.len as usize);
        while let Some(part) = part_read(act, &mut response, self.inner.idle).await? {
            if (body.len() + part.len()) as u64 > len {
                return Err(ApiError::protocol(act, "more bytes came than asked for"));
            }
            body.extend_from_slice(&part);
        }
        match body.len() as u64 == len {
            true => Ok(lent),
            false => {
                let reason = format!("the connection ended after {} of {len} bytes", body.len());
                Err(ApiError::Transport { act: act.to_owned(), reason })
            }
        }
    }
}
