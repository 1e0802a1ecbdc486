//! What an operator decides about a payout that is stuck, after asking the partner.

use sqlx::{PgPool, Row};
use uuid::Uuid;

/// The operator's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Resolution {
    /// Go on where it got stuck.
    Retry,
    /// The partner confirms that it has paid.
    Paid,
    /// The partner confirms that it has not paid and will not.
    Void,
}

/// Why a decision is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No such payout, or it is not stuck.
    #[error("payout {0}: expected one that is stuck, see GET /v1/payouts/{0}")]
    NotStuck(Uuid),
    /// The rail has paid, so only the redemption is left.
    #[error("payout {0} got stuck when {1}: the rail had paid, so it can only be retried")]
    PaidBefore(Uuid, String),
    /// The database.
    #[error("failed to resolve the payout")]
    Sql(#[from] sqlx::Error),
}

/// Takes a stuck payout on; `note` says who decided and why.
pub async fn resolve(pool: &PgPool, id: Uuid, resolution: Resolution, note: &str) -> Result<(), ResolveError> {
    let mut transaction = pool.begin().await?;
    let row = sqlx::query("SELECT stuck_in FROM local.payout WHERE payout_id = $1 AND state = 'stuck' FOR UPDATE")
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(ResolveError::NotStuck(id))?;
    let stuck_in: String = row.try_get(0)?;
    let to = match resolution {
        Resolution::Retry => stuck_in.as_str(),
        _ if stuck_in != "paying" => return Err(ResolveError::PaidBefore(id, stuck_in)),
        Resolution::Paid => "paid",
        Resolution::Void => "voided",
    };
    sqlx::query(
        "UPDATE local.payout SET state = $2, stuck_in = NULL, failures = 0, next_step_at = now(), note = $3,
             destination = CASE WHEN $2 <> 'voided' THEN destination END,
             recipient_name = CASE WHEN $2 <> 'voided' THEN recipient_name END,
             recipient_bic = CASE WHEN $2 <> 'voided' THEN recipient_bic END
         WHERE payout_id = $1",
    )
    .bind(id)
    .bind(to)
    .bind(format!("operator: {note}"))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    tracing::info!(payout_id = %id, to, "payout resolved by an operator");
    Ok(())
}
