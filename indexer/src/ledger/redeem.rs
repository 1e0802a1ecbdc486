//! Posts what the treasuries let out, per account in the order of the chain; a debit above the balance waits, and so do
//! those behind it, so that the outcome does not depend on when a manifest arrived.

use alloy::primitives::{Address, B256, U256};
use sqlx::{PgConnection, Row};

use super::{AccountKey, Cause, Kind, Posting, lock_balances, post};

/// How many of the waiting amounts, in order, a balance covers.
fn covered(mut balance: u128, amounts: &[u128]) -> usize {
    amounts
        .iter()
        .take_while(|amount| match balance.checked_sub(**amount) {
            Some(left) => {
                balance = left;
                true
            }
            None => false,
        })
        .count()
}

/// Posts the waiting redemptions of these accounts as far as their balances go.
pub async fn settle_redemptions(connection: &mut PgConnection, accounts: &[AccountKey]) -> Result<(), sqlx::Error> {
    let mut accounts = accounts.to_vec();
    accounts.sort();
    accounts.dedup();
    for of_provider in accounts.chunk_by(|a, b| a.provider == b.provider) {
        let provider = of_provider[0].provider;
        let asked: Vec<&[u8]> = of_provider.iter().map(|account| account.key.as_slice()).collect();
        let waiting: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT DISTINCT account FROM points_redeemed
             WHERE provider = $1 AND account = ANY($2) AND state = 'waiting' ORDER BY account",
        )
        .bind(provider.as_slice())
        .bind(asked)
        .fetch_all(&mut *connection)
        .await?;
        let keys: Vec<B256> = waiting.iter().filter_map(|key| B256::try_from(key.as_slice()).ok()).collect();
        let balances = lock_balances(connection, provider, &keys).await?;
        for (key, balance) in keys.into_iter().zip(balances) {
            settle_account(connection, provider, key, balance).await?;
        }
    }
    Ok(())
}

/// Posts the waiting redemptions of a version's members, after a sale of it. Looked for from those that wait, which are few.
pub async fn settle_redemptions_of_members(
    connection: &mut PgConnection,
    provider: Address,
    ip_id: U256,
    version: i64,
) -> Result<(), sqlx::Error> {
    let waiting: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT w.account FROM (
             SELECT DISTINCT account::bytea FROM points_redeemed WHERE provider = $1 AND state = 'waiting'
         ) AS w
         WHERE EXISTS (
             SELECT FROM dataset_member WHERE contributor = w.account AND ip_id = $2::text::numeric AND version = $3
                 AND payee = decode(repeat('00', 20), 'hex')
         )",
    )
    .bind(provider.as_slice())
    .bind(ip_id.to_string())
    .bind(version)
    .fetch_all(&mut *connection)
    .await?;
    let keys = waiting.iter().filter_map(|key| B256::try_from(key.as_slice()).ok());
    let accounts: Vec<AccountKey> = keys.map(|key| AccountKey { provider, key }).collect();
    settle_redemptions(connection, &accounts).await
}

async fn settle_account(
    connection: &mut PgConnection,
    provider: Address,
    key: B256,
    balance: u128,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(
        "SELECT payout_id, amount::text, block_number, block_time, tx_hash FROM points_redeemed
         WHERE provider = $1 AND account = $2 AND state = 'waiting' ORDER BY block_number, log_index",
    )
    .bind(provider.as_slice())
    .bind(key.as_slice())
    .fetch_all(&mut *connection)
    .await?;
    let amounts = rows
        .iter()
        .map(|row| row.try_get::<String, _>(1)?.parse().map_err(|error| sqlx::Error::Decode(Box::new(error))))
        .collect::<Result<Vec<u128>, sqlx::Error>>()?;
    let count = covered(balance, &amounts);
    for (row, amount) in rows.iter().zip(amounts).take(count) {
        let payout_id: Vec<u8> = row.try_get(0)?;
        let cause = Cause { block_number: row.try_get(2)?, block_time: row.try_get(3)?, tx_hash: row.try_get(4)? };
        let id = format!("redeem/{provider:#x}/0x{}", hex::encode(&payout_id));
        let posting = Posting { id, account: key, amount, data_id: None };
        post(connection, provider, Kind::Redeem, &cause, &[posting]).await?;
        sqlx::query("UPDATE points_redeemed SET state = 'posted' WHERE provider = $1 AND payout_id = $2")
            .bind(provider.as_slice())
            .bind(payout_id)
            .execute(&mut *connection)
            .await?;
    }
    if count < rows.len() {
        tracing::info!(
            provider = %provider, account = %key, waiting = rows.len() - count,
            "a redemption waits for the credits that it is of"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::covered;

    #[test]
    fn debits_are_covered_in_order_and_a_large_one_holds_up_those_behind_it() {
        assert_eq!(covered(100, &[40, 60]), 2);
        assert_eq!(covered(100, &[40, 61, 1]), 1);
        assert_eq!(covered(0, &[1]), 0);
        assert_eq!(covered(u128::MAX, &[u128::MAX, 1]), 1);
    }
}
