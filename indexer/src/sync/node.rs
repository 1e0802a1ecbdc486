//! What is asked of one node: headers, logs and receipts, each answer read and found to be what was asked.

use alloy::{
    consensus::{Header as ConsensusHeader, ReceiptEnvelope},
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bloom, Bytes},
    rpc::{
        json_rpc::RpcSend,
        types::{Filter, Header as RpcHeader, Log, TransactionReceipt},
    },
    transports::{RpcError, TransportError},
};
use serde::{Deserialize, de::DeserializeOwned};
use tidemark::{
    nodes::{One, said::Said},
    service::causes,
};

use super::range::suggested;

/// The greatest height and time that can be kept.
const MAX: u64 = i64::MAX.cast_unsigned();
/// Headers of one request.
const HEADERS_PER_REQUEST: usize = 64;
/// Geth takes 1,000 by default.
const ADDRESSES_PER_QUERY: usize = 500;
/// How some refuse what would be a long answer (RFC 9110).
const CONTENT_TOO_LARGE: u16 = 413;
/// Of what a node says, for people.
const WORDS_MAX: usize = 300;

/// A header, as far as it is needed when its block is mirrored.
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

/// A header with what its logs are checked against.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its place.
    pub header: Header,
    /// Of addresses and topics of all logs in it.
    pub bloom: Bloom,
    /// Root of its receipts.
    pub receipts_root: B256,
    /// Whether the hash is that of the fields.
    pub is_hash_right: bool,
}

/// A log with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedLog {
    /// Height.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
    /// Unix seconds of the block; 0 until it is known.
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
    pub data: Bytes,
}

/// Why a node could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It wants to be asked for less at once.
    #[error("{node}: {doing}: it refuses so much at once: {said}")]
    TooMuch {
        /// Which node.
        node: String,
        /// What was asked.
        doing: String,
        /// Its words.
        said: String,
        /// How many blocks would do, where it says so.
        suggested: Option<u64>,
    },
    /// It answered with an error, or not at all.
    #[error("{node}: {doing}: {said}")]
    Rpc {
        /// Which node.
        node: String,
        /// What was asked.
        doing: String,
        /// What it said.
        said: String,
        /// Whether that is an answer: not a failed connection, no "too many requests".
        is_answer: bool,
        /// Whether it gave up on the question, or whoever stands before it did: a smaller one may be answered.
        is_failure: bool,
    },
    /// What it says can't be, or is not what was asked.
    #[error("{node}: {doing}: {wrong}")]
    Wrong {
        /// Which node.
        node: String,
        /// What was asked.
        doing: String,
        /// What is wrong with the answer.
        wrong: String,
    },
    /// There is none to ask.
    #[error("no node can be asked now: {0}")]
    Nobody(String),
}

impl NodeError {
    /// Whether fewer blocks might have been answered.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::TooMuch { .. } | Self::Rpc { is_answer: true, .. })
    }

    /// Whether it took too long, or somebody before the node answered that it failed.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Rpc { is_failure: true, .. })
    }

    /// How many blocks the node says would do.
    pub fn suggested(&self) -> Option<u64> {
        match self {
            Self::TooMuch { suggested, .. } => *suggested,
            _ => None,
        }
    }
}

/// Which blocks to read logs of.
#[derive(Clone, Copy, Debug)]
pub enum Blocks {
    /// One block, by hash.
    One(B256),
    /// By number, both inclusive.
    Range(u64, u64),
}

impl std::fmt::Display for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(hash) => write!(f, "block {hash}"),
            Self::Range(from, to) => write!(f, "blocks {from} to {to}"),
        }
    }
}

/// `eth_getLogs` without what is not kept; alloy's own type buffers each log as it is flattened.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    #[serde(with = "alloy::serde::quantity")]
    block_number: u64,
    block_hash: B256,
    transaction_hash: B256,
    #[serde(with = "alloy::serde::quantity")]
    log_index: u64,
    #[serde(default)]
    removed: bool,
}

