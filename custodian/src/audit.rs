//! The audit list: every release, in the custodian's own database, before its answer leaves.

use std::{str::FromStr, time::Duration};

use alloy::primitives::{Address, B256, U256};
use sqlx::{
    PgPool, Row,
    postgres::{PgConnectOptions, PgRow},
};
use tidemark::{ids::DataId, service::pool_options};
use uuid::Uuid;

use crate::chain::Block;

/// Releases on one page at most.
pub const PAGE_ROWS_MAX: u32 = 200;
/// Releases on a page that names no limit.
pub const PAGE_ROWS_DEFAULT: u32 = 50;

const CONNECTIONS_MAX: u32 = 8;
const ACQUIRE_TIME_MAX: Duration = Duration::from_secs(5);

/// Why the database gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The URL is none. Its text is not repeated, as it may hold a password.
    #[error("database URL: expected postgres://user@host:port/database")]
    Url,
    /// A statement failed.
    #[error("failed to {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The migrations failed.
    #[error("failed to bring the database's tables up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row that no version of this program wrote.
    #[error("release {number}: column {column} holds what no release has")]
    Row {
        /// Which row.
        number: i64,
        /// Which column.
        column: &'static str,
    },
}

fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> AuditError {
    move |source| AuditError::Sql { doing, source }
}

/// One release, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Place in the list.
    pub number: i64,
    /// Its id, which the holder got too.
    pub id: Uuid,
    /// Under which licence.
    pub license_id: U256,
    /// Which record's key.
    pub data_id: DataId,
    /// To whom.
    pub holder: Address,
    /// Where the chain allowed it.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: B256,
    /// RFC 3339, UTC.
    pub released_at: String,
}

/// What is written of a release.
#[derive(Clone, Debug)]
pub struct NewRelease<'a> {
    /// Under which licence.
    pub license_id: U256,
    /// Which record's key.
    pub data_id: DataId,
    /// To whom.
    pub holder: Address,
    /// EIP-712 digest of the request.
    pub request_digest: B256,
    /// Where the chain allowed it.
    pub block: &'a Block,
}

/// The custodian's own database.
#[derive(Clone, Debug)]
pub struct Audit {
    pool: PgPool,
}

impl Audit {
    /// Connects and brings the tables up to date.
    pub async fn connect(database_url: &str) -> Result<Self, AuditError> {
        let options = PgConnectOptions::from_str(database_url)
            .map_err(|_| AuditError::Url)?
            .application_name("tidemark-custodian")
            .options([("statement_timeout", "5000")]);
        let pool = pool_options()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIME_MAX)
            .connect_with(options)
            .await
            .map_err(failed("connect to the database"))?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(AuditError::Migrate)?;
        Ok(Self { pool })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), AuditError> {
        sqlx::query("SELECT 1 FROM releases LIMIT 1")
            .execute(&self.pool)
            .await
            .map_err(failed("reach the database"))?;
        Ok(())
    }

    /// Writes a release durably; the same request of the same holder is the release it was the first time.
    pub async fn record(&self, release: &NewRelease<'_>) -> Result<Release, AuditError> {
        let block_number = i64::try_from(release.block.number).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO releases (id, license_id, data_id, holder, request_digest, block_number, block_hash)
             VALUES ($1, $2::text::numeric, $3, $4, $5, $6, $7)
             ON CONFLICT (request_digest, holder) DO NOTHING",
        )
        .bind(Uuid::new_v4())
        .bind(release.license_id.to_string())
        .bind(release.data_id.0)
        .bind(release.holder.as_slice())
        .bind(release.request_digest.as_slice())
        .bind(block_number)
        .bind(release.block.hash.as_slice())
        .execute(&self.pool)
        .await
        .map_err(failed("write the release"))?;
        let row = sqlx::query(
            "SELECT number, id, license_id::text AS license_id, data_id, holder, block_number, block_hash,
                    to_char(released_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS released_at
             FROM releases WHERE request_digest = $1 AND holder = $2",
        )
        .bind(release.request_digest.as_slice())
        .bind(release.holder.as_slice())
        .fetch_one(&self.pool)
        .await
        .map_err(failed("read the release back"))?;
        read(&row)
    }

    /// Releases, newest first: of one record or of all, older than the cursor; at most [`PAGE_ROWS_MAX`] and one more.
    pub async fn list(
        &self,
        data_id: Option<DataId>,
        older_than: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Release>, AuditError> {
        let rows = sqlx::query(
            "SELECT number, id, license_id::text AS license_id, data_id, holder, block_number, block_hash,
                    to_char(released_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS released_at
             FROM releases
             WHERE ($1::uuid IS NULL OR data_id = $1) AND ($2::bigint IS NULL OR number < $2)
             ORDER BY number DESC LIMIT $3",
        )
        .bind(data_id.map(|id| id.0))
        .bind(older_than)
        .bind(i64::from(limit.min(PAGE_ROWS_MAX + 1)))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("list releases"))?;
        rows.iter().map(read).collect()
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn read(row: &PgRow) -> Result<Release, AuditError> {
    let column = failed("read a release");
    let number: i64 = row.try_get("number").map_err(column)?;
    let wrong = |column| AuditError::Row { number, column };
    let text: String = row.try_get("license_id").map_err(|_| wrong("license_id"))?;
    let holder: Vec<u8> = row.try_get("holder").map_err(|_| wrong("holder"))?;
    let block_number: i64 = row.try_get("block_number").map_err(|_| wrong("block_number"))?;
    let block_hash: Vec<u8> = row.try_get("block_hash").map_err(|_| wrong("block_hash"))?;
    Ok(Release {
        number,
        id: row.try_get("id").map_err(|_| wrong("id"))?,
        license_id: U256::from_str_radix(&text, 10).map_err(|_| wrong("license_id"))?,
        data_id: DataId(row.try_get("data_id").map_err(|_| wrong("data_id"))?),
        holder: Address::try_from(holder.as_slice()).map_err(|_| wrong("holder"))?,
        block_number: u64::try_from(block_number).map_err(|_| wrong("block_number"))?,
        block_hash: B256::try_from(block_hash.as_slice()).map_err(|_| wrong("block_hash"))?,
        released_at: row.try_get("released_at").map_err(|_| wrong("released_at"))?,
    })
}
