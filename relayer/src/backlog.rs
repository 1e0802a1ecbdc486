//! Back-pressure: where too much waits for the chain, new records are turned away rather than piled up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Instant,
};

use sqlx::PgPool;
use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    problem::{Kind, Problem},
};

/// Counting takes at most a tenth of the time.
const PAUSE_TIMES_COUNT: u32 = 9;

/// How much waited at the last look; what comes in between two looks goes beyond the bound.
pub struct Backlog {
    events: AtomicI64,
    max: i64,
}

impl Backlog {
    /// With so many events at most; nothing is known to wait yet.
    pub fn new(max: u32) -> Self {
        Self { events: AtomicI64::new(0), max: max.into() }
    }

    /// Whether more can be taken in.
    pub fn check(&self) -> Result<(), Problem> {
        let waiting = self.events.load(Relaxed);
        if waiting < self.max {
            return Ok(());
        }
        metrics::counter!("backlog_refusals_total").increment(1);
        let detail = format!("{waiting} or more events wait for the chain, {} may; try again later", self.max);
        Err(Problem::new(Kind::BacklogFull, detail))
    }
}

/// Looks how much waits, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        let begun = Instant::now();
        match waiting(&app.db, app.backlog.max).await {
            Ok(waiting) => app.backlog.events.store(waiting, Relaxed),
            Err(error) => tracing::warn!(cause = causes(&error), "the backlog can't be counted"),
        }
        let pause = app.config.poll().max(begun.elapsed() * PAUSE_TIMES_COUNT);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Events that are in no block, counted up to a little beyond the bound.
async fn waiting(db: &PgPool, max: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM (SELECT FROM event WHERE batch_number IS NULL LIMIT $1) AS pending)
              + (SELECT coalesce(sum(event_count), 0) FROM batch WHERE state IN ('sealed', 'signed', 'submitted'))::bigint",
    )
    .bind(max)
    .fetch_one(db)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_taken_in_until_the_bound_is_reached_and_again_below_it() {
        let backlog = Backlog::new(10);
        assert!(backlog.check().is_ok());
        backlog.events.store(10, Relaxed);
        let problem = backlog.check().unwrap_err();
        assert_eq!((problem.slug(), problem.0.status), ("backlog-full", 503));
        backlog.events.store(9, Relaxed);
        assert!(backlog.check().is_ok());
    }
}
