//! Providers, their tasks and policies, and whether their points are covered.

use alloy::primitives::{Address, U256};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use utoipa::ToSchema;

use super::{ReadError, address_text, hash_text, number, rfc3339, rfc3339_u64};
use crate::manifest::stored;

const ROWS_MAX: i64 = 1_000;

/// A provider by address and name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderRef {
    /// Its account.
    pub address: String,
    /// Its unique name.
    pub name: String,
}

/// A provider.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderView {
    /// Its account.
    pub address: String,
    /// Its unique name.
    pub name: String,
    /// Signs verdicts, batches and versions now.
    pub attestor: String,
    /// Holds the tokens behind its points.
    pub points_treasury: String,
    /// The ERC-20 that everything is counted in.
    pub token: String,
    /// Seconds in which the verdicts of its next batches may be challenged, and their wallet rewards wait.
    pub challenge_window_seconds: u64,
    /// What stands behind its attestor's verdicts.
    pub bond: BondView,
    /// Challenges of its verdicts that are not decided.
    pub open_disputes: u64,
    /// Anchored and final.
    pub batches: u64,
    /// Of them, with a manifest that is not what was anchored.
    pub invalid_batches: u64,
    /// Known records.
    pub records: u64,
    /// Height of its registration.
    pub block_number: u64,
    /// RFC 3339.
    pub registered_at: String,
    /// The registration.
    pub tx_hash: String,
    /// Its tasks; only where one provider is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskView>,
    /// Its policies; only where one provider is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyView>,
}

/// The bond behind a provider's attestor, payment-token units.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BondView {
    /// There now.
    pub amount: String,
    /// Ever paid in.
    pub deposited: String,
    /// Bonds of challengers who failed against a verdict that paid no wallet.
    pub gained: String,
    /// Refunds and bounties of upheld challenges.
    pub slashed: String,
    /// Taken out by the provider.
    pub withdrawn: String,
    /// Announced to be taken out; none where nothing is. Slashing may leave less of it.
    pub withdrawal_amount: Option<String>,
    /// RFC 3339: from when on.
    pub withdrawable_at: Option<String>,
}

/// A sponsor's task.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TaskView {
    /// Its id.
    pub task_id: u64,
    /// Who pays.
    pub sponsor: String,
    /// Payment-token units for each accepted submission.
    pub price: String,
    /// Unix seconds.
    pub closes_at: String,
    /// SHA-256 of the description.
    pub terms_hash: String,
    /// Where the description is.
    pub uri: String,
    /// Payment-token units paid in.
    pub funded: String,
    /// Taken by batches.
    pub debited: String,
    /// Returned to the sponsor.
    pub refunded: String,
    /// Left.
    pub escrow: String,
    /// Its creation.
    pub tx_hash: String,
}

/// A published policy.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// SHA-256 of the text.
    pub policy_hash: String,
    /// Its version.
    pub version: String,
    /// Where the text is.
    pub uri: String,
    /// RFC 3339.
    pub published_at: String,
    /// Its publication.
    pub tx_hash: String,
}

/// All providers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderList {
    /// By name.
    pub providers: Vec<ProviderView>,
}

/// Whether a provider's points are covered, at the block of the answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Settlement {
    /// Whose.
    pub provider: ProviderRef,
    /// Payment-token units that came in behind points: points totals of all anchored batches, and points shares of sales.
    pub received: String,
    /// Payment-token units ever issued as points. Less than was received where a file waits or is not what was promised.
    pub issued: String,
    /// Payment-token units that should have been issued: points totals of valid batches, and points shares of sales whose
    /// members are known, by what the chain says of them.
    pub due: String,
    /// Whether just that was issued, and no unit is lost between the accounts, as far as the ledger's totals say: `ledger verify`
    /// holds those against every account.
    pub proven: bool,
    /// Payment-token units that became money.
    pub redeemed: String,
    /// What contributors hold now.
    pub outstanding: String,
    /// Issuer + contributors + redeemed, by the ledger's totals: 0, or the ledger is broken.
    pub difference: String,
    /// Redeemed on chain and not posted, because the account has no such balance: 0, or the treasury was robbed.
    pub unposted: String,
    /// The points treasury.
    pub treasury: String,
    /// Its token.
    pub token: String,
    /// Payment-token units that the log has accrued for the treasury and nobody has swept into it.
    pub accrued: String,
    /// Tokens in the treasury at the block of the answer; none where the node can't say.
    pub treasury_balance: Option<String>,
    /// Both together, `PointsTreasury.backing()`; none where the node can't say.
    pub backing: Option<String>,
    /// Whether the backing is at least what is outstanding.
    pub covered: Option<bool>,
}

