//! Hostile requests against every path of the indexer's OpenAPI document: always a problem document, never our fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Executor;
use tidemark::service::pool_options;
use tidemark_tests::{
    Options, Stack,
    folder::RunFolder,
    forge::Forge,
    login::{DOMAIN, sign_in},
    postgres::Postgres,
    services::Service,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// SQL, NUL, other alphabets, numbers past every type, paths, and what looks right.
const NASTY: &[&str] = &[
    "'",
    "';DROP TABLE record;--",
    "\" OR \"\"=\"",
    "1 OR 1=1",
    "$1",
    "\\x00",
    "\u{0}",
    "a\u{0}b",
    "%",
    "%00",
    "ㅌ\u{202e}\u{feff}",
    "-1",
    "1e9",
    "NaN",
    "99999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999",
    "18446744073709551615",
    "9223372036854775807",
    "4294967296",
    "0x",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "null",
    "{}",
    " ",
    "",
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A value that its parameter may have, so that only one at a time is wrong.
fn harmless(name: &str) -> &'static str {
    match name {
        "data_id" | "payout_id" => "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "provider" => "numo",
        "pseudonym" => "0x1111111111111111111111111111111111111111111111111111111111111111",
        "holder" | "token" => "0x1111111111111111111111111111111111111111",
        "hash" => "00ff00ff00ff00ff",
        _ => "1",
    }
}

/// Hashes and cids have other shapes; only what a path can't do without is filled.
fn filled(path: &str, parameters: &[Value], spoiled: Option<(&str, &str)>) -> String {
    let (mut path, mut query) = (path.to_owned(), String::new());
    for parameter in parameters {
        let name = parameter["name"].as_str().unwrap();
        let value = spoiled.filter(|(wrong, _)| *wrong == name).map(|(_, value)| encoded(value));
        match parameter["in"].as_str().unwrap() {
            "path" => path = path.replace(&format!("{{{name}}}"), &value.unwrap_or_else(|| harmless(name).to_owned())),
            "query" => {
                if let Some(value) = value {
                    query = format!("?{name}={value}");
                }
            }
            _ => {}
        }
    }
    path + &query
}

struct Target {
    client: Client,
    url: String,
    document: Value,
    /// Of a wallet that is logged in, so that what is behind a login is asked, too.
    token: String,
}

impl Target {
    async fn new(indexer: &Service) -> Self {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none());
        // each on a connection of its own: one that was closed over an unread body is not taken again
        let client = client.pool_max_idle_per_host(0).build().unwrap();
        let (_, document) = indexer.get("/openapi.json").await.unwrap();
        assert!(document["paths"].as_object().unwrap().len() > 30);
        let (status, session) = sign_in(indexer.url(), &PrivateKeySigner::random()).await.unwrap();
        assert_eq!(status, 200, "{session}");
        let token = session["token"].as_str().unwrap().to_owned();
        Self { client, url: indexer.url().to_owned(), document, token }
    }

    fn operations(&self) -> impl Iterator<Item = (&String, Method, Vec<Value>)> {
        self.document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(move |(method, operation)| {
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                (path, Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), parameters)
            })
        })
    }

    /// Sends it; whatever is refused is refused as a problem that names its field where a field is at fault.
    async fn ask(&self, method: &Method, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> StatusCode {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if headers.iter().all(|(name, _)| *name != "Authorization") && !path.starts_with("/v1/logout") {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let status = answer.status();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        assert!(status.as_u16() < 500 || status == 503, "{method} {path}: {status}");
        if kind.as_deref() == Some("text/event-stream") {
            return status;
        }
        let text = answer.text().await.unwrap();
        if !status.is_client_error() && status != 503 {
            return status;
        }
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{method} {path}: {status} {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["status"], status.as_u16(), "{text}");
        if status == 400 {
            assert!(problem["field"].as_str().is_some_and(|field| !field.is_empty()), "{method} {path}: {text}");
        }
        assert!(text.len() < 4_096, "{method} {path}: the answer repeats too much");
        status
    }
}

async fn start() -> (Forge, Service) {
    tidemark::install_tls();
    let forge = Forge::new().await.unwrap();
    // something to find, so that queries run to their end
    let events = forge.accepted(0, "a", Address::repeat_byte(0x11)).unwrap().to_vec();
    forge.anchor(&forge.batch(0, events).await.unwrap()).await.unwrap();
    forge.stack.chain.mine(3).await.unwrap();
    let domains = vec![("TIDEMARK_INDEXER_LOGIN_DOMAINS", DOMAIN.to_owned())];
    let indexer = forge.stack.start_indexer_with("hostile", domains).await.unwrap();
    indexer.until("/v1/batches/numo/0", |_, body| body["state"] == "valid").await.unwrap();
    (forge, indexer)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_parameter_of_any_path_makes_a_fault_and_each_wrong_one_is_named() -> anyhow::Result<()> {
    let (forge, mut indexer) = start().await;
    let target = Target::new(&indexer).await;
    let mut db = forge.stack.postgres.connect("hostile").await?;
    let count = "SELECT (SELECT count(*) FROM record) + (SELECT count(*) FROM event) + (SELECT count(*) FROM batch)";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut db).await?;
    let (mut asked, mut refused) = (0u32, 0u32);
    for (path, method, parameters) in target.operations() {
        // right first, so that a wrong one is wrong for its own sake
        target.ask(&method, &filled(path, &parameters, None), &[], None).await;
        for parameter in &parameters {
            let name = parameter["name"].as_str().unwrap();
            let is_header = parameter["in"] == "header";
            for nasty in NASTY {
                let status = if is_header {
                    // what HTTP can't carry never arrives
                    let Ok(_) = reqwest::header::HeaderValue::from_str(nasty) else { continue };
                    target.ask(&method, &filled(path, &parameters, None), &[(name, nasty)], None).await
                } else {
                    target.ask(&method, &filled(path, &parameters, Some((name, nasty))), &[], None).await
                };
                asked += 1;
                refused += u32::from(status.is_client_error());
            }
            // a cursor, or anything, of a megabyte: refused by what reads it, or as a head that is too long
            let megabyte = "a".repeat(1 << 20);
            let path = filled(path, &parameters, (!is_header).then_some((name, "XX")));
            let path = path.replace(&encoded("XX"), &megabyte);
            let headers = [(name, megabyte.as_str())];
            let request = target.client.request(method.clone(), format!("{}{path}", target.url));
            let request = if is_header { request.header(headers[0].0, headers[0].1) } else { request };
            if let Ok(answer) = request.send().await {
                assert!(answer.status().is_client_error(), "{method} {name}: {}", answer.status());
            }
        }
        // the same parameter twice, and bytes that are no text
        for query in ["limit=1&limit=2", "cursor=%ff%fe", "limit=%ff", "a[]=b", "=", "&&&", "limit"] {
            let path = filled(path, &parameters, None);
            target.ask(&method, &format!("{path}?{query}"), &[], None).await;
        }
    }
    assert!(asked > 1_000 && refused > asked / 2, "{refused} of {asked}");
    // cursors that are well-formed and mean nothing
    for place in ["1:x", "-1:", "9223372036854775807:a/b/c", "0:'", "1:0x/1", "1:99999999999999999999999999999999/1"] {
        let cursor = hex::encode(place);
        for (path, method, parameters) in target.operations() {
            if parameters.iter().any(|parameter| parameter["name"] == "cursor") {
                let path = filled(path, &parameters, Some(("cursor", &cursor)));
                target.ask(&method, &path, &[], None).await;
            }
        }
    }
    // the pages, which are in no document
    for page in [
        "/data/{}",
        "/batches/{}/0",
        "/batches/numo/{}",
        "/datasets/{}",
        "/licenses/{}",
        "/providers/{}",
        "/search?q={}",
    ] {
        for nasty in NASTY {
            let url = format!("{}{}", target.url, page.replace("{}", &encoded(nasty)));
            let status = target.client.get(url).send().await?.status();
            assert!(!status.is_server_error(), "{page} {nasty:?}: {status}");
        }
    }
    let me = target.client.get(format!("{}/v1/me", target.url)).bearer_auth(&target.token).send().await?;
    assert_eq!(me.status(), 200, "the session outlived all of it");
    let after: i64 = sqlx::query_scalar(count).fetch_one(&mut db).await?;
    assert_eq!(before, after);
    indexer.check_running()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_wrong_or_deep_are_refused() -> anyhow::Result<()> {
    let (_forge, indexer) = start().await;
    let target = Target::new(&indexer).await;
    let deep = "[".repeat(100_000);
    let zero = "0x".to_owned() + &"0".repeat(64);
    let bodies: Vec<Vec<u8>> = vec![
        vec![],
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        vec![0xff; 64],
        deep.into_bytes(),
        json!({ "accounts": [] }).to_string().into(),
        json!({ "accounts": ["'; DROP TABLE record; --"] }).to_string().into(),
        json!({ "accounts": vec![zero; 1_001] }).to_string().into(),
        json!({ "accounts": "x", "provider": "\u{0}" }).to_string().into(),
        json!({ "message": "x".repeat(5_000), "signature": "0x" }).to_string().into(),
        json!({ "message": "\u{0}", "signature": format!("0x{}", "00".repeat(9_000)) }).to_string().into(),
        json!({ "unknown": 1 }).to_string().into(),
        vec![b' '; 5 << 20],
    ];
    let mut posts = 0;
    for (path, method, parameters) in target.operations().filter(|(_, method, _)| *method == Method::POST) {
        let path = filled(path, &parameters, None);
        posts += 1;
        for body in &bodies {
            if body.len() <= 64 << 10 {
                target.ask(&method, &path, &[], Some(body.clone())).await;
                continue;
            }
            // who is still sending when it is refused may not get to read why
            let request = target.client.post(format!("{}{path}", target.url)).body(body.clone());
            if let Ok(answer) = request.header("content-type", "application/json").send().await {
                assert!(answer.status().is_client_error() || answer.status() == 200, "{path}: {}", answer.status());
            }
        }
    }
    assert!(posts >= 5, "{posts}");
    let body = json!({ "accounts": [format!("0x{}", "1".repeat(64))], "provider": "\u{0}'" });
    let status = target.ask(&Method::POST, "/v1/accounts:query", &[], Some(body.to_string().into())).await;
    assert_eq!(status, 400);
    let large = target.client.post(format!("{}/v1/accounts:query", target.url)).body(vec![b' '; 300 << 10]);
    assert_eq!(large.send().await?.status(), 413);
    Ok(())
}

/// Clients that bring a head byte by byte are cut off, and hold up nobody meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off_and_others_are_served() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: tidemark_tests::stack::Services::None, ..Options::default() }).await?;
    let indexer = stack.start_second_indexer("slow").await?;
    let address = indexer.url().trim_start_matches("http://").to_owned();
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(b"GET /v1/batches HTTP/1.1\r\nhost: a\r\nx-slow: ").await?;
        slow.push(stream);
    }
    let begun = Instant::now();
    let mut open = slow.len();
    while open > 0 {
        assert!(begun.elapsed() < Duration::from_secs(45), "{open} slow clients are still there");
        let asked = Instant::now();
        assert_eq!(indexer.get("/v1/batches").await?.0, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        open = 0;
        for stream in &mut slow {
            let mut byte = [0; 256];
            let dripped = stream.write_all(b"a").await.is_ok();
            let ended = match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await {
                Ok(read) => read.map_or(true, |read| read == 0),
                Err(_) => false,
            };
            open += usize::from(dripped && !ended);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // a body that stops coming is not waited for, and its sender is told
    let mut stalled = TcpStream::connect(&address).await?;
    let head = "POST /v1/accounts:query HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
    stalled.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(20), stalled.read_to_string(&mut answer)).await??;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"field\":\"body\""), "{answer}");
    assert!(begun.elapsed() > Duration::from_secs(5), "an honest client on a slow line has some seconds");
    Ok(())
}

