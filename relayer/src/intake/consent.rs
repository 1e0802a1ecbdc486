//! Consents: checked against signature, provider, period, data type, policy and withdrawal, then kept in full.

use alloy::primitives::Address;
use sqlx::{PgPool, Row, types::Json};
use tidemark::{
    consent::{ConsentError, SignedConsent},
    ids::ConsentId,
};

use super::{Provider, Tx};
use crate::{
    chain::Chain,
    problem::{Kind, Problem},
};

/// Checks a consent for one submission; `field` is its path in the request.
pub async fn check(
    chain: &Chain,
    db: &PgPool,
    provider: &Provider,
    consent: &SignedConsent,
    data_type: u32,
    times: &[u64],
    field: &str,
) -> Result<ConsentId, Problem> {
    let domain = chain.deployment.consent_domain();
    let mut id = ConsentId::ZERO;
    for &at in times {
        id = consent.check(&domain, provider.account, data_type, at).map_err(|error| problem(error, field))?;
    }
    let published = chain.policy_published(provider.account, consent.policy_hash).await;
    if !published.map_err(|error| Problem::unavailable("the chain", error))? {
        let expected = format!("a policy that {} published on chain", provider.account);
        return Err(Problem::field(
            Kind::PolicyUnpublished,
            format!("{field}.policy_hash"),
            expected,
            consent.policy_hash.to_string(),
        ));
    }
    let withdrawn = is_withdrawn(db, id).await?
        || chain.is_withdrawn(id).await.map_err(|error| Problem::unavailable("the chain", error))?;
    if withdrawn {
        return Err(Problem::field(Kind::ConsentWithdrawn, field, "a consent that stands", format!("{id}, withdrawn")));
    }
    Ok(id)
}

fn problem(error: ConsentError, field: &str) -> Problem {
    let detail = format!("{field}.{error}");
    let (part, expected, actual) = match error {
        ConsentError::Signature { expected, digest, actual } => {
            ("signature", format!("one by {expected} over {digest}"), actual)
        }
        ConsentError::Provider { expected, actual } => ("provider", expected.to_string(), actual.to_string()),
        ConsentError::Period { at, from, until } => {
            ("valid_until", format!("a period with {at} (Unix seconds) in it"), format!("{from} to {until}"))
        }
        ConsentError::DataType { expected, actual } => {
            ("data_types", format!("bit {expected:#b}"), format!("{actual:#b}"))
        }
    };
    Problem::field(Kind::ConsentInvalid, format!("{field}.{part}"), expected, actual).saying(detail)
}

/// Whether the contributor took it back here.
async fn is_withdrawn(db: &PgPool, id: ConsentId) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM withdrawal WHERE consent_id = $1)").bind(id.0.0).fetch_one(db).await
}

/// Keeps consents in full, as a later withdrawal on chain needs all of it; refuses one that was withdrawn meanwhile. The
/// row's lock makes a withdrawal wait, so that it sees the records made under the consent.
pub async fn keep(tx: &mut Tx<'_>, provider: Address, consents: &[(ConsentId, SignedConsent)]) -> Result<(), Problem> {
    if consents.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<&(ConsentId, SignedConsent)> = consents.iter().collect();
    sorted.sort_by_key(|(id, _)| *id);
    sorted.dedup_by_key(|(id, _)| *id);
    sqlx::query(
        "INSERT INTO consent (consent_id, provider, signed)
         SELECT new.id, $1, new.signed FROM unnest($2::bytea[], $3::jsonb[]) AS new (id, signed)
         ON CONFLICT DO NOTHING",
    )
    .bind(provider.0.0)
    .bind(sorted.iter().map(|(id, _)| id.0.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|(_, consent)| Json(consent)).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    let ids: Vec<[u8; 32]> = sorted.iter().map(|(id, _)| id.0.0).collect();
    sqlx::query("SELECT FROM consent WHERE consent_id = ANY($1) ORDER BY consent_id FOR SHARE")
        .bind(&ids)
        .execute(&mut **tx)
        .await?;
    let withdrawn: Option<[u8; 32]> =
        sqlx::query_scalar("SELECT consent_id FROM withdrawal WHERE consent_id = ANY($1) LIMIT 1")
            .bind(&ids)
            .fetch_optional(&mut **tx)
            .await?;
    match withdrawn {
        None => Ok(()),
        Some(id) => {
            let actual = format!("{}, withdrawn", ConsentId(id.into()));
            Err(Problem::field(Kind::ConsentWithdrawn, "consent", "a consent that stands", actual))
        }
    }
}

/// Holds a consent against submissions that come meanwhile.
pub async fn lock(tx: &mut Tx<'_>, id: ConsentId) -> sqlx::Result<()> {
    sqlx::query("SELECT FROM consent WHERE consent_id = $1 FOR UPDATE").bind(id.0.0).execute(&mut **tx).await?;
    Ok(())
}

/// A kept consent of a provider.
pub async fn find(db: &PgPool, provider: Address, id: ConsentId) -> anyhow::Result<Option<SignedConsent>> {
    let row = sqlx::query("SELECT signed FROM consent WHERE consent_id = $1 AND provider = $2")
        .bind(id.0.0)
        .bind(provider.0.0)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| row.try_get::<Json<SignedConsent>, _>(0)).transpose()?.map(|Json(consent)| consent))
}
