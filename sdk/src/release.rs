//! Key release: a licence holder asks a custodian, which answers with a partial decryption only the holder can read.
//!
//! ```text
//!  holder ── ReleaseRequest, signed (EIP-712) ──► custodian ── reads the chain ──► partial S = dR, with its proof
//!  holder ◄── ReleaseAnswer: both encrypted to the recipient key ──┘
//!  open: decrypt → check the Chaum–Pedersen proof → combine → ContentKey
//! ```
//!
//! The custodian never sees the content key. The proof shows that `S` was made with the secret of the public key that
//! the content key is sealed to, so that a bad partial is named as such. There is one custodian now; a committee of
//! them changes only [`combine`] and which public key a partial is proved against.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{Eip712Domain, SolStruct, eip712_domain},
};
use k256::{ProjectivePoint, Scalar};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    dataset::Member,
    ids::DataId,
    sealing::{
        ContentKey, CustodianKey, PublicKey, RecipientKey, SealedKey, SealingError, SecretKey, decrypt_from,
        encrypt_to, hash_to_scalar, scalar, scalar_bytes,
    },
};

/// How far ahead of now a request's deadline may be.
pub const DEADLINE_AHEAD_SECONDS_MAX: u64 = 600;
/// The longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The longest proof of a member: trees have at most 2^20 leaves.
pub const MEMBER_PROOF_HASHES_MAX: usize = 20;

const ANSWER_BYTES_MAX: usize = 16 << 10;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
const PARTIAL_LABEL: &[u8] = b"tidemark/partial/1";
const PARTIAL_PROOF_LABEL: &[u8] = b"tidemark/partial-proof/1";
/// `S` ‖ challenge ‖ response.
const PARTIAL_BYTES: usize = 33 + 32 + 32;

mod typed {
    alloy::sol! {
        /// EIP-712 form of a request: what the holder of a licence signs.
        struct ReleaseRequest {
            uint256 licenseId;
            bytes16 dataId;
            bytes recipientKey;
            uint64 deadline;
        }
    }
}

sol! {
    /// A contract that holds a licence answers for its signatures.
    #[sol(rpc)]
    interface IERC1271 {
        function isValidSignature(bytes32 digest, bytes signature) external view returns (bytes4 magic);
    }
}

/// Why a key was not released, or its release not opened.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A cryptographic step failed.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// A custodian's partial is not what its key makes of this sealed key.
    #[error(
        "custodian {index}: the proof of its partial decryption is not valid: ask another one, and report this one"
    )]
    Partial {
        /// Which custodian.
        index: u16,
    },
    /// Too few or too many partials for the public key.
    #[error("expected 1 partial decryption, got {0}")]
    PartialCount(usize),
    /// The holder's key could not sign.
    #[error("failed to sign the release request")]
    Signer(#[source] alloy::signers::Error),
    /// The custodian could not be reached.
    #[error("failed to reach the custodian at {url}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The custodian said no.
    #[error("the custodian refused with {status} {kind}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The end of the problem's type, such as `license-inactive`.
        kind: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// An answer that is none.
    #[error("custodian at {url}: expected an answer of up to {ANSWER_BYTES_MAX} bytes as documented, got {actual}")]
    Answer {
        /// Its address.
        url: String,
        /// What it sent.
        actual: String,
    },
}

/// A request for the key of one record under one licence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Decimal digits in JSON.
    #[serde(with = "decimal_u256")]
    pub license_id: U256,
    /// The record's leaf in the licensed version.
    pub member: Member,
    /// Sibling hashes from the leaf to the version's root.
    pub member_proof: Vec<B256>,
    /// What the custodian holds the secret for.
    pub sealed_key: SealedKey,
    /// The answer can be read with this key's secret only.
    pub recipient_key: PublicKey,
    /// Unix seconds; at most [`DEADLINE_AHEAD_SECONDS_MAX`] from now.
    pub deadline: u64,
    /// The licence holder's, over [`ReleaseRequest::digest`]: 65 bytes, or what its ERC-1271 contract takes.
    pub signature: Bytes,
}

