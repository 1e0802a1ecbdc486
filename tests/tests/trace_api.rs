//! The Trace write API as a provider's backlog, its policies and its signatures meet it; and who may call it, how
//! often.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::{primitives::B256, signers::SignerSync};
use anyhow::Result;
use axum::{Json, Router, http::StatusCode, response::Redirect, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};
use p256::ecdsa::signature::Signer;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::Row;
use tidemark::{
    canonical::jcs,
    consent::withdrawal_digest,
    contracts::ConsentRegistry,
    ids::{ContentHash, DataId, sha256},
};
use tidemark_tests::{
    Options, Stack,
    keys::role,
    mined,
    services::{Service, Wiring, free_port},
    stack::{PROVIDER_NAME, Services},
    story::{
        doors::{Doors, kept_metadata, meta, metadata_update, registration},
        people::Contributor,
        samples::{Expected, Kind, repository_samples},
        world::World,
    },
};

const TRACE: &str = "/webhook/v1/data-audit";

struct Bench {
    stack: Stack,
    world: World,
}

impl Bench {
    async fn new() -> Result<Self> {
        tidemark::install_tls();
        let stack = Stack::start(Options { services: Services::WriteSide, ..Options::default() }).await?;
        let world = World::build(&stack, [5, 5, 5]).await?;
        Ok(Self { stack, world })
    }

    fn relayer(&self) -> &Service {
        self.stack.relayer.as_ref().unwrap()
    }

    fn request(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.relayer().url()));
        request.header("x-api-key", key).header("x-provider", PROVIDER_NAME)
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> Response {
        let request = self.request(&self.world.api_key, method, path).json(body);
        request.header("x-batch-id", uuid::Uuid::new_v4().to_string()).send().await.unwrap()
    }

    /// One registration under an id of its own; gives the answer and the record's id.
    async fn register(&self, id: &str, metadata: &Value) -> (Response, DataId) {
        let items = json!([registration(id, metadata).unwrap()]);
        let answer = self.json(Method::POST, &format!("{TRACE}/records:batch"), &items).await;
        (answer, DataId::new(PROVIDER_NAME, id).unwrap())
    }

    async fn record(&self, id: DataId) -> Value {
        let request = self.request(&self.world.api_key, Method::GET, &format!("/v1/records/{id}"));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Runs another command of the relayer.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let wiring = Wiring { name: "relayer-command".into(), arguments, ..self.relayer().wiring().clone() };
        self.relayer().run_once(&wiring)
    }

    /// Why a command of the relayer failed.
    fn fails(&self, arguments: &[&str]) -> String {
        format!("{:#}", self.run(arguments).unwrap_err())
    }

    async fn sql(&self, text: &'static str) -> Vec<sqlx::postgres::PgRow> {
        let mut database = self.stack.postgres.connect("relayer").await.unwrap();
        sqlx::query(text).fetch_all(&mut database).await.unwrap()
    }

    async fn count(&self, text: &'static str) -> i64 {
        self.sql(text).await[0].get(0)
    }
}

