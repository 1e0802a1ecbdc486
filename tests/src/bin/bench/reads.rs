//! Every read endpoint, one request after the other, on whatever tables there are: an answer that reads a whole table shows.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::{PgConnection, Row};
use tidemark::ids::DataId;
use tidemark_tests::{progress::Progress, services::Service, stack::PROVIDER_NAME};

/// Requests of an endpoint: of as many different things, or as many pages of a list.
pub const REQUESTS: usize = 50;
/// Each is shorter, or something is wrong.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// The document's paths that are not asked, and why.
const LEFT_OUT: [&str; 12] = [
    // answers for as long as somebody listens
    "/v1/events",
    // for wallets that log in, groups and payouts, of which there are none here
    "/v1/me",
    "/v1/me/payments",
    "/v1/me/records",
    "/v1/me/royalties",
    "/v1/payouts/{payout_id}",
    "/api/v1/data-audit/scoped-groups/{group_id}",
    "/api/v1/data-audit/scoped-groups/{group_id}/export.csv",
    "/api/v1/data-audit/scoped-groups/{group_id}/items",
    // no dispute and no policy with a text is here
    "/v1/disputes/{id}",
    "/api/v1/data-audit/providers/{provider}/policies/tos/{hash}",
    "/api/v1/data-audit/providers/{provider}/policies/privacy_policy/{hash}",
];

/// One endpoint with what it is asked for.
struct Asked {
    /// As the document has it, with the names of its parameters.
    label: &'static str,
    paths: Vec<String>,
}

/// Asks all of them for these records, which are far apart, and prints how long each took.
pub async fn ask_all(
    indexer: &Service,
    db: &mut PgConnection,
    source_ids: Vec<String>,
    progress: &Progress,
) -> Result<()> {
    let asked = questions(db, source_ids).await?;
    let client = reqwest::Client::builder().timeout(ANSWER_TIME_MAX).build()?;
    let document: Value = client.get(format!("{}/openapi.json", indexer.url())).send().await?.json().await?;
    complete(&document, &asked)?;
    let bar = progress.bar("endpoints", asked.len().try_into()?);
    let mut lines = Vec::new();
    for Asked { label, paths } in &asked {
        let mut took = Vec::new();
        let mut bytes = 0;
        for path in paths {
            let mut cursor = String::new();
            // of lists, pages
            while took.len() < REQUESTS {
                let begun = Instant::now();
                let answer = client.get(format!("{}{path}{cursor}", indexer.url())).send().await?;
                let (status, body) = (answer.status(), answer.bytes().await?);
                took.push(begun.elapsed());
                ensure!(status.is_success(), "{path}{cursor}: {status}: {}", String::from_utf8_lossy(&body));
                bytes = bytes.max(body.len());
                // pages for people are none of JSON
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let Some(next) = body["next_cursor"].as_str() else { break };
                cursor = format!("{}cursor={next}", if path.contains('?') { '&' } else { '?' });
            }
        }
        took.sort_unstable();
        let median = took.get(took.len() / 2).with_context(|| format!("{label} was not asked"))?;
        let most = took.last().copied().unwrap_or_default();
        lines.push((most, *median, took.len(), bytes, *label));
        bar.advance();
    }
    bar.done("asked");
    lines.sort_unstable_by(|a, b| b.cmp(a));
    println!("\n| endpoint, slowest first | requests | ms: median, most | largest answer, bytes |\n|---|---|---|---|");
    for (most, median, requests, bytes, label) in lines {
        println!("| `{label}` | {requests} | {:.1}, {:.1} | {bytes} |", ms(median), ms(most));
    }
    Ok(())
}

fn ms(of: Duration) -> f64 {
    of.as_secs_f64() * 1e3
}

/// Fails where the document has an endpoint that is neither asked nor left out.
fn complete(document: &Value, asked: &[Asked]) -> Result<()> {
    let known: BTreeSet<&str> =
        asked.iter().filter_map(|asked| asked.label.split('?').next()).chain(LEFT_OUT).collect();
    let paths = document["paths"].as_object().context("a document without paths")?;
    let gets = paths.iter().filter(|(_, path)| path.get("get").is_some());
    let missing: Vec<&str> = gets.map(|(path, _)| path.as_str()).filter(|path| !known.contains(path)).collect();
    ensure!(missing.is_empty(), "endpoints that are neither asked nor left out: {missing:?}");
    let gone: Vec<&str> = LEFT_OUT.into_iter().filter(|path| !paths.contains_key(*path)).collect();
    ensure!(gone.is_empty(), "left out, and not in the document: {gone:?}");
    Ok(())
}

