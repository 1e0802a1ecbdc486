//! What the protocol's own readers promise (the crate `tidemark`).

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    sol_types::SolValue,
};
use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use serde_json::Value;
use tidemark::{
    batch,
    canonical::{self, jcs},
    consent::{self, SignedConsent},
    dataset::{self, decode_members, encode_members, split_points, summarise},
    event::{Event, EventKind},
    ids::{ContentHash, DataId, sha256},
    manifest::{Disclosure, Manifest, decode_disclosures, encode_disclosures},
    merkle::{Tree, root_from_proof},
    payload::Payload,
    release::{ReleaseAnswer, ReleaseRequest},
    sealing::{ContentKey, PublicKey, SealedKey, SecretKey, chunk_count, ciphertext_bytes, decrypt, encrypt},
    store::links_of,
};
use tidemark_custodian::check;
use tidemark_indexer::manifest::disclosed::Judge;

/// A value as RFC 8785 writes it, without the library that the protocol writes it with.
pub fn reference_form(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_form(number.as_f64().expect("a double"))),
        Value::String(text) => text_form(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                reference_form(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<u16>>());
            out.push('{');
            for (at, (name, value)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                text_form(name, out);
                out.push(':');
                reference_form(value, out);
            }
            out.push('}');
        }
    }
}

fn text_form(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `Number::toString` of ECMA-262: as few digits as tell the number apart, of those the closest, of two the even ones.
fn number_form(number: f64) -> String {
    if number == 0.0 {
        return "0".into();
    }
    let shortest = format!("{number:e}");
    let count = shortest.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    // the shortest form is not always the closest; one of a given count of digits is, and rounds to even
    let text = format!("{number:.*e}", count - 1);
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("-", text));
    let (mantissa, exponent) = text.split_once('e').expect("an exponent");
    let digits = mantissa.replace('.', "");
    let (count, point) = (digits.len(), exponent.parse::<i32>().expect("a number") + 1);
    let body = match usize::try_from(point) {
        Ok(point) if (1..=21).contains(&point) && count <= point => format!("{digits}{}", "0".repeat(point - count)),
        Ok(point) if (1..=21).contains(&point) => format!("{}.{}", &digits[..point], &digits[point..]),
        _ if (-5..=0).contains(&point) => format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
        _ => {
            let rest = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
            format!("{}{rest}e{}{}", &digits[..1], if point > 0 { "+" } else { "-" }, (point - 1).unsigned_abs())
        }
    };
    format!("{sign}{body}")
}

/// Any JSON has one canonical form: that of RFC 8785, which reads back as the same value and has itself as its form.
pub fn canonical(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let form = jcs(&value).expect("what was read has a form");
    let mut reference = String::new();
    reference_form(&value, &mut reference);
    assert_eq!(String::from_utf8(form.clone()).expect("UTF-8"), reference, "not RFC 8785");
    let again: Value = serde_json::from_slice(&form).expect("the form reads back");
    assert_eq!(jcs(&again).expect("a form"), form, "the form's own form is another");
    assert_eq!(canonical::metadata_root(&again).ok(), Some(sha256(&[&form])), "another root");
}

/// Every id, hash, address, consent and number in text reads back as what was read.
pub fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(hash) = ContentHash::parse(text) {
        assert_eq!(ContentHash::parse(&hash.prefixed()), Ok(hash));
        assert_eq!(ContentHash::parse(&hash.to_string()), Ok(hash));
    }
    if let Ok(id) = text.parse::<DataId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = DataId::new("numo", text) {
        assert_eq!(DataId::new("numo", &format!(" {text}\t")), Ok(id), "space around it is no part of an id");
        assert_eq!(id.0.get_version_num(), 5);
        assert!(text.trim().len() <= tidemark::ids::SOURCE_RECORD_ID_BYTES_MAX);
        assert_ne!(DataId::new("numo2", text), Ok(id), "of another provider");
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse::<PublicKey>().expect("its own text"), key);
        assert_eq!(PublicKey::from_bytes(&key.bytes()).expect("its own bytes"), key);
    }
    if let Ok(cid) = text.parse::<cid::Cid>() {
        assert_eq!(cid.to_string().parse::<cid::Cid>().expect("its own text"), cid);
    }
    drop(SecretKey::from_hex(text).map(|key| key.public_key()));
    if let Ok(consent) = serde_json::from_slice::<SignedConsent>(data) {
        let written = serde_json::to_vec(&consent).expect("JSON");
        assert_eq!(serde_json::from_slice::<SignedConsent>(&written).expect("its own JSON"), consent);
        let domain = consent::domain(1, Address::repeat_byte(9));
        let other = consent::domain(2, Address::repeat_byte(9));
        assert_ne!(consent.id(&domain), consent.id(&other), "of another chain");
        if let Ok(id) = consent.check(&domain, consent.provider, consent.data_types, consent.valid_from) {
            assert_eq!(id, consent.id(&domain));
            assert!(consent.check(&other, consent.provider, 0, consent.valid_from).is_err(), "signed for two chains");
        }
    }
    if let Ok(header) = serde_json::from_slice::<batch::Header>(data) {
        let written = serde_json::to_vec(&header).expect("JSON");
        assert_eq!(serde_json::from_slice::<batch::Header>(&written).expect("its own JSON"), header);
        header.digest(&batch::domain(1, Address::repeat_byte(9)));
    }
    if let Ok(event) = serde_json::from_slice::<Event>(data) {
        let written = serde_json::to_vec(&event).expect("JSON");
        assert_eq!(serde_json::from_slice::<Event>(&written).expect("its own JSON"), event);
    }
}

