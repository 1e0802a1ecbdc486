//! The schemas that a rebuild makes, and those that it leaves behind: made by the migrations, dropped, held against each other.

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::serve::MIGRATIONS;

/// What follows from the chain: as it is served, as it is being built, and as it was before the last swap.
pub const SWAPPED: [[&str; 3]; 2] =
    [["public", "public_next", "public_before"], ["mirror", "mirror_next", "mirror_before"]];

/// What is never swapped; hidden while the migrations make everything once more.
const KEPT: [&str; 2] = ["local", "types"];
const HIDDEN: &str = "_served";

/// The search path of what is being built.
pub const NEXT_PATH: &str = "public_next,mirror_next,types";

/// Runs statements that name schemas, out of constants of this module.
pub async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Whether a schema is there.
pub async fn exists(connection: &mut PgConnection, schema: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL").bind(schema).fetch_one(connection).await
}

/// Fails where the migrations that made a schema are not this program's.
pub async fn check_version(connection: &mut PgConnection, schema: &str, otherwise: &str) -> anyhow::Result<()> {
    let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    let found: Option<String> = sqlx::query_scalar("SELECT to_regclass($1 || '._sqlx_migrations')::text")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await
        .context("look for the tables' version")?;
    let found: Vec<i64> = match found {
        None => Vec::new(),
        Some(_) => {
            let sql = format!("SELECT version FROM {schema}._sqlx_migrations WHERE success ORDER BY version");
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.context("read the tables' version")?
        }
    };
    anyhow::ensure!(
        found == known,
        "the migrations of schema {schema} are {found:?}, and this program's are {known:?}: {otherwise}"
    );
    Ok(())
}

/// Makes empty schemas beside those that are served. All in one transaction, in which the served ones have other names, so that
/// the migrations run as they do on an empty database; nobody else sees any of it before it is done.
pub async fn make(connection: &mut PgConnection) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await.context("begin to make the new schemas")?;
    let served = || SWAPPED.iter().map(|names| names[0]).chain(KEPT);
    for schema in served() {
        run(&mut transaction, format!("ALTER SCHEMA {schema} RENAME TO {schema}{HIDDEN}"))
            .await
            .with_context(|| format!("put schema {schema} aside: the role must own the database"))?;
    }
    run(&mut transaction, "CREATE SCHEMA public".into()).await.context("make schema public anew")?;
    MIGRATIONS.run(&mut *transaction).await.context("run the migrations in the new schemas")?;
    // what a swap changes are names: columns keep to the types that are there, else a statement's answer would change its type
    run(&mut transaction, RETYPE.replace("types_served", &format!("types{HIDDEN}")))
        .await
        .context("give the new tables the types of the served ones")?;
    // both are empty copies; the types go without CASCADE: it would take columns with it
    run(&mut transaction, format!("DROP SCHEMA local CASCADE; {DROP_TYPES}; DROP SCHEMA types"))
        .await
        .context("drop what the migrations made beside the new tables")?;
    for [served, next, _] in SWAPPED {
        run(&mut transaction, format!("ALTER SCHEMA {served} RENAME TO {next}"))
            .await
            .context("name the new schemas")?;
    }
    for schema in served() {
        run(&mut transaction, format!("ALTER SCHEMA {schema}{HIDDEN} RENAME TO {schema}"))
            .await
            .with_context(|| format!("give schema {schema} its name back"))?;
    }
    check_alike(&mut transaction).await?;
    transaction.commit().await.context("commit the new schemas")
}

/// Views, and triggers that name columns, are in the way of a column's new type: they are taken away and come back.
const RETYPE: &str = "DO $$
DECLARE
    part RECORD;
    views TEXT[];
    triggers TEXT[];
    again TEXT;
BEGIN
    SELECT array_agg(pg_get_triggerdef(t.oid) ORDER BY t.oid) INTO triggers
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'mirror') AND NOT t.tgisinternal;
    FOR part IN
        SELECT format('%I ON %I.%I', t.tgname, n.nspname, c.relname) AS name
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'mirror') AND NOT t.tgisinternal
    LOOP
        EXECUTE 'DROP TRIGGER ' || part.name;
    END LOOP;
    SELECT array_agg(format('CREATE VIEW %I.%I AS %s', n.nspname, c.relname, pg_get_viewdef(c.oid)) ORDER BY c.oid) INTO views
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'mirror') AND c.relkind = 'v';
    FOR part IN
        SELECT format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'mirror') AND c.relkind = 'v' ORDER BY c.oid DESC
    LOOP
        EXECUTE 'DROP VIEW ' || part.name;
    END LOOP;
    FOR part IN
        SELECT format('%I.%I', n.nspname, c.relname) AS name,
            string_agg(format('ALTER COLUMN %I TYPE types_served.%I', a.attname, t.typname), ', ' ORDER BY a.attnum) AS columns
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type AS t ON t.oid = a.atttypid JOIN pg_namespace AS of_type ON of_type.oid = t.typnamespace
        WHERE n.nspname IN ('public', 'mirror') AND c.relkind = 'r' AND of_type.nspname = 'types'
        GROUP BY n.nspname, c.relname, c.oid ORDER BY c.oid
    LOOP
        EXECUTE format('ALTER TABLE %s %s', part.name, part.columns);
    END LOOP;
    FOREACH again IN ARRAY coalesce(views, '{}') || coalesce(triggers, '{}') LOOP
        EXECUTE again;
    END LOOP;
