//! `/settlement`: whether the points that people hold are covered by tokens.

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Failure,
    format::{Unit, amount},
    layout::{Page, badge, code, facts, provider_link},
};
use crate::{
    api::{self, App},
    read::Settlement,
};

pub(super) async fn page(State(app): State<App>) -> Result<Page, Failure> {
    let (at, providers) = api::settlements(&app).await?;
    let body = html! {
        p class="lead" {
            "Points are a promise; tokens back it. Those of an anchored batch wait in the log until anybody sweeps them into the "
            "provider’s points treasury. At every block both together must be at least what the contributors’ accounts hold "
            "together."
        }
        @if providers.is_empty() { p class="soft" { "No provider has registered up to this block." } }
        @for provider in &providers { (settlement(provider)) }
        section {
            h2 { "How to verify this yourself" }
            p {
                "Ask any node for the treasury’s " code { "backing()" } " at this block, or for the token’s "
                code { "balanceOf(treasury)" } " and the log’s " code { "providerOf(provider).pointsAccrued" }
                ". What people hold is the sum of "
                "the anchored manifests’ rewards and the sales’ points shares, less what "
                code { "PointsRedeemed" } " let out; run an indexer of your own and compare "
                a href="/v1/settlement" { "/v1/settlement" } "."
            }
        }
    };
    Ok(Page::new("Settlement", at, body))
}

fn settlement(provider: &Settlement) -> Markup {
    let points = |units: &str| amount(units, Unit::Points);
    html! {
        section {
            h2 { (provider_link(&provider.provider)) }
            p class="lead" {
                @match provider.covered {
                    Some(true) => { strong class="good" { "Covered." } " There is at least what people are owed." }
                    Some(false) => { strong class="bad" { "Not covered." } " There is less than people are owed." }
                    None => { (badge("unknown")) " The node does not tell the treasury’s balance at this block." }
                }
            }
            (facts(vec![
                ("People hold", strong(points(&provider.outstanding))),
                ("Behind them", strong(known(provider.backing.as_ref()))),
                ("Of it in the treasury", known(provider.treasury_balance.as_ref())),
                ("Of it in the log, not swept yet", amount(&provider.accrued, Unit::Tokens)),
                ("Ever received for points", amount(&provider.received, Unit::Tokens)),
                ("Ever issued", points(&provider.issued)),
                ("Ever paid out", points(&provider.redeemed)),
                ("The ledger’s difference", html! {
                    (points(&provider.difference))
                    @if provider.difference == "0" { ": issued equals held plus paid out" } @else {
                        ": " strong class="bad" { "the ledger is broken" }
                    }
                }),
                ("Let out beyond an account’s balance", html! {
                    (points(&provider.unposted))
                    @if provider.unposted != "0" { ": " strong class="bad" { "the operator took what nobody had" } }
                }),
                ("Treasury", code(&provider.treasury)),
                ("Token", code(&provider.token)),
            ]))
        }
    }
}

/// Tokens, where the node can say how many.
fn known(units: Option<&String>) -> Markup {
    match units {
        Some(units) => amount(units, Unit::Tokens),
        None => html! { "not known" },
    }
}

fn strong(content: Markup) -> Markup {
    html! { strong { (content) } }
}