impl Settlement {
    /// Completes it by what the treasury holds.
    pub fn hold_against(&mut self, balance: Option<U256>) {
        let accrued = self.accrued.parse::<U256>().ok();
        // units of two numbers below 2^256; more than that is worthless, and covers as much
        let backing = balance.zip(accrued).map(|(balance, accrued)| balance.saturating_add(accrued));
        let outstanding = self.outstanding.parse::<U256>().ok();
        self.covered = backing.zip(outstanding).map(|(backing, outstanding)| backing >= outstanding);
        self.treasury_balance = balance.map(|balance| balance.to_string());
        self.backing = backing.map(|backing| backing.to_string());
    }
}

/// An account or a name to the provider's account.
pub async fn find(connection: &mut PgConnection, provider: &str) -> Result<Option<Address>, ReadError> {
    let by_address = provider.parse::<Address>().ok();
    let row = sqlx::query("SELECT address FROM provider WHERE address = $1 OR name = $2")
        .bind(by_address.as_ref().map(|address| address.as_slice()))
        .bind(provider.replace('\0', ""))
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| stored::address(&row, 0)).transpose()?)
}

fn view(row: &PgRow) -> Result<ProviderView, sqlx::Error> {
    Ok(ProviderView {
        address: address_text(row, 0)?,
        name: row.try_get(1)?,
        attestor: address_text(row, 2)?,
        points_treasury: address_text(row, 3)?,
        token: address_text(row, 4)?,
        block_number: number(row, 5)?,
        registered_at: rfc3339(row.try_get(6)?),
        tx_hash: hash_text(row, 7)?,
        batches: number(row, 8)?,
        invalid_batches: number(row, 9)?,
        records: number(row, 10)?,
        challenge_window_seconds: number(row, 11)?,
        open_disputes: number(row, 12)?,
        bond: BondView {
            amount: row.try_get(13)?,
            deposited: row.try_get(14)?,
            gained: row.try_get(15)?,
            slashed: row.try_get(16)?,
            withdrawn: row.try_get(17)?,
            withdrawal_amount: row.try_get(18)?,
            withdrawable_at: match row.try_get::<Option<String>, _>(19)? {
                Some(_) => Some(rfc3339_u64(stored::digits(row, 19)?)),
                None => None,
            },
        },
        tasks: Vec::new(),
        policies: Vec::new(),
    })
}

/// All providers by name.
pub async fn providers(connection: &mut PgConnection) -> Result<ProviderList, ReadError> {
    let rows = sqlx::query(
        "SELECT p.address, p.name, p.attestor, p.points_treasury, p.token, p.block_number, p.block_time, p.tx_hash,
             t.batches, t.invalid_batches, t.records,
             p.challenge_window,
             (SELECT count(*) FROM dispute AS d WHERE d.provider = p.address AND d.state = 'open'),
             coalesce(bond.deposited + bond.gained - bond.slashed - bond.withdrawn, 0)::text,
             coalesce(bond.deposited, 0)::text, coalesce(bond.gained, 0)::text, coalesce(bond.slashed, 0)::text,
             coalesce(bond.withdrawn, 0)::text, bond.withdrawal_amount::text, bond.withdrawable_at::text
         FROM provider AS p JOIN provider_total AS t ON t.provider = p.address LEFT JOIN bond ON bond.provider = p.address
         ORDER BY p.name LIMIT $1",
    )
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let providers = rows.iter().map(view).collect::<Result<_, _>>()?;
    Ok(ProviderList { providers })
}

