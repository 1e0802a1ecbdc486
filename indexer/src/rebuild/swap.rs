//! Puts new tables in the place of the served ones: holds their writer, checks, takes the locks and renames, in one transaction.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use alloy::{
    primitives::U256,
    providers::{DynProvider, Provider},
};
use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::{
    BEFORE,
    compare::behind,
    schema::{self, SWAPPED},
};

/// How long the served tables' writer may be held until the new tables are as far.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How often the locks on all tables are tried, and how long each time. Shorter than Postgres's `deadlock_timeout` of a second:
/// where a reader and the swap wait for each other, it is the swap that gives way.
const LOCK_TRIES_MAX: u32 = 60;
const LOCK_TIME: &str = "700ms";
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// How long each step of the swap itself may take.
const BOUNDS: &str = "SET LOCAL statement_timeout = '20s'; SET LOCAL lock_timeout = '5s'";

/// Points accounts that payouts hold more of than they have, by provider and account, and how much more.
type Overdrawn = HashMap<(Vec<u8>, Vec<u8>), U256>;

/// Swaps; `stop_building` ends whoever writes the new tables, once they are as far as the served ones.
pub async fn swap(
    connection: &mut PgConnection,
    rpc: &DynProvider,
    stop_building: impl AsyncFnOnce(),
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await.context("begin the swap")?;
    // the writer of the served tables waits from here on, before it has touched one; readers go on
    schema::run(&mut transaction, "SET LOCAL lock_timeout = '30s'".into()).await.context("bound the locks")?;
    crate::manifest::lock_tables(&mut transaction).await.context("hold the writer of the served tables")?;
    schema::run(&mut transaction, "LOCK TABLE mirror.cursor IN EXCLUSIVE MODE".into())
        .await
        .context("hold the cursor of the served tables")?;
    let begun = Instant::now();
    while let Some(what) = behind(&mut transaction).await.context("see how far the new tables are")? {
        anyhow::ensure!(
            begun.elapsed() < CATCH_UP_TIME_MAX,
            "the new tables do not catch up with the served ones: {what}"
        );
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    stop_building().await;
    check_chain(&mut transaction, rpc).await?;
    for [served, next, _] in SWAPPED {
        let otherwise = "one of them was made by another version: run `rebuild --discard`, then begin again";
        if served == "public" {
            schema::check_version(&mut transaction, served, otherwise).await?;
            schema::check_version(&mut transaction, next, otherwise).await?;
        }
    }
    schema::check_alike(&mut transaction).await?;
    let known = overdrawn(&mut transaction, "public").await?;
    refuse(overdrawn(&mut transaction, "public_next").await?, &known)?;
    lock_all(&mut transaction).await?;
    // everybody waits from here on
    schema::run(&mut transaction, BOUNDS.into()).await.context("bound the time of the swap")?;
    // the tables from before this rebuild are kept, and not those from before the one before
    schema::drop_schemas(&mut transaction, BEFORE).await?;
    schema::run(&mut transaction, GRANTS.into()).await.context("give the new tables the grants of the served ones")?;
    for [served, next, before] in SWAPPED {
        schema::run(
            &mut transaction,
            format!("ALTER SCHEMA {served} RENAME TO {before}; ALTER SCHEMA {next} RENAME TO {served}"),
        )
        .await
        .with_context(|| format!("rename schema {next} to {served}"))?;
    }
    // from here on `public` is what was built
    refuse(overdrawn_open(&mut transaction).await?, &known)?;
    schema::run(
        &mut transaction,
        "DELETE FROM local.scoped_item AS i WHERE data_id IS NOT NULL AND NOT EXISTS (
             SELECT FROM public.trace_record AS r WHERE (r.provider, r.data_id) = (i.provider, i.data_id))"
            .into(),
    )
    .await
    .context("forget items of scoped groups whose records are not disclosed")?;
    transaction.commit().await.context(
        "commit the swap: whether it was made is not known. It was where there is no schema public_next any more, and is not \
         where there is one; then run the same command again",
    )
}

