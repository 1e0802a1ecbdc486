//! Trace's read side: what came in through the relayer's Trace door is found by every field, counted, listed and grouped;
//! what is erased is in none of it; and what nobody should send does no harm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::PgPool;
use tidemark::ids::{ContentHash, DataId};
use tidemark_tests::{
    Options, Stack,
    services::Service,
    stack::PROVIDER_NAME,
    story::{
        doors::{Doors, kept_metadata, metadata_update, registration},
        strangers,
        world::World,
    },
    write_side::another_provider,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const API: &str = "/api/v1/data-audit";
const TIME_MAX: Duration = Duration::from_secs(60);

struct Bench {
    stack: Stack,
    world: World,
    doors: Doors,
}

impl Bench {
    fn indexer(&self) -> &Service {
        self.stack.indexer.as_ref().unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.indexer().get(&format!("{API}{path}")).await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body["at"]["block_hash"].is_string() && body["at"]["final"] == true, "{path}: {body}");
        body
    }

    async fn search(&self, field: &str, value: &str, more: &str) -> Vec<String> {
        let query = form(&[("field", field), ("value", value)]);
        sources(&self.get(&format!("/search?{query}{more}")).await)
    }

    /// All pages of a list, with pages of this size.
    async fn pages(&self, path: &str, limit: usize) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}limit={limit}{cursor}")).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit && page["count"] == items.len());
            all.extend(items.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    async fn send(&self, method: Method, path: &str, key: Option<&str>, body: impl Into<reqwest::Body>) -> Response {
        let mut request =
            reqwest::Client::new().request(method, format!("{}{API}{path}", self.indexer().url())).body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.send().await.unwrap()
    }

    async fn ask(&self, key: Option<&str>, body: &Value) -> Response {
        // 60 a minute are taken from an address, and that is another test's matter
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.send(Method::POST, "/scoped-groups", key, body.to_string()).await
    }

    async fn computed(&self, id: &str) -> Value {
        let path = format!("{API}/scoped-groups/{id}");
        let done = |_, body: &Value| ["complete", "failed"].iter().any(|status| body["profile"]["status"] == *status);
        self.indexer().until(&path, done).await.unwrap()
    }

    async fn group(&self, body: &Value) -> Value {
        let answer = self.ask(None, body).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 202, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["at"]["block_number"].is_u64() && answer["summary"].is_null(), "{answer}");
        self.computed(answer["group_id"].as_str().unwrap()).await
    }

    async fn database(&self) -> PgPool {
        PgPool::connect(&self.stack.postgres.url("indexer")).await.unwrap()
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database().await).await.unwrap()
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    reqwest::Url::parse_with_params("http://a/", pairs).unwrap().query().unwrap().to_owned()
}

fn sources(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["source_record_id"].as_str().unwrap().to_owned()).collect()
}

