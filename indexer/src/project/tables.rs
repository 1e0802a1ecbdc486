//! What each log does to the tables.

use alloy::primitives::{Address, U256};
use serde_json::json;
use sqlx::PgConnection;
use tidemark::{
    contracts::{
        ConsentRegistry::ConsentRegistryEvents,
        Disputes::{DisputeEnded, DisputeOpened, DisputesEvents},
        IPRegistry::IPRegistryEvents,
        LicenseRegistry::{LicenseRegistryEvents, LicenseSold, OfferPublished},
        PointsTreasury::PointsTreasuryEvents,
        ProvenanceLog::{BatchAnchored, ProvenanceLogEvents},
    },
    ids::DataId,
};

use super::{Placed, Said};
use crate::ledger::AccountKey;

type Done = Result<(), sqlx::Error>;

/// A log on its way into the tables.
pub struct At<'a> {
    /// Inside the range's transaction.
    pub connection: &'a mut PgConnection,
    /// The log with its place.
    pub placed: &'a Placed,
}

/// A sequential number that the contracts count up from 0 or 1.
fn number(value: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// Postgres text holds everything but NUL.
fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

fn data_id(bytes: [u8; 16]) -> uuid::Uuid {
    DataId::from_bytes(bytes).0
}

/// Applies one log; gives the points accounts that a redemption is for.
pub async fn apply(at: At<'_>, said: Said) -> Result<Vec<AccountKey>, sqlx::Error> {
    match said {
        Said::Log(said) => provenance(at, said).await?,
        Said::Disputes(said) => disputes(at, said).await?,
        Said::Consents(said) => consents(at, said).await?,
        Said::Ip(said) => ip(at, said).await?,
        Said::Licenses(said) => licenses(at, said).await?,
        Said::Treasury(said) => return treasury(at, said).await,
    }
    Ok(Vec::new())
}

async fn provenance(at: At<'_>, said: ProvenanceLogEvents) -> Done {
    let At { connection, placed } = at;
    match said {
        ProvenanceLogEvents::ProviderRegistered(e) => {
            sqlx::query(
                "INSERT INTO provider
                     (address, name, attestor, points_treasury, token, block_number, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(e.provider.as_slice())
            .bind(text(&e.name))
            .bind(e.attestor.as_slice())
            .bind(e.pointsTreasury.as_slice())
            .bind(e.token.as_slice())
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(&mut *connection)
            .await?;
            attestor(At { connection, placed }, e.provider, e.attestor).await
        }
        ProvenanceLogEvents::AttestorChanged(e) => {
            sqlx::query("UPDATE provider SET attestor = $2 WHERE address = $1")
                .bind(e.provider.as_slice())
                .bind(e.attestor.as_slice())
                .execute(&mut *connection)
                .await?;
            attestor(At { connection, placed }, e.provider, e.attestor).await
        }
        ProvenanceLogEvents::ChallengeWindowChanged(e) => {
            sqlx::query("UPDATE provider SET challenge_window = $2 WHERE address = $1")
                .bind(e.provider.as_slice())
                .bind(i64::from(e.challengeWindow))
                .execute(connection)
                .await?;
            Ok(())
        }
        ProvenanceLogEvents::BatchAnchored(e) => batch(At { connection, placed }, e).await,
        said => rewards(At { connection, placed }, said).await,
    }
}

async fn attestor(at: At<'_>, provider: Address, attestor: Address) -> Done {
    sqlx::query("INSERT INTO provider_attestor (provider, block_number, log_index, attestor) VALUES ($1, $2, $3, $4)")
        .bind(provider.as_slice())
        .bind(at.placed.block_number)
        .bind(at.placed.log_index)
        .bind(attestor.as_slice())
        .execute(at.connection)
        .await?;
    Ok(())
}

async fn batch(at: At<'_>, e: BatchAnchored) -> Done {
    let debits: Vec<_> =
        e.debits.iter().map(|debit| json!({ "task_id": debit.taskId, "amount": debit.amount.to_string() })).collect();
    sqlx::query(
        "INSERT INTO batch
             (provider, number, root, event_count, points_total, wallet_total, debits, manifest_cid, attestor,
              challenge_until, block_number, block_hash, block_time, log_index, tx_hash)
         VALUES ($1, $2, $3, $4, $5::text::numeric, $6::text::numeric, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(e.provider.as_slice())
    .bind(number(e.number)?)
    .bind(e.root.as_slice())
    .bind(i64::from(e.eventCount))
    .bind(e.pointsTotal.to_string())
    .bind(e.walletTotal.to_string())
    .bind(serde_json::Value::from(debits))
    .bind(e.manifestCid.as_ref())
    .bind(e.attestor.as_slice())
    .bind(number(e.challengeUntil)?)
    .bind(at.placed.block_number)
    .bind(&at.placed.block_hash)
    .bind(at.placed.block_time)
    .bind(at.placed.log_index)
    .bind(&at.placed.tx_hash)
    .execute(&mut *at.connection)
    .await?;
    for debit in &e.debits {
        sqlx::query("UPDATE task SET debited = debited + $2::text::numeric WHERE task_id = $1")
            .bind(number(debit.taskId)?)
            .bind(debit.amount.to_string())
            .execute(&mut *at.connection)
            .await?;
    }
    Ok(())
}

/// What the log says as the reward pool.
async fn rewards(at: At<'_>, said: ProvenanceLogEvents) -> Done {
    let At { connection, placed } = at;
    let moved = match said {
        ProvenanceLogEvents::TaskCreated(e) => {
            sqlx::query(
                "INSERT INTO task
                     (task_id, provider, sponsor, price, closes_at, terms_hash, uri, block_number, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4::text::numeric, $5::text::numeric, $6, $7, $8, $9, $10)",
            )
            .bind(number(e.taskId)?)
            .bind(e.provider.as_slice())
            .bind(e.sponsor.as_slice())
            .bind(e.price.to_string())
            .bind(e.closesAt.to_string())
            .bind(e.termsHash.as_slice())
            .bind(text(&e.uri))
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
            return Ok(());
        }
        ProvenanceLogEvents::RewardClaimed(e) => {
            sqlx::query(
                "INSERT INTO reward_claim
                     (provider, number, index, payee, data_id, amount, block_number, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4, $5, $6::text::numeric, $7, $8, $9)",
            )
            .bind(e.provider.as_slice())
            .bind(number(e.number)?)
            .bind(i64::from(e.index))
            .bind(e.payee.as_slice())
            .bind(data_id(e.dataId.0))
            .bind(e.amount.to_string())
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
            return Ok(());
        }
        ProvenanceLogEvents::TaskFunded(e) => {
            ("UPDATE task SET funded = funded + $2::text::numeric WHERE task_id = $1", e.taskId, e.amount)
        }
        ProvenanceLogEvents::TaskRefunded(e) => {
            ("UPDATE task SET refunded = refunded + $2::text::numeric WHERE task_id = $1", e.taskId, e.amount)
        }
        ProvenanceLogEvents::RewardHeld(e) => {
            sqlx::query(
                "INSERT INTO reward_hold (provider, number, index, amount, block_number, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4::text::numeric, $5, $6, $7)",
            )
            .bind(e.provider.as_slice())
            .bind(number(e.number)?)
            .bind(i64::from(e.index))
            .bind(e.amount.to_string())
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
            return Ok(());
        }
        ProvenanceLogEvents::PointsSwept(e) => {
            sqlx::query(
                "INSERT INTO points_swept (provider, block_number, log_index, amount, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4::text::numeric, $5, $6)",
            )
            .bind(e.provider.as_slice())
            .bind(placed.block_number)
            .bind(placed.log_index)
            .bind(e.amount.to_string())
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
            return Ok(());
        }
        _ => return Ok(()),
    };
    let (sql, task_id, amount) = moved;
    sqlx::query(sql).bind(number(task_id)?).bind(amount.to_string()).execute(connection).await?;
    Ok(())
}

/// Bonds, disputes and what is paid out of them.
async fn disputes(at: At<'_>, said: DisputesEvents) -> Done {
    let At { connection, placed } = at;
    match said {
        DisputesEvents::BondDeposited(e) => {
            sqlx::query(
                "INSERT INTO bond (provider, deposited) VALUES ($1, $2::text::numeric)
                 ON CONFLICT (provider) DO UPDATE SET deposited = bond.deposited + excluded.deposited",
            )
            .bind(e.provider.as_slice())
            .bind(e.amount.to_string())
            .execute(connection)
            .await?;
        }
        DisputesEvents::BondWithdrawalRequested(e) => {
            sqlx::query(
                "UPDATE bond SET withdrawal_amount = $2::text::numeric, withdrawable_at = $3::text::numeric
                 WHERE provider = $1",
            )
            .bind(e.provider.as_slice())
            .bind(e.amount.to_string())
            .bind(e.withdrawableAt.to_string())
            .execute(connection)
            .await?;
        }
        DisputesEvents::BondWithdrawn(e) => {
            sqlx::query(
                "UPDATE bond SET withdrawn = withdrawn + $2::text::numeric, withdrawal_amount = NULL,
                     withdrawable_at = NULL
                 WHERE provider = $1",
            )
            .bind(e.provider.as_slice())
            .bind(e.amount.to_string())
            .execute(connection)
            .await?;
        }
        DisputesEvents::DisputeOpened(e) => dispute_opened(At { connection, placed }, e).await?,
        DisputesEvents::DisputeEnded(e) => dispute_ended(At { connection, placed }, e).await?,
        DisputesEvents::CreditPaid(e) => {
            sqlx::query(
                "INSERT INTO credit_payment (token, account, block_number, log_index, amount, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4, $5::text::numeric, $6, $7)",
            )
            .bind(e.token.as_slice())
            .bind(e.account.as_slice())
            .bind(placed.block_number)
            .bind(placed.log_index)
            .bind(e.amount.to_string())
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        _ => {}
    }
    Ok(())
}

/// `Ground` by its number in the contract.
fn ground(number: u8) -> Option<&'static str> {
    ["duplicate", "not_the_contributors", "wrong_verdict"].get(usize::from(number)).copied()
}

/// The ends among `DisputeState`, by their number in the contract.
fn end(number: u8) -> Option<&'static str> {
    match number {
        2 => Some("upheld"),
        3 => Some("rejected"),
        4 => Some("lapsed"),
        _ => None,
    }
}

/// A number that our contract does not know; the database would refuse it as well.
fn unknown(what: &str, number: u8) -> sqlx::Error {
    sqlx::Error::Encode(format!("{what}: {number} is unknown").into())
}

async fn dispute_opened(at: At<'_>, e: DisputeOpened) -> Done {
    let ground = ground(e.ground).ok_or_else(|| unknown("ground", e.ground))?;
    sqlx::query(
        "INSERT INTO dispute
             (dispute_id, provider, number, index, data_id, ground, challenger, bond, held, rule_before, evidence_hash,
              evidence_uri, block_number, block_time, tx_hash)
         VALUES ($1::text::numeric, $2, $3, $4, $5, $6, $7, $8::text::numeric, $9::text::numeric, $10::text::numeric,
              $11, $12, $13, $14, $15)",
    )
    .bind(e.disputeId.to_string())
    .bind(e.provider.as_slice())
    .bind(number(e.number)?)
    .bind(i64::from(e.index))
    .bind(data_id(e.dataId.0))
    .bind(ground)
    .bind(e.challenger.as_slice())
    .bind(e.bond.to_string())
    .bind(e.held.to_string())
    .bind(e.ruleBefore.to_string())
    .bind(e.evidenceHash.as_slice())
    .bind(text(&e.evidenceUri))
    .bind(at.placed.block_number)
    .bind(at.placed.block_time)
    .bind(&at.placed.tx_hash)
    .execute(at.connection)
    .await?;
    Ok(())
}

async fn dispute_ended(at: At<'_>, e: DisputeEnded) -> Done {
    let At { connection, placed } = at;
    let state = end(e.state).ok_or_else(|| unknown("dispute state", e.state))?;
    sqlx::query(
        "UPDATE dispute SET state = $2, refunded = $3::text::numeric, bounty = $4::text::numeric, reason = $5,
             ended_block = $6, ended_log_index = $7, ended_time = $8, ended_tx_hash = $9, sponsor = $10
         WHERE dispute_id = $1::text::numeric",
    )
    .bind(e.disputeId.to_string())
    .bind(state)
    .bind(e.refunded.to_string())
    .bind(e.bounty.to_string())
    .bind(text(&e.reason))
    .bind(placed.block_number)
    .bind(placed.log_index)
    .bind(placed.block_time)
    .bind(&placed.tx_hash)
    .bind((!e.sponsor.is_zero()).then(|| e.sponsor.to_vec()))
    .execute(&mut *connection)
    .await?;
    // upheld: the attestor's bond pays; rejected where no wallet waited for the reward: it gets the challenger's
    for sql in [
        "INSERT INTO bond (provider) SELECT provider FROM dispute WHERE dispute_id = $1::text::numeric
         ON CONFLICT DO NOTHING",
        "UPDATE bond SET slashed = slashed + d.refunded + d.bounty,
             gained = gained + CASE WHEN d.state = 'rejected' AND d.held = 0 THEN d.bond ELSE 0 END
         FROM dispute AS d WHERE d.dispute_id = $1::text::numeric AND d.provider = bond.provider",
    ] {
        sqlx::query(sql).bind(e.disputeId.to_string()).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn consents(at: At<'_>, said: ConsentRegistryEvents) -> Done {
    let At { connection, placed } = at;
    match said {
        ConsentRegistryEvents::PolicyPublished(e) => {
            sqlx::query(
                "INSERT INTO policy (provider, policy_hash, version, uri, block_number, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(e.provider.as_slice())
            .bind(e.policyHash.as_slice())
            .bind(text(&e.version))
            .bind(text(&e.uri))
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        ConsentRegistryEvents::ConsentWithdrawn(e) => {
            sqlx::query(
                "INSERT INTO consent_withdrawal (consent_id, provider, by, block_number, block_time, tx_hash)
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(e.consentId.as_slice())
            .bind(e.provider.as_slice())
            .bind(e.by.as_slice())
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        #[allow(unreachable_patterns)]
        _ => {}
    }
    Ok(())
}

async fn ip(at: At<'_>, said: IPRegistryEvents) -> Done {
    let At { connection, placed } = at;
    match said {
        IPRegistryEvents::DatasetRegistered(e) => {
            sqlx::query(
                "INSERT INTO dataset (ip_id, provider, name, holder, block_number, block_time, tx_hash)
                 VALUES ($1::text::numeric, $2, $3, $2, $4, $5, $6)",
            )
            .bind(e.ipId.to_string())
            .bind(e.provider.as_slice())
            .bind(text(&e.name))
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        IPRegistryEvents::VersionRegistered(e) => {
            sqlx::query(
                "INSERT INTO dataset_version
                     (ip_id, version, root, member_count, total_weight, points_weight, purposes, manifest_cid, attestor,
                      block_number, block_time, tx_hash)
                 VALUES ($1::text::numeric, $2, $3, $4, $5::text::numeric, $6::text::numeric, $7, $8, $9, $10, $11,
                      $12)",
            )
            .bind(e.ipId.to_string())
            .bind(i64::from(e.version))
            .bind(e.root.as_slice())
            .bind(i64::from(e.memberCount))
            .bind(e.totalWeight.to_string())
            .bind(e.pointsWeight.to_string())
            .bind(i64::from(e.purposes))
            .bind(e.manifestCid.as_ref())
            .bind(e.attestor.as_slice())
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        IPRegistryEvents::VersionWithdrawn(e) => {
            // the first report stands
            sqlx::query(
                "UPDATE dataset_version SET withdrawn_data_id = coalesce(withdrawn_data_id, $3)
                 WHERE ip_id = $1::text::numeric AND version = $2",
            )
            .bind(e.ipId.to_string())
            .bind(i64::from(e.version))
            .bind(data_id(e.dataId.0))
            .execute(connection)
            .await?;
        }
        IPRegistryEvents::ContributionRegistered(e) => {
            sqlx::query(
                "INSERT INTO contribution (ip_id, provider, number, data_id, holder, block_number, block_time, tx_hash)
                 VALUES ($1::text::numeric, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(e.ipId.to_string())
            .bind(e.provider.as_slice())
            .bind(number(e.number)?)
            .bind(data_id(e.dataId.0))
            .bind(e.owner.as_slice())
            .bind(placed.block_number)
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        IPRegistryEvents::Transfer(e) => {
            for sql in [
                "UPDATE dataset SET holder = $2 WHERE ip_id = $1::text::numeric",
                "UPDATE contribution SET holder = $2 WHERE ip_id = $1::text::numeric",
            ] {
                sqlx::query(sql).bind(e.tokenId.to_string()).bind(e.to.as_slice()).execute(&mut *connection).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

async fn licenses(at: At<'_>, said: LicenseRegistryEvents) -> Done {
    let At { connection, placed } = at;
    match said {
        LicenseRegistryEvents::OfferPublished(e) => offer(At { connection, placed }, e).await?,
        LicenseRegistryEvents::OfferClosed(e) => {
            sqlx::query("UPDATE offer SET open = FALSE WHERE offer_id = $1")
                .bind(number(e.offerId)?)
                .execute(connection)
                .await?;
        }
        LicenseRegistryEvents::LicenseSold(e) => sale(At { connection, placed }, e).await?,
        LicenseRegistryEvents::LicenseRevoked(e) => {
            sqlx::query(
                "UPDATE license SET revocation_cause = $2, revoked_at = $3 WHERE license_id = $1::text::numeric",
            )
            .bind(e.licenseId.to_string())
            .bind(text(&e.cause))
            .bind(placed.block_time)
            .execute(connection)
            .await?;
        }
        LicenseRegistryEvents::RoyaltyClaimed(e) => {
            sqlx::query(
                "INSERT INTO royalty_claim
                     (ip_id, version, data_id, block_number, log_index, payee, amount, block_time, tx_hash)
                 VALUES ($1::text::numeric, $2, $3, $4, $5, $6, $7::text::numeric, $8, $9)",
            )
            .bind(e.ipId.to_string())
            .bind(i64::from(e.version))
            .bind(data_id(e.dataId.0))
            .bind(placed.block_number)
            .bind(placed.log_index)
            .bind(e.payee.as_slice())
            .bind(e.amount.to_string())
            .bind(placed.block_time)
            .bind(&placed.tx_hash)
            .execute(connection)
            .await?;
        }
        LicenseRegistryEvents::Transfer(e) => {
            license_transfer(At { connection, placed }, e.tokenId, e.from, e.to).await?;
        }
        _ => {}
    }
    Ok(())
}

async fn offer(at: At<'_>, e: OfferPublished) -> Done {
    let terms = e.terms;
    sqlx::query(
        "INSERT INTO offer
             (offer_id, ip_id, price, duration, purposes, seats, contributor_bps, transferable, ai_training, resale_bps,
              legal_hash, legal_uri, block_number, block_time, tx_hash)
         VALUES ($1, $2::text::numeric, $3::text::numeric, $4::text::numeric, $5, $6, $7, $8, $9, $10, $11, $12, $13,
              $14, $15)",
    )
    .bind(number(e.offerId)?)
    .bind(e.ipId.to_string())
    .bind(terms.price.to_string())
    .bind(terms.duration.to_string())
    .bind(i64::from(terms.purposes))
    .bind(i64::from(terms.seats))
    .bind(i32::from(terms.contributorBps))
    .bind(terms.transferable)
    .bind(terms.aiTraining)
    .bind(i32::from(terms.resaleBps))
    .bind(terms.legalHash.as_slice())
    .bind(text(&terms.legalUri))
    .bind(at.placed.block_number)
    .bind(at.placed.block_time)
    .bind(&at.placed.tx_hash)
    .execute(at.connection)
    .await?;
    Ok(())
}

async fn sale(at: At<'_>, e: LicenseSold) -> Done {
    let At { connection, placed } = at;
    sqlx::query(
        "INSERT INTO license
             (license_id, ip_id, version, offer_id, holder, starts_at, ends_at, block_number, block_time, tx_hash)
         VALUES ($1::text::numeric, $2::text::numeric, $3, $4, $5, $6::text::numeric, $7::text::numeric, $8, $9, $10)",
    )
    .bind(e.licenseId.to_string())
    .bind(e.ipId.to_string())
    .bind(i64::from(e.version))
    .bind(number(e.offerId)?)
    .bind(e.buyer.as_slice())
    .bind(e.startsAt.to_string())
    .bind(e.endsAt.to_string())
    .bind(placed.block_number)
    .bind(placed.block_time)
    .bind(&placed.tx_hash)
    .execute(&mut *connection)
    .await?;
    // without a points share there is nothing to post
    let points_state = if e.pointsShare == 0 { "posted" } else { "waiting" };
    sqlx::query(
        "INSERT INTO sale
             (license_id, ip_id, version, buyer, price, provider_share, points_share, wallet_share, points_state,
              block_number, log_index, block_time, tx_hash)
         VALUES ($1::text::numeric, $2::text::numeric, $3, $4, $5::text::numeric, $6::text::numeric, $7::text::numeric,
              $8::text::numeric, $9, $10, $11, $12, $13)",
    )
    .bind(e.licenseId.to_string())
    .bind(e.ipId.to_string())
    .bind(i64::from(e.version))
    .bind(e.buyer.as_slice())
    .bind(e.price.to_string())
    .bind(e.providerShare.to_string())
    .bind(e.pointsShare.to_string())
    .bind(e.walletShare.to_string())
    .bind(points_state)
    .bind(placed.block_number)
    .bind(placed.log_index)
    .bind(placed.block_time)
    .bind(&placed.tx_hash)
    .execute(connection)
    .await?;
    Ok(())
}

async fn license_transfer(at: At<'_>, license_id: U256, from: Address, to: Address) -> Done {
    let At { connection, placed } = at;
    sqlx::query(
        "INSERT INTO license_transfer (license_id, block_number, log_index, sender, recipient, block_time, tx_hash)
         VALUES ($1::text::numeric, $2, $3, $4, $5, $6, $7)",
    )
    .bind(license_id.to_string())
    .bind(placed.block_number)
    .bind(placed.log_index)
    .bind(from.as_slice())
    .bind(to.as_slice())
    .bind(placed.block_time)
    .bind(&placed.tx_hash)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE license SET holder = $2 WHERE license_id = $1::text::numeric")
        .bind(license_id.to_string())
        .bind(to.as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

async fn treasury(at: At<'_>, said: PointsTreasuryEvents) -> Result<Vec<AccountKey>, sqlx::Error> {
    let PointsTreasuryEvents::PointsRedeemed(e) = said else { return Ok(Vec::new()) };
    if e.amount == 0 {
        // our treasury refuses it; another provider's contract may not
        return Ok(Vec::new());
    }
    let At { connection, placed } = at;
    // the log asked the treasury whose it is, and one that is not ours may answer several providers: a redemption counts
    // with each of them
    let providers: Vec<Vec<u8>> = sqlx::query_scalar(
        "INSERT INTO points_redeemed
             (treasury, payout_id, provider, account, amount, recipient, state, block_number, log_index, block_time,
              tx_hash)
         SELECT $1, $2, address, $3, $4::text::numeric, $5, 'waiting', $6, $7, $8, $9
         FROM provider WHERE points_treasury = $1
         ON CONFLICT DO NOTHING
         RETURNING provider",
    )
    .bind(placed.log.address.as_slice())
    .bind(e.payoutId.as_slice())
    .bind(e.account.as_slice())
    .bind(e.amount.to_string())
    .bind(e.to.as_slice())
    .bind(placed.block_number)
    .bind(placed.log_index)
    .bind(placed.block_time)
    .bind(&placed.tx_hash)
    .fetch_all(connection)
    .await?;
    Ok(providers
        .iter()
        .filter_map(|provider| Address::try_from(provider.as_slice()).ok())
        .map(|provider| AccountKey { provider, key: e.account })
        .collect())
}
