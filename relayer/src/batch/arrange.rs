//! The order of a batch: events get index, previous and leaf, in the order in which they came, one payee's side by side.

use std::{collections::HashMap, ops::Range};

use alloy::primitives::{Address, B256};
use anyhow::Context;
use rayon::prelude::*;
use tidemark::{event::Event, ids::DataId};

/// No event before, in [`Places`].
const NONE: u32 = u32::MAX;
/// Events that one core finishes at once.
const FINISHED_AT_ONCE: usize = 256;

/// Orders a batch, gives each event its index and the leaf of its record's event before, and hashes the leaves; fails
/// where a sequence has a gap.
///
/// Only positions are sorted: events are 250 bytes each, stay in their memory, and are read side by side.
pub fn arrange(events: &mut Vec<Event>, tips: &HashMap<DataId, B256>) -> anyhow::Result<Vec<B256>> {
    let by_record = by_record(events)?;
    let paid = one_payee_after_another(events, &by_record);
    let order = order(events.len(), &paid);
    let (places, ()) = rayon::join(|| Places::new(&by_record, &order), || move_behind(events, &paid));

    // every record's first event, then every record's second …: a round's leaves do not depend on each other
    let mut hashed = vec![B256::ZERO; events.len()];
    for round in &places.rounds {
        let (before, rest) = hashed.split_at_mut(round.start);
        let finish = |event: &mut Event, index: u32| {
            let (id, sequence) = (event.data_id, event.sequence);
            event.index = index;
            event.previous = match places.before[index as usize] {
                _ if sequence == 0 => B256::ZERO,
                NONE => {
                    *tips.get(&id).with_context(|| format!("{id}: event {sequence} comes before the one it follows"))?
                }
                follows => before[places.slots[follows as usize] as usize],
            };
            Ok(event.leaf())
        };
        hash_round(events, 0, &places.by_round[round.clone()], &mut rest[..round.len()], &finish)?;
    }
    Ok(places.slots.par_iter().with_min_len(FINISHED_AT_ONCE).map(|slot| hashed[*slot as usize]).collect())
}

/// Finishes the events at some indices, ascending, and keeps their leaves, on all cores. The first of `events` has index
/// `first`.
fn hash_round(
    events: &mut [Event],
    first: u32,
    indices: &[u32],
    leaves: &mut [B256],
    finish: &(impl Fn(&mut Event, u32) -> anyhow::Result<B256> + Sync),
) -> anyhow::Result<()> {
    if indices.len() <= FINISHED_AT_ONCE {
        for (index, leaf) in indices.iter().zip(leaves) {
            *leaf = finish(&mut events[(index - first) as usize], *index)?;
        }
        return Ok(());
    }
    let half = indices.len() / 2;
    let (indices, indices_after) = indices.split_at(half);
    let (leaves, leaves_after) = leaves.split_at_mut(half);
    let middle = indices_after[0];
    let (events, events_after) = events.split_at_mut((middle - first) as usize);
    let (before, after) = rayon::join(
        || hash_round(events, first, indices, leaves, finish),
        || hash_round(events_after, middle, indices_after, leaves_after, finish),
    );
    before.and(after)
}

/// Where an event of a record came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Came {
    /// The record's id, as two numbers that compare fast.
    record: (u64, u64),
    /// Its place among the events.
    position: u32,
    has_payee: bool,
}

/// Events of which one core takes the ids at once; about as many it sorts at once, as they stay in its cache.
const EVENTS_AT_ONCE: usize = 16_384;