/// A refusal as RFC 9457 wants it, of this status, type and field.
async fn refused(answer: Response, status: u16, slug: &str, field: &str) -> Value {
    let (actual, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(actual, status, "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["type"], format!("urn:tidemark:problem:{slug}"), "{text}");
    if !field.is_empty() {
        assert_eq!(problem["field"], field, "{text}");
    }
    problem
}

async fn accepted(answer: Response) -> Value {
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 202, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn metadata(id: &str) -> Value {
    kept_metadata(id, ContentHash::of(id.as_bytes()), 0)
}

#[tokio::test]
async fn the_trace_write_api_holds_what_it_says() -> Result<()> {
    let mut bench = Bench::new().await?;
    each_form_of_a_backlog_is_taken_and_gets_the_same_answers(&bench).await;
    what_is_wrong_in_a_backlog_is_named_by_line_and_column(&bench).await;
    personal_data_is_refused_at_each_door(&bench).await?;
    policies_are_published_ones_and_metadata_names_those(&bench).await?;
    attestations_are_verified_by_pinned_keys(&mut bench).await?;
    requests_are_signed_where_the_provider_wants_it(&bench).await?;
    keys_do_what_they_are_for_until_they_end(&bench).await?;
    an_idempotency_key_gets_one_answer(&mut bench).await?;
    a_provider_asks_as_often_as_its_bucket_allows(&mut bench).await
}

// the backlog

const FORMS: [(&str, &str, bool); 4] = [
    ("", "application/json", false),
    ("-ndjson", "application/x-ndjson", true),
    ("-csv", "text/csv", false),
    ("-txt", "text/plain", false),
];

fn gzip(body: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn csv_of(items: &[Value]) -> String {
    let columns: Vec<&String> = items[0].as_object().unwrap().keys().collect();
    let quoted = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    let row = |item: &Value| columns.iter().map(|column| quoted(&item[column.as_str()])).collect::<Vec<_>>().join(",");
    let names = columns.iter().map(|column| column.as_str()).collect::<Vec<_>>().join(",");
    std::iter::once(names).chain(items.iter().map(row)).collect::<Vec<_>>().join("\r\n")
}

/// The items in one of the forms, before they are compressed.
fn body_of(form: &str, items: &[Value]) -> String {
    match form {
        "" => json!(items).to_string(),
        "-csv" => csv_of(items),
        _ => items.iter().map(|item| format!("{item}\n")).collect(),
    }
}

fn data_id_item(id: &str) -> Value {
    let mut item = registration(id, &metadata(id)).unwrap();
    item["data_id"] = json!(DataId::new(PROVIDER_NAME, id).unwrap());
    item["occurred_at"] = json!("2026-11-21T00:00:00Z");
    item
}

async fn backlog(bench: &Bench, kind: &str, form: &str, batch: &str, body: Vec<u8>, is_gzip: bool) -> Response {
    let mime = FORMS.iter().find(|(name, ..)| *name == form).unwrap().1;
    let request = bench.request(&bench.world.api_key, Method::POST, &format!("{TRACE}/{kind}:batch{form}"));
    let request =
        request.header("x-batch-id", batch).header("x-ingestion-source", "backlog").header("content-type", mime);
    let request = if is_gzip { request.header("content-encoding", "gzip") } else { request };
    request.body(body).send().await.unwrap()
}

async fn each_form_of_a_backlog_is_taken_and_gets_the_same_answers(bench: &Bench) {
    for (form, _, is_gzip) in FORMS {
        let name = form.strip_prefix('-').unwrap_or("json");
        let ids = [format!("{name}-1"), format!("{name}-2")];
        let items = ids.each_ref().map(|id| data_id_item(id));
        let plain = body_of(form, &items).into_bytes();
        let packed = |level: u32| if is_gzip { gzip(&plain, level) } else { plain.clone() };
        let answer = accepted(backlog(bench, "data-ids", form, &format!("{name}-a"), packed(9), is_gzip).await).await;
        assert_eq!(
            (&answer["format"], &answer["kind"], &answer["accepted"]),
            (&json!(name), &json!("data_ids"), &json!(2))
        );
        for (item, id) in answer["items"].as_array().unwrap().iter().zip(&ids) {
            let expected = json!({"source_record_id": id, "data_id": DataId::new(PROVIDER_NAME, id).unwrap(), "status": "accepted"});
            assert_eq!(*item, expected);
        }
        // the same batch, packed otherwise, is the same; under another id its records are known
        let again = backlog(bench, "data-ids", form, &format!("{name}-a"), packed(1), is_gzip).await;
        assert_eq!(accepted(again).await, answer);
        let again = backlog(bench, "data-ids", form, &format!("{name}-b"), packed(9), is_gzip).await;
        assert_eq!(again.status(), 200);
        assert_eq!(again.json::<Value>().await.unwrap()["duplicates"], 2);
        let other = body_of(form, &items[..1]).into_bytes();
        let other = if is_gzip { gzip(&other, 9) } else { other };
        let answer = backlog(bench, "data-ids", form, &format!("{name}-a"), other, is_gzip).await;
        refused(answer, 409, "batch-id-reused", "X-Batch-Id").await;
    }
    // a batch id of one form is taken for the others, too
    let item = body_of("-txt", &[data_id_item("txt-1"), data_id_item("txt-2")]);
    let answer = backlog(bench, "data-ids", "-ndjson", "txt-a", gzip(item.as_bytes(), 9), true).await;
    refused(answer, 409, "batch-id-reused", "X-Batch-Id").await;

    // a state in each form, one after another
    let id = DataId::new(PROVIDER_NAME, "json-1").unwrap();
    let state = |seq| kept_metadata("json-1", ContentHash::of(b"json-1"), seq);
    for (seq, (form, _, is_gzip)) in (1u32..).zip(FORMS) {
        let plain = body_of(form, &[metadata_update(id, seq, &state(seq - 1), &state(seq)).unwrap()]).into_bytes();
        let body = if is_gzip { gzip(&plain, 6) } else { plain };
        let answer =
            accepted(backlog(bench, "metadata-updates", form, &format!("update-{seq}"), body, is_gzip).await).await;
        assert_eq!(
            (&answer["kind"], &answer["items"][0]["seq"]),
            (&json!("metadata_updates"), &json!(seq)),
            "{answer}"
        );
    }
    assert_eq!(bench.record(id).await["trace_seq"], 4);
    // and the array may be compressed as well
    let body = gzip(json!([registration("packed", &metadata("packed")).unwrap()]).to_string().as_bytes(), 6);
    assert_eq!(backlog(bench, "records", "", "packed", body, true).await.status(), 202);
}

async fn what_is_wrong_in_a_backlog_is_named_by_line_and_column(bench: &Bench) {
    let good = data_id_item("line-good");
    let with = |name: &str, value: Value| {
        let mut item = data_id_item("line-bad");
        item[name] = value;
        item
    };
    let other = DataId::new(PROVIDER_NAME, "another").unwrap();
    let cases = [
        (with("data_id", json!(other)), 422, "data-id-wrong", "data_id"),
        (with("data_id", Value::Null), 400, "field-missing", "data_id"),
        (
            with("initial_metadata_root", json!(B256::repeat_byte(1))),
            422,
            "metadata-root-wrong",
            "initial_metadata_root",
        ),
        (with("occurred_at", json!("yesterday")), 400, "field-invalid", "occurred_at"),
    ];
    for (form, _, is_gzip) in FORMS {
        let place = match form {
            "" => "[1]",
            "-csv" => "line 3",
            _ => "line 2",
        };
        for (bad, status, slug, column) in &cases {
            // an empty cell is a missing value
            let items = [good.clone(), bad.clone()];
            let plain = body_of(form, &items).replace("\"null\"", "").into_bytes();
            let body = if is_gzip { gzip(&plain, 6) } else { plain };
            let answer = backlog(bench, "data-ids", form, "wrong", body, is_gzip).await;
            refused(answer, *status, slug, &format!("{place}.{column}")).await;
        }
    }
    let plain = body_of("-txt", std::slice::from_ref(&good));
    let broken = backlog(bench, "data-ids", "-txt", "wrong", format!("{plain}{{\"a\":}}").into(), false).await;
    let problem = refused(broken, 400, "body-invalid", "").await;
    assert!(problem["detail"].as_str().unwrap().starts_with("line 2: expected a JSON object: column 6"), "{problem}");
    let columns = body_of("-csv", std::slice::from_ref(&good)).replace("occurred_at", "when");
    refused(backlog(bench, "data-ids", "-csv", "wrong", columns.into(), false).await, 400, "field-invalid", "line 1")
        .await;

    // headers
    let open = backlog(bench, "data-ids", "-ndjson", "wrong", plain.clone().into(), false).await;
    refused(open, 415, "media-type-unsupported", "Content-Encoding").await;
    let no_gzip = backlog(bench, "data-ids", "-ndjson", "wrong", plain.clone().into(), true).await;
    refused(no_gzip, 400, "body-invalid", "").await;
    for (form, mime, _) in FORMS.iter().filter(|(form, ..)| !form.is_empty()) {
        let request =
            bench.request(&bench.world.api_key, Method::POST, &format!("{TRACE}/metadata-updates:batch{form}"));
        let request =
            request.header("x-batch-id", "wrong").header("content-encoding", "gzip").body(gzip(plain.as_bytes(), 6));
        let live = request.try_clone().unwrap().header("content-type", *mime).send().await.unwrap();
        refused(live, 400, "header-invalid", "X-Ingestion-Source").await;
        let as_json = request.header("content-type", "application/json").header("x-ingestion-source", "backlog");
        refused(as_json.send().await.unwrap(), 415, "media-type-unsupported", "Content-Type").await;
    }
    // 26 KiB that would be 26 MiB
    let bomb = gzip(&vec![b' '; (25 << 20) + 1], 9);
    assert!(bomb.len() < 64 << 10);
    refused(backlog(bench, "data-ids", "-ndjson", "bomb", bomb, true).await, 413, "body-too-large", "body").await;
    // nothing of all this was taken, not even the good lines
    assert_eq!(bench.record(DataId::new(PROVIDER_NAME, "line-good").unwrap()).await["status"], 404);
}

// personal data

async fn personal_data_is_refused_at_each_door(bench: &Bench) -> Result<()> {
    let mut named = metadata("person");
    named["provider_payload"]["user"] = json!({ "email": "kim@example.com" });
    let items = json!([registration("nobody", &metadata("nobody"))?, registration("person", &named)?]);
    let answer = bench.json(Method::POST, &format!("{TRACE}/records:batch"), &items).await;
    let field = "[1].initial_metadata_json.provider_payload.user.email";
    let problem = refused(answer, 422, "personal-data", field).await;
    assert!(!problem.to_string().contains("kim@"), "a refusal does not repeat it: {problem}");

    let mut update = metadata("json-1");
    update["provider_payload"]["note"] = json!("ask kim@example.com");
    let id = DataId::new(PROVIDER_NAME, "json-1")?;
    let items = json!([metadata_update(id, 5, &metadata("json-1"), &update)?]);
    let answer = bench.json(Method::POST, &format!("{TRACE}/metadata-updates:batch"), &items).await;
    refused(answer, 422, "personal-data", "[0].metadata_json.provider_payload.note").await;

    refused(bench.register("kim@example.com", &metadata("x")).await.0, 422, "personal-data", "[0].source_record_id")
        .await;
    let photo = repository_samples()?.into_iter().find(|sample| sample.kind == Kind::Photo).unwrap();
    let mut meta = meta(&bench.world, &photo, &Contributor::group(1)[0])?;
    meta["source_record_id"] = json!("kim@example.com/1");
    let doors = Doors::new(&bench.stack, &bench.world)?;
    let answer = doors.post_upload(&meta, photo.mime, std::fs::read(&photo.path)?).await?;
    refused(answer, 422, "personal-data", "meta.source_record_id").await;
    assert_eq!(bench.count("SELECT count(*) FROM event WHERE payload LIKE '%kim@%'").await, 0);
    Ok(())
}

// policies

async fn policies_are_published_ones_and_metadata_names_those(bench: &Bench) -> Result<()> {
    let path = format!("{TRACE}/provider-policy");
    let policy =
        |hash: B256| json!({"version": "1", "hash": ContentHash(hash).prefixed(), "uri": "https://numo.example/1"});
    let (first, second) = (bench.world.policy_hash, sha256(&[b"policy 2"]));
    let put = async |body: &Value| bench.json(Method::PUT, &path, body).await;
    let body = |tos: B256, privacy: B256| json!({"tos": policy(tos), "privacy_policy": policy(privacy)});

    refused(put(&json!({"tos": policy(first)})).await, 400, "field-missing", "privacy_policy").await;
    refused(put(&body(first, second)).await, 422, "policy-unpublished", "privacy_policy.hash").await;
    let mut large = body(first, first);
    large["more"] = json!("x".repeat(1 << 20));
    refused(put(&large).await, 413, "body-too-large", "body").await;
    assert_eq!(bench.count("SELECT count(*) FROM provider_policy").await, 0);

    let answer: Value = put(&body(first, first)).await.json().await?;
    assert_eq!((&answer["changed"], &answer["tos"]["hash"]), (&json!(true), &json!(first)), "{answer}");
    assert_eq!(put(&body(first, first)).await.json::<Value>().await?["changed"], false);
    let provider = bench.stack.sender(role::PROVIDER).await?;
    let registry = ConsentRegistry::new(bench.world.deployment.consent_registry, &provider);
    mined!("publish", registry.publishPolicy(second, "2".into(), "https://numo.example/2".into()));
    assert_eq!(put(&body(second, first)).await.json::<Value>().await?["changed"], true);
    let kept = bench.sql("SELECT kind, hash FROM provider_policy ORDER BY position").await;
    let kept: Vec<(String, Vec<u8>)> = kept.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [("tos", first), ("privacy_policy", first), ("tos", second)];
    assert_eq!(kept, expected.map(|(kind, hash)| (kind.to_owned(), hash.to_vec())), "each one that there ever was");

    // metadata: recorded at first, then enforced
    let consenting = |id: &str, tos: &str, privacy: Option<B256>| {
        let mut metadata = metadata(id);
        metadata["contributor"]["consent"] =
            json!({"tos_hash": tos, "privacy_policy_hash": privacy.map(|hash| ContentHash(hash).prefixed())});
        metadata
    };
    let prefixed = |hash: B256| ContentHash(hash).prefixed();
    for (id, tos, privacy, is_known) in [
        ("policy-old", prefixed(first), Some(first), true),
        ("policy-new", prefixed(second), None, true),
        // no privacy policy was ever this one
        ("policy-kind", prefixed(second), Some(second), false),
        ("policy-none", prefixed(B256::repeat_byte(7)), None, false),
        ("policy-text", "our terms".to_owned(), None, false),
    ] {
        let (answer, data_id) = bench.register(id, &consenting(id, &tos, privacy)).await;
        accepted(answer).await;
        let record = bench.record(data_id).await;
        let expected = json!([{"seq": 0, "attestation": null, "key_id": null, "reason": null, "policies": is_known}]);
        assert_eq!(record["checks"], expected, "{id}");
    }
    assert_eq!(
        bench.run(&["provider", "set", "--name", PROVIDER_NAME, "--policies", "enforce"])?,
        "attestation none, policies enforce"
    );
    let (answer, data_id) =
        bench.register("policy-refused", &consenting("policy-refused", &prefixed(second), Some(second))).await;
    let field = "[0].initial_metadata_json.contributor.consent.privacy_policy_hash";
    refused(answer, 422, "policy-unknown", field).await;
    assert_eq!(bench.record(data_id).await["status"], 404);
    accepted(bench.register("policy-first", &consenting("policy-first", &prefixed(first), Some(first))).await.0).await;
    accepted(bench.register("policy-unnamed", &metadata("policy-unnamed")).await.0).await;
    Ok(())
}

// attestations

/// A provider's server with a JWK set that can be changed, and what else its address could lead to.
struct KeyServer {
    url: String,
    jwks: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicU32>,
}

impl KeyServer {
    async fn start() -> Result<Self> {
        let (jwks, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
        let (keys, count) = (Arc::clone(&jwks), Arc::clone(&asked));
        let serve = async move || {
            count.fetch_add(1, Ordering::SeqCst);
            Json(json!({"keys": *keys.lock().unwrap()}))
        };
        let router = Router::new()
            .route("/keys.json", get(serve))
            .route("/redirect.json", get(async || Redirect::temporary("/keys.json")))
            .route("/large.json", get(async || Json(json!({"keys": [], "note": "x".repeat(64 << 10)}))))
            .route("/slow.json", get(async || tokio::time::sleep(Duration::from_secs(60)).await))
            .route("/broken.json", get(async || "keys"))
            .route("/failing.json", get(async || StatusCode::INTERNAL_SERVER_ERROR));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, jwks, asked })
    }

    fn address(&self) -> String {
        format!("{}/keys.json", self.url)
    }
}

/// One key of each algorithm, from a seed.
struct Keyring {
    ed25519: ed25519_dalek::SigningKey,
    p256: p256::ecdsa::SigningKey,
    k256: k256::ecdsa::SigningKey,
}

impl Keyring {
    fn new(seed: u8) -> Self {
        Self {
            ed25519: ed25519_dalek::SigningKey::from_bytes(&[seed; 32]),
            p256: p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
            k256: k256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match kid.split('-').next().unwrap() {
            "ed" => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(self.ed25519.verifying_key().as_bytes())})
            }
            "p" => {
                let point = self.p256.verifying_key().to_encoded_point(false);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(point.x().unwrap()), "y": text(point.y().unwrap())})
            }
            _ => {
                let point = self.k256.verifying_key().to_encoded_point(false);
                json!({"kty": "EC", "crv": "secp256k1", "kid": kid, "x": text(point.x().unwrap()), "y": text(point.y().unwrap())})
            }
        }
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Vec<u8> {
        match kid.split('-').next().unwrap() {
            "ed" => self.ed25519.sign(message).to_bytes().to_vec(),
            "p" => Signer::<p256::ecdsa::Signature>::sign(&self.p256, message).to_bytes().to_vec(),
            _ => Signer::<k256::ecdsa::Signature>::sign(&self.k256, message).to_bytes().to_vec(),
        }
    }

    /// Metadata with an attestation by the key of this id.
    fn attest(&self, id: &str, kid: &str, key_url: &str) -> Value {
        let mut metadata = metadata(id);
        let payload = jcs(&metadata).unwrap();
        metadata["attestation"] = json!({
            "payload_hash": ContentHash(sha256(&[&payload])).prefixed(),
            "signature": URL_SAFE_NO_PAD.encode(self.sign(kid, &payload)),
            "key_id": kid,
            "key_url": key_url,
            "signed_at_utc": "2026-11-20T00:00:00Z",
        });
        metadata
    }
}

