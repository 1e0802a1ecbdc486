//! Providers' signatures under metadata: what was signed, by which published key, and whether it holds.
//!
//! Signed are the bytes of the canonical metadata (RFC 8785) without its member `attestation`; `payload_hash` is their
//! SHA-256. Keys are JSON Web Keys (RFC 7517, 8037, 8812) at the one address that is set for the provider.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256};
use anyhow::{Context, anyhow, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt;
use k256::ecdsa::signature::Verifier;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use sqlx::{PgPool, Row};
use tidemark::{canonical::jcs, ids::ContentHash, ids::sha256};

use super::unix_now;
use crate::outbox::address::PublicOnly;

/// The member of metadata that carries the signature.
pub const MEMBER: &str = "attestation";
const SET_BYTES_MAX: usize = 64 << 10;
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);
/// A key that was taken out of the set counts no more after this.
const SET_AGE_MAX: Duration = Duration::from_secs(300);
/// A set that lacks a key is asked for again after this: the key may be new.
const SET_AGE_MIN: Duration = Duration::from_secs(30);
/// A set that could not be had is asked for again after this.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(10);
const KEY_ID_BYTES_MAX: usize = 256;
/// Keys remembered of one provider.
const PINS_MAX: i64 = 1000;
/// A clock may be this far ahead of ours.
const AHEAD_SECONDS_MAX: u64 = 300;

/// Why an attestation does not hold: the member, what was expected of it, what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Member of `attestation`; empty for itself.
    pub member: &'static str,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub actual: String,
}

fn refusal<T>(member: &'static str, expected: impl Into<String>, actual: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { member, expected: expected.into(), actual: actual.into() })
}

/// An attestation that is well formed, of the payload that it came with, and names the right address of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Which key.
    pub key_id: String,
    payload: Vec<u8>,
    signature: [u8; 64],
}

impl Statement {
    /// Reads the attestation in metadata; `None` where there is none.
    pub fn read(metadata: &Value, key_url: &str) -> Result<Option<Self>, Refusal> {
        let Some(found) = metadata.get(MEMBER).filter(|value| !value.is_null()) else { return Ok(None) };
        if !found.is_object() {
            return refusal("", "an object", "something else");
        }
        let text = |member: &'static str, expected: &str| match found.get(member) {
            Some(Value::String(text)) => Ok(text.as_str()),
            None | Some(Value::Null) => refusal(member, expected, "none"),
            Some(_) => refusal(member, expected, "no text"),
        };
        let key_id = text("key_id", "the id (kid) of a published key")?;
        if !(1..=KEY_ID_BYTES_MAX).contains(&key_id.len()) || key_id.chars().any(char::is_control) {
            return refusal("key_id", format!("1 to {KEY_ID_BYTES_MAX} bytes without control characters"), key_id);
        }
        let named = text("key_url", key_url)?;
        // an absolute path stands for that path of the same host, as in Trace's examples
        let is_path = named.starts_with('/')
            && Url::parse(key_url).and_then(|url| url.join(named)).is_ok_and(|joined| joined.as_str() == key_url);
        if named != key_url && !is_path {
            return refusal("key_url", key_url, named);
        }
        let expected = "an RFC 3339 time that is not in the future";
        let signed_at = text("signed_at_utc", expected)?;
        let at = time::OffsetDateTime::parse(signed_at, &time::format_description::well_known::Rfc3339).ok();
        let latest = i64::try_from(unix_now() + AHEAD_SECONDS_MAX).unwrap_or(i64::MAX);
        if at.is_none_or(|at| at.unix_timestamp() > latest) {
            return refusal("signed_at_utc", expected, signed_at);
        }
        let expected = "base64url without padding of the 64 bytes of the signature (R ‖ S)";
        let encoded = text("signature", expected)?;
        let signature = URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        let Some(signature) = signature else { return refusal("signature", expected, encoded) };
        let payload = payload(metadata)?;
        let hash = ContentHash(sha256(&[&payload]));
        let named = text("payload_hash", "sha256:<64 hex digits>")?;
        if !ContentHash::parse(named).is_ok_and(|named| named == hash) {
            let expected = format!("{}, the SHA-256 of the canonical metadata without `{MEMBER}`", hash.prefixed());
            return refusal("payload_hash", expected, named);
        }
        Ok(Some(Self { key_id: key_id.to_owned(), payload, signature }))
    }

    /// Whether a key made the signature.
    pub fn check(&self, key: &Key) -> Result<(), Refusal> {
        if key.verifies(&self.payload, &self.signature) {
            return Ok(());
        }
        let expected = format!("one by key {:?} ({}) over the canonical metadata", self.key_id, key.algorithm());
        refusal("signature", expected, "one that does not fit")
    }
}

