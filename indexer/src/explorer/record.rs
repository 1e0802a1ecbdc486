//! `/data/{data_id}`: what happened to one piece of data, in words, in order.

use axum::extract::State;
use maud::{Markup, html};
use tidemark::{consent::purpose, ids::DataId};

use super::{
    Failure, Path, dispute,
    format::{Unit, amount, amount_text, count, group, reason, time},
    layout::{Page, badge, batch_link, code, facts, provider_link, verify},
    open,
};
use crate::{
    api::App,
    problem::Problem,
    read::{self, AccountView, At, DisputeView, EventView, Period, RecordView, TransferView, page::Page as Rows},
};

/// Entries of the account that are shown.
const TRANSFERS: u32 = 200;
const ZERO_HASH: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";

/// One thing that happened.
struct Entry {
    /// RFC 3339, of its block: sorts as text.
    time: String,
    title: String,
    detail: Markup,
    tx_hash: String,
    is_final: bool,
}

pub(super) async fn page(State(app): State<App>, Path(data_id): Path<String>) -> Result<Page, Failure> {
    let id: DataId = data_id.parse().map_err(|_| Problem::invalid("data_id", "a UUID", &data_id))?;
    let (mut snapshot, at) = open(&app).await?;
    let record = read::record(&mut snapshot, id).await?.ok_or_else(|| unknown(id, &at))?;
    let provider = record.provider.address.parse().ok();
    let account = match record.contributor.parse() {
        Ok(key) => {
            read::account(&mut snapshot, provider, key, Period::default(), &Rows { limit: TRANSFERS, after: None })
                .await?
        }
        Err(_) => None,
    };
    Ok(Page::new(format!("Record {id}"), at, body(&record, account.as_ref())))
}

fn unknown(id: DataId, at: &At) -> Failure {
    let waiting = match at.waiting_files {
        0 => String::new(),
        files => format!(
            " It may be in one of {}.",
            count(files, "file that has not arrived", "files that have not arrived")
        ),
    };
    Failure::unknown(
        "data_id",
        format!("No event of the record {id} is known up to block {}.{waiting}", at.block_number),
    )
}

fn body(record: &RecordView, account: Option<&AccountView>) -> Markup {
    html! {
        p class="lead" { (badge(&record.status)) " " (summary(record)) }
        (overview(record, account))
        section {
            h2 { "What happened" }
            ol class="timeline" { @for entry in timeline(record, account) { (entry.markup()) } }
        }
        section { h2 { "Consent" } (consent(record)) }
        section { h2 { "Who may use it" } (uses(record)) }
        @if let Some(metadata) = &record.metadata {
            section {
                h2 { "Public metadata" }
                pre tabindex="0" { (serde_json::to_string_pretty(metadata).unwrap_or_default()) }
            }
        }
        section {
            h2 { "Proofs" }
            p {
                a href={ "/v1/records/" (record.data_id) "/proofs" } download={ (record.data_id) "-proofs.json" } {
                    "Download the inclusion proofs (JSON)"
                }
                ": each event as a leaf with its path to the anchored root, as OpenZeppelin’s StandardMerkleTree takes them."
            }
        }
        (verify(&format!("tidemark verify data {} --provider {}", record.data_id, record.provider.name)))
    }
}

/// The record's state in a sentence.
fn summary(record: &RecordView) -> Markup {
    match record.status.as_str() {
        "mined" => html! { "Anchored on chain, waiting for finality: until then a reorganisation may still undo it." },
        "registered" => {
            html! { "Registered: its origin is on record. No verdict was given, so nothing was paid for it." }
        }
        "accepted" => html! {
            "Accepted by the quality gate; worth " (amount(&record.reward, Unit::of(record.payee.as_ref()))) "."
            (disputed(record))
        },
        "rejected" => html! {
            "Rejected by the quality gate: " (why(record)) "."
            (disputed(record))
        },
        "withdrawn" => html! { "The contributor has taken the consent back; it goes into no new dataset version." },
        "erased" => {
            html! { "Its key and its salts were destroyed: nobody can decrypt it or read its payload any more." }
        }
        _ => html! {},
    }
}

/// What a dispute makes of the verdict.
fn disputed(record: &RecordView) -> &'static str {
    match record.disputes.first().map(|dispute| dispute.state.as_str()) {
        Some("open") => " The verdict is disputed.",
        Some("upheld") => " A dispute found the verdict wrong.",
        _ => "",
    }
}

fn why(record: &RecordView) -> String {
    record.reason.as_deref().map_or_else(|| "the reason is not disclosed".into(), reason)
}