async fn attestations_are_verified_by_pinned_keys(bench: &mut Bench) -> Result<()> {
    let server = KeyServer::start().await?;
    let (own, other) = (Keyring::new(7), Keyring::new(8));
    *server.jwks.lock().unwrap() = ["ed-1", "p-1", "k-1"].map(|kid| own.jwk(kid)).to_vec();
    let url = server.address();
    let set = ["provider", "set", "--name", PROVIDER_NAME, "--attestation"];
    let set = |rest: &[&'static str], url: Option<&str>| {
        let url: Vec<String> = url.into_iter().flat_map(|url| ["--key-url".to_owned(), url.to_owned()]).collect();
        bench_arguments(&set, rest, &url)
    };
    let failed = |arguments: &[String]| bench.fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(failed(&set(&["record"], None)).contains("--key-url"));
    assert!(
        bench.fails(&["provider", "set", "--name", PROVIDER_NAME, "--signed-requests", "true"]).contains("--key-url")
    );
    assert!(bench.fails(&["provider", "set", "--name", "nobody", "--policies", "record"]).contains("let in"));
    for bad in ["http://169.254.169.254/latest/meta-data", "http://numo.example/keys", "file:///etc/passwd"] {
        assert!(failed(&set(&["record"], Some(bad))).contains("expected an https address"), "{bad}");
    }
    let run =
        |bench: &Bench, arguments: Vec<String>| bench.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    run(bench, set(&["record"], Some(&url)))?;

    // recorded: all is taken, and the finding kept
    let mut forged = own.attest("forged", "ed-1", &url);
    forged["provider_payload"]["reviewed"] = json!(9);
    for (id, metadata, state, reason) in [
        ("att-ed", own.attest("att-ed", "ed-1", &url), "verified", ""),
        ("att-p", own.attest("att-p", "p-1", "/keys.json"), "verified", ""),
        ("att-k", own.attest("att-k", "k-1", &url), "verified", ""),
        ("att-none", metadata("att-none"), "absent", ""),
        ("att-forged", forged, "refused", "attestation.payload_hash: expected sha256:"),
        (
            "att-other",
            other.attest("att-other", "p-1", &url),
            "refused",
            "attestation.signature: expected one by key \"p-1\"",
        ),
        (
            "att-url",
            own.attest("att-url", "ed-1", "http://169.254.169.254/"),
            "refused",
            "attestation.key_url: expected http",
        ),
    ] {
        let (answer, data_id) = bench.register(id, &metadata).await;
        accepted(answer).await;
        let found = bench.record(data_id).await["checks"][0].clone();
        assert_eq!(found["attestation"], state, "{id}: {found}");
        assert!(found["reason"].as_str().unwrap_or_default().starts_with(reason), "{id}: {found}");
        assert_eq!(found["key_id"].is_string(), state == "verified", "{id}: {found}");
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 1, "the set is fetched once and remembered");
    // an update has a finding of its own
    let data_id = DataId::new(PROVIDER_NAME, "att-ed")?;
    let (before, after) = (own.attest("att-ed", "ed-1", &url), own.attest("att-ed", "k-1", &url));
    let items = json!([metadata_update(data_id, 1, &before, &after)?]);
    accepted(bench.json(Method::POST, &format!("{TRACE}/metadata-updates:batch"), &items).await).await;
    assert_eq!(bench.record(data_id).await["checks"][1]["key_id"], "k-1");

    // enforced: what does not hold is refused
    run(bench, set(&["enforce"], None))?;
    let refuse = async |bench: &Bench, metadata: Value, field: &str| {
        let field = format!("[0].initial_metadata_json.attestation{field}");
        refused(bench.register("att-refused", &metadata).await.0, 422, "attestation-invalid", &field).await
    };
    refuse(bench, metadata("att-refused"), "").await;
    refuse(bench, other.attest("att-refused", "ed-1", &url), ".signature").await;
    refuse(bench, own.attest("att-refused", "ed-1", "https://evil.example/keys.json"), ".key_url").await;
    refuse(bench, own.attest("att-refused", "ed-9", &url), ".key_id").await;
    accepted(bench.register("att-enforced", &own.attest("att-enforced", "k-1", &url)).await.0).await;

    // another key under a known id is no key; under a new id it is one, and a key that is gone counts no more
    *server.jwks.lock().unwrap() = vec![other.jwk("ed-1"), other.jwk("ed-2"), own.jwk("p-1")];
    bench.stack.relayer.as_mut().unwrap().restart().await?;
    let bench = &*bench;
    let problem = refuse(bench, other.attest("att-refused", "ed-1", &url), ".key_id").await;
    assert!(problem["expected"].as_str().unwrap().contains("stood for at first"), "{problem}");
    refuse(bench, own.attest("att-refused", "ed-1", &url), ".key_id").await;
    refuse(bench, own.attest("att-refused", "k-1", &url), ".key_id").await;
    accepted(bench.register("att-rotated", &other.attest("att-rotated", "ed-2", &url)).await.0).await;
    assert_eq!(bench.count("SELECT count(*) FROM attestation_key").await, 4);

    // no provider fills the table with keys
    bench
        .sql(
            "INSERT INTO attestation_key (provider, key_id, algorithm, public_key)
             SELECT account, 'old-' || n, 'EdDSA', decode(repeat('00', 32), 'hex') FROM provider, generate_series(1, 996) n",
        )
        .await;
    server.jwks.lock().unwrap().push(own.jwk("ed-3"));
    let aside = format!("{url}?2");
    run(bench, set(&["enforce"], Some(&aside)))?;
    let problem = refuse(bench, own.attest("att-refused", "ed-3", &aside), ".key_id").await;
    assert!(problem["expected"].as_str().unwrap().contains("first 1000 keys"), "{problem}");
    accepted(bench.register("att-known", &own.attest("att-known", "p-1", &aside)).await.0).await;

    // a set that can't be had is nobody's fault that sends metadata: try again later
    for path in ["/redirect.json", "/large.json", "/broken.json", "/failing.json", "/slow.json"] {
        let url = format!("{}{path}", server.url);
        run(bench, set(&["enforce"], Some(&url)))?;
        let started = Instant::now();
        let (answer, _) = bench.register("att-refused", &own.attest("att-refused", "p-1", &url)).await;
        refused(answer, 503, "unavailable", "").await;
        assert!(started.elapsed() < Duration::from_secs(30), "{path} is waited for without end");
    }
    // and where findings are only recorded, it is one
    let gone = format!("{}/failing.json?recorded", server.url);
    run(bench, set(&["record"], Some(&gone)))?;
    let (answer, data_id) = bench.register("att-gone", &own.attest("att-gone", "p-1", &gone)).await;
    accepted(answer).await;
    let found = bench.record(data_id).await["checks"][0].clone();
    assert_eq!(found["attestation"], "refused", "{found}");
    assert!(found["reason"].as_str().unwrap().contains("a JWK set that can be had"), "{found}");
    run(bench, set(&["none"], None))?;
    accepted(bench.register("att-off", &metadata("att-off")).await.0).await;
    assert_eq!(bench.record(DataId::new(PROVIDER_NAME, "att-off")?).await["checks"], json!([]));
    Ok(())
}

