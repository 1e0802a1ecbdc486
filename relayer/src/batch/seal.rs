//! Sealing: pending events get number, index, previous and leaf, in the order in which they came, one payee's side by side.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::{Address, B256};
use anyhow::Context;
use rayon::prelude::*;
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

/// Orders a batch, gives each event its index and the leaf of its record's event before, and hashes the leaves; fails
/// where a sequence has a gap.
///
/// Only positions are sorted: events are 250 bytes each, and move once.
pub fn arrange(events: &mut Vec<Event>, tips: &HashMap<DataId, B256>) -> anyhow::Result<Vec<B256>> {
    let mut by_record: Vec<(DataId, u32)> =
        events.iter().map(|event| event.data_id).zip(0..u32::try_from(events.len())?).collect();
    by_record.par_sort_unstable();
    let order = with_payees_together(events, &by_record);
    let mut index_of = vec![0u32; events.len()];
    for (index, position) in (0u32..).zip(&order) {
        index_of[*position as usize] = index;
    }
    let links = chain(events, tips, &by_record, &index_of)?;
    let mut link_of = index_of;
    for (link, (_, position)) in (0u32..).zip(&by_record) {
        link_of[*position as usize] = link;
    }
    let (arranged, leaves) = order
        .into_par_iter()
        .zip(0..u32::try_from(events.len())?)
        .map(|(position, index)| {
            let Link { previous, leaf } = links[link_of[position as usize] as usize];
            (Event { index, previous, ..events[position as usize].clone() }, leaf)
        })
        .unzip();
    *events = arranged;
    Ok(leaves)
}

/// The positions of a batch's events in an order in which the records of one payee are neighbours, behind those that nobody
/// is paid for on chain: their claims share bitmap words then, which makes each of 20 cost about 28,900 gas instead of
/// 49,700 (docs/benchmarks.md). Events keep their order otherwise.
fn with_payees_together(events: &[Event], by_record: &[(DataId, u32)]) -> Vec<u32> {
    let mut paid: Vec<(Address, u32)> = by_record
        .par_chunk_by(|(record, _), (next, _)| record == next)
        .flat_map_iter(|record| {
            let mut payees = record.iter().map(|(_, position)| events[*position as usize].payee);
            let payee = payees.rfind(|payee| !payee.is_zero());
            payee.into_iter().flat_map(|payee| record.iter().map(move |(_, position)| (payee, *position)))
        })
        .collect();
    paid.par_sort_unstable();
    let mut is_paid = vec![false; events.len()];
    for (_, position) in &paid {
        is_paid[*position as usize] = true;
    }
    let unpaid = (0u32..).zip(is_paid).filter(|(_, is_paid)| !is_paid).map(|(position, _)| position);
    unpaid.chain(paid.into_iter().map(|(_, position)| position)).collect()
}

/// What sealing finds out about an event.
#[derive(Clone, Copy)]
struct Link {
    previous: B256,
    leaf: B256,
}

/// Chains each record's events, in their order. Records are independent of each other, so all cores hash.
fn chain(
    events: &[Event],
    tips: &HashMap<DataId, B256>,
    by_record: &[(DataId, u32)],
    index_of: &[u32],
) -> anyhow::Result<Vec<Link>> {
    by_record
        .par_chunk_by(|(record, _), (next, _)| record == next)
        .flat_map_iter(|record| {
            let mut tip = record.first().and_then(|(id, _)| tips.get(id)).copied();
            record.iter().map(move |(id, position)| {
                let event = &events[*position as usize];
                let previous = match event.sequence {
                    0 => B256::ZERO,
                    sequence => {
                        tip.with_context(|| format!("{id}: event {sequence} comes before the one it follows"))?
                    }
                };
                let leaf = Event { index: index_of[*position as usize], previous, ..event.clone() }.leaf();
                tip = Some(leaf);
                Ok(Link { previous, leaf })
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tidemark::{
        batch::{leaves, summarise},
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
        let mut first = vec![
            event(1, 0, EventKind::Registered),
            event(2, 0, EventKind::Registered),
            event(1, 1, EventKind::Accepted),
        ];
        let hashed = arrange(&mut first, &HashMap::new()).unwrap();
        assert_eq!(hashed, leaves(&first));
        assert_eq!(first.iter().map(|event| event.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(first[2].previous, first[0].leaf());
        assert!(summarise(&first).is_ok());

        let mut second = vec![event(1, 2, EventKind::MetadataUpdated)];
        arrange(&mut second, &HashMap::from([(first[2].data_id, first[2].leaf())])).unwrap();
        assert_eq!(second[0].previous, first[2].leaf());
    }

    #[test]
    fn one_payee_s_records_are_neighbours_and_each_record_keeps_its_order() {
        let paid =
            |id, sequence, kind, payee| Event { payee: Address::repeat_byte(payee), ..event(id, sequence, kind) };
        let mut events = vec![
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
        arrange(&mut events, &HashMap::new()).unwrap();
        let order: Vec<_> = events.iter().map(|event| (event.data_id.bytes()[0], event.sequence)).collect();
        assert_eq!(order, [(2, 0), (2, 1), (3, 0), (3, 1), (1, 0), (1, 1), (4, 0), (1, 2), (4, 1)]);
    }

    #[test]
    fn sealing_refuses_an_event_whose_predecessor_is_not_sealed() {
        assert!(arrange(&mut vec![event(1, 1, EventKind::Accepted)], &HashMap::new()).is_err());
    }
}