fn overview(record: &RecordView, account: Option<&AccountView>) -> Markup {
    let mut rows = vec![("Provider", provider_link(&record.provider))];
    if let Some(id) = &record.source_record_id {
        let proof = if record.proven { "; it gives this data id" } else { "; it does not give this data id" };
        rows.push(("Provider’s own id", html! { (id) span class="soft" { (proof) } }));
    }
    rows.push(("Content hash (SHA-256)", code(&record.content_hash)));
    if let Some(size) = &record.size_bytes {
        rows.push(("Size", html! { (group(size)) " bytes" }));
    }
    if record.task_id != 0 {
        rows.push(("Task", html! { (record.task_id) }));
    }
    rows.push((
        "Contributor",
        html! { (code(&record.contributor)) " " span class="soft" { "a pseudonym for this record alone" } },
    ));
    rows.push((
        "Paid",
        match &record.payee {
            _ if record.reward == "0" => html! { "nothing: a reward comes with acceptance" },
            Some(payee) => html! {
                "on chain to " (code(payee))
                @if let Some(state) = &record.reward_state { ": " (dispute::reward_words(state)) }
            },
            None => html! { "in points by the provider" },
        },
    ));
    if let (None, Some(account)) = (&record.payee, account)
        && account.balance.provider.is_some()
    {
        rows.push((
            "Points account",
            html! {
                strong { (amount(&account.balance.balance, Unit::Points)) } " now; "
                (amount(&account.balance.credited, Unit::Points)) " ever credited, "
                (amount(&account.balance.debited, Unit::Points)) " paid out"
            },
        ));
    }
    if let Some(bits) = record.purposes.filter(|_| record.consent_id != ZERO_HASH) {
        rows.push(("The consent allows to", html! { (super::license::purposes(&purpose::names(bits))) }));
    }
    if let Some(cid) = &record.ciphertext_cid {
        rows.push(("Encrypted file", code(cid)));
    }
    if let Some(ip_id) = &record.contribution_ip_id {
        rows.push(("IP asset of its own", code(ip_id)));
    }
    facts(rows)
}

fn consent(record: &RecordView) -> Markup {
    if record.consent_id == ZERO_HASH {
        return html! { p { "It was registered without a consent: its provenance is kept, but it is never paid for or sold." } };
    }
    let by_event = record.events.iter().find(|event| event.kind == "consent_withdrawn");
    html! {
        p {
            @if let Some(withdrawal) = &record.consent_withdrawn {
                strong class="bad" { "Withdrawn" } " on chain, " (time(&withdrawal.block_time)) ", by " (code(&withdrawal.by)) "."
            } @else if let Some(event) = by_event {
                strong class="bad" { "Withdrawn" } " through the provider, " (time(&event.occurred_at)) "."
            } @else {
                strong class="good" { "Stands." } " Nobody has withdrawn it up to this block."
            }
        }
        (facts(vec![("Consent id", code(&record.consent_id))]))
    }
}

fn uses(record: &RecordView) -> Markup {
    if record.datasets.is_empty() {
        return html! { p { "Nobody yet: it is in no dataset version, so no licence covers it." } };
    }
    html! {
        ul {
            @for part in &record.datasets {
                li {
                    a href={ "/datasets/" (part.ip_id) "?version=" (part.version) } { (part.name) ", version " (part.version) }
                    @if part.license_ids.is_empty() { ": no licence sold" } @else {
                        ": " (if part.license_ids.len() == 1 { "licence " } else { "licences " })
                        @for (at, id) in part.license_ids.iter().enumerate() {
                            @if at > 0 { ", " }
                            a href={ "/licenses/" (id) } { (id) }
                        }
                    }
                }
            }
        }
    }
}

/// Everything with a transaction, in the order of the chain.
fn timeline(record: &RecordView, account: Option<&AccountView>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = record.events.iter().map(|event| of_event(record, event)).collect();
    let redeemed = account.into_iter().flat_map(|account| account.transfers.iter().rev());
    let redeemed = redeemed.filter(|transfer| transfer.cause == "redeem");
    entries.extend(record.points.iter().chain(redeemed).map(of_transfer));
    entries.extend(record.claims.iter().map(|claim| Entry {
        time: claim.block_time.clone(),
        title: format!("{} claimed on chain", amount_text(&claim.amount, Unit::Tokens)),
        detail: html! { "The reward went to " (code(&claim.payee)) "." },
        tx_hash: claim.tx_hash.clone(),
        is_final: true,
    }));
    entries.extend(record.royalty_claims.iter().map(|claim| Entry {
        time: claim.block_time.clone(),
        title: format!("{} of royalties claimed on chain", amount_text(&claim.amount, Unit::Tokens)),
        detail: html! {
            "From " a href={ "/datasets/" (claim.ip_id) } { "the dataset" } ", version " (claim.version) ", to "
            (code(&claim.payee)) "."
        },
        tx_hash: claim.tx_hash.clone(),
        is_final: true,
    }));
    entries.extend(record.disputes.iter().flat_map(of_dispute));
    if let Some(withdrawal) = &record.consent_withdrawn {
        entries.push(Entry {
            time: withdrawal.block_time.clone(),
            title: "Consent withdrawn on chain".into(),
            detail: html! { "By " (code(&withdrawal.by)) "." },
            tx_hash: withdrawal.tx_hash.clone(),
            is_final: true,
        });
    }
    // stable: what one block holds stays in the order above
    entries.sort_by(|a, b| a.time.cmp(&b.time));
    entries
}

