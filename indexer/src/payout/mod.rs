//! Points to cash: reserve, pay over the rail, redeem on chain, post at finality.
//!
//! ```text
//!  POST /v1/payouts ─► reserved ─► paying ─► paid ─► redeeming ─► redeemed ─► posted
//!                                    │ │      ▲ ▲         │           │
//!                         refused ───┘ └──┐   │ └─────────┴── reverted, or its nonce was taken
//!                            ▼            ▼   │
//!                         voided        stuck ┘ an operator decides (resolve)
//! ```
//!
//! Each step is a row before it is taken, and asking twice does no harm: the rail pays one key once, the treasury settles
//! one debit once. So a crash between any two steps only means that the next start takes up where the rows stand.
//!
//! | the rail says | then |
//! |---|---|
//! | paid, 4113 paid before | `paid` |
//! | 4100, 4104, 4105 no such promotion, stopped, ended; 4114 over the cap | `voided`; `stuck` where an earlier attempt's outcome is unknown |
//! | 4108, 4109 not approved, not running; 4112 money short; can't be reached | asked again later, at growing intervals; `stuck` after [`FAILURES_MAX`] |
//! | a bank or a chain has taken it on | asked what became of it, in `paying` |
//! | a bank's report or a final block says: not paid, never | `voided` |
//! | what contradicts itself, or may be a copy's fate | `stuck` |
//! | 4110, no answer, an answer that can't be read | outcome unknown: the same key again, never another; `stuck` after [`FAILURES_MAX`] |

pub mod bank;
mod config;
pub mod pain;
#[cfg(test)]
mod pain_schema;
mod pay;
pub mod rail;
mod rails;
pub mod rate;
mod redeem;
pub mod request;
mod reserve;
mod resolve;
mod routes;
mod token;
mod worker;

use std::sync::Arc;

use alloy::{
    primitives::{B256, keccak256},
    providers::DynProvider,
};
use sqlx::{PgConnection, PgPool, Row};
use tokio::sync::Notify;
use uuid::Uuid;

pub use bank::{BankConfig, BankRail};
pub use config::{Args, Config, PartnerConfig, ProviderToken};
pub use rail::{Answer, HttpRail, Money, Order, PayoutRail};
pub use rails::RailName;
pub use resolve::{Resolution, ResolveError, resolve};
pub use routes::router;
pub use token::{TokenConfig, TokenRail};
pub use worker::run;

/// Failures in a row after which a payout waits for its operator.
pub const FAILURES_MAX: i32 = 60;

/// What requests and the worker share; clones are the same.
#[derive(Clone)]
pub struct Payouts {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    chain: DynProvider,
    chain_id: u64,
    config: Config,
    /// A payout was made: do not wait for the next look.
    made: Notify,
}

impl Payouts {
    /// Over the indexer's database, and the chain that it mirrors.
    pub fn new(pool: PgPool, chain: DynProvider, chain_id: u64, config: Config) -> Self {
        Self { inner: Arc::new(Inner { pool, chain, chain_id, config, made: Notify::new() }) }
    }
}

/// The id under which the treasury settles one entry: keccak256(payout id ‖ account).
pub fn debit_id(payout_id: Uuid, account: B256) -> B256 {
    keccak256([payout_id.as_bytes().as_slice(), account.as_slice()].concat())
}

/// Payouts of one state that are not done with.
pub struct Open {
    /// The state.
    pub name: &'static str,
    /// How many.
    pub count: u64,
    /// How long the oldest has been asked for; 0 where there is none.
    pub age_seconds: u64,
}

/// Payouts that are not done with, by state, states without any as well.
pub async fn open(connection: &mut PgConnection) -> Result<Vec<Open>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT state, count(*), extract(epoch FROM now() - min(created_at))::bigint FROM local.payout
         WHERE state NOT IN ('posted', 'voided') GROUP BY state",
    )
    .fetch_all(connection)
    .await?;
    let mut open = ["reserved", "paying", "paid", "redeeming", "redeemed", "stuck"].map(|name| Open {
        name,
        count: 0,
        age_seconds: 0,
    });
    for row in rows {
        let name: &str = row.try_get(0)?;
        if let Some(state) = open.iter_mut().find(|state| state.name == name) {
            state.count = u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default();
            state.age_seconds = u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default();
        }
    }
    Ok(open.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debit_id_is_of_sixteen_bytes_and_thirty_two() {
        let (payout, account) = (Uuid::from_u128(1), B256::repeat_byte(2));
        let mut bytes = [2u8; 48];
        bytes[..15].fill(0);
        bytes[15] = 1;
        assert_eq!(debit_id(payout, account), keccak256(bytes));
        assert_ne!(debit_id(payout, account), debit_id(Uuid::from_u128(2), account));
    }
}
