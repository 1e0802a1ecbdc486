//! Answers by `X-Batch-Id`: the same id with the same body gets the same answer, with another body none.

use alloy::primitives::{Address, B256};
use sqlx::{Row, types::Json};

use super::Tx;
use crate::problem::{Kind, Problem};

/// The kept answer to this batch id; holds the id for the rest of the transaction where there is none yet.
pub async fn replay<T: serde::de::DeserializeOwned + Send + Unpin>(
    tx: &mut Tx<'_>,
    provider: Address,
    batch_id: &str,
    body_hash: B256,
) -> Result<Option<(u16, T)>, Problem> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))")
        .bind(format!("{provider}/{batch_id}"))
        .execute(&mut **tx)
        .await?;
    let row = sqlx::query("SELECT body_hash, status, answer FROM webhook_batch WHERE provider = $1 AND batch_id = $2")
        .bind(provider.0.0)
        .bind(batch_id)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let before = B256::from(row.try_get::<[u8; 32], _>(0)?);
    if before != body_hash {
        let expected = format!("the body sent with {batch_id:?} before (SHA-256 {before}), or another id");
        return Err(Problem::field(Kind::BatchIdReused, "X-Batch-Id", expected, body_hash.to_string()));
    }
    let status = u16::try_from(row.try_get::<i16, _>(1)?).map_err(Problem::internal)?;
    let Json(answer) = row.try_get::<Json<T>, _>(2)?;
    Ok(Some((status, answer)))
}

/// Keeps an answer in the transaction that it reports on.
pub async fn keep<T: serde::Serialize + Sync>(
    tx: &mut Tx<'_>,
    provider: Address,
    batch_id: &str,
    body_hash: B256,
    status: u16,
    answer: &T,
) -> Result<(), Problem> {
    sqlx::query(
        "INSERT INTO webhook_batch (provider, batch_id, body_hash, status, answer) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(provider.0.0)
    .bind(batch_id)
    .bind(body_hash.0)
    .bind(i16::try_from(status).map_err(Problem::internal)?)
    .bind(Json(answer))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