/// What is signed.
fn payload(metadata: &Value) -> Result<Vec<u8>, Refusal> {
    let rest: BTreeMap<&String, &Value> =
        metadata.as_object().into_iter().flatten().filter(|(name, _)| *name != MEMBER).collect();
    jcs(&rest).or_else(|error| refusal("", "metadata with a canonical form", error.to_string()))
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// EdDSA over Ed25519 (RFC 8037).
    Ed25519(ed25519_dalek::VerifyingKey),
    /// ECDSA over P-256 with SHA-256 (RFC 7518).
    P256(p256::ecdsa::VerifyingKey),
    /// ECDSA over secp256k1 with SHA-256 (RFC 8812).
    K256(k256::ecdsa::VerifyingKey),
}

/// One member of a JWK set.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
}

impl Key {
    /// JWS name of the algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::K256(_) => "ES256K",
        }
    }

    /// 32 bytes, or a compressed point (SEC 1).
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.as_bytes().to_vec(),
            Self::P256(key) => key.to_encoded_point(true).as_bytes().to_vec(),
            Self::K256(key) => key.to_encoded_point(true).as_bytes().to_vec(),
        }
    }

    /// Whether this key made the signature (64 bytes) of a message.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        match self {
            // strict: no key or point of small order, which would fit any message
            Self::Ed25519(key) => key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok(),
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            // both values of s are valid here, and k256 takes the lower one only
            Self::K256(key) => k256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature.normalize_s().unwrap_or(signature)).is_ok()),
        }
    }

    /// A key for signatures; what is of another kind or malformed is passed over, as RFC 7517, section 5, says.
    fn of(jwk: &Jwk) -> Option<Self> {
        let part = |part: &Option<String>| {
            let bytes = URL_SAFE_NO_PAD.decode(part.as_deref()?).ok()?;
            <[u8; 32]>::try_from(bytes).ok()
        };
        let point = || Some([&[4][..], &part(&jwk.x)?, &part(&jwk.y)?].concat());
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()?) {
            ("OKP", "Ed25519") => Self::Ed25519(ed25519_dalek::VerifyingKey::from_bytes(&part(&jwk.x)?).ok()?),
            ("EC", "P-256") => Self::P256(p256::ecdsa::VerifyingKey::from_sec1_bytes(&point()?).ok()?),
            ("EC", "secp256k1") => Self::K256(k256::ecdsa::VerifyingKey::from_sec1_bytes(&point()?).ok()?),
            _ => return None,
        };
        // RFC 9864 calls EdDSA over Ed25519 by the curve's name
        let is_algorithm = |name: &str| name == key.algorithm() || (name == "Ed25519" && key.algorithm() == "EdDSA");
        let is_for_signatures = jwk.alg.as_deref().is_none_or(is_algorithm)
            && jwk.r#use.as_deref().is_none_or(|purpose| purpose == "sig")
            && jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        is_for_signatures.then_some(key)
    }
}

/// Published keys by id; of an id that stands there twice nobody knows which is meant, so it is none.
#[derive(Debug, Default)]
pub struct KeySet(BTreeMap<String, Option<Key>>);

impl KeySet {
    /// Reads a JWK set (RFC 7517).
    pub fn parse(text: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text).context("expected a JWK set: {\"keys\": […]}")?;
        let mut keys = BTreeMap::new();
        for jwk in set.keys.into_iter().filter_map(|value| serde_json::from_value::<Jwk>(value).ok()) {
            let (Some(key), Some(id)) = (Key::of(&jwk), &jwk.kid) else { continue };
            keys.entry(id.clone()).and_modify(|twice| *twice = None).or_insert(Some(key));
        }
        Ok(Self(keys))
    }

    /// The key of an id.
    pub fn get(&self, id: &str) -> Option<&Key> {
        self.0.get(id)?.as_ref()
    }
}

