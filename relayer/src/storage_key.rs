//! The storage key: seals contributors' and webhooks' secrets in the database, and can be changed while relayers run.

use alloy::primitives::Address;
use anyhow::Context;
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use serde::Serialize;
use sqlx::{PgPool, Row};
use zeroize::Zeroizing;

use crate::{intake::contributor, outbox};

/// Rows of one transaction of a rotation.
pub const ROWS_AT_ONCE: i64 = 1_000;

/// The key that seals, and the one before it, which opens what was not sealed again yet.
pub struct StorageKey {
    current: XChaCha20Poly1305,
    former: Option<XChaCha20Poly1305>,
}

impl StorageKey {
    /// From the key files' bytes.
    pub fn new(current: &[u8; 32], former: Option<&[u8; 32]>) -> Self {
        let cipher = |bytes: &[u8; 32]| XChaCha20Poly1305::new(bytes.into());
        Self { current: cipher(current), former: former.map(cipher) }
    }

    fn context(provider: Address, reference: &str) -> Vec<u8> {
        [provider.as_slice(), reference.as_bytes()].concat()
    }

    /// Under the current key, for one owner: nonce and ciphertext.
    pub(crate) fn seal(&self, provider: Address, reference: &str, secret: &[u8; 32]) -> anyhow::Result<Vec<u8>> {
        let mut nonce = [0u8; 24];
        getrandom::fill(&mut nonce)?;
        let payload = Payload { msg: secret, aad: &Self::context(provider, reference) };
        let sealed =
            self.current.encrypt(&XNonce::from(nonce), payload).map_err(|_| anyhow::anyhow!("seal a secret"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// What was sealed for this owner, under either key.
    pub(crate) fn open(
        &self,
        provider: Address,
        reference: &str,
        sealed: &[u8],
    ) -> anyhow::Result<Zeroizing<[u8; 32]>> {
        Ok(self.open_and_tell(provider, reference, sealed)?.0)
    }

    /// And whether it was sealed under the current key.
    fn open_and_tell(
        &self,
        provider: Address,
        reference: &str,
        sealed: &[u8],
    ) -> anyhow::Result<(Zeroizing<[u8; 32]>, bool)> {
        let (nonce, sealed) = sealed.split_first_chunk::<24>().context("a sealed secret is cut")?;
        let context = Self::context(provider, reference);
        let open = |key: &XChaCha20Poly1305| {
            key.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &context }).ok().map(Zeroizing::new)
        };
        let opened = match open(&self.current) {
            Some(secret) => Some((secret, true)),
            None => self.former.as_ref().and_then(open).map(|secret| (secret, false)),
        };
        let (secret, is_current) =
            opened.context("a sealed secret does not open: is this the storage key it was sealed with?")?;
        let secret = <[u8; 32]>::try_from(secret.as_slice()).context("a sealed secret has another length")?;
        Ok((Zeroizing::new(secret), is_current))
    }

    /// The same secret under the current key; `None` where it is already.
    pub(crate) fn seal_again(
        &self,
        provider: Address,
        reference: &str,
        sealed: &[u8],
    ) -> anyhow::Result<Option<Vec<u8>>> {
        let opened = self.open_and_tell(provider, reference, sealed);
        let (secret, is_current) = opened.with_context(|| format!("a secret of provider {provider}"))?;
        if is_current { Ok(None) } else { self.seal(provider, reference, &secret).map(Some) }
    }
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rotation {
    /// Secrets that were under the former key.
    pub sealed_again: u64,
    /// Secrets that were under the current one.
    pub current_already: u64,
}

impl Rotation {
    pub(crate) fn count(&mut self, again: Option<&Vec<u8>>) {
        match again {
            Some(_) => self.sealed_again += 1,
            None => self.current_already += 1,
        }
    }

    /// Both.
    pub fn secrets(self) -> u64 {
        self.sealed_again + self.current_already
    }
}

/// Secrets in the database, for a bar.
pub async fn count(db: &PgPool) -> sqlx::Result<u64> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM contributor) + (SELECT count(*) + count(former_secret) FROM outbox_endpoint)",
    );
    Ok(u64::try_from(row.fetch_one(db).await?.try_get::<i64, _>(0)?).unwrap_or_default())
}

/// Seals under the current key what the former one sealed, some rows a transaction; may be stopped and run again.
pub async fn rotate(db: &PgPool, key: &StorageKey, mut progress: impl FnMut(Rotation)) -> anyhow::Result<Rotation> {
    let mut done = Rotation::default();
    let mut after = Some((Vec::new(), String::new()));
    while let Some(from) = after {
        after = contributor::seal_again(db, key, from, &mut done).await?;
        progress(done);
    }
    let mut after = Some(Vec::new());
    while let Some(from) = after {
        after = outbox::seal_again(db, key, from, &mut done).await?;
        progress(done);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_for_its_own_contributor_and_key() {
        let key = StorageKey::new(&[7; 32], None);
        let provider = Address::repeat_byte(1);
        let sealed = key.seal(provider, "user-1", &[9; 32]).unwrap();
        assert_eq!(sealed.len(), 72);
        assert_eq!(*key.open(provider, "user-1", &sealed).unwrap(), [9; 32]);
        assert!(key.open(provider, "user-2", &sealed).is_err());
        assert!(key.open(Address::repeat_byte(2), "user-1", &sealed).is_err());
        assert!(StorageKey::new(&[8; 32], None).open(provider, "user-1", &sealed).is_err());
        assert!(key.open(provider, "user-1", &sealed[..20]).is_err());
    }

    #[test]
    fn what_a_former_key_sealed_opens_and_is_sealed_again_once() {
        let provider = Address::repeat_byte(1);
        let sealed = StorageKey::new(&[7; 32], None).seal(provider, "user-1", &[9; 32]).unwrap();
        let both = StorageKey::new(&[8; 32], Some(&[7; 32]));
        assert_eq!(*both.open(provider, "user-1", &sealed).unwrap(), [9; 32]);
        let again = both.seal_again(provider, "user-1", &sealed).unwrap().unwrap();
        assert_eq!(both.seal_again(provider, "user-1", &again).unwrap(), None);
        assert_eq!(*StorageKey::new(&[8; 32], None).open(provider, "user-1", &again).unwrap(), [9; 32]);
        assert!(StorageKey::new(&[7; 32], None).open(provider, "user-1", &again).is_err());
        assert!(both.seal_again(provider, "user-2", &sealed).is_err());
    }
}
