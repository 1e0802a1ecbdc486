//! Properties of parsers over inputs that are well formed by construction, which bytes turned over at random seldom are.
//!
//! A failure prints its seed and is kept in `properties.proptest-regressions`, which is committed and tried first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;

use alloy::{
    primitives::{Address, B256, U256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::FileFailurePersistence};
use serde_json::{Map, Value, json};
use tidemark::{
    canonical::metadata_root,
    consent::{self, SignedConsent},
    ids::{ContentHash, DataId},
};
use tidemark_fuzz::{protocol, reading, writing};
use tidemark_indexer::{
    api::answer,
    payout::request::{EntryRequest, PayoutRequest},
    read::page::Place,
};
use tidemark_relayer::{
    api::trace::{
        BATCH_COLUMNS,
        body::{self, Format},
    },
    http,
    intake::personal,
};

/// Any JSON: numbers of every size, text of every character.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z]{0,3}@[a-z]{0,3}(\\.[a-z]{0,3})?".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object that may be metadata of a record.
fn metadata() -> impl Strategy<Value = Value> {
    (json_value(), select(vec!["file", "asset", "content_hash", ""]), any::<[u8; 4]>()).prop_map(
        |(inner, alias, of)| {
            let hash = ContentHash::of(&of).prefixed();
            match alias {
                "file" => json!({"file": {"content_sha256": hash}, "x": inner}),
                "asset" => json!({"asset": {"hash": hash}, "x": inner}),
                "content_hash" => json!({"content_hash": hash, "x": inner}),
                _ => json!({"x": inner}),
            }
        },
    )
}

/// An item of a registration, mostly one that can be taken.
fn registration() -> impl Strategy<Value = Map<String, Value>> {
    let id = prop_oneof![4 => "[A-Za-z0-9 ,\"é물-]{1,12}", 1 => any::<String>()];
    let time = select(vec!["2026-11-21T00:00:00Z", "1970-01-01T00:00:00+00:00", "2026-02-30T00:00:00Z", "now"]);
    (id, metadata(), time, any::<u8>()).prop_map(|(id, metadata, time, wrong)| {
        let root = metadata_root(&metadata).unwrap();
        let root = if wrong == 0 { B256::repeat_byte(1) } else { root };
        let data_id = DataId::new("numo", &id).unwrap_or(DataId::from_bytes([0; 16]));
        let item = json!({"data_id": data_id, "source_record_id": id, "initial_metadata_root": root,
                          "initial_metadata_json": metadata, "occurred_at": time});
        item.as_object().unwrap().clone()
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The same bytes in pieces that end at these places.
fn cut(bytes: &[u8], places: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut ends: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]])).collect()
}

