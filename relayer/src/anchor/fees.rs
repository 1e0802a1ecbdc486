//! Fees: what a transaction offers today, at most what the operator allows, and what pauses sending.

use alloy::{
    eips::eip1559::Eip1559Estimation,
    primitives::U256,
    providers::{Provider, utils::EIP1559_BASE_FEE_MULTIPLIER},
};
use anyhow::Context;
use sqlx::{PgPool, Row};
use tidemark::chain;

use super::Sender;
use crate::intake::bigint;

/// How many times the day's fee a replacement may pay.
const TIMES_MAX: u128 = 10;
/// Of a transfer of ether, the smallest transaction (Yellow Paper, appendix G).
const TRANSFER_GAS: u64 = 21_000;

/// What a transaction that is signed now offers: today's fees within the cap.
pub async fn offer(sender: &Sender) -> anyhow::Result<Eip1559Estimation> {
    Ok(capped(today(sender).await?, sender.max_fee_wei))
}

/// What the day asks, wei per gas.
pub async fn today(sender: &Sender) -> anyhow::Result<Eip1559Estimation> {
    chain::fees(&sender.provider).await.context("estimate fees")
}

/// What the next block takes, out of an estimate that has room for base fees that rise.
fn asked(today: Eip1559Estimation) -> u128 {
    let (max, tip) = (today.max_fee_per_gas, today.max_priority_fee_per_gas);
    (max.saturating_sub(tip) / EIP1559_BASE_FEE_MULTIPLIER).saturating_add(tip)
}

/// At most `cap`.
fn capped(fees: Eip1559Estimation, cap: u128) -> Eip1559Estimation {
    Eip1559Estimation {
        max_fee_per_gas: fees.max_fee_per_gas.min(cap),
        max_priority_fee_per_gas: fees.max_priority_fee_per_gas.min(cap),
    }
}

/// Fees of a replacement: today's, but an eighth more of both than before, and never above `cap`. `None` where no node would
/// take it, which is below 10 % more of either, or where `before` is far above the day's fee: then something else is wrong.
pub fn replacement(today: Eip1559Estimation, before: Eip1559Estimation, cap: u128) -> Option<Eip1559Estimation> {
    // a tenth is what every client asks for at least; an eighth leaves room for how they round
    let above = |fee: u128, part: u128| fee.saturating_add(fee / part).saturating_add(1);
    let wanted = Eip1559Estimation {
        max_fee_per_gas: today.max_fee_per_gas.max(above(before.max_fee_per_gas, 8)),
        max_priority_fee_per_gas: today.max_priority_fee_per_gas.max(above(before.max_priority_fee_per_gas, 8)),
    };
    let offered = capped(wanted, cap);
    let is_taken = offered.max_fee_per_gas >= above(before.max_fee_per_gas, 10)
        && offered.max_priority_fee_per_gas >= above(before.max_priority_fee_per_gas, 10);
    (is_taken && before.max_fee_per_gas / TIMES_MAX <= today.max_fee_per_gas).then_some(offered)
}

/// Why the lane may send nothing now; `None` where it may. The balance has to reach for the floor, for what is under way and
/// for the smallest transaction.
pub async fn pause(db: &PgPool, sender: &Sender) -> anyhow::Result<Option<String>> {
    let today = today(sender).await?;
    let (asked, cap) = (asked(today), sender.max_fee_wei);
    if asked > cap {
        return Ok(Some(format!("fee cap: the next block asks for {asked} wei per gas, --max-fee-gwei allows {cap}")));
    }
    shortage(db, sender, TRANSFER_GAS, capped(today, cap), U256::ZERO).await
}

/// Why the balance does not reach for one more transaction of this much gas and this fee for its data, above the floor and
/// what is under way.
pub async fn shortage(
    db: &PgPool,
    sender: &Sender,
    gas: u64,
    offered: Eip1559Estimation,
    data_fee: U256,
) -> anyhow::Result<Option<String>> {
    // nodes want the whole offer to be there, not only what the next block takes of it
    let cost = U256::from(gas).saturating_mul(U256::from(offered.max_fee_per_gas)).saturating_add(data_fee);
    let (floor, under_way) = (sender.balance_floor_wei, committed(db, sender).await?);
    let needed = floor.saturating_add(under_way).saturating_add(cost);
    let balance = balance(sender).await?;
    Ok((balance < needed).then(|| {
        format!(
            "balance too low: {balance} wei, expected at least {needed}: \
             {floor} as the floor, {under_way} for transactions under way, {cost} for the next one, \
             {data_fee} of it for its data"
        )
    }))
}

async fn balance(sender: &Sender) -> anyhow::Result<U256> {
    sender.provider.get_balance(sender.address()).await.context("ask for the sender's balance")
}

/// What the transactions in no block yet may cost, wei.
async fn committed(db: &PgPool, sender: &Sender) -> anyhow::Result<U256> {
    let row = sqlx::query(
        "SELECT coalesce(sum(t.gas * newest.fee + t.data_fee_wei), 0)::text FROM transaction t
         CROSS JOIN LATERAL (SELECT max(max_fee_wei) AS fee FROM attempt WHERE transaction_id = t.id) AS newest
         WHERE t.chain_id = $1 AND t.signer = $2 AND t.state = 'submitted'",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .fetch_one(db)
    .await?;
    row.try_get::<&str, _>(0)?.parse().context("read a sum of wei")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fees(max: u128, tip: u128) -> Eip1559Estimation {
        Eip1559Estimation { max_fee_per_gas: max, max_priority_fee_per_gas: tip }
    }

    fn pair(fees: Eip1559Estimation) -> (u128, u128) {
        (fees.max_fee_per_gas, fees.max_priority_fee_per_gas)
    }

    #[test]
    fn a_replacement_pays_an_eighth_more_of_both_fees_or_what_the_day_asks() {
        assert_eq!(replacement(fees(100, 1), fees(800, 80), u128::MAX).map(pair), Some((901, 91)));
        assert_eq!(replacement(fees(5000, 100), fees(800, 80), u128::MAX).map(pair), Some((5000, 100)));
        assert_eq!(replacement(fees(10, 1), fees(800, 80), u128::MAX), None, "many times what the day asks");
    }

    #[test]
    fn a_replacement_is_never_above_the_cap_and_waits_where_that_leaves_less_than_a_tenth_more() {
        assert_eq!(replacement(fees(5000, 100), fees(800, 80), 881).map(pair), Some((881, 100)));
        assert_eq!(replacement(fees(5000, 100), fees(800, 80), 880), None);
        assert_eq!(replacement(fees(5000, 4000), fees(800, 800), 881).map(pair), Some((881, 881)));
        assert_eq!(replacement(fees(5000, 100), fees(800, 80), 100), None);
    }

    #[test]
    fn a_cap_holds_for_both_fees_and_the_next_block_asks_for_less_than_is_offered() {
        assert_eq!(pair(capped(fees(100, 60), 50)), (50, 50));
        assert_eq!(asked(fees(2 * 700 + 30, 30)), 730);
        assert_eq!(asked(fees(0, 0)), 0);
    }
}
