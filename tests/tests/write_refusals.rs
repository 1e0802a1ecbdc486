//! What the write side refuses, and that it says which field, what was expected and what came; one stack for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::OnceLock;

use reqwest::Response;
use serde_json::{Value, json};
use tidemark::{
    consent::SignedConsent,
    ids::{ContentHash, DataId},
};
use tidemark_tests::{
    Options, Stack,
    stack::{PROVIDER_NAME, Services},
    story::{
        doors::{Doors, kept_metadata, meta, metadata_update, registration},
        people::Contributor,
        samples::{Kind, Sample, repository_samples},
        world::World,
    },
};
use tokio::runtime::Runtime;

struct Shared {
    runtime: Runtime,
    stack: Stack,
    world: World,
    doors: Doors,
}

/// One write side for all tests here; the launcher's watchdog ends it with this process.
fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        tidemark::install_tls();
        let runtime = Runtime::new().unwrap();
        let (stack, world, doors) = runtime.block_on(async {
            let options = Options { services: Services::WriteSide, ..Options::default() };
            let stack = Stack::start(options).await.unwrap();
            // room for one accepted photo only, so that the budget's end is near
            let world = World::build(&stack, [10, 1, 10]).await.unwrap();
            let doors = Doors::new(&stack, &world).unwrap();
            (stack, world, doors)
        });
        Shared { runtime, stack, world, doors }
    })
}

/// A problem's status, slug and field.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: u16,
    slug: String,
    field: String,
}

fn refusal(status: u16, slug: &str, field: &str) -> Refusal {
    Refusal { status, slug: slug.into(), field: field.into() }
}

async fn problem(answer: Response) -> Refusal {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{status} {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["status"], status, "{text}");
    assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty(), "{text}");
    let slug = body["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    if body["field"].is_string() {
        assert!(body["expected"].is_string() && body["actual"].is_string(), "{text}");
    }
    Refusal { status, slug, field: body["field"].as_str().unwrap_or_default().to_owned() }
}

fn item(name: &str) -> Value {
    let metadata = kept_metadata(name, ContentHash::of(name.as_bytes()), 0);
    registration(name, &metadata).unwrap()
}

/// Sends items to `records:batch` under a batch id of their own.
fn refused_records(body: Vec<u8>) -> Refusal {
    let Shared { runtime, doors, .. } = shared();
    let batch = ContentHash::of(&body).to_string();
    runtime.block_on(async { problem(doors.post_records(&batch, body).await.unwrap()).await })
}

fn refused_item(spoil: impl FnOnce(&mut Value)) -> Refusal {
    let mut spoiled = item("refused");
    spoil(&mut spoiled);
    refused_records(json!([spoiled]).to_string().into())
}

fn wav(name: &str) -> (Sample, Vec<u8>) {
    let sample = repository_samples().unwrap().into_iter().find(|sample| sample.kind == Kind::Voice).unwrap();
    let mut bytes = std::fs::read(&sample.path).unwrap();
    // another recording each time: one bit of the last sample
    let last = bytes.len() - 1;
    bytes[last] ^= ContentHash::of(name.as_bytes()).0[0] | 1;
    (Sample { name: name.into(), ..sample }, bytes)
}

/// Uploads a good file whose consent was spoiled.
fn refused_consent(name: &str, spoil: impl FnOnce(&Contributor, &World) -> SignedConsent) -> Refusal {
    let Shared { runtime, world, doors, .. } = shared();
    let contributor = &Contributor::group(1)[0];
    let (sample, bytes) = wav(name);
    let mut meta = meta(world, &sample, contributor).unwrap();
    meta["consent"] = json!(spoil(contributor, world));
    runtime.block_on(async { problem(doors.post_upload(&meta, sample.mime, bytes).await.unwrap()).await })
}

