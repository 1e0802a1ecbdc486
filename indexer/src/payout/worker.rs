//! The one worker that takes open payouts from step to step, and its clock.

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, stream};
use sqlx::{Connection, PgConnection, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    FAILURES_MAX, Payouts,
    rails::{RailName, Rails},
    redeem,
};

/// Open payouts that one pass takes.
const PAYOUTS_PER_PASS: i64 = 64;
/// Requests to the rail at once.
const PAYMENTS_AT_ONCE: usize = 8;
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
const NOTE_CHARS_MAX: usize = 300;

/// A payout whose time has come.
#[derive(Clone)]
pub(super) struct Due {
    /// Which.
    pub id: Uuid,
    /// In which state it is.
    pub state: String,
    /// In a row.
    pub failures: i32,
    /// Which rail pays it.
    pub rail: RailName,
}

/// Where a step leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The state after it, which may be the one before.
    pub to: &'static str,
    /// What happened; the note before stays where there is none.
    pub note: Option<String>,
    /// Whether it counts as a failure, so that the next try waits longer.
    pub failed: bool,
    /// When to look again, where the state stays and nothing failed; the poll interval where there is none.
    pub again: Option<Duration>,
}

impl Step {
    /// Forward.
    pub fn to(to: &'static str, note: impl Into<String>) -> Self {
        Self { to, note: Some(note.into()), failed: false, again: None }
    }

    /// The same state again, later.
    pub fn wait(state: &'static str) -> Self {
        Self { to: state, note: None, failed: false, again: None }
    }

    /// The same state (or an earlier one) again, after a failure.
    pub fn fail(to: &'static str, note: impl Into<String>) -> Self {
        Self { to, note: Some(note.into()), failed: true, again: None }
    }
}

/// Works off payouts until `stop`; the step at hand is ended first.
pub async fn run(payouts: Payouts, stop: CancellationToken) -> anyhow::Result<()> {
    let rails = Rails::open(&payouts).await.context("open the payout rails")?;
    let mut busy_elsewhere = false;
    while !stop.is_cancelled() {
        match work(&payouts, &rails, &stop).await {
            Ok(Held::ByUs) => {}
            Ok(Held::ByAnother) if busy_elsewhere => {}
            Ok(Held::ByAnother) => {
                tracing::info!("another process works off this database's payouts; waiting for it to end");
                busy_elsewhere = true;
            }
            Err(error) => tracing::warn!(cause = %error, "payouts pause: the database can't be used"),
        }
        pause(&payouts, &stop).await;
    }
    Ok(())
}

async fn pause(payouts: &Payouts, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = payouts.inner.made.notified() => {}
        () = tokio::time::sleep(payouts.inner.config.poll_interval) => {}
    }
}

enum Held {
    ByUs,
    ByAnother,
}

/// Passes until `stop`, under a lock that ends with this connection: also when the process is killed.
async fn work(payouts: &Payouts, rails: &Rails, stop: &CancellationToken) -> anyhow::Result<Held> {
    let mut lock = PgConnection::connect_with(&payouts.inner.pool.connect_options()).await?;
    let held: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('tidemark/payout-worker', 0))")
        .fetch_one(&mut lock)
        .await?;
    if !held {
        return Ok(Held::ByAnother);
    }
    while !stop.is_cancelled() {
        lock.ping().await?;
        rails.listen().await;
        if pass(payouts, rails, stop).await? == 0 {
            pause(payouts, stop).await;
        }
    }
    lock.close().await?;
    Ok(Held::ByUs)
}

/// Takes each payout that is due one step further; the number that went to another state.
async fn pass(payouts: &Payouts, rails: &Rails, stop: &CancellationToken) -> anyhow::Result<usize> {
    let due = due(payouts, rails).await?;
    let (to_pay, to_redeem): (Vec<Due>, Vec<Due>) =
        due.into_iter().partition(|due| matches!(due.state.as_str(), "reserved" | "paying"));
    let mut moved = 0;
    let mut paying = stream::iter(to_pay)
        .take_while(|_| futures::future::ready(!stop.is_cancelled()))
        .map(|due| async move {
            let step = rails.pay(payouts, &due).await;
            finish(payouts, &due, step).await
        })
        .buffer_unordered(PAYMENTS_AT_ONCE);
    while let Some(finished) = paying.next().await {
        moved += usize::from(finished?);
    }
    // one after another: they share the operator's nonces
    for due in to_redeem {
        if stop.is_cancelled() {
            break;
        }
        let step = redeem::redeem(payouts, &due).await;
        moved += usize::from(finish(payouts, &due, step).await?);
    }
    Ok(moved)
}