fn hash(u: &mut Unstructured<'_>) -> arbitrary::Result<B256> {
    Ok(B256::from(<[u8; 32]>::arbitrary(u)?))
}

/// Any event, out of bytes.
pub fn event(u: &mut Unstructured<'_>) -> arbitrary::Result<Event> {
    Ok(Event {
        index: u.arbitrary()?,
        data_id: DataId::from_bytes(u.arbitrary()?),
        sequence: u.arbitrary()?,
        kind: EventKind::from_u8(u.int_in_range(0..=5)?).expect("a kind"),
        contributor: hash(u)?,
        content_hash: ContentHash(hash(u)?),
        consent_id: tidemark::ids::ConsentId(hash(u)?),
        commitment: hash(u)?,
        previous: hash(u)?,
        occurred_at: u.arbitrary()?,
        task_id: u.arbitrary()?,
        reward: u.arbitrary()?,
        payee: Address::from(<[u8; 20]>::arbitrary(u)?),
    })
}

/// A leaf is the hash of what Solidity's `abi.encode` gives, a batch's sums are those of its events, and points are split
/// without loss.
pub fn events(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut events = Vec::new();
    while let Ok(event) = event(&mut u) {
        events.push(event);
        if u.is_empty() || events.len() == 64 {
            break;
        }
    }
    for event in &events {
        let words = (
            event.index,
            event.data_id.sol(),
            event.sequence,
            U256::from(event.kind as u8),
            event.contributor,
            event.content_hash.0,
            event.consent_id.0,
            event.commitment,
            event.previous,
            event.occurred_at,
            (event.task_id, event.reward, event.payee),
        );
        // a tuple of static words is the words in a row
        assert_eq!(event.abi_encode().as_slice(), words.abi_encode(), "not abi.encode");
        assert_eq!(event.leaf(), keccak256(keccak256(event.abi_encode())));
    }
    if let Ok(summary) = batch::summarise(&events) {
        let total = |in_points: bool| {
            let chosen = events.iter().filter(|event| event.payee.is_zero() == in_points);
            chosen.map(|event| U256::from(event.reward)).fold(U256::ZERO, |sum, reward| sum + reward)
        };
        assert_eq!(U256::from(summary.points_total), total(true));
        assert_eq!(U256::from(summary.wallet_total), total(false));
        let debits = summary.debits.iter().fold(U256::ZERO, |sum, debit| sum + U256::from(debit.amount));
        assert_eq!(debits, total(true) + total(false), "debits are what is paid");
    }
    let weights: Vec<u128> = events.iter().map(|event| event.reward).collect();
    if let Some(parts) = events.first().and_then(|event| split_points(u128::from(event.task_id), &weights)) {
        assert_eq!(parts.iter().sum::<u128>(), u128::from(events[0].task_id), "a part was lost or made");
    }
}