#[test]
fn a_wrong_key_a_missing_key_and_a_stranger_s_name_are_told_apart() {
    let Shared { runtime, stack, doors, world, .. } = shared();
    let body = || json!([item("keys")]).to_string().into_bytes();
    let url = format!("{}/webhook/v1/data-audit/records:batch", stack.relayer.as_ref().unwrap().url());
    let client = reqwest::Client::new();
    runtime.block_on(async {
        let wrong = doors.with_key("tmk_wrong").post_records("keys-1", body()).await.unwrap();
        assert_eq!(problem(wrong).await, refusal(401, "api-key-unknown", ""));
        let missing = client.post(&url).header("x-provider", PROVIDER_NAME).header("x-batch-id", "keys-2");
        let missing = missing.body(body()).send().await.unwrap();
        assert_eq!(problem(missing).await, refusal(401, "api-key-missing", "X-API-Key"));
        let stranger = client.post(&url).header("x-api-key", &world.api_key).header("x-provider", "stranger");
        let stranger = stranger.header("x-batch-id", "keys-3").body(body()).send().await.unwrap();
        assert_eq!(problem(stranger).await.status, 403);
        let unnamed = client.post(&url).header("x-api-key", &world.api_key).header("x-provider", PROVIDER_NAME);
        let unnamed = unnamed.body(body()).send().await.unwrap();
        assert_eq!(problem(unnamed).await, refusal(400, "header-invalid", "X-Batch-Id"));
    });
}

#[test]
fn a_batch_over_25_mib_and_a_record_over_350_kib_are_refused() {
    let large = vec![b' '; (25 << 20) + 1];
    assert_eq!(refused_records(large).slug, "body-too-large");
    let fat =
        refused_item(|item| item["initial_metadata_json"]["provider_payload"]["pad"] = json!("x".repeat(350 << 10)));
    assert_eq!(fat, refusal(413, "record-too-large", "[0]"));
}

#[test]
fn what_is_no_json_array_of_objects_is_refused() {
    for body in ["", "{", "{}", "[1]", "null", "[{]", "\u{0}", "[{\"a\": 1e999}]", &"[".repeat(10_000)] {
        let refused = refused_records(body.as_bytes().to_vec());
        assert_eq!(refused.status, 400, "{body:.20}: {refused:?}");
    }
    assert_eq!(refused_records(vec![b'[', b'"', 0xff, b'"', b']']).status, 400);
}

#[test]
fn a_metadata_root_must_be_there_not_zero_and_right() {
    let root = "[0].initial_metadata_root";
    let missing = refused_item(|item| drop(item.as_object_mut().unwrap().remove("initial_metadata_root")));
    assert_eq!(missing, refusal(400, "field-missing", root));
    let zero = refused_item(|item| item["initial_metadata_root"] = json!(format!("0x{}", "0".repeat(64))));
    assert_eq!(zero, refusal(400, "field-invalid", root));
    let wrong = refused_item(|item| item["initial_metadata_root"] = json!(format!("0x{}", "1".repeat(64))));
    assert_eq!(wrong, refusal(422, "metadata-root-wrong", root));
}

#[test]
fn aliases_of_the_content_hash_must_agree_and_one_must_be_there() {
    let respoil = |spoil: fn(&mut Value)| {
        let mut metadata = kept_metadata("aliases", ContentHash::of(b"aliases"), 0);
        spoil(&mut metadata);
        refused_records(json!([registration("aliases", &metadata).unwrap()]).to_string().into())
    };
    let disagree = respoil(|metadata| metadata["content_hash"] = json!(ContentHash::of(b"other").prefixed()));
    assert_eq!((disagree.status, disagree.slug.as_str()), (422, "content-hashes-disagree"));
    let none = respoil(|metadata| drop(metadata["file"].as_object_mut().unwrap().remove("content_sha256")));
    assert_eq!(none.status, 400);
}