// signed requests

/// Header values of a signature (RFC 9421) over these components of a request, by the key of this id.
fn sign_request(keys: &Keyring, kid: &str, components: &[(&str, &str)], created: u64) -> [(&'static str, String); 2] {
    let names = components.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(" ");
    let input = format!("({names});created={created};keyid=\"{kid}\"");
    let lines: String = components.iter().map(|(name, value)| format!("\"{name}\": {value}\n")).collect();
    let signature = keys.sign(kid, format!("{lines}\"@signature-params\": {input}").as_bytes());
    let encoded = base64::engine::general_purpose::STANDARD.encode(signature);
    [("signature-input", format!("sig={input}")), ("signature", format!("sig=:{encoded}:"))]
}

async fn requests_are_signed_where_the_provider_wants_it(bench: &Bench) -> Result<()> {
    let server = KeyServer::start().await?;
    let (own, other) = (Keyring::new(17), Keyring::new(18));
    *server.jwks.lock().unwrap() = ["ed-s", "p-s", "k-s"].map(|kid| own.jwk(kid)).to_vec();
    bench.sql("DELETE FROM attestation_key").await;
    let set = ["provider", "set", "--name", PROVIDER_NAME, "--key-url", &server.address(), "--signed-requests"];
    bench.run(&[&set[..], &["true"]].concat())?;

    let path = format!("{TRACE}/records:batch");
    let body = |id: &str| json!([registration(id, &metadata(id)).unwrap()]).to_string();
    let digest = |body: &str| {
        format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(sha256(&[body.as_bytes()])))
    };
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let post = async |keys: &Keyring, kid: &str, batch: &str, signed: &str, sent: &str, created: u64| {
        let digest = digest(signed);
        let components = [
            ("@method", "POST"),
            ("@path", path.as_str()),
            ("x-provider", PROVIDER_NAME),
            ("x-batch-id", batch),
            ("content-type", "application/json"),
            ("content-digest", digest.as_str()),
        ];
        let mut request = bench.request(&bench.world.api_key, Method::POST, &path).body(sent.to_owned());
        for (name, value) in sign_request(keys, kid, &components, created) {
            request = request.header(name, value);
        }
        let request = request.header("content-type", "application/json").header("content-digest", &digest);
        request.header("x-batch-id", "signed").send().await.unwrap()
    };
    for (kid, id) in [("ed-s", "signed-ed"), ("p-s", "signed-p"), ("k-s", "signed-k")] {
        // each record is a batch of its own; the header says `signed` for all, so the ids must be let go of
        bench.sql("DELETE FROM webhook_batch WHERE batch_id = 'signed'").await;
        accepted(post(&own, kid, "signed", &body(id), &body(id), now()).await).await;
    }
    let (good, slug) = (body("signed-bad"), "request-signature-invalid");
    bench.sql("DELETE FROM webhook_batch WHERE batch_id = 'signed'").await;
    refused(post(&other, "ed-s", "signed", &good, &good, now()).await, 401, slug, "Signature").await;
    refused(post(&own, "ed-s", "another", &good, &good, now()).await, 401, slug, "Signature").await;
    refused(post(&own, "ed-s", "signed", &good, &good, now() - 400).await, 401, slug, "Signature-Input").await;
    refused(post(&own, "ed-x", "signed", &good, &good, now()).await, 401, slug, "Signature-Input").await;
    let problem =
        refused(post(&own, "ed-s", "signed", &good, &body("forged"), now()).await, 400, "body-invalid", "").await;
    assert!(problem["detail"].as_str().unwrap().contains("Content-Digest"), "{problem}");
    let (unsigned, data_id) = bench.register("signed-bad", &metadata("signed-bad")).await;
    refused(unsigned, 401, slug, "Signature-Input").await;
    let read = format!("/v1/records/{data_id}");
    let request = |path: &str| bench.request(&bench.world.api_key, Method::GET, path);
    refused(request(&read).send().await?, 401, slug, "Signature-Input").await;
    let components = [("@method", "GET"), ("@path", read.as_str()), ("x-provider", PROVIDER_NAME)];
    let signed = sign_request(&own, "ed-s", &components, now());
    let get = |path: &str| signed.iter().fold(request(path), |request, (name, value)| request.header(*name, value));
    refused(get(&read).send().await?, 404, "record-unknown", "data_id").await;
    refused(get("/v1/batches").send().await?, 401, slug, "Signature").await;

    bench.run(&[&set[..], &["false"]].concat())?;
    assert_eq!(request("/v1/batches").send().await?.status(), 200);
    Ok(())
}

