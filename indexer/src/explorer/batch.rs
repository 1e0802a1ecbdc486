//! `/batches/{provider}/{number}`: a batch's header, what became of it, and its events.

use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    Failure, Path, Query,
    dispute::{dispute_table, reward_words},
    format::{Unit, amount, count, group, time},
    layout::{Page, badge, code, facts, pager, provider_link, record_link, table, verify},
    open,
};
use crate::{
    api::App,
    problem::Problem,
    read::{
        self, BatchView, DisputeFilter, EventView,
        page::{Page as Rows, PageQuery},
    },
};

#[derive(Deserialize)]
pub(super) struct Params {
    cursor: Option<String>,
}

pub(super) async fn page(
    State(app): State<App>,
    Path((name, number)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> Result<Page, Failure> {
    let rows = PageQuery { limit: None, cursor: params.cursor }.page()?;
    let number: u64 = number.parse().map_err(|_| Problem::invalid("number", "a batch's number, from 0", &number))?;
    let (mut snapshot, at) = open(&app).await?;
    let unknown = || {
        let shown: String = name.chars().take(64).collect();
        Failure::unknown("number", format!("{shown} has anchored no batch {number} up to block {}.", at.block_number))
    };
    let provider = read::find_provider(&mut snapshot, &name).await?.ok_or_else(unknown)?;
    let batch = read::batch(&mut snapshot, &app.chain.deployment, provider, number).await?.ok_or_else(unknown)?;
    let events = read::batch_events(&mut snapshot, provider, number, &rows).await?;
    let filter = DisputeFilter { provider: Some(provider), batch: Some(number), state: None };
    let disputes = read::disputes(&mut snapshot, &filter, &Rows::default()).await?;
    let path = format!("/batches/{name}/{number}");
    let body = html! {
        (state(&batch))
        (header(&batch))
        section {
            h2 { "Events" }
            (event_table(&batch, &events.events))
            (pager(&path, events.next_cursor.as_deref(), rows.after.is_none(), "Events"))
        }
        @if !disputes.disputes.is_empty() {
            section {
                h2 { "Disputes" }
                (dispute_table(&disputes.disputes))
                @if disputes.next_cursor.is_some() {
                    p { a href={ "/v1/disputes?provider=" (batch.provider.address) "&batch=" (number) } { "All of them (JSON)" } }
                }
            }
        }
        (verify(&format!("tidemark verify batch {name} {number}")))
    };
    let owner = if batch.provider.name.is_empty() { name } else { batch.provider.name.clone() };
    Ok(Page::new(format!("Batch {number} of {owner}"), at, body))
}

fn state(batch: &BatchView) -> Markup {
    match batch.state.as_str() {
        "valid" => html! {
            p class="lead" { (badge("valid")) " Its manifest gives exactly the anchored root, count and sums, and its rewards are credited." }
        },
        "invalid" => html! {
            div class="notice bad" {
                p { (badge("invalid")) " The manifest is not what was anchored, so this batch credits nobody." }
                p { strong { "What differs: " } (batch.reason.as_deref().unwrap_or("not told")) }
            }
        },
        "waiting" => html! {
            p class="notice" {
                (badge("waiting")) " Final on chain. Its manifest, or that of an earlier batch, has not arrived from the content "
                "store; until it is here and checked, nothing is credited."
            }
        },
        _ => html! {
            p class="notice" { (badge("mined")) " Anchored, waiting for finality. Rewards are credited once its block is final." }
        },
    }
}

fn header(batch: &BatchView) -> Markup {
    let mut rows = vec![
        ("Provider", provider_link(&batch.provider)),
        ("Events", html! { (group(&batch.event_count.to_string())) }),
        ("To points", amount(&batch.points_total, Unit::Points)),
        (
            "To wallets",
            html! {
                (amount(&batch.wallet_total, Unit::Tokens))
                @if batch.wallet_total != "0" {
                    ", to be claimed from " (time(&batch.challenge_until)) " on; "
                    (amount(&batch.wallet_unclaimed, Unit::Tokens)) " unclaimed"
                }
            },
        ),
    ];
    if !batch.debits.is_empty() {
        rows.push((
            "Out of escrow",
            html! {
                @for (at, debit) in batch.debits.iter().enumerate() {
                    @if at > 0 { "; " }
                    (amount(&debit.amount, Unit::Tokens)) " of task " (debit.task_id)
                }
            },
        ));
    }
    rows.extend([
        ("Anchored", html! { (time(&batch.block_time)) ", block " (group(&batch.block_number.to_string())) }),
        ("Verdicts challenged until", time(&batch.challenge_until)),
        ("Transaction", code(&batch.tx_hash)),
        ("Root", code(&batch.root)),
        ("Manifest", code(&batch.manifest_cid)),
    ]);
    if let Some(cid) = &batch.disclosures_cid {
        rows.push(("Disclosures", code(cid)));
    }
    rows.push(("Attestor", code(&batch.attestor)));
    facts(rows)
}

fn event_table(batch: &BatchView, events: &[EventView]) -> Markup {
    if events.is_empty() {
        return match batch.state.as_str() {
            "valid" => html! { p class="soft" { "No more events." } },
            "invalid" => html! { p class="soft" { "The events of an invalid batch are not taken over." } },
            _ => {
                html! { p class="soft" { (count(batch.event_count, "event", "events")) " will appear here once the manifest is checked." } }
            }
        };
    }
    let rows = events.iter().map(|event| {
        vec![
            html! { (event.index) },
            html! {
                (event.kind.replace('_', " "))
                @if let Some(id) = &event.dispute_id { " " a href={ "/v1/disputes/" (id) } { "dispute " (id) } }
            },
            record_link(&event.data_id),
            match event.reward.as_str() {
                "0" => html! { "–" },
                reward => html! {
                    (amount(reward, Unit::of(event.payee.as_ref())))
                    @if let Some(state) = &event.reward_state { " " span class="soft" { (reward_words(state)) } }
                },
            },
            time(&event.occurred_at),
        ]
    });
    table(
        "Events in the order of the manifest",
        &["Index", "Event", "Record", "Reward", "Happened"],
        &[0, 3],
        rows.collect(),
    )
}