/// A refusal as RFC 9457 wants it, of this status, type and field.
async fn refused(answer: Response, status: u16, slug: &str, field: &str) -> Value {
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let (actual, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!((actual.as_u16(), kind.as_str()), (status, "application/problem+json"), "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["type"], format!("urn:tidemark:problem:{slug}"), "{text}");
    assert_eq!(problem["field"], field, "{text}");
    problem
}

fn hash_of(id: &str) -> ContentHash {
    ContentHash::of(id.as_bytes())
}

/// A record that has every searchable field.
fn rich(id: &str, policy: &str) -> Value {
    json!({
        "schema_version": "trace-v1.0",
        "file": {"content_sha256": hash_of(id).prefixed(), "mime_type": "Image/PNG", "media_category": "Image",
                 "size_bytes": 1_000},
        "contributor": {
            "anon_id": "Anon-R", "kyc_status": "pending", "kyc_country": "us", "geo_region": "US",
            "tax_status": "submitted", "account_verification_status": "verified",
            "consent": {"tos_version": "v2", "tos_hash": policy, "privacy_policy_version": "=1+1",
                        "privacy_policy_hash": policy},
        },
        "asset": {"collection_id": "Col-A", "customer_id": "Cust-A"},
        "provider_payload": {"task_id": 42, "media_id_public": id},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_through_trace_s_door_is_read_back_and_what_is_erased_is_nowhere() -> Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    let mut bench = Bench { stack, world, doors };
    let policy = ContentHash(bench.world.policy_hash).prefixed();

    // four records of one provider in two batches, an update, and a record of another provider
    let plain = |id: &str| kept_metadata(id, hash_of(id), 0);
    let items = [registration("Plain-1", &plain("Plain-1"))?, registration("=Rich-1", &rich("=Rich-1", &policy))?];
    bench.doors.register("first", &items).await?;
    let numo = |id: &str| DataId::new(PROVIDER_NAME, id).unwrap();
    let listed = |count: usize| {
        move |status: u16, body: &Value| {
            status == 200 && body["items"].as_array().is_some_and(|items| items.len() == count)
        }
    };
    bench.indexer().until(&format!("{API}/feed?provider={PROVIDER_NAME}"), listed(2)).await?;
    // the same bytes twice: nothing is wrong with that
    let mut twin = plain("Twin-1");
    twin["file"]["content_sha256"] = json!(hash_of("Plain-1").prefixed());
    let items = [registration("Twin-1", &twin)?, registration("Plain-2", &plain("Plain-2"))?];
    bench.doors.register("second", &items).await?;
    let mut verified = plain("Plain-2");
    verified["contributor"]["kyc_status"] = json!("Failed");
    bench.doors.update("update", &[metadata_update(numo("Plain-2"), 1, &plain("Plain-2"), &verified)?]).await?;
    let other = another_provider(&bench.stack, &bench.world, "oto", bench.stack.relayer.as_ref().unwrap()).await?;
    other.register(0, 1).await?;
    bench.indexer().until(&format!("{API}/feed"), listed(6)).await?;

    every_field_finds_its_records(&bench, &policy).await;
    lists_are_newest_first_and_their_pages_fit_together(&bench).await;
    counts_are_of_the_newest_state(&bench, &policy).await;
    policies_are_what_chain_and_records_say(&bench, &policy).await;
    let group = groups_are_all_or_nothing_and_keep_what_they_found(&bench).await;
    uploads_are_filled_once_by_who_has_the_address(&bench).await;
    nothing_hostile_does_harm(&bench).await;
    a_group_survives_the_death_of_its_process(&mut bench).await?;
    strangers::second_indexer(&bench.stack, "indexer").await?;
    records_from_before_the_tables_are_taken_in(&mut bench).await?;
    an_erased_record_is_nowhere(&bench, &group).await?;
    // one that starts after the erasure has the same rows
    sqlx::query("DROP DATABASE indexer_second WITH (FORCE)").execute(&bench.database().await).await?;
    strangers::second_indexer(&bench.stack, "indexer").await?;
    an_address_has_sixty_requests_a_minute(&bench).await;
    Ok(())
}

async fn every_field_finds_its_records(bench: &Bench, policy: &str) {
    let rich = ["=Rich-1"];
    let (hex, bare) = (hash_of("=Rich-1").prefixed(), policy.trim_start_matches("sha256:").to_uppercase());
    for (field, value) in [
        ("source_record_id", " =Rich-1"),
        ("media_id_public", "=Rich-1"),
        ("file.content_sha256", hex.as_str()),
        ("asset.hash", &hex[7..]),
        ("content_hash", &format!("0x1220{}", &hex[7..])),
        ("file.hashes.sha256", &format!("0x{}", hex[7..].to_uppercase())),
        ("file.mime_type", "image/png"),
        ("mimetype", "IMAGE/png"),
        ("file.media_category", "image"),
        ("asset.collection_id", "Col-A"),
        ("asset.customer_id", "Cust-A"),
        ("task_id", "42"),
        ("contributor.anon_id", "Anon-R"),
        ("contributor.kyc_status", "PENDING"),
        ("contributor.kyc_country", "US"),
        ("geo_region", "us"),
        ("contributor.consent.tos_hash", &format!("0x{bare}")),
        ("contributor.consent.privacy_policy_hash", policy),
    ] {
        assert_eq!(bench.search(field, value, "").await, rich, "{field}={value}");
        assert_eq!(bench.search(field, value, "&provider=numo").await, rich, "{field}={value}");
        assert!(bench.search(field, value, "&provider=oto").await.is_empty(), "{field}={value}");
    }
    // letters count in ids, and only there; what was true before an update is not
    for (field, value) in [
        ("source_record_id", "=rich-1"),
        ("contributor.anon_id", "anon-r"),
        ("asset.collection_id", "col-a"),
        ("asset.customer_id", "CUST-A"),
        ("file.mime_type", "image/pn"),
        ("file.mime_type", "image/%"),
        ("contributor.kyc_status", "unverified"),
    ] {
        assert!(bench.search(field, value, "").await.is_empty(), "{field}={value}");
    }
    assert_eq!(bench.search("kyc_status", "failed", "").await, ["Plain-2"]);
    assert_eq!(bench.search("kyc_status", "verified", "&provider=numo").await, ["Twin-1", "Plain-1"]);
    let account = bench.world.provider.to_string();
    assert_eq!(bench.search("kyc_status", "verified", &format!("&provider={account}")).await.len(), 2);
    let found = bench.get("/search?field=mimetype&value=IMAGE/png&limit=1000000").await;
    assert_eq!((&found["field"], &found["value"]), (&json!("file.mime_type"), &json!("image/png")));
    let receipt = &found["items"][0];
    assert_eq!(receipt["data_id"], DataId::new(PROVIDER_NAME, "=Rich-1").unwrap().to_string());
    assert_eq!((&receipt["event_type"], &receipt["seq"]), (&json!("DataRegistered"), &json!(0)));
    assert_eq!((&receipt["asset_hash"], &receipt["provider"]), (&json!(hex), &json!(PROVIDER_NAME)));
    assert!(receipt["tx_hash"].as_str().unwrap().len() == 66 && receipt["state"] == "final", "{receipt}");
    let profile = bench.get(&format!("/data-ids/{}", receipt["data_id"].as_str().unwrap())).await;
    assert_eq!(profile["latest_event"]["event_hash"], receipt["event_hash"]);
}

async fn lists_are_newest_first_and_their_pages_fit_together(bench: &Bench) {
    let feed = bench.get("/feed").await;
    let of = |item: &Value| format!("{} {}", item["source_record_id"].as_str().unwrap(), item["seq"]);
    let all: Vec<String> = feed["items"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(all.len(), 6);
    let at = |wanted: &str| all.iter().position(|item| item == wanted).unwrap_or_else(|| panic!("{wanted}: {all:?}"));
    assert!(at("Plain-2 1") < at("Plain-2 0") && at("Plain-2 0") < at("Twin-1 0"));
    assert!(at("Twin-1 0") < at("=Rich-1 0") && at("=Rich-1 0") < at("Plain-1 0"), "{all:?}");
    for limit in [1, 2, 5, 6, 100] {
        assert_eq!(bench.pages("/feed?", limit).await.iter().map(of).collect::<Vec<_>>(), all, "{limit}");
        let recent: Vec<String> = bench.pages("/recent?", limit).await.iter().map(of).collect();
        assert_eq!(recent, all.iter().filter(|item| *item != "Plain-2 1").cloned().collect::<Vec<_>>(), "{limit}");
        let found = bench.pages("/search?field=asset.collection_id&value=demo&", limit).await;
        assert_eq!(found.len(), 4, "{limit}");
    }
    assert_eq!(bench.pages("/feed?provider=oto&", 1).await.len(), 1);
    let hash = hash_of("Plain-1").prefixed();
    for form in [hash.clone(), hash[7..].to_owned(), format!("0x{}", &hash[7..]), format!("0x1220{}", &hash[7..])] {
        let found = bench.get(&format!("/assets/{form}")).await;
        assert_eq!((sources(&found), &found["asset_hash"]), (vec!["Twin-1".into(), "Plain-1".into()], &json!(hash)));
    }
    assert_eq!(bench.pages(&format!("/assets/{hash}?"), 1).await.len(), 2);
    assert!(sources(&bench.get(&format!("/assets/{}", hash_of("nothing").prefixed())).await).is_empty());
}

async fn counts_are_of_the_newest_state(bench: &Bench, policy: &str) {
    let all = bench.get("/stats").await;
    assert_eq!((&all["total_records"], &all["total_contributors"]), (&json!(5), &json!(5)), "{all}");
    assert_eq!(
        (&all["provider"], &all["provider_records"], &all["shard_count"]),
        (&json!(null), &json!(null), &json!(0))
    );
    assert_eq!(all["kyc_status"], json!({"verified": 3, "failed": 1, "pending": 1}));
    assert_eq!(all["mime_distribution"], json!({"video/mp4": 4, "image/png": 1}));
    assert_eq!((&all["size_record_count"], &all["total_size_bytes"]), (&json!(5), &json!(4 * 1_048_576 + 1_000)));
    assert_eq!(all["average_size_bytes"], json!((4 * 1_048_576 + 1_000) / 5));
    let one = bench.get("/stats?provider=numo").await;
    assert_eq!((&one["total_records"], &one["provider_records"]), (&json!(5), &json!(4)), "{one}");
    assert_eq!((&one["provider"], &one["provider_contributors"]), (&json!("numo"), &json!(4)));
    for (name, expected) in [
        ("kyc_status", json!({"verified": 2, "failed": 1, "pending": 1})),
        ("account_verification", json!({"verified": 1})),
        ("tax_status", json!({"submitted": 1})),
        ("tos_versions", json!({"v2": 1})),
        ("privacy_policy_versions", json!({"=1+1": 1})),
        ("media_category_coverage", json!({"video": 3, "image": 1})),
        ("geo_distribution", json!({"US": 1})),
        ("truncated_distributions", json!([])),
        ("active_tos_version", json!("1")),
        ("active_tos_hash", json!(policy)),
        ("active_privacy_policy_uri", json!("https://example.invalid/policy-1.txt")),
    ] {
        assert_eq!(one[name], expected, "{name}");
    }
    let other = bench.get("/stats?provider=oto").await;
    assert_eq!((&other["provider_records"], &other["active_tos_hash"]), (&json!(1), &json!(null)));
}

async fn policies_are_what_chain_and_records_say(bench: &Bench, policy: &str) {
    let current = bench.get("/providers/numo/policy").await;
    assert_eq!((&current["tos"]["hash"], &current["privacy_policy"]["version"]), (&json!(policy), &json!("1")));
    assert_eq!(current["policies"][0]["kinds"], json!(["tos", "privacy_policy"]));
    let none = bench.get("/providers/oto/policy").await;
    assert_eq!((&none["tos"], &none["policies"]), (&json!(null), &json!([])));
    let bare = policy.trim_start_matches("sha256:");
    for kind in ["tos", "privacy_policy"] {
        let one = bench.get(&format!("/providers/numo/policies/{kind}/0x{bare}")).await;
        assert_eq!((&one["hash"], &one["version"]), (&json!(policy), &json!("1")));
        assert!(one["published_at"].is_string() && one["tx_hash"].is_string(), "{one}");
    }
    for (path, status, field) in [
        (format!("/providers/oto/policies/tos/{policy}"), 404, "hash"),
        (format!("/providers/nobody/policies/tos/{policy}"), 404, "provider"),
        ("/providers/numo/policies/tos/12".to_owned(), 400, "hash"),
        (format!("/providers/numo/policies/tos/{}", hash_of("other").prefixed()), 404, "hash"),
    ] {
        let slug = if status == 404 { "not-found" } else { "field-invalid" };
        refused(bench.send(Method::GET, &path, None, "").await, status, slug, field).await;
    }
}

async fn groups_are_all_or_nothing_and_keep_what_they_found(bench: &Bench) -> String {
    // refusals
    let ids = |ids: &[&str]| json!({"provider": "numo", "source_record_ids": ids});
    let first = "source_record_ids[0]";
    refused(bench.ask(None, &ids(&["Plain-1", "Plain-1"])).await, 400, "field-invalid", "source_record_ids[1]").await;
    refused(bench.ask(None, &ids(&["Plain-1", "nothing"])).await, 404, "not-found", "source_record_ids[1]").await;
    let wrong = json!({"provider": "oto", "source_record_ids": ["Plain-1"]});
    refused(bench.ask(None, &wrong).await, 409, "record-mismatch", first).await;
    let nobody = json!({"provider": "nobody", "source_record_ids": ["Plain-1"]});
    refused(bench.ask(None, &nobody).await, 404, "not-found", first).await;
    let both = json!({"source_record_ids": ["Plain-1"], "hashes": []});
    refused(bench.ask(None, &both).await, 400, "field-invalid", "hashes").await;
    let many: Vec<String> = (0..10_001).map(|at| at.to_string()).collect();
    refused(bench.ask(None, &json!({"source_record_ids": many})).await, 400, "field-invalid", "items").await;
    let large = json!({"hashes_text": " ".repeat(5 << 20)});
    refused(bench.ask(None, &large).await, 413, "body-too-large", "body").await;
    for missing in ["", "/items", "/export.csv"] {
        for id in ["sg_00000000000000000000000000000000", "sg_x", "'; DROP TABLE record; --"] {
            let path = format!("/scoped-groups/{id}{missing}");
            refused(bench.send(Method::GET, &path, None, "").await, 404, "not-found", "group_id").await;
        }
    }
    assert_eq!(bench.count("SELECT count(*) FROM local.scoped_group").await, 0, "of a refused request nothing is kept");

    // records
    let asked = json!({"title": "Review", "source_record_ids_text": "=Rich-1\nPlain-2\noto-0\n"});
    let group = bench.group(&asked).await;
    let (profile, summary) = (&group["profile"], &group["summary"]);
    assert_eq!(
        (&profile["status"], &profile["manifest_kind"]),
        (&json!("complete"), &json!("source_record")),
        "{group}"
    );
    assert_eq!((&profile["submitted_items"], &profile["title"]), (&json!(3), &json!("Review")));
    assert!(profile["computed_at_block"].is_u64() && profile["computed_at_block_hash"].is_string());
    for (name, expected) in [
        ("records_in_set", json!(3)),
        ("matched_items", json!(3)),
        ("missing_items", json!(0)),
        ("kyc_verified_percent", json!(33.33)),
        ("distinct_media_categories", json!(2)),
        ("total_size_bytes", json!(2 * 1_048_576 + 1_000)),
        ("source_distribution", json!({"numo": 2, "oto": 1})),
        ("kyc_status", json!({"pending": 1, "failed": 1, "verified": 1})),
        ("lifecycle_status", json!({"registered": 3})),
        ("tos_versions", json!({"v2": 1})),
    ] {
        assert_eq!(summary[name], expected, "{name}");
    }
    assert_eq!(summary["metadata_presence"]["geo_region"], 1);
    let id = group["group_id"].as_str().unwrap().to_owned();
    let rows = bench.pages(&format!("/scoped-groups/{id}/items?"), 2).await;
    assert_eq!(
        rows.iter().map(|row| row["input"].as_str().unwrap()).collect::<Vec<_>>(),
        ["=Rich-1", "Plain-2", "oto-0"]
    );
    let export = bench.send(Method::GET, &format!("/scoped-groups/{id}/export.csv"), None, "").await;
    assert_eq!(export.headers()["content-type"], "text/csv; charset=utf-8; header=present");
    assert_eq!(export.headers()["tidemark-block-number"], profile["computed_at_block"].to_string().as_str());
    let file = export.text().await.unwrap();
    let lines: Vec<&str> = file.lines().collect();
    let names = "input_type,provider,source_record_id,data_id,asset_hash,status,mime_type,media_category,kyc_status,\
                 tos_version,privacy_policy_version,tx_hash";
    assert_eq!((lines.len(), lines[0]), (4, names));
    let row = format!(
        "source_record,numo,'=Rich-1,{},{},matched,image/png,image,pending,v2,'=1+1,0x",
        rows[0]["data_id"].as_str().unwrap(),
        hash_of("=Rich-1").prefixed()
    );
    assert!(lines[1].starts_with(&row), "{file}");

    // hashes: missing ones are rows, too
    let (known, unknown) = (hash_of("Plain-1").prefixed(), hash_of("nothing").prefixed());
    let hashes = bench.group(&json!({"hashes": [unknown, known, known]})).await;
    let summary = &hashes["summary"];
    for (name, expected) in [
        ("submitted_items", 3),
        ("unique_items", 2),
        ("matched_items", 1),
        ("missing_items", 1),
        ("matched_receipts", 2),
        ("records_in_set", 2),
    ] {
        assert_eq!(summary[name], expected, "{name}: {summary}");
    }
    let rows = bench.pages(&format!("/scoped-groups/{}/items?", hashes["group_id"].as_str().unwrap()), 100).await;
    let seen: Vec<_> =
        rows.iter().map(|row| (row["status"].as_str().unwrap(), row["source_record_id"].as_str())).collect();
    assert_eq!(seen, [("missing", None), ("matched", Some("Plain-1")), ("matched", Some("Twin-1"))]);

    // the same key and body are the same group, whatever is sent at once
    let asked = json!({"hashes": [known]});
    let (one, two) = tokio::join!(bench.ask(Some("key-1"), &asked), bench.ask(Some("\"key-1\""), &asked));
    let (one, two): (Value, Value) = (one.json().await.unwrap(), two.json().await.unwrap());
    assert_eq!(one["group_id"], two["group_id"]);
    let again = bench.ask(Some("key-1"), &asked).await;
    assert_eq!((again.status().as_u16(), &again.headers()["idempotency-replayed"]), (202, &"true".parse().unwrap()));
    let other = bench.ask(Some("key-1"), &json!({"hashes": [unknown]})).await;
    refused(other, 422, "idempotency-key-reused", "Idempotency-Key").await;
    refused(bench.ask(Some("a b"), &asked).await, 400, "field-invalid", "Idempotency-Key").await;
    id
}

async fn uploads_are_filled_once_by_who_has_the_address(bench: &Bench) {
    let offer = async |format: &str| {
        let body = json!({"format": format}).to_string();
        bench.send(Method::POST, "/scoped-groups/uploads", None, body).await
    };
    refused(offer("exe").await, 400, "field-invalid", "format").await;
    let ticket: Value = offer("csv").await.json().await.unwrap();
    let (id, url) = (ticket["upload_id"].as_str().unwrap(), ticket["upload_url"].as_str().unwrap());
    assert!(url.starts_with(bench.indexer().url()) && url.len() > 64, "{ticket}");
    let put = async |url: &str, body: Vec<u8>| reqwest::Client::new().put(url).body(body).send().await.unwrap();
    let file = b"provider,source_record_id\nnumo,Plain-1\noto,oto-0\n".to_vec();
    refused(bench.ask(None, &json!({"upload_id": id})).await, 409, "upload-empty", "upload_id").await;
    refused(put(&url[..url.len() - 1], file.clone()).await, 404, "not-found", "upload_id").await;
    refused(put(url.split_once('?').unwrap().0, file.clone()).await, 404, "not-found", "upload_id").await;
    refused(put(url, b"source_record_id\na\na\n".to_vec()).await, 400, "field-invalid", "upload line 3").await;
    refused(put(url, vec![b'a'; (5 << 20) + 1]).await, 413, "body-too-large", "body").await;
    for _ in 0..2 {
        let filled: Value = put(url, file.clone()).await.json().await.unwrap();
        assert_eq!((&filled["items"], &filled["manifest_kind"]), (&json!(2), &json!("source_record")), "{filled}");
    }
    refused(put(url, b"source_record_id\na\n".to_vec()).await, 409, "upload-filled", "body").await;
    // one record by two names of its provider
    let twice: Value = offer("csv").await.json().await.unwrap();
    let account = bench.world.provider;
    let body = format!("provider,source_record_id\nnumo,Plain-1\n{account},Plain-1\n").into_bytes();
    assert_eq!(put(twice["upload_url"].as_str().unwrap(), body).await.status(), 200);
    let answer = bench.ask(None, &json!({"upload_id": twice["upload_id"]})).await;
    refused(answer, 400, "field-invalid", "upload line 3").await;
    let group = bench.group(&json!({"upload_id": id})).await;
    assert_eq!(group["summary"]["source_distribution"], json!({"numo": 1, "oto": 1}), "{group}");
    refused(bench.ask(None, &json!({"upload_id": id})).await, 404, "not-found", "upload_id").await;
    // what made a group is gone; what was refused waits for its end
    assert_eq!(bench.count("SELECT count(*) FROM local.scoped_upload").await, 1);
}

/// What comes back for a cursor of a megabyte, which no HTTP client would send; nothing where the connection is closed.
async fn megabyte(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {API}/feed?cursor={} HTTP/1.1\r\nhost: a\r\n\r\n", "30".repeat(1 << 19));
    // whoever is not listened to any more can't write
    drop(stream.write_all(request.as_bytes()).await);
    let mut answer = [0u8; 256];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned()
}

async fn nothing_hostile_does_harm(bench: &Bench) {
    let before = bench.count("SELECT count(*) FROM trace_record").await;
    let long = "a".repeat(30_000);
    let texts = ["'; DROP TABLE trace_record; --", "\" OR 1=1 --", "a\0b", "%", "\u{202e}é", "$1", "", &long];
    for text in texts {
        for path in [
            format!("/search?{}", form(&[("field", text), ("value", "x")])),
            format!("/search?{}", form(&[("field", "contributor.anon_id"), ("value", text)])),
            format!("/search?{}", form(&[("field", "content_hash"), ("value", text)])),
            format!("/search?{}", form(&[("field", "source_record_id"), ("value", text)])),
            format!("/search?{}", form(&[("field", "mime_type"), ("value", "x"), ("provider", text)])),
            format!("/search?{}", form(&[("field", "mime_type"), ("value", "x"), ("cursor", text)])),
            format!("/feed?{}", form(&[("limit", text)])),
            format!("/feed?{}", form(&[("cursor", text)])),
            format!("/recent?{}", form(&[("provider", text)])),
            format!("/stats?{}", form(&[("provider", text)])),
            format!("/assets/{}", form(&[("", text)]).trim_start_matches('=')),
            format!("/providers/{}/policy", form(&[("", text)]).trim_start_matches('=')),
            format!(
                "/scoped-groups/{}/items?{}",
                form(&[("", text)]).trim_start_matches('='),
                form(&[("cursor", text)])
            ),
        ] {
            let answer = bench.send(Method::GET, &path, None, "").await;
            let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
            let is_empty = status == 200
                && serde_json::from_str::<Value>(&body).unwrap()["items"].as_array().is_some_and(Vec::is_empty);
            let start: String = path.chars().take(80).collect();
            assert!([400, 404, 414, 431].contains(&status) || is_empty, "{start}: {status} {body}");
            assert!(body.len() < 4_000, "{start}: {} bytes come back", body.len());
        }
    }
    for (path, field) in [
        ("/feed?limit=0", "limit"),
        ("/feed?limit=-1", "limit"),
        ("/feed?cursor=00", "cursor"),
        ("/search?value=x", "field"),
        ("/search?field=file.hashes.phash64&value=x", "field"),
        ("/search?field=mime_type", "value"),
        ("/assets/sha256:12", "hash"),
    ] {
        refused(bench.send(Method::GET, path, None, "").await, 400, "field-invalid", field).await;
    }
    assert_eq!(bench.send(Method::GET, "/feed?limit=1&limit=2", None, "").await.status(), 400);
    assert_eq!(bench.send(Method::GET, "/assets/%ff", None, "").await.status(), 400);
    bench.get(&format!("/feed?limit={}", "9".repeat(1_000))).await;
    // a cursor of a megabyte is refused before anything of ours looks at it
    let answer = megabyte(bench.indexer().url().trim_start_matches("http://")).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(bench.count("SELECT count(*) FROM trace_record").await, before);
    bench.get("/stats").await;
}

async fn a_group_survives_the_death_of_its_process(bench: &mut Bench) -> Result<()> {
    // asked for on the row itself, so that the process dies for sure before it is computed
    let answer: Value =
        bench.ask(Some("dies"), &json!({"provider": "numo", "source_record_ids": ["Plain-1"]})).await.json().await?;
    let id = answer["group_id"].as_str().unwrap().to_owned();
    bench.computed(&id).await;
    bench.stack.indexer.as_mut().unwrap().kill();
    let database = bench.database().await;
    let data_id = DataId::new(PROVIDER_NAME, "Plain-1")?.to_string();
    sqlx::query("DELETE FROM local.scoped_item WHERE group_id = $1").bind(&id).execute(&database).await?;
    sqlx::query(
        "UPDATE local.scoped_group SET status = 'processing', computed_at = NULL, matched_items = NULL,
             matched_receipts = NULL, block_number = NULL, block_hash = NULL, input = $2 WHERE group_id = $1",
    )
    .bind(&id)
    .bind(json!([[bench.world.provider, data_id, "Plain-1"]]))
    .execute(&database)
    .await?;
    // what is older than a week goes when it starts, and so do uploads that nobody used
    let old = sqlx::query(
        "UPDATE local.scoped_group SET created_at = now() - interval '8 days' WHERE idempotency IS NOT NULL AND group_id <> $1",
    );
    assert_eq!(old.bind(&id).execute(&database).await?.rows_affected(), 1);
    sqlx::query(
        "INSERT INTO local.scoped_upload (upload_id, token_hash, format, expires_at)
         VALUES (gen_random_uuid(), sha256('x'), 'csv', now() - interval '1 second')",
    )
    .execute(&database)
    .await?;
    bench.stack.indexer.as_mut().unwrap().restart().await?;
    let group = bench.computed(&id).await;
    let old = "SELECT (SELECT count(*) FROM local.scoped_group WHERE created_at < now() - interval '7 days')
        + (SELECT count(*) FROM local.scoped_upload WHERE expires_at <= now())";
    assert_eq!(bench.count(old).await, 0);
    assert_eq!((&group["profile"]["status"], &group["summary"]["matched_receipts"]), (&json!("complete"), &json!(1)));
    Ok(())
}

async fn records_from_before_the_tables_are_taken_in(bench: &mut Bench) -> Result<()> {
    bench.stack.indexer.as_mut().unwrap().stop();
    let database = bench.database().await;
    let sums = async || -> Result<Vec<_>> { Ok(tidemark_indexer::checksum::checksums(&database).await?) };
    let before = sums().await?;
    let groups: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT group_id, position, t::text FROM local.scoped_item AS t").fetch_all(&database).await?;
    assert!(!groups.is_empty());
    for sql in [
        "CREATE TABLE kept_items AS SELECT * FROM local.scoped_item",
        // as if they had never been: nobody does that to tables that are served
        "ALTER TABLE trace_record DISABLE TRIGGER trace_record_is_not_truncated",
        "TRUNCATE trace_record, trace_update, trace_count, trace_total, local.scoped_item",
        "ALTER TABLE trace_record ENABLE TRIGGER trace_record_is_not_truncated",
        "INSERT INTO mirror.trace_fill SELECT provider, data_id FROM record WHERE source_record_id IS NOT NULL",
    ] {
        sqlx::query(sql).execute(&database).await?;
    }
    bench.stack.indexer.as_mut().unwrap().restart().await?;
    let deadline = Instant::now() + TIME_MAX;
    while bench.count("SELECT count(*) FROM mirror.trace_fill").await > 0 {
        assert!(Instant::now() < deadline, "the older records stay where they are");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for sql in ["INSERT INTO local.scoped_item SELECT * FROM kept_items", "DROP TABLE kept_items"] {
        sqlx::query(sql).execute(&database).await?;
    }
    let trace = |sums: Vec<tidemark_indexer::checksum::TableChecksum>| {
        sums.into_iter().filter(|table| table.table.starts_with("trace_")).collect::<Vec<_>>()
    };
    let (before, after) = (trace(before), trace(sums().await?));
    assert_eq!((before.len(), &before), (4, &after));
    Ok(())
}

async fn an_erased_record_is_nowhere(bench: &Bench, group: &str) -> Result<()> {
    let id = DataId::new(PROVIDER_NAME, "=Rich-1")?;
    let relayer = bench.stack.relayer.as_ref().unwrap().url();
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let request = reqwest::Client::new().post(format!("{relayer}/v1/records/{id}/erasure"));
        let status = request.header("x-api-key", &bench.world.api_key).send().await?.status();
        if status == 200 {
            break;
        }
        assert!(status == 202 && Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bench.indexer().until(&format!("{API}/data-ids/{id}"), |_, body| body["profile"]["status"] == "erased").await?;
    let policy = ContentHash(bench.world.policy_hash).prefixed();
    for (field, value) in [
        ("source_record_id", "=Rich-1"),
        ("content_hash", &hash_of("=Rich-1").prefixed()),
        ("mime_type", "image/png"),
        ("anon_id", "Anon-R"),
        ("tos_hash", &policy),
    ] {
        assert!(bench.search(field, value, "").await.is_empty(), "{field}");
    }
    for path in ["/feed", "/recent"] {
        assert!(!sources(&bench.get(path).await).contains(&"=Rich-1".to_owned()), "{path}");
    }
    assert!(sources(&bench.get(&format!("/assets/{}", hash_of("=Rich-1").prefixed())).await).is_empty());
    let stats = bench.get("/stats?provider=numo").await;
    assert_eq!((&stats["provider_records"], &stats["provider_contributors"]), (&json!(3), &json!(3)));
    assert_eq!((&stats["geo_distribution"], &stats["active_tos_hash"]), (&json!({}), &json!(null)));
    assert_eq!(stats["mime_distribution"], json!({"video/mp4": 3}));
    // a group that had it has it no more, and a new one can't
    let seen = bench.get(&format!("/scoped-groups/{group}")).await;
    assert_eq!((&seen["summary"]["records_in_set"], &seen["summary"]["erased_receipts"]), (&json!(2), &json!(1)));
    let file = bench.send(Method::GET, &format!("/scoped-groups/{group}/export.csv"), None, "").await.text().await?;
    assert!(!file.contains("Rich-1") && file.lines().count() == 3, "{file}");
    let again = json!({"provider": "numo", "source_record_ids": ["=Rich-1"]});
    refused(bench.ask(None, &again).await, 422, "record-without-asset", "source_record_ids[0]").await;
    for sql in [
        "SELECT count(*) FROM trace_record AS t WHERE t::text LIKE '%Rich-1%' OR t::text LIKE '%Anon-R%'",
        "SELECT count(*) FROM trace_count AS t WHERE t::text LIKE '%Anon-R%' OR records = 0",
        "SELECT count(*) FROM local.scoped_item AS t WHERE t::text LIKE '%Rich-1%'",
        "SELECT count(*) FROM local.scoped_group AS t WHERE t::text LIKE '%Rich-1%'",
    ] {
        assert_eq!(bench.count(sql).await, 0, "{sql}");
    }
    Ok(())
}

async fn an_address_has_sixty_requests_a_minute(bench: &Bench) {
    for _ in 0..=61 {
        let answer = bench.send(Method::POST, "/scoped-groups", None, "{").await;
        if answer.status() == 429 {
            let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=60).contains(&wait));
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], "urn:tidemark:problem:rate-limited");
            // readers are not held up
            bench.get("/stats").await;
            return;
        }
        assert_eq!(answer.status(), 400);
    }
    panic!("62 requests at once were taken");
}