fn bench_arguments(first: &[&str], rest: &[&str], last: &[String]) -> Vec<String> {
    first.iter().chain(rest).map(|argument| (*argument).to_owned()).chain(last.iter().cloned()).collect()
}

// keys

async fn keys_do_what_they_are_for_until_they_end(bench: &Bench) -> Result<()> {
    let issue = |name: &str, scopes: &str, days: &str| {
        bench.run(&["key", "issue", "--provider", PROVIDER_NAME, "--name", name, "--scope", scopes, "--days", days])
    };
    let (records, read) = (issue("writer", "records", "30")?, issue("reader", "read", "30")?);
    let (uploads, withdrawals) = (issue("uploader", "uploads", "30")?, issue("withdrawer", "withdrawals", "30")?);
    let path = format!("/v1/records/{}", DataId::new(PROVIDER_NAME, "json-1")?);
    let status = async |key: &str, method: Method, path: &str| {
        let request = bench.request(key, method, path).header("x-batch-id", "scopes").body("[]");
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap_or_default()["type"].clone())
    };
    let doors = [
        (&records, Method::POST, format!("{TRACE}/records:batch"), 400),
        (&records, Method::PUT, format!("{TRACE}/provider-policy"), 400),
        (&uploads, Method::POST, "/v1/submissions".to_owned(), 415),
        (&withdrawals, Method::POST, "/v1/withdrawals".to_owned(), 400),
        (&read, Method::GET, path.clone(), 200),
        (&read, Method::GET, "/v1/batches".to_owned(), 200),
    ];
    for (own, method, path, past) in &doors {
        assert_eq!(status(own, method.clone(), path).await.0, *past, "{path}");
        for key in [&records, &read, &uploads, &withdrawals].into_iter().filter(|key| key != own) {
            let scope_missing = (403, json!("urn:tidemark:problem:scope-missing"));
            assert_eq!(status(key, method.clone(), path).await, scope_missing, "{path}");
        }
    }

    // what is stored is no key, and a use is noted once a minute
    let stored = bench.sql("SELECT key_hash, last_used_at::text FROM api_key WHERE name = 'reader'").await;
    assert_eq!(stored[0].get::<Vec<u8>, _>(0), sha256(&[read.as_bytes()]).to_vec());
    let used: String = stored[0].get(1);
    assert_eq!(status(&read, Method::GET, &path).await.0, 200);
    let again = bench.sql("SELECT last_used_at::text FROM api_key WHERE name = 'reader'").await;
    assert_eq!(again[0].get::<String, _>(0), used);
    bench.sql("UPDATE api_key SET last_used_at = now() - interval '61 s' WHERE name = 'reader'").await;
    assert_eq!(status(&read, Method::GET, &path).await.0, 200);
    let later = "SELECT count(*) FROM api_key WHERE name = 'reader' AND last_used_at > now() - interval '30 s'";
    assert_eq!(bench.count(later).await, 1);

    // the end
    let unknown = (401, json!("urn:tidemark:problem:api-key-unknown"));
    bench.sql("UPDATE api_key SET expires_at = now() - interval '1 s' WHERE name = 'reader'").await;
    assert_eq!(status(&read, Method::GET, &path).await, unknown);
    assert!(
        bench
            .fails(&["key", "issue", "--provider", PROVIDER_NAME, "--name", "writer", "--scope", "read"])
            .contains("exists already")
    );
    assert!(bench.fails(&["key", "issue", "--provider", "nobody", "--scope", "read"]).contains("let in"));
    assert!(bench.fails(&["key", "issue", "--provider", PROVIDER_NAME, "--scope", "all"]).contains("invalid value"));
    assert!(bench.fails(&["key", "issue", "--provider", PROVIDER_NAME]).contains("--scope"));
    let long = "x".repeat(65);
    assert!(
        bench
            .fails(&["key", "issue", "--provider", PROVIDER_NAME, "--name", &long, "--scope", "read"])
            .contains("1 to 64 bytes")
    );
    assert_eq!(bench.run(&["key", "revoke", "--provider", PROVIDER_NAME, "--name", "writer"])?, "revoked");
    assert!(bench.fails(&["key", "revoke", "--provider", PROVIDER_NAME, "--name", "writer"]).contains("no such key"));
    assert_eq!(status(&records, Method::POST, &format!("{TRACE}/records:batch")).await, unknown);
    let next = issue("writer", "records,read", "30")?;
    assert_eq!(status(&next, Method::GET, &path).await.0, 200, "the name is free again, and the others go on");
    assert_eq!(bench.run(&["key", "revoke", "--key", &uploads])?, "revoked");
    let listed = bench.run(&["key", "list", "--provider", PROVIDER_NAME])?;
    for (name, scopes, state) in [
        ("reader", "read", "expired"),
        ("uploader", "uploads", "revoked"),
        ("withdrawer", "withdrawals", "live"),
        ("writer", "records,read", "live"),
    ] {
        let line = listed.lines().find(|line| line.starts_with(&format!("{name}\t{scopes}\t"))).expect(name);
        assert!(line.contains("\texpires 20") && line.ends_with(state), "{line}");
    }
    assert!(!listed.contains("tmk_"), "{listed}");
    let many = "INSERT INTO api_key (key_hash, provider, name, scopes)
                SELECT decode(lpad(to_hex(n), 64, '0'), 'hex'), account, 'n-' || n, '{read}' FROM provider, generate_series(1, 100) n";
    bench.sql(many).await;
    assert!(
        bench.fails(&["key", "issue", "--provider", PROVIDER_NAME, "--scope", "read"]).contains("fewer than 100 keys")
    );
    bench.sql("DELETE FROM api_key WHERE name LIKE 'n-%'").await;
    Ok(())
}