/// EIP-712 domain of release requests: a custodian serves the licences of one registry.
pub fn domain(chain_id: u64, license_registry: Address) -> Eip712Domain {
    eip712_domain! {
        name: "Tidemark Custodian",
        version: "1",
        chain_id: chain_id,
        verifying_contract: license_registry,
    }
}

impl ReleaseRequest {
    /// What the licence holder signs.
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        typed::ReleaseRequest {
            licenseId: self.license_id,
            dataId: self.member.data_id.sol(),
            recipientKey: self.recipient_key.bytes().to_vec().into(),
            deadline: self.deadline,
        }
        .eip712_signing_hash(domain)
    }

    /// Puts the holder's signature in.
    pub fn sign(mut self, domain: &Eip712Domain, holder: &PrivateKeySigner) -> Result<Self, ReleaseError> {
        let signature = holder.sign_hash_sync(&self.digest(domain)).map_err(ReleaseError::Signer)?;
        self.signature = signature.as_bytes().into();
        Ok(self)
    }
}

/// What a custodian answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseAnswer {
    /// The entry in the custodian's audit list.
    pub release_id: Uuid,
    /// Which record.
    pub data_id: DataId,
    /// Which custodian: its place in the committee, from 1.
    pub index: u16,
    /// The [`Partial`], encrypted to the recipient key.
    pub encrypted_partial: Bytes,
    /// The block at which the chain allowed the release.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: B256,
}

/// A custodian's share in a decryption, and the proof that it is right.
#[derive(Clone, Debug)]
pub struct Partial {
    index: u16,
    /// `S = dR`: with one custodian, all that the content key needs.
    shared: PublicKey,
    challenge: Scalar,
    response: Scalar,
}

impl Partial {
    /// The custodian's step. A sealed key whose proof does not hold is refused before the secret is applied to its `R`.
    pub fn of(custodian: &CustodianKey, index: u16, sealed: &SealedKey) -> Result<Self, SealingError> {
        let public_key = custodian.public_key();
        if public_key != sealed.public_key {
            return Err(SealingError::OtherCustodian { expected: public_key, actual: sealed.public_key });
        }
        sealed.verify()?;
        let d = custodian.scalar();
        let shared = sealed.ephemeral.times(&d)?;
        let k = SecretKey::random()?;
        let nonces = (k.public_key(), sealed.ephemeral.times(&k.scalar())?);
        let challenge = challenge(&public_key, sealed, &shared, &nonces);
        let response = *k.scalar().as_ref() + challenge * *d.as_ref();
        Ok(Self { index, shared, challenge, response })
    }

    /// Checks `log_G P = log_R S` (Chaum and Pedersen, 1992) against the public key of the custodian that made it.
    pub fn verify(&self, public_key: &PublicKey, sealed: &SealedKey) -> Result<(), ReleaseError> {
        let of_key = ProjectivePoint::GENERATOR * self.response - public_key.point() * self.challenge;
        let of_partial = sealed.ephemeral.point() * self.response - self.shared.point() * self.challenge;
        let holds = match (PublicKey::from_point(&of_key), PublicKey::from_point(&of_partial)) {
            (Ok(of_key), Ok(of_partial)) => {
                challenge(public_key, sealed, &self.shared, &(of_key, of_partial)) == self.challenge
            }
            _ => false,
        };
        holds.then_some(()).ok_or(ReleaseError::Partial { index: self.index })
    }

    /// For the recipient's eyes only.
    pub fn encrypt(&self, recipient: &PublicKey, sealed: &SealedKey) -> Result<Bytes, SealingError> {
        let mut plaintext = zeroize::Zeroizing::new([0u8; PARTIAL_BYTES]);
        plaintext[..33].copy_from_slice(&self.shared.bytes());
        plaintext[33..65].copy_from_slice(scalar_bytes(&self.challenge).as_slice());
        plaintext[65..].copy_from_slice(scalar_bytes(&self.response).as_slice());
        encrypt_to(recipient, PARTIAL_LABEL, &partial_context(self.index, sealed), plaintext.as_slice())
    }

