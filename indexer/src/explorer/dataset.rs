//! `/datasets/{ip_id}`: a dataset's versions, their members, offers and sales.

use alloy::primitives::U256;
use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;
use sqlx::{PgConnection, Row};

use super::{
    Failure, Path, Query,
    format::{Unit, amount, count, duration, group, per_cent, time},
    layout::{Page, badge, code, facts, pager, provider_link, record_link, table},
    open,
};
use crate::{
    api::{App, token_id},
    manifest::stored,
    problem::Problem,
    read::{
        self, DatasetView, OfferView, VersionView,
        page::{Page as Rows, PageQuery, Place, cut},
    },
};

const SALES_MAX: i64 = 100;

#[derive(Deserialize)]
pub(super) struct Params {
    version: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn page(
    State(app): State<App>,
    Path(ip_id): Path<String>,
    Query(params): Query<Params>,
) -> Result<Page, Failure> {
    let id = token_id("ip_id", &ip_id)?;
    let rows = PageQuery { limit: None, cursor: params.cursor }.page()?;
    let wanted = match &params.version {
        Some(text) => Some(text.parse::<u64>().map_err(|_| Problem::invalid("version", "a number, from 1", text))?),
        None => None,
    };
    let (mut snapshot, at) = open(&app).await?;
    let dataset = read::dataset(&mut snapshot, id).await?.ok_or_else(|| {
        Failure::unknown("ip_id", format!("No dataset {id} is registered up to block {}.", at.block_number))
    })?;
    let shown = match wanted {
        Some(number) => dataset.versions.iter().find(|version| version.version == number),
        None => dataset.versions.last(),
    };
    let shown = shown.ok_or_else(|| {
        Failure::unknown("version", format!("{} has no version {}.", dataset.name, wanted.unwrap_or_default()))
    })?;
    let body = html! {
        (overview(&dataset))
        section { h2 { "Versions" } (version_table(&dataset)) }
        section {
            h2 { "Members of version " (shown.version) }
            (members(&mut snapshot, id, shown, &rows).await?)
        }
        section { h2 { "Offers" } (offer_table(&dataset.offers)) }
        section { h2 { "Sales" } (sales(&mut snapshot, id).await?) }
    };
    Ok(Page::new(format!("Dataset {}", dataset.name), at, body))
}

fn overview(dataset: &DatasetView) -> Markup {
    facts(vec![
        ("Provider", provider_link(&dataset.provider)),
        ("Token (ERC-721)", code(&dataset.ip_id)),
        ("Held by", code(&dataset.holder)),
        ("Registered", time(&dataset.registered_at)),
        ("Transaction", code(&dataset.tx_hash)),
        ("Paid for licences", amount(&dataset.sales_total, Unit::Tokens)),
    ])
}

fn version_table(dataset: &DatasetView) -> Markup {
    let newest = dataset.versions.last().map(|version| version.version);
    let rows = dataset.versions.iter().rev().map(|version| {
        vec![
            html! { a href={ "/datasets/" (dataset.ip_id) "?version=" (version.version) } { "Version " (version.version) } },
            badge(&version.state),
            sale_state(version, newest),
            html! { (super::license::purposes(&version.purpose_names)) },
            html! { (group(&version.member_count.to_string())) },
            html! { (group(&version.license_ids.len().to_string())) },
            time(&version.registered_at),
        ]
    });
    let columns = ["Version", "Manifest", "For sale", "All members allow to", "Records", "Licences", "Registered"];
    table("Versions, newest first", &columns, &[4, 5], rows.collect())
}

fn sale_state(version: &VersionView, newest: Option<u64>) -> Markup {
    html! {
        @if let Some(data_id) = &version.withdrawn_data_id {
            "no: the consent of " (record_link(data_id)) " was withdrawn"
        } @else if let Some(reason) = &version.reason {
            "its manifest is wrong: " (reason)
        } @else if newest == Some(version.version) {
            "where an offer is open"
        } @else {
            "no: superseded"
        }
    }
}

async fn members(
    connection: &mut PgConnection,
    ip_id: U256,
    version: &VersionView,
    page: &Rows,
) -> Result<Markup, Failure> {
    let after = page.after.as_ref().map_or(-1, |place| place.0);
    let rows = sqlx::query(
        "SELECT position, data_id, weight::text, payee = decode(repeat('00', 20), 'hex')
         FROM dataset_member WHERE ip_id = $1::text::numeric AND version = $2 AND position > $3
         ORDER BY position LIMIT $4",
    )
    .bind(ip_id.to_string())
    .bind(i64::try_from(version.version).unwrap_or(i64::MAX))
    .bind(after)
    .bind(i64::from(page.limit) + 1)
    .fetch_all(connection)
    .await?;
    let mut members = Vec::with_capacity(rows.len());
    for row in &rows {
        let (position, data_id): (i64, uuid::Uuid) = (row.try_get(0)?, row.try_get(1)?);
        let (weight, is_points): (String, bool) = (row.try_get(2)?, row.try_get(3)?);
        members.push((
            position,
            vec![
                html! { (position) },
                record_link(&data_id.to_string()),
                html! { (group(&weight)) },
                html! { (if is_points { "points" } else { "wallet" }) },
            ],
        ));
    }
    let next = cut(&mut members, page.limit, |(position, _)| Place(*position, String::new()));
    let path = format!("/datasets/{ip_id}?version={}", version.version);
    Ok(html! {
        (facts(vec![
            ("Registered", time(&version.registered_at)),
            ("Transaction", code(&version.tx_hash)),
            ("Root", code(&version.root)),
            ("Members’ manifest", code(&version.manifest_cid)),
            ("Attestor", code(&version.attestor)),
            ("All members allow to", html! {
                (super::license::purposes(&version.purpose_names))
                @if version.purposes_differ > 0 {
                    "; " strong class="bad" {
                        (count(version.purposes_differ, "member’s row says", "members’ rows say"))
                        " otherwise than its registration"
                    }
                }
            }),
            ("Total weight", html! {
                (group(&version.total_weight)) span class="soft" {
                    "; royalties are split by weight. Members paid in points have " (group(&version.points_weight)) " of it"
                }
            }),
        ]))
        @if members.is_empty() {
            p class="soft" { (match version.state.as_str() {
                "waiting" => "The members appear here once their manifest has arrived and is checked.",
                "invalid" => "The members of an invalid version are not taken over.",
                _ => "No more members.",
            }) }
        } @else {
            (table(
                "Members in the order of the manifest",
                &["Position", "Record", "Weight", "Royalties in"],
                &[0, 2],
                members.into_iter().map(|(_, row)| row).collect(),
            ))
        }
        (pager(&path, next.as_deref(), page.after.is_none(), "Members"))
    })
}

fn offer_table(offers: &[OfferView]) -> Markup {
    if offers.is_empty() {
        return html! { p class="soft" { "Nothing is offered yet: its provider has published no terms." } };
    }
    let rows = offers.iter().rev().map(|offer| {
        let terms = &offer.terms;
        vec![
            html! { (offer.offer_id) },
            html! {
                (badge(if offer.open { "open" } else { "closed" }))
                @if offer.open && offer.exceeds_consent { " " span class="soft" { "not sold: more than all members allow" } }
            },
            amount(&terms.price, Unit::Tokens),
            html! { (duration(&terms.duration_seconds)) },
            html! { (super::license::purposes(&terms.purpose_names)) },
            html! { (count(terms.seats, "seat", "seats")) },
            html! { (per_cent(terms.contributor_bps)) },
        ]
    });
    let columns = ["Offer", "State", "Price", "For", "Allows", "Seats", "To contributors"];
    table("Offers, newest first", &columns, &[2, 6], rows.collect())
}

async fn sales(connection: &mut PgConnection, ip_id: U256) -> Result<Markup, Failure> {
    let rows = sqlx::query(
        "SELECT license_id::text, version, price::text, provider_share::text, points_share::text, wallet_share::text, block_time
         FROM sale WHERE ip_id = $1::text::numeric ORDER BY block_number DESC, log_index DESC LIMIT $2",
    )
    .bind(ip_id.to_string())
    .bind(SALES_MAX)
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(html! { p class="soft" { "No licence has been sold up to this block." } });
    }
    let mut cells = Vec::with_capacity(rows.len());
    for row in &rows {
        let license: String = row.try_get(0)?;
        let money = |column: usize, unit: Unit| row.try_get::<String, _>(column).map(|units| amount(&units, unit));
        cells.push(vec![
            html! { a href={ "/licenses/" (license) } { "Licence " (license) } },
            html! { (stored::count::<u64>(row, 1)?) },
            money(2, Unit::Tokens)?,
            money(3, Unit::Tokens)?,
            money(4, Unit::Points)?,
            money(5, Unit::Tokens)?,
            time(&read::rfc3339(row.try_get(6)?)),
        ]);
    }
    let columns = ["Licence", "Version", "Price", "To the provider", "To points", "To wallets", "Sold"];
    Ok(table("Newest sales, at most 100", &columns, &[1, 2, 3, 4, 5], cells))
}
