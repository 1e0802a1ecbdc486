//! A range of blocks with its logs, out of one node and checked; another node is asked where the first one's answers can't be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256},
    providers::DynProvider,
    sol_types::SolEvent,
};
use tidemark::{
    chain::Deployment,
    contracts::ProvenanceLog::ProviderRegistered,
    nodes::{Nodes, One},
};

use super::{
    check::{Verify, Watched, check, watched_logs},
    node::{self, Block, Blocks, NodeError, PlacedLog},
    range::Span,
};

/// How often a range is asked for before it counts as not to be had now.
const ROUNDS_MAX: u32 = 3;
/// Between two rounds: a reorg that changes answers meanwhile is over by then.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// The chain's nodes, and what is mirrored of it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Whom to ask, each behind a breaker.
    pub nodes: Nodes,
    /// The same nodes as one.
    pub rpc: DynProvider,
    /// The contracts.
    pub deployment: Deployment,
    /// How far they are believed.
    pub verify: Verify,
    /// What each takes at once, by name.
    spans: Arc<Mutex<BTreeMap<String, Span>>>,
}

/// Blocks that follow each other, with all logs that are watched.
#[derive(Debug)]
pub struct Part {
    /// One at least.
    pub blocks: Vec<Block>,
    /// In order.
    pub logs: Vec<PlacedLog>,
    /// What was asked for from its first block on.
    pub watched: Watched,
    /// Who told it.
    pub node: One,
}

impl Chain {
    /// Nodes that were connected to.
    pub fn new(nodes: Nodes, rpc: DynProvider, deployment: Deployment, verify: Verify) -> Self {
        Self { nodes, rpc, deployment, verify, spans: Arc::default() }
    }

    fn span<T>(&self, node: &One, change: impl FnOnce(&mut Span) -> T) -> T {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        change(spans.entry(node.name().to_owned()).or_default())
    }

    /// The last block to ask a node for at once.
    pub fn end(&self, node: &One, from: u64, to_max: u64) -> u64 {
        self.span(node, |span| span.end(from, to_max))
    }

    /// Blocks from `from` on, at most to `to_max` and at least one. `nodes` are asked in their order.
    pub async fn part(&self, nodes: &[One], from: u64, to_max: u64, watched: &Watched) -> Result<Part, NodeError> {
        let mut last = NodeError::Nobody("all are kept out".into());
        for round in 0..ROUNDS_MAX {
            let mut wrong = Vec::new();
            for node in nodes {
                match self.part_of(node, nodes, from, to_max, watched).await {
                    Ok(part) => {
                        // what somebody else could tell, these did not
                        wrong.into_iter().for_each(|(node, error): (&One, String)| node.distrust(&error));
                        return Ok(part);
                    }
                    Err(error) => {
                        tracing::warn!(%error, round, "a range of blocks could not be had");
                        if let NodeError::Wrong { .. } = &error {
                            metrics::counter!("tidemark_indexer_inconsistent_answers_total").increment(1);
                            wrong.push((node, error.to_string()));
                        }
                        last = error;
                    }
                }
            }
            tokio::time::sleep(ROUND_PAUSE * (round + 1)).await;
        }
        Err(last)
    }

    async fn part_of(
        &self,
        node: &One,
        others: &[One],
        from: u64,
        to_max: u64,
        watched: &Watched,
    ) -> Result<Part, NodeError> {
        let (to, mut logs) = self.some_logs(node, from, to_max, watched).await?;
        let blocks = node::blocks(node, from, to).await?;
        check(node, others, self.verify, watched, &blocks, &mut logs).await?;
        let registered = self.registered(&logs);
        let mut all = watched.clone();
        registered.keys().for_each(|treasury| all.add_treasury(*treasury));
        let late = all.beyond(watched);
        let mut part = Part { blocks, logs, watched: watched.clone(), node: node.clone() };
        if !late.is_empty() {
            self.add(&mut part, others, &late).await?;
            // one that is registered in these very blocks counts from its registration on
            part.logs.retain(|log| {
                !late.has(&log.address)
                    || registered.iter().any(|(treasury, since)| {
                        *treasury == log.address && (log.block_number, log.log_index) >= *since
                    })
            });
        }
        Ok(part)
    }

    /// Adds what else is watched in the same blocks.
    pub async fn add(&self, part: &mut Part, others: &[One], late: &Watched) -> Result<(), NodeError> {
        let (Some(first), Some(last)) = (part.blocks.first(), part.blocks.last()) else { return Ok(()) };
        let blocks = Blocks::Range(first.header.number, last.header.number);
        let mut logs = watched_logs(&part.node, blocks, late).await?;
        check(&part.node, others, self.verify, late, &part.blocks, &mut logs).await?;
        part.logs.extend(logs);
        node::sort(&mut part.logs);
        Ok(())
    }

    /// Logs of as many blocks as the node gives at once.
    async fn some_logs(
        &self,
        node: &One,
        from: u64,
        to_max: u64,
        watched: &Watched,
    ) -> Result<(u64, Vec<PlacedLog>), NodeError> {
        let mut to = self.end(node, from, to_max);
        loop {
            let blocks = to - from + 1;
            match watched_logs(node, Blocks::Range(from, to), watched).await {
                Ok(logs) => {
                    self.span(node, |span| span.answered(blocks, logs.len()));
                    return Ok((to, logs));
                }
                // nodes refuse in as many words as there are nodes: any refusal of several blocks may be of their number
                Err(error) if blocks > 1 && error.is_refusal() => {
                    tracing::info!(%error, "a node refused a range: asking for fewer blocks");
                    self.span(node, |span| span.refused(blocks, error.suggested()));
                }
                Err(error) => {
                    // the next attempt is smaller, here or elsewhere: each of these may take long
                    if blocks > 1 && error.is_failure() {
                        self.span(node, |span| span.refused(blocks, None));
                    }
                    return Err(error);
                }
            }
            to = self.end(node, from, to_max);
        }
    }

    /// Points treasuries that are registered in these logs, with their first place there.
    pub fn registered(&self, logs: &[PlacedLog]) -> BTreeMap<Address, (u64, u64)> {
        let mut registered = BTreeMap::new();
        let log = self.deployment.provenance_log;
        let is_registration = |topics: &[B256]| topics.first() == Some(&ProviderRegistered::SIGNATURE_HASH);
        for log in logs.iter().filter(|found| found.address == log && is_registration(&found.topics)) {
            if let Some(treasury) = registered_treasury(&log.topics, &log.data) {
                registered.entry(treasury).or_insert((log.block_number, log.log_index));
            }
        }
        registered
    }
}

/// The points treasury of a ProviderRegistered log.
pub fn registered_treasury(topics: &[B256], data: &[u8]) -> Option<Address> {
    ProviderRegistered::decode_raw_log(topics.iter().copied(), data).ok().map(|log| log.pointsTreasury)
}
