//! Building: a sealed batch's files, the same bytes each time, and the attestor's signature over its header.

use alloy::primitives::{Address, Bytes};
use anyhow::Context;
use sqlx::types::Json;
use tidemark::{
    batch::{Header, summarise_hashed},
    manifest::{Manifest, encode_disclosures},
};

use crate::{
    app::App,
    intake::{bigint, event},
};

/// Stores disclosures and manifest, has the header signed, keeps both. Repeating any of it gives the same.
pub async fn build_and_sign(app: &App, provider: Address, number: u64) -> anyhow::Result<()> {
    let (events, leaves, disclosures) = event::of_batch(&app.db, provider, number).await?;
    let encoded = tokio::task::spawn_blocking(move || encode_disclosures(&disclosures)).await??;
    let disclosures_cid = app.store.put(&encoded).await.context("store the disclosures")?;

    let manifest = Manifest { provider, number, events, disclosures: Some(disclosures_cid) };
    let (summary, encoded, manifest) = tokio::task::spawn_blocking(move || {
        // side by side, as each has parts that keep one core only
        let (summary, encoded) = rayon::join(|| summarise_hashed(&manifest.events, &leaves), || manifest.encode());
        anyhow::Ok((summary?, encoded?, manifest))
    })
    .await??;
    let manifest_cid = app.store.put(&encoded).await.context("store the manifest")?;
    let header = Header::new(provider, number, &manifest.events, &summary, manifest_cid).context("too many events")?;
    let signature = app.attestor.sign_batch(&header).await?;

    let mut tx = app.db.begin().await?;
    let done = sqlx::query(
        "UPDATE batch SET state = 'signed', disclosures_cid = $3, header = $4, signature = $5, error = NULL
         WHERE provider = $1 AND number = $2 AND state = 'sealed'",
    )
    .bind(provider.0.0)
    .bind(bigint(number)?)
    .bind(disclosures_cid.to_string())
    .bind(Json(&header))
    .bind(signature.as_ref())
    .execute(&mut *tx)
    .await?;
    anyhow::ensure!(done.rows_affected() == 1, "the batch was signed by somebody else meanwhile");
    super::keep_debits(&mut tx, &header).await?;
    tx.commit().await?;
    tracing::info!(%provider, number, root = %header.root, manifest = %manifest_cid, "batch signed");
    Ok(())
}

/// Has a header signed by whoever is the attestor now, where the chain does not take the signature that it has.
pub async fn sign_again(app: &App, header: &Header, before: &Bytes) -> anyhow::Result<()> {
    let signature = app.attestor.sign_batch(header).await?;
    if signature == *before {
        return Ok(());
    }
    sqlx::query("UPDATE batch SET signature = $3 WHERE provider = $1 AND number = $2 AND state = 'signed'")
        .bind(header.provider.0.0)
        .bind(bigint(header.number)?)
        .bind(signature.as_ref())
        .execute(&app.db)
        .await?;
    tracing::info!(provider = %header.provider, number = header.number, "batch signed again, by the attestor of now");
    Ok(())
}