// idempotency keys

async fn an_idempotency_key_gets_one_answer(bench: &mut Bench) -> Result<()> {
    let samples = repository_samples()?;
    let photo = samples.iter().find(|s| s.kind == Kind::Photo && matches!(s.expected, Expected::Accepted)).unwrap();
    let person = Contributor::group(1).remove(0);
    let meta = meta(&bench.world, photo, &person)?;
    let bytes = std::fs::read(&photo.path)?;
    let upload = async |bench: &Bench, key: &str, meta: &Value| {
        let file = reqwest::multipart::Part::bytes(bytes.clone()).file_name("file").mime_str(photo.mime).unwrap();
        let form = reqwest::multipart::Form::new().text("meta", meta.to_string()).part("file", file);
        let request = bench.request(&bench.world.api_key, Method::POST, "/v1/submissions").multipart(form);
        request.header("idempotency-key", key).send().await.unwrap()
    };
    let first = upload(bench, "\"upload-1\"", &meta).await;
    assert_eq!((first.status().as_u16(), first.headers().get("idempotency-replayed")), (201, None));
    let first: Value = first.json().await?;
    let again = upload(bench, "upload-1", &meta).await;
    assert_eq!((again.status().as_u16(), &again.headers()["idempotency-replayed"]), (201, &"true".parse()?));
    assert_eq!(again.json::<Value>().await?, first, "other boundaries, quotes or none: the same request");
    let mut other = meta.clone();
    other["source_record_id"] = json!("another");
    refused(upload(bench, "upload-1", &other).await, 422, "idempotency-key-reused", "Idempotency-Key").await;
    refused(upload(bench, "\"", &meta).await, 400, "header-invalid", "Idempotency-Key").await;
    let fresh = upload(bench, "upload-2", &meta).await;
    assert_eq!(
        (fresh.status().as_u16(), fresh.headers().get("idempotency-replayed")),
        (200, None),
        "another key does the work"
    );

    let consent: tidemark::consent::SignedConsent = serde_json::from_value(meta["consent"].clone())?;
    let domain = bench.world.deployment.consent_domain();
    let id = consent.id(&domain);
    let signature = |signer: &Contributor| {
        let signature = signer.key.sign_hash_sync(&withdrawal_digest(&domain, id)).unwrap();
        json!({"consent_id": id, "signature": format!("0x{}", hex::encode(signature.as_bytes()))})
    };
    let withdraw = async |bench: &Bench, key: &str, body: &Value| {
        let request = bench.request(&bench.world.api_key, Method::POST, "/v1/withdrawals").body(body.to_string());
        request.header("idempotency-key", key).send().await.unwrap()
    };
    let (good, bad) = (signature(&person), signature(&Contributor::group(1)[0]));

    // a failure keeps nothing: the key may be used again, even for another body
    refused(withdraw(bench, "w-1", &bad).await, 422, "signature-invalid", "signature").await;
    assert_eq!(bench.count("SELECT count(*) FROM idempotency WHERE key = 'w-1'").await, 0);

    // under way: as another process of ours would hold it
    let mut database = bench.stack.postgres.connect("relayer").await?;
    let hold = "INSERT INTO idempotency (provider, key, fingerprint, holder) VALUES ($1, 'w-1', $2, gen_random_uuid())";
    let fingerprint = sha256(&[b"withdrawal", good.to_string().as_bytes()]);
    sqlx::query(hold).bind(bench.world.provider.0.0).bind(fingerprint.0).execute(&mut database).await?;
    refused(withdraw(bench, "w-1", &good).await, 409, "idempotency-key-busy", "Idempotency-Key").await;
    refused(withdraw(bench, "w-1", &bad).await, 422, "idempotency-key-reused", "Idempotency-Key").await;
    // its process was killed: once nobody can be at work, the next one is
    bench.sql("UPDATE idempotency SET started_at = now() - interval '10 minutes' WHERE key = 'w-1'").await;
    let taken = withdraw(bench, "w-1", &good).await;
    assert_eq!((taken.status().as_u16(), taken.headers().get("idempotency-replayed")), (202, None));
    let answer: Value = taken.json().await?;
    assert_eq!(answer["records"], json!([first["data_id"]]));
    let again = withdraw(bench, "w-1", &good).await;
    assert_eq!((again.status().as_u16(), &again.headers()["idempotency-replayed"]), (202, &"true".parse()?));
    assert_eq!(again.json::<Value>().await?, answer);

    // of many at once each hears the one answer, or that it is under way
    let tries = (0..8).map(|_| withdraw(bench, "w-2", &good));
    let mut answered = 0;
    for answer in futures::future::join_all(tries).await {
        match answer.status().as_u16() {
            202 => answered += 1,
            _ => drop(refused(answer, 409, "idempotency-key-busy", "Idempotency-Key").await),
        }
    }
    assert!(answered >= 1);

    // too old to be kept: not replayed, and deleted
    bench.sql("UPDATE idempotency SET started_at = now() - interval '25 hours'").await;
    let anew = withdraw(bench, "w-1", &good).await;
    assert_eq!((anew.status().as_u16(), anew.headers().get("idempotency-replayed")), (202, None));
    bench.stack.relayer.as_mut().unwrap().restart().await?;
    for _ in 0..100 {
        if bench.count("SELECT count(*) FROM idempotency").await == 1 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("old answers are still there");
}

// rates

async fn a_provider_asks_as_often_as_its_bucket_allows(bench: &mut Bench) -> Result<()> {
    let mut wiring = bench.relayer().wiring().clone();
    bench.stack.relayer.take();
    let port = free_port()?;
    wiring.port = port;
    wiring.environment.retain(|(name, _)| !["TIDEMARK_REQUESTS_PER_MINUTE", "TIDEMARK_RELAYER_LISTEN"].contains(name));
    wiring.environment.extend([
        ("TIDEMARK_REQUESTS_PER_MINUTE", "12".into()),
        ("TIDEMARK_REQUESTS_AT_ONCE", "3".into()),
        ("TIDEMARK_RELAYER_LISTEN", format!("127.0.0.1:{port}")),
    ]);
    bench.stack.relayer = Some(Service::start(&bench.stack.folder, wiring).await?);
    let other_key = bench.run(&["key", "issue", "--provider", PROVIDER_NAME, "--scope", "read"])?;
    let ask = async |key: &str| bench.request(key, Method::GET, "/v1/batches").send().await.unwrap();

    for left in [2, 1, 0] {
        let answer = ask(&bench.world.api_key).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["ratelimit-policy"], r#""provider";q=3;w=15"#);
        let limit = answer.headers()["ratelimit"].to_str()?.to_owned();
        assert!(limit.starts_with(&format!(r#""provider";r={left};t="#)), "{limit}");
    }
    let answer = ask(&other_key).await;
    let wait: u64 = answer.headers()["retry-after"].to_str()?.parse()?;
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(answer.headers()["ratelimit"], format!(r#""provider";r=0;t={wait}"#));
    refused(answer, 429, "rate-limited", "").await;
    let unknown = ask("tmk_unknown").await;
    assert!(unknown.headers().get("ratelimit").is_none());
    refused(unknown, 401, "api-key-unknown", "").await;
    assert_eq!(bench.relayer().get("/health").await?.0, 200, "what needs no key has no bucket");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(ask(&other_key).await.status(), 200);
    Ok(())
}