/// All positions, one record's side by side in the order in which they came, in parts that no record is in two of.
fn by_record(events: &[Event]) -> anyhow::Result<Vec<Vec<Came>>> {
    let count = u32::try_from(events.len())?;
    // by the id's first byte, of which there are 256
    let parts_count = events.len().div_ceil(EVENTS_AT_ONCE).min(256);
    let split: Vec<Vec<Vec<Came>>> = events
        .par_chunks(EVENTS_AT_ONCE)
        .zip((0..count).into_par_iter().step_by(EVENTS_AT_ONCE))
        .map(|(events, from)| {
            let part = || Vec::with_capacity(events.len() / parts_count * 5 / 4);
            let mut parts: Vec<_> = std::iter::repeat_with(part).take(parts_count).collect();
            for (position, event) in (from..).zip(events) {
                let [first, ..] = event.data_id.bytes();
                let record = event.data_id.0.as_u64_pair();
                let came = Came { record, position, has_payee: !event.payee.is_zero() };
                parts[usize::from(first) * parts_count / 256].push(came);
            }
            parts
        })
        .collect();
    let sorted = (0..parts_count).into_par_iter().map(|part| {
        let mut part = split.iter().map(|parts| parts[part].as_slice()).collect::<Vec<_>>().concat();
        part.sort_unstable();
        part
    });
    Ok(sorted.collect())
}

fn is_same_record(a: &Came, b: &Came) -> bool {
    a.record == b.record
}

/// The positions of the records that somebody is paid for on chain, those of one payee side by side: their claims share
/// bitmap words then, which makes each of 20 cost about 28,900 gas instead of 49,700 (docs/benchmarks.md).
fn one_payee_after_another(events: &[Event], by_record: &[Vec<Came>]) -> Vec<u32> {
    let mut paid: Vec<Paid> = by_record
        .par_iter()
        .flat_map_iter(|part| part.chunk_by(is_same_record))
        .flat_map_iter(|record| {
            let last = record.iter().rfind(|came| came.has_payee);
            let payee = last.map(|came| events[came.position as usize].payee);
            payee.into_iter().flat_map(|payee| record.iter().map(move |came| paid_to(payee, came.position)))
        })
        .collect();
    paid.par_sort_unstable();
    paid.into_iter().map(|(.., position)| position).collect()
}

/// The positions of all events as they are indexed: those that came to be paid are behind, the others keep their order.
fn order(count: usize, paid: &[u32]) -> Vec<u32> {
    let mut order = Vec::with_capacity(count);
    let is_paid = marked(count, paid);
    order.extend((0u32..).zip(is_paid).filter(|(_, is_paid)| !is_paid).map(|(position, _)| position));
    order.extend(paid);
    order
}

/// Brings events into that order, where they are.
fn move_behind(events: &mut Vec<Event>, paid: &[u32]) {
    if paid.is_empty() {
        return;
    }
    let moved: Vec<Event> =
        paid.par_iter().with_min_len(FINISHED_AT_ONCE).map(|position| events[*position as usize].clone()).collect();
    let mut is_paid = marked(events.len(), paid).into_iter();
    events.retain(|_| !is_paid.next().unwrap_or(false));
    events.extend(moved);
}

fn marked(count: usize, positions: &[u32]) -> Vec<bool> {
    let mut marked = vec![false; count];
    for position in positions {
        marked[*position as usize] = true;
    }
    marked
}

/// Whom an event is paid to, as numbers that compare as the address does, but faster, and its position.
type Paid = (u128, u32, u32);

fn paid_to(payee: Address, position: u32) -> Paid {
    let (first, last) = (payee.first_chunk(), payee.last_chunk());
    let first = first.map_or(0, |bytes| u128::from_be_bytes(*bytes));
    let last = last.map_or(0, |bytes| u32::from_be_bytes(*bytes));
    (first, last, position)
}

/// How the events of a batch depend on each other, by index.
struct Places {
    /// The event of the same record before; [`NONE`] where it is in no batch or in an earlier one.
    before: Vec<u32>,
    /// Indices of each record's first event in the batch, ascending, then of each second …
    by_round: Vec<u32>,
    /// Where each round is in `by_round`.
    rounds: Vec<Range<usize>>,
    /// For each index, its place in `by_round`.
    slots: Vec<u32>,
}

