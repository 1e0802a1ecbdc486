//! Sealing: content is encrypted under a fresh key, and that key is sealed to the custodian, bound to what it is for.
//!
//! ```text
//!  plaintext ── ContentKey (fresh, one a file) ──► ciphertext: 1 MiB chunks, each with its tag
//!  ContentKey ── custodian's PublicKey ──► SealedKey { R, wrapped key, proof that the sealer knew r }
//! ```
//!
//! A sealed key is an ElGamal KEM on secp256k1: `R = rG`, `S = rP`, and the key that wraps comes from `S` by HKDF.
//! Whoever gets `S = dR` can open it, which is how [`crate::release`] hands a key on without the custodian's `d`.
//! The Schnorr proof of `r` is bound to provider, data id, consent and ciphertext, as in TDH2 (Shoup and Gennaro, 1998):
//! nobody can lift `R` out of another record's sealed key, present it under a record that they did license, and so turn the
//! custodian into an oracle for the first. (TDH2 proves `r` under a second base as well, which its reduction needs; this
//! is the shorter signed ElGamal, whose security is argued in the random-oracle and generic-group models.)

use std::{fmt, io, path::Path, str::FromStr};

use alloy::primitives::{Address, B256, Bytes, FixedBytes};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadInOut, KeyInit, Payload},
};
use hkdf::Hkdf;
use k256::{
    AffinePoint, NonZeroScalar, ProjectivePoint, Scalar, U256,
    elliptic_curve::{PrimeField, ops::Reduce, sec1::ToEncodedPoint},
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::ids::{ConsentId, DataId, sha256};

/// Plaintext bytes in every chunk but the last, which has up to as many.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that each chunk grows by: the Poly1305 tag.
pub const TAG_BYTES: usize = 16;
/// The longest [`SealedKey`] as JSON, in bytes; one of ours has about 550.
pub const SEALED_KEY_BYTES_MAX: usize = 4096;

const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const CONTENT_KEY_LABEL: &[u8] = b"tidemark/content-key/1";
const SEALED_KEY_PROOF_LABEL: &[u8] = b"tidemark/sealed-key-proof/1";

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The operating system gave no random bytes.
    #[error("failed to get random bytes from the operating system")]
    Randomness,
    /// A buffer longer than the cipher takes; never one of ours.
    #[error("failed to encrypt: the chunk is too long for the cipher")]
    Encryption,
    /// Bytes of a length that no ciphertext has.
    #[error(
        "ciphertext: expected chunks of {SEALED_CHUNK_BYTES} bytes, the last of at least {TAG_BYTES}, got {0} bytes"
    )]
    Length(usize),
    /// A chunk that does not open under this key, data id and place.
    #[error(
        "chunk {chunk} does not open: the file is cut short, reordered, changed, of another record or under another key"
    )]
    Chunk {
        /// Its number, from 0.
        chunk: u64,
    },
    /// A text or bytes that are no key.
    #[error("expected {expected}, got {actual}")]
    Form {
        /// What it should be.
        expected: &'static str,
        /// What it is, shortened; never a secret.
        actual: String,
    },
    /// The proof does not show that the sealer knew `r` for this data id and ciphertext.
    #[error("sealed key of {data_id}: the proof is not valid; it was changed, or taken from another record")]
    Proof {
        /// The record it claims to be of.
        data_id: DataId,
    },
    /// Sealed to somebody else.
    #[error("sealed key: expected one sealed to {expected}, got one sealed to {actual}")]
    OtherCustodian {
        /// The custodian's key.
        expected: PublicKey,
        /// The key in the sealed key.
        actual: PublicKey,
    },
    /// The wrapped key does not open under the point computed for it.
    #[error("does not open: sealed to another key, of another record or changed")]
    Unopened,
    /// A key file that cannot be read or written.
    #[error("key file `{path}`: failed to {action}")]
    File {
        /// Where.
        path: String,
        /// What was being done.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A key file that others may read.
    #[error("key file `{path}`: expected mode 0600, got {mode:04o}; run `chmod 600 {path}`")]
    FileMode {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
    },
}

