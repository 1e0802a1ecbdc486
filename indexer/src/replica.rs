//! How far behind a serving process is that another one writes for: it holds the tables against the node's head, by time.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::providers::Provider;
use sqlx::PgPool;
use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

use crate::{status::Status, sync::fetch::Chain};

/// Heads that are remembered; further apart the longer the tables lag.
const HEADS_MAX: usize = 1_024;

/// What the node's head was, and when.
#[derive(Debug, Default)]
struct Heads(VecDeque<(Instant, u64)>);

impl Heads {
    fn saw(&mut self, at: Instant, number: u64) {
        // the same head is as old as when it was seen first, unless the tables have it
        if self.0.back().is_none_or(|(_, newest)| *newest != number) {
            if self.0.len() == HEADS_MAX {
                // every other one behind the first two, from which the lag is counted: what is left tells it more coarsely
                let mut place = 0usize;
                self.0.retain(|_| {
                    place += 1;
                    place <= 2 || place % 2 == 1
                });
            }
            self.0.push_back((at, number));
        }
    }

    /// When the tables, which hold blocks up to `mirrored`, were last level with the node.
    fn level(&mut self, now: Instant, mirrored: u64) -> Option<Instant> {
        if self.0.back().is_some_and(|(_, newest)| *newest <= mirrored) {
            self.0.drain(..self.0.len() - 1);
            return Some(now);
        }
        // they were level until the first head came that they do not have
        while self.0.get(1).is_some_and(|(_, next)| *next <= mirrored) {
            self.0.pop_front();
        }
        match (self.0.front(), self.0.get(1)) {
            (Some((_, first)), Some((next_at, _))) if *first <= mirrored => Some(*next_at),
            _ => None,
        }
    }
}

/// Watches tables and node until stopped.
pub async fn watch(pool: PgPool, chain: Chain, status: Arc<Status>, poll: Duration, stop: CancellationToken) {
    let mut heads = Heads::default();
    loop {
        let error = look(&pool, &chain, &status, &mut heads).await.err();
        if let Some(error) = &error {
            tracing::warn!(%error, "whether the tables are level with the chain is not known");
        }
        status.update(|seen| seen.last_error = error);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(poll) => {}
        }
    }
}

async fn look(pool: &PgPool, chain: &Chain, status: &Status, heads: &mut Heads) -> Result<(), String> {
    let now = Instant::now();
    let latest = chain.rpc.get_block_number().await.map_err(|error| causes(&error))?;
    heads.saw(now, latest);
    let mirrored: i64 = sqlx::query_scalar("SELECT mirrored_number FROM cursor")
        .fetch_one(pool)
        .await
        .map_err(|error| causes(&error))?;
    let level = heads.level(now, u64::try_from(mirrored).unwrap_or_default());
    status.update(|seen| {
        seen.latest = Some(latest);
        seen.level_at = level.or(seen.level_at);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_counted_from_the_first_head_that_the_tables_do_not_have() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut heads = Heads::default();
        heads.saw(at(0), 10);
        assert_eq!(heads.level(at(0), 9), None, "never level yet");
        assert_eq!(heads.level(at(0), 10), Some(at(0)));
        for seconds in 1..=5 {
            heads.saw(at(seconds), 10 + seconds);
        }
        assert_eq!(heads.level(at(5), 10), Some(at(1)), "behind since 11 came");
        assert_eq!(heads.level(at(6), 13), Some(at(4)));
        assert_eq!(heads.level(at(7), 15), Some(at(7)));
        // a chain that stands still is no lag
        heads.saw(at(100), 15);
        assert_eq!(heads.level(at(100), 15), Some(at(100)));
    }

    #[test]
    fn heads_are_bounded_and_a_long_lag_is_still_seen() {
        let start = Instant::now();
        let mut heads = Heads::default();
        heads.saw(start, 0);
        assert!(heads.level(start, 0).is_some());
        for number in 1..10_000 {
            heads.saw(start + Duration::from_secs(number), number);
        }
        assert!(heads.0.len() <= HEADS_MAX);
        let lag = start + Duration::from_secs(10_000) - heads.level(start + Duration::from_secs(10_000), 0).unwrap();
        assert!(lag > Duration::from_secs(5_000), "{lag:?}");
    }
}