async fn texts(db: &mut PgConnection, sql: &'static str) -> Result<Vec<String>> {
    sqlx::query_scalar(sql).fetch_all(db).await.with_context(|| format!("failed to ask: {sql}"))
}

/// What is asked of each.
async fn questions(db: &mut PgConnection, source_ids: Vec<String>) -> Result<Vec<Asked>> {
    let ids: Vec<DataId> = source_ids.iter().map(|id| DataId::new(PROVIDER_NAME, id)).collect::<Result<_, _>>()?;
    let rows = sqlx::query(
        "SELECT DISTINCT ON (data_id) data_id::text, encode(contributor, 'hex'), encode(content_hash, 'hex')
         FROM event WHERE data_id = ANY($1)",
    );
    let uuids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = rows.bind(uuids).fetch_all(&mut *db).await.context("failed to read what to ask for")?;
    let column = |at: usize| rows.iter().map(|row| row.try_get(at)).collect::<Result<Vec<String>, _>>();
    let (contributors, hashes) = (column(1)?, column(2)?);
    let batches = texts(db, "SELECT number::text FROM batch ORDER BY number DESC LIMIT 50").await?;
    let sets = texts(db, "SELECT ip_id::text FROM dataset LIMIT 50").await?;
    let members = texts(db, "SELECT ip_id || '/versions/1/members/' || data_id FROM dataset_member LIMIT 50").await?;
    let licenses = texts(db, "SELECT license_id::text FROM license LIMIT 50").await?;
    let holders = texts(db, "SELECT DISTINCT '0x' || encode(holder, 'hex') FROM license LIMIT 50").await?;
    let mut asked = Vec::new();
    let mut each = |label, of: &[String], path: &dyn Fn(&str) -> String| {
        asked.push(Asked { label, paths: of.iter().map(|one| path(one)).collect() });
    };
    let provider = [PROVIDER_NAME.to_owned()];
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let nothing = [String::new()];

    each("/v1/records/{data_id}", &ids, &|id| format!("/v1/records/{id}"));
    each("/v1/records/{data_id}/proofs", &ids, &|id| format!("/v1/records/{id}/proofs"));
    each("/v1/accounts/{pseudonym}", &contributors, &|key| format!("/v1/accounts/0x{key}"));
    each("/v1/batches", &nothing, &|_| "/v1/batches?limit=10".into());
    each("/v1/batches/{provider}/{number}", &batches, &|number| format!("/v1/batches/{PROVIDER_NAME}/{number}"));
    each("/v1/batches/{provider}/{number}/events", &batches, &|number| {
        format!("/v1/batches/{PROVIDER_NAME}/{number}/events?limit=1000")
    });
    each("/v1/batches/{provider}/{number}/leaves", &batches, &|number| {
        format!("/v1/batches/{PROVIDER_NAME}/{number}/leaves?limit=1000")
    });
    each("/v1/batches/{provider}/{number}/leaves/{index}", &batches, &|number| {
        format!("/v1/batches/{PROVIDER_NAME}/{number}/leaves/7")
    });
    each("/v1/providers", &nothing, &|_| "/v1/providers".into());
    each("/v1/providers/{provider}", &provider, &|name| format!("/v1/providers/{name}"));
    each("/v1/settlement", &nothing, &|_| "/v1/settlement".into());
    each("/v1/similar?hash", &hashes, &|hash| format!("/v1/similar?hash={}", &hash[..16]));
    each("/v1/disputes", &nothing, &|_| "/v1/disputes".into());
    each("/v1/datasets", &nothing, &|_| "/v1/datasets".into());
    each("/v1/datasets?modality&purpose&for_sale", &nothing, &|_| {
        "/v1/datasets?modality=video&purpose=train&for_sale=true".into()
    });
    each("/v1/datasets/{ip_id}", &sets, &|id| format!("/v1/datasets/{id}"));
    each("/v1/datasets/{ip_id}/versions/{version}/members/{data_id}", &members, &|member| {
        format!("/v1/datasets/{member}")
    });
    each("/v1/licenses", &nothing, &|_| "/v1/licenses".into());
    each("/v1/licenses?holder&status", &holders, &|holder| format!("/v1/licenses?holder={holder}&status=active"));
    each("/v1/licenses/{license_id}", &licenses, &|id| format!("/v1/licenses/{id}"));
    each("/v1/licenses/{license_id}/check", &licenses, &|id| format!("/v1/licenses/{id}/check"));
    each("/v1/licenses/{license_id}/royalties", &licenses, &|id| format!("/v1/licenses/{id}/royalties?limit=1000"));

    const TRACE: &str = "/api/v1/data-audit";
    each("/api/v1/data-audit/data-ids/{data_id}", &ids, &|id| format!("{TRACE}/data-ids/{id}"));
    each("/api/v1/data-audit/data-ids/{data_id}/metadatas", &ids, &|id| format!("{TRACE}/data-ids/{id}/metadatas"));
    each("/api/v1/data-audit/assets/{hash}", &hashes, &|hash| format!("{TRACE}/assets/sha256:{hash}"));
    each("/api/v1/data-audit/feed", &nothing, &|_| format!("{TRACE}/feed?limit=1000"));
    each("/api/v1/data-audit/feed?provider", &provider, &|name| format!("{TRACE}/feed?limit=1000&provider={name}"));
    each("/api/v1/data-audit/recent", &nothing, &|_| format!("{TRACE}/recent?limit=1000"));
    each("/api/v1/data-audit/recent?provider", &provider, &|name| format!("{TRACE}/recent?limit=1000&provider={name}"));
    each("/api/v1/data-audit/stats", &nothing, &|_| format!("{TRACE}/stats"));
    each("/api/v1/data-audit/stats?provider", &provider, &|name| format!("{TRACE}/stats?provider={name}"));
    each("/api/v1/data-audit/search?field=source_record_id", &source_ids, &|id| {
        format!("{TRACE}/search?field=source_record_id&value={id}")
    });
    each("/api/v1/data-audit/search?field=anon_id", &source_ids, &|id| {
        format!("{TRACE}/search?field=anon_id&value=anon-{id}")
    });
    // what every record has, and what none has
    each("/api/v1/data-audit/search?field=kyc_country", &nothing, &|_| {
        format!("{TRACE}/search?field=kyc_country&value=KR&limit=1000")
    });
    each("/api/v1/data-audit/search?field=media_category&provider", &provider, &|name| {
        format!("{TRACE}/search?field=media_category&value=video&limit=1000&provider={name}")
    });
    each("/api/v1/data-audit/search?field=mime_type", &nothing, &|_| {
        format!("{TRACE}/search?field=mime_type&value=audio/flac")
    });
    each("/api/v1/data-audit/providers/{provider}/policy", &provider, &|name| {
        format!("{TRACE}/providers/{name}/policy")
    });

    for (label, path) in [
        ("/health", "/health"),
        ("/ready", "/ready"),
        ("/status", "/status"),
        ("/metrics", "/metrics"),
        ("/ (page)", "/"),
        ("/settlement (page)", "/settlement"),
    ] {
        each(label, &nothing, &|_| path.into());
    }
    each("/search?q (page)", &hashes, &|hash| format!("/search?q={hash}"));
    each("/search?q of a name (page)", &nothing, &|_| "/search?q=nobody".into());
    each("/receipt (page)", &nothing, &|_| "/receipt".into());
    each("/providers/{name} (page)", &provider, &|name| format!("/providers/{name}"));
    each("/data/{data_id} (page)", &ids, &|id| format!("/data/{id}"));
    each("/batches/{provider}/{number} (page)", &batches, &|number| format!("/batches/{PROVIDER_NAME}/{number}"));
    each("/datasets/{ip_id} (page)", &sets, &|id| format!("/datasets/{id}"));
    each("/licenses/{id} (page)", &licenses, &|id| format!("/licenses/{id}"));
    Ok(asked)
}
