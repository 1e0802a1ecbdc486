//! What was changed in the ledger behind its triggers' back is found and named, whatever it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use alloy::primitives::{Address, B256};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Row};
use tidemark::{
    contracts::PointsTreasury,
    dataset::{VersionContent, encode_members},
    merkle::Tree,
};
use tidemark_indexer::{
    ledger::verify::{Finding, verify},
    serve::connect,
};
use tidemark_tests::{
    folder::program,
    forge::Forge,
    keys::role,
    mined,
    services::Service,
    story::{market, strangers::second_indexer},
};

/// Three rewards in two batches, a royalty and a redemption, in a database that nobody writes to any more.
async fn ledger() -> anyhow::Result<(Forge, String)> {
    let (forge, mut indexer) = Box::pin(served()).await?;
    indexer.stop();
    let url = forge.stack.postgres.url("ledger");
    Ok((forge, url))
}

/// The same with its indexer, which serves.
async fn served() -> anyhow::Result<(Forge, Service)> {
    let forge = Forge::new().await?;
    let [first, second] = [forge.accepted(0, "first", Address::ZERO)?, forge.accepted(2, "second", Address::ZERO)?];
    forge.anchor(&forge.batch(0, [first.clone(), second].concat()).await?).await?;
    forge.anchor(&forge.batch(1, forge.accepted(0, "third", Address::ZERO)?.to_vec()).await?).await?;
    forge.sell(&first[1]).await?;
    let operator = forge.stack.sender(role::TREASURY_OPERATOR).await?;
    let treasury = PointsTreasury::new(forge.world.treasury, &operator);
    let debit = |id: u8, amount: u128| PointsTreasury::PointsDebit {
        payoutId: B256::repeat_byte(id),
        account: first[1].contributor,
        amount,
    };
    mined!("redeem", treasury.redeem(vec![debit(1, forge.reward - 1), debit(2, 1)], Address::repeat_byte(2)));
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("ledger").await?;
    let total = (forge.reward * 3).to_string();
    indexer
        .until("/v1/settlement", |_, answer| {
            let numo = &answer["providers"][0];
            numo["redeemed"] == forge.reward.to_string().as_str()
                && numo["issued"].as_str().is_some_and(|issued| issued != total)
                && numo["issued"] == numo["received"]
        })
        .await?;
    second_indexer(&forge.stack, "ledger").await?;
    Ok((forge, indexer))
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn findings(pool: &PgPool) -> Vec<Finding> {
    verify(pool, &mut |_, _, _| ()).await.unwrap().findings
}

/// So that whoever adds a column adds what is tried with it.
async fn tries_all_columns(pool: &PgPool, table: &str, tried: &[(&str, &str)]) {
    let known: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns WHERE table_name = $1 AND table_schema = 'public'",
    )
    .bind(table)
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(
        !known.is_empty() && known.iter().all(|column| tried.iter().any(|(name, _)| name == column)),
        "a column of {table} is not tried: {known:?}"
    );
}

/// What the command prints, line by line, and whether it said yes.
fn command(url: &str) -> (Vec<Value>, bool) {
    let output = Command::new(program("tidemark-indexer").unwrap())
        .args(["ledger", "verify", "--database-url", url])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output.status.success())
}

/// Takes away what keeps even a superuser from it, and keeps a copy to go back to.
const OPEN: &str = "
    DO $$ DECLARE c RECORD; BEGIN
        FOR c IN SELECT conname, conrelid::regclass AS t FROM pg_constraint
            WHERE conrelid IN ('ledger_transfer'::regclass, 'ledger_account'::regclass, 'royalty_split'::regclass)
                AND contype IN ('c', 'p', 'f')
            ORDER BY contype = 'p' LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', c.t, c.conname);
        END LOOP;
    END $$;
    ALTER TABLE ledger_transfer DISABLE TRIGGER ALL; ALTER TABLE ledger_account DISABLE TRIGGER ALL;
    ALTER TABLE ledger_lane DISABLE TRIGGER ALL; ALTER TABLE royalty_split DISABLE TRIGGER ALL;
    ALTER TABLE dataset_member DISABLE TRIGGER ALL; ALTER TABLE provider_total DISABLE TRIGGER ALL;
    CREATE TABLE local.t AS TABLE ledger_transfer; CREATE TABLE local.a AS TABLE ledger_account;
    CREATE TABLE local.l AS TABLE ledger_lane; CREATE TABLE local.s AS TABLE royalty_split;
    CREATE TABLE local.m AS TABLE dataset_member; CREATE TABLE local.p AS TABLE provider_total;";
