//! Reorgs of random depth while events flow, with transactions moved, dropped and changed, and kills between: the tables are
//! always those of an indexer that began now. `TIDEMARK_SEED` repeats a run, `TIDEMARK_ROUNDS` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use alloy::{
    primitives::{Address, B256, Bytes},
    sol_types::SolCall,
};
use serde_json::{Value, json};
use tidemark::contracts::{ConsentRegistry::publishPolicyCall, ProvenanceLog};
use tidemark_tests::{
    faulty_node::{Fault, FaultyNode},
    forge::{BUDGETED, Forge, OwnBatch},
    random::Random,
    services::Service,
    story::strangers::{checksums, differences, second_indexer},
};

/// What the indexer takes for final where the node knows no tag: its default.
const FINALITY_BLOCKS: u64 = 64;
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(60);

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The chain under attack.
struct Attacked {
    forge: Forge,
    random: Random,
    published: u64,
    node: FaultyNode,
}

impl Attacked {
    async fn new() -> Self {
        let forge = Forge::new().await.unwrap();
        let node = FaultyNode::start(forge.stack.chain.url()).await.unwrap();
        // anvil's finality is two blocks deep: this chain has none but by depth
        let no_tag = Fault::changes(|request, answer| {
            if request["params"][0] == "finalized" {
                *answer = json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32602, "message": "invalid params"}});
            }
        });
        node.fail("eth_getBlockByNumber", no_tag);
        forge.stack.chain.call("anvil_impersonateAccount", json!([forge.world.provider])).await.unwrap();
        Self { forge, random: Random::from_environment(), published: 0, node }
    }

    async fn indexer(&self, database: &str) -> Service {
        let told = vec![("TIDEMARK_RPC_URL", self.node.url().to_owned())];
        self.forge.stack.start_indexer_with(database, told).await.unwrap()
    }

    /// A transaction with an event of its own.
    fn publication(&mut self) -> Bytes {
        self.published += 1;
        let mut hash = B256::ZERO;
        hash.0[..8].copy_from_slice(&self.published.to_be_bytes());
        let version = format!("{}-{}", self.published, self.random.below(1_000));
        publishPolicyCall { policyHash: hash, version, uri: "https://example.invalid".into() }.abi_encode().into()
    }

    /// A batch in a block of its own. Not by [`Forge::anchor`]: the transaction may be the very one that a reorg took, and
    /// anvil has no receipt of it for a moment.
    async fn anchor(&self, batch: &OwnBatch) {
        let (anvil, world) = (&self.forge.stack.chain, &self.forge.world);
        let log = ProvenanceLog::new(world.deployment.provenance_log, anvil.provider());
        let input = log.anchor((&batch.header).into(), batch.signature.clone()).calldata().clone();
        let call = json!({"from": world.provider, "to": log.address(), "data": input, "gas": "0x200000"});
        let hash = anvil.call("eth_sendTransaction", json!([call])).await.unwrap();
        let deadline = Instant::now() + CATCH_UP_TIME_MAX;
        loop {
            let receipt = anvil.call("eth_getTransactionReceipt", json!([hash])).await.unwrap();
            if !receipt.is_null() {
                assert_eq!(receipt["status"], "0x1", "{receipt}");
                return;
            }
            assert!(Instant::now() < deadline, "an anchoring transaction is not mined");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Blocks with these transactions, none to three in each.
    async fn mine_some(&mut self, mut pending: Vec<Bytes>) {
        let anvil = &self.forge.stack.chain;
        anvil.call("evm_setAutomine", json!([false])).await.unwrap();
        while !pending.is_empty() {
            for _ in 0..self.random.below(4) {
                let Some(input) = pending.pop() else { break };
                let call = json!({"from": self.forge.world.provider, "to": self.forge.world.deployment.consent_registry,
                    "data": input, "gas": "0x80000"});
                anvil.call("eth_sendTransaction", json!([call])).await.unwrap();
            }
            anvil.mine(1).await.unwrap();
        }
        anvil.call("evm_setAutomine", json!([true])).await.unwrap();
    }

    /// Of what a reorg took: some comes again in another order, some never, some with other content; and more.
    fn again(&mut self, gone: Vec<Bytes>) -> Vec<Bytes> {
        let mut next = Vec::new();
        for input in gone {
            match self.random.below(3) {
                0 => next.push(input),
                1 => {}
                _ => next.push(self.publication()),
            }
        }
        self.random.shuffle(&mut next);
        next
    }

    async fn until_level(&self, indexer: &Service, database: &str) {
        let deadline = Instant::now() + CATCH_UP_TIME_MAX;
        let latest = self.forge.stack.chain.call("eth_getBlockByNumber", json!(["latest", false])).await.unwrap();
        let mut connection = self.forge.stack.postgres.connect(database).await.unwrap();
        loop {
            let hash: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT mirrored_hash FROM mirror.cursor").fetch_one(&mut connection).await.unwrap();
            if hash.is_some_and(|hash| latest["hash"] == B256::from_slice(&hash).to_string()) {
                return;
            }
            let (_, status) = indexer.get("/status").await.unwrap_or((0, Value::Null));
            assert!(Instant::now() < deadline, "not level: {status}; {}", indexer.log_tail());
            assert!(status["halted"].is_null(), "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All tables of a fresh indexer are those of the old one.
    async fn compare(&self, database: &str, fresh: &str) {
        let url = |name: &str| self.forge.stack.postgres.url(name);
        let second = self.indexer(fresh).await;
        self.until_level(&second, fresh).await;
        let deadline = Instant::now() + CATCH_UP_TIME_MAX;
        loop {
            let first = checksums(&url(database)).await.unwrap();
            let differing = differences(&first, &checksums(&url(fresh)).await.unwrap());
            if differing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "a fresh indexer has other rows in: {}", differing.join(", "));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_every_reorg_the_tables_are_those_of_a_fresh_indexer() {
    let rounds = number_from("TIDEMARK_ROUNDS").unwrap_or(6);
    println!("TIDEMARK_ROUNDS={rounds}");
    let mut chain = Attacked::new().await;
    // below this nothing may go: the contracts and the provider
    chain.forge.stack.chain.mine(FINALITY_BLOCKS).await.unwrap();
    let mut indexer = chain.indexer("attacked").await;
    // with the block that each is in
    let mut batches: Vec<(OwnBatch, u64)> = Vec::new();
    for round in 0..rounds {
        let before = chain.forge.stack.chain.block_number().await.unwrap();
        if let Some(number) = u32::try_from(batches.len()).ok().filter(|number| *number < BUDGETED) {
            let accepted = chain.forge.accepted(0, &format!("record-{number}"), Address::ZERO).unwrap();
            let batch = chain.forge.batch(number.into(), accepted.to_vec()).await.unwrap();
            chain.anchor(&batch).await;
            batches.push((batch, before + 1));
        }
        let count = 20 + chain.random.below(40);
        let publications: Vec<Bytes> = (0..count).map(|_| chain.publication()).collect();
        chain.mine_some(publications.clone()).await;
        // at any time between seeing nothing of it and all of it
        tokio::time::sleep(Duration::from_millis(chain.random.below(400))).await;
        if chain.random.below(3) == 0 {
            indexer.kill();
        }
        let latest = chain.forge.stack.chain.block_number().await.unwrap();
        let added = latest - before;
        let depth = 1 + chain.random.below(FINALITY_BLOCKS);
        println!("round {round}: {count} publications in {added} blocks, reorg of {depth}");
        chain.forge.stack.chain.reorg(depth).await.unwrap();
        // batches that went come again elsewhere, in the order that the contract wants
        for (batch, block) in batches.iter_mut().filter(|(_, block)| *block > latest - depth) {
            chain.anchor(batch).await;
            *block = chain.forge.stack.chain.block_number().await.unwrap();
        }
        let next = chain.again(publications);
        // what the reorg did not take can't be published twice, and reverts without an event
        chain.mine_some(next).await;
        if indexer.process_id().is_none() {
            indexer.restart().await.unwrap();
        }
        chain.until_level(&indexer, "attacked").await;
        chain.compare("attacked", &format!("fresh_{round}")).await;
    }
    chain.forge.stack.chain.mine(FINALITY_BLOCKS).await.unwrap();
    chain.until_level(&indexer, "attacked").await;
    chain.compare("attacked", "fresh_final").await;
    let last = format!("/v1/batches/numo/{}", batches.len() - 1);
    indexer.until(&last, |_, batch| batch["state"] == "valid").await.unwrap();
}

/// What it leaves is always whole. `TIDEMARK_KILLS` makes the run longer.
#[tokio::test(flavor = "multi_thread")]
async fn an_indexer_that_is_killed_at_any_point_leaves_whole_transactions() {
    let kills = number_from("TIDEMARK_KILLS").unwrap_or(12);
    println!("TIDEMARK_KILLS={kills}");
    let mut chain = Attacked::new().await;
    chain.node.heal();
    let mut indexer = chain.indexer("killed").await;
    for number in 0..BUDGETED {
        let accepted = chain.forge.accepted(0, &format!("record-{number}"), Address::ZERO).unwrap();
        chain.anchor(&chain.forge.batch(number.into(), accepted.to_vec()).await.unwrap()).await;
    }
    for kill in 0..kills {
        let publications = (0..60).map(|_| chain.publication()).collect();
        let after = Duration::from_millis(chain.random.below(500));
        tokio::join!(chain.mine_some(publications), async {
            tokio::time::sleep(after).await;
            indexer.kill();
        });
        let mut connection = chain.forge.stack.postgres.connect("killed").await.unwrap();
        let torn: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM chain_log AS l, mirror.cursor AS c WHERE l.block_number > c.mirrored_number)
                 + (SELECT count(*) FROM policy AS p, mirror.cursor AS c WHERE p.block_number > c.applied_number)",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(torn, 0, "kill {kill}: rows beyond the cursor");
        indexer.restart().await.unwrap();
    }
    chain.forge.stack.chain.mine(3).await.unwrap();
    second_indexer(&chain.forge.stack, "killed").await.unwrap();
}