impl Places {
    fn new(by_record: &[Vec<Came>], order: &[u32]) -> Self {
        let mut index_of = vec![0u32; order.len()];
        for (index, position) in (0u32..).zip(order) {
            index_of[*position as usize] = index;
        }
        let mut before = vec![NONE; order.len()];
        let mut round_of = vec![0u32; order.len()];
        let mut sizes = vec![0u32];
        for record in by_record.iter().flat_map(|part| part.chunk_by(is_same_record)) {
            let indices = record.iter().map(|came| index_of[came.position as usize]);
            let mut last = NONE;
            for (round, index) in (0u32..).zip(indices) {
                before[index as usize] = last;
                round_of[index as usize] = round;
                match sizes.get_mut(round as usize) {
                    Some(size) => *size += 1,
                    None => sizes.push(1),
                }
                last = index;
            }
        }
        let mut next: Vec<u32> = Vec::with_capacity(sizes.len());
        let mut rounds = Vec::with_capacity(sizes.len());
        let mut start = 0;
        for size in sizes {
            next.push(start);
            rounds.push(start as usize..(start + size) as usize);
            start += size;
        }
        let mut by_round = vec![0u32; order.len()];
        let slots = (0u32..).zip(round_of).map(|(index, round)| {
            let slot = &mut next[round as usize];
            by_round[*slot as usize] = index;
            *slot += 1;
            *slot - 1
        });
        let slots = slots.collect();
        Self { before, by_round, rounds, slots }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
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

    /// What the words on [`arrange`] and [`one_payee_after_another`] say, one event after the other.
    fn by_definition(events: &[Event], tips: &HashMap<DataId, B256>) -> Vec<Event> {
        let mut payees: HashMap<DataId, Address> = HashMap::new();
        for event in events.iter().filter(|event| !event.payee.is_zero()) {
            payees.insert(event.data_id, event.payee);
        }
        let mut arranged = events.to_vec();
        arranged.sort_by_key(|event| payees.get(&event.data_id).copied());
        let mut tips = tips.clone();
        for (index, event) in (0u32..).zip(&mut arranged) {
            event.index = index;
            event.previous = if event.sequence == 0 { B256::ZERO } else { tips[&event.data_id] };
            tips.insert(event.data_id, event.leaf());
        }
        arranged
    }

    #[test]
    fn large_batches_are_what_the_definition_says() {
        for (count, records) in [(1, 1), (300, 1), (257, 257), (3 * EVENTS_AT_ONCE, 11_000), (EVENTS_AT_ONCE + 1, 40)] {
            let mut tips = HashMap::new();
            let mut next: HashMap<DataId, u32> = HashMap::new();
            let mut events = Vec::new();
            for i in 0..count {
                let record = i * 7_919 % records;
                let hash = keccak256(record.to_be_bytes());
                let id = DataId::from_bytes(hash[..16].try_into().unwrap());
                let begins = u32::from(record % 5 == 0);
                let sequence = next.entry(id).or_insert(begins);
                if *sequence == 1 && begins == 1 {
                    tips.insert(id, hash);
                }
                let is_paid = *sequence == 1 && record % 4 == 0;
                let payee = if is_paid { Address::from_word(keccak256([hash[0] % 9])) } else { Address::ZERO };
                events.push(Event {
                    data_id: id,
                    payee,
                    occurred_at: i as u64,
                    ..event(0, *sequence, EventKind::MetadataUpdated)
                });
                *sequence += 1;
            }
            let expected = by_definition(&events, &tips);
            let hashed = arrange(&mut events, &tips).unwrap();
            assert!(events == expected, "{count} events of {records} records");
            assert!(hashed == leaves(&events), "{count} events of {records} records");
        }
    }

    #[test]
    fn sealing_refuses_an_event_whose_predecessor_is_not_sealed() {
        assert!(arrange(&mut vec![event(1, 1, EventKind::Accepted)], &HashMap::new()).is_err());
    }
}