/// What a client that goes away in the middle of its request's BEGIN leaves behind is nobody else's transaction.
#[tokio::test]
async fn a_request_that_is_gone_leaves_no_transaction_to_the_next() -> anyhow::Result<()> {
    let folder = RunFolder::create()?;
    let postgres = Postgres::start(&folder).await?;
    let url = postgres.create_database("gone").await?;
    let pool = pool_options().max_connections(1).connect(&url).await?;
    let mut witness = postgres.connect("gone").await?;
    witness.execute("CREATE TABLE kept (n INT)").await?;
    let mut kept = 0;
    // as sqlx leaves it: open, open for reading alone, and aborted, without knowing
    for left in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN; SELECT 1 / 0"] {
        let mut connection = pool.acquire().await?;
        let _aborted = sqlx::raw_sql(left).execute(&mut *connection).await;
        drop(connection);
        kept += 1;
        sqlx::query("INSERT INTO kept VALUES (1)").execute(&pool).await?;
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut witness).await?;
        assert_eq!(seen, kept, "{left}: what the next one writes is kept");
    }
    // and as it comes about: a transaction's begin that is dropped at any point
    let mut left = 0;
    for turn in 0..200u64 {
        let begins = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        left += u32::from(tokio::time::timeout(Duration::from_micros(turn * 5), begins).await.is_err());
        kept += 1;
        sqlx::query("INSERT INTO kept VALUES (1)").execute(&pool).await?;
    }
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut witness).await?;
    assert_eq!(seen, kept);
    assert!(left > 0, "none was gone in the middle of it");
    Ok(())
}