/// Fails where the new tables are of another chain or deployment than the served ones, or of another past: the nodes that they
/// were built from have to have the served ones' last final block.
async fn check_chain(connection: &mut PgConnection, rpc: &DynProvider) -> anyhow::Result<()> {
    let row = sqlx::query(
        "SELECT (s.chain_id, s.provenance_log) = (n.chain_id, n.provenance_log), s.applied_number, s.applied_hash::bytea
         FROM mirror.cursor AS s, mirror_next.cursor AS n",
    )
    .fetch_one(connection)
    .await
    .context("read both cursors")?;
    let (same, number): (Option<bool>, i64) = (row.try_get(0)?, row.try_get(1)?);
    anyhow::ensure!(
        same == Some(true),
        "the new tables are of another chain or deployment than the served ones: run `rebuild --discard`, then begin again"
    );
    let Some(before) = row.try_get::<Option<Vec<u8>>, _>(2)? else { return Ok(()) };
    let height = u64::try_from(number).context("the cursor is below zero")?;
    let block = rpc.get_block_by_number(height.into()).await.context("ask the nodes for the served tables' block")?;
    let now = block.map(|block| block.header.hash);
    anyhow::ensure!(
        now.is_some_and(|now| now.as_slice() == before),
        "block {number} is 0x{} in the served tables, and {} to the nodes that the new ones were built from: the chain was \
         reorganised below its finality, or the nodes are of another one. Nothing was swapped; check the nodes",
        hex::encode(&before),
        now.map_or("none".into(), |now| now.to_string())
    );
    Ok(())
}

/// Accounts of which payouts hold more than the tables of a schema give them, by the sum that `local.payout_room` makes.
async fn overdrawn(connection: &mut PgConnection, schema: &str) -> anyhow::Result<Overdrawn> {
    let sql = format!(
        "SELECT provider, account, (held - has)::text FROM (
             SELECT open.provider, open.account, open.held,
                 coalesce((SELECT balance FROM {schema}.ledger_account AS a
                     WHERE a.provider = open.provider AND a.kind = 'contributor' AND a.key = open.account), 0)
                 + coalesce((SELECT sum(r.amount) FROM {schema}.royalty_part AS r
                     WHERE r.provider = open.provider AND r.account = open.account), 0)
                 - coalesce((SELECT sum(r.amount) FROM {schema}.points_redeemed AS r
                     WHERE r.provider = open.provider AND r.account = open.account AND r.state = 'waiting'), 0) AS has
             FROM (
                 SELECT p.provider::bytea, e.account::bytea, sum(e.amount) AS held
                 FROM local.payout_entry AS e JOIN local.payout AS p USING (payout_id)
                 WHERE p.state <> 'voided' AND NOT EXISTS (
                     SELECT FROM {schema}.points_redeemed AS m WHERE m.provider = p.provider AND m.payout_id = e.debit_id)
                 GROUP BY 1, 2
             ) AS open
         ) AS sums WHERE held > has"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.context("add up what payouts hold")?;
    read(&rows)
}

/// The same of payouts under way, by the function that the triggers ask, once the new tables are in their place.
async fn overdrawn_open(connection: &mut PgConnection) -> anyhow::Result<Overdrawn> {
    let rows = sqlx::query(
        "SELECT open.provider::bytea, room.account, (room.held + room.waiting - room.balance)::text
         FROM (SELECT p.provider, array_agg(DISTINCT e.account::bytea) AS accounts
             FROM local.payout AS p JOIN local.payout_entry AS e USING (payout_id)
             WHERE p.state NOT IN ('posted', 'voided') GROUP BY p.provider) AS open
         CROSS JOIN LATERAL local.payout_room(open.provider, open.accounts) AS room
         WHERE room.balance - room.held - room.waiting < 0",
    )
    .fetch_all(connection)
    .await
    .context("add up what payouts under way hold")?;
    read(&rows)
}

fn read(rows: &[sqlx::postgres::PgRow]) -> anyhow::Result<Overdrawn> {
    rows.iter()
        .map(|row| {
            let short: String = row.try_get(2)?;
            Ok(((row.try_get(0)?, row.try_get(1)?), short.parse().context("an account is short of a number")?))
        })
        .collect()
}

