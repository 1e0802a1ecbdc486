//! `/licenses/{id}`: what a licence allows, in words, and where its price went.

use axum::extract::State;
use maud::{Markup, html};

use super::{
    Failure, Path,
    format::{Unit, amount, count, duration, per_cent, time},
    layout::{Page, badge, code, facts, provider_link, table, verify},
    open,
};
use crate::{
    api::{App, token_id},
    read::{self, LicenseView},
};

pub(super) async fn page(State(app): State<App>, Path(id): Path<String>) -> Result<Page, Failure> {
    let license_id = token_id("id", &id)?;
    let (mut snapshot, at) = open(&app).await?;
    let license = read::license(&mut snapshot, &at, license_id).await?.ok_or_else(|| {
        Failure::unknown("id", format!("No licence {license_id} is final up to block {}.", at.block_number))
    })?;
    let body = html! {
        p class="lead" { (badge(&license.status)) " " (status(&license)) }
        section { h2 { "What it allows" } (terms(&license)) }
        section { h2 { "Where the price went" } (split(&license)) }
        section {
            h2 { "How the data is delivered" }
            p {
                "The files rest encrypted, each under a key of its own. Custodians hold shares of the key to those keys; asked "
                "by the holder, a custodian reads the chain itself – is the licence active, is its purpose allowed, is the "
                "record in version " (license.version) ", does its consent stand – and only then releases its part, with a "
                "proof that the part is right. Each release is logged."
            }
            pre { "tidemark download " (license.license_id) " --key-file HOLDER.key --custodian $CUSTODIAN_URL --out ./data \\\n  --rpc-url $RPC_URL --deployment deployment.json --store $STORE" }
        }
        section { h2 { "Holders" } (holders(&license)) }
        (verify(&format!("tidemark verify license {}", license.license_id)))
    };
    Ok(Page::new(format!("Licence {}", license.license_id), at, body))
}

fn status(license: &LicenseView) -> Markup {
    html! {
        @match license.status.as_str() {
            "active" => { "It may be used until " (time(&license.ends_at)) "." }
            "expired" => { "It ended " (time(&license.ends_at)) "; nothing may be trained or released under it any more." }
            _ => {
                "It was revoked"
                @if let Some(at) = &license.revoked_at { " " (time(at)) }
                ": " (license.revocation_cause.as_deref().unwrap_or("no cause recorded")) "."
            }
        }
    }
}

/// Purposes in words, by their names.
pub(super) fn purposes(names: &[&'static str]) -> String {
    let words = names.iter().map(|name| match *name {
        "train" => "train models",
        "evaluate" => "evaluate models",
        "fine_tune" => "fine-tune models",
        "redistribute" => "pass the data on",
        "commercial" => "use it commercially",
        other => other,
    });
    let words: Vec<&str> = words.collect();
    match words.as_slice() {
        [] => "nothing".into(),
        [one] => (*one).into(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn terms(license: &LicenseView) -> Markup {
    let terms = &license.terms;
    facts(vec![
        (
            "Data",
            html! {
                a href={ "/datasets/" (license.ip_id) "?version=" (license.version) } {
                    (license.dataset_name) ", version " (license.version)
                }
                " of " (provider_link(&license.provider))
            },
        ),
        ("Holder", code(&license.holder)),
        ("The holder may", html! { (purposes(&terms.purpose_names)) }),
        (
            "AI training",
            html! {
                @if terms.ai_training { strong class="good" { "allowed" } } @else { strong class="bad" { "not allowed" } }
            },
        ),
        ("Who may use it", html! { (count(terms.seats, "seat", "seats")) }),
        ("From", time(&license.starts_at)),
        (
            "Until",
            html! { (time(&license.ends_at)) span class="soft" { " (" (duration(&terms.duration_seconds)) ")" } },
        ),
        (
            "Transfer",
            html! { (if terms.transferable { "may be passed to another holder" } else { "stays with its holder" }) },
        ),
        ("Of a resale the provider gets", html! { (per_cent(terms.resale_bps)) }),
        (
            "Legal text",
            html! {
                // a link only where a browser would follow it to a page
                @if terms.legal_uri.starts_with("https://") || terms.legal_uri.starts_with("http://") {
                    a href=(terms.legal_uri) rel="nofollow noopener noreferrer" { (terms.legal_uri) }
                } @else { (terms.legal_uri) }
                br; span class="soft" { "SHA-256 " (code(&terms.legal_hash)) }
            },
        ),
        ("Offer", html! { (license.offer_id) }),
    ])
}

fn split(license: &LicenseView) -> Markup {
    let points = match license.points_state.as_str() {
        "posted" => "credited to the accounts of members without a wallet, by weight",
        "waiting" => "waiting for the members’ manifest, then credited by weight",
        _ => "not credited: the members’ manifest is not what was registered",
    };
    let rows = vec![
        vec![html! { "The provider" }, amount(&license.provider_share, Unit::Tokens), html! { "paid in the sale" }],
        vec![html! { "Contributors, in points" }, amount(&license.points_share, Unit::Points), html! { (points) }],
        vec![
            html! { "Contributors, with a wallet" },
            amount(&license.wallet_share, Unit::Tokens),
            html! { "claimed on chain by each, by weight" },
        ],
        vec![
            html! { strong { "In sum" } },
            html! { strong { (amount(&license.price, Unit::Tokens)) } },
            html! { "nothing is left over" },
        ],
    ];
    html! {
        p {
            (code(&license.buyer)) " paid " (amount(&license.price, Unit::Tokens)) "; "
            (per_cent(license.terms.contributor_bps)) " of it belong to the contributors."
        }
        (table("The price and its parts", &["To", "Amount", "State"], &[1], rows))
        (facts(vec![("Sold", time(&license.starts_at)), ("Transaction", code(&license.tx_hash))]))
    }
}

fn holders(license: &LicenseView) -> Markup {
    let rows = license.transfers.iter().map(|transfer| {
        vec![
            time(&transfer.block_time),
            match &transfer.from {
                Some(from) => code(from),
                None => html! { "issued" },
            },
            code(&transfer.to),
            code(&transfer.tx_hash),
        ]
    });
    table("Changes of hands, oldest first", &["Time", "From", "To", "Transaction"], &[], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_read_as_a_sentence() {
        assert_eq!(purposes(&[]), "nothing");
        assert_eq!(purposes(&["train"]), "train models");
        let three = purposes(&["train", "evaluate", "commercial"]);
        assert_eq!(three, "train models, evaluate models and use it commercially");
    }
}
