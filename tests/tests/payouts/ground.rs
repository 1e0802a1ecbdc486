//! What payouts stand on in these tests: a stack without services, a treasury, a ledger with two accounts, and a worker that
//! can be ended anywhere.

use std::{collections::BTreeMap, path::Path, time::Duration};

use alloy::{
    primitives::{Address, B256, U256},
    providers::Provider,
    rpc::types::Filter,
    sol_types::SolEvent,
};
use axum::Router;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tidemark::{
    contracts::{DevToken, PointsTreasury},
    ids::DataId,
};
use tidemark_indexer::{
    ledger::{self, Cause, Kind, Posting},
    payout::{self, Config, PartnerConfig, Payouts, RailName, rate::NewRate},
    serve::open_database,
};
use tidemark_tests::{
    Options, Stack,
    chain::Mining,
    keys::{dev_signer, role},
    stack::Services,
};
use tokio_util::sync::CancellationToken;

/// More than anything takes that comes at all, also beside other tests.
const TIME_MAX: Duration = Duration::from_secs(60);
pub const POINT: u128 = 1_000_000;
pub const TOKEN: &str = "provider token";
pub const ACCOUNTS: [B256; 2] = [B256::repeat_byte(0xa1), B256::repeat_byte(0xa2)];

/// What payouts stand on: two accounts of 1,000 points each, and a treasury with as many tokens.
pub struct Ground {
    pub stack: Stack,
    pub pool: PgPool,
    pub provider: Address,
    pub treasury: Address,
    pub settlement: Address,
    pub token: Address,
    pub api: String,
    pub payouts: Payouts,
    config: Config,
}

impl Ground {
    pub async fn new() -> Self {
        Self::with(|_, _| ()).await
    }

    /// With other rails than the partner's: hears the token, too.
    pub async fn with(rails: impl FnOnce(&mut Config, Address)) -> Self {
        tidemark::install_tls();
        let options = Options { services: Services::None, mining: Mining::Automatic, ..Options::default() };
        let stack = Stack::start(options).await.unwrap();
        let pool = open_database(&stack.postgres.url("indexer"), 16).await.unwrap();
        let operator = dev_signer(role::TREASURY_OPERATOR).unwrap();
        let (provider, settlement) = (Address::repeat_byte(0x11), Address::repeat_byte(0x5e));
        let sender = stack.sender(role::TREASURY_OPERATOR).await.unwrap();
        let token = DevToken::deploy(&sender).await.unwrap();
        let log = stack.deployment.provenance_log;
        let treasury =
            PointsTreasury::deploy(&sender, log, provider, *token.address(), operator.address()).await.unwrap();
        token.mint(*treasury.address(), U256::from(2_000 * POINT)).send().await.unwrap().get_receipt().await.unwrap();
        let digest = B256::from(<[u8; 32]>::from(Sha256::digest(TOKEN.as_bytes())));
        let partner = PartnerConfig {
            url: stack.partner.url().parse().unwrap(),
            token: None,
            timeout: Duration::from_millis(200),
            promotion_code: "DEV".into(),
            currency: None,
        };
        let mut config = Config {
            partner: Some(partner),
            bank: None,
            token: None,
            operator,
            settlement,
            provider_tokens: BTreeMap::from([("numo".to_owned(), digest)]),
            units_per_point: 1_000_000,
            poll_interval: Duration::from_millis(10),
        };
        rails(&mut config, *token.address());
        let chain_id = stack.deployment.chain_id;
        let payouts = Payouts::new(pool.clone(), stack.provider().clone(), chain_id, config.clone());
        let (router, _) = payout::router::<()>(Some(payouts.clone())).split_for_parts();
        let (token, treasury) = (*token.address(), *treasury.address());
        let api = serve(router).await;
        let ground = Self { stack, pool, provider, treasury, settlement, token, api, payouts, config };
        ground.credit().await;
        ground
    }

