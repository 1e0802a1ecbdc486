//! What makes a manifest the one that a batch header promised; the first difference makes the batch invalid.

use std::collections::HashMap;

use alloy::primitives::{Address, B256};
use tidemark::{
    batch::{Debit, leaves, summarise_hashed},
    event::{Event, EventKind},
    ids::DataId,
    manifest::Manifest,
    merkle::Tree,
};

/// What the chain says of a batch.
#[derive(Clone, Debug)]
pub struct Promised {
    /// The provider's account.
    pub provider: Address,
    /// Its number.
    pub number: u64,
    /// Root over the leaves.
    pub root: B256,
    /// How many events.
    pub event_count: u64,
    /// Payment-token units in points.
    pub points_total: u128,
    /// Payment-token units to wallets.
    pub wallet_total: u128,
    /// Ascending by task.
    pub debits: Vec<Debit>,
}

/// The newest event of a record before this batch.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// Its leaf.
    pub leaf: B256,
    /// Its place.
    pub sequence: u32,
    /// What it was.
    pub kind: EventKind,
}

/// A task as it was created.
#[derive(Clone, Copy, Debug)]
pub struct TaskTerms {
    /// Whose.
    pub provider: Address,
    /// Payment-token units for each accepted submission.
    pub price: u128,
}

/// The first difference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", row.map(|row| format!("row {row}: ")).unwrap_or_default())]
pub struct Wrong {
    /// Row of the manifest; none where the whole differs.
    pub row: Option<usize>,
    /// What was expected and what came.
    pub reason: String,
}

fn whole(reason: impl Into<String>) -> Wrong {
    Wrong { row: None, reason: reason.into() }
}

fn compare<T: PartialEq + std::fmt::Display>(what: &str, expected: T, actual: T) -> Result<(), Wrong> {
    if expected == actual {
        return Ok(());
    }
    Err(whole(format!("{what}: expected {expected} as anchored, got {actual}")))
}

/// What the manifest alone can be held to: who, root, count, totals and debits. Gives the leaves in index order, and
/// their tree.
pub fn check_header(promised: &Promised, manifest: &Manifest) -> Result<(Vec<B256>, Tree), Wrong> {
    compare("provider", promised.provider, manifest.provider)?;
    compare("number", promised.number, manifest.number)?;
    compare("event count", promised.event_count, manifest.events.len() as u64)?;
    let leaves = leaves(&manifest.events);
    let summary = summarise_hashed(&manifest.events, &leaves).map_err(|error| whole(error.to_string()))?;
    compare("root", promised.root, summary.tree.root())?;
    compare("points total", promised.points_total, summary.points_total)?;
    compare("wallet total", promised.wallet_total, summary.wallet_total)?;
    if promised.debits != summary.debits {
        return Err(whole(format!("debits: expected {:?} as anchored, got {:?}", promised.debits, summary.debits)));
    }
    Ok((leaves, summary.tree))
}

/// Each record's hash chain across batches, and each reward against its task's price.
pub fn check_chains(
    promised: &Promised,
    events: &[Event],
    leaves: &[B256],
    mut tails: HashMap<DataId, Tail>,
    tasks: &HashMap<u64, TaskTerms>,
) -> Result<(), Wrong> {
    for (row, (event, leaf)) in events.iter().zip(leaves).enumerate() {
        let wrong = |reason: String| Wrong { row: Some(row), reason };
        let tail = tails.get(&event.data_id);
        let sequence = tail.map_or(Some(0), |tail| tail.sequence.checked_add(1));
        if sequence != Some(event.sequence) {
            let expected = sequence.map_or("no further event".into(), |sequence| sequence.to_string());
            return Err(wrong(format!("sequence of {}: expected {expected}, got {}", event.data_id, event.sequence)));
        }
        let previous = tail.map_or(B256::ZERO, |tail| tail.leaf);
        if previous != event.previous {
            return Err(wrong(format!("previous of {}: expected {previous}, got {}", event.data_id, event.previous)));
        }
        let before = tail.map(|tail| tail.kind);
        if !EventKind::may_follow(before, event.kind) {
            let before = before.map_or("nothing", EventKind::name);
            return Err(wrong(format!("{} of {} can't follow {before}", event.kind.name(), event.data_id)));
        }
        check_reward(promised.provider, event, tasks).map_err(wrong)?;
        tails.insert(event.data_id, Tail { leaf: *leaf, sequence: event.sequence, kind: event.kind });
    }
    Ok(())
}

fn check_reward(provider: Address, event: &Event, tasks: &HashMap<u64, TaskTerms>) -> Result<(), String> {
    if event.kind != EventKind::Accepted || event.task_id == 0 {
        // a reward elsewhere, or without a task, was refused with the header
        return Ok(());
    }
    let Some(task) = tasks.get(&event.task_id).filter(|task| task.provider == provider) else {
        return Err(format!("task: expected one of the provider's, got {}", event.task_id));
    };
    match task.price == event.reward {
        true => Ok(()),
        false => {
            Err(format!("reward: expected {}, the price of task {}, got {}", task.price, event.task_id, event.reward))
        }
    }
}

#[cfg(test)]
mod tests {
    use cid::Cid;
    use tidemark::ids::{ConsentId, ContentHash};

    use super::*;

    const PROVIDER: Address = Address::repeat_byte(1);

