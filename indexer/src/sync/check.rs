//! What a node says of a range of blocks, held against the headers: hashes, blooms and, where asked for, receipts.

use std::collections::BTreeMap;

use alloy::{
    consensus::proofs::calculate_receipt_root,
    primitives::{Address, B256, Bloom, BloomInput},
    sol_types::SolEvent,
};
use tidemark::{
    chain::Deployment,
    contracts::{
        ConsentRegistry::ConsentRegistryEvents, Disputes::DisputesEvents, IPRegistry::IPRegistryEvents,
        LicenseRegistry::LicenseRegistryEvents, PointsTreasury, ProvenanceLog::ProvenanceLogEvents,
    },
    nodes::One,
};

use super::node::{Block, Blocks, NodeError, PlacedLog, logs, receipts, sort, wrong};

/// Bits of a bloom that may be set where it is taken for a hint that a log is missing. A quarter full, it seems to hold a
/// given address by chance in 1 of 64 blocks; half full, as blocks of a busy chain are, in 1 of 8, and says nothing.
const BLOOM_BITS_TELLING: u32 = 512;

/// How much of what nodes say is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    /// That headers follow each other and logs belong to them: for chains whose headers are hashed in another way.
    Links,
    /// Also that each header has the hash it should have, and logs are in its bloom.
    #[default]
    Bloom,
    /// Also that logs are those of the receipts behind each header's root.
    Full,
}

/// What is looked for, with blooms made once.
#[derive(Clone, Debug)]
pub struct Watched(BTreeMap<Address, Watch>);

#[derive(Clone, Debug)]
struct Watch {
    address: Bloom,
    /// Of each event that it may emit.
    signatures: Vec<Bloom>,
    is_treasury: bool,
}

/// What is mirrored of a points treasury, which may be anybody's contract.
pub const OF_TREASURIES: [B256; 2] =
    [PointsTreasury::PointsRedeemed::SIGNATURE_HASH, PointsTreasury::OperatorChanged::SIGNATURE_HASH];

fn bloom_of(bytes: &[u8]) -> Bloom {
    Bloom::from(BloomInput::Raw(bytes))
}

impl Watched {
    /// The contracts.
    pub fn new(deployment: &Deployment) -> Self {
        let contracts = [
            (deployment.provenance_log, ProvenanceLogEvents::SELECTORS),
            (deployment.disputes, DisputesEvents::SELECTORS),
            (deployment.consent_registry, ConsentRegistryEvents::SELECTORS),
            (deployment.ip_registry, IPRegistryEvents::SELECTORS),
            (deployment.license_registry, LicenseRegistryEvents::SELECTORS),
        ];
        let watch = |(address, selectors): (Address, &[[u8; 32]])| {
            let signatures = selectors.iter().map(|selector| bloom_of(selector)).collect();
            (address, Watch { address: bloom_of(address.as_slice()), signatures, is_treasury: false })
        };
        Self(contracts.into_iter().map(watch).collect())
    }

    /// A points treasury; one that is a contract of ours is watched already.
    pub fn add_treasury(&mut self, address: Address) {
        self.0.entry(address).or_insert_with(|| Watch {
            address: bloom_of(address.as_slice()),
            signatures: OF_TREASURIES.iter().map(|signature| bloom_of(signature.as_slice())).collect(),
            is_treasury: true,
        });
    }

    /// Whether it is watched.
    pub fn has(&self, address: &Address) -> bool {
        self.0.contains_key(address)
    }

    /// The treasuries, or else the contracts.
    pub fn addresses(&self, treasuries: bool) -> Vec<Address> {
        self.0.iter().filter(|(_, watch)| watch.is_treasury == treasuries).map(|(address, _)| *address).collect()
    }

