//! Back-pressure: where too much waits for the chain, new records are turned away rather than piled up.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use alloy::primitives::Address;
use sqlx::{PgPool, Row};
use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    problem::{Kind, Problem},
};

/// Counting takes at most a tenth of the time.
const PAUSE_TIMES_COUNT: u32 = 9;

/// Whose events waited in what number at the last look, where that was too many; what comes in between two looks goes
/// beyond the bound. Each provider has a bound of its own, so that nobody's contracts or haste turn others away.
pub struct Backlog {
    full: RwLock<BTreeMap<Address, i64>>,
    max: i64,
}

impl Backlog {
    /// With so many events of a provider at most; nothing is known to wait yet.
    pub fn new(max: u32) -> Self {
        Self { full: RwLock::default(), max: max.into() }
    }

    /// Whether more of a provider can be taken in.
    pub fn check(&self, provider: Address) -> Result<(), Problem> {
        let full = self.full.read().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = full.get(&provider) else { return Ok(()) };
        metrics::counter!("backlog_refusals_total").increment(1);
        let detail = format!("{waiting} or more events wait for the chain, {} may; try again later", self.max);
        Err(Problem::new(Kind::BacklogFull, detail))
    }

    fn set(&self, full: BTreeMap<Address, i64>) {
        *self.full.write().unwrap_or_else(PoisonError::into_inner) = full;
    }
}

/// Looks how much waits, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        let begun = Instant::now();
        match full(&app.db, app.backlog.max).await {
            Ok(full) => app.backlog.set(full),
            Err(error) => tracing::warn!(cause = causes(&error), "the backlog can't be counted"),
        }
        let pause = app.config.poll().max(begun.elapsed() * PAUSE_TIMES_COUNT);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Providers that have so many events in no block, counted up to a little beyond the bound.
async fn full(db: &PgPool, max: i64) -> sqlx::Result<BTreeMap<Address, i64>> {
    let rows = sqlx::query(
        "SELECT account, waiting FROM provider p CROSS JOIN LATERAL (
             SELECT (SELECT count(*) FROM (
                         SELECT FROM event WHERE provider = p.account AND batch_number IS NULL LIMIT $1) AS pending)
                  + (SELECT coalesce(sum(event_count), 0) FROM batch
                     WHERE provider = p.account AND state IN ('sealed', 'signed', 'submitted'))::bigint AS waiting
         ) AS counted WHERE waiting >= $1",
    )
    .bind(max)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok((Address::from(row.try_get::<[u8; 20], _>(0)?), row.try_get(1)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_provider_that_has_too_much_waiting_is_turned_away() {
        let backlog = Backlog::new(10);
        let (one, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        assert!(backlog.check(one).is_ok());
        backlog.set(BTreeMap::from([(one, 10)]));
        let problem = backlog.check(one).unwrap_err();
        assert_eq!((problem.slug(), problem.0.status), ("backlog-full", 503));
        assert!(backlog.check(other).is_ok());
        backlog.set(BTreeMap::new());
        assert!(backlog.check(one).is_ok());
    }
}
