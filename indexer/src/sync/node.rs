//! What is asked of the node: headers and logs, each with a timeout, each answer checked for being what was asked.

use std::time::Duration;

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256},
    providers::{DynProvider, Provider},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
    transports::TransportError,
};
use tidemark::{
    chain::Deployment,
    contracts::{PointsTreasury, ProvenanceLog},
};

const CALL_TIME_MAX: Duration = Duration::from_secs(20);
/// Geth takes 1,000 by default.
const ADDRESSES_PER_QUERY: usize = 500;

/// A header, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Hash of the block before.
    pub parent_hash: B256,
    /// Unix seconds.
    pub time: u64,
}

/// A log with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedLog {
    /// Height.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
    /// Unix seconds of the block.
    pub block_time: u64,
    /// Place in the block.
    pub log_index: u64,
    /// The transaction.
    pub tx_hash: B256,
    /// Who emitted it.
    pub address: Address,
    /// Up to four.
    pub topics: Vec<B256>,
    /// ABI-encoded.
    pub data: Vec<u8>,
}

/// Why the node could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node answered with an error, or not at all.
    #[error("RPC: {doing}")]
    Rpc {
        /// What was asked.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<TransportError>,
    },
    /// No answer in time.
    #[error("RPC: {doing}: no answer within {} s", CALL_TIME_MAX.as_secs())]
    Timeout {
        /// What was asked.
        doing: String,
    },
    /// An answer to another question.
    #[error("RPC: {doing}: {wrong}")]
    Wrong {
        /// What was asked.
        doing: String,
        /// What is wrong with the answer.
        wrong: String,
    },
}

/// The node and the contracts that are mirrored.
#[derive(Clone, Debug)]
pub struct Node {
    /// The RPC.
    pub rpc: DynProvider,
    /// The contracts.
    pub deployment: Deployment,
}

/// Which blocks to read logs of.
#[derive(Clone, Copy, Debug)]
pub enum Blocks {
    /// One block, by hash: a reorg can't slip another one in.
    One(Header),
    /// Final blocks, by number, both inclusive.
    Final(u64, u64),
}

impl Node {
    /// The header at a height or tag; `None` where there is none.
    pub async fn header(&self, at: BlockNumberOrTag) -> Result<Option<Header>, NodeError> {
        let block = call(format!("header at {at}"), self.rpc.get_block_by_number(at).into_future()).await?;
        Ok(block.map(|block| Header {
            number: block.header.number,
            hash: block.header.hash,
            parent_hash: block.header.parent_hash,
            time: block.header.timestamp,
        }))
    }

    /// The newest header.
    pub async fn latest(&self) -> Result<Header, NodeError> {
        let doing = || "header at latest".to_owned();
        let latest = self.header(BlockNumberOrTag::Latest).await?;
        latest.ok_or_else(|| NodeError::Wrong { doing: doing(), wrong: "there is none".into() })
    }

    /// The newest final header; by `finality_blocks` where the chain knows no such tag.
    pub async fn finalized(&self, latest: Header, finality_blocks: u64) -> Result<Option<Header>, NodeError> {
        match self.header(BlockNumberOrTag::Finalized).await {
            Ok(Some(header)) => return Ok(Some(header)),
            Ok(None) => {}
            // "unknown block" and "invalid params" are how nodes say that they know no tags; "too many requests" is not
            Err(NodeError::Rpc { source, .. }) if source.as_error_resp().is_some_and(|said| !said.is_retry_err()) => {}
            Err(error) => return Err(error),
        }
        match latest.number.checked_sub(finality_blocks) {
            Some(number) => self.header(number.into()).await,
            None => Ok(None),
        }
    }

