//! What the relayer's two doors refuse, each with the field, what was expected and what came; and that nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::{
    primitives::{B256, Bytes},
    signers::local::PrivateKeySigner,
};
use reqwest::Response;
use serde_json::{Value, json};
use tidemark::{
    contracts::ProvenanceLog,
    ids::{ContentHash, DataId},
};
use tidemark_tests::{
    Options, Stack,
    keys::role,
    stack::{PROVIDER_NAME, Services},
    story::{
        doors::{Doors, kept_metadata, meta, metadata_update, registration, root},
        people::Contributor,
        samples::{Kind, Sample, repository_samples},
        world::World,
    },
};

struct Bench {
    stack: Stack,
    world: World,
    doors: Doors,
}

impl Bench {
    /// Write side only, with budgets for so many submissions of each kind.
    async fn new(submissions: [u128; 3]) -> Self {
        tidemark::install_tls();
        let options = Options { services: Services::WriteSide, ..Options::default() };
        let stack = Stack::start(options).await.unwrap();
        let world = World::build(&stack, submissions).await.unwrap();
        let doors = Doors::new(&stack, &world).unwrap();
        Self { stack, world, doors }
    }

    fn url(&self) -> &str {
        self.stack.relayer.as_ref().unwrap().url()
    }

    async fn record(&self, data_id: &str) -> Value {
        let request = reqwest::Client::new().get(format!("{}/v1/records/{data_id}", self.url()));
        request.header("x-api-key", &self.world.api_key).send().await.unwrap().json().await.unwrap()
    }

    async fn register(&self, batch: &str, items: &[Value]) -> Response {
        self.doors.post_records(batch, json!(items).to_string().into()).await.unwrap()
    }

    async fn update(&self, batch: &str, items: &[Value]) -> Value {
        self.doors.post_updates(batch, json!(items).to_string().into()).await.unwrap().json().await.unwrap()
    }
}