const BACK: &str = "
    DELETE FROM ledger_transfer; INSERT INTO ledger_transfer TABLE local.t;
    DELETE FROM ledger_account; INSERT INTO ledger_account TABLE local.a;
    DELETE FROM ledger_lane; INSERT INTO ledger_lane TABLE local.l;
    DELETE FROM royalty_split; INSERT INTO royalty_split TABLE local.s;
    DELETE FROM dataset_member; INSERT INTO dataset_member TABLE local.m;
    DELETE FROM provider_total; INSERT INTO provider_total TABLE local.p;
    UPDATE dataset_version SET purposes_differ = 0;";

#[tokio::test]
async fn a_ledger_that_nobody_touched_verifies_and_two_indexers_have_one_root() -> anyhow::Result<()> {
    let (forge, url) = Box::pin(ledger()).await?;
    let (lines, verified) = command(&url);
    let last = lines.last().unwrap();
    assert!(verified && last["type"] == "verified", "{lines:?}");
    assert_eq!((&last["transfers"], &last["lanes"], &last["broken"]), (&6.into(), &3.into(), &0.into()), "{last}");
    assert_eq!(last["splits"], 1, "{last}");
    assert!(
        lines.iter().any(|line| line["type"] == "progress" && line["step"] == "chain" && line["done"] == 6),
        "{lines:?}"
    );
    let (other, verified) = command(&forge.stack.postgres.url("ledger_second"));
    assert!(verified && other.last().unwrap()["root"] == last["root"], "{other:?}");
    Ok(())
}

