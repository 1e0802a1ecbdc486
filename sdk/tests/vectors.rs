//! The committed vectors in `tests/vectors`, recomputed from their inputs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path, str::FromStr};

use alloy::{
    primitives::{Address, B256, Bytes, FixedBytes, U256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::{Eip712Domain, SolValue},
};
use serde_json::Value;
use tidemark::{
    batch::{self, Debit, Header},
    canonical::{commitment, jcs, metadata_root},
    consent::{self, SignedConsent, check_signature},
    dataset::{self, Member, VersionContent},
    event::{Event, EventKind, pseudonym},
    ids::{ConsentId, ContentHash, DataId, sha256},
    manifest::{Manifest, decode_disclosures, encode_disclosures},
    merkle::{Tree, root_from_proof},
    payload::Payload,
    release::{self, ReleaseRequest},
    sealing::{self, ContentKey, PublicKey, SealedKey, SecretKey},
    store::cid_of,
    verdict::{Outcome, Verdict},
};

fn bytes_of(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&bytes_of(name)).unwrap()
}

fn list(value: &Value) -> &[Value] {
    let values = value.as_array().expect("a list");
    assert!(!values.is_empty());
    values
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("expected a text, got {value}"))
}

/// Numbers stand as JSON numbers up to 32 bits, and as decimal text above.
fn parse<T: FromStr>(value: &Value) -> T
where
    T::Err: std::fmt::Debug,
{
    match value {
        Value::String(text) => text.parse().unwrap(),
        other => other.to_string().parse().unwrap(),
    }
}

fn data_id(value: &Value) -> DataId {
    DataId::from_bytes(parse::<FixedBytes<16>>(value).0)
}

/* LEAVES AND TREES */

fn event(value: &Value) -> Event {
    Event {
        index: parse(&value["index"]),
        data_id: data_id(&value["dataId"]),
        sequence: parse(&value["sequence"]),
        kind: EventKind::from_u8(parse(&value["kind"])).unwrap(),
        contributor: parse(&value["contributor"]),
        content_hash: ContentHash(parse(&value["contentHash"])),
        consent_id: ConsentId(parse(&value["consentId"])),
        commitment: parse(&value["commitment"]),
        previous: parse(&value["previous"]),
        occurred_at: parse(&value["occurredAt"]),
        task_id: parse(&value["taskId"]),
        reward: parse(&value["reward"]),
        payee: parse(&value["payee"]),
    }
}

fn member(value: &Value) -> Member {
    Member {
        data_id: data_id(&value["dataId"]),
        contributor: parse(&value["contributor"]),
        consent_id: ConsentId(parse(&value["consentId"])),
        payee: parse(&value["payee"]),
        weight: parse(&value["weight"]),
    }
}

fn same_tree(leaves: &[B256], vector: &Value) {
    let tree = Tree::new(leaves).unwrap();
    let root: B256 = parse(&vector["root"]);
    assert_eq!(tree.root(), root);
    assert_eq!(list(&vector["proofs"]).len(), leaves.len());
    for (at, (leaf, proof)) in leaves.iter().zip(list(&vector["proofs"])).enumerate() {
        assert_eq!(*leaf, parse::<B256>(&vector["leaves"][at]));
        let proof: Vec<B256> = proof.as_array().unwrap().iter().map(parse).collect();
        assert_eq!(tree.proof(at).unwrap(), proof);
        assert_eq!(root_from_proof(*leaf, &proof), root);
    }
}

#[test]
fn events_hash_to_their_leaves() {
    for vector in list(&read("events.json")["vectors"]) {
        let event = event(&vector["event"]);
        assert_eq!(keccak256(event.abi_encode()), parse::<B256>(&vector["abi_hash"]), "{}", vector["name"]);
        assert_eq!(event.leaf(), parse::<B256>(&vector["leaf"]), "{}", vector["name"]);
    }
}

#[test]
fn trees_have_their_roots_and_proofs() {
    let trees = read("trees.json");
    for tree in list(&trees["trees"]) {
        let leaf =
            |value: &Value| keccak256(keccak256((parse::<Address>(&value[0]), parse::<U256>(&value[1])).abi_encode()));
        same_tree(&list(&tree["values"]).iter().map(leaf).collect::<Vec<_>>(), tree);
    }
    let events = read("events.json");
    let leaves: Vec<B256> = list(&events["vectors"]).iter().map(|v| event(&v["event"]).leaf()).collect();
    same_tree(&leaves, &trees["events"]);
}

