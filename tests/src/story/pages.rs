//! The explorer's pages of the story's own things: fetched once, and shown to people at the end.

use anyhow::{Context, Result};

use super::run::Told;
use crate::stack::{PROVIDER_NAME, Stack};

/// One page.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of what.
    pub what: &'static str,
    /// Where.
    pub url: String,
    /// Whether it is HTML that names what it is about.
    pub is_right: bool,
}

/// Fetches the first record's, the first batch's, the dataset's, the licence's and a contributor's page.
pub async fn see(stack: &Stack, told: &Told) -> Result<Vec<Seen>> {
    let base = stack.indexer.as_ref().context("the stack was started without an indexer")?.url();
    let accepted = told.uploads.iter().find(|upload| upload.is_accepted()).context("nothing was accepted")?;
    let data_id = accepted.answer.data_id.to_string();
    let of_same = told.uploads.iter().filter(|upload| upload.contributor == accepted.contributor);
    let records: Vec<String> = of_same.map(|upload| upload.answer.data_id.to_string()).collect();
    let batch = &told.batches.first().context("no batch")?.anchored;
    let transaction = batch.place.transaction.to_string();
    let pages = [
        ("record", format!("{base}/data/{data_id}"), transaction.as_str()),
        ("batch", format!("{base}/batches/{PROVIDER_NAME}/{}", batch.header.number), transaction.as_str()),
        ("dataset", format!("{base}/datasets/{}", told.published.ip_id), PROVIDER_NAME),
        ("licence", format!("{base}/licenses/{}", told.sold.licenseId), PROVIDER_NAME),
        ("contributor receipt", format!("{base}/receipt?records={}", records.join(",")), data_id.as_str()),
    ];
    let mut seen = Vec::new();
    for (what, url, names) in pages {
        let is_right = names_it(&url, names).await?;
        seen.push(Seen { what, url, is_right });
    }
    Ok(seen)
}

async fn names_it(url: &str, text: &str) -> Result<bool> {
    let answer = reqwest::get(url).await.with_context(|| format!("failed to open {url}"))?;
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_page = answer.status().is_success() && kind.starts_with("text/html");
    let body = answer.text().await.with_context(|| format!("{url} broke off"))?;
    Ok(is_page && body.contains(text))
}