#[tokio::test]
async fn whatever_is_changed_in_the_ledger_is_found_and_named() -> anyhow::Result<()> {
    let (_forge, url) = Box::pin(ledger()).await?;
    let pool = connect(&url, 4).await?;
    assert_eq!(findings(&pool).await, []);
    let rows =
        sqlx::query("SELECT id, cause FROM ledger_transfer ORDER BY ledger_lane_of(cause, id, account), position")
            .fetch_all(&pool)
            .await?;
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids.len(), 6, "{ids:?}");
    run(&pool, OPEN).await;
    let other = "sha256('other'::bytea)";
    let columns = [
        ("id", "id || '0'"),
        ("cause", "CASE cause WHEN 'reward' THEN 'royalty' ELSE 'reward' END"),
        ("provider", "substr(sha256(provider), 1, 20)"),
        ("debit_kind", "'redeemed'"),
        ("debit_key", other),
        ("credit_kind", "'issuer'"),
        ("credit_key", other),
        ("amount", "amount + 1"),
        ("account", other),
        ("data_id", "gen_random_uuid()"),
        ("block_number", "block_number + 1"),
        ("block_time", "block_time + 1"),
        ("tx_hash", other),
        ("position", "position + 7"),
        ("link", other),
    ];
    tries_all_columns(&pool, "ledger_transfer", &columns).await;
    for id in &ids {
        for (column, value) in columns {
            run(&pool, &format!("UPDATE ledger_transfer SET {column} = {value} WHERE id = '{id}'")).await;
            let found = findings(&pool).await;
            // a chain that breaks names the row, also where the row says another lane now
            let named = found.iter().any(|found| found.row.starts_with(id.as_str()) && found.check == "chain");
            assert!(named, "{column} of {id}: {found:#?}");
            run(&pool, BACK).await;
        }
    }
    let of_split = [
        ("license_id", "license_id + 1"),
        ("provider", "substr(sha256(provider), 1, 20)"),
        ("ip_id", "ip_id - 1"),
        ("version", "version + 1"),
        ("points_share", "points_share + 1"),
        ("points_weight", "points_weight + 1"),
        ("cutoff_remainder", "cutoff_remainder - 1"),
        ("cutoff_position", "cutoff_position + 1"),
    ];
    tries_all_columns(&pool, "royalty_split", &of_split).await;
    for (column, value) in of_split {
        run(&pool, &format!("UPDATE royalty_split SET {column} = {value}")).await;
        let found = findings(&pool).await;
        assert!(
            found.iter().any(|found| found.check == "split" && found.row.starts_with("royalty/")),
            "{column} of the split: {found:#?}"
        );
        run(&pool, BACK).await;
    }
    // what a part is made of: the member's leaf holds it, and the root on chain that
    for (column, value) in [
        ("position", "position + 1"),
        ("data_id", "gen_random_uuid()"),
        ("contributor", other),
        ("consent_id", other),
        ("payee", "substr(sha256(payee), 1, 20)"),
        ("weight", "weight + 1"),
        ("leaf", other),
    ] {
        run(&pool, &format!("UPDATE dataset_member SET {column} = {value}")).await;
        let found = findings(&pool).await;
        assert!(found.iter().any(|found| found.check == "member"), "{column} of the member: {found:#?}");
        run(&pool, BACK).await;
    }
    let of_totals = [
        ("provider", "substr(sha256(provider), 1, 20)"),
        ("records", "records + 1"),
        ("accepted", "accepted - 1"),
        ("batches", "batches + 1"),
        ("invalid_batches", "invalid_batches + 1"),
        ("points", "points + 1"),
        ("valid_points", "valid_points - 1"),
        ("claimed", "claimed + 1"),
        ("contributors", "contributors + 1"),
    ];
    tries_all_columns(&pool, "provider_total", &of_totals).await;
    for (column, value) in of_totals {
        run(&pool, &format!("UPDATE provider_total SET {column} = {value}")).await;
        let found = findings(&pool).await;
        assert!(found.iter().any(|found| found.check == "total"), "{column} of the totals: {found:#?}");
        run(&pool, BACK).await;
    }
    let [redeem, reward] =
        ["redeem", "reward"].map(|cause| ids.iter().filter(|id| id.starts_with(cause)).collect::<Vec<_>>());
    let cases = [
        // between two, and at the end, where only the lane's head and the cause know of it
        (format!("DELETE FROM ledger_transfer WHERE id = '{}'", reward[1]), "chain", reward[2].clone()),
        (format!("DELETE FROM ledger_transfer WHERE id = '{}'", reward[2]), "cause", reward[2].clone()),
        (format!("DELETE FROM ledger_transfer WHERE id = '{}'", reward[2]), "lane", "reward/".into()),
        (format!("DELETE FROM ledger_transfer WHERE id = '{}'", redeem[1]), "lane", "redeem/".into()),
        (
            format!(
                "UPDATE ledger_transfer AS a SET position = b.position, link = b.link FROM ledger_transfer AS b
                 WHERE (a.id, b.id) IN (('{0}', '{1}'), ('{1}', '{0}'))",
                reward[0], reward[1]
            ),
            "chain",
            reward[1].clone(),
        ),
        (
            format!("INSERT INTO ledger_transfer SELECT * FROM ledger_transfer WHERE id = '{}'", reward[0]),
            "id",
            reward[0].clone(),
        ),
        (
            "UPDATE ledger_account SET balance = balance + 1 WHERE kind = 'contributor'".into(),
            "balance",
            "contributor 0x".into(),
        ),
        ("UPDATE ledger_account SET balance = -5 WHERE kind = 'redeemed'".into(), "balance", "redeemed 0x".into()),
        ("DELETE FROM ledger_account WHERE kind = 'redeemed'".into(), "balance", "redeemed 0x".into()),
        ("UPDATE ledger_lane SET head = sha256(head)".into(), "lane", "redeem/".into()),
        ("DELETE FROM ledger_lane WHERE lane LIKE 'royalty/%'".into(), "lane", "royalty/".into()),
        (
            "DELETE FROM ledger_transfer WHERE cause = 'royalty'; DELETE FROM ledger_lane WHERE lane LIKE 'royalty/%'"
                .into(),
            "cause",
            "royalty/".into(),
        ),
        ("DELETE FROM royalty_split".into(), "split", "royalty/".into()),
        ("INSERT INTO royalty_split SELECT * FROM royalty_split".into(), "id", "royalty/".into()),
        (
            "INSERT INTO royalty_split SELECT license_id + 1, provider, ip_id, version, points_share, points_weight, cutoff_remainder,
                 cutoff_position FROM royalty_split"
                .into(),
            "split",
            "royalty/".into(),
        ),
        ("DELETE FROM provider_total".into(), "total", "0x".into()),
        ("UPDATE dataset_version SET purposes_differ = 1".into(), "total", "version 1 of".into()),
        ("UPDATE sale SET points_state = 'waiting'".into(), "cause", "royalty/".into()),
        ("UPDATE sale SET points_state = 'posted'; DELETE FROM dataset_member".into(), "member", "version 1 of".into()),
        // what the parts of sales don't cover: rewards were redeemed but for one unit, which royalties are more than
        (
            "UPDATE ledger_account SET balance = -(SELECT sum(points_share) FROM royalty_split) - 1 WHERE kind = 'contributor'".into(),
            "balance",
            "contributor 0x".into(),
        ),
        ("UPDATE ledger_account SET balance = -1 WHERE kind = 'royalties'".into(), "balance", "royalties 0x".into()),
        ("DELETE FROM ledger_account WHERE kind = 'royalties'".into(), "balance", "royalties 0x".into()),
    ];
    for (sql, check, row) in cases {
        run(&pool, &sql).await;
        let found = findings(&pool).await;
        assert!(found.iter().any(|found| found.check == check && found.row.starts_with(&row)), "{sql}: {found:#?}");
        run(&pool, BACK).await;
    }
    assert_eq!(findings(&pool).await, [], "as it was");
    run(&pool, &format!("UPDATE ledger_transfer SET amount = amount + 1 WHERE id = '{}'", reward[0])).await;
    let (lines, verified) = command(&url);
    assert!(!verified && lines.last().unwrap()["type"] == "not_verified", "{lines:?}");
    let chain = lines.iter().find(|line| line["type"] == "broken" && line["check"] == "chain").unwrap();
    assert_eq!(chain["row"], reward[0].as_str(), "the first broken row is named: {lines:?}");
    Ok(())
}