/// An error of `node`.
pub fn wrong(node: &One, doing: impl ToString, wrong: impl ToString) -> NodeError {
    NodeError::Wrong { node: node.name().to_owned(), doing: doing.to_string(), wrong: wrong.to_string() }
}

fn failed(node: &One, doing: &str, from: u64, error: &TransportError) -> NodeError {
    let (node, doing) = (node.name().to_owned(), doing.to_owned());
    let said: String = causes(error).chars().take(WORDS_MAX).collect();
    let class = Said::of(error);
    let status = error.as_transport_err().and_then(|error| error.as_http_error()).map(|error| error.status);
    if class == Said::TooMuch || status == Some(CONTENT_TOO_LARGE) {
        let suggested = error.as_error_resp().and_then(|payload| suggested(&payload.message, from));
        return NodeError::TooMuch { node, doing, said, suggested };
    }
    let is_answer = matches!(error, RpcError::ErrorResp(_) | RpcError::NullResp) && class != Said::RateLimited;
    let is_failure = class == Said::TimedOut || status.is_some_and(|status| status >= 500);
    NodeError::Rpc { node, doing, said, is_answer: is_answer && !is_failure, is_failure }
}

async fn ask<T: DeserializeOwned>(
    node: &One,
    doing: &str,
    from: u64,
    method: &'static str,
    params: impl RpcSend,
) -> Result<T, NodeError> {
    let json = node.ask(method, params).await.map_err(|error| failed(node, doing, from, &error))?;
    serde_json::from_str(json.get())
        .map_err(|error| wrong(node, doing, format!("an answer that can't be read: {error}")))
}

fn block(header: RpcHeader<ConsensusHeader>) -> Block {
    let RpcHeader { hash, inner, .. } = header;
    Block {
        header: Header { number: inner.number, hash, parent_hash: inner.parent_hash, time: inner.timestamp },
        bloom: inner.logs_bloom,
        receipts_root: inner.receipts_root,
        is_hash_right: inner.hash_slow() == hash,
    }
}

/// The header at a height or tag; `None` where there is none.
pub async fn header(node: &One, at: BlockNumberOrTag) -> Result<Option<Header>, NodeError> {
    let doing = format!("header at {at}");
    let found: Option<RpcHeader<ConsensusHeader>> = ask(node, &doing, 0, "eth_getBlockByNumber", (at, false)).await?;
    let header = found.map(|header| block(header).header);
    match (at, header) {
        (BlockNumberOrTag::Number(number), Some(header)) if header.number != number => {
            Err(wrong(node, doing, format!("the header of block {}", header.number)))
        }
        (_, Some(Header { number, time, .. })) if number.max(time) > MAX => {
            Err(wrong(node, doing, format!("block {number} at {time} s, which no chain has")))
        }
        _ => Ok(header),
    }
}

/// Headers of all blocks from `from` to `to`, each the parent of the next.
pub async fn blocks(node: &One, from: u64, to: u64) -> Result<Vec<Block>, NodeError> {
    let doing = format!("headers of blocks {from} to {to}");
    let numbers: Vec<u64> = (from..=to).collect();
    let mut blocks: Vec<Block> = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(HEADERS_PER_REQUEST) {
        for json in headers(node, &doing, numbers).await? {
            let found: Option<RpcHeader<ConsensusHeader>> = serde_json::from_str(json.get())
                .map_err(|error| wrong(node, &doing, format!("a header that can't be read: {error}")))?;
            let next = from + blocks.len() as u64;
            let Some(found) = found.map(block).filter(|block| block.header.number == next && block.header.time <= MAX)
            else {
                return Err(wrong(node, doing, format!("no block {next}")));
            };
            if let Some(last) = blocks.last()
                && last.header.hash != found.header.parent_hash
            {
                return Err(wrong(
                    node,
                    doing,
                    format!(
                        "block {next} has the parent {}, and block {} is {}",
                        found.header.parent_hash,
                        next - 1,
                        last.header.hash
                    ),
                ));
            }
            blocks.push(found);
        }
    }
    Ok(blocks)
}

