//! What a listener is told of a log: its kind and the ids to ask for, never what a record contains.

use serde_json::{Value, json};
use tidemark::{
    contracts::{
        ConsentRegistry::ConsentRegistryEvents, Disputes::DisputesEvents, IPRegistry::IPRegistryEvents,
        LicenseRegistry::LicenseRegistryEvents, PointsTreasury::PointsTreasuryEvents,
        ProvenanceLog::ProvenanceLogEvents,
    },
    ids::DataId,
};

use crate::project::Said;

/// Kind and ids; none where nobody waits for it.
pub fn told(said: &Said) -> Option<(&'static str, Value)> {
    let id = |bytes: [u8; 16]| DataId::from_bytes(bytes).to_string();
    Some(match said {
        Said::Log(ProvenanceLogEvents::ProviderRegistered(e)) => ("provider", json!({ "provider": e.provider })),
        Said::Log(ProvenanceLogEvents::BatchAnchored(e)) => {
            ("batch", json!({ "provider": e.provider, "number": e.number, "event_count": e.eventCount }))
        }
        Said::Log(ProvenanceLogEvents::TaskCreated(e)) => {
            ("task", json!({ "task_id": e.taskId, "provider": e.provider }))
        }
        Said::Log(ProvenanceLogEvents::RewardClaimed(e)) => {
            ("reward_claim", json!({ "provider": e.provider, "number": e.number, "data_id": id(e.dataId.0) }))
        }
        Said::Disputes(DisputesEvents::DisputeOpened(e)) => {
            ("dispute", json!({ "dispute_id": e.disputeId.to_string(), "what": "opened", "data_id": id(e.dataId.0) }))
        }
        Said::Disputes(DisputesEvents::DisputeEnded(e)) => {
            ("dispute", json!({ "dispute_id": e.disputeId.to_string(), "what": "ended" }))
        }
        Said::Consents(ConsentRegistryEvents::PolicyPublished(e)) => {
            ("policy", json!({ "provider": e.provider, "policy_hash": e.policyHash }))
        }
        Said::Consents(ConsentRegistryEvents::ConsentWithdrawn(e)) => {
            ("consent_withdrawal", json!({ "consent_id": e.consentId, "provider": e.provider }))
        }
        Said::Ip(IPRegistryEvents::DatasetRegistered(e)) => {
            ("dataset", json!({ "ip_id": e.ipId.to_string(), "what": "registered" }))
        }
        Said::Ip(IPRegistryEvents::VersionRegistered(e)) => {
            ("dataset", json!({ "ip_id": e.ipId.to_string(), "version": e.version, "what": "version_registered" }))
        }
        Said::Ip(IPRegistryEvents::VersionWithdrawn(e)) => {
            ("dataset", json!({ "ip_id": e.ipId.to_string(), "version": e.version, "what": "version_withdrawn" }))
        }
        Said::Licenses(LicenseRegistryEvents::OfferPublished(e)) => {
            ("offer", json!({ "offer_id": e.offerId, "ip_id": e.ipId.to_string(), "what": "published" }))
        }
        Said::Licenses(LicenseRegistryEvents::OfferClosed(e)) => {
            ("offer", json!({ "offer_id": e.offerId, "what": "closed" }))
        }
        Said::Licenses(LicenseRegistryEvents::LicenseSold(e)) => {
            ("license", json!({ "license_id": e.licenseId.to_string(), "ip_id": e.ipId.to_string(), "what": "sold" }))
        }
        Said::Licenses(LicenseRegistryEvents::LicenseRevoked(e)) => {
            ("license", json!({ "license_id": e.licenseId.to_string(), "what": "revoked" }))
        }
        // a mint is told as a sale
        Said::Licenses(LicenseRegistryEvents::Transfer(e)) if !e.from.is_zero() => {
            ("license", json!({ "license_id": e.tokenId.to_string(), "what": "transferred" }))
        }
        Said::Licenses(LicenseRegistryEvents::RoyaltyClaimed(e)) => {
            ("royalty_claim", json!({ "ip_id": e.ipId.to_string(), "version": e.version, "data_id": id(e.dataId.0) }))
        }
        Said::Treasury(PointsTreasuryEvents::PointsRedeemed(e)) => {
            ("points_redeemed", json!({ "debit_id": e.payoutId }))
        }
        _ => return None,
    })
}