    /// Opens what [`Self::encrypt`] made; says nothing of the proof.
    pub fn decrypt(
        recipient: &RecipientKey,
        index: u16,
        sealed: &SealedKey,
        encrypted: &[u8],
    ) -> Result<Self, ReleaseError> {
        let plaintext = decrypt_from(recipient, PARTIAL_LABEL, &partial_context(index, sealed), encrypted)?;
        if plaintext.len() != PARTIAL_BYTES {
            return Err(ReleaseError::Partial { index });
        }
        let read_scalar = |bytes: &[u8]| scalar(&B256::from_slice(bytes)).ok_or(ReleaseError::Partial { index });
        Ok(Self {
            index,
            shared: PublicKey::from_bytes(&plaintext[..33])?,
            challenge: read_scalar(&plaintext[33..65])?,
            response: read_scalar(&plaintext[65..])?,
        })
    }
}

fn challenge(
    public_key: &PublicKey,
    sealed: &SealedKey,
    shared: &PublicKey,
    nonces: &(PublicKey, PublicKey),
) -> Scalar {
    let generator = k256::elliptic_curve::sec1::ToEncodedPoint::to_encoded_point(&k256::AffinePoint::GENERATOR, true);
    let parts = [
        generator.as_bytes(),
        &public_key.bytes(),
        &sealed.ephemeral.bytes(),
        &shared.bytes(),
        &nonces.0.bytes(),
        &nonces.1.bytes(),
        &sealed.data_id.bytes(),
    ];
    hash_to_scalar(PARTIAL_PROOF_LABEL, &parts)
}

/// index as u16 big endian ‖ data id ‖ `R`.
fn partial_context(index: u16, sealed: &SealedKey) -> Vec<u8> {
    [&index.to_be_bytes()[..], &sealed.data_id.bytes(), &sealed.ephemeral.bytes()].concat()
}

/// `S` out of checked partials. With one custodian the only partial is `S`; a committee interpolates here.
fn combine(partials: &[Partial]) -> Result<PublicKey, ReleaseError> {
    match partials {
        [only] => Ok(only.shared),
        _ => Err(ReleaseError::PartialCount(partials.len())),
    }
}

/// The content key out of a custodian's answer; a partial whose proof does not hold is an error, never a wrong key.
pub fn open(answer: &ReleaseAnswer, recipient: &RecipientKey, sealed: &SealedKey) -> Result<ContentKey, ReleaseError> {
    let partial = Partial::decrypt(recipient, answer.index, sealed, &answer.encrypted_partial)?;
    // one custodian: the key that the content key is sealed to is its own
    partial.verify(&sealed.public_key, sealed)?;
    Ok(sealed.open_with(&combine(&[partial])?)?)
}

/// Asks a custodian: `POST {url}/v1/releases`.
pub async fn request_release(
    client: &reqwest::Client,
    url: &str,
    request: &ReleaseRequest,
) -> Result<ReleaseAnswer, ReleaseError> {
    ask(url, client.post(format!("{}/v1/releases", url.trim_end_matches('/'))).json(request)).await
}

/// Answer of `GET /v1/public-key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKeyAnswer {
    /// To seal to.
    pub public_key: PublicKey,
    /// The custodian's place in the committee, from 1.
    pub index: u16,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Problem {
    r#type: String,
    detail: String,
}

async fn ask<T: DeserializeOwned>(url: &str, request: reqwest::RequestBuilder) -> Result<T, ReleaseError> {
    let unreachable =
        |source: reqwest::Error| ReleaseError::Unreachable { url: url.into(), source: source.without_url() };
    let wrong = |actual: String| ReleaseError::Answer { url: url.into(), actual };
    let mut response = request.timeout(REQUEST_TIME_MAX).send().await.map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(wrong(format!("more with status {status}")));
        }
        body.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        // urn:tidemark:problem:<slug>
        let kind = problem.r#type.rsplit(':').next().unwrap_or_default().to_owned();
        return Err(ReleaseError::Refused { status: status.as_u16(), kind, detail: problem.detail });
    }
    serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
}