#[test]
fn a_batch_that_names_a_record_twice_is_refused_as_a_whole() {
    let refused = refused_records(json!([item("twice"), item("twice")]).to_string().into());
    assert_eq!((refused.status, refused.slug.as_str()), (422, "duplicate-in-batch"));
    let Shared { runtime, doors, .. } = shared();
    let answer = runtime.block_on(doors.register("twice-2", &[item("twice")])).unwrap();
    assert_eq!(answer["items"][0]["status"], "accepted", "nothing of the refused batch may have been kept");
}

#[test]
fn the_same_record_again_is_a_duplicate_and_with_other_content_a_conflict() {
    let Shared { runtime, doors, .. } = shared();
    runtime.block_on(async {
        let first = item("again");
        assert_eq!(doors.register("again-1", std::slice::from_ref(&first)).await.unwrap()["accepted"], 1);
        let same = doors.post_records("again-2", json!([first]).to_string().into()).await.unwrap();
        assert_eq!(same.status().as_u16(), 200);
        let other = registration("again", &kept_metadata("again", ContentHash::of(b"other"), 0)).unwrap();
        let answer = doors.post_records("again-3", json!([other, item("beside")]).to_string().into()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 409);
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["items"][0]["status"], "conflict");
        assert_eq!(answer["items"][1]["status"], "accepted", "one conflict does not take the others with it");
        let reused = doors.post_records("again-1", json!([item("else")]).to_string().into()).await.unwrap();
        assert_eq!(problem(reused).await, refusal(409, "batch-id-reused", "X-Batch-Id"));
    });
}