/// A ledger from before there was a chain gets the same links as one that was chained from its first row on.
#[tokio::test]
async fn a_ledger_without_a_chain_is_chained_as_if_it_had_always_been() -> anyhow::Result<()> {
    let (_forge, url) = Box::pin(ledger()).await?;
    let pool = connect(&url, 2).await?;
    run(
        &pool,
        "CREATE TABLE local.t AS TABLE ledger_transfer; CREATE TABLE local.l AS TABLE ledger_lane;
         ALTER TABLE ledger_transfer DISABLE TRIGGER ALL; ALTER TABLE ledger_lane DISABLE TRIGGER ALL;
         ALTER TABLE ledger_transfer DROP CONSTRAINT chained; UPDATE ledger_transfer SET position = NULL, link = NULL;
         DELETE FROM ledger_lane;
         ALTER TABLE ledger_transfer ENABLE TRIGGER ALL; ALTER TABLE ledger_lane ENABLE TRIGGER ALL;
         ALTER TABLE ledger_transfer ADD CONSTRAINT chained
             CHECK (position > 0 AND octet_length(link) = 32 AND num_nonnulls(position, link) = 2) NOT VALID;",
    )
    .await;
    assert!(findings(&pool).await.len() >= 6);
    run(&pool, &format!("BEGIN;{}COMMIT;", include_str!("../../indexer/migrations/0004_ledger_chain_fill.sql"))).await;
    let differ: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM (TABLE local.t EXCEPT TABLE ledger_transfer) AS x)
             + (SELECT count(*) FROM (TABLE local.l EXCEPT TABLE ledger_lane) AS x)",
    )
    .fetch_one(&pool)
    .await?;
    assert_eq!(differ, 0);
    assert_eq!(findings(&pool).await, []);
    Ok(())
}

/// The pages of a statement, the newest first.
async fn pages(indexer: &Service, account: &str, query: &str) -> anyhow::Result<Vec<Value>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = indexer.get(&format!("/v1/accounts/{account}?{query}{cursor}")).await?;
        let next = page["next_cursor"].as_str().map(str::to_owned);
        pages.push(page);
        match next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(pages),
        }
    }
}

fn units(value: &Value) -> i128 {
    value.as_str().unwrap().parse().unwrap()
}

/// What a page's transfers add to the account.
fn moved(page: &Value) -> i128 {
    let signed = |transfer: &Value| units(&transfer["amount"]) * if transfer["side"] == "credit" { 1 } else { -1 };
    page["transfers"].as_array().unwrap().iter().map(signed).sum()
}

