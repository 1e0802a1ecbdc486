//! Withdrawals: the contributor takes a consent back; its records get an event each, and the chain is told.

use alloy::primitives::{Address, Bytes};
use serde::Serialize;
use sqlx::{PgPool, Row, types::Json};
use tidemark::{
    consent::{SignedConsent, check_signature, withdrawal_digest},
    ids::{ConsentId, DataId},
    payload::Payload,
};
use utoipa::ToSchema;

use super::{
    Provider, Tx, consent, erase,
    event::{self, NewEvent},
    record, unix_now,
};
use crate::{
    app::App,
    problem::{Kind, Problem},
};

/// The answer to a withdrawal.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Withdrawn {
    /// Which consent.
    #[schema(value_type = String)]
    pub consent_id: ConsentId,
    /// Records that got a ConsentWithdrawn event, now or at an earlier try.
    #[schema(value_type = Vec<String>)]
    pub records: Vec<DataId>,
    /// `pending` until the chain says so too, then `settled`.
    pub chain: &'static str,
}

/// Withdraws a consent; saying it twice changes nothing more.
pub async fn withdraw(app: &App, provider: &Provider, id: ConsentId, signature: Bytes) -> Result<Withdrawn, Problem> {
    let Some(consent) = consent::find(&app.db, provider.account, id).await? else {
        return Err(Problem::field(
            Kind::ConsentUnknown,
            "consent_id",
            "a consent that a record came with",
            id.to_string(),
        ));
    };
    let digest = withdrawal_digest(&app.chain.deployment.consent_domain(), id);
    check_signature(consent.contributor, digest, &signature).map_err(|error| {
        let expected = format!("one by {} over {digest}", consent.contributor);
        Problem::field(Kind::SignatureInvalid, "signature", expected, signature.to_string()).saying(error.to_string())
    })?;

    let mut tx = app.db.begin().await?;
    consent::lock(&mut tx, id).await?;
    sqlx::query("INSERT INTO withdrawal (consent_id, signature) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(id.0.0)
        .bind(signature.as_ref())
        .execute(&mut *tx)
        .await?;
    let settled: bool =
        sqlx::query_scalar("SELECT settled_at IS NOT NULL FROM withdrawal WHERE consent_id = $1 FOR UPDATE")
            .bind(id.0.0)
            .fetch_one(&mut *tx)
            .await?;
    let records = append(&mut tx, id, &signature).await?;
    tx.commit().await?;
    Ok(Withdrawn { consent_id: id, records, chain: if settled { "settled" } else { "pending" } })
}

/// Gives each record of the consent its event, where it has none yet.
async fn append(tx: &mut Tx<'_>, id: ConsentId, signature: &Bytes) -> anyhow::Result<Vec<DataId>> {
    let mut ids = record::of_consent(tx, id).await?;
    let mut heads = record::lock(tx, &ids).await?;
    // nothing follows an erasure
    let erased = erase::among(tx, &ids).await?;
    ids.retain(|data_id| !erased.contains(data_id));
    heads.retain(|data_id, _| ids.contains(data_id));
    let told = event::with_withdrawal(tx, &ids).await?;
    let payload = Payload::ConsentWithdrawn { consent_id: id, signature: signature.clone() };
    let now = unix_now();
    heads.retain(|data_id, _| !told.contains(data_id));
    let mut by_provider: std::collections::BTreeMap<Address, Vec<NewEvent>> = Default::default();
    for head in heads.values_mut() {
        let event =
            NewEvent::new(&event::Subject { task_id: 0, ..head.subject.clone() }, head.next_sequence, now, &payload)?;
        by_provider.entry(head.provider).or_default().push(event);
        head.next_sequence += 1;
    }
    for (provider, events) in &by_provider {
        event::insert(tx, *provider, events).await?;
    }
    record::advance(tx, &heads.values().collect::<Vec<_>>()).await?;
    Ok(ids.into_iter().collect())
}

/// Withdrawals that the chain does not know yet, oldest first; after them, by turns, those that it would not take, so
/// that these never keep others waiting.
pub async fn unsettled(db: &PgPool, limit: i64) -> anyhow::Result<Vec<(ConsentId, SignedConsent, Bytes)>> {
    let rows = sqlx::query(
        "SELECT w.consent_id, c.signed, w.signature FROM withdrawal w JOIN consent c USING (consent_id)
         WHERE w.settled_at IS NULL
         ORDER BY w.error IS NOT NULL, CASE WHEN w.error IS NULL THEN w.received_at END, random() LIMIT $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let Json(consent) = row.try_get::<Json<SignedConsent>, _>(1)?;
            Ok((ConsentId(row.try_get::<[u8; 32], _>(0)?.into()), consent, Bytes::from(row.try_get::<Vec<u8>, _>(2)?)))
        })
        .collect()
}

/// Marks a withdrawal as known to the chain.
pub async fn settle(db: &PgPool, id: ConsentId) -> sqlx::Result<()> {
    sqlx::query("UPDATE withdrawal SET settled_at = now(), error = NULL WHERE consent_id = $1 AND settled_at IS NULL")
        .bind(id.0.0)
        .execute(db)
        .await?;
    Ok(())
}

/// Notes why the chain did not take it; it is tried again.
pub async fn fail(db: &PgPool, id: ConsentId, error: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE withdrawal SET error = $2 WHERE consent_id = $1").bind(id.0.0).bind(error).execute(db).await?;
    Ok(())
}

/// How many withdrawals the chain does not know yet, and why the oldest that failed did.
pub async fn waiting(db: &PgPool) -> anyhow::Result<(i64, Option<String>)> {
    let row = sqlx::query(
        "SELECT count(*), (array_agg(error ORDER BY received_at) FILTER (WHERE error IS NOT NULL))[1]
         FROM withdrawal WHERE settled_at IS NULL",
    )
    .fetch_one(db)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