    /// Those that `earlier` has not.
    pub fn beyond(&self, earlier: &Self) -> Self {
        Self(self.0.iter().filter(|(address, _)| !earlier.has(address)).map(|(a, watch)| (*a, watch.clone())).collect())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn wants(&self, address: &Address, topics: &[B256]) -> bool {
        self.0.get(address).is_some_and(|watch| {
            !watch.is_treasury || topics.first().is_some_and(|signature| OF_TREASURIES.contains(signature))
        })
    }

    /// Whether a block seems to have logs that are not among `found`, by a bloom that is empty enough to tell.
    fn seems_to_miss(&self, bloom: &Bloom, found: &[PlacedLog]) -> bool {
        let set: u32 = bloom.data().iter().map(|byte| byte.count_ones()).sum();
        set <= BLOOM_BITS_TELLING
            && self.0.iter().any(|(address, watch)| {
                bloom.contains(&watch.address)
                    && watch.signatures.iter().any(|signature| bloom.contains(signature))
                    && !found.iter().any(|log| log.address == *address)
            })
    }
}

/// All that is watched in some blocks, in order.
pub async fn watched_logs(node: &One, blocks: Blocks, watched: &Watched) -> Result<Vec<PlacedLog>, NodeError> {
    let (contracts, treasuries) = (watched.addresses(false), watched.addresses(true));
    let mut found = logs(node, blocks, &contracts, &[]).await?;
    if !treasuries.is_empty() {
        found.extend(logs(node, blocks, &treasuries, &OF_TREASURIES).await?);
        sort(&mut found);
    }
    Ok(found)
}

/// Holds a range's logs, in order, against its headers; fills in their times. `others` settle what a bloom leaves open.
pub async fn check(
    node: &One,
    others: &[One],
    verify: Verify,
    watched: &Watched,
    blocks: &[Block],
    found: &mut [PlacedLog],
) -> Result<(), NodeError> {
    let mut rest = found;
    let mut keccak = Hashed::default();
    for block in blocks {
        let header = block.header;
        let doing = || format!("block {} ({})", header.number, header.hash);
        if verify != Verify::Links && !block.is_hash_right {
            return Err(wrong(
                node,
                doing(),
                "the header has another hash; --verify links is for chains that hash otherwise",
            ));
        }
        let count = rest.iter().take_while(|log| log.block_number == header.number).count();
        let (of_block, after) = rest.split_at_mut(count);
        rest = after;
        let mut last = None;
        for log in of_block.iter_mut() {
            if log.block_hash != header.hash {
                return Err(wrong(node, doing(), format!("a log of the block {} at its height", log.block_hash)));
            }
            if last.replace(log.log_index).is_some_and(|last| last >= log.log_index) {
                return Err(wrong(node, doing(), format!("log {} comes twice", log.log_index)));
            }
            log.block_time = header.time;
            let is_in = |bytes: &[u8], keccak: &mut Hashed| block.bloom.contains(keccak.bloom(bytes));
            if verify != Verify::Links
                && !(is_in(log.address.as_slice(), &mut keccak)
                    && log.topics.iter().all(|topic| is_in(topic.as_slice(), &mut keccak)))
            {
                return Err(wrong(node, doing(), format!("log {} is not in the header's bloom", log.log_index)));
            }
        }
        let is_empty = block.bloom.is_zero() && of_block.is_empty();
        match verify {
            Verify::Full if !is_empty => same(node, block, of_block, &proved_logs(node, block, watched).await?)?,
            Verify::Bloom if !is_empty && watched.seems_to_miss(&block.bloom, of_block) => {
                settle(node, others, block, of_block, watched).await?;
            }
            Verify::Links | Verify::Bloom | Verify::Full => {}
        }
    }
    match rest.first() {
        Some(log) => {
            Err(wrong(node, "logs", format!("one of block {}, of which there is no header", log.block_number)))
        }
        None => Ok(()),
    }
}

/// Blooms of the last few words: addresses and signatures come again and again.
#[derive(Default)]
struct Hashed {
    known: Vec<(Vec<u8>, Bloom)>,
    at: usize,
}

impl Hashed {
    const KNOWN_MAX: usize = 4;