#[tokio::test]
async fn a_statement_says_what_each_page_and_each_period_opens_and_closes_with() -> anyhow::Result<()> {
    let (forge, indexer) = Box::pin(served()).await?;
    let pool = connect(&forge.stack.postgres.url("ledger"), 1).await?;
    // a reward, a royalty and two redemptions
    let account: String = sqlx::query_scalar(
        "SELECT '0x' || encode(account, 'hex') FROM ledger_transfer GROUP BY account ORDER BY count(*) DESC LIMIT 1",
    )
    .fetch_one(&pool)
    .await?;
    let whole = pages(&indexer, &account, "limit=100").await?;
    assert_eq!((whole.len(), whole[0]["transfers"].as_array().unwrap().len()), (1, 4), "{whole:?}");
    assert_eq!((&whole[0]["opening"], &whole[0]["closing"]), (&"0".into(), &whole[0]["balance"]));
    assert_eq!(units(&whole[0]["closing"]), moved(&whole[0]));
    for limit in 1..=3 {
        let pages = pages(&indexer, &account, &format!("limit={limit}")).await?;
        assert_eq!(pages.len(), 4usize.div_ceil(limit));
        assert_eq!((&pages[0]["closing"], &pages.last().unwrap()["opening"]), (&whole[0]["closing"], &"0".into()));
        for page in &pages {
            assert_eq!(units(&page["closing"]) - units(&page["opening"]), moved(page), "{page}");
        }
        assert!(pages.windows(2).all(|two| two[0]["opening"] == two[1]["closing"]), "{pages:?}");
    }
    // a period for each block that moved it: they follow each other without a gap
    let mut blocks: Vec<u64> =
        whole[0]["transfers"].as_array().unwrap().iter().map(|row| row["block_number"].as_u64().unwrap()).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let mut before = 0;
    for block in &blocks {
        let period = pages(&indexer, &account, &format!("from_block={block}&until_block={block}&limit=1")).await?;
        let (opening, closing) = (units(&period.last().unwrap()["opening"]), units(&period[0]["closing"]));
        assert_eq!((opening, closing - opening), (before, period.iter().map(moved).sum()), "{period:?}");
        before = closing;
    }
    assert_eq!(before, units(&whole[0]["balance"]));
    let (first, last) = (blocks[0], blocks[blocks.len() - 1]);
    let none = pages(&indexer, &account, &format!("from_block={}", last + 1)).await?;
    assert_eq!((&none[0]["opening"], &none[0]["closing"]), (&whole[0]["balance"], &whole[0]["balance"]));
    let (_, early) = indexer.get(&format!("/v1/accounts/{account}?until_block={}", first - 1)).await?;
    assert_eq!((&early["opening"], &early["closing"]), (&"0".into(), &"0".into()));
    let url = format!("{}/v1/accounts/{account}?from_block=2&until_block=1", indexer.url());
    assert_eq!(reqwest::get(url).await?.status(), 400);
    Ok(())
}

/// The protocol knows no cause for a correction, so the schema takes none: not as a change, and not as a transfer back.
#[tokio::test]
async fn nothing_is_taken_back_from_an_account_but_by_a_redemption() -> anyhow::Result<()> {
    let (_forge, url) = Box::pin(ledger()).await?;
    let pool = connect(&url, 1).await?;
    let back = "credit_kind, credit_key, debit_kind, debit_key";
    let forth = "debit_kind, debit_key, credit_kind, credit_key";
    for (cause, sides, constraint) in [
        ("reward", back, "each_cause_has_its_two_accounts"),
        ("royalty", back, "each_cause_has_its_two_accounts"),
        ("redeem", back, "each_cause_has_its_two_accounts"),
        ("correction", back, "each_cause_has_its_two_accounts"),
        ("correction", forth, "ledger_transfer_cause_check"),
    ] {
        let sql = format!(
            "INSERT INTO ledger_transfer SELECT '{cause}/' || substr(id, 8) || '/back', '{cause}', provider, {sides}, amount,
                 account, data_id, block_number, block_time, tx_hash, position + 100, link
             FROM ledger_transfer WHERE cause = 'reward' LIMIT 1"
        );
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.expect_err(cause);
        assert_eq!(
            error.as_database_error().and_then(|error| error.constraint()),
            Some(constraint),
            "{cause}: {error}"
        );
    }
    for change in ["UPDATE ledger_transfer SET amount = amount - 1", "DELETE FROM ledger_transfer"] {
        sqlx::query(change).execute(&pool).await.expect_err(change);
    }
    Ok(())
}

