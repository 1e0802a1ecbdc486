//! Batch headers: what a batch commits to, and the digest that the attestor signs.

use std::collections::BTreeMap;

use alloy::{
    primitives::{Address, B256, Bytes},
    sol,
    sol_types::{Eip712Domain, SolStruct, eip712_domain},
};
use cid::Cid;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, EventKind, decimal},
    merkle::Tree,
};

/// The most events in one batch: 2^20.
pub const EVENTS_MAX: usize = 1 << 20;

sol! {
    /// EIP-712 form, as in `IProvenanceLog.sol`.
    #[derive(Debug, PartialEq, Eq)]
    struct TaskDebit {
        uint64 taskId;
        uint128 amount;
    }

    /// EIP-712 form, as in `IProvenanceLog.sol`.
    #[derive(Debug, PartialEq, Eq)]
    struct Batch {
        address provider;
        uint64 number;
        bytes32 root;
        uint32 eventCount;
        uint128 pointsTotal;
        uint128 walletTotal;
        TaskDebit[] debits;
        bytes manifestCid;
    }
}

/// Events that one core checks at once.
const EVENTS_AT_ONCE: usize = 16_384;

/// What a batch takes out of one task's escrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debit {
    /// Which task.
    pub task_id: u64,
    /// Payment-token units.
    #[serde(with = "decimal")]
    pub amount: u128,
}

/// The header of a batch, as it is signed and anchored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The provider's account.
    pub provider: Address,
    /// The provider's next one, from 0.
    pub number: u64,
    /// Root over the events' leaves.
    pub root: B256,
    /// How many events.
    pub event_count: u32,
    /// Payment-token units to the points treasury.
    #[serde(with = "decimal")]
    pub points_total: u128,
    /// Payment-token units that back wallet claims.
    #[serde(with = "decimal")]
    pub wallet_total: u128,
    /// Ascending by task, each once.
    pub debits: Vec<Debit>,
    /// CIDv1 of the manifest.
    #[serde(with = "cid_text")]
    pub manifest_cid: Cid,
}

/// What follows from the events alone.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The whole tree, for proofs.
    pub tree: Tree,
    /// See [`Header::points_total`].
    pub points_total: u128,
    /// See [`Header::wallet_total`].
    pub wallet_total: u128,
    /// See [`Header::debits`].
    pub debits: Vec<Debit>,
}

/// Why a list of events is no batch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// None, or more than [`EVENTS_MAX`].
    #[error("expected 1 to {EVENTS_MAX} events, got {0}")]
    Count(usize),
    /// An event that breaks a rule of its own.
    #[error("event {index}: {reason}")]
    Event {
        /// Its place in the list.
        index: usize,
        /// Which rule.
        reason: &'static str,
    },
}

/// Leaves of events, hashed on all cores.
pub fn leaves(events: &[Event]) -> Vec<B256> {
    events.par_iter().with_min_len(256).map(Event::leaf).collect()
}

/// Tree and totals of a list of events in index order, having checked index, reward and payee of each.
pub fn summarise(events: &[Event]) -> Result<Summary, BatchError> {
    summarise_hashed(events, &leaves(events))
}

/// The same where whoever asks has hashed the leaves already.
pub fn summarise_hashed(events: &[Event], leaves: &[B256]) -> Result<Summary, BatchError> {
    if events.is_empty() || events.len() > EVENTS_MAX {
        return Err(BatchError::Count(events.len()));
    }
    let totals = events
        .par_chunks(EVENTS_AT_ONCE)
        .enumerate()
        .map(|(chunk, events)| Totals::of(chunk * EVENTS_AT_ONCE, events))
        .collect::<Vec<_>>();
    let Totals { points_total, wallet_total, debits } =
        totals.into_iter().enumerate().try_fold(Totals::default(), |sum, (chunk, totals)| {
            let index = chunk * EVENTS_AT_ONCE;
            sum.plus(totals?).ok_or(BatchError::Event { index, reason: "totals up to here exceed 128 bits" })
        })?;
    points_total.checked_add(wallet_total).ok_or(BatchError::Event { index: 0, reason: "totals exceed 128 bits" })?;
    let tree = Tree::new(leaves).filter(|_| leaves.len() == events.len()).ok_or(BatchError::Count(events.len()))?;
    let debits = debits.into_iter().map(|(task_id, amount)| Debit { task_id, amount }).collect();
    Ok(Summary { tree, points_total, wallet_total, debits })
}

