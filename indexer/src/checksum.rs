//! One checksum per table of schema public, whatever the physical order: how two indexers are compared.

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

/// A table's name, its rows, and the sum of its rows' hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChecksum {
    /// Name in schema public.
    pub table: String,
    /// Rows.
    pub rows: i64,
    /// 32 hex digits: two sums of 64-bit parts of each row's SHA-256.
    pub checksum: String,
}

/// All tables by name, at one snapshot. sqlx's own table holds times and is left out.
pub async fn checksums(pool: &PgPool) -> Result<Vec<TableChecksum>, sqlx::Error> {
    let mut snapshot = crate::read::snapshot(pool).await?;
    of_schema(&mut snapshot, "public", None).await
}

/// The same of another schema; of the mirrored logs, only those up to a block, where one is given.
pub async fn of_schema(
    connection: &mut PgConnection,
    schema: &str,
    mirrored_max: Option<i64>,
) -> Result<Vec<TableChecksum>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = $1 AND table_type = 'BASE TABLE' AND table_name <> '_sqlx_migrations'
         ORDER BY table_name",
    )
    .bind(schema)
    .fetch_all(&mut *connection)
    .await?;
    let mut checksums = Vec::with_capacity(tables.len());
    for table in tables {
        let bound = match (table.as_str(), mirrored_max) {
            ("chain_log", Some(block)) => format!("WHERE t.block_number <= {block}"),
            _ => String::new(),
        };
        // the names come from the catalogue, and are quoted
        let sql = format!(
            "SELECT count(*), lpad(to_hex(mod(coalesce(sum(a), 0), 9223372036854775807)::bigint), 16, '0')
                 || lpad(to_hex(mod(coalesce(sum(b), 0), 9223372036854775807)::bigint), 16, '0')
             FROM (
                 SELECT ('x' || substr(h, 1, 15))::bit(60)::bigint::numeric AS a,
                        ('x' || substr(h, 16, 15))::bit(60)::bigint::numeric AS b
                 FROM (SELECT encode(sha256(convert_to(t::text, 'UTF8')), 'hex') AS h FROM {}.{} AS t {bound}) AS hashed
             ) AS parts",
            quoted(schema),
            quoted(&table)
        );
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
        checksums.push(TableChecksum { table, rows: row.try_get(0)?, checksum: row.try_get(1)? });
    }
    Ok(checksums)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