/// The keys that providers publish, fetched with bounds and remembered for a while.
pub struct Keys {
    client: reqwest::Client,
    // one entry a provider that was let in
    fetched: std::sync::Mutex<HashMap<Address, Arc<tokio::sync::Mutex<Option<Fetched>>>>>,
}

struct Fetched {
    url: String,
    at: Instant,
    set: Option<Arc<KeySet>>,
}

impl Keys {
    /// Without any key yet.
    pub fn new() -> anyhow::Result<Self> {
        // the address was set for the provider by whoever runs this service, but what its name resolves to is the provider's
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIME_MAX)
            .no_proxy()
            .dns_resolver(PublicOnly)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("make an HTTP client for providers' keys")?;
        Ok(Self { client, fetched: std::sync::Mutex::default() })
    }

    /// The keys of these ids, each the one that was pinned when it was first seen; `None` where the set can't be had
    /// now.
    pub async fn find(
        &self,
        db: &PgPool,
        provider: Address,
        url: &str,
        ids: &BTreeSet<&str>,
    ) -> anyhow::Result<Option<BTreeMap<String, Result<Key, Refusal>>>> {
        if ids.is_empty() {
            return Ok(Some(BTreeMap::new()));
        }
        let Some(set) = self.set(provider, url, ids).await else { return Ok(None) };
        let mut found = BTreeMap::new();
        for id in ids {
            let key = match set.get(id) {
                None => refusal("key_id", format!("a key for signatures in the JWK set at {url}, once"), *id),
                Some(key) => pinned(db, provider, id, key).await?,
            };
            found.insert((*id).to_owned(), key);
        }
        Ok(Some(found))
    }

    async fn set(&self, provider: Address, url: &str, ids: &BTreeSet<&str>) -> Option<Arc<KeySet>> {
        let entry =
            Arc::clone(self.fetched.lock().unwrap_or_else(PoisonError::into_inner).entry(provider).or_default());
        // held while it is fetched, so that requests at once ask once
        let mut entry = entry.lock().await;
        if let Some(Fetched { url: of, at, set }) = &*entry
            && of == url
        {
            let age = at.elapsed();
            match set {
                Some(set) if age < SET_AGE_MIN => return Some(Arc::clone(set)),
                Some(set) if age < SET_AGE_MAX && ids.iter().all(|id| set.get(id).is_some()) => {
                    return Some(Arc::clone(set));
                }
                None if age < FAILURE_AGE_MAX => return None,
                _ => {}
            }
        }
        let set = match self.fetch(url).await {
            Ok(set) => Some(Arc::new(set)),
            Err(error) => {
                let cause = tidemark::service::causes(error.as_ref());
                tracing::warn!(%provider, cause, "a provider's keys can't be fetched");
                None
            }
        };
        *entry = Some(Fetched { url: url.to_owned(), at: Instant::now(), set: set.clone() });
        set
    }

    async fn fetch(&self, url: &str) -> anyhow::Result<KeySet> {
        let answer = self.client.get(url).header("accept", "application/jwk-set+json, application/json").send().await;
        let answer = answer.context("ask for a provider's keys")?;
        ensure!(answer.status() == 200, "ask for a provider's keys: expected 200, got {}", answer.status());
        let mut body = Vec::new();
        let mut stream = answer.bytes_stream();
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk.context("read a provider's keys")?);
            if body.len() > SET_BYTES_MAX {
                return Err(anyhow!("read a provider's keys: expected at most {SET_BYTES_MAX} bytes, got more"));
            }
        }
        KeySet::parse(&body)
    }
}

