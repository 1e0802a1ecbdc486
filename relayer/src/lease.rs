//! Leases: of several relayers on one database, one at a time seals a provider's batches or sends from a key.
//!
//! A row names who holds the work and until when, by the database's clock. Whoever holds it renews it; a process that died,
//! or lost the database, is succeeded once the time is up. One that was only asleep finds its writes refused: each of them
//! is made in a transaction that first asks whether the lease is still its own ([`Leases::begin`]).

use std::time::Duration;

use anyhow::ensure;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::intake::Tx;

/// What this process may work at.
pub struct Leases {
    db: PgPool,
    /// This process, as long as it runs.
    me: Uuid,
    time_ms: i64,
}

impl Leases {
    /// For one process.
    pub fn new(db: PgPool, time: Duration) -> anyhow::Result<Self> {
        Ok(Self { db, me: Uuid::new_v4(), time_ms: i64::try_from(time.as_millis())? })
    }

    /// Takes a lease that nobody holds, or renews it; false where somebody else has it.
    pub async fn hold(&self, name: &str) -> sqlx::Result<bool> {
        // not excluded.until, which is of before the wait for whoever writes under the lease
        let held = sqlx::query(
            "INSERT INTO lease (name, holder, until) VALUES ($1, $2, clock_timestamp() + $3 * interval '1 ms')
             ON CONFLICT (name) DO UPDATE
                 SET holder = excluded.holder, until = clock_timestamp() + $3 * interval '1 ms'
             WHERE lease.holder = excluded.holder OR lease.until <= clock_timestamp()",
        )
        .bind(name)
        .bind(self.me)
        .bind(self.time_ms)
        .execute(&self.db)
        .await?;
        Ok(held.rows_affected() == 1)
    }

    /// A transaction of the lease's holder: it fails where that is somebody else by now, and nobody can take the lease over
    /// before it ends.
    pub async fn begin(&self, name: &str) -> anyhow::Result<Tx<'_>> {
        let mut tx = self.db.begin().await?;
        let held =
            sqlx::query("SELECT FROM lease WHERE name = $1 AND holder = $2 AND until > clock_timestamp() FOR SHARE")
                .bind(name)
                .bind(self.me)
                .fetch_optional(&mut *tx)
                .await?;
        ensure!(held.is_some(), "another process has taken over: {name}");
        Ok(tx)
    }

    /// Names that start so and are held, by whichever process.
    pub async fn held(&self, prefix: &str) -> sqlx::Result<Vec<String>> {
        sqlx::query_scalar("SELECT name FROM lease WHERE starts_with(name, $1) AND until > clock_timestamp()")
            .bind(prefix)
            .fetch_all(&self.db)
            .await
    }

    /// Whether this process holds it.
    pub async fn is_mine(&self, name: &str) -> sqlx::Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM lease WHERE name = $1 AND holder = $2 AND until > clock_timestamp())",
        )
        .bind(name)
        .bind(self.me)
        .fetch_one(&self.db)
        .await
    }

    /// Lets go of a lease, so that nobody has to wait for its time to be up.
    pub async fn release(&self, name: &str) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM lease WHERE name = $1 AND holder = $2")
            .bind(name)
            .bind(self.me)
            .execute(&self.db)
            .await?;
        Ok(())
    }

    /// Renews what this process holds, until `stop`: a round may take longer than a lease.
    pub async fn renew(&self, stop: &CancellationToken) {
        let time = Duration::from_millis(self.time_ms.unsigned_abs() / 3);
        while stop.run_until_cancelled(tokio::time::sleep(time)).await.is_some() {
            let renewed = sqlx::query(
                "UPDATE lease SET until = clock_timestamp() + $2 * interval '1 ms'
                 WHERE holder = $1 AND until > clock_timestamp()",
            )
            .bind(self.me)
            .bind(self.time_ms)
            .execute(&self.db)
            .await;
            if let Err(error) = renewed {
                tracing::warn!(%error, "leases were not renewed");
            }
        }
    }

    /// Lets go of everything, at the end of the process.
    pub async fn release_all(&self) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM lease WHERE holder = $1").bind(self.me).execute(&self.db).await?;
        Ok(())
    }
}