/// Fails where an account is short of more than it is known to be.
fn refuse(overdrawn: Overdrawn, known: &Overdrawn) -> anyhow::Result<()> {
    let new: Vec<String> = overdrawn
        .into_iter()
        .filter(|(account, short)| known.get(account).is_none_or(|known| short > known))
        .map(|((provider, account), _)| format!("0x{} of provider 0x{}", hex::encode(&account), hex::encode(&provider)))
        .collect();
    anyhow::ensure!(
        new.is_empty(),
        "payouts hold more than these {} points accounts have in the new tables: {}. Nothing was swapped. The served tables gave \
         them more than chain and content store do, so look at these payouts first",
        new.len(),
        new.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// All tables of both, so that nobody is in the middle of either when their names change.
async fn lock_all(connection: &mut PgConnection) -> anyhow::Result<()> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('public', 'mirror', 'public_next', 'mirror_next') AND c.relkind = 'r'
         ORDER BY n.nspname = 'mirror' AND c.relname = 'cursor' DESC, n.nspname, c.relname",
    )
    .fetch_all(&mut *connection)
    .await
    .context("list the tables")?;
    let sql = format!(
        "SET LOCAL lock_timeout = '{LOCK_TIME}'; SET LOCAL statement_timeout = '{LOCK_TIME}'; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
        tables.join(", ")
    );
    for tried in 1..=LOCK_TRIES_MAX {
        let mut attempt = connection.begin().await.context("begin to lock the tables")?;
        match schema::run(&mut attempt, sql.clone()).await {
            Ok(()) => {
                return attempt.commit().await.context("keep the locks");
            }
            Err(error) => {
                attempt.rollback().await.context("let go of the locks")?;
                // 55P03 lock_not_available, 57014 query_canceled, 40P01 deadlock_detected
                let waits = error.as_database_error().and_then(|error| error.code());
                if !waits.is_some_and(|code| ["55P03", "57014", "40P01"].contains(&&*code)) {
                    return Err(error).context("lock the tables");
                }
                tracing::info!(tried, "somebody reads for long: trying again to lock the tables");
                tokio::time::sleep(LOCK_PAUSE).await;
            }
        }
    }
    anyhow::bail!(
        "the tables could not be locked, {LOCK_TRIES_MAX} times: somebody holds them for long (pg_stat_activity says who). Nothing \
         was swapped; run the same command again"
    )
}

/// What a role may do with the served schemas, their tables and columns, and would be given on tables made later.
const GRANTS: &str = "DO $$
DECLARE
    part RECORD;
BEGIN
    FOR part IN
        WITH schemas AS (
            SELECT n.oid AS served, n.nspname AS name, n.nspowner AS owner, n.nspacl AS acl, n.nspname || '_next' AS next
            FROM pg_namespace AS n WHERE n.nspname IN ('public', 'mirror')
        ), grants AS (
            SELECT acl.privilege_type AS privilege, format('SCHEMA %I', next) AS thing, acl.grantee, acl.is_grantable, owner
            FROM schemas CROSS JOIN LATERAL aclexplode(acl) AS acl
            UNION ALL
            SELECT acl.privilege_type, format('TABLE %I.%I', next, c.relname), acl.grantee, acl.is_grantable, c.relowner
            FROM schemas JOIN pg_class AS c ON c.relnamespace = served AND c.relkind IN ('r', 'v')
            CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
            UNION ALL
            SELECT format('%s (%I)', acl.privilege_type, a.attname), format('TABLE %I.%I', next, c.relname), acl.grantee,
                acl.is_grantable, c.relowner
            FROM schemas JOIN pg_class AS c ON c.relnamespace = served AND c.relkind IN ('r', 'v')
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
            CROSS JOIN LATERAL aclexplode(a.attacl) AS acl
        )
        SELECT format('GRANT %s ON %s TO %s%s', privilege, thing,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS sql
        FROM grants WHERE grantee <> owner
        UNION ALL
        SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT %s ON %s TO %s%s',
            pg_get_userbyid(d.defaclrole), next, acl.privilege_type,
            CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END,
            CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
            CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM schemas JOIN pg_default_acl AS d ON d.defaclnamespace = served CROSS JOIN LATERAL aclexplode(d.defaclacl) AS acl
        WHERE acl.grantee <> d.defaclrole
    LOOP
        EXECUTE part.sql;
    END LOOP;
END $$";
