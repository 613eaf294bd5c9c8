//! CRC-32 of raw images: how the BAAS dialect tells contents apart that have no version numbers.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql, tx};
use crate::rules::store_problem::store_problem;
use crate::rules::upload_fill::blocking;
use crc32fast::Hasher;
use slipway_api::Problem;
use slipway_chunk::Root;
use slipway_store::{SpaceId, StoreError};
use std::sync::Arc;
use uuid::Uuid;

/// Bytes read at once.
const STRIDE: usize = 1 << 20;

/// The CRC-32 (IEEE) of a content's raw bytes, as 8 hexadecimal digits. Every chunk is verified on the way; holes cost nothing.
pub(crate) async fn content_crc32(core: &Arc<Core>, spaces: Vec<SpaceId>, root: Root) -> Result<String, Problem> {
    let (store, ledger) = (core.store.clone(), core.ledger());
    blocking(move || {
        let fault = |error: StoreError| store_problem(&format!("reading content {root}"), error);
        let mut reader = store.content_open_once(&spaces, &root, &ledger).map_err(fault)?;
        let (mut hasher, mut buf, mut at) = (Hasher::new(), vec![0u8; STRIDE], 0);
        while let Some(stretch) = reader.extents_from(at).map_err(fault)? {
            if stretch.hole {
                hasher.combine(&zeros(stretch.len));
                at += stretch.len;
                continue;
            }
            let end = at + stretch.len;
            while at < end {
                let len = (end - at).min(STRIDE as u64) as usize;
                reader.read_at(at, &mut buf[..len]).map_err(fault)?;
                hasher.update(&buf[..len]);
                at += len as u64;
            }
        }
        Ok(format!("{:08x}", hasher.finalize()))
    })
    .await?
}

/// The checksum of so many zero bytes, by doubling.
fn zeros(len: u64) -> Hasher {
    let (mut all, mut power) = (Hasher::new(), Hasher::new());
    power.update(&[0]);
    for bit in 0..u64::BITS - len.leading_zeros() {
        if len >> bit & 1 == 1 {
            all.combine(&power);
        }
        let half = power.clone();
        power.combine(&half);
    }
    all
}

/// Computes a checksum that is not known yet and keeps it. It is a property of immutable bytes: writing it down changes no answer.
pub(crate) async fn content_crc32_keep(
    core: &Arc<Core>,
    content: Uuid,
    spaces: Vec<SpaceId>,
    root: Root,
) -> Result<String, Problem> {
    let crc32 = content_crc32(core, spaces, root).await?;
    let server = Caller::server();
    let kept: Result<u64, TxError> = tx!(&core.db, &server, |tx| {
        Ok(tx.run(sql("UPDATE content SET crc32 = $1 WHERE id = $2").bind(&crc32).bind(content)).await?)
    });
    kept?;
    Ok(crc32)
}

#[cfg(test)]
mod tests {
    use super::{Hasher, zeros};

    #[test]
    fn zeros_have_the_checksum_of_zeros() {
        assert_eq!(format!("{:08x}", zeros(128 << 20).finalize()), "80654151");
        for len in [0, 1, 7, 4096, 100_001] {
            let mut plain = Hasher::new();
            plain.update(&vec![0; len as usize]);
            assert_eq!(zeros(len).finalize(), plain.clone().finalize(), "{len}");
            // In the middle of something too.
            let (mut one, mut other) = (Hasher::new(), Hasher::new());
            one.update(b"abc");
            one.combine(&zeros(len));
            other.update(b"abc");
            other.combine(&plain);
            assert_eq!(one.finalize(), other.finalize(), "{len}");
        }
    }
}