/// One provider with its tasks and policies.
pub async fn provider(connection: &mut PgConnection, address: Address) -> Result<Option<ProviderView>, ReadError> {
    let row = sqlx::query(
        "SELECT p.address, p.name, p.attestor, p.points_treasury, p.token, p.block_number, p.block_time, p.tx_hash,
             t.batches, t.invalid_batches, t.records,
             p.challenge_window,
             (SELECT count(*) FROM dispute AS d WHERE d.provider = p.address AND d.state = 'open'),
             coalesce(bond.deposited + bond.gained - bond.slashed - bond.withdrawn, 0)::text,
             coalesce(bond.deposited, 0)::text, coalesce(bond.gained, 0)::text, coalesce(bond.slashed, 0)::text,
             coalesce(bond.withdrawn, 0)::text, bond.withdrawal_amount::text, bond.withdrawable_at::text
         FROM provider AS p JOIN provider_total AS t ON t.provider = p.address LEFT JOIN bond ON bond.provider = p.address
         WHERE p.address = $1",
    )
    .bind(address.as_slice())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut provider = view(&row)?;
    let tasks = sqlx::query(
        "SELECT task_id, sponsor, price::text, closes_at::text, terms_hash, uri, funded::text, debited::text,
             refunded::text, (funded - debited - refunded)::text, tx_hash
         FROM task WHERE provider = $1 ORDER BY task_id LIMIT $2",
    )
    .bind(address.as_slice())
    .bind(ROWS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    for row in &tasks {
        provider.tasks.push(TaskView {
            task_id: number(row, 0)?,
            sponsor: address_text(row, 1)?,
            price: row.try_get(2)?,
            closes_at: row.try_get(3)?,
            terms_hash: hash_text(row, 4)?,
            uri: row.try_get(5)?,
            funded: row.try_get(6)?,
            debited: row.try_get(7)?,
            refunded: row.try_get(8)?,
            escrow: row.try_get(9)?,
            tx_hash: hash_text(row, 10)?,
        });
    }
    let policies = sqlx::query(
        "SELECT policy_hash, version, uri, block_time, tx_hash FROM policy
         WHERE provider = $1 ORDER BY block_number DESC, policy_hash LIMIT $2",
    )
    .bind(address.as_slice())
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    for row in &policies {
        provider.policies.push(PolicyView {
            policy_hash: hash_text(row, 0)?,
            version: row.try_get(1)?,
            uri: row.try_get(2)?,
            published_at: rfc3339(row.try_get(3)?),
            tx_hash: hash_text(row, 4)?,
        });
    }
    Ok(Some(provider))
}

/// The ledger's proof per provider; the treasury's balance is the caller's to ask the chain for, see
/// [`Settlement::hold_against`]. What the log has accrued follows from its events, at this very block.
pub async fn settlement(connection: &mut PgConnection) -> Result<Vec<Settlement>, ReadError> {
    let rows = sqlx::query(
        "SELECT p.address, p.name, l.issued::text, l.redeemed::text, l.outstanding::text, l.difference::text,
             coalesce((SELECT sum(r.amount) FROM points_redeemed AS r
                 WHERE r.provider = p.address AND r.state = 'waiting'), 0)::text,
             p.points_treasury, p.token, (t.points + sold.points)::text, (t.points - swept.points)::text,
             (t.valid_points + sold.posted)::text
         FROM provider AS p JOIN ledger_proof AS l ON l.provider = p.address
         JOIN provider_total AS t ON t.provider = p.address
         CROSS JOIN LATERAL (SELECT coalesce(sum(s.amount), 0) AS points FROM points_swept AS s
             WHERE s.provider = p.address) AS swept
         CROSS JOIN LATERAL (SELECT coalesce(sum(s.points_share), 0) AS points,
                 coalesce(sum(s.points_share) FILTER (WHERE s.points_state = 'posted'), 0) AS posted FROM sale AS s
             JOIN dataset AS d USING (ip_id) WHERE d.provider = p.address) AS sold
         ORDER BY p.name LIMIT $1",
    )
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let settlements = rows.iter().map(|row| {
        let (issued, due, difference): (String, String, String) = (row.try_get(2)?, row.try_get(11)?, row.try_get(5)?);
        Ok(Settlement {
            provider: ProviderRef { address: address_text(row, 0)?, name: row.try_get(1)? },
            proven: issued == due && difference == "0",
            issued,
            due,
            redeemed: row.try_get(3)?,
            outstanding: row.try_get(4)?,
            difference,
            unposted: row.try_get(6)?,
            treasury: address_text(row, 7)?,
            token: address_text(row, 8)?,
            received: row.try_get(9)?,
            accrued: row.try_get(10)?,
            treasury_balance: None,
            backing: None,
            covered: None,
        })
    });
    Ok(settlements.collect::<Result<_, sqlx::Error>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement(outstanding: &str, accrued: &str) -> Settlement {
        let text = |text: &str| text.to_owned();
        Settlement {
            provider: ProviderRef { address: text("0x1"), name: text("numo") },
            received: text("100"),
            issued: text("100"),
            due: text("100"),
            proven: true,
            redeemed: text("0"),
            outstanding: text(outstanding),
            difference: text("0"),
            unposted: text("0"),
            treasury: text("0x2"),
            token: text("0x3"),
            accrued: text(accrued),
            treasury_balance: None,
            backing: None,
            covered: None,
        }
    }

    #[test]
    fn points_are_covered_by_what_the_treasury_holds_and_what_the_log_owes_it() {
        for (outstanding, accrued, balance, covered) in
            [("100", "100", 0, true), ("100", "40", 60, true), ("100", "40", 59, false), ("0", "0", 0, true)]
        {
            let mut settlement = settlement(outstanding, accrued);
            settlement.hold_against(Some(U256::from(balance)));
            assert_eq!(settlement.covered, Some(covered), "{outstanding} {accrued} {balance}");
            let backing = accrued.parse::<u64>().unwrap() + balance;
            assert_eq!(settlement.backing, Some(backing.to_string()));
        }
        let mut unknown = settlement("100", "100");
        unknown.hold_against(None);
        assert_eq!((unknown.covered, unknown.backing, unknown.accrued.as_str()), (None, None, "100"));
    }
}