/// A proof leads to the root from its own leaf and no other, and a changed proof leads elsewhere.
pub fn merkle(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let read = |u: &mut Unstructured<'_>| -> arbitrary::Result<(usize, usize, u8)> {
        Ok((u.arbitrary::<u16>()?.into(), u.arbitrary::<u16>()?.into(), u.arbitrary()?))
    };
    let Ok((pick, place, flip)) = read(&mut u) else { return };
    // leaves are hashes: short inputs make equal ones
    let leaves: Vec<B256> = u.take_rest().chunks(4).take(300).map(keccak256).collect();
    let Some(tree) = Tree::new(&leaves) else {
        assert!(leaves.is_empty());
        return;
    };
    let at = pick % leaves.len();
    let proof = tree.proof(at).expect("a proof of each leaf");
    assert_eq!(root_from_proof(leaves[at], &proof), tree.root());
    assert!(proof.len() <= 2 * leaves.len().ilog2() as usize + 1, "a proof longer than the tree is high");
    let mut reversed = leaves.clone();
    reversed.reverse();
    assert_eq!(Tree::new(&reversed).expect("a tree").root(), tree.root(), "the order of leaves shows");
    assert!(tree.proof(leaves.len()).is_none());
    for (other, leaf) in leaves.iter().enumerate().filter(|(_, leaf)| **leaf != leaves[at]).take(8) {
        assert_ne!(root_from_proof(*leaf, &proof), tree.root(), "leaf {other} passes by the proof of {at}");
    }
    let mut wrong = leaves[at];
    wrong.0[place % 32] ^= flip.max(1);
    assert_ne!(root_from_proof(wrong, &proof), tree.root(), "a changed leaf passes");
    if !proof.is_empty() {
        let mut wrong = proof.clone();
        let hash = place % proof.len();
        wrong[hash].0[pick % 32] ^= flip.max(1);
        assert_ne!(root_from_proof(leaves[at], &wrong), tree.root(), "a changed proof passes");
        assert_ne!(root_from_proof(leaves[at], &proof[1..]), tree.root(), "a cut proof passes");
    }
    let longer = [proof.as_slice(), &[leaves[at]]].concat();
    assert_ne!(root_from_proof(leaves[at], &longer), tree.root(), "a longer proof passes");
}

/// A disclosed payload reads back as what it was, its form with metadata put in is the whole one's, and whatever it says,
/// it is judged and not stumbled over.
pub fn payloads(data: &[u8]) {
    let Ok(payload) = serde_json::from_slice::<Payload>(data) else { return };
    let written = jcs(&payload).expect("JSON");
    let again: Payload = serde_json::from_slice(&written).expect("its own JSON");
    assert_eq!(jcs(&again).expect("JSON"), written);
    let (metadata, without) = match payload.clone() {
        Payload::Registered { source_record_id, metadata_root, metadata, purposes, delivery } => {
            let none = Value::Null;
            (metadata, Payload::Registered { source_record_id, metadata_root, metadata: none, purposes, delivery })
        }
        Payload::MetadataUpdated { seq, prev_metadata_root, metadata_root, metadata } => {
            (metadata, Payload::MetadataUpdated { seq, prev_metadata_root, metadata_root, metadata: Value::Null })
        }
        other => (Value::Null, other),
    };
    let form = String::from_utf8(jcs(&metadata).expect("a form")).expect("UTF-8");
    assert_eq!(without.canonical_with(&form).expect("a form").as_bytes(), written, "another form of the same payload");

    let text = String::from_utf8(written).expect("UTF-8");
    let disclosure = Disclosure { index: 0, salt: [7; 32], payload: text };
    let judge = Judge {
        provider_name: "numo".into(),
        verdicts: batch::domain(1, Address::repeat_byte(9)),
        attestors: vec![Address::repeat_byte(8)],
    };
    let (data_id, kind) = match &payload {
        Payload::Registered { source_record_id, .. } => {
            let id = DataId::new("numo", source_record_id);
            (id.unwrap_or(DataId::from_bytes([0; 16])), EventKind::Registered)
        }
        Payload::Accepted { verdict } => (verdict.data_id, EventKind::Accepted),
        Payload::Rejected { verdict } => (verdict.data_id, EventKind::Rejected),
        Payload::MetadataUpdated { .. } => (DataId::from_bytes([1; 16]), EventKind::MetadataUpdated),
        Payload::ConsentWithdrawn { .. } => (DataId::from_bytes([1; 16]), EventKind::ConsentWithdrawn),
        Payload::Erased { .. } => (DataId::from_bytes([1; 16]), EventKind::Erased),
    };
    let event = Event {
        index: 0,
        data_id,
        sequence: 0,
        kind,
        contributor: B256::ZERO,
        content_hash: ContentHash(B256::ZERO),
        consent_id: tidemark::ids::ConsentId(B256::ZERO),
        commitment: disclosure.commitment(),
        previous: B256::ZERO,
        occurred_at: 0,
        task_id: 0,
        reward: 0,
        payee: Address::ZERO,
    };
    let (checked, _) = judge.check(&event, disclosure.clone());
    assert!(checked.payload.is_some(), "the commitment holds");
    if let (None, Payload::Registered { metadata_root, metadata, .. }) = (&checked.fault, &payload) {
        assert_eq!(canonical::metadata_root(metadata).ok().as_ref(), Some(metadata_root));
    }
    assert!(!matches!((&checked.fault, &payload), (None, Payload::Accepted { .. } | Payload::Rejected { .. })));
    let other = Event { commitment: B256::repeat_byte(1), ..event };
    assert!(judge.check(&other, disclosure).0.payload.is_none(), "another commitment holds, too");
}

/// The custodian of the corpus: a secret that everybody knows.
pub fn custodian() -> SecretKey {
    // of tests/vectors/sealing.json
    SecretKey::from_hex("0xfe78f1ac1064209d363e1be9c7756bb431f29cc94c17ede7dbeaa86d1fc47d74").expect("a key")
}

