//! Nonces: a lane per signer, one row per nonce; the chain is only asked where its count may be ahead of ours.

use alloy::{
    primitives::{Address, keccak256},
    providers::Provider,
};
use anyhow::Context;
use sqlx::{PgPool, Row};
use tidemark::nodes::said::Said;

use super::Sender;
use crate::{
    app::App,
    intake::{Tx, bigint},
};

/// Nonces looked at in one round.
const GAPS_MAX: i64 = 64;

/// Makes the signer's lane, where there is none yet, from the chain's next nonce on.
pub async fn open_lane(db: &PgPool, sender: &Sender) -> anyhow::Result<()> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM nonce_lane WHERE chain_id = $1 AND signer = $2)")
        .bind(bigint(sender.chain_id)?)
        .bind(sender.address().0.0)
        .fetch_one(db)
        .await?;
    if exists {
        return Ok(());
    }
    sqlx::query("INSERT INTO nonce_lane (chain_id, signer, next_nonce) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(bigint(sender.chain_id)?)
        .bind(sender.address().0.0)
        .bind(bigint(on_chain(sender).await?)?)
        .execute(db)
        .await?;
    Ok(())
}

/// Takes the lane's next nonce in the transaction that writes the intent, so that no crash leaves a gap. `seen` is the
/// node's own next one, which is ahead where somebody else uses the key.
pub async fn take(tx: &mut Tx<'_>, sender: &Sender, seen: u64) -> anyhow::Result<u64> {
    let row = sqlx::query(
        "INSERT INTO nonce_lane (chain_id, signer, next_nonce) VALUES ($1, $2, $3 + 1)
         ON CONFLICT (chain_id, signer) DO UPDATE SET next_nonce = greatest(nonce_lane.next_nonce, $3) + 1
         WHERE $3 <= nonce_lane.next_nonce + $4 RETURNING next_nonce - 1",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(bigint(seen)?)
    .bind(GAPS_MAX)
    .fetch_optional(&mut **tx)
    .await?;
    let row = row.with_context(|| {
        format!(
            "a node says that nonces up to {seen} of {} are taken, over {GAPS_MAX} more than here",
            sender.address()
        )
    })?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?)?)
}

/// Nonces from the chain's next one up to the lane's that were never taken here: what was taken after them waits for them.
pub async fn gaps(db: &PgPool, sender: &Sender, next: u64) -> anyhow::Result<Vec<u64>> {
    let gaps: Vec<i64> = sqlx::query_scalar(
        "SELECT n FROM nonce_lane l, generate_series($3::bigint, least(l.next_nonce, $3 + $4) - 1) AS n
         WHERE l.chain_id = $1 AND l.signer = $2 AND NOT EXISTS (
             SELECT FROM transaction t WHERE t.chain_id = $1 AND t.signer = $2 AND t.nonce = n)
         ORDER BY n",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(bigint(next)?)
    .bind(GAPS_MAX)
    .fetch_all(db)
    .await?;
    gaps.into_iter().map(|nonce| Ok(u64::try_from(nonce)?)).collect()
}

/// Says why the lane pauses, or that it does not.
pub async fn set_paused(db: &PgPool, sender: &Sender, why: Option<&str>) -> anyhow::Result<()> {
    let changed = sqlx::query(
        "UPDATE nonce_lane SET paused = $3 WHERE chain_id = $1 AND signer = $2 AND paused IS DISTINCT FROM $3",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(why)
    .execute(db)
    .await?;
    if changed.rows_affected() == 1 {
        match why {
            Some(why) => tracing::warn!(signer = %sender.address(), why, "sending pauses"),
            None => tracing::info!(signer = %sender.address(), "sending goes on"),
        }
    }
    Ok(())
}

/// Lanes that some process works on and that do not pause, this one among them.
pub async fn sending(app: &App, sender: &Sender) -> anyhow::Result<Vec<Address>> {
    let held = app.leases.held(Sender::LEASES).await?;
    let unpaused: Vec<[u8; 20]> =
        sqlx::query_scalar("SELECT signer FROM nonce_lane WHERE chain_id = $1 AND paused IS NULL")
            .bind(bigint(sender.chain_id)?)
            .fetch_all(&app.db)
            .await?;
    let lanes = unpaused.into_iter().map(Address::from);
    let mut lanes: Vec<Address> =
        lanes.filter(|lane| held.contains(&Sender::lease_of(sender.chain_id, *lane))).collect();
    if !lanes.contains(&sender.address()) {
        lanes.push(sender.address());
    }
    Ok(lanes)
}

/// Whether of these lanes this one serves a provider or consent: the one whose hash with it is highest, so that few change
/// theirs when a lane comes or goes (rendezvous hashing).
pub fn serves(lanes: &[Address], lane: Address, whom: &[u8]) -> bool {
    lanes.iter().max_by_key(|lane| keccak256([lane.as_slice(), whom].concat())) == Some(&lane)
}

/// Transactions of the signer in the newest block: its next nonce, had nobody anything under way.
pub async fn on_chain(sender: &Sender) -> anyhow::Result<u64> {
    sender.provider.get_transaction_count(sender.address()).await.context("ask for the sender's transaction count")
}

/// The same in an older block; none where the node has no state of it any more, as all but archive nodes keep the last 128 blocks'
/// only, or fewer.
pub async fn on_chain_at(sender: &Sender, block: u64) -> anyhow::Result<Option<u64>> {
    match sender.provider.get_transaction_count(sender.address()).block_id(block.into()).await {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.as_error_resp().is_some_and(|said| Said::in_answer(said) != Said::RateLimited) => {
            tracing::warn!(block, %error, "the node does not tell the sender's transaction count in an older block");
            Ok(None)
        }
        Err(error) => Err(error).context("ask for the sender's transaction count in an older block"),
    }
}

/// The next nonce counting what is in the node's pool too, whoever put it there.
pub async fn in_pool(sender: &Sender) -> anyhow::Result<u64> {
    let asked = sender.provider.get_transaction_count(sender.address()).pending();
    asked.await.context("ask for the sender's pending transaction count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_any_lanes_one_serves_a_provider_and_a_lane_that_goes_moves_only_its_own() {
        let lanes: Vec<Address> = (1..=4).map(Address::repeat_byte).collect();
        let mut served = [0; 4];
        for provider in 0..200u8 {
            let whom = [provider; 20];
            let by: Vec<usize> = (0..4).filter(|at| serves(&lanes, lanes[*at], &whom)).collect();
            assert_eq!(by.len(), 1);
            served[by[0]] += 1;
            if by[0] != 3 {
                assert!(serves(&lanes[..3], lanes[by[0]], &whom), "kept by its lane when another goes");
            }
        }
        assert!(served.iter().all(|count| *count > 20), "{served:?}");
        assert!(serves(&lanes[..1], lanes[0], &[7; 20]));
    }
}