/// The key that an id stands for since it was first seen, where the published one is still the same.
async fn pinned(db: &PgPool, provider: Address, id: &str, key: &Key) -> anyhow::Result<Result<Key, Refusal>> {
    sqlx::query(
        "INSERT INTO attestation_key (provider, key_id, algorithm, public_key)
         SELECT $1, $2, $3, $4 WHERE (SELECT count(*) FROM attestation_key WHERE provider = $1) < $5
         ON CONFLICT DO NOTHING",
    )
    .bind(provider.0.0)
    .bind(id)
    .bind(key.algorithm())
    .bind(key.bytes())
    .bind(PINS_MAX)
    .execute(db)
    .await?;
    let row = sqlx::query("SELECT algorithm, public_key FROM attestation_key WHERE provider = $1 AND key_id = $2")
        .bind(provider.0.0)
        .bind(id)
        .fetch_optional(db)
        .await?;
    let Some(row) = row else {
        return Ok(refusal("key_id", format!("one of the first {PINS_MAX} keys of this provider"), id));
    };
    let (algorithm, bytes): (String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    if algorithm == key.algorithm() && bytes == key.bytes() {
        return Ok(Ok(key.clone()));
    }
    let digest = |bytes: &[u8]| B256::from(sha256(&[bytes])).to_string();
    let expected = format!("the {algorithm} key that {id:?} stood for at first (SHA-256 {})", digest(&bytes));
    let actual =
        format!("another one, {} (SHA-256 {}); a new key needs a new id", key.algorithm(), digest(&key.bytes()));
    Ok(refusal("key_id", expected, actual))
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Signer;
    use serde_json::json;

    use super::*;

    const URL: &str = "https://numo.example/.well-known/verification-keys.json";

    struct Keyring {
        ed25519: ed25519_dalek::SigningKey,
        p256: p256::ecdsa::SigningKey,
        k256: k256::ecdsa::SigningKey,
    }

    impl Keyring {
        fn new(seed: u8) -> Self {
            Self {
                ed25519: ed25519_dalek::SigningKey::from_bytes(&[seed; 32]),
                p256: p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
                k256: k256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
            }
        }

        fn jwks(&self) -> Vec<Value> {
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let p256 = self.p256.verifying_key().to_encoded_point(false);
            let k256 = self.k256.verifying_key().to_encoded_point(false);
            vec![
                json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig",
                       "x": encode(self.ed25519.verifying_key().as_bytes())}),
                json!({"kty": "EC", "crv": "P-256", "kid": "p", "alg": "ES256",
                       "x": encode(p256.x().unwrap()), "y": encode(p256.y().unwrap())}),
                json!({"kty": "EC", "crv": "secp256k1", "kid": "k", "key_ops": ["verify"],
                       "x": encode(k256.x().unwrap()), "y": encode(k256.y().unwrap())}),
            ]
        }

        fn sign(&self, kid: &str, message: &[u8]) -> [u8; 64] {
            match kid {
                "ed" => self.ed25519.sign(message).to_bytes(),
                "p" => Signer::<p256::ecdsa::Signature>::sign(&self.p256, message).to_bytes().into(),
                _ => Signer::<k256::ecdsa::Signature>::sign(&self.k256, message).to_bytes().into(),
            }
        }

        fn attested(&self, kid: &str) -> Value {
            let mut metadata = json!({"z": 1, "file": {"content_sha256": "aa"}, "a": [1.0, "é"]});
            let payload = jcs(&metadata).unwrap();
            metadata["attestation"] = json!({
                "payload_hash": ContentHash(sha256(&[&payload])).prefixed(), "key_id": kid, "key_url": URL,
                "signature": URL_SAFE_NO_PAD.encode(self.sign(kid, &payload)), "signed_at_utc": "2026-11-21T00:00:00Z"});
            metadata
        }
    }

    fn set(jwks: &[Value]) -> KeySet {
        KeySet::parse(json!({"keys": jwks, "note": "more members are allowed"}).to_string().as_bytes()).unwrap()
    }

    fn read(metadata: &Value) -> Result<Option<Statement>, Refusal> {
        Statement::read(metadata, URL)
    }

    #[test]
    fn a_signature_of_each_algorithm_holds_and_one_of_another_key_or_over_other_metadata_does_not() {
        let (own, other) = (Keyring::new(7), Keyring::new(8));
        let (keys, others) = (set(&own.jwks()), set(&other.jwks()));
        for kid in ["ed", "p", "k"] {
            let statement = read(&own.attested(kid)).unwrap().unwrap();
            assert!(statement.check(keys.get(kid).unwrap()).is_ok(), "{kid}");
            assert_eq!(statement.check(others.get(kid).unwrap()).unwrap_err().member, "signature", "{kid}");
            let mut changed = statement.clone();
            changed.payload.push(b' ');
            assert!(changed.check(keys.get(kid).unwrap()).is_err(), "{kid}");
            let mut changed = statement;
            changed.signature[40] ^= 1;
            assert!(changed.check(keys.get(kid).unwrap()).is_err(), "{kid}");
        }
    }

    #[test]
    fn an_example_of_rfc_8037_verifies() {
        // RFC 8037, appendix A.4: the JWS signing input and its signature by the key of A.2
        let key = Key::of(
            &serde_json::from_value(
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            )
            .unwrap(),
        );
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature: [u8; 64] = URL_SAFE_NO_PAD.decode(signature).unwrap().try_into().unwrap();
        assert!(key.unwrap().verifies(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", &signature));
    }

    #[test]
    fn both_values_of_s_are_taken_of_secp256k1() {
        let keys = Keyring::new(9);
        let low = k256::ecdsa::Signature::from_slice(&keys.sign("k", b"m")).unwrap();
        let high = k256::ecdsa::Signature::from_scalars(low.r().to_bytes(), (-*low.s()).to_bytes()).unwrap();
        assert_ne!(low, high);
        let key = Key::K256(*keys.k256.verifying_key());
        for signature in [low, high] {
            assert!(key.verifies(b"m", &signature.to_bytes().into()));
        }
    }

    #[test]
    fn metadata_without_an_attestation_has_none_and_a_path_stands_for_the_same_host() {
        assert_eq!(read(&json!({"a": 1})), Ok(None));
        assert_eq!(read(&json!({"a": 1, "attestation": null})), Ok(None));
        let mut metadata = Keyring::new(7).attested("ed");
        metadata["attestation"]["key_url"] = json!("/.well-known/verification-keys.json");
        assert!(read(&metadata).unwrap().is_some());
    }

    #[test]
    fn what_is_missing_or_wrong_in_an_attestation_is_named() {
        let member = |name: &str, value: Value| {
            let mut metadata = Keyring::new(7).attested("ed");
            metadata["attestation"][name] = value;
            read(&metadata).unwrap_err().member
        };
        for name in ["payload_hash", "signature", "key_id", "key_url", "signed_at_utc"] {
            assert_eq!(member(name, Value::Null), name);
            assert_eq!(member(name, json!(5)), name);
            assert_eq!(member(name, json!("")), name);
        }
        assert_eq!(member("payload_hash", json!(format!("sha256:{}", "0".repeat(64)))), "payload_hash");
        assert_eq!(member("signature", json!("AA")), "signature");
        assert_eq!(member("signature", json!(format!("{}=", "A".repeat(86)))), "signature");
        assert_eq!(member("signed_at_utc", json!("2999-01-01T00:00:00Z")), "signed_at_utc");
        for url in [
            "https://evil.example/.well-known/verification-keys.json",
            "//evil.example/k",
            "http://169.254.169.254/",
            "/other",
        ] {
            assert_eq!(member("key_url", json!(url)), "key_url", "{url}");
        }
        assert_eq!(read(&json!({"attestation": "x"})).unwrap_err().member, "");
    }

    #[test]
    fn a_set_is_read_past_what_is_no_key_for_signatures_and_an_id_that_stands_there_twice_is_none() {
        let own = Keyring::new(7).jwks();
        let with = |name: &str, value: Value| {
            let mut jwk = own[0].clone();
            jwk[name] = value;
            set(&[jwk]).get("ed").is_some()
        };
        assert!(with("alg", json!("EdDSA")) && with("alg", json!("Ed25519")) && with("x5c", json!(["ignored"])));
        for (name, value) in [
            ("alg", json!("ES256")),
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("crv", json!("X25519")),
            ("kty", json!("RSA")),
            ("x", json!("AA")),
            ("kid", Value::Null),
            ("kid", json!(7)),
            ("crv", Value::Null),
        ] {
            assert!(!with(name, value.clone()), "{name} {value}");
        }
        // a point that is not on the curve
        let mut off = own[1].clone();
        off["y"] = off["x"].clone();
        assert!(set(&[off]).get("p").is_none());
        let twice = set(&[own[0].clone(), Keyring::new(8).jwks()[0].clone(), json!(5), json!({"kty": "oct"})]);
        assert!(twice.get("ed").is_none());
        for bad in ["", "[]", "{}", "{\"keys\": 5}"] {
            assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
