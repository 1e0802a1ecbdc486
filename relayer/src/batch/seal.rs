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

/// No event before, in [`Places`].
const NONE: u32 = u32::MAX;

/// Orders a batch, gives each event its index and the leaf of its record's event before, and hashes the leaves; fails
/// where a sequence has a gap.
///
/// Only positions are sorted: events are 250 bytes each, move once, and are read side by side.
pub fn arrange(events: &mut Vec<Event>, tips: &HashMap<DataId, B256>) -> anyhow::Result<Vec<B256>> {
    let by_record = by_record(events)?;
    let order = with_payees_together(events, &by_record);
    let places = Places::new(&by_record, &order);
    let mut arranged: Vec<Event> = order
        .into_par_iter()
        .zip(0..u32::try_from(events.len())?)
        .with_min_len(256)
        .map(|(position, index)| Event { index, ..events[position as usize].clone() })
        .collect();
    drop(std::mem::take(events));

    let mut leaves = vec![B256::ZERO; arranged.len()];
    let previous = |event: &Event, leaves: &[B256]| {
        let (id, sequence) = (event.data_id, event.sequence);
        match places.before[event.index as usize] {
            _ if sequence == 0 => Ok(B256::ZERO),
            NONE => tips
                .get(&id)
                .copied()
                .with_context(|| format!("{id}: event {sequence} comes before the one it follows")),
            before => Ok(leaves[before as usize]),
        }
    };
    // every record's first event, then every record's second …: a round's leaves do not depend on each other
    for round in &places.rounds {
        let hashed: Vec<B256> = round
            .par_iter()
            .with_min_len(256)
            .map(|index| {
                let event = &arranged[*index as usize];
                anyhow::Ok(Event { previous: previous(event, &leaves)?, ..event.clone() }.leaf())
            })
            .collect::<anyhow::Result<_>>()?;
        for (index, leaf) in round.iter().zip(hashed) {
            leaves[*index as usize] = leaf;
        }
    }
    arranged.par_iter_mut().with_min_len(256).try_for_each(|event| {
        event.previous = previous(event, &leaves)?;
        anyhow::Ok(())
    })?;
    *events = arranged;
    Ok(leaves)
}

/// A record's id, as two numbers that compare fast, and the position of one of its events.
type Of = (u64, u64, u32);

/// All positions, one record's side by side in the order in which they came.
fn by_record(events: &[Event]) -> anyhow::Result<Vec<Of>> {
    let count = u32::try_from(events.len())?;
    let mut sorted: Vec<Of> = events
        .par_iter()
        .with_min_len(256)
        .zip(0..count)
        .map(|(event, position)| {
            let (high, low) = event.data_id.0.as_u64_pair();
            (high, low, position)
        })
        .collect();
    sorted.par_sort_unstable();
    Ok(sorted)
}

fn is_same_record(a: &Of, b: &Of) -> bool {
    (a.0, a.1) == (b.0, b.1)
}

/// The positions of a batch's events in an order in which the records of one payee are neighbours, behind those that nobody
/// is paid for on chain: their claims share bitmap words then, which makes each of 20 cost about 28,900 gas instead of
/// 49,700 (docs/benchmarks.md). Events keep their order otherwise.
fn with_payees_together(events: &[Event], by_record: &[Of]) -> Vec<u32> {
    let has_payee: Vec<bool> = events.par_iter().with_min_len(256).map(|event| !event.payee.is_zero()).collect();
    let mut paid: Vec<(Address, u32)> = by_record
        .par_chunk_by(is_same_record)
        .flat_map_iter(|record| {
            let mut positions = record.iter().map(|(.., position)| *position as usize);
            let payee = positions.rfind(|position| has_payee[*position]).map(|position| events[position].payee);
            payee.into_iter().flat_map(|payee| record.iter().map(move |(.., position)| (payee, *position)))
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

/// How the events of a batch depend on each other, by index.
struct Places {
    /// The event of the same record before; [`NONE`] where it is in no batch or in an earlier one.
    before: Vec<u32>,
    /// Indices, ascending, of each record's first event in the batch, second …
    rounds: Vec<Vec<u32>>,
}

impl Places {
    fn new(by_record: &[Of], order: &[u32]) -> Self {
        let mut index_of = vec![0u32; order.len()];
        for (index, position) in (0u32..).zip(order) {
            index_of[*position as usize] = index;
        }
        let mut before = vec![NONE; order.len()];
        let mut round_of = vec![0u32; order.len()];
        for pair in by_record.windows(2).filter(|pair| is_same_record(&pair[0], &pair[1])) {
            let (first, next) = (index_of[pair[0].2 as usize], index_of[pair[1].2 as usize]);
            before[next as usize] = first;
            round_of[next as usize] = round_of[first as usize] + 1;
        }
        let mut rounds: Vec<Vec<u32>> = Vec::new();
        for (index, round) in (0u32..).zip(round_of) {
            let round = round as usize;
            if rounds.len() <= round {
                rounds.resize_with(round + 1, Vec::new);
            }
            rounds[round].push(index);
        }
        Self { before, rounds }
    }
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
