//! One checksum per table of schema public, whatever the physical order: how two indexers are compared.

use sqlx::{AssertSqlSafe, PgPool, Row};

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
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name <> '_sqlx_migrations'
         ORDER BY table_name",
    )
    .fetch_all(&mut *snapshot)
    .await?;
    let mut checksums = Vec::with_capacity(tables.len());
    for table in tables {
        // the name comes from the catalogue, and is quoted
        let sql = format!(
            "SELECT count(*), lpad(to_hex(mod(coalesce(sum(a), 0), 9223372036854775807)::bigint), 16, '0')
                 || lpad(to_hex(mod(coalesce(sum(b), 0), 9223372036854775807)::bigint), 16, '0')
             FROM (
                 SELECT ('x' || substr(h, 1, 15))::bit(60)::bigint::numeric AS a,
                        ('x' || substr(h, 16, 15))::bit(60)::bigint::numeric AS b
                 FROM (SELECT encode(sha256(convert_to(t::text, 'UTF8')), 'hex') AS h FROM public.\"{}\" AS t) AS hashed
             ) AS parts",
            table.replace('"', "\"\"")
        );
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *snapshot).await?;
        checksums.push(TableChecksum { table, rows: row.try_get(0)?, checksum: row.try_get(1)? });
    }
    Ok(checksums)
}
