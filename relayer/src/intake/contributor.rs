//! Contributors: one random secret each, sealed under the storage key, from which their pseudonyms are made.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::Address;
use sqlx::{PgPool, Row};
use zeroize::Zeroizing;

use super::Tx;
use crate::storage_key::{ROWS_AT_ONCE, Rotation, StorageKey};

/// The longest reference, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 512;

/// The secrets of these contributors, made where they are new.
pub async fn secrets(
    tx: &mut Tx<'_>,
    key: &StorageKey,
    provider: Address,
    references: BTreeSet<String>,
) -> anyhow::Result<HashMap<String, Zeroizing<[u8; 32]>>> {
    // sorted, so that two batches that name the same contributors wait for each other and do not deadlock
    let references: Vec<String> = references.into_iter().collect();
    let mut secrets = kept(tx, key, provider, &references).await?;
    let new: Vec<String> = references.into_iter().filter(|reference| !secrets.contains_key(reference)).collect();
    if new.is_empty() {
        return Ok(secrets);
    }
    let mut made = Vec::with_capacity(new.len());
    let mut sealed = Vec::with_capacity(new.len());
    for reference in &new {
        let mut secret = Zeroizing::new([0u8; 32]);
        getrandom::fill(secret.as_mut_slice())?;
        sealed.push(key.seal(provider, reference, &secret)?);
        made.push(secret);
    }
    let inserted: Vec<String> = sqlx::query_scalar(
        "INSERT INTO contributor (provider, reference, sealed_secret)
         SELECT $1, * FROM unnest($2::text[], $3::bytea[]) ON CONFLICT DO NOTHING RETURNING reference",
    )
    .bind(provider.0.0)
    .bind(&new)
    .bind(sealed)
    .fetch_all(&mut **tx)
    .await?;
    let inserted: BTreeSet<String> = inserted.into_iter().collect();
    let (ours, theirs): (Vec<_>, Vec<_>) =
        new.into_iter().zip(made).partition(|(reference, _)| inserted.contains(reference));
    secrets.extend(ours);
    if !theirs.is_empty() {
        // another transaction made these meanwhile
        let references: Vec<String> = theirs.into_iter().map(|(reference, _)| reference).collect();
        secrets.extend(kept(tx, key, provider, &references).await?);
    }
    Ok(secrets)
}

async fn kept(
    tx: &mut Tx<'_>,
    key: &StorageKey,
    provider: Address,
    references: &[String],
) -> anyhow::Result<HashMap<String, Zeroizing<[u8; 32]>>> {
    let rows =
        sqlx::query("SELECT reference, sealed_secret FROM contributor WHERE provider = $1 AND reference = ANY($2)")
            .bind(provider.0.0)
            .bind(references)
            .fetch_all(&mut **tx)
            .await?;
    rows.into_iter()
        .map(|row| {
            let reference: String = row.try_get(0)?;
            let secret = key.open(provider, &reference, row.try_get::<&[u8], _>(1)?)?;
            Ok((reference, secret))
        })
        .collect()
}

/// Whether a storage key opens a sealed secret; none where there is none.
pub async fn opens_a_secret(db: &PgPool, key: &StorageKey) -> anyhow::Result<Option<bool>> {
    let row =
        sqlx::query("SELECT provider, reference, sealed_secret FROM contributor LIMIT 1").fetch_optional(db).await?;
    let Some(row) = row else { return Ok(None) };
    let provider = Address::from(row.try_get::<[u8; 20], _>(0)?);
    Ok(Some(key.open(provider, row.try_get(1)?, row.try_get::<&[u8], _>(2)?).is_ok()))
}

/// Seals some contributors' secrets again, those after `from` by provider and reference, where the current key has not
/// sealed them; gives where to go on.
pub async fn seal_again(
    db: &PgPool,
    key: &StorageKey,
    from: (Vec<u8>, String),
    done: &mut Rotation,
) -> anyhow::Result<Option<(Vec<u8>, String)>> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query(
        "SELECT provider, reference, sealed_secret FROM contributor WHERE (provider, reference) > ($1, $2)
         ORDER BY provider, reference LIMIT $3 FOR UPDATE",
    )
    .bind(from.0)
    .bind(from.1)
    .bind(ROWS_AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    let (mut providers, mut references, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for row in rows {
        let (provider, reference): ([u8; 20], String) = (row.try_get(0)?, row.try_get(1)?);
        let again = key.seal_again(Address::from(provider), &reference, row.try_get::<&[u8], _>(2)?)?;
        done.count(again.as_ref());
        last = Some((provider.to_vec(), reference.clone()));
        if let Some(again) = again {
            providers.push(provider.to_vec());
            references.push(reference);
            sealed.push(again);
        }
    }
    sqlx::query(
        "UPDATE contributor AS c SET sealed_secret = again.sealed
         FROM unnest($1::bytea[], $2::text[], $3::bytea[]) AS again (provider, reference, sealed)
         WHERE (c.provider, c.reference) = (again.provider, again.reference)",
    )
    .bind(providers)
    .bind(references)
    .bind(sealed)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(last)
}