/// The key of one file's content; fresh for every file, wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl ContentKey {
    /// A fresh one from the operating system.
    pub fn random() -> Result<Self, SealingError> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| SealingError::Randomness)?;
        Ok(Self(bytes))
    }

    /// One kept elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself; whoever takes it must not log it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

impl PartialEq for ContentKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for ContentKey {}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(secret)")
    }
}

/// 15 zero bytes ‖ 1 on the last chunk, else 0 ‖ index as u64, big endian (the STREAM construction's shape).
///
/// A counter is safe here because a content key encrypts one file once: no two chunks ever share key and nonce. The
/// last flag makes a file cut at a chunk's edge fail, the index a reordered one.
fn chunk_nonce(index: u64, last: bool) -> XNonce {
    let mut nonce = [0u8; 24];
    nonce[15] = u8::from(last);
    nonce[16..].copy_from_slice(&index.to_be_bytes());
    nonce.into()
}

/// Bytes that `plaintext_bytes` become; `None` where that does not fit.
pub fn ciphertext_bytes(plaintext_bytes: usize) -> Option<usize> {
    plaintext_bytes.div_ceil(CHUNK_BYTES).max(1).checked_mul(TAG_BYTES)?.checked_add(plaintext_bytes)
}

/// Encrypts a file under a key that must be fresh: XChaCha20-Poly1305 in 1 MiB chunks, bound to the data id.
///
/// Empty content is one empty last chunk.
pub fn encrypt(key: &ContentKey, data_id: DataId, plaintext: &[u8]) -> Result<Vec<u8>, SealingError> {
    let capacity = ciphertext_bytes(plaintext.len()).ok_or(SealingError::Encryption)?;
    let cipher = key.cipher();
    let mut ciphertext = Vec::with_capacity(capacity);
    let mut rest = plaintext;
    let mut index = 0u64;
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
        let start = ciphertext.len();
        ciphertext.extend_from_slice(chunk);
        let tag = cipher
            .encrypt_inout_detached(
                &chunk_nonce(index, after.is_empty()),
                &data_id.bytes(),
                (&mut ciphertext[start..]).into(),
            )
            .map_err(|_| SealingError::Encryption)?;
        ciphertext.extend_from_slice(&tag);
        if after.is_empty() {
            return Ok(ciphertext);
        }
        rest = after;
        index += 1;
    }
}

/// Decrypts a whole file; a missing, reordered, changed or foreign chunk is an error, and nothing comes out.
pub fn decrypt(key: &ContentKey, data_id: DataId, ciphertext: &[u8]) -> Result<Vec<u8>, SealingError> {
    let chunks = chunk_count(ciphertext.len())?;
    let mut plaintext = Vec::with_capacity(ciphertext.len());
    for (index, chunk) in (0..chunks).zip(ciphertext.chunks(SEALED_CHUNK_BYTES)) {
        append_chunk(key, data_id, index, index + 1 == chunks, chunk, &mut plaintext)?;
    }
    Ok(plaintext)
}

/// Decrypts one chunk, so that a reader can seek: chunk `index` starts at byte `index × (CHUNK_BYTES + TAG_BYTES)`.
///
/// `last` must be whether it is the file's last one, which [`chunk_count`] tells from the ciphertext's length.
pub fn decrypt_chunk(
    key: &ContentKey,
    data_id: DataId,
    index: u64,
    last: bool,
    chunk: &[u8],
) -> Result<Vec<u8>, SealingError> {
    let mut plaintext = Vec::with_capacity(chunk.len());
    append_chunk(key, data_id, index, last, chunk, &mut plaintext)?;
    Ok(plaintext)
}

/// Chunks in a ciphertext of that length; an error for a length that no ciphertext has.
pub fn chunk_count(ciphertext_bytes: usize) -> Result<u64, SealingError> {
    let chunks = ciphertext_bytes.div_ceil(SEALED_CHUNK_BYTES);
    let last = ciphertext_bytes - chunks.saturating_sub(1) * SEALED_CHUNK_BYTES;
    // only empty content ends in an empty chunk: one plaintext has one length of ciphertext
    let last_min = if chunks > 1 { TAG_BYTES + 1 } else { TAG_BYTES };
    if last < last_min {
        return Err(SealingError::Length(ciphertext_bytes));
    }
    u64::try_from(chunks).map_err(|_| SealingError::Length(ciphertext_bytes))
}

