//! Creations that happen once however often they are asked for: the answer is kept per token and key, in the creation's own transaction.

use crate::core::Caller;
use crate::db::{DbError, Tx, TxError, sql};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slipway_api::{Code, Problem};

/// Longest key that is taken.
pub const KEY_MAX: usize = 200;

/// Takes the caller's key, or gives the answer that it was taken with. Another body under the same key is refused.
pub async fn idempotency_begin<T: DeserializeOwned>(tx: &mut Tx, who: &Caller) -> Result<Option<T>, TxError> {
    let (Some(wish), Some(token)) = (&who.idempotency, who.token) else { return Ok(None) };
    if wish.key.is_empty() || wish.key.len() > KEY_MAX {
        let title = format!("an Idempotency-Key has 1 to {KEY_MAX} characters");
        return Err(Problem::new(Code::InvalidRequest, title).field("Idempotency-Key").into());
    }
    let now = tx.now();
    // Another request with the same key that is under way makes this wait on PostgreSQL; SQLite has one writer.
    let taken = tx
        .run(
            sql("INSERT INTO idempotency (token, key, request_hash, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (token, key) DO NOTHING")
                .bind(token)
                .bind(&wish.key)
                .bind(&wish.request_hash)
                .bind(now),
        )
        .await?;
    if taken == 1 {
        return Ok(None);
    }
    let row = tx
        .row_must(
            sql("SELECT request_hash, answer FROM idempotency WHERE token = $1 AND key = $2")
                .bind(token)
                .bind(&wish.key),
        )
        .await?;
    if row.text("request_hash")? != wish.request_hash {
        let title = "this Idempotency-Key was used with another request";
        return Err(Problem::new(Code::IdempotencyMismatch, title).hint("use a fresh key for another request").into());
    }
    match row.json_or_null("answer")? {
        Some(answer) => Ok(Some(answer)),
        None => Err(Problem::new(
            Code::Conflict,
            "the request with this Idempotency-Key has no answer that can be repeated",
        )
        .into()),
    }
}

/// Keeps the answer. It must hold no secret: what is shown once is not repeated.
pub async fn idempotency_finish<T: Serialize>(tx: &mut Tx, who: &Caller, answer: &T) -> Result<(), DbError> {
    let (Some(wish), Some(token)) = (&who.idempotency, who.token) else { return Ok(()) };
    let answer = serde_json::to_string(answer)
        .map_err(|error| DbError::Column { column: "answer".to_owned(), detail: error.to_string() })?;
    tx.run(
        sql("UPDATE idempotency SET answer = $1 WHERE token = $2 AND key = $3")
            .bind(answer)
            .bind(token)
            .bind(&wish.key),
    )
    .await?;
    Ok(())
}
