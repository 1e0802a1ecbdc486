//! Whether a disclosed payload is what its event committed to. A fault never touches money: payloads may be erased, and an
//! indexer that starts after the erasure must reach the same balances.

use alloy::{primitives::Address, sol_types::Eip712Domain};
use tidemark::{
    canonical,
    event::{Event, EventKind},
    ids::DataId,
    manifest::Disclosure,
    payload::Payload,
    verdict::{Outcome, Verdict},
};

/// What payloads are held against.
#[derive(Clone, Debug)]
pub struct Judge {
    /// The provider's name, which data ids are made of.
    pub provider_name: String,
    /// EIP-712 domain of verdicts.
    pub verdicts: Eip712Domain,
    /// Every attestor that the provider had up to the batch.
    pub attestors: Vec<Address>,
}

/// A disclosure after the check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// As it came.
    pub salt: [u8; 32],
    /// Canonical JSON; none where it does not fit the commitment or is none.
    pub payload: Option<String>,
    /// What is wrong.
    pub fault: Option<String>,
}

impl Judge {
    /// Checks one disclosure against its event; beside it the payload, where it is one.
    pub fn check(&self, event: &Event, disclosure: Disclosure) -> (Checked, Option<Payload>) {
        let salt = disclosure.salt;
        if disclosure.commitment() != event.commitment {
            let fault = Some("salt and payload do not hash to the event's commitment".to_owned());
            return (Checked { salt, payload: None, fault }, None);
        }
        match serde_json::from_str::<Payload>(&disclosure.payload) {
            Err(error) => (Checked { salt, payload: None, fault: Some(format!("not a payload: {error}")) }, None),
            Ok(payload) => {
                let fault = self.fault(event, &payload);
                (Checked { salt, fault, payload: Some(disclosure.payload) }, Some(payload))
            }
        }
    }

    fn fault(&self, event: &Event, payload: &Payload) -> Option<String> {
        let (kind, fault) = match payload {
            Payload::Registered { source_record_id, metadata_root, metadata, purposes, .. } => {
                let id = DataId::new(&self.provider_name, source_record_id);
                let fault = match id {
                    Ok(id) if id != event.data_id => Some("source_record_id: gives another data id".to_owned()),
                    Err(_) => Some("source_record_id: gives another data id".to_owned()),
                    Ok(_) if event.consent_id.is_zero() && *purposes != 0 => {
                        Some(format!("purposes: expected none without a consent, got {purposes:#b}"))
                    }
                    Ok(_) => root_fault(*metadata_root, metadata),
                };
                (EventKind::Registered, fault)
            }
            Payload::MetadataUpdated { metadata_root, metadata, .. } => {
                (EventKind::MetadataUpdated, root_fault(*metadata_root, metadata))
            }
            Payload::Accepted { verdict } => (EventKind::Accepted, self.verdict_fault(event, verdict, true)),
            Payload::Rejected { verdict } => (EventKind::Rejected, self.verdict_fault(event, verdict, false)),
            Payload::ConsentWithdrawn { consent_id, .. } => {
                let fault =
                    (*consent_id != event.consent_id).then(|| "consent_id: another than the event's".to_owned());
                (EventKind::ConsentWithdrawn, fault)
            }
            Payload::Erased { .. } => (EventKind::Erased, None),
        };
        match kind == event.kind {
            true => fault,
            false => Some(format!("kind: expected {}, got {}", event.kind.name(), kind.name())),
        }
    }

    fn verdict_fault(&self, event: &Event, verdict: &Verdict, accepted: bool) -> Option<String> {
        if verdict.data_id != event.data_id || verdict.content_hash != event.content_hash {
            return Some("verdict: of another record or other bytes".to_owned());
        }
        if (verdict.outcome == Outcome::Accepted) != accepted {
            return Some(format!(
                "verdict: expected the outcome of {}, got {}",
                event.kind.name(),
                verdict.outcome.name()
            ));
        }
        if !self.attestors.contains(&verdict.attestor) {
            // members of a quorum are not looked up: what a contract says can change, and these rows may not
            return Some(format!("verdict: {} itself was no attestor of the provider", verdict.attestor));
        }
        verdict.check(&self.verdicts).err().map(|error| format!("verdict: {error}"))
    }
}

