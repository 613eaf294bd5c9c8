//! The key of capabilities: one for all servers of a database, made by the first that needs it.

use crate::capability::CapabilityKey;
use crate::core::{Caller, Core};
use crate::db::{TxError, sql, tx};
use rand::TryRng;
use serde_json::json;
use slipway_api::{Code, Problem};

/// The key, made if there is none. It lies in the database, as readable to who may read that as the rows it protects.
pub(crate) async fn capability_key_get(core: &Core) -> Result<CapabilityKey, Problem> {
    let mut fresh = [0u8; 32];
    rand::rngs::SysRng
        .try_fill_bytes(&mut fresh)
        .map_err(|error| Problem::new(Code::Internal, format!("making a key: {error}")))?;
    let fresh: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
    let kept: Result<String, TxError> = tx!(&core.db, &Caller::server(), |tx| {
        // Of two servers that start at once, the first one's key stays.
        let insert = sql(
            "INSERT INTO secret (name, value, created_at) VALUES ('capability', $1, $2) ON CONFLICT (name) DO NOTHING",
        );
        let insert = insert.bind(&fresh).bind(tx.now());
        if tx.run(insert).await? == 1 {
            tx.journal("capability_key_make", "server", json!({}));
        }
        Ok(tx.row_must(sql("SELECT value FROM secret WHERE name = 'capability'")).await?.text("value")?)
    });
    let kept = kept?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes =
        kept.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>().and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(CapabilityKey::from_bytes)
        .ok_or_else(|| Problem::new(Code::Internal, "the key of capabilities in the database has not 32 bytes"))
}
