//! What has to hold after faults: what is there is whole at any time, all tables are those of an index made anew, and the
//! ledger verifies.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use anyhow::{Result, ensure};
use serde_json::Value;
use sqlx::{PgConnection, Row};

use super::{DATABASE, Ground};
use crate::{
    services::{Service, Wiring},
    story::strangers::{Checksums, checksums, differences},
};

const TIME_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);

impl Ground {
    /// Nothing is in the tables beyond where the cursor says they are: what was killed left whole transactions.
    pub(super) async fn check_whole(&self) -> Result<()> {
        let mut db = self.forge.stack.postgres.connect(DATABASE).await?;
        let torn: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM chain_log AS l, mirror.cursor AS c WHERE l.block_number > c.mirrored_number)
                 + (SELECT count(*) FROM policy AS p, mirror.cursor AS c WHERE p.block_number > c.applied_number)
                 + (SELECT count(*) FROM batch AS b, mirror.cursor AS c WHERE b.block_number > c.applied_number)",
        )
        .fetch_one(&mut db)
        .await?;
        ensure!(torn == 0, "{torn} rows are beyond the cursor");
        Ok(())
    }

    /// Waits until the indexer has the chain's newest block, and all that is final in its tables.
    pub(super) async fn until_level(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIME_MAX;
        let (latest, finalized) = (self.header("latest").await?, self.header("finalized").await?);
        loop {
            self.keep_running()?;
            let at = cursor(&mut self.forge.stack.postgres.connect(DATABASE).await?).await?;
            if at == (Some(hash(&latest)?), Some(hash(&finalized)?)) {
                return Ok(());
            }
            let status = self.indexer.get("/status").await.map_or(Value::Null, |(_, status)| status);
            ensure!(status["halted"].is_null(), "the indexer has stopped for good: {}", status["halted"]);
            ensure!(
                Instant::now() < deadline,
                "the indexer does not become level: {status}; {}",
                self.indexer.log_tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes an index anew and waits until both are the same; gives its checksums.
    pub(super) async fn compare(&mut self, fresh: &str) -> Result<Checksums> {
        let postgres = &self.forge.stack.postgres;
        let mut second = self.forge.stack.launch_second_indexer(fresh).await?;
        let deadline = Instant::now() + TIME_MAX;
        let (one, other) = (cursor(&mut postgres.connect(DATABASE).await?).await?, fresh);
        // until it has made its tables there is no cursor
        while cursor(&mut postgres.connect(other).await?).await.ok() != Some(one) {
            ensure!(Instant::now() < deadline, "an index made anew does not become level; {}", second.log_tail());
            tokio::time::sleep(POLL).await;
        }
        let sums = loop {
            let first = checksums(&postgres.url(DATABASE)).await?;
            let differing = differences(&first, &checksums(&postgres.url(fresh)).await?);
            if differing.is_empty() {
                break first;
            }
            ensure!(Instant::now() < deadline, "an index made anew has other rows in: {}", differing.join(", "));
            tokio::time::sleep(POLL).await;
        };
        self.indexer.run_once(&ledger_verify(&self.indexer))?;
        second.stop();
        postgres.drop_database(fresh).await?;
        Ok(sums)
    }
}

fn ledger_verify(indexer: &Service) -> Wiring {
    let arguments = vec!["ledger".to_owned(), "verify".to_owned()];
    Wiring { name: "ledger-verify".into(), arguments, ..indexer.wiring().clone() }
}

fn hash(header: &Value) -> Result<B256> {
    Ok(serde_json::from_value(header["hash"].clone())?)
}

/// Hashes of the newest mirrored block and of the newest applied one.
async fn cursor(db: &mut PgConnection) -> Result<(Option<B256>, Option<B256>)> {
    let row = sqlx::query("SELECT mirrored_hash, applied_hash FROM mirror.cursor").fetch_optional(db).await?;
    let Some(row) = row else { return Ok((None, None)) };
    let hash = |at: usize| -> Result<Option<B256>> {
        Ok(row.try_get::<Option<Vec<u8>>, _>(at)?.map(|bytes| B256::try_from(bytes.as_slice())).transpose()?)
    };
    Ok((hash(0)?, hash(1)?))
}
