//! Writes the corpus' seeds out of the repository's test vectors and samples: `cargo run -p tidemark-fuzz --example seeds`.
//!
//! They are the files `seed-…`; the others were found by fuzzing and are kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tidemark::{
    canonical::{jcs, metadata_root},
    ids::{ContentHash, DataId, sha256},
    manifest::decode_disclosures,
};
use tidemark_fuzz::writing::{KEY_URL, MIMES, SIGNED_AT};
use tidemark_indexer::read::page::Place;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn vectors(name: &str) -> Value {
    let path = repository().join("tests/vectors").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn file(path: &str) -> Vec<u8> {
    fs::read(repository().join(path)).unwrap()
}

#[derive(Default)]
struct Seeds(Vec<(&'static str, String, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push((target, name.to_owned(), bytes.into()));
    }
}

fn main() {
    let mut seeds = Seeds::default();
    protocol(&mut seeds);
    batches(&mut seeds);
    documents(&mut seeds);
    media(&mut seeds);
    queries(&mut seeds);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, bytes) in &seeds.0 {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
    }
    println!("{} seeds", seeds.0.len());
}

fn protocol(seeds: &mut Seeds) {
    for (at, vector) in vectors("canonical.json")["vectors"].as_array().unwrap().iter().enumerate() {
        seeds.add("canonical", &format!("{at:02}"), vector["input"].as_str().unwrap());
    }
    for (at, text) in [
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "0x1220E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
        "59c19180-ef4e-5ead-898c-2c89580a1e7d",
        " Rec-1 물때",
        "0x02e7f16aba47d2c2501b9939f0c05e846f37779e1f2fb5dbc92f17ce45469c26a3",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPBdG",
    ]
    .into_iter()
    .enumerate()
    {
        seeds.add("texts", &at.to_string(), text);
    }
    let consents = vectors("consents.json");
    for (at, vector) in consents["vectors"].as_array().unwrap().iter().enumerate().take(3) {
        seeds.add("texts", &format!("consent-{at}"), consent(vector).to_string());
    }
    let header = &vectors("batches.json")["vectors"][0];
    let message = &header["message"];
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let debits = message["debits"].as_array().unwrap().iter();
    let debits: Vec<Value> =
        debits.map(|debit| json!({"task_id": number(&debit["taskId"]), "amount": debit["amount"]})).collect();
    let text = json!({
        "provider": message["provider"], "number": number(&message["number"]), "root": message["root"],
        "event_count": message["eventCount"], "points_total": message["pointsTotal"],
        "wallet_total": message["walletTotal"], "debits": debits, "manifest_cid": header["manifest_cid"]});
    seeds.add("texts", "header", text.to_string());

    // hashes are as good as random here: events and leaves are made out of any bytes
    let noise = |count: u8| (0..count).flat_map(|at| sha256(&[&[at]]).0).collect::<Vec<u8>>();
    for count in [1, 9, 40] {
        seeds.add("events", &count.to_string(), noise(count));
        seeds.add("merkle", &count.to_string(), noise(count));
    }
    seeds.add("events", "zero", vec![0; 700]);
    seeds.add("merkle", "equal", vec![0; 64]);

    for row in decode_disclosures(Bytes::from(file("tests/vectors/disclosures.parquet"))).unwrap() {
        seeds.add("payloads", &format!("{:02}", row.index), row.payload);
    }
    let moved = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    let erased = json!({"kind": "erased", "disclosures": [{"number": 7, "cid": moved}]});
    seeds.add("payloads", "erased", erased.to_string());

    let sealing = vectors("sealing.json");
    seeds.add("release", "sealed-key", sealing["sealed_key"].to_string());
    let sealed = &sealing["sealed_key"];
    let request = json!({
        "license_id": "7", "member": {
            "data_id": sealed["data_id"], "contributor": format!("0x{}", "01".repeat(32)),
            "consent_id": sealed["consent_id"], "payee": format!("0x{}", "00".repeat(20)), "weight": "1"},
        "member_proof": [format!("0x{}", "02".repeat(32))], "sealed_key": sealed,
        "recipient_key": sealed["public_key"], "deadline": 1_800_000_000u64, "signature": "0x"});
    seeds.add("release", "request", request.to_string());
    let answer = json!({
        "release_id": "59c19180-ef4e-5ead-898c-2c89580a1e7d", "data_id": sealed["data_id"], "index": 1,
        "encrypted_partial": "0x00", "block_number": 5, "block_hash": format!("0x{}", "03".repeat(32))});
    seeds.add("release", "answer", answer.to_string());
    for (at, vector) in sealing["ciphertexts"].as_array().unwrap().iter().enumerate() {
        let ciphertext = vector["ciphertext"].as_str().unwrap().trim_start_matches("0x");
        seeds.add("release", &format!("ciphertext-{at}"), hex::decode(ciphertext).unwrap());
    }

    for (kind, name) in ["manifest", "disclosures", "members"].into_iter().enumerate() {
        let table = [vec![u8::try_from(kind).unwrap()], file(&format!("tests/vectors/{name}.parquet"))].concat();
        seeds.add("tables", name, table);
    }
    for links in [1, 3, 174] {
        seeds.add("blocks", &links.to_string(), node(links));
    }
    seeds.add("blocks", "cid", tidemark::store::cid_of(b"x").to_bytes());
}