/// The script that uses nothing of ours says what it found, and whether all of it is as the indexer says.
fn stranger(forge: &Forge, indexer: &Service) -> (Value, bool) {
    let store = forge.stack.store_address();
    let output = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/js/settlement.js"))
        .arg(forge.stack.chain.url())
        .arg(forge.stack.deployment_path())
        .arg(store.strip_prefix("folder:").unwrap())
        .arg(indexer.url())
        .output()
        .unwrap();
    let said = serde_json::from_slice(&output.stdout);
    (said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))), output.status.success())
}

#[tokio::test]
async fn a_stranger_reaches_the_same_points_from_chain_and_manifests_alone() -> anyhow::Result<()> {
    let (forge, indexer) = Box::pin(served()).await?;
    let (_, settlement) = indexer.get("/v1/settlement").await?;
    let numo = &settlement["providers"][0];
    assert_eq!(
        (&numo["due"], &numo["proven"], &numo["covered"]),
        (&numo["issued"], &true.into(), &true.into()),
        "{numo}"
    );
    let (said, same) = stranger(&forge, &indexer);
    // blocks come meanwhile
    let is_later = said["block_number"].as_u64() >= settlement["at"]["block_number"].as_u64();
    assert!(same && said["accounts"] == 3 && is_later, "{said}");

    let pool = connect(&forge.stack.postgres.url("ledger"), 1).await?;
    run(
        &pool,
        "ALTER TABLE ledger_account DISABLE TRIGGER ALL;
         UPDATE ledger_account SET balance = balance + 1 WHERE (kind, key) = (
             SELECT kind, max(key) FROM ledger_account WHERE kind = 'contributor' GROUP BY kind
         );
         UPDATE ledger_account SET balance = balance - 1 WHERE kind = 'issuer';",
    )
    .await;
    let (said, same) = stranger(&forge, &indexer);
    let differences = said["differences"].to_string();
    assert!(!same && differences.contains("numo issued") && differences.contains("account 0x"), "{said}");
    let (_, settlement) = indexer.get("/v1/settlement").await?;
    assert_eq!(settlement["providers"][0]["proven"], false, "{settlement}");
    Ok(())
}

/// The library makes no such list; a provider's own code might, and its attestor might sign it.
#[tokio::test]
async fn a_sale_of_a_version_in_which_a_pseudonym_comes_again_credits_nobody() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let [first, second] = [forge.accepted(0, "first", Address::ZERO)?, forge.accepted(2, "second", Address::ZERO)?];
    forge.anchor(&forge.batch(0, [first.clone(), second.clone()].concat()).await?).await?;
    let mut rows = [forge.member_row(&first[1]).await?, forge.member_row(&second[1]).await?];
    rows[1].member.contributor = rows[0].member.contributor;
    rows.sort_by_key(|row| row.member.data_id);
    let leaves: Vec<B256> = rows.iter().map(|row| row.member.leaf()).collect();
    let content = VersionContent {
        root: Tree::new(&leaves).unwrap().root(),
        member_count: 2,
        total_weight: 2,
        points_weight: 2,
        purposes: u32::MAX,
        manifest_cid: forge.stack.store()?.put(&encode_members(&rows)?).await?,
    };
    let ip_id = forge.register_dataset(&content).await?;
    let offer = market::publish_offer(&forge.stack, &forge.world, ip_id).await?;
    let sold = market::buy(&forge.stack, &forge.world, offer, 1, market::LICENSE_PRICE).await?;
    assert!(sold.pointsShare > 0, "{sold:?}");
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("ledger").await?;
    let dataset = format!("/v1/datasets/{ip_id}");
    let refused = indexer.until(&dataset, |_, answer| answer["versions"][0]["state"] == "invalid").await?;
    let reason = refused["versions"][0]["reason"].as_str();
    assert!(reason.is_some_and(|reason| reason.contains("pseudonym")), "{refused}");
    let issued = (forge.reward * 2).to_string();
    let settlement =
        indexer.until("/v1/settlement", |_, answer| answer["providers"][0]["issued"] == issued.as_str()).await?;
    let (said, same) = stranger(&forge, &indexer);
    assert!(same && said["accounts"] == 2, "{said}, {settlement}");
    Ok(())
}