/// Failures are kept beside this file: by default proptest looks for a `lib.rs`, which a test has not.
fn config() -> ProptestConfig {
    let beside = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig { failure_persistence: Some(Box::new(beside)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn canonical_json_is_that_of_rfc_8785_and_its_own_form(value in json_value()) {
        protocol::canonical(value.to_string().as_bytes());
        protocol::canonical(serde_json::to_string_pretty(&value).unwrap().as_bytes());
    }

    #[test]
    fn a_double_is_written_as_ecmascript_writes_it_and_reads_back_bit_for_bit(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let form = String::from_utf8(tidemark::canonical::jcs(&number).unwrap()).unwrap();
        let mut reference = String::new();
        protocol::reference_form(&json!(number), &mut reference);
        prop_assert_eq!(&form, &reference);
        let again: f64 = serde_json::from_str(&form).unwrap();
        prop_assert_eq!(again, number);
    }

    #[test]
    fn a_batch_says_the_same_in_every_form(items in vec(registration(), 1..4), how in any::<u8>()) {
        let lines: Vec<u8> = items.iter().flat_map(|item| [json!(item).to_string().into_bytes(), b"\n".to_vec()].concat()).collect();
        for (form, body) in [(0u8, json!(items).to_string().into_bytes()), (1, lines.clone()), (3, lines)] {
            let door = how & 0b1_0100;
            writing::trace(&[vec![form | door], body.clone()].concat());
            writing::trace(&[vec![form | door | 8], gzip(&body)].concat());
        }
    }

    #[test]
    fn it_does_not_matter_where_a_body_or_its_gzip_is_cut_on_the_way(
        items in vec(registration(), 1..4),
        places in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let lines: Vec<u8> = items.iter().flat_map(|item| format!("{}\n", json!(item)).into_bytes()).collect();
        let read = |body: &[u8]| body::items(Format::Ndjson, BATCH_COLUMNS, body, |item| Ok(item.fields)).unwrap();
        let whole = read(&lines);
        prop_assert_eq!(&whole, &items);
        let pieces = cut(&lines, &places);
        // a member for each piece, as a writer makes that appends
        let members: Vec<u8> = pieces.iter().flat_map(|piece| gzip(piece)).collect();
        prop_assert_eq!(read(&body::inflate(&members.clone().into()).unwrap()), whole);
        // and the bytes of all that in other pieces
        let pieces = cut(&members, &places).into_iter().map(Ok::<_, std::io::Error>);
        let arriving = Body::from_stream(futures::stream::iter(pieces.collect::<Vec<_>>()));
        let arrived = futures::executor::block_on(http::read_body(arriving, members.len())).unwrap();
        prop_assert_eq!(arrived, members);
    }

    #[test]
    fn an_array_is_read_item_by_item_as_it_is_as_a_whole(items in vec(json_value(), 0..5), tail in "[ \\n\\]\\[{}0-9,]{0,3}") {
        // what is behind the array, and items that are no objects, are refused by both
        writing::trace(&[b"\x00".to_vec(), json!(items).to_string().into_bytes(), tail.into_bytes()].concat());
    }

    #[test]
    fn a_signature_covers_what_it_names_and_what_it_has_to(
        components in vec(select(vec![
            "\"@method\"", "\"@path\"", "\"@query\"", "\"@authority\"", "\"x-provider\"", "\"x-batch-id\"",
            "\"content-digest\"", "\"content-type\"", "\"x-absent\"", "\"@status\"", "\"X-Provider\"", "\"x-provider\";sf", "1",
        ]), 0..10),
        method in select(vec!["GET", "POST", "PUT", "DELETE"]),
        query in "(\\?[a-z=&%]{0,8})?",
        header in "[ -~]{0,12}",
        created in (writing::SIGNED_AT - 400)..(writing::SIGNED_AT + 400),
    ) {
        let all = ["\"@method\"", "\"@path\"", "\"@query\"", "\"@authority\"", "\"x-provider\"", "\"x-batch-id\"", "\"content-digest\""];
        for components in [components.join(" "), all.join(" ")] {
            let digest = format!("sha-256=:{}=:", "A".repeat(43));
            writing::signatures(format!(
                "{method} /v1/x{query}\nhost: Numo.example\nx-provider: numo\nx-batch-id: b{header}\ncontent-digest: {digest}\n\
                 signature-input: sig=({components});created={created};keyid=\"k\"\nsignature: sig=:{}==:\n",
                "A".repeat(86),
            ).as_bytes());
        }
    }

    #[test]
    fn a_cursor_reads_back_and_no_other_text_is_read_as_one(number in any::<i64>(), key in "[!-~]{0,40}", other in any::<String>()) {
        let place = Place(number, key);
        prop_assert_eq!(Place::decode(&place.encode()), Some(place));
        if let Some(read) = Place::decode(&other) {
            prop_assert!(other.bytes().all(|byte| byte.is_ascii_hexdigit()), "{read:?}");
        }
        reading::queries(other.as_bytes());
        reading::queries(format!("cursor={other}&limit={number}").as_bytes());
    }

    #[test]
    fn a_record_has_one_id_and_two_records_have_two(
        (provider, id) in ("[a-z]{1,6}", any::<String>()), (other_provider, other) in ("[a-z]{1,6}", any::<String>()),
    ) {
        protocol::texts(id.as_bytes());
        let ids = (DataId::new(&provider, &id), DataId::new(&other_provider, &other));
        if let (Ok(first), Ok(second)) = ids {
            prop_assert_eq!(first == second, (provider, id.trim()) == (other_provider, other.trim()));
        }
    }

    #[test]
    fn a_consent_holds_as_it_was_signed_and_not_with_any_other_field(
        key in 1u64.., masks in any::<(u32, u32)>(), period in any::<(u64, u64)>(), nonce in any::<[u8; 32]>(), field in 0usize..9,
    ) {
        let signer = PrivateKeySigner::from_bytes(&B256::from(U256::from(key))).unwrap();
        let domain = consent::domain(31337, Address::repeat_byte(9));
        let mut signed = SignedConsent {
            contributor: signer.address(),
            provider: Address::repeat_byte(3),
            policy_hash: B256::repeat_byte(4),
            purposes: masks.0,
            data_types: masks.1,
            territory: B256::ZERO,
            valid_from: period.0.min(period.1),
            valid_until: period.0.max(period.1),
            nonce: U256::from_be_bytes(nonce),
            signature: Default::default(),
        };
        signed.signature = signer.sign_hash_sync(&signed.id(&domain).0).unwrap().as_bytes().into();
        protocol::texts(&serde_json::to_vec(&signed).unwrap());
        let check = |consent: &SignedConsent| consent.check(&domain, consent.provider, 0, consent.valid_from);
        prop_assert_eq!(check(&signed).unwrap(), signed.id(&domain));
        let mut changed = signed;
        match field {
            0 => changed.contributor.0[0] ^= 1,
            1 => changed.provider.0[0] ^= 1,
            2 => changed.policy_hash.0[31] ^= 1,
            3 => changed.purposes ^= 1,
            4 => changed.data_types ^= 1 << 31,
            5 => changed.territory.0[0] ^= 1,
            6 => changed.valid_from ^= 1,
            7 => changed.valid_until ^= 1,
            _ => changed.nonce ^= U256::from(1),
        }
        prop_assert!(check(&changed).is_err());
    }

    #[test]
    fn a_leaf_is_solidity_s_whatever_the_event(bytes in vec(any::<u8>(), 0..2000)) {
        protocol::events(&bytes);
        protocol::merkle(&bytes);
    }

    #[test]
    fn personal_data_is_refused_wherever_it_stands_and_however_its_key_is_spelled(
        around in json_value(),
        words in select(vec![
            "email", "phone number", "first name", "passport number", "bank account", "birth date", "home address",
            "social security number", "tax id", "ip address", "card number", "last name", "resident registration number",
        ]),
        style in 0usize..5,
        above in vec("[a-z]{1,5}", 0..5),
    ) {
        let parts: Vec<&str> = words.split(' ').collect();
        let title = |word: &str| format!("{}{}", word[..1].to_uppercase(), &word[1..]);
        let key = match style {
            0 => parts.join("_"),
            1 => parts.join("-").to_uppercase(),
            2 => parts[..1].iter().map(|word| (*word).to_owned()).chain(parts[1..].iter().map(|word| title(word))).collect(),
            3 => parts.iter().map(|word| title(word)).collect(),
            _ => parts.join(" "),
        };
        let mut value = json!({"around": around, key.as_str(): "x"});
        for name in above {
            value = json!([{ name.as_str(): value }]);
        }
        let problem = personal::Search::default().check(&value, "m");
        prop_assert!(problem.is_err(), "{value}");
        prop_assert_eq!(problem.unwrap_err().0.status, 422);
        writing::documents(value.to_string().as_bytes());
    }

    #[test]
    fn an_amount_is_read_digit_for_digit_or_not_at_all(units in 1u128.., text in "[0-9+.eE_ -]{0,6}") {
        let read = |amount: &str| {
            let entry = EntryRequest { account: "11".repeat(32), amount: amount.into() };
            let destination = "user".into();
            let request = PayoutRequest { destination, rail: None, name: None, bic: None, entries: vec![entry] };
            request.check(1).ok().map(|wanted| wanted.amount)
        };
        // more points than a bigint holds are refused, and never rounded
        let most = u128::from(i64::MAX.unsigned_abs());
        prop_assert_eq!(read(&units.to_string()), (units <= most).then_some(units));
        let small = units % most + 1;
        prop_assert_eq!(read(&small.to_string()), (small <= most).then_some(small));
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0') && !text.is_empty();
        prop_assert_eq!(read(&text), plain.then(|| text.parse().unwrap()));
        prop_assert_eq!(answer::token_id("id", &units.to_string()).ok(), Some(U256::from(units)));
        reading::queries(text.as_bytes());
    }
}