#[test]
fn members_hash_to_their_leaves() {
    let file = read("members.json");
    let vectors = list(&file["vectors"]);
    let leaves: Vec<B256> = vectors.iter().map(|vector| member(&vector["member"]).leaf()).collect();
    assert_eq!(leaves, vectors.iter().map(|vector| parse(&vector["leaf"])).collect::<Vec<B256>>());
    same_tree(&leaves, &file["tree"]);
}

/* HASHES OVER TEXT */

#[test]
fn json_has_its_canonical_form() {
    for vector in list(&read("canonical.json")["vectors"]) {
        let value: Value = serde_json::from_str(text(&vector["input"])).unwrap();
        let canonical = jcs(&value).unwrap();
        assert_eq!(String::from_utf8(canonical.clone()).unwrap(), text(&vector["canonical"]));
        assert_eq!(metadata_root(&value).unwrap(), parse::<B256>(&vector["metadata_root"]));
        let salt: B256 = parse(&vector["salt"]);
        assert_eq!(commitment(&salt.0, &canonical), parse::<B256>(&vector["commitment"]));
    }
}

#[test]
fn data_ids_and_pseudonyms_are_as_published() {
    let file = read("data_ids.json");
    for vector in list(&file["vectors"]) {
        let id = DataId::new(text(&vector["provider"]), text(&vector["source_record_id"])).unwrap();
        assert_eq!(id.to_string(), text(&vector["data_id"]));
        assert_eq!(id, data_id(&vector["bytes"]));
    }
    for refused in list(&file["refused"]) {
        assert!(DataId::new("numo", text(refused)).is_err(), "{refused}");
    }
    for vector in list(&read("pseudonyms.json")["vectors"]) {
        let secret: B256 = parse(&vector["secret"]);
        let id: DataId = parse(&vector["data_id"]);
        assert_eq!(pseudonym(&secret.0, id), parse::<B256>(&vector["pseudonym"]));
    }
}

#[test]
fn splits_have_their_parts() {
    for vector in list(&read("splits.json")["vectors"]) {
        let numbers = |key: &str| list(&vector[key]).iter().map(parse).collect::<Vec<u128>>();
        let parts = dataset::split_points(parse(&vector["amount"]), &numbers("weights")).unwrap();
        assert_eq!(parts, numbers("parts"));
    }
}

/* SIGNATURES */

/// Checks digest, signer and signature of each vector of an EIP-712 file.
fn signatures(
    name: &str,
    domain: impl Fn(u64, Address) -> Eip712Domain,
    digest: impl Fn(&Eip712Domain, &Value, &Value) -> B256,
) {
    let file = read(name);
    let domain = domain(parse(&file["domain"]["chainId"]), parse(&file["domain"]["verifyingContract"]));
    assert_eq!(domain.name.as_deref(), file["domain"]["name"].as_str());
    assert_eq!(domain.version.as_deref(), file["domain"]["version"].as_str());
    for vector in list(&file["vectors"]) {
        let digest = digest(&domain, &vector["message"], vector);
        assert_eq!(digest, parse::<B256>(&vector["digest"]), "{name}: {}", vector["name"]);
        let signature: Bytes = parse(&vector["signature"]);
        let signer: Address = parse(&vector["signer"]);
        check_signature(signer, digest, &signature).unwrap();
        let wallet: PrivateKeySigner = parse(&vector["key"]);
        assert_eq!(wallet.address(), signer);
        assert_eq!(wallet.sign_hash_sync(&digest).unwrap().as_bytes().as_slice(), &signature[..]);
    }
}

#[test]
fn consents_have_their_digests_and_signatures() {
    signatures("consents.json", consent::domain, |domain, message, vector| {
        let consent = SignedConsent {
            contributor: parse(&message["contributor"]),
            provider: parse(&message["provider"]),
            policy_hash: parse(&message["policyHash"]),
            purposes: parse(&message["purposes"]),
            data_types: parse(&message["dataTypes"]),
            territory: parse(&message["territory"]),
            valid_from: parse(&message["validFrom"]),
            valid_until: parse(&message["validUntil"]),
            nonce: parse(&message["nonce"]),
            signature: parse(&vector["signature"]),
        };
        let checked = consent.check(domain, consent.provider, consent.data_types, consent.valid_from).unwrap();
        assert_eq!(checked, consent.id(domain));
        checked.0
    });
}