/// A refusal as RFC 9457 wants it, of this status, type and field.
async fn refused(answer: Response, status: u16, slug: &str, field: &str) -> Value {
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let (actual, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(actual, status, "{text}");
    assert_eq!(kind, "application/problem+json", "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["type"], format!("urn:tidemark:problem:{slug}"), "{text}");
    assert_eq!(problem["status"], status);
    assert!(!problem["detail"].as_str().unwrap().is_empty());
    if !field.is_empty() {
        assert_eq!(problem["field"], field, "{text}");
    }
    problem
}

/// A registration that would be accepted.
fn item(id: &str) -> Value {
    registration(id, &kept_metadata(id, ContentHash::of(id.as_bytes()), 0)).unwrap()
}

fn with(mut item: Value, field: &str, value: Value) -> Value {
    item[field] = value;
    item
}

#[tokio::test]
async fn the_trace_door_names_what_is_wrong_and_takes_nothing_of_a_refused_batch() {
    let bench = Bench::new([1, 1, 1]).await;
    let (doors, url) = (&bench.doors, bench.url().to_owned());

    // who asks
    let records = format!("{url}/webhook/v1/data-audit/records:batch");
    let client = reqwest::Client::new();
    let bare = || client.post(&records).header("x-batch-id", "b").header("content-type", "application/json").body("[]");
    refused(bare().header("x-provider", PROVIDER_NAME).send().await.unwrap(), 401, "api-key-missing", "X-API-Key")
        .await;
    let wrong = doors.with_key("wrong").post_records("b", b"[]".to_vec()).await.unwrap();
    refused(wrong, 401, "api-key-unknown", "").await;
    let unknown = bare().header("x-api-key", &bench.world.api_key).header("x-provider", "nobody");
    refused(unknown.send().await.unwrap(), 403, "provider-unknown", "X-Provider").await;
    let unnamed = bare().header("x-api-key", &bench.world.api_key);
    refused(unnamed.send().await.unwrap(), 400, "header-invalid", "X-Provider").await;
    let without_batch = client.post(&records).header("x-api-key", &bench.world.api_key).body("[]");
    let without_batch = without_batch.header("x-provider", PROVIDER_NAME).header("content-type", "application/json");
    refused(without_batch.send().await.unwrap(), 400, "header-invalid", "X-Batch-Id").await;
    let live = bare().header("x-api-key", &bench.world.api_key).header("x-provider", PROVIDER_NAME);
    let live = live.header("x-ingestion-source", "live").send().await.unwrap();
    refused(live, 400, "header-invalid", "X-Ingestion-Source").await;

    // how much
    let huge = doors.post_records("huge", vec![b' '; (25 << 20) + 1]).await.unwrap();
    refused(huge, 413, "body-too-large", "").await;
    let mut metadata = kept_metadata("large", ContentHash::of(b"large"), 0);
    metadata["provider_payload"]["note"] = json!("x".repeat(350 << 10));
    let large = bench.register("large", &[item("small"), registration("large", &metadata).unwrap()]).await;
    refused(large, 413, "record-too-large", "[1]").await;

    // what
    refused(doors.post_records("json", b"[{".to_vec()).await.unwrap(), 400, "body-invalid", "").await;
    refused(doors.post_records("object", b"{}".to_vec()).await.unwrap(), 400, "body-invalid", "").await;
    refused(bench.register("number", &[json!(1)]).await, 400, "field-invalid", "[0]").await;
    let field = "[1].initial_metadata_root";
    let good = item("good");
    for (root, status, slug) in [
        (json!(null), 400, "field-missing"),
        (json!("0x12"), 400, "field-invalid"),
        (json!(format!("0x{}", "0".repeat(64))), 400, "field-invalid"),
        (json!(format!("0x{}", "1".repeat(64))), 422, "metadata-root-wrong"),
    ] {
        let answer = bench.register("root", &[good.clone(), with(item("bad"), "initial_metadata_root", root)]).await;
        refused(answer, status, slug, field).await;
    }
    let mut missing = item("bad");
    missing.as_object_mut().unwrap().remove("initial_metadata_root");
    refused(bench.register("missing", &[good.clone(), missing]).await, 400, "field-missing", field).await;

    let mut aliases = kept_metadata("aliases", ContentHash::of(b"one"), 0);
    aliases["content_hash"] = json!(ContentHash::of(b"other").prefixed());
    let disagree = bench.register("aliases", &[registration("aliases", &aliases).unwrap()]).await;
    let problem = refused(disagree, 422, "content-hashes-disagree", "").await;
    assert!(problem["field"].as_str().unwrap().starts_with("[0].initial_metadata_json."));
    let mut hashless = kept_metadata("hashless", ContentHash::of(b"one"), 0);
    hashless["file"].as_object_mut().unwrap().remove("content_sha256");
    let hashless = bench.register("hashless", &[registration("hashless", &hashless).unwrap()]).await;
    refused(hashless, 400, "field-missing", "[0].initial_metadata_json.file.content_sha256").await;

    let twice = bench.register("twice", &[item("same"), item(" same ")]).await;
    refused(twice, 422, "duplicate-in-batch", "[1].source_record_id").await;
    refused(bench.register("id", &[item("a\u{7}b")]).await, 400, "field-invalid", "[0].source_record_id").await;
    let time = bench.register("time", &[with(item("time"), "occurred_at", json!("yesterday"))]).await;
    refused(time, 400, "field-invalid", "[0].occurred_at").await;

    // a refused batch left nothing behind, not even its good items
    let id = DataId::new(PROVIDER_NAME, "good").unwrap();
    assert_eq!(bench.record(&id.to_string()).await["status"], 404);
}

#[tokio::test]
async fn the_same_again_is_a_duplicate_and_other_content_a_conflict() {
    let bench = Bench::new([1, 1, 1]).await;
    let one = item("one");
    let first = bench.register("first", std::slice::from_ref(&one)).await;
    assert_eq!(first.status(), 202);
    let first: Value = first.json().await.unwrap();
    assert_eq!((&first["accepted"], &first["items"][0]["status"]), (&json!(1), &json!("accepted")));
    assert_eq!(first["items"][0]["data_id"], DataId::new(PROVIDER_NAME, "one").unwrap().to_string());

    let replayed: Value = bench.register("first", std::slice::from_ref(&one)).await.json().await.unwrap();
    assert_eq!(replayed, first, "the same batch id and body get the same answer");
    refused(bench.register("first", &[item("two")]).await, 409, "batch-id-reused", "X-Batch-Id").await;

    let again = bench.register("again", std::slice::from_ref(&one)).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap()["items"][0]["status"], "duplicate");

    let changed = registration("one", &kept_metadata("one", ContentHash::of(b"changed"), 0)).unwrap();
    let conflict = bench.register("conflict", &[changed, item("beside")]).await;
    assert_eq!(conflict.status(), 409);
    let conflict: Value = conflict.json().await.unwrap();
    assert_eq!(conflict["items"][0]["status"], "conflict");
    assert_eq!(conflict["items"][1]["status"], "accepted", "the others of the batch count");
    let record = bench.record(first["items"][0]["data_id"].as_str().unwrap()).await;
    assert_eq!(record["content_hash"], ContentHash::of(b"one").prefixed(), "a conflict changes nothing");
}

#[tokio::test]
async fn an_early_update_waits_a_gap_waits_and_a_broken_chain_is_refused() {
    let bench = Bench::new([1, 1, 1]).await;
    let id = DataId::new(PROVIDER_NAME, "kept").unwrap();
    let state = |updates| kept_metadata("kept", ContentHash::of(b"kept"), updates);
    let step = |seq| metadata_update(id, seq, &state(seq - 1), &state(seq)).unwrap();

    // the second update first, then the first, then the registration
    let early = bench.update("early", &[step(2)]).await;
    assert_eq!(early["items"][0]["status"], "accepted", "{early}");
    bench.update("earlier", &[step(1)]).await;
    assert_eq!(bench.record(&id.to_string()).await["status"], 404, "no registration yet");
    let registered = bench.register("kept", &[registration("kept", &state(0)).unwrap()]).await;
    assert_eq!(registered.status(), 202);
    let record = bench.record(&id.to_string()).await;
    let kinds: Vec<&str> = record["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["registered", "metadata_updated", "metadata_updated"], "kept, and applied when it came");
    assert_eq!((&record["trace_seq"], &record["metadata_root"]), (&json!(2), &json!(root(&state(2)).unwrap())));

    // a gap: 4 waits for 3
    bench.update("gap", &[step(4)]).await;
    let record = bench.record(&id.to_string()).await;
    assert_eq!((&record["trace_seq"], &record["updates"][0]["state"]), (&json!(2), &json!("waiting")));
    bench.update("filled", &[step(3)]).await;
    let record = bench.record(&id.to_string()).await;
    assert_eq!((&record["trace_seq"], record["updates"].as_array().unwrap().len()), (&json!(4), 0));

    // 5 does not continue from the root of 4
    let broken = metadata_update(id, 5, &state(1), &state(5)).unwrap();
    let broken = bench.update("broken", &[broken]).await;
    assert_eq!(broken["items"][0]["status"], "conflict");
    assert!(broken["items"][0]["reason"].as_str().unwrap().contains("prev_metadata_root"), "{broken}");
    // 7 waits, and is refused with its reason once 6 shows that it does not continue
    bench.update("far", &[metadata_update(id, 7, &state(1), &state(7)).unwrap()]).await;
    bench.update("near", &[step(5), metadata_update(id, 6, &state(5), &state(6)).unwrap()]).await;
    let record = bench.record(&id.to_string()).await;
    assert_eq!((&record["trace_seq"], &record["updates"][0]["state"]), (&json!(6), &json!("refused")));
    assert!(record["updates"][0]["reason"].as_str().unwrap().contains("prev_metadata_root"));

    // shapes
    let bad = with(step(7), "seq", json!(101));
    let answer = bench.doors.post_updates("seq", json!([bad]).to_string().into()).await.unwrap();
    refused(answer, 400, "field-invalid", "[0].seq").await;
    let bad = with(step(7), "data_id", json!("no uuid"));
    let answer = bench.doors.post_updates("uuid", json!([bad]).to_string().into()).await.unwrap();
    refused(answer, 400, "field-invalid", "[0].data_id").await;
    let bad = with(step(7), "metadata_root", json!(format!("0x{}", "2".repeat(64))));
    let answer = bench.doors.post_updates("root", json!([bad]).to_string().into()).await.unwrap();
    refused(answer, 422, "metadata-root-wrong", "[0].metadata_root").await;
}

fn sample(kind: Kind, accepted: bool) -> Sample {
    let samples = repository_samples().unwrap();
    let fits = |sample: &Sample| {
        sample.kind == kind && matches!(sample.expected, tidemark_tests::story::samples::Expected::Accepted) == accepted
    };
    samples.into_iter().find(fits).unwrap()
}

#[tokio::test]
async fn the_upload_door_wants_a_consent_that_covers_the_submission() {
    let bench = Bench::new([1, 1, 1]).await;
    let world = &bench.world;
    let person = Contributor::group(1).remove(0);
    let photo = sample(Kind::Photo, true);
    let bytes = std::fs::read(&photo.path).unwrap();
    let post = async |consent: Value| {
        let mut meta = meta(world, &photo, &person).unwrap();
        meta["consent"] = consent;
        bench.doors.post_upload(&meta, photo.mime, bytes.clone()).await.unwrap()
    };
    let signed = |change: &dyn Fn(&mut tidemark::consent::SignedConsent)| {
        let mut consent = person.unsigned_consent(world);
        change(&mut consent);
        json!(person.sign(world, consent).unwrap())
    };

    let unsigned = json!(person.unsigned_consent(world));
    refused(post(unsigned).await, 422, "consent-invalid", "meta.consent.signature").await;
    let mut forged = person.unsigned_consent(world);
    let other = Contributor { key: PrivateKeySigner::random(), ..person.clone() };
    forged.signature = other.sign(world, forged.clone()).unwrap().signature;
    refused(post(json!(forged)).await, 422, "consent-invalid", "meta.consent.signature").await;
    let mut garbled = person.consent(world).unwrap();
    garbled.signature = Bytes::from(vec![1; 64]);
    refused(post(json!(garbled)).await, 422, "consent-invalid", "meta.consent.signature").await;
    let expired = signed(&|c| c.valid_until = c.valid_from + 1);
    refused(post(expired).await, 422, "consent-invalid", "").await;
    let future = signed(&|c| c.valid_from = c.valid_until - 1);
    refused(post(future).await, 422, "consent-invalid", "").await;
    let voice_only = signed(&|c| c.data_types = tidemark::consent::data_type::VOICE);
    refused(post(voice_only).await, 422, "consent-invalid", "meta.consent.data_types").await;
    let elsewhere = signed(&|c| c.provider = person.address());
    refused(post(elsewhere).await, 422, "consent-invalid", "meta.consent.provider").await;
    let unpublished = signed(&|c| c.policy_hash = B256::repeat_byte(5));
    refused(post(unpublished).await, 422, "policy-unpublished", "").await;
    refused(post(Value::Null).await, 400, "field-invalid", "").await;

    let answer =
        bench.doors.post_upload(&meta(world, &photo, &person).unwrap(), photo.mime, bytes.clone()).await.unwrap();
    assert_eq!(answer.status(), 201, "and with a good one it is taken");
    // the same record id with other bytes
    let other = std::fs::read(&sample(Kind::Voice, true).path).unwrap();
    let conflict = bench.doors.post_upload(&meta(world, &photo, &person).unwrap(), photo.mime, other).await.unwrap();
    refused(conflict, 409, "record-conflict", "meta.source_record_id").await;
}

#[tokio::test]
async fn a_task_pays_no_more_than_its_escrow_holds() {
    let bench = Bench::new([1, 1, 1]).await;
    let people = Contributor::group(2);
    let samples = repository_samples().unwrap();
    let mut voices = samples.iter().filter(|sample| sample.kind == Kind::Voice);
    let first = bench.doors.upload(&bench.world, voices.next().unwrap(), 0, &people).await.unwrap();
    assert!(first.is_accepted());
    let second = voices.next().unwrap();
    let bytes = std::fs::read(&second.path).unwrap();
    let meta_of_second = meta(&bench.world, second, &people[1]).unwrap();
    let answer = bench.doors.post_upload(&meta_of_second, second.mime, bytes.clone()).await.unwrap();
    refused(answer, 409, "budget-exceeded", "meta.task_id").await;

    // anybody makes tasks, at any price
    let sender = bench.stack.sender(role::BUYER).await.unwrap();
    let log = ProvenanceLog::new(bench.world.deployment.provenance_log, &sender);
    let (provider, most) = (bench.world.provider, tidemark::dataset::WEIGHT_MAX);
    let dear = log.createTask(provider, most + 1, u64::MAX, B256::ZERO, String::new(), 0);
    dear.send().await.unwrap().get_receipt().await.unwrap();
    bench.stack.chain.mine(3).await.unwrap();
    for task in [log.taskCount().call().await.unwrap(), 999] {
        let mut unknown = meta_of_second.clone();
        unknown["task_id"] = json!(task);
        let answer = bench.doors.post_upload(&unknown, second.mime, bytes.clone()).await.unwrap();
        refused(answer, 422, "task-unknown", "meta.task_id").await;
    }

    // a reorg could give the number of a task that is not final to another one, at another price
    bench.stack.chain.pause_mining().await.unwrap();
    let open = log.createTask(provider, 1, u64::MAX, B256::ZERO, String::new(), 0).send().await.unwrap();
    bench.stack.chain.mine(1).await.unwrap();
    open.get_receipt().await.unwrap();
    let mut young = meta_of_second.clone();
    young["task_id"] = json!(log.taskCount().call().await.unwrap());
    let answer = bench.doors.post_upload(&young, second.mime, bytes.clone()).await.unwrap();
    let problem = refused(answer, 422, "task-unknown", "meta.task_id").await;
    assert!(problem.to_string().contains("final"), "{problem}");
    bench.stack.chain.mine(3).await.unwrap();
    let answer = bench.doors.post_upload(&young, second.mime, bytes).await.unwrap();
    // known now, and without money
    refused(answer, 409, "budget-exceeded", "meta.task_id").await;
}

#[tokio::test]
async fn an_upload_sent_again_gets_the_first_answer_and_broken_bodies_get_a_400() {
    let bench = Bench::new([1, 1, 1]).await;
    let (photo, person) = (sample(Kind::Photo, true), Contributor::group(1).remove(0));
    let bytes = std::fs::read(&photo.path).unwrap();
    let post = async |meta: &Value| bench.doors.post_upload(meta, photo.mime, bytes.clone()).await.unwrap();
    let first_meta = meta(&bench.world, &photo, &person).unwrap();
    let first = post(&first_meta).await;
    assert_eq!(first.status(), 201);
    let first: Value = first.json().await.unwrap();
    // a retry may come with a consent that was signed anew
    let again = post(&meta(&bench.world, &photo, &person).unwrap()).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap(), first);

    let mut executable = first_meta.clone();
    executable["mime_type"] = json!("application/x-msdownload");
    refused(post(&executable).await, 415, "media-type-unsupported", "meta.mime_type").await;
    // what no database takes, and what fits into no address
    for odd in [format!("{};\0", photo.mime), format!("{};{}", photo.mime, "x".repeat(30_000))] {
        let mut meta = first_meta.clone();
        (meta["mime_type"], meta["source_record_id"]) = (json!(odd), json!("odd"));
        refused(post(&meta).await, 415, "media-type-unsupported", "meta.mime_type").await;
    }
    for (path, field) in [("v1/records", "data_id"), ("v1/contributors", "contributor_ref"), ("ipfs", "cid")] {
        let rest = if field == "contributor_ref" { "/records" } else { "?format=raw" };
        let request = reqwest::Client::new().get(format!("{}/{path}/%ff{rest}", bench.url()));
        let answer = request.header("x-api-key", &bench.world.api_key).send().await.unwrap();
        refused(answer, 400, "field-invalid", field).await;
    }
    for body in ["", "null", "\u{0}", "[{\"a\": 1e999}]", &"[".repeat(10_000)] {
        let answer = bench.doors.post_records("broken", body.into()).await.unwrap();
        assert_eq!(answer.status(), 400, "{body:.20}");
    }
    let no_utf8 = bench.doors.post_records("bytes", vec![b'[', b'"', 0xff, b'"', b']']).await.unwrap();
    assert_eq!(no_utf8.status(), 400);
}
