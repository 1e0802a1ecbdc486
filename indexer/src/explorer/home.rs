//! `/`: the search box, what there is in sum, and what came last.

use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;
use sqlx::{PgConnection, Row};

use super::{
    Failure, Query,
    format::{Unit, amount, group, time},
    layout::{Page, badge, batch_link, pager, provider_link, table},
    open,
};
use crate::{
    api::App,
    read::{
        self, BatchView, DatasetView, ProviderView,
        page::{Page as Rows, PageQuery},
    },
};

const ROWS: u32 = 20;

#[derive(Deserialize)]
pub(super) struct Params {
    cursor: Option<String>,
}

pub(super) async fn page(State(app): State<App>, Query(params): Query<Params>) -> Result<Page, Failure> {
    let rows = PageQuery { limit: Some(ROWS), cursor: params.cursor }.page()?;
    let (mut snapshot, at) = open(&app).await?;
    let batches = read::batches(&mut snapshot, &app.chain.deployment, &rows).await?;
    let is_first = rows.after.is_none();
    let body = html! {
        @if is_first {
            p class="lead" {
                "Data that people gave with their consent: where it came from, who was paid for it, and who may use it."
            }
            (super::search::form(""))
            (totals(&mut snapshot).await?)
        }
        section {
            h2 { "Batches" }
            (batch_table(&batches.batches))
            (pager("/", batches.next_cursor.as_deref(), is_first, "Older batches"))
        }
        @if is_first {
            section {
                h2 { "Datasets" }
                (dataset_table(&read::datasets(&mut snapshot, &Default::default(), &Rows { limit: ROWS, after: None }).await?.datasets))
            }
            section { h2 { "Providers" } (provider_table(&read::providers(&mut snapshot).await?.providers)) }
        }
    };
    Ok(Page::new(if is_first { "Explorer" } else { "Older batches" }, at, body))
}

/// Sums over everything final.
async fn totals(connection: &mut PgConnection) -> Result<Markup, Failure> {
    let row = sqlx::query(
        "SELECT coalesce(sum(t.records), 0)::bigint, coalesce(sum(t.accepted), 0)::bigint, coalesce(sum(t.batches), 0)::bigint,
             (SELECT count(*) FROM license), coalesce(sum(l.issued), 0)::text, coalesce(sum(t.claimed), 0)::text,
             (SELECT coalesce(sum(price), 0)::text FROM sale)
         FROM provider_total AS t JOIN ledger_proof AS l USING (provider)",
    )
    .fetch_one(connection)
    .await?;
    let count = |column: usize| row.try_get::<i64, _>(column).map(|count| group(&count.to_string()));
    let (points, claimed, sales): (String, String, String) = (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
    Ok(html! {
        dl class="totals" {
            div { dt { "Records" } dd { (count(0)?) } }
            div { dt { "Accepted" } dd { (count(1)?) } }
            div { dt { "Batches" } dd { (count(2)?) } }
            div { dt { "Licences sold" } dd { (count(3)?) } }
            div { dt { "Points issued" } dd { (amount(&points, Unit::Points)) } }
            div { dt { "Rewards claimed by wallets" } dd { (amount(&claimed, Unit::Tokens)) } }
            div { dt { "Paid for licences" } dd { (amount(&sales, Unit::Tokens)) } }
        }
    })
}

/// Batches in rows.
pub(super) fn batch_table(batches: &[BatchView]) -> Markup {
    if batches.is_empty() {
        return html! { p class="soft" { "No batch has been anchored up to this block." } };
    }
    let rows = batches.iter().map(|batch| {
        vec![
            batch_link(&batch.provider, batch.number),
            badge(&batch.state),
            html! { (group(&batch.event_count.to_string())) },
            amount(&batch.points_total, Unit::Points),
            amount(&batch.wallet_total, Unit::Tokens),
            time(&batch.block_time),
        ]
    });
    let columns = ["Batch", "State", "Events", "To points", "To wallets", "Anchored"];
    table("Batches, newest first", &columns, &[2, 3, 4], rows.collect())
}

fn dataset_table(datasets: &[DatasetView]) -> Markup {
    if datasets.is_empty() {
        return html! { p class="soft" { "No dataset has been registered up to this block." } };
    }
    let rows = datasets.iter().map(|dataset| {
        let newest = dataset.versions.last();
        vec![
            html! { a href={ "/datasets/" (dataset.ip_id) } { (dataset.name) } },
            provider_link(&dataset.provider),
            html! { (newest.map_or(0, |version| version.version)) },
            html! { (group(&newest.map_or(0, |version| version.member_count).to_string())) },
            amount(&dataset.sales_total, Unit::Tokens),
            time(&dataset.registered_at),
        ]
    });
    let columns = ["Dataset", "Provider", "Version", "Records", "Sales", "Registered"];
    table("Newest datasets", &columns, &[2, 3, 4], rows.collect())
}

fn provider_table(providers: &[ProviderView]) -> Markup {
    if providers.is_empty() {
        return html! { p class="soft" { "No provider has registered up to this block." } };
    }
    let rows = providers.iter().take(ROWS as usize).map(|provider| {
        vec![
            html! { a href={ "/providers/" (provider.name) } { (provider.name) } },
            html! { (group(&provider.records.to_string())) },
            html! { (group(&provider.batches.to_string())) },
            html! { (group(&provider.invalid_batches.to_string())) },
            time(&provider.registered_at),
        ]
    });
    let columns = ["Provider", "Records", "Batches", "Of them invalid", "Registered"];
    table("Providers by name", &columns, &[1, 2, 3], rows.collect())
}