END $$";

const DROP_TYPES: &str = "DO $$
DECLARE
    gone TEXT;
BEGIN
    FOR gone IN SELECT format('types.%I', typname) FROM pg_type
        WHERE typnamespace = to_regnamespace('types') AND typtype = 'd'
    LOOP
        EXECUTE 'DROP DOMAIN ' || gone;
    END LOOP;
END $$";

/// Fails where the served schemas hold what the migrations do not make: it would stay behind with the old tables.
pub async fn check_alike(connection: &mut PgConnection) -> anyhow::Result<()> {
    let foreign: Vec<String> = sqlx::query_scalar(
        "WITH named AS (
             SELECT n.nspname::text AS schema, 'relation ' || c.relname AS name FROM pg_class AS c
             JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
             UNION ALL
             SELECT n.nspname::text, 'function ' || p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
             UNION ALL
             SELECT n.nspname::text, 'extension ' || e.extname FROM pg_extension AS e
             JOIN pg_namespace AS n ON n.oid = e.extnamespace
             UNION ALL
             SELECT n.nspname, own.name || ' of ' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             CROSS JOIN LATERAL (
                 SELECT 'row security' WHERE c.relrowsecurity
                 UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = c.oid
                 UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
                 UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = c.oid AND rulename <> '_RETURN'
             ) AS own (name) WHERE c.relkind = 'r'
         )
         SELECT DISTINCT schema || ': ' || name FROM named AS served
         WHERE schema IN ('public', 'mirror')
           AND NOT EXISTS (SELECT FROM named WHERE named.schema = served.schema || '_next' AND named.name = served.name)
         ORDER BY 1 LIMIT 20",
    )
    .fetch_all(&mut *connection)
    .await
    .context("compare the new schemas with the served ones")?;
    anyhow::ensure!(
        foreign.is_empty(),
        "the indexer's schemas hold what is not its own, which a swap would leave with the old tables: {}. Move it to another \
         schema (ALTER … SET SCHEMA), then begin again",
        foreign.join(", ")
    );
    let bound: Vec<String> = sqlx::query_scalar(
        "WITH served AS (
             SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname IN ('public', 'mirror')
         ), outside AS (
             SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname NOT IN ('public', 'mirror')
         )
         SELECT 'view ' || outside.name FROM pg_depend AS d
             JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
             JOIN outside ON outside.oid = r.ev_class JOIN served ON served.oid = d.refobjid
             WHERE d.refclassid = 'pg_class'::regclass
         UNION
         SELECT 'foreign key of ' || outside.name FROM pg_constraint AS k
             JOIN outside ON outside.oid = k.conrelid JOIN served ON served.oid = k.confrelid WHERE k.contype = 'f'
         UNION
         SELECT 'foreign key to ' || outside.name FROM pg_constraint AS k
             JOIN outside ON outside.oid = k.confrelid JOIN served ON served.oid = k.conrelid WHERE k.contype = 'f'
         ORDER BY 1 LIMIT 20",
    )
    .fetch_all(connection)
    .await
    .context("look for what leads to the served tables")?;
    anyhow::ensure!(
        bound.is_empty(),
        "what is outside of the indexer's schemas leads to its tables and would stay with the old ones: {}. Drop it before, and \
         make it again afterwards",
        bound.join(", ")
    );
    Ok(())
}

/// Fails where the tables are another role's: it would have no right on the new ones.
pub async fn check_owner(connection: &mut PgConnection) -> anyhow::Result<()> {
    let others: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('public', 'mirror') AND c.relkind IN ('r', 'v') AND pg_get_userbyid(c.relowner) <> current_user
         ORDER BY 1 LIMIT 10",
    )
    .fetch_all(connection)
    .await
    .context("see whose the served tables are")?;
    anyhow::ensure!(
        others.is_empty(),
        "the served tables are those of {}: rebuild as the role that `serve` runs as, which has to own them all",
        others.join(", ")
    );
    Ok(())
}

/// Drops what is half built, or what is left from before the last swap; true where there was something.
pub async fn drop_schemas(connection: &mut PgConnection, which: usize) -> anyhow::Result<bool> {
    let names: Vec<&str> = SWAPPED.iter().filter_map(|names| names.get(which).copied()).collect();
    let mut there = false;
    for name in &names {
        there |= exists(connection, name).await.context("look for the schemas")?;
    }
    if there {
        run(connection, format!("DROP SCHEMA IF EXISTS {} CASCADE", names.join(", ")))
            .await
            .with_context(|| format!("drop {}", names.join(" and ")))?;
    }
    Ok(there)
}