fn of_event(record: &RecordView, event: &EventView) -> Entry {
    let reward = amount_text(&event.reward, Unit::of(event.payee.as_ref()));
    let (title, what) = match event.kind.as_str() {
        "registered" => ("Registered".to_owned(), html! { "The provider put the data’s hash and origin on record." }),
        "accepted" => (
            format!("Accepted, for {reward}"),
            match &event.payee {
                Some(payee) => html! {
                    "The quality gate passed it. The reward is for " (code(payee)) ", on chain once the batch’s challenge window "
                    "is over."
                },
                None => html! { "The quality gate passed it. The provider owes the reward in points." },
            },
        ),
        "rejected" => (
            format!("Rejected: {}", why(record)),
            html! { @if let Some(detail) = &record.reason_detail { "The gate says: “" (detail) "”." } },
        ),
        "metadata_updated" => ("Metadata updated".to_owned(), html! { "The public metadata has a new full state." }),
        "consent_withdrawn" => ("Consent withdrawn".to_owned(), html! { "The contributor took the consent back." }),
        "erased" => ("Erased".to_owned(), html! { "Its key and its salts were destroyed." }),
        other => (other.to_owned(), html! {}),
    };
    let detail = html! {
        (what) " It happened " (time(&event.occurred_at)) " and is event " (event.index) " of batch "
        (batch_link(&record.provider, event.batch_number)) "."
        @if let Some(fault) = &event.fault { " " strong class="bad" { "Its disclosure is wrong: " (fault) } }
    };
    Entry {
        time: event.block_time.clone(),
        title,
        detail,
        tx_hash: event.tx_hash.clone(),
        is_final: event.state == "final",
    }
}

fn of_dispute(dispute: &DisputeView) -> Vec<Entry> {
    let opened = Entry {
        time: dispute.opened_at.clone(),
        title: "The verdict was challenged".into(),
        detail: html! {
            (code(&dispute.challenger)) " claims that " (dispute::ground(dispute)) ", and staked "
            (amount(&dispute.bond, Unit::Tokens)) ". Evidence: " (dispute::evidence(dispute)) ". It is "
            a href={ "/v1/disputes/" (dispute.dispute_id) } { "dispute " (dispute.dispute_id) }
            @if dispute.state == "open" { ". " (dispute::money(dispute)) } @else { "." }
        },
        tx_hash: dispute.tx_hash.clone(),
        is_final: true,
    };
    let ended = dispute.ended_at.as_ref().zip(dispute.ended_tx_hash.as_ref()).map(|(time, tx_hash)| Entry {
        time: time.clone(),
        title: format!("Challenge {}", dispute::outcome(dispute)),
        detail: html! {
            @if let Some(reason) = &dispute.reason { @if !reason.is_empty() { "The arbiter says: “" (reason) "”. " } }
            (dispute::money(dispute))
        },
        tx_hash: tx_hash.clone(),
        is_final: true,
    });
    std::iter::once(opened).chain(ended).collect()
}

fn of_transfer(transfer: &TransferView) -> Entry {
    let points = amount_text(&transfer.amount, Unit::Points);
    let (title, detail) = match transfer.cause.as_str() {
        "reward" => {
            (format!("{points} credited"), html! { "The reward is in the points account, posted at finality." })
        }
        "royalty" => {
            let license = transfer.id.split('/').nth(1).unwrap_or_default();
            let from =
                html! { "Its share of the sale of " a href={ "/licenses/" (license) } { "licence " (license) } "." };
            (format!("{points} of royalties credited"), from)
        }
        _ => (format!("{points} paid out"), html! { "Turned into money; the treasury let go of as many tokens." }),
    };
    Entry { time: transfer.block_time.clone(), title, detail, tx_hash: transfer.tx_hash.clone(), is_final: true }
}

impl Entry {
    fn markup(&self) -> Markup {
        html! {
            li {
                h3 { (self.title) @if !self.is_final { " " (badge("mined")) } }
                p { "On chain " (time(&self.time)) }
                p { (self.detail) }
                p class="soft" { "Transaction " (code(&self.tx_hash)) }
            }
        }
    }
}