    fn bloom(&mut self, bytes: &[u8]) -> &Bloom {
        let found = self.known.iter().position(|(known, _)| known == bytes);
        let at = found.unwrap_or_else(|| {
            let fresh = (bytes.to_vec(), bloom_of(bytes));
            if self.known.len() < Self::KNOWN_MAX {
                self.known.push(fresh);
                return self.known.len() - 1;
            }
            self.at = (self.at + 1) % Self::KNOWN_MAX;
            self.known[self.at] = fresh;
            self.at
        });
        &self.known[at].1
    }
}

/// Our logs of a block, out of receipts that are behind the header's root. In them a log has neither block nor transaction:
/// those are what the node says beside them.
async fn proved_logs(node: &One, block: &Block, watched: &Watched) -> Result<Vec<PlacedLog>, NodeError> {
    let header = block.header;
    let receipts = receipts(node, header.hash).await?;
    let hashed: Vec<_> = receipts.iter().map(|receipt| receipt.inner.clone().map_logs(|log| log.inner)).collect();
    let root = calculate_receipt_root(&hashed);
    if root != block.receipts_root {
        let doing = format!("receipts of block {} ({})", header.number, header.hash);
        return Err(wrong(node, doing, format!("they have the root {root}, and the header {}", block.receipts_root)));
    }
    let mut proved = Vec::new();
    let mut log_index = 0;
    for receipt in receipts {
        for log in receipt.inner.logs() {
            if watched.wants(&log.address(), log.topics()) {
                proved.push(PlacedLog {
                    block_number: header.number,
                    block_hash: header.hash,
                    block_time: header.time,
                    log_index,
                    tx_hash: receipt.transaction_hash,
                    address: log.address(),
                    topics: log.topics().to_vec(),
                    data: log.inner.data.data.clone(),
                });
            }
            log_index += 1;
        }
    }
    Ok(proved)
}

/// Whether logs are those that another question brought.
fn same(node: &One, block: &Block, said: &[PlacedLog], others: &[PlacedLog]) -> Result<(), NodeError> {
    let place = |log: &PlacedLog| (log.block_hash, log.log_index, log.tx_hash);
    let content = |log: &PlacedLog| (log.address, log.topics.clone(), log.data.clone());
    let is_same = said.len() == others.len()
        && said.iter().zip(others).all(|(a, b)| place(a) == place(b) && content(a) == content(b));
    if is_same {
        return Ok(());
    }
    let doing = format!("logs of block {} ({})", block.header.number, block.header.hash);
    Err(wrong(node, doing, format!("{} that are not the {} which the block has", said.len(), others.len())))
}

/// The bloom seems to hold one of ours, and there is no such log: chance, or the node does not tell. Receipts prove which it is;
/// where there are none, another node's word, or this one's asked by the block's hash, has to be the same.
async fn settle(
    node: &One,
    others: &[One],
    block: &Block,
    said: &[PlacedLog],
    watched: &Watched,
) -> Result<(), NodeError> {
    match proved_logs(node, block, watched).await {
        Ok(proved) => return same(node, block, said, &proved),
        Err(error) => {
            tracing::debug!(%error, block = block.header.number, "no receipts to settle what a bloom leaves open")
        }
    }
    let others = others.iter().filter(|other| other.name() != node.name());
    for asked in others.chain([node]) {
        match watched_logs(asked, Blocks::One(block.header.hash), watched).await {
            Ok(logs) => return same(node, block, said, &logs),
            Err(error) => tracing::debug!(%error, "a node can't settle what a bloom leaves open"),
        }
    }
    let doing = format!("logs of block {}", block.header.number);
    Err(wrong(node, doing, "its bloom seems to hold logs that the node does not tell, and nobody can say"))
}
