//! Serving apart from writing: two processes that may only read, beside the one that follows the chain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use serde_json::{Value, json};
use tidemark::contracts::ConsentRegistry;
use tidemark_tests::{
    Options, Stack,
    keys::role,
    login::{DOMAIN, sign_in},
    mined,
    services::{Service, Wiring, free_port},
    stack::Services,
};

const BEHIND_SECONDS_MAX: u64 = 3;

fn with(wiring: &Wiring, name: &str, changes: &[(&'static str, String)]) -> Wiring {
    let port = free_port().unwrap();
    let mut replica = Wiring { name: name.into(), port, ..wiring.clone() };
    let listen = ("TIDEMARK_INDEXER_LISTEN", format!("127.0.0.1:{port}"));
    for (variable, value) in changes.iter().chain([&listen]) {
        replica.environment.retain(|(known, _)| known != variable);
        replica.environment.push((*variable, value.clone()));
    }
    replica
}

async fn me(site: &Service, token: &str) -> (u16, Value) {
    let request = reqwest::Client::new().get(format!("{}/v1/me", site.url())).bearer_auth(token);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_serve_what_one_writes_and_are_not_ready_when_it_stops() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await?;
    let told = vec![
        ("TIDEMARK_INDEXER_LOGIN_DOMAINS", DOMAIN.to_owned()),
        ("TIDEMARK_INDEXER_BEHIND_SECONDS_MAX", BEHIND_SECONDS_MAX.to_string()),
    ];
    let mut writer = stack.start_indexer_with("written", told).await?;

    // a role that may read what docs/operate.md says, and nothing else
    let mut db = stack.postgres.connect("written").await?;
    sqlx::raw_sql(
        "CREATE ROLE reader LOGIN;
         GRANT USAGE ON SCHEMA public, mirror, local TO reader;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
         GRANT SELECT ON mirror.cursor, mirror.block, mirror.missing_file, mirror.mined_event, mirror.wallet_reward, mirror.tree,
             local.session, local.scoped_group, local.scoped_item TO reader;
         GRANT SELECT (state, created_at) ON local.payout TO reader",
    )
    .execute(&mut db)
    .await?;
    let reader = stack.postgres.url("written").replacen("postgres@", "reader@", 1);
    assert!(reader.contains("//reader@"));
    let read_only = [("TIDEMARK_INDEXER_READ_ONLY", "true".to_owned()), ("TIDEMARK_INDEXER_DATABASE_URL", reader)];
    // the second is told the owner's role: it writes as little
    let owner = [read_only[0].clone()];
    let replicas = [
        Service::start(&stack.folder, with(writer.wiring(), "replica-one", &read_only)).await?,
        Service::start(&stack.folder, with(writer.wiring(), "replica-two", &owner)).await?,
    ];

    // what the writer has comes out of all three
    let sender = stack.sender(role::PROVIDER).await?;
    let registry = ConsentRegistry::new(stack.deployment.consent_registry, &sender);
    mined!("publish", registry.publishPolicy(B256::repeat_byte(1), "1".into(), "https://example.invalid".into()));
    let block = stack.chain.block_number().await?;
    for replica in &replicas {
        let status = replica.until("/status", |_, body| body["applied_block"].as_u64() >= Some(block)).await?;
        assert_eq!(status["ready"], true, "{status}");
        assert!(status["behind_seconds"].as_u64().unwrap() <= BEHIND_SECONDS_MAX, "{status}");
        assert_eq!(replica.get("/v1/settlement").await?.0, 200);
        let mut live = reqwest::get(format!("{}/v1/events?last_event_id=0", replica.url())).await?;
        let mut text = String::new();
        while !text.contains("event: policy") {
            let chunk = tokio::time::timeout(Duration::from_secs(20), live.chunk()).await??;
            text.push_str(std::str::from_utf8(&chunk.expect("the stream ended"))?);
        }
    }

    // logins are the writer's; its sessions count everywhere
    let key = PrivateKeySigner::random();
    let (status, session) = sign_in(writer.url(), &key).await?;
    assert_eq!(status, 200, "{session}");
    let token = session["token"].as_str().unwrap();
    for replica in &replicas {
        let (status, problem) = sign_in(replica.url(), &key).await?;
        assert_eq!((status, &problem["type"]), (421, &json!("urn:tidemark:problem:read-only")), "{problem}");
        let logout = reqwest::Client::new().post(format!("{}/v1/logout", replica.url())).bearer_auth(token);
        assert_eq!(logout.send().await?.status(), 421);
        let scraped = reqwest::get(format!("{}/metrics", replica.url())).await?;
        assert_eq!(scraped.status(), 200, "{}", scraped.text().await?);
        let groups = format!("{}/api/v1/data-audit/scoped-groups", replica.url());
        for (path, body) in [("", json!({ "hashes": [] })), ("/uploads", json!({ "format": "csv" }))] {
            let asked = reqwest::Client::new().post(format!("{groups}{path}")).json(&body).send().await?;
            assert_eq!(asked.status(), 421, "groups{path}");
        }
        let (status, view) = me(replica, token).await;
        assert_eq!((status, &view["account"]), (200, &json!(key.address().to_string())), "{view}");
    }

    // the writer dies: what there is is still answered, and said to be old
    writer.kill();
    for replica in &replicas {
        let problem = replica.until("/ready", |status, _| status == 503).await?;
        assert!(problem["detail"].as_str().unwrap().contains("not level with the chain"), "{problem}");
        let (_, status) = replica.get("/status").await?;
        assert!(status["behind_seconds"].as_u64().unwrap() >= BEHIND_SECONDS_MAX, "{status}");
        assert_eq!(replica.get("/v1/providers").await?.0, 200);
    }
    writer.restart().await?;
    for replica in &replicas {
        replica.until("/ready", |status, _| status == 200).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_refuses_a_database_that_nobody_writes_or_of_another_version_and_payouts() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await?;
    let writer = stack.start_second_indexer("written").await?;
    let refused = async |changes: &[(&'static str, String)]| {
        let read_only = ("TIDEMARK_INDEXER_READ_ONLY", "true".to_owned());
        let wiring = with(writer.wiring(), "refused", &[&[read_only], changes].concat());
        format!("{:#}", Service::start(&stack.folder, wiring).await.unwrap_err())
    };
    let empty = stack.postgres.create_database("empty").await?;
    let error = refused(&[("TIDEMARK_INDEXER_DATABASE_URL", empty.clone())]).await;
    assert!(error.contains("start that one first"), "{error}");
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_one(&mut stack.postgres.connect("empty").await?)
    .await?;
    assert_eq!(tables, 0, "it made none");
    let mut payouts = tidemark_tests::wirings::payouts(&wires(&stack), &stack.options)?;
    payouts.push(("TIDEMARK_INDEXER_DATABASE_URL", stack.postgres.url("written")));
    let error = refused(&payouts).await;
    assert!(error.contains("pays nothing out"), "{error}");
    let mut db = stack.postgres.connect("written").await?;
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
        .execute(&mut db)
        .await?;
    let error = refused(&[]).await;
    assert!(error.contains("run the same version"), "{error}");
    Ok(())
}

fn wires(stack: &Stack) -> tidemark_tests::wirings::Wires {
    tidemark_tests::wirings::Wires {
        rpc_url: stack.chain.url().into(),
        deployment: stack.deployment_path().display().to_string(),
        store: stack.store_address(),
        partner_url: stack.partner.url().into(),
        keys: stack.folder.path().join("keys"),
    }
}