/// A 256-bit number as a decimal string.
mod decimal_u256 {
    use alloy::primitives::U256;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &U256, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<U256, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        // one number, one spelling: no signs, spaces, underscores, 0x or leading zeros
        let digits = (1..=78).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || (text.len() > 1 && text.starts_with('0')) {
            return Err(D::Error::custom("expected 1 to 78 decimal digits"));
        }
        U256::from_str_radix(&text, 10).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, keccak256};

    use super::*;
    use crate::{
        ids::ConsentId,
        sealing::{Binding, seal_key},
    };

    struct World {
        custodian: CustodianKey,
        recipient: RecipientKey,
        key: ContentKey,
        sealed: SealedKey,
    }

    fn world() -> World {
        let custodian = SecretKey::random().unwrap();
        let key = ContentKey::random().unwrap();
        let data_id = DataId::new("numo", "record").unwrap();
        let binding =
            Binding { provider: Address::repeat_byte(3), data_id, consent_id: ConsentId(B256::repeat_byte(4)) };
        let sealed = seal_key(&custodian.public_key(), binding, &key).unwrap();
        World { custodian, recipient: SecretKey::random().unwrap(), key, sealed }
    }

    fn answer(partial: &Partial, recipient: &PublicKey, sealed: &SealedKey) -> ReleaseAnswer {
        ReleaseAnswer {
            release_id: Uuid::nil(),
            data_id: sealed.data_id,
            index: partial.index,
            encrypted_partial: partial.encrypt(recipient, sealed).unwrap(),
            block_number: 7,
            block_hash: B256::ZERO,
        }
    }

    fn request(world: &World) -> ReleaseRequest {
        ReleaseRequest {
            license_id: U256::MAX,
            member: Member {
                data_id: world.sealed.data_id,
                contributor: B256::repeat_byte(1),
                consent_id: ConsentId(B256::repeat_byte(2)),
                payee: Address::ZERO,
                weight: 5,
            },
            member_proof: vec![B256::repeat_byte(3)],
            sealed_key: world.sealed.clone(),
            recipient_key: world.recipient.public_key(),
            deadline: 1_800_000_000,
            signature: Bytes::new(),
        }
    }

    #[test]
    fn a_released_key_opens_for_its_recipient_only() {
        let w = world();
        let partial = Partial::of(&w.custodian, 1, &w.sealed).unwrap();
        let answer = answer(&partial, &w.recipient.public_key(), &w.sealed);
        assert_eq!(open(&answer, &w.recipient, &w.sealed).unwrap(), w.key);
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<ReleaseAnswer>(&json).unwrap(), answer);

        let stranger = SecretKey::random().unwrap();
        assert!(matches!(open(&answer, &stranger, &w.sealed), Err(ReleaseError::Sealing(SealingError::Unopened))));
        // an answer is bound to its custodian and its sealed key
        assert!(open(&ReleaseAnswer { index: 2, ..answer.clone() }, &w.recipient, &w.sealed).is_err());
        assert!(open(&answer, &w.recipient, &world().sealed).is_err());
    }

    #[test]
    fn a_forged_partial_is_named_and_opens_nothing() {
        let w = world();
        let good = Partial::of(&w.custodian, 1, &w.sealed).unwrap();
        // a custodian that answers with another secret, and proves that one
        let impostor = SecretKey::random().unwrap();
        let other_sealed = SealedKey { public_key: impostor.public_key(), ..w.sealed.clone() };
        assert!(Partial::of(&impostor, 1, &other_sealed).is_err());
        let shared = w.sealed.ephemeral.times(&impostor.scalar()).unwrap();
        let forged = [
            Partial { shared, ..good.clone() },
            Partial { challenge: good.challenge + Scalar::ONE, ..good.clone() },
            Partial { response: good.response + Scalar::ONE, ..good.clone() },
            Partial { challenge: Scalar::ZERO, response: Scalar::ZERO, ..good.clone() },
        ];
        for partial in forged {
            let answer = answer(&partial, &w.recipient.public_key(), &w.sealed);
            assert!(matches!(open(&answer, &w.recipient, &w.sealed), Err(ReleaseError::Partial { index: 1 })));
        }
        good.verify(&w.custodian.public_key(), &w.sealed).unwrap();
        assert!(good.verify(&impostor.public_key(), &w.sealed).is_err());
    }

    #[test]
    fn a_custodian_applies_its_secret_to_no_lifted_ephemeral() {
        let w = world();
        let lifted = SealedKey { data_id: DataId::new("numo", "licensed").unwrap(), ..w.sealed.clone() };
        assert!(matches!(Partial::of(&w.custodian, 1, &lifted), Err(SealingError::Proof { .. })));
        let stranger = SecretKey::random().unwrap();
        assert!(matches!(Partial::of(&stranger, 1, &w.sealed), Err(SealingError::OtherCustodian { .. })));
    }

    #[test]
    fn one_partial_is_needed_and_one_only() {
        let w = world();
        let partial = Partial::of(&w.custodian, 1, &w.sealed).unwrap();
        assert!(matches!(combine(&[]), Err(ReleaseError::PartialCount(0))));
        assert!(matches!(combine(&[partial.clone(), partial]), Err(ReleaseError::PartialCount(2))));
    }

    #[test]
    fn the_digest_is_eip_712_over_the_documented_type() {
        let registry = address!("0x00000000000000000000000000000000000000aa");
        let request = request(&world());
        let type_hash =
            keccak256("ReleaseRequest(uint256 licenseId,bytes16 dataId,bytes recipientKey,uint64 deadline)");
        let mut data_id = [0u8; 32];
        data_id[..16].copy_from_slice(&request.member.data_id.bytes());
        let struct_hash = keccak256(
            [
                type_hash.as_slice(),
                &request.license_id.to_be_bytes::<32>(),
                &data_id,
                keccak256(request.recipient_key.bytes()).as_slice(),
                &U256::from(request.deadline).to_be_bytes::<32>(),
            ]
            .concat(),
        );
        let domain_hash = keccak256(
            [
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
                    .as_slice(),
                keccak256("Tidemark Custodian").as_slice(),
                keccak256("1").as_slice(),
                &U256::from(31337).to_be_bytes::<32>(),
                registry.into_word().as_slice(),
            ]
            .concat(),
        );
        let digest = keccak256([&[0x19, 0x01][..], domain_hash.as_slice(), struct_hash.as_slice()].concat());
        assert_eq!(request.digest(&domain(31337, registry)), digest);
    }

    #[test]
    fn a_signed_request_survives_json_and_names_its_signer() {
        let signer = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
        let domain = domain(31337, Address::repeat_byte(0xaa));
        let request = request(&world()).sign(&domain, &signer).unwrap();
        let json = serde_json::to_vec(&request).unwrap();
        assert!(json.len() < REQUEST_BYTES_MAX);
        let read: ReleaseRequest = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, request);
        crate::consent::check_signature(signer.address(), read.digest(&domain), &read.signature).unwrap();
        let other = ReleaseRequest { deadline: 1, ..read };
        assert!(crate::consent::check_signature(signer.address(), other.digest(&domain), &other.signature).is_err());
    }

    #[test]
    fn no_bytes_make_a_parser_panic() {
        let json = serde_json::to_vec(&request(&world())).unwrap();
        for length in 0..json.len() {
            assert!(serde_json::from_slice::<ReleaseRequest>(&json[..length]).is_err());
        }
        for place in 0..json.len() {
            for byte in [0u8, b'"', b'9', b'{', 0xff] {
                let mut changed = json.clone();
                changed[place] = byte;
                // any answer will do, so long as there is one
                let _any = serde_json::from_slice::<ReleaseRequest>(&changed)
                    .map(|request| request.digest(&domain(1, Address::ZERO)));
            }
        }
        let w = world();
        for length in 0..200 {
            assert!(Partial::decrypt(&w.recipient, 1, &w.sealed, &vec![2; length]).is_err());
        }
        for id in ["", "-1", "+1", "01", "0x1", "1_0", " 1", "1e3", &"9".repeat(78), &"9".repeat(1000)] {
            let text = String::from_utf8(json.clone()).unwrap().replace(&U256::MAX.to_string(), id);
            assert!(serde_json::from_str::<ReleaseRequest>(&text).is_err(), "{id}");
        }
    }
}
