//! The decision: what must hold before a key is released. Nothing here reads or waits.

use alloy::primitives::{Address, U256};
use tidemark::{
    consent::purpose,
    dataset::WEIGHT_MAX,
    ids::{ConsentId, DataId},
    release::{DEADLINE_AHEAD_SECONDS_MAX, MEMBER_PROOF_HASHES_MAX, ReleaseRequest},
    sealing::PublicKey,
};

use crate::chain::{Facts, License};

/// Why a key is not released. Each has a stable [`Refusal::slug`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// In the past, or too far ahead.
    #[error("deadline: expected {now} to {latest} (Unix seconds), got {actual}; sign a new request")]
    DeadlineOutOfRange {
        /// This custodian's clock.
        now: u64,
        /// The latest that is taken.
        latest: u64,
        /// The request's.
        actual: u64,
    },
    /// The sealed key belongs to another record than the member.
    #[error("sealed_key.data_id: expected the member's {expected}, got {actual}")]
    SealedKeyOfOtherRecord {
        /// The member's.
        expected: DataId,
        /// The sealed key's.
        actual: DataId,
    },
    /// The sealed key was made for a submission under another consent than the member names.
    #[error("sealed_key.consent_id: expected the member's {expected}, got {actual}")]
    SealedKeyOfOtherConsent {
        /// The member's.
        expected: ConsentId,
        /// The sealed key's.
        actual: ConsentId,
    },
    /// Anybody may register as a provider and name any data id in a dataset of their own: that opens nobody else's content.
    #[error("sealed_key.provider: expected the licensed dataset's {expected}, got {actual}")]
    SealedKeyOfOtherProvider {
        /// Whose the licensed dataset is.
        expected: Address,
        /// Who took the content in.
        actual: Address,
    },
    /// Sealed to a key that is not ours.
    #[error("sealed_key.public_key: expected {expected}, got {actual}; ask the custodian that it is sealed to")]
    SealedKeyOfOtherCustodian {
        /// Ours.
        expected: PublicKey,
        /// The sealed key's.
        actual: PublicKey,
    },
    /// The sealed key's proof does not hold.
    #[error(
        "sealed_key: its proof is not valid for {data_id}; fetch the record's sealed key from the content store again"
    )]
    SealedKeyInvalid {
        /// The record.
        data_id: DataId,
    },
    /// No such licence.
    #[error("license_id: there is no licence {license_id} at block {block}")]
    LicenseUnknown {
        /// The request's.
        license_id: U256,
        /// Where we looked.
        block: u64,
    },
    /// Expired or revoked.
    #[error("license_id: licence {license_id} is {status}")]
    LicenseInactive {
        /// The request's.
        license_id: U256,
        /// `expired` or `revoked`.
        status: String,
    },
    /// Signed by somebody else.
    #[error("signature: expected the holder's, {holder}, over the EIP-712 request of licence {license_id}")]
    NotHolder {
        /// The request's.
        license_id: U256,
        /// Who holds the licence now.
        holder: Address,
    },
    /// The licence allows nothing that needs the content.
    #[error("license_id: licence {license_id} has no purpose that needs the content (its bits: {purposes:#b})")]
    PurposeNotAllowed {
        /// The request's.
        license_id: U256,
        /// The licence's.
        purposes: u32,
    },
    /// The chain refuses such a sale; a release checks it again.
    #[error(
        "license_id: licence {license_id} has the purposes {licensed:#b}, members of the version consented to {consented:#b} only"
    )]
    PurposesNotConsented {
        /// The request's.
        license_id: U256,
        /// The licence's.
        licensed: u32,
        /// The version's.
        consented: u32,
    },
    /// Not a leaf of the licensed version.
    #[error("member: {data_id} is not proven to be in version {version} of dataset {ip_id}, which the licence covers")]
    NotAMember {
        /// The record.
        data_id: DataId,
        /// The licensed dataset.
        ip_id: U256,
        /// The licensed version.
        version: u32,
    },
    /// The member was registered without a consent.
    #[error("member.consent_id: {data_id} was given without a consent")]
    ConsentMissing {
        /// The record.
        data_id: DataId,
    },
    /// The contributor took the consent back.
    #[error("member.consent_id: consent {consent_id} was withdrawn at {withdrawn_at} (Unix seconds)")]
    ConsentWithdrawn {
        /// The member's.
        consent_id: ConsentId,
        /// When.
        withdrawn_at: u64,
    },
}