/// A payout waits where its rail is switched off: another rail would pay it twice.
async fn due(payouts: &Payouts, rails: &Rails) -> anyhow::Result<Vec<Due>> {
    let rows = sqlx::query(
        "SELECT payout_id, state, failures, rail FROM local.payout
         WHERE state NOT IN ('posted', 'voided', 'stuck') AND next_step_at <= now()
             AND (rail = ANY($2) OR state NOT IN ('reserved', 'paying'))
         ORDER BY next_step_at LIMIT $1",
    )
    .bind(PAYOUTS_PER_PASS)
    .bind(rails.names())
    .fetch_all(&payouts.inner.pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                id: row.try_get(0)?,
                state: row.try_get(1)?,
                failures: row.try_get(2)?,
                rail: row.try_get::<&str, _>(3)?.parse()?,
            })
        })
        .collect()
}

/// Writes down a step that did not do so itself, or its failure.
async fn finish(payouts: &Payouts, due: &Due, step: anyhow::Result<Option<Step>>) -> anyhow::Result<bool> {
    let step = match step {
        Ok(None) => return Ok(true),
        Ok(Some(step)) => step,
        Err(error) => {
            tracing::warn!(payout_id = %due.id, state = due.state, cause = %error, "a payout's step failed");
            let note = match error.downcast_ref::<sqlx::Error>() {
                Some(_) => "the indexer's database failed; its log has the cause".to_owned(),
                None => error.to_string(),
            };
            Step::fail(state_name(&due.state), note)
        }
    };
    let mut connection = payouts.inner.pool.acquire().await?;
    advance(&mut connection, payouts, due, step).await
}

/// Moves a payout from the state it was found in; whether it is in another one now.
pub(super) async fn advance(
    connection: &mut PgConnection,
    payouts: &Payouts,
    due: &Due,
    step: Step,
) -> anyhow::Result<bool> {
    let failures = if step.failed { due.failures.saturating_add(1) } else { 0 };
    let to = if step.failed && failures >= FAILURES_MAX { "stuck" } else { step.to };
    let same = to == due.state;
    let wait = match step.again {
        Some(again) if same && !step.failed => again.min(WAIT_MAX),
        _ if same || step.failed => wait(payouts.inner.config.poll_interval, failures),
        _ => Duration::ZERO,
    };
    let note = step.note.map(|note| note.chars().take(NOTE_CHARS_MAX).collect::<String>());
    let moved = sqlx::query(
        "UPDATE local.payout SET state = $3, stuck_in = CASE WHEN $3 = 'stuck' THEN $2 END, note = coalesce($4, note),
             failures = $5, next_step_at = now() + $6 * interval '1 millisecond',
             destination = CASE WHEN $3 NOT IN ('posted', 'voided') THEN destination END,
             recipient_name = CASE WHEN $3 NOT IN ('posted', 'voided') THEN recipient_name END,
             recipient_bic = CASE WHEN $3 NOT IN ('posted', 'voided') THEN recipient_bic END
         WHERE payout_id = $1 AND state = $2",
    )
    .bind(due.id)
    .bind(&due.state)
    .bind(to)
    .bind(&note)
    .bind(failures)
    .bind(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
    .execute(connection)
    .await?
    .rows_affected()
        == 1;
    if moved && !same {
        metrics::counter!("tidemark_payout_steps_total", "to" => to).increment(1);
        let note = note.as_deref().unwrap_or("");
        match to {
            "stuck" => {
                tracing::error!(payout_id = %due.id, from = due.state, note, "payout stuck: an operator must decide")
            }
            _ => tracing::info!(payout_id = %due.id, from = due.state, to, note, "payout step"),
        }
    }
    Ok(moved && !same)
}

/// How long to wait after so many failures in a row: doubling from the poll interval to a quarter of an hour.
fn wait(poll_interval: Duration, failures: i32) -> Duration {
    let doublings = u32::try_from(failures.clamp(0, 20)).unwrap_or(0);
    poll_interval.saturating_mul(1 << doublings).min(WAIT_MAX)
}

/// The states by their static names.
fn state_name(state: &str) -> &'static str {
    match state {
        "reserved" | "paying" => "paying",
        "paid" => "paid",
        "redeeming" => "redeeming",
        _ => "redeemed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_at_a_quarter_of_an_hour() {
        let second = Duration::from_secs(1);
        assert_eq!(wait(second, 0), second);
        assert_eq!(wait(second, 3), Duration::from_secs(8));
        assert_eq!(wait(second, 60), WAIT_MAX);
        assert_eq!(wait(Duration::from_secs(600), i32::MAX), WAIT_MAX);
    }
}