fn append_chunk(
    key: &ContentKey,
    data_id: DataId,
    index: u64,
    last: bool,
    chunk: &[u8],
    plaintext: &mut Vec<u8>,
) -> Result<(), SealingError> {
    let length_fits = if last { chunk.len() <= SEALED_CHUNK_BYTES } else { chunk.len() == SEALED_CHUNK_BYTES };
    let (body, tag) =
        chunk.split_last_chunk::<TAG_BYTES>().filter(|_| length_fits).ok_or(SealingError::Length(chunk.len()))?;
    let start = plaintext.len();
    plaintext.extend_from_slice(body);
    let opened = key.cipher().decrypt_inout_detached(
        &chunk_nonce(index, last),
        &data_id.bytes(),
        (&mut plaintext[start..]).into(),
        tag.into(),
    );
    if opened.is_err() {
        plaintext.truncate(start);
        return Err(SealingError::Chunk { chunk: index });
    }
    Ok(())
}

/// A point of secp256k1 that is not the identity: a public key, or one half of an exchange. 33 bytes, compressed
/// (SEC 1), as 0x hex in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(k256::PublicKey);

impl PublicKey {
    /// The compressed form.
    pub fn bytes(&self) -> [u8; 33] {
        let mut bytes = [0u8; 33];
        // a point that is not the identity has 33 compressed bytes, always
        for (to, from) in bytes.iter_mut().zip(self.0.to_encoded_point(true).as_bytes()) {
            *to = *from;
        }
        bytes
    }

    /// Reads the compressed form and no other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealingError> {
        // SEC 1 has other forms (uncompressed, compact); one key must have one spelling, as it is hashed
        Some(bytes)
            .filter(|bytes| bytes.len() == 33 && matches!(bytes[0], 2 | 3))
            .and_then(|bytes| k256::PublicKey::from_sec1_bytes(bytes).ok())
            .map(Self)
            .ok_or_else(|| SealingError::Form {
                expected: "a compressed secp256k1 point (33 bytes)",
                actual: shorten(&hex::encode(&bytes[..bytes.len().min(40)])),
            })
    }

    pub(crate) fn point(&self) -> ProjectivePoint {
        self.0.to_projective()
    }

    pub(crate) fn times(&self, scalar: &NonZeroScalar) -> Result<Self, SealingError> {
        Self::from_point(&(self.point() * scalar.as_ref()))
    }

    pub(crate) fn from_point(point: &ProjectivePoint) -> Result<Self, SealingError> {
        k256::PublicKey::from_affine(AffinePoint::from(*point))
            .map(Self)
            .map_err(|_| SealingError::Form { expected: "a point", actual: "the identity".into() })
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = SealingError;

    fn from_str(text: &str) -> Result<Self, SealingError> {
        let mut bytes = [0u8; 33];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes).map_err(|_| SealingError::Form {
            expected: "a public key: 0x and 66 hex digits",
            actual: shorten(text),
        })?;
        Self::from_bytes(&bytes)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A secret scalar of secp256k1, wiped when dropped and never shown: a custodian's key, or a recipient's.
#[derive(Clone)]
pub struct SecretKey(k256::SecretKey);

/// The secret of a custodian.
pub type CustodianKey = SecretKey;

/// The secret of whoever keys are released to.
pub type RecipientKey = SecretKey;

impl SecretKey {
    /// A fresh one from the operating system.
    pub fn random() -> Result<Self, SealingError> {
        // a draw misses the group's order once in 2^128
        for _ in 0..4 {
            let mut bytes = Zeroizing::new([0u8; 32]);
            getrandom::fill(bytes.as_mut_slice()).map_err(|_| SealingError::Randomness)?;
            if let Ok(secret) = k256::SecretKey::from_slice(bytes.as_slice()) {
                return Ok(Self(secret));
            }
        }
        Err(SealingError::Randomness)
    }

    /// Reads 64 hex digits, with or without 0x.
    pub fn from_hex(text: &str) -> Result<Self, SealingError> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0u8; 32]);
        // the error must not repeat the text, which may be most of a secret
        let wrong =
            |actual: &str| SealingError::Form { expected: "a secret key: 64 hex digits", actual: actual.into() };
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), bytes.as_mut_slice())
            .map_err(|_| wrong("something else"))?;
        k256::SecretKey::from_slice(bytes.as_slice())
            .map(Self)
            .map_err(|_| wrong("zero, or a number past the order of secp256k1"))
    }

    /// Its public key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key())
    }

    /// Writes a new file of 64 hex digits that only its owner may read (0600); an existing file is left alone.
    pub fn save(&self, path: &Path) -> Result<(), SealingError> {
        use std::io::Write as _;
        let failed = |action| move |source| SealingError::File { path: path.display().to_string(), action, source };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed("create it"))?;
        let mut text = Zeroizing::new(hex::encode(Zeroizing::new(<[u8; 32]>::from(self.0.to_bytes())).as_slice()));
        text.push('\n');
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write it"))
    }

    /// Reads what [`Self::save`] wrote; refuses a file that group or others may read.
    pub fn load(path: &Path) -> Result<Self, SealingError> {
        use std::io::Read as _;
        let failed = |action| move |source| SealingError::File { path: path.display().to_string(), action, source };
        let file = std::fs::File::open(path).map_err(failed("open it"))?;
        #[cfg(unix)]
        {
            let metadata = file.metadata().map_err(failed("read its mode"))?;
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            if mode & 0o077 != 0 {
                return Err(SealingError::FileMode { path: path.display().to_string(), mode });
            }
        }
        let mut text = Zeroizing::new(String::with_capacity(256));
        file.take(256).read_to_string(&mut text).map_err(failed("read it"))?;
        Self::from_hex(&text)
    }

    pub(crate) fn scalar(&self) -> Zeroizing<NonZeroScalar> {
        Zeroizing::new(self.0.to_nonzero_scalar())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public_key())
    }
}