/// Sealed keys and requests for their release read back as what they were; no request passes with another record's sealed
/// key; what does not open gives nothing.
pub fn release(data: &[u8]) {
    if let Ok(sealed) = SealedKey::decode(data) {
        let written = sealed.encode().expect("JSON");
        assert_eq!(SealedKey::decode(&written).expect("its own JSON"), sealed);
        let is_valid = sealed.verify().is_ok();
        if let Ok(key) = sealed.open(&custodian()) {
            assert!(is_valid, "opened without its proof");
            let moved = SealedKey { data_id: DataId::from_bytes([9; 16]), ..sealed.clone() };
            assert!(moved.data_id == sealed.data_id || moved.verify().is_err(), "bound to no record");
            assert!(moved.data_id == sealed.data_id || moved.open(&custodian()).is_err());
            assert_eq!(sealed.open(&custodian()).expect("again"), key);
        }
        let mut changed = sealed.clone();
        changed.ciphertext.0[data.len() % 48] ^= 1;
        assert!(!is_valid || changed.verify().is_err(), "the proof does not cover the ciphertext");
    }
    if let Ok(request) = serde_json::from_slice::<ReleaseRequest>(data) {
        let written = serde_json::to_vec(&request).expect("JSON");
        assert_eq!(serde_json::from_slice::<ReleaseRequest>(&written).expect("its own JSON"), request);
        if check::member_fits(&request) {
            request.member.leaf();
        }
        let now = request.deadline;
        match check::request(&request, &custodian().public_key(), now) {
            Ok(()) => {
                assert_eq!(request.member.data_id, request.sealed_key.data_id);
                assert!(request.sealed_key.verify().is_ok(), "let in without a proof");
                let late = now.saturating_add(1);
                assert!(late == now || check::request(&request, &custodian().public_key(), late).is_err());
            }
            Err(refusal) => assert!(check::SLUGS.contains(&refusal.slug())),
        }
    }
    if let Ok(answer) = serde_json::from_slice::<ReleaseAnswer>(data) {
        let written = serde_json::to_vec(&answer).expect("JSON");
        assert_eq!(serde_json::from_slice::<ReleaseAnswer>(&written).expect("its own JSON"), answer);
    }
    let (key, id) = (ContentKey::from_bytes([7; 32]), DataId::from_bytes([1; 16]));
    match decrypt(&key, id, data) {
        Ok(plaintext) => assert_eq!(ciphertext_bytes(plaintext.len()), Some(data.len())),
        Err(_) => {
            let ciphertext = encrypt(&key, id, data).expect("a ciphertext");
            assert_eq!(chunk_count(ciphertext.len()).ok(), Some(1 + (data.len().saturating_sub(1) >> 20) as u64));
            assert_eq!(decrypt(&key, id, &ciphertext).expect("the plaintext"), data);
            assert!(decrypt(&key, id, &ciphertext[1..]).is_err(), "a cut ciphertext opens");
        }
    }
    assert!(tidemark::sealing::decrypt_from(&custodian(), b"fuzz", b"", data).is_err(), "nobody sealed this");
}

/// Any file is either refused or a table that is written and read as the same again; the first byte says of which kind.
pub fn tables(data: &[u8]) {
    let Some((kind, file)) = data.split_first() else { return };
    let file = Bytes::copy_from_slice(file);
    match kind % 3 {
        0 => {
            let Ok(manifest) = Manifest::decode(file) else { return };
            let written = manifest.encode().expect("what was read can be written");
            assert_eq!(Manifest::decode(written.into()).expect("its own file"), manifest);
            drop(batch::summarise(&manifest.events));
        }
        1 => {
            let Ok(rows) = decode_disclosures(file) else { return };
            let written = encode_disclosures(&rows).expect("what was read can be written");
            assert_eq!(decode_disclosures(written.into()).expect("its own file"), rows);
        }
        _ => {
            let Ok(rows) = decode_members(file) else { return };
            let written = encode_members(&rows).expect("what was read can be written");
            assert_eq!(decode_members(written.into()).expect("its own file"), rows);
            if let Ok(summary) = summarise(&rows) {
                assert!(summary.points_weight <= summary.total_weight && summary.total_weight <= dataset::WEIGHT_MAX);
            }
        }
    }
}

/// A node of links is either refused or has links within the bound.
pub fn blocks(data: &[u8]) {
    if let Some((_, links)) = links_of(data) {
        assert!((1..=174).contains(&links.len()));
        assert!(links.len() <= data.len(), "more links than bytes");
    }
    if let Ok(cid) = cid::Cid::try_from(data) {
        assert_eq!(cid::Cid::try_from(cid.to_bytes()).expect("its own bytes"), cid);
    }
}