    fn event(index: u32, id: u8, sequence: u32, kind: EventKind, previous: B256) -> Event {
        Event {
            index,
            data_id: DataId::from_bytes([id; 16]),
            sequence,
            kind,
            contributor: B256::repeat_byte(id),
            content_hash: ContentHash(B256::repeat_byte(9)),
            consent_id: ConsentId(B256::repeat_byte(8)),
            commitment: B256::repeat_byte(7),
            previous,
            occurred_at: 1_700_000_000,
            task_id: if kind == EventKind::Accepted { 3 } else { 0 },
            reward: if kind == EventKind::Accepted { 500 } else { 0 },
            payee: Address::ZERO,
        }
    }

    /// Two records, the first accepted.
    fn events() -> Vec<Event> {
        let first = event(0, 1, 0, EventKind::Registered, B256::ZERO);
        let second = event(1, 2, 0, EventKind::Registered, B256::ZERO);
        let third = event(2, 1, 1, EventKind::Accepted, first.leaf());
        vec![first, second, third]
    }

    fn promised(events: &[Event]) -> Promised {
        let summary = tidemark::batch::summarise(events).unwrap();
        Promised {
            provider: PROVIDER,
            number: 4,
            root: summary.tree.root(),
            event_count: events.len() as u64,
            points_total: summary.points_total,
            wallet_total: summary.wallet_total,
            debits: summary.debits,
        }
    }

    fn manifest(events: Vec<Event>) -> Manifest {
        Manifest { provider: PROVIDER, number: 4, events, disclosures: None::<Cid> }
    }

    fn tasks() -> HashMap<u64, TaskTerms> {
        HashMap::from([(3, TaskTerms { provider: PROVIDER, price: 500 })])
    }

    fn check(events: Vec<Event>, tails: HashMap<DataId, Tail>) -> Result<(), Wrong> {
        let promised = promised(&events);
        let (leaves, _) = check_header(&promised, &manifest(events.clone()))?;
        check_chains(&promised, &events, &leaves, tails, &tasks())
    }

    #[test]
    fn what_was_promised_is_valid() {
        assert_eq!(check(events(), HashMap::new()), Ok(()));
    }

    #[test]
    fn every_field_of_the_header_is_compared() {
        let good = promised(&events());
        let spoiled: Vec<(&str, Promised)> = vec![
            ("provider", Promised { provider: Address::ZERO, ..good.clone() }),
            ("number", Promised { number: 5, ..good.clone() }),
            ("root", Promised { root: B256::ZERO, ..good.clone() }),
            ("event count", Promised { event_count: 2, ..good.clone() }),
            ("points total", Promised { points_total: 1, ..good.clone() }),
            ("wallet total", Promised { wallet_total: 1, ..good.clone() }),
            ("debits", Promised { debits: Vec::new(), ..good }),
        ];
        for (what, promised) in spoiled {
            let wrong = check_header(&promised, &manifest(events())).unwrap_err();
            assert!(wrong.reason.starts_with(what), "{what}: {wrong}");
        }
    }

    #[test]
    fn a_broken_chain_names_its_row() {
        let mut gap = events();
        gap[2].sequence = 2;
        assert!(check(gap, HashMap::new()).unwrap_err().to_string().starts_with("row 2: sequence of"));
        let mut previous = events();
        previous[2].previous = B256::repeat_byte(1);
        assert!(check(previous, HashMap::new()).unwrap_err().to_string().starts_with("row 2: previous of"));
    }

    #[test]
    fn a_record_is_registered_once_and_judged_once_across_batches() {
        let tail = |kind| {
            let tail = Tail { leaf: B256::repeat_byte(5), sequence: 0, kind };
            HashMap::from([(DataId::from_bytes([1; 16]), tail)])
        };
        let accepted = vec![event(0, 1, 1, EventKind::Accepted, B256::repeat_byte(5))];
        assert_eq!(check(accepted.clone(), tail(EventKind::Registered)), Ok(()));
        for before in [EventKind::Accepted, EventKind::Rejected, EventKind::MetadataUpdated, EventKind::Erased] {
            let wrong = check(accepted.clone(), tail(before)).unwrap_err();
            assert!(wrong.reason.contains(&format!("can't follow {}", before.name())), "{wrong}");
        }
        assert!(check(events(), tail(EventKind::Registered)).unwrap_err().reason.starts_with("sequence"));
    }

    #[test]
    fn a_reward_is_its_task_s_price_and_the_task_the_provider_s() {
        let events = events();
        let promised = promised(&events);
        let leaves: Vec<B256> = events.iter().map(Event::leaf).collect();
        for terms in [
            None,
            Some(TaskTerms { provider: PROVIDER, price: 499 }),
            Some(TaskTerms { provider: Address::ZERO, price: 500 }),
        ] {
            let tasks = terms.map(|terms| (3, terms)).into_iter().collect();
            assert_eq!(check_chains(&promised, &events, &leaves, HashMap::new(), &tasks).unwrap_err().row, Some(2));
        }
    }

    #[test]
    fn an_acceptance_without_a_task_earns_nothing_and_is_valid() {
        let mut without = events();
        (without[2].task_id, without[2].reward) = (0, 0);
        assert_eq!(check(without.clone(), HashMap::new()), Ok(()));
        without[2].task_id = 3;
        assert!(check(without, HashMap::new()).unwrap_err().reason.starts_with("reward: expected 500"));
    }
}