/// A content key that only the custodian of `public_key` can open: an erasable block of its own in the content store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedKey {
    /// The account of the provider that took the content in: nobody else's dataset can release the key.
    pub provider: Address,
    /// The record whose content the key opens.
    pub data_id: DataId,
    /// The consent that it was given under: while that stands, and no other, the key is released.
    pub consent_id: ConsentId,
    /// `P`: the custodian's, or the committee's, public key.
    pub public_key: PublicKey,
    /// `R = rG`.
    pub ephemeral: PublicKey,
    /// The content key under XChaCha20-Poly1305: 32 bytes and the tag.
    pub ciphertext: FixedBytes<48>,
    /// `c`, of the proof that the sealer knew `r`.
    pub challenge: B256,
    /// `k + cr`.
    pub response: B256,
}

/// What a sealed key is for. Its bytes, provider ‖ dataId ‖ consentId, are in everything that is hashed or encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// See [`SealedKey::provider`].
    pub provider: Address,
    /// See [`SealedKey::data_id`].
    pub data_id: DataId,
    /// See [`SealedKey::consent_id`].
    pub consent_id: ConsentId,
}

impl Binding {
    fn bytes(&self) -> [u8; 68] {
        let mut bytes = [0u8; 68];
        bytes[..20].copy_from_slice(self.provider.as_slice());
        bytes[20..36].copy_from_slice(&self.data_id.bytes());
        bytes[36..].copy_from_slice(self.consent_id.0.as_slice());
        bytes
    }
}

/// Seals a content key to a custodian, bound to the provider, the record and the consent.
pub fn seal_key(custodian: &PublicKey, binding: Binding, key: &ContentKey) -> Result<SealedKey, SealingError> {
    let r = SecretKey::random()?;
    let ephemeral = r.public_key();
    let shared = custodian.times(&r.scalar())?;
    let context = binding.bytes();
    let kek = wrapping_key(CONTENT_KEY_LABEL, &shared, &ephemeral, custodian, &context)?;
    let ciphertext = wrap(&kek, &context, key.expose())?;
    let ciphertext = FixedBytes::<48>::try_from(ciphertext.as_slice()).map_err(|_| SealingError::Encryption)?;

    let k = SecretKey::random()?;
    let challenge = seal_challenge(&ephemeral, custodian, &binding, &ciphertext, &k.public_key());
    let response = *k.scalar().as_ref() + challenge * *r.scalar().as_ref();
    let Binding { provider, data_id, consent_id } = binding;
    Ok(SealedKey {
        provider,
        data_id,
        consent_id,
        public_key: *custodian,
        ephemeral,
        ciphertext,
        challenge: scalar_bytes(&challenge),
        response: scalar_bytes(&response),
    })
}