/// All that [`Refusal::slug`] can say.
pub const SLUGS: [&str; 14] = [
    "deadline-out-of-range",
    "sealed-key-of-other-record",
    "sealed-key-of-other-consent",
    "sealed-key-of-other-provider",
    "sealed-key-of-other-custodian",
    "sealed-key-invalid",
    "license-unknown",
    "license-inactive",
    "not-holder",
    "purpose-not-allowed",
    "purposes-not-consented",
    "not-a-member",
    "consent-missing",
    "consent-withdrawn",
];

impl Refusal {
    /// The end of the problem's type, `urn:tidemark:problem:<slug>`; stable.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::DeadlineOutOfRange { .. } => "deadline-out-of-range",
            Self::SealedKeyOfOtherRecord { .. } => "sealed-key-of-other-record",
            Self::SealedKeyOfOtherConsent { .. } => "sealed-key-of-other-consent",
            Self::SealedKeyOfOtherProvider { .. } => "sealed-key-of-other-provider",
            Self::SealedKeyOfOtherCustodian { .. } => "sealed-key-of-other-custodian",
            Self::SealedKeyInvalid { .. } => "sealed-key-invalid",
            Self::LicenseUnknown { .. } => "license-unknown",
            Self::LicenseInactive { .. } => "license-inactive",
            Self::NotHolder { .. } => "not-holder",
            Self::PurposeNotAllowed { .. } => "purpose-not-allowed",
            Self::PurposesNotConsented { .. } => "purposes-not-consented",
            Self::NotAMember { .. } => "not-a-member",
            Self::ConsentMissing { .. } => "consent-missing",
            Self::ConsentWithdrawn { .. } => "consent-withdrawn",
        }
    }
}

/// What can be said without the chain: deadline, record, custodian, and the sealed key's proof.
pub fn request(request: &ReleaseRequest, own_key: &PublicKey, now: u64) -> Result<(), Refusal> {
    let latest = now.saturating_add(DEADLINE_AHEAD_SECONDS_MAX);
    if !(now..=latest).contains(&request.deadline) {
        return Err(Refusal::DeadlineOutOfRange { now, latest, actual: request.deadline });
    }
    let (member, sealed) = (&request.member, &request.sealed_key);
    if sealed.data_id != member.data_id {
        return Err(Refusal::SealedKeyOfOtherRecord { expected: member.data_id, actual: sealed.data_id });
    }
    if member.consent_id.is_zero() {
        return Err(Refusal::ConsentMissing { data_id: member.data_id });
    }
    if sealed.consent_id != member.consent_id {
        return Err(Refusal::SealedKeyOfOtherConsent { expected: member.consent_id, actual: sealed.consent_id });
    }
    if sealed.public_key != *own_key {
        return Err(Refusal::SealedKeyOfOtherCustodian { expected: *own_key, actual: sealed.public_key });
    }
    sealed.verify().map_err(|_| Refusal::SealedKeyInvalid { data_id: member.data_id })
}

/// Whether the member and its proof could be on chain at all: its weight fits 96 bits, the proof a tree of 2^20 leaves.
pub fn member_fits(request: &ReleaseRequest) -> bool {
    request.member.weight <= WEIGHT_MAX && request.member_proof.len() <= MEMBER_PROOF_HASHES_MAX
}

