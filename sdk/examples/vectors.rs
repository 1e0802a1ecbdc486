//! Writes the committed test vectors into `tests/vectors`; `--check` compares them with what is there.
//!
//! `cargo run -p tidemark --example vectors [-- --check]`. What it writes is checked by others: `sdk/tests/vectors.rs`
//! recomputes it from the inputs in the files, `tests/js` and `contracts/test/Vectors.t.sol` with code that is not ours.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::{Eip712Domain, SolValue},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidemark::{
    batch::{self, Debit, Header},
    canonical::{self, commitment, metadata_root},
    consent::{self, SignedConsent, data_type, purpose},
    dataset::{self, Member, MemberRow, VersionContent},
    event::{Event, EventKind, pseudonym},
    ids::{ConsentId, ContentHash, DATA_ID_NAMESPACE, DataId, sha256},
    manifest::{Disclosure, Manifest, encode_disclosures},
    merkle::Tree,
    payload::{Delivery, Payload},
    release::{self, ReleaseRequest},
    sealing::{self, Binding, ContentKey, SealedKey, SecretKey},
    store::cid_of,
    verdict::{Outcome, Verdict},
};

/// anvil's first accounts, published by Foundry: nobody keeps anything under them.
const KEYS: [(&str, &str); 4] = [
    ("contributor", "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    ("attestor", "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    ("device", "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    ("buyer", "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
];
const CHAIN_ID: u64 = 31337;
const PROVIDER_NAME: &str = "numo";
const NOW: u64 = 1_800_000_000;
/// What DECIMAL(38,0) holds.
const DECIMAL_MAX: u128 = 10u128.pow(38) - 1;

fn main() -> Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("expected --check or nothing, got {other}"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let files = Files { folder, check };
    let story = Story::new()?;
    files.json("events.json", events(&story))?;
    files.json("trees.json", trees(&story)?)?;
    files.json("canonical.json", canonical_forms()?)?;
    files.json("data_ids.json", data_ids()?)?;
    files.json("pseudonyms.json", pseudonyms()?)?;
    files.json("consents.json", consents()?)?;
    files.json("withdrawals.json", withdrawals()?)?;
    files.json("verdicts.json", verdicts()?)?;
    files.json("batches.json", batches(&story)?)?;
    files.json("dataset_versions.json", dataset_versions(&story)?)?;
    files.json("members.json", members(&story)?)?;
    files.json("splits.json", splits()?)?;
    files.json("cids.json", cids())?;
    let sealed = sealing_vectors(&files)?;
    files.json("releases.json", releases(&sealed.1)?)?;
    files.json("sealing.json", sealed.0)?;
    files.bytes("manifest.parquet", &story.manifest.encode()?)?;
    files.bytes("disclosures.parquet", &encode_disclosures(&story.disclosures)?)?;
    files.bytes("members.parquet", &dataset::encode_members(&story.members)?)
}

/// The folder of vectors.
struct Files {
    folder: PathBuf,
    check: bool,
}

impl Files {
    fn json(&self, name: &str, value: Value) -> Result<()> {
        let path = self.folder.join(name);
        if self.check {
            let there: Value = serde_json::from_slice(&fs::read(&path).with_context(|| format!("read {name}"))?)?;
            ensure!(there == value, "{name} is not what the code makes: a preimage changed, or run without --check");
            println!("{name}: as committed");
            return Ok(());
        }
        println!("{name}: written");
        fs::write(&path, serde_json::to_string_pretty(&value)? + "\n").with_context(|| format!("write {name}"))
    }

    fn bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        if self.check {
            ensure!(fs::read(&path).with_context(|| format!("read {name}"))? == bytes, "{name} is another file now");
            println!("{name}: as committed");
            return Ok(());
        }
        println!("{name}: written");
        fs::write(&path, bytes).with_context(|| format!("write {name}"))
    }
}

/// A stand-in for any 32 bytes.
fn some(name: &str) -> B256 {
    sha256(&[b"tidemark vector: ", name.as_bytes()])
}

fn address(name: &str) -> Address {
    Address::from_slice(&some(name)[12..])
}

fn key(name: &str) -> Result<PrivateKeySigner> {
    let (_, hex) = KEYS.iter().find(|(n, _)| *n == name).context("no such key")?;
    Ok(hex.parse()?)
}

fn data_id(record: &str) -> Result<DataId> {
    Ok(DataId::new(PROVIDER_NAME, record)?)
}

/// What a consent allows; the two have TRAIN and COMMERCIAL in common.
fn purposes(wallet: bool) -> u32 {
    purpose::TRAIN | purpose::COMMERCIAL | if wallet { purpose::EVALUATE } else { purpose::FINE_TUNE }
}

fn log_domain() -> Eip712Domain {
    batch::domain(CHAIN_ID, address("ProvenanceLog"))
}

/// A small batch in which everything happens once, with the dataset made of it.
struct Story {
    manifest: Manifest,
    disclosures: Vec<Disclosure>,
    header: Header,
    members: Vec<MemberRow>,
}

impl Story {
    fn new() -> Result<Self> {
        let mut told = Telling::default();
        // a weight too, and below 2^96 together with the others; not exact in a double
        let large = (1u128 << 95) - 1;
        told.register("voice-0001", Some("wallet"), Some(1))?;
        told.register("photo-0001", Some("points"), Some(2))?;
        told.register("clip-0001", Some("points"), Some(3))?;
        told.register("음성-0002", Some("short"), Some(1))?;
        told.register("partner-0001", None, None)?;
        told.register("photo-0002", Some("later erased"), Some(2))?;
        told.judge("voice-0001", Outcome::Accepted, 500_000_000, address("payee"))?;
        told.judge("photo-0001", Outcome::Accepted, 300_000_001, Address::ZERO)?;
        told.judge("clip-0001", Outcome::Accepted, large, Address::ZERO)?;
        told.judge("음성-0002", Outcome::TooShort, 0, Address::ZERO)?;
        told.judge("photo-0002", Outcome::Accepted, 300_000_001, address("payee"))?;
        told.update("partner-0001")?;
        told.withdraw("photo-0002")?;
        told.erase("photo-0002")?;

        let erased = data_id("photo-0002")?;
        let disclosures: Vec<Disclosure> =
            told.disclosures.into_iter().filter(|d| told.events[d.index as usize].data_id != erased).collect();
        let summary = batch::summarise(&told.events)?;
        let manifest = Manifest {
            provider: address("provider"),
            number: 7,
            events: told.events,
            disclosures: Some(cid_of(&encode_disclosures(&disclosures)?)),
        };
        let header =
            Header::new(manifest.provider, manifest.number, &manifest.events, &summary, cid_of(&manifest.encode()?))
                .context("a batch")?;
        let mut members: Vec<MemberRow> = manifest
            .events
            .iter()
            .filter(|e| e.kind == EventKind::Accepted && e.data_id != erased)
            .map(|e| MemberRow {
                member: Member {
                    data_id: e.data_id,
                    contributor: e.contributor,
                    consent_id: e.consent_id,
                    payee: e.payee,
                    weight: e.reward,
                },
                content_hash: e.content_hash,
                ciphertext_cid: cid_of(format!("ciphertext of {}", e.data_id).as_bytes()),
                key_cid: cid_of(format!("sealed key of {}", e.data_id).as_bytes()),
                batch_number: manifest.number,
                event_index: e.index,
                purposes: purposes(!e.payee.is_zero()),
            })
            .collect();
        members.sort_by_key(|row| row.member.data_id);
        Ok(Self { manifest, disclosures, header, members })
    }

    fn version(&self) -> Result<VersionContent> {
        let summary = dataset::summarise(&self.members)?;
        Ok(VersionContent {
            root: summary.tree.root(),
            member_count: u32::try_from(self.members.len())?,
            total_weight: summary.total_weight,
            points_weight: summary.points_weight,
            purposes: summary.purposes,
            manifest_cid: cid_of(&dataset::encode_members(&self.members)?),
        })
    }
}

#[derive(Default)]
struct Telling {
    events: Vec<Event>,
    disclosures: Vec<Disclosure>,
}

impl Telling {
    /// Appends an event: what the record was before, with what `change` says.
    fn tell(&mut self, record: &str, payload: &Payload, change: impl FnOnce(&mut Event)) -> Result<()> {
        let id = data_id(record)?;
        let before = self.events.iter().rev().find(|e| e.data_id == id);
        let index = u32::try_from(self.events.len())?;
        let mut event = Event {
            index,
            data_id: id,
            sequence: before.map_or(0, |e| e.sequence + 1),
            kind: EventKind::Registered,
            contributor: pseudonym(&some("contributor secret").0, id),
            content_hash: before.map_or(ContentHash::of(record.as_bytes()), |e| e.content_hash),
            consent_id: before.map_or(ConsentId::ZERO, |e| e.consent_id),
            commitment: B256::ZERO,
            previous: before.map_or(B256::ZERO, Event::leaf),
            occurred_at: NOW + u64::from(index),
            task_id: before.map_or(0, |e| e.task_id),
            reward: 0,
            payee: Address::ZERO,
        };
        change(&mut event);
        let payload = String::from_utf8(canonical::jcs(payload)?)?;
        let disclosure = Disclosure { index, salt: some(&format!("salt {index}")).0, payload };
        event.commitment = disclosure.commitment();
        self.events.push(event);
        self.disclosures.push(disclosure);
        Ok(())
    }

    fn register(&mut self, record: &str, consent_name: Option<&str>, task: Option<u64>) -> Result<()> {
        let metadata = json!({
            "schema_version": "trace-v1.0",
            "file": {"mime_type": "audio/wav", "size_bytes": 4096, "title": "안녕하세요"},
            "provider_payload": {"source_record_id": record},
        });
        let id = data_id(record)?;
        let delivery = task.map(|_| Delivery {
            ciphertext_cid: cid_of(format!("ciphertext of {id}").as_bytes()),
            key_cid: cid_of(format!("sealed key of {id}").as_bytes()),
            size_bytes: 4096,
        });
        let payload = Payload::Registered {
            source_record_id: record.into(),
            metadata_root: metadata_root(&metadata)?,
            metadata,
            purposes: consent_name.map_or(0, |name| purposes(name == "wallet")),
            delivery,
        };
        self.tell(record, &payload, |e| {
            e.task_id = task.unwrap_or(0);
            e.consent_id = consent_name.map_or(ConsentId::ZERO, |name| ConsentId(some(name)));
        })
    }

    fn judge(&mut self, record: &str, outcome: Outcome, reward: u128, payee: Address) -> Result<()> {
        let attestor = key("attestor")?;
        let mut verdict = Verdict {
            data_id: data_id(record)?,
            content_hash: ContentHash::of(record.as_bytes()),
            outcome,
            detail: format!("{record}: {}", outcome.name()),
            gate: "tidemark-gate-1".into(),
            decided_at: NOW,
            attestor: attestor.address(),
            signature: Bytes::new(),
        };
        verdict.signature = attestor.sign_hash_sync(&verdict.digest(&log_domain()))?.as_bytes().into();
        let accepted = outcome == Outcome::Accepted;
        let payload = if accepted { Payload::Accepted { verdict } } else { Payload::Rejected { verdict } };
        self.tell(record, &payload, |e| {
            e.kind = if accepted { EventKind::Accepted } else { EventKind::Rejected };
            (e.reward, e.payee) = (reward, payee);
        })
    }

    fn update(&mut self, record: &str) -> Result<()> {
        let metadata = json!({"schema_version": "trace-v1.0", "file": {"title": "고친 제목"}});
        let payload = Payload::MetadataUpdated {
            seq: 1,
            prev_metadata_root: some("root before"),
            metadata_root: metadata_root(&metadata)?,
            metadata,
        };
        self.tell(record, &payload, |e| e.kind = EventKind::MetadataUpdated)
    }

    fn withdraw(&mut self, record: &str) -> Result<()> {
        let payload =
            Payload::ConsentWithdrawn { consent_id: ConsentId(some("later erased")), signature: Bytes::new() };
        self.tell(record, &payload, |e| e.kind = EventKind::ConsentWithdrawn)
    }

    fn erase(&mut self, record: &str) -> Result<()> {
        self.tell(record, &Payload::Erased { disclosures: Vec::new() }, |e| e.kind = EventKind::Erased)
    }
}

/* LEAVES AND TREES */

fn event_json(event: &Event) -> Value {
    json!({
        "index": event.index,
        "dataId": event.data_id.sol(),
        "sequence": event.sequence,
        "kind": event.kind as u8,
        "contributor": event.contributor,
        "contentHash": event.content_hash,
        "consentId": event.consent_id,
        "commitment": event.commitment,
        "previous": event.previous,
        "occurredAt": event.occurred_at.to_string(),
        "taskId": event.task_id.to_string(),
        "reward": event.reward.to_string(),
        "payee": event.payee.to_string(),
    })
}

/// Everything zero but the data id's place, which is a nil UUID.
fn zero_event() -> Event {
    Event {
        index: 0,
        data_id: DataId::from_bytes([0; 16]),
        sequence: 0,
        kind: EventKind::Registered,
        contributor: B256::ZERO,
        content_hash: ContentHash::ZERO,
        consent_id: ConsentId::ZERO,
        commitment: B256::ZERO,
        previous: B256::ZERO,
        occurred_at: 0,
        task_id: 0,
        reward: 0,
        payee: Address::ZERO,
    }
}

fn extreme_events() -> Vec<(&'static str, Event)> {
    let zero = zero_event();
    let with = |change: &dyn Fn(&mut Event)| {
        let mut event = zero.clone();
        change(&mut event);
        event
    };
    let first_bit = {
        let mut bytes = [0u8; 32];
        bytes[0] = 0x80;
        B256::from(bytes)
    };
    let last_bit = B256::with_last_byte(1);
    let mut left = [0u8; 16];
    left[0] = 0xff;
    let mut right = [0u8; 16];
    right[15] = 1;
    vec![
        ("every field zero", zero.clone()),
        (
            "every field at its greatest",
            Event {
                index: u32::MAX,
                data_id: DataId::from_bytes([0xff; 16]),
                sequence: u32::MAX,
                kind: EventKind::Erased,
                contributor: B256::repeat_byte(0xff),
                content_hash: ContentHash(B256::repeat_byte(0xff)),
                consent_id: ConsentId(B256::repeat_byte(0xff)),
                commitment: B256::repeat_byte(0xff),
                previous: B256::repeat_byte(0xff),
                occurred_at: u64::MAX,
                task_id: u64::MAX,
                reward: u128::MAX,
                payee: Address::repeat_byte(0xff),
            },
        ),
        ("only the index, at its greatest", with(&|e| e.index = u32::MAX)),
        ("only the data id's first byte: bytes16 is left-aligned", with(&|e| e.data_id = DataId::from_bytes(left))),
        ("only the data id's last byte", with(&|e| e.data_id = DataId::from_bytes(right))),
        ("only the sequence, at its greatest", with(&|e| e.sequence = u32::MAX)),
        ("only the kind", with(&|e| e.kind = EventKind::Accepted)),
        ("only the contributor's first bit", with(&|e| e.contributor = first_bit)),
        ("only the content hash's last bit", with(&|e| e.content_hash = ContentHash(last_bit))),
        ("only the consent id's first bit", with(&|e| e.consent_id = ConsentId(first_bit))),
        ("only the commitment's last bit", with(&|e| e.commitment = last_bit)),
        ("only the previous leaf's first bit", with(&|e| e.previous = first_bit)),
        ("only the time, at its greatest", with(&|e| e.occurred_at = u64::MAX)),
        ("only the time, above what a double holds", with(&|e| e.occurred_at = (1 << 53) + 1)),
        ("only the task, at its greatest", with(&|e| e.task_id = u64::MAX)),
        ("only the reward, at its greatest", with(&|e| e.reward = u128::MAX)),
        ("only the reward, the most that a manifest holds", with(&|e| e.reward = DECIMAL_MAX)),
        ("only the reward, one above 64 bits", with(&|e| e.reward = u128::from(u64::MAX) + 1)),
        ("only the payee's last byte", with(&|e| e.payee = Address::with_last_byte(1))),
    ]
}

fn all_events(story: &Story) -> Vec<(String, Event)> {
    let told = story
        .manifest
        .events
        .iter()
        .map(|e| (format!("event {} of manifest.parquet: {}", e.index, e.kind.name()), e.clone()));
    told.chain(extreme_events().into_iter().map(|(name, e)| (name.to_owned(), e))).collect()
}

fn events(story: &Story) -> Value {
    let vectors: Vec<Value> = all_events(story)
        .iter()
        .map(|(name, event)| {
            json!({
                "name": name,
                "event": event_json(event),
                "abi_hash": keccak256(event.abi_encode()),
                "leaf": event.leaf(),
            })
        })
        .collect();
    json!({
        "about": "ProvenanceEvent: abi_hash = keccak256(abi.encode(fields in the order of types)), leaf = \
                  keccak256(abi_hash). Integers that may exceed 2^53 are decimal strings.",
        "types": [
            ["index", "uint32"], ["dataId", "bytes16"], ["sequence", "uint32"], ["kind", "uint8"],
            ["contributor", "bytes32"], ["contentHash", "bytes32"], ["consentId", "bytes32"],
            ["commitment", "bytes32"], ["previous", "bytes32"], ["occurredAt", "uint64"], ["taskId", "uint64"],
            ["reward", "uint128"], ["payee", "address"],
        ],
        "vectors": vectors,
    })
}

fn tree_json(leaves: &[B256]) -> Result<Value> {
    let tree = Tree::new(leaves).context("a tree has leaves")?;
    let proofs: Vec<_> = (0..leaves.len()).map(|i| tree.proof(i)).collect();
    Ok(json!({"root": tree.root(), "leaves": leaves, "proofs": proofs}))
}

fn trees(story: &Story) -> Result<Value> {
    let mut trees = Vec::new();
    for count in [1u64, 2, 3, 5, 8, 33] {
        let values: Vec<(Address, U256)> = (0..count)
            .map(|i| (address(&format!("holder {i}")), U256::from(10).pow(U256::from(18)) * U256::from(i)))
            .collect();
        let leaves: Vec<B256> = values.iter().map(|value| keccak256(keccak256(value.abi_encode()))).collect();
        let mut tree = tree_json(&leaves)?;
        tree["values"] = values.iter().map(|(who, amount)| json!([who.to_string(), amount.to_string()])).collect();
        trees.push(tree);
    }
    let leaves: Vec<B256> = all_events(story).iter().map(|(_, event)| event.leaf()).collect();
    Ok(json!({
        "about": "StandardMerkleTree of @openzeppelin/merkle-tree. proofs[i] is that of leaves[i]; events is the tree \
                  over all of events.json in its order, and manifest the one over manifest.parquet.",
        "types": ["address", "uint256"],
        "trees": trees,
        "events": tree_json(&leaves)?,
        "manifest": tree_json(&story.manifest.events.iter().map(Event::leaf).collect::<Vec<_>>())?,
    }))
}

/* HASHES OVER TEXT */

fn canonical_forms() -> Result<Value> {
    let inputs = [
        ("null", r#"null"#),
        ("a string", r#""물때""#),
        ("empty object", r#"{ }"#),
        ("empty array", "[ \n ]"),
        (
            "the example of RFC 8785, section 3.2.2",
            r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
               "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#,
        ),
        (
            "keys sort by UTF-16 code unit (RFC 8785, section 3.2.3)",
            r#"{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
               "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
               "\u00f6": "Latin Small Letter O With Diaeresis"}"#,
        ),
        ("1e21 is the first with an exponent", "[1e21, 1e20, 123456789012345680000, 999999999999999900000]"),
        ("minus zero is zero", "[-0, 0, -0.0, 0e10]"),
        ("small ones", "[1e-6, 1e-7, 0.000001, 1.5e-9, 5e-324, -5e-324]"),
        ("large ones", "[1.7976931348623157e308, -1.7976931348623157e308, 9007199254740991, -9007199254740991]"),
        ("integers are doubles, as in JavaScript", "[9007199254740993, 18446744073709551615, -9223372036854775808]"),
        (
            "decimals near the middle between two doubles",
            "[1.00000000000000011102230246251565, 1.00000000000000011102230246251566, 2.2250738585072011e-308, \
              9007199254740993.0, 0.500000000000000166533453693773481063544750213623046875, 3.518437208883201171875e13, \
              62.5364939768271845828, 8.10109172351e-10, 1.50000000000000011102230246251565, 179769313486231580793e288]",
        ),
        ("whole numbers lose their point", "[1.0, 100.0, 1e2, 4.50, 1E1]"),
        ("nested objects sort at each level", r#"{"b": {"d": [ {"z": 1, "a": 2} ], "c": {}}, "a": {"y": 1, "x": 2}}"#),
        ("capitals before small letters", r#"{"b": 1, "a": 2, "B": 3, "A": 4, "_": 5, "10": 6, "9": 7, "": 8}"#),
        ("Korean keys and text", r#"{"지역": "서울특별시", "나이": 34, "가": ["나", "다"], "region": "KR"}"#),
        ("Korean text by escapes is the same text", r#"{"\uc9c0\uc5ed": "\uc11c\uc6b8\ud2b9\ubcc4\uc2dc"}"#),
        ("composed and decomposed Hangul stay apart", r#"["\uac00", "\u1100\u1161"]"#),
        ("control characters", r#""\u0000\u0001\b\t\n\u000b\f\r\u001f\u007f\u2028\u2029""#),
        ("slash and quotes", r#""\/ / \\ \" '""#),
        ("emoji outside the basic plane", r#"{"\ud83c\udf0a": "\ud83c\udff4", "\uffff": 1}"#),
        (
            "metadata as the Trace API carries it",
            r#"{"schema_version": "trace-v1.0",
               "file": {"content_sha256": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                        "mime_type": "audio/wav", "media_category": "audio", "size_bytes": 96044},
               "file_specific": {"duration_ms": 3000, "sample_rate_hz": 16000, "snr_db": 21.50},
               "contributor": {"region": "부산", "consent": {"policy_hash": "0x00", "scope": ["train", "평가"]}},
               "timestamps": {"originated_at": "2026-11-21T08:00:00Z"},
               "provider_payload": {"source_record_id": "음성-0002", "note": "바다\u0020소리 \"밀물\""}}"#,
        ),
    ];
    let mut vectors = Vec::new();
    for (name, input) in inputs {
        let value: Value = serde_json::from_str(input).context(name)?;
        let text = String::from_utf8(canonical::jcs(&value)?)?;
        let salt = some(&format!("salt of {name}"));
        vectors.push(json!({
            "name": name,
            "input": input,
            "canonical": text,
            "metadata_root": metadata_root(&value)?,
            "salt": salt,
            "commitment": commitment(&salt.0, text.as_bytes()),
        }));
    }
    Ok(json!({
        "about": "RFC 8785: canonical is the form of input, metadata_root its SHA-256, commitment SHA-256(salt ‖ canonical).",
        "vectors": vectors,
    }))
}

fn data_ids() -> Result<Value> {
    let long = "긴".repeat(170);
    let inputs = [
        (PROVIDER_NAME, "voice-0001"),
        (PROVIDER_NAME, "  voice-0001\u{3000}"),
        (PROVIDER_NAME, "Voice-0001"),
        (PROVIDER_NAME, "음성-0002"),
        (PROVIDER_NAME, "a b/c?d=e&f#g"),
        (PROVIDER_NAME, "🌊"),
        (PROVIDER_NAME, long.as_str()),
        ("num", "ovoice-0001"),
        ("toss", "voice-0001"),
    ];
    let mut vectors = Vec::new();
    for (provider, source_record_id) in inputs {
        let id = DataId::new(provider, source_record_id)?;
        vectors.push(json!({
            "provider": provider,
            "source_record_id": source_record_id,
            "trimmed": source_record_id.trim(),
            "data_id": id.to_string(),
            "bytes": id.sol(),
        }));
    }
    Ok(json!({
        "about": "UUIDv5(namespace, provider ‖ 0x00 ‖ trimmed source_record_id), both UTF-8.",
        "namespace": DATA_ID_NAMESPACE.to_string(),
        "namespace_is": "UUIDv5(DNS namespace 6ba7b810-9dad-11d1-80b4-00c04fd430c8, tidemark.protocol)",
        "vectors": vectors,
        "refused": ["", "  ", "a\nb", "a\u{7f}b", "x".repeat(513)],
    }))
}

fn pseudonyms() -> Result<Value> {
    let mut vectors = Vec::new();
    for (secret, record) in [
        (some("contributor secret"), "voice-0001"),
        (some("contributor secret"), "photo-0001"),
        (some("another contributor's secret"), "voice-0001"),
        (B256::ZERO, "voice-0001"),
        (B256::repeat_byte(0xff), "음성-0002"),
    ] {
        let id = data_id(record)?;
        vectors.push(json!({
            "secret": secret,
            "data_id": id.to_string(),
            "pseudonym": pseudonym(&secret.0, id),
        }));
    }
    Ok(json!({
        "about": "HMAC-SHA256(key = secret, message = the 16 bytes of data_id).",
        "vectors": vectors,
    }))
}

/* SIGNATURES */

fn typed(about: &str, domain: &Eip712Domain, primary_type: &str, types: Value, vectors: Vec<Value>) -> Value {
    json!({
        "about": about,
        "domain": {
            "name": domain.name,
            "version": domain.version,
            "chainId": CHAIN_ID,
            "verifyingContract": domain.verifying_contract.map(|a| a.to_string()),
        },
        "primaryType": primary_type,
        "types": types,
        "vectors": vectors,
    })
}

fn fields(list: &[(&str, &str)]) -> Value {
    list.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect()
}

fn signed(name: &str, message: Value, digest: B256, signer: &str) -> Result<Value> {
    let wallet = key(signer)?;
    let (_, secret) = KEYS.iter().find(|(n, _)| *n == signer).context("no such key")?;
    Ok(json!({
        "name": name,
        "message": message,
        "digest": digest,
        "key": secret,
        "signer": wallet.address().to_string(),
        "signature": Bytes::from(wallet.sign_hash_sync(&digest)?.as_bytes()),
    }))
}

fn consent_domain() -> Eip712Domain {
    consent::domain(CHAIN_ID, address("ConsentRegistry"))
}

/// Consents with the key that signs them.
fn some_consents() -> Result<Vec<(&'static str, &'static str, SignedConsent)>> {
    let usual = SignedConsent {
        contributor: key("contributor")?.address(),
        provider: address("provider"),
        policy_hash: sha256(&["개인정보 처리방침 v1".as_bytes()]),
        purposes: purpose::TRAIN | purpose::EVALUATE | purpose::COMMERCIAL,
        data_types: data_type::VOICE | data_type::PHOTO,
        territory: sha256(&[b"KR"]),
        valid_from: NOW,
        valid_until: NOW + 365 * 86_400,
        nonce: U256::from_be_bytes(some("nonce").0),
        signature: Bytes::new(),
    };
    let device = key("device")?.address();
    Ok(vec![
        ("by a wallet", "contributor", usual.clone()),
        (
            "by a device key, the whole world, for ever",
            "device",
            SignedConsent { contributor: device, territory: B256::ZERO, valid_until: u64::MAX, ..usual.clone() },
        ),
        (
            "every bit and number at its greatest",
            "contributor",
            SignedConsent {
                policy_hash: B256::repeat_byte(0xff),
                purposes: u32::MAX,
                data_types: u32::MAX,
                territory: B256::repeat_byte(0xff),
                valid_from: u64::MAX,
                valid_until: u64::MAX,
                nonce: U256::MAX,
                ..usual.clone()
            },
        ),
        (
            "everything else zero",
            "device",
            SignedConsent {
                contributor: device,
                provider: Address::ZERO,
                policy_hash: B256::ZERO,
                purposes: 0,
                data_types: 0,
                territory: B256::ZERO,
                valid_from: 0,
                valid_until: 0,
                nonce: U256::ZERO,
                signature: Bytes::new(),
            },
        ),
        (
            "the same consent with the next nonce",
            "contributor",
            SignedConsent { nonce: usual.nonce + U256::ONE, ..usual },
        ),
    ])
}

fn consents() -> Result<Value> {
    let domain = consent_domain();
    let mut vectors = Vec::new();
    for (name, signer, consent) in some_consents()? {
        let message = json!({
            "contributor": consent.contributor.to_string(),
            "provider": consent.provider.to_string(),
            "policyHash": consent.policy_hash,
            "purposes": consent.purposes,
            "dataTypes": consent.data_types,
            "territory": consent.territory,
            "validFrom": consent.valid_from.to_string(),
            "validUntil": consent.valid_until.to_string(),
            "nonce": consent.nonce.to_string(),
        });
        vectors.push(signed(name, message, consent.id(&domain).0, signer)?);
    }
    let types = json!({"Consent": fields(&[
        ("contributor", "address"), ("provider", "address"), ("policyHash", "bytes32"), ("purposes", "uint32"),
        ("dataTypes", "uint32"), ("territory", "bytes32"), ("validFrom", "uint64"), ("validUntil", "uint64"),
        ("nonce", "uint256"),
    ])});
    Ok(typed("EIP-712 Consent; the digest is the consent's id.", &domain, "Consent", types, vectors))
}

fn withdrawals() -> Result<Value> {
    let domain = consent_domain();
    let mut vectors = Vec::new();
    for (name, signer, consent) in some_consents()? {
        let id = consent.id(&domain);
        let digest = consent::withdrawal_digest(&domain, id);
        vectors.push(signed(&format!("of the consent {name:?}"), json!({"consentId": id}), digest, signer)?);
    }
    let types = json!({"Withdrawal": fields(&[("consentId", "bytes32")])});
    Ok(typed("EIP-712 Withdrawal of the consents in consents.json.", &domain, "Withdrawal", types, vectors))
}

fn verdicts() -> Result<Value> {
    let domain = log_domain();
    let verdict = |record: &str, outcome, gate: &str, decided_at| -> Result<Verdict> {
        Ok(Verdict {
            data_id: data_id(record)?,
            content_hash: ContentHash::of(record.as_bytes()),
            outcome,
            detail: String::new(),
            gate: gate.into(),
            decided_at,
            attestor: key("attestor")?.address(),
            signature: Bytes::new(),
        })
    };
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
    let mut all = Vec::new();
    for outcome in outcomes {
        all.push((outcome.name(), verdict("voice-0001", outcome, "tidemark-gate-1", NOW)?));
    }
    all.push(("a gate in Korean", verdict("음성-0002", Outcome::TooShort, "품질검사-1", NOW)?));
    all.push(("no gate, the greatest time", verdict("음성-0002", Outcome::Accepted, "", u64::MAX)?));
    let mut vectors = Vec::new();
    for (name, verdict) in all {
        let message = json!({
            "dataId": verdict.data_id.sol(),
            "contentHash": verdict.content_hash,
            "outcome": verdict.outcome as u8,
            "gate": verdict.gate,
            "decidedAt": verdict.decided_at.to_string(),
        });
        vectors.push(signed(name, message, verdict.digest(&domain), "attestor")?);
    }
    let types = json!({"Verdict": fields(&[
        ("dataId", "bytes16"), ("contentHash", "bytes32"), ("outcome", "uint8"), ("gate", "string"),
        ("decidedAt", "uint64"),
    ])});
    Ok(typed("EIP-712 Verdict, in the provenance log's domain.", &domain, "Verdict", types, vectors))
}

fn batches(story: &Story) -> Result<Value> {
    let domain = log_domain();
    let cid = cid_of(b"a manifest");
    let extreme = Header {
        provider: Address::repeat_byte(0xff),
        number: u64::MAX,
        root: B256::repeat_byte(0xff),
        event_count: u32::MAX,
        points_total: u128::MAX,
        wallet_total: u128::MAX,
        debits: vec![
            Debit { task_id: 0, amount: 0 },
            Debit { task_id: 1, amount: u128::MAX },
            Debit { task_id: u64::MAX, amount: 1 },
        ],
        manifest_cid: cid,
    };
    let free = Header {
        provider: address("provider"),
        number: 0,
        root: some("root"),
        event_count: 1,
        points_total: 0,
        wallet_total: 0,
        debits: Vec::new(),
        manifest_cid: cid,
    };
    let mut vectors = Vec::new();
    for (name, header) in [
        ("of manifest.parquet", story.header.clone()),
        ("without rewards", free),
        ("every number at its greatest", extreme),
    ] {
        let debits: Vec<Value> = header
            .debits
            .iter()
            .map(|d| json!({"taskId": d.task_id.to_string(), "amount": d.amount.to_string()}))
            .collect();
        let message = json!({
            "provider": header.provider.to_string(),
            "number": header.number.to_string(),
            "root": header.root,
            "eventCount": header.event_count,
            "pointsTotal": header.points_total.to_string(),
            "walletTotal": header.wallet_total.to_string(),
            "debits": debits,
            "manifestCid": Bytes::from(header.manifest_cid.to_bytes()),
        });
        let mut vector = signed(name, message, header.digest(&domain), "attestor")?;
        vector["manifest_cid"] = header.manifest_cid.to_string().into();
        vectors.push(vector);
    }
    let types = json!({
        "Batch": fields(&[
            ("provider", "address"), ("number", "uint64"), ("root", "bytes32"), ("eventCount", "uint32"),
            ("pointsTotal", "uint128"), ("walletTotal", "uint128"), ("debits", "TaskDebit[]"),
            ("manifestCid", "bytes"),
        ]),
        "TaskDebit": fields(&[("taskId", "uint64"), ("amount", "uint128")]),
    });
    let about = "EIP-712 Batch headers; manifestCid is the binary form of manifest_cid.";
    Ok(typed(about, &domain, "Batch", types, vectors))
}

/* DATASETS */

fn dataset_versions(story: &Story) -> Result<Value> {
    let domain = dataset::domain(CHAIN_ID, address("IPRegistry"));
    let (provider, dataset_name) = (address("provider"), "한국어 음성 2026");
    let ip_id = dataset::dataset_id(provider, dataset_name);
    let content = story.version()?;
    let extreme = VersionContent {
        root: B256::repeat_byte(0xff),
        member_count: u32::MAX,
        total_weight: u128::MAX,
        points_weight: u128::MAX,
        purposes: u32::MAX,
        manifest_cid: content.manifest_cid,
    };
    let mut vectors = Vec::new();
    for (name, ip_id, version, content) in [
        ("of members.parquet", ip_id, 1, content.clone()),
        ("the next version of the same members", ip_id, 2, content),
        ("every number at its greatest", U256::MAX, u32::MAX, extreme),
    ] {
        let message = json!({
            "ipId": ip_id.to_string(),
            "version": version,
            "root": content.root,
            "memberCount": content.member_count,
            "totalWeight": content.total_weight.to_string(),
            "pointsWeight": content.points_weight.to_string(),
            "purposes": content.purposes,
            "manifestCid": Bytes::from(content.manifest_cid.to_bytes()),
        });
        let digest = dataset::version_digest(&domain, ip_id, version, &content);
        let mut vector = signed(name, message, digest, "attestor")?;
        vector["manifest_cid"] = content.manifest_cid.to_string().into();
        vectors.push(vector);
    }
    let types = json!({"DatasetVersion": fields(&[
        ("ipId", "uint256"), ("version", "uint32"), ("root", "bytes32"), ("memberCount", "uint32"),
        ("totalWeight", "uint128"), ("pointsWeight", "uint128"), ("purposes", "uint32"),
        ("manifestCid", "bytes"),
    ])});
    let about = "EIP-712 DatasetVersion; dataset_ids: ipId = keccak256(abi.encode(provider, name)).";
    let mut file = typed(about, &domain, "DatasetVersion", types, vectors);
    file["dataset_ids"] = ["v", "voices", dataset_name, &"가".repeat(21)]
        .iter()
        .map(|name| {
            json!({
                "provider": provider.to_string(),
                "name": name,
                "ip_id": dataset::dataset_id(provider, name).to_string(),
            })
        })
        .collect();
    Ok(file)
}

fn members(story: &Story) -> Result<Value> {
    let mut members: Vec<Member> = story.members.iter().map(|row| row.member.clone()).collect();
    members.push(Member {
        data_id: DataId::from_bytes([0xff; 16]),
        contributor: B256::repeat_byte(0xff),
        consent_id: ConsentId(B256::repeat_byte(0xff)),
        payee: Address::repeat_byte(0xff),
        weight: dataset::WEIGHT_MAX,
    });
    members.push(Member {
        data_id: DataId::from_bytes([0; 16]),
        contributor: B256::ZERO,
        consent_id: ConsentId::ZERO,
        payee: Address::ZERO,
        weight: 1,
    });
    let leaves: Vec<B256> = members.iter().map(Member::leaf).collect();
    let vectors: Vec<Value> = members
        .iter()
        .map(|member| {
            json!({
                "member": {
                    "dataId": member.data_id.sol(),
                    "contributor": member.contributor,
                    "consentId": member.consent_id,
                    "payee": member.payee.to_string(),
                    "weight": member.weight.to_string(),
                },
                "leaf": member.leaf(),
            })
        })
        .collect();
    Ok(json!({
        "about": "Member of a dataset version: leaf = keccak256(keccak256(abi.encode(fields in the order of types))); \
                  tree over all of them in this order; the first are those of members.parquet.",
        "types": [
            ["dataId", "bytes16"], ["contributor", "bytes32"], ["consentId", "bytes32"], ["payee", "address"],
            ["weight", "uint96"],
        ],
        "vectors": vectors,
        "tree": tree_json(&leaves)?,
    }))
}

fn splits() -> Result<Value> {
    let inputs: Vec<(u128, Vec<u128>)> = vec![
        (10, vec![1, 1, 1]),
        (3, vec![1, 2, 3]),
        (1, vec![0, 5]),
        (0, vec![1, 2]),
        (7, vec![7]),
        (100, vec![0, 0, 1, 0]),
        (700_000_000, vec![500_000_000, 300_000_001, 200_000_000, 500_000_000]),
        (999_999_999_999, vec![3, 3, 3, 3, 3, 3, 3]),
        (5, vec![1; 12]),
        (u128::MAX, vec![1, 2]),
        (u128::MAX, vec![(1 << 96) - 1, 1, (1 << 96) - 1]),
        ((1 << 53) + 1, vec![1, 1]),
    ];
    let mut vectors = Vec::new();
    for (amount, weights) in inputs {
        let parts = dataset::split_points(amount, &weights).context("a split")?;
        let texts = |numbers: &[u128]| numbers.iter().map(u128::to_string).collect::<Vec<_>>();
        vectors.push(json!({
            "amount": amount.to_string(),
            "weights": texts(&weights),
            "parts": texts(&parts),
        }));
    }
    Ok(json!({
        "about": "Largest remainder (Hamilton): floors of amount × weight ÷ sum first, then one unit each to the largest \
                  remainders, ties to the earlier.",
        "vectors": vectors,
    }))
}

/* CONTENT */

fn cids() -> Value {
    // 174 links of 1 MiB fill one node: one byte more is a tree of two levels
    let sizes = [0, 1, 1 << 20, (1 << 20) + 1, 5 << 19, (174 << 20) + 1];
    let vectors: Vec<Value> = sizes
        .iter()
        .map(|&size| {
            let bytes: Vec<u8> = (0u8..251).cycle().take(size).collect();
            json!({
                "size": size,
                "sha256": ContentHash::of(&bytes).prefixed(),
                "cid": cid_of(&bytes).to_string(),
            })
        })
        .collect();
    json!({
        "about": "Byte i of each file is i mod 251. cid: as ipfs add --cid-version=1 --raw-leaves \
                  --chunker=size-1048576 (balanced, 174 links a node); sha256: the content hash.",
        "vectors": vectors,
    })
}

fn sealing_vectors(files: &Files) -> Result<(Value, SealedKey)> {
    let content_key = ContentKey::from_bytes(some("content key").0);
    let id = data_id("voice-0001")?;
    let mut ciphertexts = Vec::new();
    for text in ["", "밀물과 썰물", "one tide a time"] {
        let ciphertext = sealing::encrypt(&content_key, id, text.as_bytes())?;
        ciphertexts.push(json!({"plaintext": text, "ciphertext": Bytes::from(ciphertext)}));
    }
    // three chunks, too long to print: its hash
    let size = (2usize << 20) + 77;
    let bytes: Vec<u8> = (0u8..251).cycle().take(size).collect();
    let chunked = sha256(&[&sealing::encrypt(&content_key, id, &bytes)?]);

    let custodian = SecretKey::from_hex(&some("custodian").to_string())?;
    let binding = Binding { provider: address("provider"), data_id: id, consent_id: ConsentId(some("consent")) };
    // sealing is random: what was committed stays as long as it opens
    let before = fs::read(files.folder.join("sealing.json")).ok();
    let kept = before
        .and_then(|json| serde_json::from_slice::<Value>(&json).ok())
        .and_then(|file| serde_json::from_value::<SealedKey>(file["sealed_key"].clone()).ok())
        .filter(|sealed| sealed.binding() == binding && sealed.open(&custodian).is_ok_and(|key| key == content_key));
    let sealed = match kept {
        Some(sealed) => sealed,
        None => sealing::seal_key(&custodian.public_key(), binding, &content_key)?,
    };
    let file = json!({
        "about": "XChaCha20-Poly1305, 1 MiB chunks; nonce of a chunk: 15 zero bytes ‖ 1 on the last, else 0 ‖ its number \
                  as u64 big endian; additional data: the 16 bytes of data_id. sealed_key: see sdk/src/sealing.rs; it \
                  holds content_key, opens with custodian_secret, and carries a proof.",
        "data_id": id.to_string(),
        "content_key": Bytes::copy_from_slice(content_key.expose()),
        "ciphertexts": ciphertexts,
        "chunked": {
            "about": "byte i of the plaintext is i mod 251",
            "size": size,
            "ciphertext_sha256": chunked,
        },
        "custodian_secret": some("custodian"),
        "sealed_key": sealed,
    });
    Ok((file, sealed))
}

fn releases(sealed: &SealedKey) -> Result<Value> {
    let domain = release::domain(CHAIN_ID, address("LicenseRegistry"));
    let recipient = SecretKey::from_hex(&some("recipient").to_string())?;
    let mut vectors = Vec::new();
    for (name, license_id, deadline) in
        [("licence 1", U256::ONE, NOW), ("every number at its greatest", U256::MAX, u64::MAX)]
    {
        let request = ReleaseRequest {
            license_id,
            member: Member {
                data_id: sealed.data_id,
                contributor: B256::ZERO,
                consent_id: ConsentId::ZERO,
                payee: Address::ZERO,
                weight: 1,
            },
            member_proof: Vec::new(),
            sealed_key: sealed.clone(),
            recipient_key: recipient.public_key(),
            deadline,
            signature: Bytes::new(),
        };
        let message = json!({
            "licenseId": license_id.to_string(),
            "dataId": sealed.data_id.sol(),
            "recipientKey": Bytes::copy_from_slice(&recipient.public_key().bytes()),
            "deadline": deadline.to_string(),
        });
        vectors.push(signed(name, message, request.digest(&domain), "buyer")?);
    }
    let types = json!({"ReleaseRequest": fields(&[
        ("licenseId", "uint256"), ("dataId", "bytes16"), ("recipientKey", "bytes"), ("deadline", "uint64"),
    ])});
    Ok(typed("EIP-712 ReleaseRequest of a licence's holder.", &domain, "ReleaseRequest", types, vectors))
}