fn seal_challenge(
    ephemeral: &PublicKey,
    custodian: &PublicKey,
    binding: &Binding,
    ciphertext: &FixedBytes<48>,
    nonce: &PublicKey,
) -> Scalar {
    let parts = [&ephemeral.bytes()[..], &custodian.bytes(), &binding.bytes(), ciphertext.as_slice(), &nonce.bytes()];
    hash_to_scalar(SEALED_KEY_PROOF_LABEL, &parts)
}

impl SealedKey {
    /// What it is bound to.
    pub fn binding(&self) -> Binding {
        Binding { provider: self.provider, data_id: self.data_id, consent_id: self.consent_id }
    }

    /// Checks that whoever made it knew `r`, for this binding, this ciphertext and this custodian.
    pub fn verify(&self) -> Result<(), SealingError> {
        self.proof_holds().then_some(()).ok_or(SealingError::Proof { data_id: self.data_id })
    }

    fn proof_holds(&self) -> bool {
        let (Some(challenge), Some(response)) = (scalar(&self.challenge), scalar(&self.response)) else {
            return false;
        };
        // kG = zG − cR
        let nonce = ProjectivePoint::GENERATOR * response - self.ephemeral.point() * challenge;
        PublicKey::from_point(&nonce).is_ok_and(|nonce| {
            seal_challenge(&self.ephemeral, &self.public_key, &self.binding(), &self.ciphertext, &nonce) == challenge
        })
    }

    /// Opens it with the custodian's secret; a buyer goes through [`crate::release`] instead.
    pub fn open(&self, custodian: &CustodianKey) -> Result<ContentKey, SealingError> {
        if custodian.public_key() != self.public_key {
            return Err(SealingError::OtherCustodian { expected: custodian.public_key(), actual: self.public_key });
        }
        self.verify()?;
        self.open_with(&self.ephemeral.times(&custodian.scalar())?)
    }

    /// Opens it with `S = dR`.
    pub(crate) fn open_with(&self, shared: &PublicKey) -> Result<ContentKey, SealingError> {
        let context = self.binding().bytes();
        let kek = wrapping_key(CONTENT_KEY_LABEL, shared, &self.ephemeral, &self.public_key, &context)?;
        let bytes = unwrap(&kek, &context, self.ciphertext.as_slice())?;
        <[u8; 32]>::try_from(bytes.as_slice()).map(ContentKey::from_bytes).map_err(|_| SealingError::Unopened)
    }

    /// As the JSON that is stored.
    pub fn encode(&self) -> Result<Vec<u8>, SealingError> {
        serde_json::to_vec(self).map_err(|error| SealingError::Form {
            expected: "a sealed key that JSON can hold",
            actual: error.to_string(),
        })
    }

    /// Reads what [`Self::encode`] wrote; says nothing of the proof.
    pub fn decode(json: &[u8]) -> Result<Self, SealingError> {
        let wrong = |actual: String| SealingError::Form { expected: "a sealed key as JSON", actual };
        if json.len() > SEALED_KEY_BYTES_MAX {
            return Err(wrong(format!("{} bytes", json.len())));
        }
        serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))
    }
}

/// Encrypts a short secret to a public key (ECIES with the same parts as a sealed key): `R ‖ ciphertext ‖ tag`.
///
/// The label tells uses apart; the context is what the text is bound to.
pub fn encrypt_to(
    recipient: &PublicKey,
    label: &[u8],
    context: &[u8],
    plaintext: &[u8],
) -> Result<Bytes, SealingError> {
    let r = SecretKey::random()?;
    let ephemeral = r.public_key();
    let kek = wrapping_key(label, &recipient.times(&r.scalar())?, &ephemeral, recipient, context)?;
    Ok([&ephemeral.bytes()[..], &wrap(&kek, context, plaintext)?].concat().into())
}