fn root_fault(expected: alloy::primitives::B256, metadata: &serde_json::Value) -> Option<String> {
    match canonical::metadata_root(metadata) {
        Ok(actual) if actual == expected => None,
        Ok(actual) => Some(format!("metadata_root: expected {actual}, got {expected}")),
        Err(error) => Some(format!("metadata: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::B256,
        signers::{SignerSync, local::PrivateKeySigner},
    };
    use serde_json::json;
    use tidemark::ids::{ConsentId, ContentHash};

    use super::*;

    fn judge(attestor: Address) -> Judge {
        Judge {
            provider_name: "numo".into(),
            verdicts: tidemark::batch::domain(31337, Address::repeat_byte(2)),
            attestors: vec![attestor],
        }
    }

    fn committed(kind: EventKind, payload: &Payload) -> (Event, Disclosure) {
        let payload = String::from_utf8(canonical::jcs(payload).unwrap()).unwrap();
        let disclosure = Disclosure { index: 0, salt: [3; 32], payload };
        let event = Event {
            index: 0,
            data_id: DataId::new("numo", "rec-1").unwrap(),
            sequence: 0,
            kind,
            contributor: B256::ZERO,
            content_hash: ContentHash::of(b"bytes"),
            consent_id: ConsentId::ZERO,
            commitment: disclosure.commitment(),
            previous: B256::ZERO,
            occurred_at: 0,
            task_id: 0,
            reward: 0,
            payee: Address::ZERO,
        };
        (event, disclosure)
    }

    fn registered(source_record_id: &str, root_of: serde_json::Value) -> Payload {
        Payload::Registered {
            source_record_id: source_record_id.into(),
            metadata_root: canonical::metadata_root(&root_of).unwrap(),
            metadata: json!({"a": 1}),
            purposes: 0,
            delivery: None,
        }
    }

    #[test]
    fn a_registration_proves_its_data_id_and_its_metadata_root() {
        let judge = judge(Address::ZERO);
        let fault = |payload: Payload| {
            let (event, disclosure) = committed(EventKind::Registered, &payload);
            judge.check(&event, disclosure).0.fault
        };
        assert_eq!(fault(registered("rec-1", json!({"a": 1}))), None);
        assert!(fault(registered("rec-2", json!({"a": 1}))).unwrap().starts_with("source_record_id"));
        assert!(fault(registered("rec-1", json!({"a": 2}))).unwrap().starts_with("metadata_root"));
        assert!(fault(Payload::Erased { disclosures: Vec::new() }).unwrap().starts_with("kind"));
    }

    #[test]
    fn a_registration_allows_nothing_without_a_consent() {
        let judge = judge(Address::ZERO);
        let mut payload = registered("rec-1", json!({"a": 1}));
        if let Payload::Registered { purposes, .. } = &mut payload {
            *purposes = 1;
        }
        let (mut event, disclosure) = committed(EventKind::Registered, &payload);
        let fault = judge.check(&event, disclosure.clone()).0.fault.unwrap();
        assert!(fault.starts_with("purposes: expected none"), "{fault}");
        event.consent_id = ConsentId(B256::repeat_byte(1));
        assert_eq!(judge.check(&event, disclosure).0.fault, None);
    }

    #[test]
    fn another_payload_than_committed_to_is_not_kept() {
        let (event, mut disclosure) = committed(EventKind::Registered, &registered("rec-1", json!({"a": 1})));
        disclosure.salt = [4; 32];
        let (checked, _) = judge(Address::ZERO).check(&event, disclosure);
        assert!(checked.payload.is_none() && checked.fault.is_some());
    }

    #[test]
    fn a_verdict_counts_only_from_an_attestor_of_the_provider() {
        let key = PrivateKeySigner::random();
        let judge = judge(key.address());
        let mut verdict = Verdict {
            data_id: DataId::new("numo", "rec-1").unwrap(),
            content_hash: ContentHash::of(b"bytes"),
            outcome: Outcome::Accepted,
            detail: String::new(),
            gate: "gate-1".into(),
            decided_at: 1,
            attestor: key.address(),
            signature: Default::default(),
        };
        let digest = verdict.digest(&judge.verdicts);
        verdict.signature = key.sign_hash_sync(&digest).unwrap().as_bytes().to_vec().into();
        let fault = |judge: &Judge, verdict: &Verdict| {
            let (event, disclosure) = committed(EventKind::Accepted, &Payload::Accepted { verdict: verdict.clone() });
            judge.check(&event, disclosure).0.fault
        };
        assert_eq!(fault(&judge, &verdict), None);
        let stranger = Judge { attestors: vec![Address::ZERO], ..judge.clone() };
        assert!(fault(&stranger, &verdict).unwrap().contains("was no attestor"));
        verdict.decided_at = 2;
        assert!(fault(&judge, &verdict).unwrap().starts_with("verdict: signature"));
    }
}
