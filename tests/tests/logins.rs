//! Logins of wallets (EIP-4361), and that what belongs together is seen by whose it is and by nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::{
    primitives::{Address, hex},
    signers::{SignerSync, local::PrivateKeySigner},
};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Connection;
use tidemark::ids::DataId;
use tidemark_tests::{
    Options, Stack,
    keys::{dev_signer, role},
    services::Service,
    stack::Services,
    story::{
        doors::{Doors, meta},
        finality, market,
        people::Contributor,
        samples::{Expected, repository_samples},
        world::World,
    },
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

const DOMAIN: &str = "app.example";

/// What a message says; tests spoil single fields.
#[derive(Clone)]
struct Asked {
    domain: &'static str,
    uri: &'static str,
    chain_id: u64,
    nonce: String,
    issued: Duration,
    expires: Option<Duration>,
}

impl Asked {
    fn text(&self, account: Address) -> String {
        let now = OffsetDateTime::now_utc();
        let time = |offset: Duration| (now + offset).format(&Rfc3339).unwrap();
        let expires = self.expires.map(|offset| format!("\nExpiration Time: {}", time(offset))).unwrap_or_default();
        format!(
            "{} wants you to sign in with your Ethereum account:\n{}\n\nShow me what I earned.\n\nURI: {}\nVersion: 1\n\
             Chain ID: {}\nNonce: {}\nIssued At: {}{expires}",
            self.domain,
            account.to_checksum(None),
            self.uri,
            self.chain_id,
            self.nonce,
            time(self.issued),
        )
    }
}

struct Site {
    url: String,
    client: reqwest::Client,
    chain_id: u64,
}

impl Site {
    fn new(indexer: &Service, stack: &Stack) -> Self {
        let (url, client) = (indexer.url().to_owned(), reqwest::Client::new());
        Self { url, client, chain_id: stack.deployment.chain_id }
    }

    async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let cache = answer.headers().get("cache-control").map(|value| value.to_str().unwrap().to_owned());
        if status == 200 && !path.starts_with("/v1/records") && !path.starts_with("/v1/providers") {
            assert_eq!(cache.as_deref(), Some("private, no-store"), "{path}");
        }
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn asked(&self) -> Asked {
        let (status, nonce) = self.send(Method::POST, "/v1/login/nonce", None, None).await;
        assert_eq!((status, &nonce["chain_id"]), (200, &json!(self.chain_id)), "{nonce}");
        Asked {
            domain: DOMAIN,
            uri: "https://app.example/login",
            chain_id: self.chain_id,
            nonce: nonce["nonce"].as_str().unwrap().into(),
            issued: Duration::ZERO,
            expires: None,
        }
    }

    async fn login(&self, text: &str, signature: &[u8]) -> (u16, Value) {
        let body = json!({ "message": text, "signature": hex::encode_prefixed(signature) });
        self.send(Method::POST, "/v1/login", None, Some(&body)).await
    }

    async fn sign_in(&self, asked: &Asked, key: &PrivateKeySigner) -> (u16, Value) {
        let text = asked.text(key.address());
        let signature = key.sign_message_sync(text.as_bytes()).unwrap();
        self.login(&text, &signature.as_bytes()).await
    }

    async fn token(&self, key: &PrivateKeySigner) -> String {
        let (status, session) = self.sign_in(&self.asked().await, key).await;
        assert_eq!((status, &session["account"]), (200, &json!(key.address().to_string())), "{session}");
        session["token"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        self.send(Method::GET, path, Some(token), None).await
    }
}

async fn start() -> (Stack, Service, Site) {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await.unwrap();
    let domains = vec![("TIDEMARK_INDEXER_LOGIN_DOMAINS", DOMAIN.to_owned())];
    let indexer = stack.start_indexer_with("logins", domains).await.unwrap();
    let site = Site::new(&indexer, &stack);
    (stack, indexer, site)
}

fn field((status, problem): (u16, Value)) -> (u16, String) {
    (status, problem["field"].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_counts_once_here_now_and_for_its_own_wallet() -> anyhow::Result<()> {
    let (stack, _indexer, site) = start().await;
    let key = PrivateKeySigner::random();

    // right, then the same again
    let asked = site.asked().await;
    assert_eq!(site.sign_in(&asked, &key).await.0, 200);
    let again = field(site.sign_in(&asked, &key).await);
    assert_eq!(again, (401, "message.nonce".into()), "a nonce counts once");
    let made_up = Asked { nonce: "0".repeat(32), ..site.asked().await };
    assert_eq!(field(site.sign_in(&made_up, &key).await), (401, "message.nonce".into()));

    // two at the same time with one nonce: one of them is in
    let asked = site.asked().await;
    let both = futures::future::join_all((0..8).map(|_| site.sign_in(&asked, &key))).await;
    assert_eq!(both.iter().filter(|(status, _)| *status == 200).count(), 1, "{both:?}");

    let minute = Duration::MINUTE;
    for (spoil, wrong) in [
        (Asked { domain: "evil.example", ..site.asked().await }, "message.domain"),
        (Asked { uri: "https://evil.example/", ..site.asked().await }, "message.uri"),
        (Asked { uri: "http://app.example/", ..site.asked().await }, "message.uri"),
        (Asked { chain_id: 1, ..site.asked().await }, "message.chain_id"),
        (Asked { issued: -11 * minute, ..site.asked().await }, "message.issued_at"),
        (Asked { issued: 2 * minute, ..site.asked().await }, "message.issued_at"),
        (Asked { expires: Some(Duration::seconds(-1)), ..site.asked().await }, "message.expiration_time"),
    ] {
        assert_eq!(field(site.sign_in(&spoil, &key).await), (401, wrong.into()));
    }

    // another's signature, and none
    let asked = site.asked().await;
    let text = asked.text(key.address());
    let other = PrivateKeySigner::random().sign_message_sync(text.as_bytes())?.as_bytes();
    assert_eq!(field(site.login(&text, &other).await), (401, "signature".into()));
    assert_eq!(field(site.login(&text, &[]).await), (401, "signature".into()));
    let own = key.sign_message_sync(text.as_bytes())?.as_bytes();
    assert_eq!(site.login(&text, &own).await.0, 200, "a wrong signature does not spend the nonce");
    assert_eq!(field(site.login("hello", &own).await), (400, "message.domain".into()));

    // a contract's word counts, its refusal too
    let (yes, no) = (Address::repeat_byte(0xa1), Address::repeat_byte(0xa2));
    for (wallet, code) in [(yes, "0x631626ba7e60e01b5f5260205ff3"), (no, "0x5f5ffd")] {
        stack.chain.call("anvil_setCode", json!([wallet, code])).await?;
    }
    let asked = site.asked().await;
    assert_eq!(field(site.login(&asked.text(no), b"any").await), (401, "signature".into()));
    let (status, session) = site.login(&asked.text(yes), b"any").await;
    assert_eq!((status, &session["account"]), (200, &json!(yes.to_string())), "{session}");

    // sessions end: at logout, at the message's end, and with the seventeenth
    let token = site.token(&key).await;
    assert_eq!(site.get("/v1/me", &token).await.0, 200);
    assert_eq!(site.send(Method::POST, "/v1/logout", Some(&token), None).await.0, 204);
    assert_eq!(field(site.get("/v1/me", &token).await), (401, "Authorization".into()));
    for wrong in ["", "x", &token[1..], &"a".repeat(64), &"a".repeat(5000)] {
        assert_eq!(site.get("/v1/me", wrong).await.0, 401);
    }
    let short = Asked { expires: Some(Duration::seconds(2)), ..site.asked().await };
    let (status, session) = site.sign_in(&short, &key).await;
    assert_eq!(status, 200, "{session}");
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(site.get("/v1/me", session["token"].as_str().unwrap()).await.0, 401);
    let first = site.token(&key).await;
    for _ in 0..16 {
        site.token(&key).await;
    }
    assert_eq!(site.get("/v1/me", &first).await.0, 401, "the oldest of one wallet made room");

    // what a reader of the database finds opens nothing
    let mut db = stack.postgres.connect("logins").await?;
    let token = site.token(&key).await;
    let digest = Sha256::digest(token.as_bytes()).to_vec();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM local.session WHERE token_hash = $1")
        .bind(digest)
        .fetch_one(&mut db)
        .await?;
    let plain: i64 = sqlx::query_scalar("SELECT count(*) FROM local.session AS s WHERE s::text LIKE '%' || $1 || '%'")
        .bind(&token)
        .fetch_one(&mut db)
        .await?;
    assert_eq!((kept, plain), (1, 0));

    // nonces that nobody uses are bounded, and old ones make room
    sqlx::query(
        "INSERT INTO local.login_nonce SELECT lpad(to_hex(n), 32, '0'), now() + interval '3 seconds'
         FROM generate_series(1, 10000) AS n ON CONFLICT DO NOTHING",
    )
    .execute(&mut db)
    .await?;
    let (status, problem) = site.send(Method::POST, "/v1/login/nonce", None, None).await;
    assert_eq!((status, problem["type"].as_str()), (503, Some("urn:tidemark:problem:unavailable")));
    tokio::time::sleep(std::time::Duration::from_millis(3_200)).await;
    assert_eq!(site.send(Method::POST, "/v1/login/nonce", None, None).await.0, 200);
    db.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_sees_its_own_records_and_money_and_a_provider_its_own_contributors() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let digest = |token: &str| hex::encode(Sha256::digest(token.as_bytes()));
    let environment = vec![
        ("TIDEMARK_INDEXER_LOGIN_DOMAINS", format!("other.example,{DOMAIN}")),
        ("TIDEMARK_INDEXER_PROVIDER_TOKENS", format!("numo={},nobody={}", digest("numo's"), digest("nobody's"))),
    ];
    let indexer = stack.start_indexer_with("logins", environment).await?;
    let site = Site::new(&indexer, &stack);
    let world = World::build(&stack, [5, 5, 5]).await?;
    let doors = Doors::new(&stack, &world)?;
    let mut group = Contributor::group(3);
    // two with wallets, one with points
    group[0].has_wallet = true;
    let samples: Vec<_> =
        repository_samples()?.into_iter().filter(|s| matches!(s.expected, Expected::Accepted)).take(5).collect();
    let mut records = Vec::new();
    // the first of them twice
    for (at, sample) in [0, 1, 2, 0, 2].into_iter().zip(&samples) {
        let meta = meta(&world, sample, &group[at])?;
        let answer: Value = doors.post_upload(&meta, sample.mime, std::fs::read(&sample.path)?).await?.json().await?;
        assert_eq!(answer["status"], "accepted", "{answer}");
        records.push((at, answer["data_id"].as_str().unwrap().parse::<DataId>()?));
    }
    let expected: Vec<_> = records.iter().map(|(_, id)| (*id, 2)).collect();
    let batches = finality::anchored(&market::history(&stack)?, &world, &expected).await?;
    let published = market::register_dataset(&stack, &world, "own").await?;
    let offer = market::publish_offer(&stack, &world, published.ip_id).await?;
    let sold = market::buy(&stack, &world, offer, 1, market::LICENSE_PRICE).await?;
    let path = format!("/v1/licenses/{}/royalties", sold.licenseId);
    indexer.until(&path, |status, body| status == 200 && body["points_state"] == "posted").await?;

    // each wallet sees its own, all of it
    let own = |at: usize| {
        let mut ids: Vec<String> = records.iter().filter(|(of, _)| *of == at).map(|(_, id)| id.to_string()).collect();
        ids.sort();
        ids
    };
    for at in [0, 1] {
        let token = site.token(&group[at].key).await;
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = site.get(&format!("/v1/me/records?limit=1{cursor}"), &token).await;
            assert_eq!((status, &page["at"]["final"]), (200, &json!(true)), "{page}");
            seen.extend(page["records"].as_array().unwrap().iter().map(|r| r["data_id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        seen.sort();
        assert_eq!(seen, own(at));
        let (_, me) = site.get("/v1/me", &token).await;
        assert_eq!(
            (&me["records"], &me["rewards"][0]["count"]),
            (&json!(own(at).len()), &json!(own(at).len())),
            "{me}"
        );
        assert_eq!(me["rewards"][0]["state"], "claimable", "{me}");
        let (_, royalties) = site.get("/v1/me/royalties?limit=1", &token).await;
        let cursor = royalties["next_cursor"].as_str().map(|next| format!("&cursor={next}"));
        let mut earned: Vec<Value> = royalties["royalties"].as_array().unwrap().clone();
        if let Some(cursor) = cursor {
            let (_, rest) = site.get(&format!("/v1/me/royalties?limit=9{cursor}"), &token).await;
            earned.extend(rest["royalties"].as_array().unwrap().iter().cloned());
        }
        let mut ids: Vec<_> = earned.iter().map(|part| part["data_id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        assert_eq!(ids, own(at));
        // as the list of the sale has it, which names no wallet
        let (_, sale) = indexer.get(&path).await?;
        for part in &earned {
            let listed = sale["members"].as_array().unwrap().iter().find(|m| m["data_id"] == part["data_id"]).unwrap();
            assert_eq!((&part["claimable"], &part["claimed"]), (&listed["amount"], &json!("0")));
        }
    }

    // claimed, it is in the statement, of that wallet alone
    let claimed = &records[1].1;
    market::claim(&stack, &world, &group[1], &batches, &published, *claimed).await?;
    let token = site.token(&group[1].key).await;
    let mut paid = Value::Null;
    for _ in 0..300 {
        paid = site.get("/v1/me/payments", &token).await.1;
        if paid["payments"].as_array().unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let causes: Vec<_> = paid["payments"].as_array().unwrap().iter().map(|p| p["cause"].as_str().unwrap()).collect();
    assert!(causes.contains(&"reward") && causes.contains(&"royalty"), "{paid}");
    let (_, page) = site.get("/v1/me/payments?limit=1", &token).await;
    let next = page["next_cursor"].as_str().unwrap();
    let (_, rest) = site.get(&format!("/v1/me/payments?limit=1&cursor={next}"), &token).await;
    assert_eq!(json!([page["payments"][0], rest["payments"][0]]), paid["payments"]);
    let stranger = site.token(&PrivateKeySigner::random()).await;
    for path in ["/v1/me/records", "/v1/me/royalties", "/v1/me/payments"] {
        let (status, none) = site.get(path, &stranger).await;
        let list = none.as_object().unwrap().values().find_map(Value::as_array).unwrap();
        assert_eq!((status, list.len()), (200, 0), "{path} {none}");
        assert_eq!(site.send(Method::GET, path, None, None).await.0, 401);
    }

    // the provider asks for one contributor's pseudonyms
    let mut pseudonyms = Vec::new();
    for (_, id) in records.iter().filter(|(of, _)| *of == 2) {
        let (_, record) = indexer.get(&format!("/v1/records/{id}")).await?;
        pseudonyms.push(record["contributor"].clone());
    }
    let body = json!({ "accounts": pseudonyms, "limit": 2 });
    let query = |token: &'static str| site.send(Method::POST, "/v1/contributors:query", Some(token), Some(&body));
    let (status, view) = query("numo's").await;
    assert_eq!(status, 200, "{view}");
    let mut ids: Vec<_> =
        view["records"].as_array().unwrap().iter().map(|r| r["data_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, own(2));
    let sum: u128 = view["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|account| account["balance"].as_str().unwrap().parse::<u128>().unwrap())
        .sum();
    assert!(sum > 0 && view["total"] == sum.to_string(), "{view}");
    assert_eq!((view["transfers"].as_array().unwrap().len(), view["next_cursor"].is_string()), (2, true));
    assert_eq!(query("numo").await.0, 401);
    assert_eq!(query("nobody's").await.0, 400, "a token of one that is not on chain");
    let wallet = site.token(&dev_signer(role::BUYER)?).await;
    assert_eq!(site.send(Method::POST, "/v1/contributors:query", Some(&wallet), Some(&body)).await.0, 401);

    // an indexer that was told of no domain takes no logins
    let answer = reqwest::Client::new().post(format!("{}/v1/login/nonce", stack.indexer.as_ref().unwrap().url()));
    assert_eq!(answer.send().await?.status(), 404);
    Ok(())
}