#[test]
fn withdrawals_have_their_digests_and_signatures() {
    signatures("withdrawals.json", consent::domain, |domain, message, _| {
        consent::withdrawal_digest(domain, ConsentId(parse(&message["consentId"])))
    });
}

#[test]
fn verdicts_have_their_digests_and_signatures() {
    let outcomes = [
        Outcome::Accepted,
        Outcome::Empty,
        Outcome::TypeMismatch,
        Outcome::Undecodable,
        Outcome::Duplicate,
        Outcome::TooShort,
        Outcome::TooLong,
        Outcome::TooSmall,
        Outcome::TooLarge,
    ];
    signatures("verdicts.json", batch::domain, |domain, message, vector| {
        let verdict = Verdict {
            data_id: data_id(&message["dataId"]),
            content_hash: ContentHash(parse(&message["contentHash"])),
            outcome: outcomes[parse::<usize>(&message["outcome"])],
            detail: "not signed".into(),
            gate: text(&message["gate"]).into(),
            decided_at: parse(&message["decidedAt"]),
            attestor: parse(&vector["signer"]),
            signature: parse(&vector["signature"]),
        };
        verdict.check(domain).unwrap();
        verdict.digest(domain)
    });
}

fn header(vector: &Value) -> Header {
    let message = &vector["message"];
    Header {
        provider: parse(&message["provider"]),
        number: parse(&message["number"]),
        root: parse(&message["root"]),
        event_count: parse(&message["eventCount"]),
        points_total: parse(&message["pointsTotal"]),
        wallet_total: parse(&message["walletTotal"]),
        debits: message["debits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|debit| Debit { task_id: parse(&debit["taskId"]), amount: parse(&debit["amount"]) })
            .collect(),
        manifest_cid: parse(&vector["manifest_cid"]),
    }
}

#[test]
fn batch_headers_have_their_digests_and_signatures() {
    signatures("batches.json", batch::domain, |domain, message, vector| {
        let header = header(vector);
        assert_eq!(header.sol().manifestCid, parse::<Bytes>(&message["manifestCid"]));
        header.digest(domain)
    });
}

fn version_content(vector: &Value) -> VersionContent {
    let message = &vector["message"];
    VersionContent {
        root: parse(&message["root"]),
        member_count: parse(&message["memberCount"]),
        total_weight: parse(&message["totalWeight"]),
        points_weight: parse(&message["pointsWeight"]),
        purposes: parse(&message["purposes"]),
        manifest_cid: parse(&vector["manifest_cid"]),
    }
}

#[test]
fn dataset_versions_have_their_digests_and_signatures() {
    signatures("dataset_versions.json", dataset::domain, |domain, message, vector| {
        let (ip_id, version) = (parse(&message["ipId"]), parse(&message["version"]));
        dataset::version_digest(domain, ip_id, version, &version_content(vector))
    });
    for vector in list(&read("dataset_versions.json")["dataset_ids"]) {
        let id = dataset::dataset_id(parse(&vector["provider"]), text(&vector["name"]));
        assert_eq!(id, parse::<U256>(&vector["ip_id"]));
    }
}

#[test]
fn release_requests_have_their_digests_and_signatures() {
    let sealed_key: SealedKey = serde_json::from_value(read("sealing.json")["sealed_key"].clone()).unwrap();
    signatures("releases.json", release::domain, |domain, message, vector| {
        let request = ReleaseRequest {
            license_id: parse(&message["licenseId"]),
            // only the data id of the member is signed
            member: Member {
                data_id: data_id(&message["dataId"]),
                contributor: B256::ZERO,
                consent_id: ConsentId::ZERO,
                payee: Address::ZERO,
                weight: 1,
            },
            member_proof: Vec::new(),
            sealed_key: sealed_key.clone(),
            recipient_key: PublicKey::from_bytes(&parse::<Bytes>(&message["recipientKey"])).unwrap(),
            deadline: parse(&message["deadline"]),
            signature: parse(&vector["signature"]),
        };
        request.digest(domain)
    });
}

/* CONTENT */

/// Byte i is i mod 251.
fn pattern(size: usize) -> Vec<u8> {
    (0u8..251).cycle().take(size).collect()
}

#[test]
fn files_have_their_cids_and_content_hashes() {
    for vector in list(&read("cids.json")["vectors"]) {
        let bytes = pattern(parse(&vector["size"]));
        assert_eq!(cid_of(&bytes).to_string(), text(&vector["cid"]));
        assert_eq!(ContentHash::of(&bytes).prefixed(), text(&vector["sha256"]));
    }
}

#[test]
fn sealed_content_and_keys_open() {
    let file = read("sealing.json");
    let id: DataId = parse(&file["data_id"]);
    let key = ContentKey::from_bytes(parse::<B256>(&file["content_key"]).0);
    for vector in list(&file["ciphertexts"]) {
        let (plaintext, ciphertext) = (text(&vector["plaintext"]).as_bytes(), parse::<Bytes>(&vector["ciphertext"]));
        assert_eq!(sealing::encrypt(&key, id, plaintext).unwrap(), ciphertext);
        assert_eq!(sealing::decrypt(&key, id, &ciphertext).unwrap(), plaintext);
    }
    let chunked = sealing::encrypt(&key, id, &pattern(parse(&file["chunked"]["size"]))).unwrap();
    assert_eq!(sha256(&[&chunked]), parse::<B256>(&file["chunked"]["ciphertext_sha256"]));
    let sealed: SealedKey = serde_json::from_value(file["sealed_key"].clone()).unwrap();
    let custodian = SecretKey::from_hex(text(&file["custodian_secret"])).unwrap();
    assert_eq!(sealed.open(&custodian).unwrap(), key);
}

#[test]
fn the_manifest_is_that_of_its_header_and_comes_out_byte_for_byte() {
    let bytes = bytes_of("manifest.parquet");
    let manifest = Manifest::decode(bytes.clone().into()).unwrap();
    assert_eq!(manifest.encode().unwrap(), bytes);
    let summary = batch::summarise(&manifest.events).unwrap();
    let rebuilt = Header::new(manifest.provider, manifest.number, &manifest.events, &summary, cid_of(&bytes)).unwrap();
    assert_eq!(rebuilt, header(&read("batches.json")["vectors"][0]));
    let leaves: Vec<B256> = manifest.events.iter().map(Event::leaf).collect();
    same_tree(&leaves, &read("trees.json")["manifest"]);

    // each record's events make a chain that may be
    for (at, event) in manifest.events.iter().enumerate() {
        let before = manifest.events[..at].iter().rev().find(|e| e.data_id == event.data_id);
        assert!(EventKind::may_follow(before.map(|e| e.kind), event.kind));
        assert_eq!(event.previous, before.map_or(B256::ZERO, Event::leaf));
        assert_eq!(event.sequence, before.map_or(0, |e| e.sequence + 1));
    }

    let bytes = bytes_of("disclosures.parquet");
    assert_eq!(manifest.disclosures, Some(cid_of(&bytes)));
    let disclosures = decode_disclosures(bytes.clone().into()).unwrap();
    assert_eq!(encode_disclosures(&disclosures).unwrap(), bytes);
    for disclosure in &disclosures {
        assert_eq!(disclosure.commitment(), manifest.events[disclosure.index as usize].commitment);
        serde_json::from_str::<Payload>(&disclosure.payload).unwrap();
    }
    assert!(disclosures.len() < manifest.events.len(), "one record is erased");
}

#[test]
fn the_members_manifest_is_that_of_its_version_and_comes_out_byte_for_byte() {
    let bytes = bytes_of("members.parquet");
    let rows = dataset::decode_members(bytes.clone().into()).unwrap();
    assert_eq!(dataset::encode_members(&rows).unwrap(), bytes);
    let summary = dataset::summarise(&rows).unwrap();
    let rebuilt = VersionContent {
        root: summary.tree.root(),
        member_count: u32::try_from(rows.len()).unwrap(),
        total_weight: summary.total_weight,
        points_weight: summary.points_weight,
        purposes: summary.purposes,
        manifest_cid: cid_of(&bytes),
    };
    assert_eq!(rebuilt, version_content(&read("dataset_versions.json")["vectors"][0]));
    let manifest = Manifest::decode(bytes_of("manifest.parquet").into()).unwrap();
    for row in &rows {
        let event = &manifest.events[row.event_index as usize];
        assert_eq!((row.member.data_id, row.content_hash), (event.data_id, event.content_hash));
        assert_eq!((row.batch_number, event.kind), (manifest.number, EventKind::Accepted));
    }
}