/// What only the chain can say; gives the licence that allows the release.
pub fn facts<'a>(request: &ReleaseRequest, facts: &'a Facts) -> Result<&'a License, Refusal> {
    let license_id = request.license_id;
    let Some(license) = &facts.license else {
        return Err(Refusal::LicenseUnknown { license_id, block: facts.block.number });
    };
    if !license.active {
        return Err(Refusal::LicenseInactive { license_id, status: license.status.clone() });
    }
    if !facts.signed_by_holder {
        return Err(Refusal::NotHolder { license_id, holder: license.holder });
    }
    let uses = purpose::TRAIN | purpose::EVALUATE | purpose::FINE_TUNE | purpose::REDISTRIBUTE | purpose::COMMERCIAL;
    if license.purposes & uses == 0 {
        return Err(Refusal::PurposeNotAllowed { license_id, purposes: license.purposes });
    }
    if license.purposes & !facts.consented_purposes != 0 {
        return Err(Refusal::PurposesNotConsented {
            license_id,
            licensed: license.purposes,
            consented: facts.consented_purposes,
        });
    }
    if !facts.is_member {
        return Err(Refusal::NotAMember {
            data_id: request.member.data_id,
            ip_id: license.ip_id,
            version: license.version,
        });
    }
    if facts.provider != request.sealed_key.provider {
        return Err(Refusal::SealedKeyOfOtherProvider {
            expected: facts.provider,
            actual: request.sealed_key.provider,
        });
    }
    if facts.consent_withdrawn_at != 0 {
        return Err(Refusal::ConsentWithdrawn {
            consent_id: request.member.consent_id,
            withdrawn_at: facts.consent_withdrawn_at,
        });
    }
    Ok(license)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};
    use tidemark::{
        dataset::Member,
        sealing::{Binding, ContentKey, SealedKey, SecretKey, seal_key},
    };

    use super::*;
    use crate::chain::Block;

    const NOW: u64 = 1_800_000_000;

    fn id(name: &str) -> DataId {
        DataId::new("numo", name).unwrap()
    }

    const PROVIDER: Address = Address::repeat_byte(6);

    fn binding(name: &str) -> Binding {
        Binding { provider: PROVIDER, data_id: id(name), consent_id: ConsentId(B256::repeat_byte(2)) }
    }

    fn sample() -> (SecretKey, ReleaseRequest) {
        let custodian = SecretKey::random().unwrap();
        let sealed_key = seal_key(&custodian.public_key(), binding("a"), &ContentKey::random().unwrap()).unwrap();
        let member = Member {
            data_id: id("a"),
            contributor: B256::repeat_byte(1),
            consent_id: ConsentId(B256::repeat_byte(2)),
            payee: Address::ZERO,
            weight: 1,
        };
        let request = ReleaseRequest {
            license_id: U256::from(7),
            member,
            member_proof: Vec::new(),
            sealed_key,
            recipient_key: SecretKey::random().unwrap().public_key(),
            deadline: NOW + 60,
            signature: Bytes::new(),
        };
        (custodian, request)
    }

    fn allowed() -> Facts {
        Facts {
            block: Block { number: 9, hash: B256::repeat_byte(9), timestamp: NOW },
            license: Some(License {
                active: true,
                status: "active".into(),
                holder: Address::repeat_byte(5),
                ip_id: U256::from(1),
                version: 2,
                purposes: purpose::TRAIN,
            }),
            signed_by_holder: true,
            is_member: true,
            provider: PROVIDER,
            consented_purposes: purpose::TRAIN | purpose::EVALUATE,
            consent_withdrawn_at: 0,
        }
    }

    /// A slug that is in the list of all.
    fn known(slug: &'static str) -> &'static str {
        assert!(SLUGS.contains(&slug), "{slug}");
        slug
    }

    #[test]
    fn a_right_request_passes() {
        let (custodian, right) = sample();
        request(&right, &custodian.public_key(), NOW).unwrap();
        assert_eq!(facts(&right, &allowed()).unwrap().version, 2);
    }

    #[test]
    fn a_deadline_is_now_or_at_most_ten_minutes_ahead() {
        let (custodian, right) = sample();
        for (deadline, taken) in
            [(0, false), (NOW - 1, false), (NOW, true), (NOW + 600, true), (NOW + 601, false), (u64::MAX, false)]
        {
            let asked = ReleaseRequest { deadline, ..right.clone() };
            assert_eq!(request(&asked, &custodian.public_key(), NOW).is_ok(), taken, "{deadline}");
        }
        // a clock at the end of time does not overflow
        assert!(request(&right, &custodian.public_key(), u64::MAX).is_err());
    }

    #[test]
    fn a_sealed_key_of_another_record_custodian_or_without_its_proof_is_refused() {
        let (custodian, right) = sample();
        let slug = |asked: &ReleaseRequest| known(request(asked, &custodian.public_key(), NOW).unwrap_err().slug());
        let victim = seal_key(&custodian.public_key(), binding("victim"), &ContentKey::random().unwrap()).unwrap();
        let with = |sealed_key: SealedKey| ReleaseRequest { sealed_key, ..right.clone() };
        assert_eq!(slug(&with(victim.clone())), "sealed-key-of-other-record");
        // the victim's R under the record that was licensed
        assert_eq!(slug(&with(SealedKey { data_id: id("a"), ..victim.clone() })), "sealed-key-invalid");
        let grafted = SealedKey { ephemeral: victim.ephemeral, ..right.sealed_key.clone() };
        assert_eq!(slug(&with(grafted)), "sealed-key-invalid");
        let stranger = SecretKey::random().unwrap();
        let other = seal_key(&stranger.public_key(), binding("a"), &ContentKey::random().unwrap()).unwrap();
        assert_eq!(slug(&with(other)), "sealed-key-of-other-custodian");
        let mut relabelled = right.clone();
        relabelled.member.consent_id = ConsentId(B256::repeat_byte(3));
        assert_eq!(slug(&relabelled), "sealed-key-of-other-consent");
        let taken_over = SealedKey { provider: Address::repeat_byte(7), ..right.sealed_key.clone() };
        assert_eq!(slug(&with(taken_over)), "sealed-key-invalid");
    }

    #[test]
    fn each_fact_that_fails_has_its_own_refusal() {
        let (custodian, right) = sample();
        let slug = |facts_now: Facts| known(facts(&right, &facts_now).unwrap_err().slug());
        let with = |change: &dyn Fn(&mut License)| {
            let mut now = allowed();
            now.license.iter_mut().for_each(change);
            now
        };
        assert_eq!(slug(Facts { license: None, ..allowed() }), "license-unknown");
        assert_eq!(slug(with(&|license| license.active = false)), "license-inactive");
        assert_eq!(slug(Facts { signed_by_holder: false, ..allowed() }), "not-holder");
        assert_eq!(slug(with(&|license| license.purposes = 0)), "purpose-not-allowed");
        assert_eq!(slug(with(&|license| license.purposes = 1 << 31)), "purpose-not-allowed");
        assert_eq!(slug(Facts { is_member: false, ..allowed() }), "not-a-member");
        assert_eq!(slug(Facts { provider: Address::repeat_byte(7), ..allowed() }), "sealed-key-of-other-provider");
        assert_eq!(slug(Facts { consent_withdrawn_at: 1, ..allowed() }), "consent-withdrawn");
        assert_eq!(slug(Facts { consented_purposes: purpose::EVALUATE, ..allowed() }), "purposes-not-consented");
        assert_eq!(slug(Facts { consented_purposes: 0, ..allowed() }), "purposes-not-consented");
        let mut without = right.clone();
        without.member.consent_id = ConsentId::ZERO;
        assert_eq!(request(&without, &custodian.public_key(), NOW).unwrap_err().slug(), "consent-missing");
    }

    #[test]
    fn a_member_that_no_chain_could_hold_is_not_asked_for() {
        let (_, right) = sample();
        assert!(member_fits(&right));
        let mut heavy = right.clone();
        heavy.member.weight = WEIGHT_MAX + 1;
        assert!(!member_fits(&heavy));
        assert!(!member_fits(&ReleaseRequest { member_proof: vec![B256::ZERO; 21], ..right }));
    }
}
