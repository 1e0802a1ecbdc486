//! `/providers/{name}`: an app that collects data, its tasks, policies and newest batches.

use alloy::primitives::Address;
use axum::extract::State;
use maud::{Markup, html};
use sqlx::{PgConnection, Row};

use super::{
    Failure, Path,
    format::{Unit, amount, count, duration, group, time},
    layout::{Page, badge, code, facts, table},
    open,
};
use crate::{
    api::App,
    manifest::stored,
    read::{self, At, PolicyView, ProviderView, TaskView},
};

const BATCHES: i64 = 20;

pub(super) async fn page(State(app): State<App>, Path(name): Path<String>) -> Result<Page, Failure> {
    let (mut snapshot, at) = open(&app).await?;
    let unknown = || {
        let shown: String = name.chars().take(64).collect();
        Failure::unknown("name", format!("No provider {shown} has registered up to block {}.", at.block_number))
    };
    let address = read::find_provider(&mut snapshot, &name).await?.ok_or_else(unknown)?;
    let provider = read::provider(&mut snapshot, address).await?.ok_or_else(unknown)?;
    let body = html! {
        (overview(&provider))
        section { h2 { "Tasks" } (task_table(&provider.tasks, &at)) }
        section { h2 { "Policies" } (policy_table(&provider.policies)) }
        section { h2 { "Newest batches" } (batches(&mut snapshot, address, &provider.name).await?) }
    };
    Ok(Page::new(format!("Provider {}", provider.name), at, body))
}

fn overview(provider: &ProviderView) -> Markup {
    facts(vec![
        ("Account", code(&provider.address)),
        ("Records", html! { (group(&provider.records.to_string())) }),
        (
            "Batches",
            html! {
                (group(&provider.batches.to_string()))
                @if provider.invalid_batches > 0 {
                    "; " strong class="bad" { (count(provider.invalid_batches, "is invalid", "are invalid")) }
                }
            },
        ),
        ("Attestor", code(&provider.attestor)),
        ("Bond behind its verdicts", bond(provider)),
        (
            "Challenge window",
            html! {
                @if provider.challenge_window_seconds == 0 { "none: rewards are paid at once, and nothing can be challenged" }
                @else { (duration(&provider.challenge_window_seconds.to_string())) " after a batch is anchored" }
            },
        ),
        ("Points treasury", html! { (code(&provider.points_treasury)) " " a href="/settlement" { "Is it covered?" } }),
        ("Payment token", code(&provider.token)),
        ("Registered", time(&provider.registered_at)),
        ("Transaction", code(&provider.tx_hash)),
    ])
}

fn bond(provider: &ProviderView) -> Markup {
    let bond = &provider.bond;
    html! {
        (amount(&bond.amount, Unit::Tokens))
        @if bond.slashed != "0" { "; " (amount(&bond.slashed, Unit::Tokens)) " were slashed" }
        @if let (Some(units), Some(at)) = (&bond.withdrawal_amount, &bond.withdrawable_at) {
            "; " (amount(units, Unit::Tokens)) " announced to be taken out from " (time(at)) " on"
        }
        "; "
        a href={ "/v1/disputes?provider=" (provider.name) } { (count(provider.open_disputes, "open dispute", "open disputes")) }
    }
}

fn task_table(tasks: &[TaskView], at: &At) -> Markup {
    if tasks.is_empty() {
        return html! { p class="soft" { "Nobody sponsors a task of this provider up to this block." } };
    }
    let rows = tasks.iter().map(|task| {
        let closes_at = task.closes_at.parse::<u64>().unwrap_or(u64::MAX);
        let is_open = u64::try_from(at.unix_seconds).is_ok_and(|now| now <= closes_at);
        vec![
            html! { (task.task_id) },
            badge(if is_open { "open" } else { "closed" }),
            amount(&task.price, Unit::Tokens),
            amount(&task.funded, Unit::Tokens),
            amount(&task.debited, Unit::Tokens),
            amount(&task.escrow, Unit::Tokens),
            time(&read::rfc3339_u64(closes_at)),
        ]
    });
    let columns = ["Task", "State", "For each accepted", "Paid in", "Paid out", "Left", "Closes"];
    table("Tasks and what is left in escrow", &columns, &[2, 3, 4, 5], rows.collect())
}

fn policy_table(policies: &[PolicyView]) -> Markup {
    if policies.is_empty() {
        return html! { p class="soft" { "It has published no policy, so nobody can consent to one yet." } };
    }
    let rows = policies.iter().map(|policy| {
        vec![html! { (policy.version) }, html! { (policy.uri) }, time(&policy.published_at), code(&policy.policy_hash)]
    });
    table(
        "Policies that people consent to, newest first",
        &["Version", "Text", "Published", "SHA-256"],
        &[],
        rows.collect(),
    )
}

async fn batches(connection: &mut PgConnection, provider: Address, name: &str) -> Result<Markup, Failure> {
    let rows = sqlx::query(
        "SELECT number, state, event_count, points_total::text, wallet_total::text, block_time FROM batch
         WHERE provider = $1 ORDER BY number DESC LIMIT $2",
    )
    .bind(provider.as_slice())
    .bind(BATCHES)
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(html! { p class="soft" { "It has anchored no batch that is final." } });
    }
    let mut cells = Vec::with_capacity(rows.len());
    for row in &rows {
        let (number, events): (u64, u64) = (stored::count(row, 0)?, stored::count(row, 2)?);
        cells.push(vec![
            html! { a href={ "/batches/" (name) "/" (number) } { "Batch " (number) } },
            badge(&row.try_get::<String, _>(1)?),
            html! { (group(&events.to_string())) },
            amount(&row.try_get::<String, _>(3)?, Unit::Points),
            amount(&row.try_get::<String, _>(4)?, Unit::Tokens),
            time(&read::rfc3339(row.try_get(5)?)),
        ]);
    }
    let columns = ["Batch", "State", "Events", "To points", "To wallets", "Anchored"];
    Ok(table("Its 20 newest final batches", &columns, &[2, 3, 4], cells))
}
