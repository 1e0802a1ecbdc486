//! Sealing: pending events become a batch with a number, in one transaction.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use tidemark::{ids::DataId, service::causes};

use super::arrange::arrange;
use crate::{
    app::App,
    intake::{bigint, event, record},
};

/// Batches sealed of one provider in one round.
const BATCHES_MAX: usize = 16;

/// Seals what has enough events or waits long enough.
pub async fn seal_due(app: &App) -> anyhow::Result<()> {
    let (count_max, age_ms_max) = (app.config.batch_events_max, app.config.batch_age_ms_max);
    for _ in 0..BATCHES_MAX {
        let pending = event::pending(&app.db, count_max).await?;
        let due: Vec<Address> = pending
            .iter()
            .filter(|p| p.count >= i64::from(count_max) || p.age_ms >= i64::try_from(age_ms_max).unwrap_or(i64::MAX))
            .map(|p| p.provider)
            .collect();
        let mut mine = Vec::new();
        for provider in due {
            if app.leases.hold(&super::lease_of(provider)).await? {
                mine.push(provider);
            }
        }
        if mine.is_empty() {
            return Ok(());
        }
        for provider in mine {
            if let Err(error) = seal(app, provider).await {
                tracing::warn!(%provider, cause = causes(error.as_ref()), "events have to wait for their batch");
            }
        }
    }
    Ok(())
}

/// Seals one batch in one transaction.
async fn seal(app: &App, provider: Address) -> anyhow::Result<()> {
    let mut tx = app.db.begin().await?;
    let number: i64 = sqlx::query_scalar("SELECT next_number FROM batch_lane WHERE provider = $1 FOR UPDATE")
        .bind(provider.0.0)
        .fetch_one(&mut *tx)
        .await?;
    let mut events = event::take_pending(&mut tx, provider, app.config.batch_events_max).await?;
    if events.is_empty() {
        return Ok(());
    }
    let ids: BTreeSet<DataId> = events.iter().map(|event| event.data_id).collect();
    let tips = record::tips(&mut tx, &ids).await?;
    let (events, leaves) = tokio::task::spawn_blocking(move || {
        let leaves = arrange(&mut events, &tips)?;
        anyhow::Ok((events, leaves))
    })
    .await??;
    event::place(&mut tx, provider, u64::try_from(number)?, &events, &leaves).await?;
    record::set_tips(&mut tx, &events, &leaves).await?;
    sqlx::query("INSERT INTO batch (provider, number, state, event_count) VALUES ($1, $2, 'sealed', $3)")
        .bind(provider.0.0)
        .bind(number)
        .bind(i32::try_from(events.len())?)
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE batch_lane SET next_number = $2 WHERE provider = $1")
        .bind(provider.0.0)
        .bind(bigint(u64::try_from(number)? + 1)?)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    tracing::info!(%provider, number, events = events.len(), "batch sealed");
    metrics::counter!("batches_sealed_total").increment(1);
    metrics::counter!("events_sealed_total").increment(events.len() as u64);
    Ok(())
}
