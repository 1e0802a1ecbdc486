//! Sealing: pending events get number, index, previous and leaf, in the order in which they came, one payee's side by side.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use anyhow::Context;
use tidemark::{event::Event, ids::DataId, service::causes};

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
    put_payees_together(&mut events);
    chain(&mut events, tips)?;
    event::place(&mut tx, provider, u64::try_from(number)?, &events).await?;
    record::set_tips(&mut tx, &events).await?;
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

/// Orders a batch so that the records of one payee are neighbours: their claims share bitmap words then, which makes each of
/// 20 cost about 28,500 gas instead of 49,300 (docs/benchmarks.md). A record's own events keep their order.
fn put_payees_together(events: &mut [Event]) {
    let payees: BTreeMap<DataId, Address> =
        events.iter().filter(|event| !event.payee.is_zero()).map(|event| (event.data_id, event.payee)).collect();
    events.sort_by_key(|event| payees.get(&event.data_id).copied().unwrap_or_default());
}

/// Gives events their index, and each the leaf of its record's event before; fails where a sequence has a gap.
pub fn chain(events: &mut [Event], mut tips: BTreeMap<DataId, B256>) -> anyhow::Result<()> {
    for (index, event) in events.iter_mut().enumerate() {
        event.index = u32::try_from(index)?;
        event.previous = match event.sequence {
            0 => B256::ZERO,
            sequence => *tips
                .get(&event.data_id)
                .with_context(|| format!("{}: event {sequence} comes before the one it follows", event.data_id))?,
        };
        tips.insert(event.data_id, event.leaf());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemark::{
        batch::summarise,
        event::EventKind,
        ids::{ConsentId, ContentHash},
    };

    use super::*;

    fn event(id: u8, sequence: u32, kind: EventKind) -> Event {
        Event {
            index: 0,
            data_id: DataId::from_bytes([id; 16]),
            sequence,
            kind,
            contributor: B256::ZERO,
            content_hash: ContentHash::ZERO,
            consent_id: ConsentId::ZERO,
            commitment: B256::ZERO,
            previous: B256::ZERO,
            occurred_at: 1,
            task_id: 0,
            reward: 0,
            payee: Address::ZERO,
        }
    }

    #[test]
    fn sealing_chains_events_of_one_record_in_the_batch_and_across_batches() {
        let mut first =
            [event(1, 0, EventKind::Registered), event(2, 0, EventKind::Registered), event(1, 1, EventKind::Accepted)];
        chain(&mut first, BTreeMap::new()).unwrap();
        assert_eq!(first.each_ref().map(|event| event.index), [0, 1, 2]);
        assert_eq!(first[2].previous, first[0].leaf());
        assert!(summarise(&first).is_ok());

        let mut second = [event(1, 2, EventKind::MetadataUpdated)];
        chain(&mut second, BTreeMap::from([(first[2].data_id, first[2].leaf())])).unwrap();
        assert_eq!(second[0].previous, first[2].leaf());
    }

    #[test]
    fn one_payee_s_records_are_neighbours_and_each_record_keeps_its_order() {
        let paid =
            |id, sequence, kind, payee| Event { payee: Address::repeat_byte(payee), ..event(id, sequence, kind) };
        let mut events = [
            event(1, 0, EventKind::Registered),
            event(2, 0, EventKind::Registered),
            event(3, 0, EventKind::Registered),
            paid(1, 1, EventKind::Accepted, 9),
            event(2, 1, EventKind::Rejected),
            paid(3, 1, EventKind::Accepted, 8),
            event(4, 0, EventKind::Registered),
            event(1, 2, EventKind::MetadataUpdated),
            paid(4, 1, EventKind::Accepted, 9),
        ];
        put_payees_together(&mut events);
        let order = events.each_ref().map(|event| (event.data_id.bytes()[0], event.sequence));
        assert_eq!(order, [(2, 0), (2, 1), (3, 0), (3, 1), (1, 0), (1, 1), (4, 0), (1, 2), (4, 1)]);
    }

    #[test]
    fn sealing_refuses_an_event_whose_predecessor_is_not_sealed() {
        assert!(chain(&mut [event(1, 1, EventKind::Accepted)], BTreeMap::new()).is_err());
    }
}