/// What some events come to.
#[derive(Default)]
struct Totals {
    points_total: u128,
    wallet_total: u128,
    debits: BTreeMap<u64, u128>,
}

impl Totals {
    /// Of events from this index on, having checked each.
    fn of(from: usize, events: &[Event]) -> Result<Self, BatchError> {
        let mut sum = Self::default();
        for (index, event) in (from..).zip(events) {
            let broken = |reason| BatchError::Event { index, reason };
            if event.index as usize != index {
                return Err(broken("index is not its position"));
            }
            if (event.sequence == 0) != (event.kind == EventKind::Registered) {
                return Err(broken("sequence 0 and kind registered go together"));
            }
            if (event.sequence == 0) != event.previous.is_zero() {
                return Err(broken("previous is zero at sequence 0 and only there"));
            }
            if event.reward == 0 {
                continue;
            }
            if event.kind != EventKind::Accepted {
                return Err(broken("a reward on an event that is not accepted"));
            }
            if event.task_id == 0 {
                return Err(broken("a reward without a task"));
            }
            let total = if event.payee.is_zero() { &mut sum.points_total } else { &mut sum.wallet_total };
            *total = total.checked_add(event.reward).ok_or_else(|| broken("totals exceed 128 bits"))?;
            let debit = sum.debits.entry(event.task_id).or_default();
            *debit = debit.checked_add(event.reward).ok_or_else(|| broken("debits exceed 128 bits"))?;
        }
        Ok(sum)
    }

    /// Both; `None` above 128 bits.
    fn plus(mut self, other: Self) -> Option<Self> {
        self.points_total = self.points_total.checked_add(other.points_total)?;
        self.wallet_total = self.wallet_total.checked_add(other.wallet_total)?;
        for (task_id, amount) in other.debits {
            let debit = self.debits.entry(task_id).or_default();
            *debit = debit.checked_add(amount)?;
        }
        Some(self)
    }
}

/// EIP-712 domain of the provenance log.
pub fn domain(chain_id: u64, provenance_log: Address) -> Eip712Domain {
    eip712_domain! {
        name: "Tidemark ProvenanceLog",
        version: "1",
        chain_id: chain_id,
        verifying_contract: provenance_log,
    }
}

impl Header {
    /// A header over events that were summarised.
    pub fn new(provider: Address, number: u64, events: &[Event], summary: &Summary, manifest_cid: Cid) -> Option<Self> {
        Some(Self {
            provider,
            number,
            root: summary.tree.root(),
            event_count: u32::try_from(events.len()).ok()?,
            points_total: summary.points_total,
            wallet_total: summary.wallet_total,
            debits: summary.debits.clone(),
            manifest_cid,
        })
    }

    /// The EIP-712 struct.
    pub fn sol(&self) -> Batch {
        Batch {
            provider: self.provider,
            number: self.number,
            root: self.root,
            eventCount: self.event_count,
            pointsTotal: self.points_total,
            walletTotal: self.wallet_total,
            debits: self.debits.iter().map(|d| TaskDebit { taskId: d.task_id, amount: d.amount }).collect(),
            manifestCid: Bytes::from(self.manifest_cid.to_bytes()),
        }
    }

    /// The digest that the attestor signs.
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        self.sol().eip712_signing_hash(domain)
    }
}

/// A CID as text in JSON.
pub mod cid_text {
    use cid::Cid;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the base32 text.
    pub fn serialize<S: Serializer>(cid: &Cid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cid)
    }

    /// Reads any multibase text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cid, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format!("expected a CID, got {text:?}: {error}")))
    }
}
