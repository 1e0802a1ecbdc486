//! What is in batches, for readers: events page by page, their inclusion proofs out of a few cached trees, and how old what
//! no block has yet is.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::{Address, B256};
use anyhow::Context;
use sqlx::{PgPool, Row};
use tidemark::{ids::DataId, merkle::Tree};
use tokio::sync::Semaphore;

/// Leaves of all cached trees; a leaf takes about 68 bytes in its tree.
const LEAVES_MAX: usize = 1 << 20;
const TREES_MAX: usize = 256;
/// Trees built at once, so that a rush of readers does not take all memory and both cores.
const BUILDS_AT_ONCE: usize = 2;

type Key = (Address, i64);

/// Trees of sealed batches, which never change; the least lately used ones go first.
pub struct Trees {
    /// Newest use last.
    cached: Mutex<VecDeque<(Key, usize, Arc<Tree>)>>,
    builds: Semaphore,
}

impl Default for Trees {
    fn default() -> Self {
        Self { cached: Mutex::default(), builds: Semaphore::new(BUILDS_AT_ONCE) }
    }
}

impl Trees {
    /// The tree of a sealed batch.
    pub async fn of_batch(&self, db: &PgPool, provider: Address, number: i64) -> anyhow::Result<Arc<Tree>> {
        let key = (provider, number);
        if let Some(tree) = self.find(key) {
            return Ok(tree);
        }
        let _build = self.builds.acquire().await?;
        if let Some(tree) = self.find(key) {
            return Ok(tree);
        }
        let leaves: Vec<[u8; 32]> =
            sqlx::query_scalar("SELECT leaf FROM event WHERE provider = $1 AND batch_number = $2 ORDER BY batch_index")
                .bind(provider.0.0)
                .bind(number)
                .fetch_all(db)
                .await?;
        let count = leaves.len();
        let tree =
            tokio::task::spawn_blocking(move || Tree::new(&leaves.into_iter().map(B256::from).collect::<Vec<_>>()))
                .await?;
        let tree = Arc::new(tree.with_context(|| format!("batch {number} of {provider} has no events"))?);
        self.keep(key, count, Arc::clone(&tree));
        Ok(tree)
    }

    fn find(&self, key: Key) -> Option<Arc<Tree>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cached.iter().position(|(other, ..)| *other == key)?;
        let entry = cached.remove(at)?;
        let tree = Arc::clone(&entry.2);
        cached.push_back(entry);
        Some(tree)
    }

    fn keep(&self, key: Key, leaves: usize, tree: Arc<Tree>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|(other, ..)| *other != key);
        cached.push_back((key, leaves, tree));
        let mut total: usize = cached.iter().map(|(_, leaves, _)| leaves).sum();
        while cached.len() > TREES_MAX || (total > LEAVES_MAX && cached.len() > 1) {
            total -= cached.pop_front().map_or(0, |(_, leaves, _)| leaves);
        }
    }
}

/// An event of a batch.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Position in the batch.
    pub index: i32,
    /// Which record.
    pub data_id: DataId,
    /// Position in the record's chain.
    pub sequence: i32,
    /// `EventKind` as a number.
    pub kind: i16,
}

/// The events of a batch of a provider from an index on, ascending.
pub async fn list(db: &PgPool, provider: Address, number: i64, from: i32, limit: i64) -> sqlx::Result<Vec<Entry>> {
    let rows = sqlx::query(
        "SELECT batch_index, data_id, sequence, kind FROM event
         WHERE provider = $1 AND batch_number = $2 AND batch_index >= $3 ORDER BY batch_index LIMIT $4",
    )
    .bind(provider.0.0)
    .bind(number)
    .bind(from)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Entry {
                index: row.try_get(0)?,
                data_id: DataId(row.try_get(1)?),
                sequence: row.try_get(2)?,
                kind: row.try_get(3)?,
            })
        })
        .collect()
}

/// Age in seconds of the oldest event that is in no block: pending, or in its provider's first open batch.
pub async fn oldest_unanchored(db: &PgPool) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "SELECT extract(epoch FROM now() - least(
             (SELECT min(e.received_at) FROM (
                  SELECT DISTINCT ON (provider) provider, number FROM batch WHERE state NOT IN ('mined', 'final')
                  ORDER BY provider, number) AS b
              JOIN event e ON e.provider = b.provider AND e.batch_number = b.number),
             (SELECT min(received_at) FROM event WHERE batch_number IS NULL)))::bigint",
    )
    .fetch_one(db)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Arc<Tree> {
        Arc::new(Tree::new(&[B256::repeat_byte(1)]).unwrap())
    }

    #[test]
    fn cached_trees_are_bounded_and_the_least_lately_used_go_first() {
        let trees = Trees::default();
        let key = |number| (Address::ZERO, number);
        for number in 0..1_000 {
            trees.keep(key(number), 1, tree());
            trees.find(key(0));
        }
        assert_eq!(trees.cached.lock().unwrap().len(), TREES_MAX);
        assert!(trees.find(key(0)).is_some() && trees.find(key(1)).is_none() && trees.find(key(999)).is_some());
        // one that is as large as all stays alone
        trees.keep(key(2_000), LEAVES_MAX, tree());
        assert_eq!(trees.cached.lock().unwrap().len(), 1);
        assert!(trees.find(key(2_000)).is_some());
    }
}