    /// Logs of the contracts and of the points treasuries, in order. A treasury that is registered in these very blocks
    /// counts from its registration on.
    pub async fn logs(&self, blocks: Blocks, treasuries: &[Address]) -> Result<Vec<PlacedLog>, NodeError> {
        let contracts = self.deployment.addresses();
        let mut logs = self.logs_of(blocks, Filter::new().address(contracts.to_vec())).await?;
        let mut since: Vec<(Address, (u64, u64))> = treasuries.iter().map(|treasury| (*treasury, (0, 0))).collect();
        for log in logs.iter().filter(|log| log.address == self.deployment.provenance_log) {
            if let Some(treasury) = registered_treasury(&log.topics, &log.data)
                && !since.iter().any(|(known, _)| *known == treasury)
            {
                since.push((treasury, (log.block_number, log.log_index)));
            }
        }
        since.retain(|(treasury, _)| !contracts.contains(treasury));
        if !since.is_empty() {
            let signatures =
                vec![PointsTreasury::PointsRedeemed::SIGNATURE_HASH, PointsTreasury::OperatorChanged::SIGNATURE_HASH];
            let addresses: Vec<Address> = since.iter().map(|(treasury, _)| *treasury).collect();
            // anyone may register, and nodes refuse long lists
            for addresses in addresses.chunks(ADDRESSES_PER_QUERY) {
                let filter = Filter::new().address(addresses.to_vec()).event_signature(signatures.clone());
                let of_treasuries = self.logs_of(blocks, filter).await?;
                logs.extend(of_treasuries.into_iter().filter(|log| {
                    since
                        .iter()
                        .any(|(treasury, from)| *treasury == log.address && (log.block_number, log.log_index) >= *from)
                }));
            }
        }
        logs.sort_by_key(|log| (log.block_number, log.log_index));
        Ok(logs)
    }

    async fn logs_of(&self, blocks: Blocks, filter: Filter) -> Result<Vec<PlacedLog>, NodeError> {
        let (doing, filter, from, to) = match blocks {
            Blocks::One(header) => (
                format!("logs of block {}", header.hash),
                filter.at_block_hash(header.hash),
                header.number,
                header.number,
            ),
            Blocks::Final(from, to) => {
                (format!("logs of blocks {from} to {to}"), filter.from_block(from).to_block(to), from, to)
            }
        };
        let logs = call(doing.clone(), self.rpc.get_logs(&filter)).await?;
        let mut placed = Vec::with_capacity(logs.len());
        let mut times = std::collections::BTreeMap::<B256, u64>::new();
        for log in logs {
            let wrong = |wrong: &str| NodeError::Wrong { doing: doing.clone(), wrong: wrong.into() };
            let (Some(block_number), Some(block_hash), Some(log_index), Some(tx_hash)) =
                (log.block_number, log.block_hash, log.log_index, log.transaction_hash)
            else {
                return Err(wrong("a log without a place"));
            };
            let is_asked = match blocks {
                Blocks::One(header) => block_hash == header.hash && block_number == header.number,
                Blocks::Final(..) => (from..=to).contains(&block_number),
            };
            if log.removed || !is_asked {
                return Err(wrong("a log of another block"));
            }
            let block_time = match (blocks, log.block_timestamp, times.get(&block_hash)) {
                (Blocks::One(header), ..) => header.time,
                (_, Some(time), _) | (_, None, Some(&time)) => time,
                (_, None, None) => {
                    let header = self.header(block_number.into()).await?;
                    let header = header.filter(|header| header.hash == block_hash);
                    header.ok_or_else(|| wrong("a log of a block that is not there"))?.time
                }
            };
            times.insert(block_hash, block_time);
            placed.push(place(log, block_number, block_hash, block_time, log_index, tx_hash));
        }
        Ok(placed)
    }
}

fn place(log: Log, block_number: u64, block_hash: B256, block_time: u64, log_index: u64, tx_hash: B256) -> PlacedLog {
    let (topics, data) = log.inner.data.split();
    let address = log.inner.address;
    PlacedLog { block_number, block_hash, block_time, log_index, tx_hash, address, topics, data: data.to_vec() }
}

/// The points treasury of a ProviderRegistered log.
pub fn registered_treasury(topics: &[B256], data: &[u8]) -> Option<Address> {
    ProvenanceLog::ProviderRegistered::decode_raw_log(topics.iter().copied(), data).ok().map(|log| log.pointsTreasury)
}

async fn call<T>(doing: String, answer: impl Future<Output = Result<T, TransportError>>) -> Result<T, NodeError> {
    match tokio::time::timeout(CALL_TIME_MAX, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(NodeError::Rpc { doing, source: Box::new(source) }),
        Err(_) => Err(NodeError::Timeout { doing }),
    }
}