#[test]
fn an_update_before_its_registration_is_kept_and_a_gap_waits() {
    let Shared { runtime, stack, doors, world, .. } = shared();
    let state = |updates| kept_metadata("early", ContentHash::of(b"early"), updates);
    let data_id = DataId::new(PROVIDER_NAME, "early").unwrap();
    let update = |seq: u32| metadata_update(data_id, seq, &state(seq - 1), &state(seq)).unwrap();
    let url = format!("{}/v1/records/{data_id}", stack.relayer.as_ref().unwrap().url());
    let record = async || {
        let request = reqwest::Client::new().get(&url).header("x-api-key", &world.api_key);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    runtime.block_on(async {
        assert_eq!(doors.update("early-1", &[update(1)]).await.unwrap()["accepted"], 1);
        doors.register("early-2", &[registration("early", &state(0)).unwrap()]).await.unwrap();
        assert_eq!(record().await["trace_seq"], 1, "the early update is applied with the registration");
        doors.update("early-3", &[update(3)]).await.unwrap();
        assert_eq!(record().await["trace_seq"], 1, "a gap waits");
        doors.update("early-4", &[update(2)]).await.unwrap();
        assert_eq!(record().await["trace_seq"], 3, "and closes");
        let wrong = metadata_update(data_id, 4, &state(1), &state(4)).unwrap();
        let answer = doors.post_updates("early-5", json!([wrong]).to_string().into()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 409, "an update of another state does not fit");
    });
}

#[test]
fn an_unsigned_a_wrongly_signed_and_a_foreign_consent_are_refused() {
    let signature = refusal(422, "consent-invalid", "meta.consent.signature");
    assert_eq!(refused_consent("consent-1", |contributor, world| contributor.unsigned_consent(world)), signature);
    let by_other = |contributor: &Contributor, world: &World| {
        Contributor::group(1)[0].sign(world, contributor.unsigned_consent(world)).unwrap()
    };
    assert_eq!(refused_consent("consent-2", by_other), signature);
    let changed_after = |contributor: &Contributor, world: &World| {
        let signed = contributor.consent(world).unwrap();
        SignedConsent { purposes: signed.purposes | 1 << 3, ..signed }
    };
    assert_eq!(refused_consent("consent-3", changed_after), signature);
    let for_other_provider = |contributor: &Contributor, world: &World| {
        let consent = SignedConsent { provider: world.token, ..contributor.unsigned_consent(world) };
        contributor.sign(world, consent).unwrap()
    };
    assert_eq!(refused_consent("consent-4", for_other_provider).field, "meta.consent.provider");
}

#[test]
fn an_expired_a_narrower_and_an_unpublished_consent_are_refused() {
    let sign = |contributor: &Contributor, world: &World, change: fn(&mut SignedConsent)| {
        let mut consent = contributor.unsigned_consent(world);
        change(&mut consent);
        contributor.sign(world, consent).unwrap()
    };
    let expired =
        refused_consent("period-1", |c, w| sign(c, w, |consent| consent.valid_until = consent.valid_from + 1));
    assert_eq!(expired, refusal(422, "consent-invalid", "meta.consent.valid_until"));
    let narrower = refused_consent("period-2", |c, w| sign(c, w, |consent| consent.data_types = 1 << 1));
    assert_eq!(narrower, refusal(422, "consent-invalid", "meta.consent.data_types"));
    let unpublished = refused_consent("period-3", |c, w| sign(c, w, |consent| consent.policy_hash.0[0] ^= 1));
    assert_eq!(unpublished, refusal(422, "policy-unpublished", "meta.consent.policy_hash"));
}

#[test]
fn an_upload_again_gets_the_first_answer_and_with_other_bytes_a_conflict() {
    let Shared { runtime, world, doors, .. } = shared();
    let contributor = &Contributor::group(1)[0];
    let (sample, bytes) = wav("same-id");
    let (_, other_bytes) = wav("other bytes");
    runtime.block_on(async {
        let send = async |bytes: Vec<u8>| {
            doors.post_upload(&meta(world, &sample, contributor).unwrap(), sample.mime, bytes).await.unwrap()
        };
        let first = send(bytes.clone()).await;
        assert_eq!(first.status().as_u16(), 201);
        let first: Value = first.json().await.unwrap();
        let again = send(bytes).await;
        assert_eq!(again.status().as_u16(), 200);
        assert_eq!(again.json::<Value>().await.unwrap(), first);
        assert_eq!(problem(send(other_bytes).await).await.slug, "record-conflict");
    });
}

#[test]
fn an_upload_beyond_the_task_s_budget_is_refused_before_the_gate() {
    let Shared { runtime, world, doors, .. } = shared();
    let group = Contributor::group(2);
    let photos: Vec<Sample> = repository_samples().unwrap().into_iter().filter(|s| s.kind == Kind::Photo).collect();
    runtime.block_on(async {
        assert!(doors.upload(world, &photos[0], 0, &group).await.unwrap().is_accepted());
        let (sample, contributor) = (&photos[1], &group[1]);
        let bytes = std::fs::read(&sample.path).unwrap();
        let answer = doors.post_upload(&meta(world, sample, contributor).unwrap(), sample.mime, bytes).await.unwrap();
        let refused = problem(answer).await;
        assert_eq!((refused.status, refused.slug.as_str()), (409, "budget-exceeded"));
    });
}

#[test]
fn an_upload_for_no_task_of_the_provider_or_of_no_known_type_is_refused() {
    let Shared { runtime, world, doors, .. } = shared();
    let contributor = &Contributor::group(1)[0];
    let (sample, bytes) = wav("unknown task");
    let refused = |field: &str, value: Value| {
        let mut meta = meta(world, &sample, contributor).unwrap();
        meta[field] = value;
        runtime.block_on(async { problem(doors.post_upload(&meta, sample.mime, bytes.clone()).await.unwrap()).await })
    };
    assert_eq!(refused("task_id", json!(999)), refusal(422, "task-unknown", "meta.task_id"));
    assert_eq!(refused("mime_type", json!("application/x-msdownload")).slug, "media-type-unsupported");
    assert_eq!(refused("pay_to", json!("cash")).status, 400);
    assert_eq!(refused("source_record_id", json!(" ")).field, "meta.source_record_id");
}