/// A dag-pb node of links to the empty file, as UnixFS has it.
fn node(links: usize) -> Vec<u8> {
    let bytes_of = |field: u8, bytes: &[u8]| {
        let mut length = bytes.len();
        let mut out = vec![field << 3 | 2];
        while length > 0x7f {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        [out.as_slice(), bytes].concat()
    };
    let cid = tidemark::store::cid_of(b"").to_bytes();
    let link = [bytes_of(1, &cid), bytes_of(2, b""), vec![0x18, 0]].concat();
    let sizes = [0x20, 0].repeat(links);
    let data = [vec![0x08, 2, 0x18, 0], sizes].concat();
    [bytes_of(2, &link).repeat(links), bytes_of(1, &data)].concat()
}

fn consent(vector: &Value) -> Value {
    let message = &vector["message"];
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    json!({
        "contributor": message["contributor"], "provider": message["provider"], "policy_hash": message["policyHash"],
        "purposes": message["purposes"], "data_types": message["dataTypes"], "territory": message["territory"],
        "valid_from": number(&message["validFrom"]), "valid_until": number(&message["validUntil"]),
        "nonce": message["nonce"], "signature": vector["signature"]})
}

fn metadata(id: &str) -> Value {
    json!({
        "schema_version": "trace-v1.0",
        "file": {"content_sha256": ContentHash::of(id.as_bytes()).prefixed(), "mime_type": "video/mp4", "size_bytes": 3},
        "contributor": {"anon_id": format!("anon-{id}"), "consent": {"tos_hash": format!("sha256:{}", "a".repeat(64))}},
        "note": "물때, \"a\"\nb", "number": 1.5e-7})
}

fn batches(seeds: &mut Seeds) {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let registration = |id: &str| {
        let metadata = metadata(id);
        json!({"data_id": DataId::new("numo", id).unwrap(), "source_record_id": id,
               "initial_metadata_root": metadata_root(&metadata).unwrap(), "initial_metadata_json": metadata,
               "occurred_at": "2026-11-21T00:00:00Z", "contributor_ref": "c-1"})
    };
    let update = |id: &str, seq: u32| {
        let metadata = metadata(id);
        json!({"data_id": DataId::new("numo", id).unwrap(), "seq": seq,
               "prev_metadata_root": format!("0x{}", "1".repeat(64)), "metadata_root": metadata_root(&metadata).unwrap(),
               "metadata_json": metadata, "occurred_at": "2026-11-21T00:00:00.5+09:00"})
    };
    let mut first = registration("Rec-1");
    first["consent"] = consent(&vectors("consents.json")["vectors"][0]);
    let items = [first, registration("Rec-2")];
    let updates = [update("Rec-1", 1), update("Rec-1", 2)];
    let table = |items: &[Value]| {
        let names: Vec<&String> = items[0].as_object().unwrap().keys().collect();
        let mut file = csv::Writer::from_writer(Vec::new());
        file.write_record(&names).unwrap();
        for item in items {
            let cell = |name: &&String| match item.get(name.as_str()) {
                None => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
            };
            file.write_record(names.iter().map(cell)).unwrap();
        }
        file.into_inner().unwrap()
    };
    for (door, items) in [(0u8, &items), (4, &updates)] {
        let array = json!(items).to_string().into_bytes();
        let lines: Vec<u8> = items.iter().flat_map(|item| format!("{item}\n").into_bytes()).collect();
        // as in `writing::trace`: form, door, compressed, with data ids
        for (form, body) in [(0u8, &array), (1, &lines), (2, &table(items)), (3, &lines)] {
            seeds.add("trace", &format!("{door}-{form}"), [vec![form | door | 16], body.clone()].concat());
            seeds.add("trace", &format!("{door}-{form}-gzip"), [vec![form | door | 8], gzip(body)].concat());
        }
    }
    seeds.add("trace", "mark", [b"\x02\xef\xbb\xbf".as_slice(), &table(&items)].concat());
    // 64 MiB of nothing, many times over
    let bomb = gzip(&gzip(&vec![0; 1 << 20]));
    seeds.add("trace", "bomb", [vec![8], bomb].concat());
}

fn documents(seeds: &mut Seeds) {
    let part = json!({"version": "2026-11", "hash": format!("sha256:{}", "a".repeat(64)), "uri": "https://numo.example/t",
                      "effective_at": "2026-11-21T00:00:00Z"});
    seeds.add("documents", "policy", json!({"tos": part, "privacy_policy": part}).to_string());

    let key = SigningKey::from_bytes(&[7; 32]);
    let mut signed = metadata("Rec-1");
    let payload = jcs(&signed).unwrap();
    signed["attestation"] = json!({
        "payload_hash": ContentHash(sha256(&[&payload])).prefixed(), "key_id": "ed", "key_url": KEY_URL,
        "signature": URL_SAFE_NO_PAD.encode(key.sign(&payload).to_bytes()), "signed_at_utc": "2026-11-21T00:00:00Z"});
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    // the points of RFC 7517, appendix A.1, and of RFC 8812's registration are other curves' examples
    let keys = json!([
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": x},
        {"kty": "EC", "crv": "P-256", "kid": "p", "alg": "ES256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},
        {"kty": "oct"}]);
    seeds.add("documents", "attested", json!({"keys": keys, "metadata": signed}).to_string());
    let meta = json!({"source_record_id": "Rec-1", "task_id": 1, "contributor_ref": "c-1", "pay_to": "points",
                      "mime_type": "audio/wav", "occurred_at": "2026-11-21T00:00:00Z",
                      "consent": consent(&vectors("consents.json")["vectors"][0])});
    seeds.add("documents", "meta", meta.to_string());
    seeds.add("documents", "address", "https://hooks.example.com/tidemark?x=1");
    seeds.add("documents", "address-inside", "https://[::ffff:10.0.0.1]:8443/");
    seeds.add("documents", "said", "replacement transaction underpriced: tip 1, minimum needed 2");
    seeds.add("documents", "key", "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"");
    seeds.add("documents", "mime", "Audio/WAV; rate=16000");
    for (name, node) in [
        ("answer", json!({"jsonrpc": "2.0", "id": 1, "result": "0x1"})),
        (
            "error",
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "nonce too low", "data": "0x"}}),
        ),
        ("batch", json!([{"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "execution reverted"}}])),
    ] {
        seeds.add("documents", &format!("node-{name}"), node.to_string());
    }
    let personal = json!({"bank": {"account": "1"}, "userEmail": "x", "gps": [37.5665, 126.978], "ip": "203.0.113.7",
                          "주소": "x", "list": [{"phone_model": "x"}, "by kim@example.com"], "lat": 37.5});
    seeds.add("documents", "personal", personal.to_string());

    let form = |meta: &str, file: &[u8]| {
        let head = "--tide\r\nContent-Disposition: form-data; name=\"meta\"\r\n\r\n";
        let next = "\r\n--tide\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
        [b"\x05", head.as_bytes(), meta.as_bytes(), next.as_bytes(), file, b"\r\n--tide--\r\n"].concat()
    };
    seeds.add("forms", "whole", form(&meta.to_string(), b"RIFF\r\n--tid"));
    seeds.add("forms", "empty", form("", b""));

    let digest = base64::engine::general_purpose::STANDARD.encode(sha256(&[b"[]"]));
    let signature = base64::engine::general_purpose::STANDARD.encode([7; 64]);
    let components =
        "\"@method\" \"@path\" \"@query\" \"x-provider\" \"x-batch-id\" \"content-type\" \"content-digest\"";
    let post = format!(
        "POST /webhook/v1/data-audit/records:batch?a=b\nhost: numo.example\nx-provider: numo\nx-batch-id: b-1\n\
         content-type: application/json\ncontent-digest: sha-256=:{digest}:\n\
         signature-input: sig=({components});created={SIGNED_AT};expires={SIGNED_AT};keyid=\"ed\";alg=\"ed25519\"\n\
         signature: sig=:{signature}:\n"
    );
    seeds.add("signatures", "post", post);
    let get = format!(
        "GET /v1/records/1\nx-provider: numo\nsignature-input: s=(\"@method\" \"@path\" \"@authority\" \"x-provider\")\
         ;created={SIGNED_AT};keyid=\"ed\"\nhost: NUMO.example\nsignature: s=:{signature}:\n"
    );
    seeds.add("signatures", "get", get);
}

fn media(seeds: &mut Seeds) {
    for (mime, path) in [
        ("audio/wav", "voice/bad-short.wav"),
        ("audio/flac", "voice/ko-005.flac"),
        ("audio/mpeg", "voice/ko-008.mp3"),
        ("audio/ogg", "voice/ko-011.ogg"),
        ("audio/mp4", "voice/ko-015.m4a"),
        ("image/jpeg", "photo/photo-003.jpg"),
        ("image/png", "photo/bad-small.png"),
        ("image/png", "photo/photo-008.png"),
        ("image/webp", "photo/photo-012.webp"),
        ("image/gif", "photo/photo-013.gif"),
        ("video/mp4", "video/clip-009.mp4"),
        ("video/quicktime", "video/clip-006.mov"),
    ] {
        let at = MIMES.iter().position(|name| *name == mime).unwrap();
        let name = path.rsplit('/').next().unwrap();
        seeds.add("media", name, [vec![u8::try_from(at).unwrap()], file(&format!("samples/{path}"))].concat());
    }
}

fn queries(seeds: &mut Seeds) {
    let cursor = Place(12, "reward/0xab/3/7".into()).encode();
    let account = |byte: &str| format!("0x{}", byte.repeat(32));
    let payout = json!({"destination": "user-7f3a", "entries": [{"account": account("11"), "amount": "1500000"},
                                                               {"account": account("22"), "amount": "500000"}]});
    for (name, text) in [
        ("cursor", cursor.clone()),
        ("page", format!("limit=5&cursor={cursor}")),
        ("number", "18446744073709551615".into()),
        ("hash", account("ab")),
        ("id", "59c19180-ef4e-5ead-898c-2c89580a1e7d".into()),
        ("ids", "59c19180-ef4e-5ead-898c-2c89580a1e7d, 59c19180ef4e5ead898c2c89580a1e7e\n".into()),
        ("batch", "numo/3".into()),
        ("token", "#12".into()),
        ("payout", payout.to_string()),
        ("paid", json!({"key": "00000000-0000-0000-0000-000000000007"}).to_string()),
        ("refused", json!({"errorCode": "4113", "message": "m"}).to_string()),
        ("key", "\"a-1\"".into()),
    ] {
        seeds.add("queries", name, text);
    }
}
