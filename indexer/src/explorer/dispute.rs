//! Disputes as they stand on the pages of their batch and their record.

use maud::{Markup, html};

use super::{
    format::{Unit, amount, time},
    layout::{code, record_link, table},
};
use crate::read::DisputeView;

/// What a challenge says.
pub(super) fn ground(dispute: &DisputeView) -> &'static str {
    match dispute.ground.as_str() {
        "duplicate" => "the content was accepted before under another id",
        "not_the_contributors" => "the content is not the contributor’s to give",
        _ => "the verdict is against the task’s terms",
    }
}

/// How it stands, in words.
pub(super) fn outcome(dispute: &DisputeView) -> &'static str {
    match dispute.state.as_str() {
        "open" => "not decided yet",
        "upheld" => "upheld: the verdict was wrong",
        "rejected" => "rejected: the verdict stands",
        _ => "lapsed: nobody ruled in time, so the verdict stands",
    }
}

/// Where a wallet reward is, by its state.
pub(super) fn reward_words(state: &str) -> &'static str {
    match state {
        "waiting" => "to be claimed once the challenge window is over",
        "claimable" => "not claimed yet",
        "claimed" => "claimed",
        "held" => "held until the dispute is decided",
        "refunded" => "went back to the sponsor",
        "credited" => "credited by the dispute, to be paid out",
        "paid_as_credit" => "paid out by the dispute",
        _ => "",
    }
}

/// Who got what at the end.
pub(super) fn money(dispute: &DisputeView) -> Markup {
    let tokens = |units: &str| amount(units, Unit::Tokens);
    html! {
        @match dispute.state.as_str() {
            "upheld" => {
                "The challenger has the bond back"
                @if dispute.bounty != "0" { " and a bounty of " (tokens(&dispute.bounty)) " out of the attestor’s bond" }
                @if dispute.held != "0" { "; the held reward of " (tokens(&dispute.held)) " went back to the sponsor" }
                @if dispute.refunded != "0" {
                    "; the sponsor got " (tokens(&dispute.refunded)) " out of the attestor’s bond, the points stay with the contributor"
                }
                "."
            }
            "rejected" => {
                "The challenger’s bond of " (tokens(&dispute.bond))
                @if dispute.held == "0" { " went into the attestor’s bond." }
                @else { " and the held reward of " (tokens(&dispute.held)) " went to the payee." }
            }
            "lapsed" => {
                "The challenger has the bond back"
                @if dispute.held != "0" { ", the payee the held reward of " (tokens(&dispute.held)) }
                "."
            }
            _ => {
                "The challenger staked " (tokens(&dispute.bond))
                @if dispute.held != "0" { "; the reward of " (tokens(&dispute.held)) " waits for the end" }
                ". A ruling must come before " (time(&dispute.rule_before)) "."
            }
        }
    }
}

/// Disputes of a batch.
pub(super) fn dispute_table(disputes: &[DisputeView]) -> Markup {
    let rows = disputes.iter().map(|dispute| {
        vec![
            html! { a href={ "/v1/disputes/" (dispute.dispute_id) } { (dispute.dispute_id) } },
            html! { (dispute.index) },
            record_link(&dispute.data_id),
            html! { (ground(dispute)) },
            html! {
                (outcome(dispute))
                @if let Some(reason) = &dispute.reason { @if !reason.is_empty() { " – “" (reason) "”" } }
            },
            money(dispute),
            time(&dispute.opened_at),
        ]
    });
    let columns = ["Dispute", "Event", "Record", "Claim", "Outcome", "Money", "Opened"];
    table("Challenged verdicts, newest first", &columns, &[0, 1], rows.collect())
}

/// The evidence: a link only where a browser would follow it to a page.
pub(super) fn evidence(dispute: &DisputeView) -> Markup {
    let uri = &dispute.evidence_uri;
    html! {
        @if uri.starts_with("https://") || uri.starts_with("http://") {
            a href=(uri) rel="nofollow noopener noreferrer" { (uri) }
        } @else { (uri) }
        " " span class="soft" { "SHA-256 " (code(&dispute.evidence_hash)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::ProviderRef;

    fn dispute(state: &str, held: &str) -> DisputeView {
        let text = |text: &str| text.to_owned();
        DisputeView {
            dispute_id: text("1"),
            state: text(state),
            ground: text("duplicate"),
            provider: ProviderRef { address: text("0x1"), name: text("numo") },
            batch_number: 0,
            index: 1,
            data_id: text("2f1d6a0e-0000-5000-8000-000000000001"),
            verdict: Some(text("accepted")),
            challenger: text("0x2"),
            bond: text("3000000"),
            held: text(held),
            reward_state: None,
            payee: None,
            sponsor: None,
            refunded: text("0"),
            bounty: text("2000000"),
            evidence_hash: text("0x3"),
            evidence_uri: text("javascript:alert(1)"),
            opened_at: text("2026-11-21T08:00:00Z"),
            rule_before: text("2026-12-05T08:00:00Z"),
            block_number: 1,
            tx_hash: text("0x4"),
            reason: None,
            ended_at: None,
            ended_tx_hash: None,
        }
    }

    #[test]
    fn each_end_says_who_got_the_money() {
        let words = |state, held| money(&dispute(state, held)).into_string();
        assert!(words("open", "5000000").contains("5 tokens</data> waits for the end"));
        let upheld = words("upheld", "5000000");
        assert!(upheld.contains("2 tokens</data> out of the attestor") && upheld.contains("back to the sponsor"));
        assert!(words("rejected", "5000000").contains("went to the payee"));
        assert!(words("rejected", "0").contains("went into the attestor"));
        assert!(words("lapsed", "5000000").contains("the payee the held reward"));
        assert!(!words("lapsed", "0").contains("payee"));
    }

    #[test]
    fn evidence_is_a_link_only_to_a_page() {
        let mut dispute = dispute("open", "0");
        assert!(!evidence(&dispute).into_string().contains("href"));
        dispute.evidence_uri = "https://a.example/b".into();
        assert!(evidence(&dispute).into_string().contains(r#"href="https://a.example/b""#));
    }
}