    /// Rewards as the ledger posts them.
    async fn credit(&self) {
        sqlx::query(
            "INSERT INTO provider (address, name, attestor, points_treasury, token, block_number, block_time, tx_hash)
             VALUES ($1, 'numo', $1, $2, $3, 1, 1, decode(repeat('00', 32), 'hex'))",
        )
        .bind(self.provider.as_slice())
        .bind(self.treasury.as_slice())
        .bind(self.token.as_slice())
        .execute(&self.pool)
        .await
        .unwrap();
        let postings: Vec<Posting> = (0..)
            .zip(ACCOUNTS)
            .map(|(at, account)| Posting {
                id: format!("reward/{:#x}/0/{at}", self.provider),
                account,
                amount: 1_000 * POINT,
                data_id: Some(DataId(uuid::Uuid::new_v4())),
            })
            .collect();
        self.earn(&postings, 1).await;
    }

    /// Rewards of a block of that time.
    pub async fn earn(&self, postings: &[Posting], block_time: i64) {
        let cause = Cause { block_number: 1, block_time, tx_hash: vec![0; 32] };
        let mut connection = self.pool.acquire().await.unwrap();
        ledger::post(&mut connection, self.provider, Kind::Reward, &cause, postings).await.unwrap();
    }

    /// What the mirror and the ledger do at finality with the treasury's log.
    pub async fn mirror(&self) {
        let filter =
            Filter::new().address(self.treasury).event_signature(PointsTreasury::PointsRedeemed::SIGNATURE_HASH);
        for log in self.stack.provider().get_logs(&filter.from_block(0)).await.unwrap() {
            let event = log.log_decode::<PointsTreasury::PointsRedeemed>().unwrap().inner.data;
            let mut transaction = self.pool.begin().await.unwrap();
            let new = sqlx::query(
                "INSERT INTO points_redeemed (treasury, payout_id, provider, account, amount, recipient, state, block_number,
                     log_index, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4, $5::text::numeric, $6, 'posted', 1, 1, 1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(self.treasury.as_slice())
            .bind(event.payoutId.as_slice())
            .bind(self.provider.as_slice())
            .bind(event.account.as_slice())
            .bind(event.amount.to_string())
            .bind(event.to.as_slice())
            .execute(&mut *transaction)
            .await
            .unwrap();
            if new.rows_affected() == 1 {
                let posting = Posting {
                    id: format!("redeem/{:#x}/{}", self.provider, event.payoutId),
                    account: event.account,
                    amount: event.amount,
                    data_id: None,
                };
                let cause = Cause { block_number: 1, block_time: 1, tx_hash: event.payoutId.to_vec() };
                ledger::post(&mut transaction, self.provider, Kind::Redeem, &cause, &[posting]).await.unwrap();
            }
            transaction.commit().await.unwrap();
        }
    }

    pub async fn post(&self, key: &str, parts: &[(B256, u128)]) -> (StatusCode, Value) {
        self.post_to(key, json!({"destination": "user-1"}), parts).await
    }

    /// With a recipient, and what belongs to it.
    pub async fn post_to(&self, key: &str, mut body: Value, parts: &[(B256, u128)]) -> (StatusCode, Value) {
        let entries: Vec<Value> =
            parts.iter().map(|(account, amount)| json!({"account": account, "amount": amount.to_string()})).collect();
        body["entries"] = entries.into();
        self.post_raw(Some(TOKEN), Some(key), body).await
    }

    pub async fn post_raw(&self, token: Option<&str>, key: Option<&str>, body: Value) -> (StatusCode, Value) {
        let mut request = reqwest::Client::new().post(format!("{}/v1/payouts", self.api)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    pub async fn read(&self, id: &str) -> Value {
        let request = reqwest::Client::new().get(format!("{}/v1/payouts/{id}", self.api)).bearer_auth(TOKEN);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Makes a payout of so many points of the first account.
    pub async fn payout(&self, points: u128) -> String {
        let key = uuid::Uuid::new_v4().to_string();
        let (status, body) = self.post(&key, &[(ACCOUNTS[0], points * POINT)]).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        assert_eq!(body["state"], "pending");
        body["payout_id"].as_str().unwrap().to_owned()
    }

    /// Sets a rate for this provider, from now on.
    pub async fn rate(&self, currency: &str, minor: u128, points: i64) {
        let (provider, currency) = ("numo".to_owned(), currency.to_owned());
        let rate = NewRate { provider, currency, minor, points, from: None, until: None };
        payout::rate::set(&self.pool, &rate).await.unwrap();
    }

    /// The same payouts with fewer rails.
    pub fn only(&self, rails: &[RailName]) -> Payouts {
        let mut config = self.config.clone();
        if !rails.contains(&RailName::Partner) {
            config.partner = None;
        }
        if !rails.contains(&RailName::Bank) {
            config.bank = None;
        }
        if !rails.contains(&RailName::Token) {
            config.token = None;
        }
        Payouts::new(self.pool.clone(), self.stack.provider().clone(), self.stack.deployment.chain_id, config)
    }

    /// The same payouts with another bank folder.
    pub fn in_folder(&self, folder: &Path) -> Payouts {
        let mut config = self.config.clone();
        config.bank.as_mut().unwrap().folder = folder.to_owned();
        Payouts::new(self.pool.clone(), self.stack.provider().clone(), self.stack.deployment.chain_id, config)
    }

    /// The same payouts over another node of the chain.
    pub fn over(&self, url: &str) -> Payouts {
        let node = tidemark::chain::reader(url).unwrap();
        Payouts::new(self.pool.clone(), node, self.stack.deployment.chain_id, self.config.clone())
    }

    /// Runs a worker until something is so.
    pub async fn work(&self, done: impl Fn() -> bool) {
        let stop = CancellationToken::new();
        let worker = tokio::spawn(payout::run(self.payouts.clone(), stop.clone()));
        let begun = std::time::Instant::now();
        while !done() {
            assert!(begun.elapsed() < TIME_MAX, "it does not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        worker.await.unwrap().unwrap();
    }

    /// Runs a worker until a query says yes.
    pub async fn until(&self, query: &'static str) {
        let stop = CancellationToken::new();
        let worker = tokio::spawn(payout::run(self.payouts.clone(), stop.clone()));
        let begun = std::time::Instant::now();
        while sqlx::query_scalar::<_, Option<bool>>(query).fetch_one(&self.pool).await.unwrap() != Some(true) {
            if begun.elapsed() > TIME_MAX {
                let asked = "SELECT string_agg(concat_ws(' ', state, failures, next_step_at - now(), note), '; ') FROM local.payout";
                let are: Option<String> = sqlx::query_scalar(asked).fetch_one(&self.pool).await.unwrap();
                panic!("it does not come: {query}; payouts are: {are:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        worker.await.unwrap().unwrap();
    }

    /// Lets the worker look at all payouts now.
    pub async fn look_again(&self) {
        sqlx::query("UPDATE local.payout SET next_step_at = now()").execute(&self.pool).await.unwrap();
    }

    /// Takes so many blocks behind the newest for final, as the mirror does.
    pub async fn finalise(&self, behind: u64) {
        let newest = self.stack.provider().get_block_number().await.unwrap();
        sqlx::query(
            "INSERT INTO mirror.cursor (chain_id, provenance_log, mirrored_number, applied_number) VALUES (1, $1, $2, $3)
             ON CONFLICT (one) DO UPDATE SET mirrored_number = excluded.mirrored_number, applied_number = excluded.applied_number",
        )
        .bind(self.provider.as_slice())
        .bind(i64::try_from(newest).unwrap())
        .bind(i64::try_from(newest.saturating_sub(behind)).unwrap())
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// Runs a worker, and the mirror where `mirrored`, until the payout's step is one of these.
    pub async fn work_until(&self, id: &str, steps: &[&str], mirrored: bool) -> Value {
        let stop = CancellationToken::new();
        let worker = tokio::spawn(payout::run(self.payouts.clone(), stop.clone()));
        let begun = std::time::Instant::now();
        let read = loop {
            if mirrored {
                self.mirror().await;
            }
            let read = self.read(id).await;
            if steps.contains(&read["step"].as_str().unwrap()) {
                break read;
            }
            assert!(begun.elapsed() < TIME_MAX, "still {read}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        stop.cancel();
        worker.await.unwrap().unwrap();
        read
    }

    pub async fn settled(&self) -> u128 {
        let token = DevToken::new(self.token, self.stack.provider());
        token.balanceOf(self.settlement).call().await.unwrap().to::<u128>()
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
