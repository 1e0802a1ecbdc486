//! Contributors: one random secret each, sealed under the storage key, from which their pseudonyms are made.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::Address;
use anyhow::Context;
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sqlx::{PgPool, Row};
use zeroize::Zeroizing;

use super::Tx;

/// The longest reference, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 512;

/// Seals contributors' and webhooks' secrets in the database.
pub struct StorageKey(XChaCha20Poly1305);

impl StorageKey {
    /// From the key file's bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(bytes.into()))
    }

    fn context(provider: Address, reference: &str) -> Vec<u8> {
        [provider.as_slice(), reference.as_bytes()].concat()
    }

    pub(crate) fn seal(&self, provider: Address, reference: &str, secret: &[u8; 32]) -> anyhow::Result<Vec<u8>> {
        let mut nonce = [0u8; 24];
        getrandom::fill(&mut nonce)?;
        let payload = Payload { msg: secret, aad: &Self::context(provider, reference) };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).map_err(|_| anyhow::anyhow!("seal a secret"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) fn open(
        &self,
        provider: Address,
        reference: &str,
        sealed: &[u8],
    ) -> anyhow::Result<Zeroizing<[u8; 32]>> {
        let (nonce, sealed) = sealed.split_first_chunk::<24>().context("a sealed secret is cut")?;
        let payload = Payload { msg: sealed, aad: &Self::context(provider, reference) };
        let secret = Zeroizing::new(self.0.decrypt(&XNonce::from(*nonce), payload).map_err(|_| {
            anyhow::anyhow!("a sealed secret does not open: is this the storage key it was sealed with?")
        })?);
        Ok(Zeroizing::new(<[u8; 32]>::try_from(secret.as_slice()).context("a sealed secret has another length")?))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_for_its_own_contributor_and_key() {
        let key = StorageKey::new(&[7; 32]);
        let provider = Address::repeat_byte(1);
        let sealed = key.seal(provider, "user-1", &[9; 32]).unwrap();
        assert_eq!(sealed.len(), 72);
        assert_eq!(*key.open(provider, "user-1", &sealed).unwrap(), [9; 32]);
        assert!(key.open(provider, "user-2", &sealed).is_err());
        assert!(key.open(Address::repeat_byte(2), "user-1", &sealed).is_err());
        assert!(StorageKey::new(&[8; 32]).open(provider, "user-1", &sealed).is_err());
        assert!(key.open(provider, "user-1", &sealed[..20]).is_err());
    }
}