/// Opens what [`encrypt_to`] made for this key, label and context.
pub fn decrypt_from(
    recipient: &RecipientKey,
    label: &[u8],
    context: &[u8],
    message: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealingError> {
    let (ephemeral, ciphertext) = message.split_at_checked(33).ok_or(SealingError::Unopened)?;
    let ephemeral = PublicKey::from_bytes(ephemeral)?;
    let shared = ephemeral.times(&recipient.scalar())?;
    let kek = wrapping_key(label, &shared, &ephemeral, &recipient.public_key(), context)?;
    unwrap(&kek, context, ciphertext)
}

/// HKDF-SHA256(ikm = compressed S, info = label ‖ R ‖ P ‖ context).
fn wrapping_key(
    label: &[u8],
    shared: &PublicKey,
    ephemeral: &PublicKey,
    public_key: &PublicKey,
    context: &[u8],
) -> Result<Zeroizing<[u8; 32]>, SealingError> {
    let ikm = Zeroizing::new(shared.bytes());
    let mut kek = Zeroizing::new([0u8; 32]);
    Hkdf::<Sha256>::new(None, ikm.as_slice())
        .expand_multi_info(&[label, &ephemeral.bytes(), &public_key.bytes(), context], kek.as_mut_slice())
        .map_err(|_| SealingError::Encryption)?;
    Ok(kek)
}

/// A wrapping key is used once, as each comes from a fresh `r`: the nonce can be zero.
fn wrap(kek: &[u8; 32], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealingError> {
    XChaCha20Poly1305::new(kek.into())
        .encrypt(&XNonce::default(), Payload { msg: plaintext, aad })
        .map_err(|_| SealingError::Encryption)
}

fn unwrap(kek: &[u8; 32], aad: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealingError> {
    XChaCha20Poly1305::new(kek.into())
        .decrypt(&XNonce::default(), Payload { msg: ciphertext, aad })
        .map(Zeroizing::new)
        .map_err(|_| SealingError::Unopened)
}

/// SHA-256 over the label and the parts, each after its length as u64 big endian, reduced modulo the group's order.
///
/// The order is so close to 2^256 that the reduction's bias is below 2^-127.
pub(crate) fn hash_to_scalar(label: &[u8], parts: &[&[u8]]) -> Scalar {
    let mut transcript = Vec::with_capacity(512);
    for part in std::iter::once(&label).chain(parts) {
        transcript.extend_from_slice(&(part.len() as u64).to_be_bytes());
        transcript.extend_from_slice(part);
    }
    <Scalar as Reduce<U256>>::reduce_bytes(&sha256(&[&transcript]).0.into())
}

/// Reads a scalar below the group's order.
pub(crate) fn scalar(bytes: &B256) -> Option<Scalar> {
    Option::from(Scalar::from_repr(bytes.0.into()))
}

pub(crate) fn scalar_bytes(scalar: &Scalar) -> B256 {
    B256::from(<[u8; 32]>::from(scalar.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> DataId {
        DataId::new("numo", name).unwrap()
    }

    fn binding(name: &str) -> Binding {
        let consent_id = ConsentId(B256::repeat_byte(2));
        Binding { provider: Address::repeat_byte(1), data_id: id(name), consent_id }
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i * 31 % 251) as u8).collect()
    }

    const SIZES: [usize; 8] =
        [0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 77];

    #[test]
    fn what_is_encrypted_comes_back_whole_or_chunk_by_chunk() {
        for size in SIZES {
            let (key, plaintext) = (ContentKey::random().unwrap(), content(size));
            let ciphertext = encrypt(&key, id("a"), &plaintext).unwrap();
            assert_eq!(Some(ciphertext.len()), ciphertext_bytes(size));
            assert_eq!(decrypt(&key, id("a"), &ciphertext).unwrap(), plaintext, "{size} bytes");
            let count = chunk_count(ciphertext.len()).unwrap();
            assert_eq!(count, size.div_ceil(CHUNK_BYTES).max(1) as u64);
            let mut pieces = Vec::new();
            for (i, chunk) in ciphertext.chunks(SEALED_CHUNK_BYTES).enumerate().rev() {
                pieces.push(decrypt_chunk(&key, id("a"), i as u64, i as u64 + 1 == count, chunk).unwrap());
            }
            pieces.reverse();
            assert_eq!(pieces.concat(), plaintext);
        }
    }

    #[test]
    fn a_file_opens_under_no_other_data_id_or_key() {
        let key = ContentKey::random().unwrap();
        let ciphertext = encrypt(&key, id("a"), b"voice").unwrap();
        assert!(matches!(decrypt(&key, id("b"), &ciphertext), Err(SealingError::Chunk { chunk: 0 })));
        assert!(decrypt(&ContentKey::random().unwrap(), id("a"), &ciphertext).is_err());
    }

    #[test]
    fn a_file_cut_anywhere_does_not_open() {
        let key = ContentKey::random().unwrap();
        let ciphertext = encrypt(&key, id("a"), &content(3 * CHUNK_BYTES)).unwrap();
        let one = SEALED_CHUNK_BYTES;
        for length in [0, 1, 15, 16, 17, one - 1, one, one + 1, one + 16, one + 17, 2 * one, 3 * one - 1] {
            assert!(decrypt(&key, id("a"), &ciphertext[..length]).is_err(), "cut to {length}");
        }
        let mut longer = ciphertext.clone();
        longer.extend_from_slice(&[0; 16]);
        assert!(decrypt(&key, id("a"), &longer).is_err());
    }

    #[test]
    fn reordered_repeated_and_changed_chunks_do_not_open() {
        let key = ContentKey::random().unwrap();
        let ciphertext = encrypt(&key, id("a"), &content(3 * CHUNK_BYTES)).unwrap();
        let chunks: Vec<&[u8]> = ciphertext.chunks(SEALED_CHUNK_BYTES).collect();
        for order in [[1, 0, 2], [0, 0, 2], [0, 2, 1], [2, 1, 0]] {
            let other: Vec<u8> = order.iter().flat_map(|&i| chunks[i].to_vec()).collect();
            assert!(matches!(decrypt(&key, id("a"), &other), Err(SealingError::Chunk { .. })), "{order:?}");
        }
        for place in [0, CHUNK_BYTES, SEALED_CHUNK_BYTES, ciphertext.len() - 1] {
            let mut changed = ciphertext.clone();
            changed[place] ^= 1;
            assert!(decrypt(&key, id("a"), &changed).is_err(), "changed at {place}");
        }
    }

    #[test]
    fn a_sealed_key_opens_for_its_custodian_only() {
        let (custodian, other, key) =
            (SecretKey::random().unwrap(), SecretKey::random().unwrap(), ContentKey::random().unwrap());
        let sealed = seal_key(&custodian.public_key(), binding("a"), &key).unwrap();
        sealed.verify().unwrap();
        assert_eq!(sealed.open(&custodian).unwrap(), key);
        assert!(matches!(sealed.open(&other), Err(SealingError::OtherCustodian { .. })));
        let wrong = sealed.ephemeral.times(&other.scalar()).unwrap();
        assert!(matches!(sealed.open_with(&wrong), Err(SealingError::Unopened)));
        assert_eq!(SealedKey::decode(&sealed.encode().unwrap()).unwrap(), sealed);
    }

    #[test]
    fn a_lifted_ephemeral_is_refused() {
        let custodian = SecretKey::random().unwrap();
        let victim = seal_key(&custodian.public_key(), binding("victim"), &ContentKey::random().unwrap()).unwrap();
        // the thief presents the victim's R under a record that it licensed itself
        let own = seal_key(&custodian.public_key(), binding("own"), &ContentKey::random().unwrap()).unwrap();
        let renamed = SealedKey { data_id: id("own"), ..victim.clone() };
        let taken_over = SealedKey { provider: Address::repeat_byte(9), ..victim.clone() };
        let excused = SealedKey { consent_id: ConsentId(B256::repeat_byte(9)), ..victim.clone() };
        let grafted = SealedKey { ephemeral: victim.ephemeral, ..own.clone() };
        let rewrapped = SealedKey { ciphertext: own.ciphertext, ..victim.clone() };
        let moved = SealedKey { public_key: SecretKey::random().unwrap().public_key(), ..victim.clone() };
        for forged in [renamed, taken_over, excused, grafted, rewrapped, moved] {
            assert!(matches!(forged.verify(), Err(SealingError::Proof { .. })));
            assert!(forged.open(&custodian).is_err());
        }
    }

    #[test]
    fn a_proof_has_one_spelling() {
        let custodian = SecretKey::random().unwrap();
        let sealed = seal_key(&custodian.public_key(), binding("a"), &ContentKey::random().unwrap()).unwrap();
        for (challenge, response) in
            [(B256::ZERO, sealed.response), (sealed.challenge, B256::ZERO), (B256::repeat_byte(0xff), sealed.response)]
        {
            assert!(SealedKey { challenge, response, ..sealed.clone() }.verify().is_err());
        }
    }

    #[test]
    fn a_short_secret_opens_for_its_recipient_label_and_context_only() {
        let (recipient, other) = (SecretKey::random().unwrap(), SecretKey::random().unwrap());
        let message = encrypt_to(&recipient.public_key(), b"label", b"context", b"secret").unwrap();
        assert_eq!(decrypt_from(&recipient, b"label", b"context", &message).unwrap().as_slice(), b"secret");
        assert!(decrypt_from(&other, b"label", b"context", &message).is_err());
        assert!(decrypt_from(&recipient, b"other", b"context", &message).is_err());
        assert!(decrypt_from(&recipient, b"label", b"other", &message).is_err());
        for length in 0..message.len() {
            assert!(decrypt_from(&recipient, b"label", b"context", &message[..length]).is_err());
        }
    }

    #[test]
    fn only_the_compressed_form_of_a_point_is_a_public_key() {
        let key = SecretKey::random().unwrap().public_key();
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(key.to_string().len(), 68);
        let uncompressed = key.0.to_encoded_point(false);
        assert!(PublicKey::from_bytes(uncompressed.as_bytes()).is_err());
        for tag in [0u8, 4, 5, 6] {
            let mut bytes = key.bytes();
            bytes[0] = tag;
            assert!(PublicKey::from_bytes(&bytes).is_err(), "tag {tag}");
        }
        for text in ["", "0x", "0x00", "zz", "0x02", "키", &"0".repeat(66), &"f".repeat(10_000)] {
            assert!(text.parse::<PublicKey>().is_err());
            assert!(SecretKey::from_hex(text).is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic() {
        let custodian = SecretKey::random().unwrap();
        let sealed =
            seal_key(&custodian.public_key(), binding("a"), &ContentKey::random().unwrap()).unwrap().encode().unwrap();
        for length in 0..sealed.len() {
            assert!(SealedKey::decode(&sealed[..length]).is_err());
        }
        for place in 0..sealed.len() {
            for byte in [0u8, b'"', b'0', b'g', 0xff] {
                let mut changed = sealed.clone();
                changed[place] = byte;
                if let Ok(key) = SealedKey::decode(&changed) {
                    // a digit that stayed the same, or changed into another valid one
                    assert!(key.verify().is_err() || key.encode().unwrap() == sealed);
                }
            }
        }
        assert!(SealedKey::decode(&vec![b' '; SEALED_KEY_BYTES_MAX + 1]).is_err());
        let text = String::from_utf8(sealed).unwrap();
        assert!(SealedKey::decode(text.replacen('{', "{\"more\":1,", 1).as_bytes()).is_err());
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let secret = SecretKey::from_hex(&"11".repeat(32)).unwrap();
        assert!(!format!("{secret:?}").contains("1111"));
        assert_eq!(format!("{:?}", ContentKey::from_bytes([0x11; 32])), "ContentKey(secret)");
        let error = SecretKey::from_hex(&"11".repeat(31)).unwrap_err();
        assert!(!error.to_string().contains("1111"));
    }

    #[test]
    fn a_key_file_is_its_owner_s_alone_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let secret = SecretKey::random().unwrap();
        secret.save(&path).unwrap();
        assert_eq!(SecretKey::load(&path).unwrap().public_key(), secret.public_key());
        assert!(matches!(secret.save(&path), Err(SealingError::File { .. })));
        assert!(matches!(SecretKey::load(&folder.path().join("none")), Err(SealingError::File { .. })));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(SecretKey::load(&path), Err(SealingError::FileMode { mode: 0o644, .. })));
        }
    }
}