/// In one request; one by one where the node takes none with several calls.
async fn headers(node: &One, doing: &str, numbers: &[u64]) -> Result<Vec<Box<serde_json::value::RawValue>>, NodeError> {
    let params = |number: &u64| (BlockNumberOrTag::Number(*number), false);
    if let [number] = numbers {
        let answer = node.ask("eth_getBlockByNumber", params(number)).await;
        return Ok(vec![answer.map_err(|error| failed(node, doing, *number, &error))?]);
    }
    match node.ask_many("eth_getBlockByNumber", numbers.iter().map(params)).await {
        Ok(answers) => Ok(answers),
        Err(error @ (RpcError::ErrorResp(_) | RpcError::NullResp)) if Said::of(&error) != Said::RateLimited => {
            let mut answers = Vec::with_capacity(numbers.len());
            for number in numbers {
                let answer = node.ask("eth_getBlockByNumber", params(number)).await;
                answers.push(answer.map_err(|error| failed(node, doing, *number, &error))?);
            }
            Ok(answers)
        }
        Err(error) => Err(failed(node, doing, 0, &error)),
    }
}

/// Logs of some addresses, those with one of `signatures` where that is not empty, in order.
pub async fn logs(
    node: &One,
    blocks: Blocks,
    addresses: &[Address],
    signatures: &[B256],
) -> Result<Vec<PlacedLog>, NodeError> {
    let doing = format!("logs of {blocks}");
    let mut placed = Vec::new();
    for addresses in addresses.chunks(ADDRESSES_PER_QUERY) {
        let mut filter = Filter::new().address(addresses.to_vec());
        if !signatures.is_empty() {
            filter = filter.event_signature(signatures.to_vec());
        }
        let (filter, from) = match blocks {
            Blocks::One(hash) => (filter.at_block_hash(hash), 0),
            Blocks::Range(from, to) => (filter.from_block(from).to_block(to), from),
        };
        let logs: Vec<WireLog> = ask(node, &doing, from, "eth_getLogs", (filter,)).await?;
        placed.reserve_exact(logs.len());
        for log in logs {
            let is_asked = match blocks {
                Blocks::One(hash) => log.block_hash == hash,
                Blocks::Range(from, to) => (from..=to).contains(&log.block_number),
            };
            let is_signed = signatures.is_empty() || log.topics.first().is_some_and(|first| signatures.contains(first));
            let is_kept = i64::try_from(log.log_index).is_ok();
            if log.removed || !is_kept || !is_asked || !is_signed || !addresses.contains(&log.address) {
                let place = format!("log {} of block {}", log.log_index, log.block_number);
                return Err(wrong(node, doing, format!("{place}, which was not asked for")));
            }
            placed.push(PlacedLog {
                block_number: log.block_number,
                block_hash: log.block_hash,
                block_time: 0,
                log_index: log.log_index,
                tx_hash: log.transaction_hash,
                address: log.address,
                topics: log.topics,
                data: log.data,
            });
        }
    }
    sort(&mut placed);
    Ok(placed)
}

/// In the order of the chain.
pub fn sort(logs: &mut [PlacedLog]) {
    logs.sort_unstable_by_key(|log| (log.block_number, log.log_index));
}

/// A block's receipts, as they are hashed.
pub async fn receipts(node: &One, hash: B256) -> Result<Vec<TransactionReceipt<ReceiptEnvelope<Log>>>, NodeError> {
    let doing = format!("receipts of block {hash}");
    let found: Option<Vec<_>> = ask(node, &doing, 0, "eth_getBlockReceipts", (hash,)).await?;
    found.ok_or_else(|| wrong(node, doing, "there are none"))
}
