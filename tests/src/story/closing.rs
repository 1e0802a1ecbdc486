//! What the story claims in the end, each claim checked against chain, content store, partner or indexer.

use std::collections::{BTreeMap, BTreeSet};

use alloy::providers::Provider;
use anyhow::{Context, Result};
use tidemark::{
    contracts::{PointsTreasury, ProvenanceLog},
    event::EventKind,
    history::LoadedBatch,
    payload::Payload,
};

use super::{
    market::{CONTRIBUTOR_BPS, LICENSE_PRICE},
    money::{balance, won},
    pages,
    payout::Payout,
    run::{Told, events},
    samples::Kind,
    table::Table,
};
use crate::{
    keys::{dev_address, role},
    stack::{PROVIDER_NAME, Stack},
};

/// The whole table.
pub async fn table(stack: &Stack, told: &Told) -> Result<Table> {
    let mut table = Table::default();
    scene(&mut table, told);
    submissions(&mut table, told);
    batches(&mut table, stack, told).await?;
    points(&mut table, stack, told).await?;
    licence(&mut table, told);
    money(&mut table, stack, told).await?;
    delivery(&mut table, told);
    strangers(&mut table, told);
    explorer(&mut table, stack, told).await?;
    transactions(&mut table, told);
    Ok(table)
}

fn scene(table: &mut Table, told: &Told) {
    let world = &told.world;
    table.section("Sponsor and provider");
    table.fact("provider", format!("{PROVIDER_NAME} {}", world.provider));
    table.fact("points treasury", world.treasury.to_string());
    table.fact("policy", world.policy_hash.to_string());
    for task in &world.tasks {
        let value = format!("{} each, {} in escrow", won(task.price), won(task.budget));
        table.fact(&format!("task {} {}", task.id, task.kind.name()), value);
    }
}

fn submissions(table: &mut Table, told: &Told) {
    table.section("Submissions");
    let wallets = told.group.iter().filter(|contributor| contributor.has_wallet).count();
    table.fact("contributors", format!("{}, {wallets} of them with a wallet", told.group.len()));
    for kind in Kind::ALL {
        let of_kind = || told.uploads.iter().filter(|upload| upload.sample.kind == kind);
        let accepted = of_kind().filter(|upload| upload.is_accepted()).count();
        let value = format!("{accepted} accepted, {} rejected", of_kind().count() - accepted);
        table.fact(&format!("{} uploads", kind.name()), value);
    }
    let surprises: Vec<String> = told.uploads.iter().filter_map(super::doors::Uploaded::surprise).collect();
    table.claim("verdicts as expected", or(surprises.join("; "), "every file of the sample set"), surprises.is_empty());
    let reasons: BTreeMap<&str, &str> = rejections(told).collect();
    let in_provenance = rejections(told).all(|(reason, name)| reason_on_chain(told, name).as_deref() == Some(reason));
    let text: Vec<String> = reasons.iter().map(|(reason, name)| format!("{reason} ({name})")).collect();
    table.claim("reasons in provenance", or(text.join("\n"), "nothing was rejected"), in_provenance);
    let updated = told.kept.iter().filter(|(_, events)| *events > 1).count();
    table.fact("Trace records", format!("{} registered, {updated} updated", told.kept.len()));
}

/// Reason and file of each rejection.
fn rejections(told: &Told) -> impl Iterator<Item = (&str, &str)> {
    let rejected = told.uploads.iter().filter(|upload| !upload.is_accepted());
    rejected.map(|upload| (upload.answer.outcome.as_str(), upload.sample.name.as_str()))
}

/// The reason that the signed verdict in the batch's disclosures gives.
fn reason_on_chain(told: &Told, name: &str) -> Option<String> {
    let upload = told.uploads.iter().find(|upload| upload.sample.name == name)?;
    let of_batch = |batch: &LoadedBatch| {
        let is_ours = |kind, data_id| kind == EventKind::Rejected && data_id == upload.answer.data_id;
        let event = batch.manifest.events.iter().find(|event| is_ours(event.kind, event.data_id))?;
        match batch.payload(event.index)? {
            Payload::Rejected { verdict } => Some(verdict.outcome.name().to_owned()),
            _ => None,
        }
    };
    told.batches.iter().find_map(of_batch)
}

async fn batches(table: &mut Table, stack: &Stack, told: &Told) -> Result<()> {
    table.section("Batches, final on chain");
    for batch in &told.batches {
        let (header, place) = (&batch.anchored.header, &batch.anchored.place);
        let receipt = stack.provider().get_transaction_receipt(place.transaction).await;
        let receipt = receipt.context("failed to read a receipt")?.context("a batch without a receipt")?;
        let (points, wallets) = (won(header.points_total), won(header.wallet_total));
        let value = format!(
            "{} events, {points} in points, {wallets} for wallets, {} gas\nroot {}\nmanifest {}\ntransaction {}",
            header.event_count, receipt.gas_used, header.root, header.manifest_cid, place.transaction
        );
        let difference = batch.difference();
        let whole = difference.map_or(value.clone(), |difference| format!("{value}\n{difference}"));
        table.claim(&format!("batch {}", header.number), whole, batch.difference().is_none() && place.is_final);
    }
    let expected = 2 * told.uploads.len() + told.kept.iter().map(|(_, events)| events).sum::<usize>();
    let all = events(&told.batches);
    table.claim("events", format!("{all} of {expected}"), all == expected);
    Ok(())
}

async fn points(table: &mut Table, stack: &Stack, told: &Told) -> Result<()> {
    table.section("Points, one account a record");
    let in_points = told.uploads.iter().filter(|u| u.is_accepted() && !told.group[u.contributor].has_wallet);
    let earned: u128 = in_points.map(super::doors::Uploaded::reward).sum();
    let anchored: u128 = told.batches.iter().map(|batch| batch.anchored.header.points_total).sum();
    table.claim("credited at finality", format!("{} for accepted submissions", won(earned)), earned == anchored);
    let royalties: u128 = told.royalties.values().sum();
    let sum = format!("{} to {} accounts, largest remainder first", won(royalties), told.royalties.len());
    table.claim("royalties", sum, royalties == told.sold.pointsShare);
    let paid_out = told.payout.as_ref().map_or(0, |(_, units)| *units);
    if let Some((payout, _)) = &told.payout {
        points_to_cash(table, stack, payout);
    }
    let treasury = PointsTreasury::new(told.world.treasury, stack.provider());
    let backing = treasury.backing().call().await.context("failed to ask the treasury")?;
    let held = u128::try_from(backing).context("more than 128 bits behind points")?;
    let owed = earned + royalties - paid_out;
    table.claim("treasury backs points", format!("{} held, {} owed", won(held), won(owed)), held == owed);
    let partner = balance(stack.provider(), told.world.token, dev_address(role::PARTNER)?).await?;
    table.claim("partner received", won(partner), partner == paid_out);
    Ok(())
}

fn points_to_cash(table: &mut Table, stack: &Stack, payout: &Payout) {
    let granted = stack.partner.grants().into_iter().find(|grant| grant.key == payout.payout_id.to_string());
    let paid = granted.is_some_and(|grant| i64::try_from(grant.amount).is_ok_and(|amount| amount == payout.points));
    let note = payout.note.clone().unwrap_or_default();
    let redeemed = payout.transaction.map(|hash| format!("\nredeemed in {hash}")).unwrap_or_default();
    let value = format!("{} points, payout {} {}: {note}{redeemed}", payout.points, payout.payout_id, payout.state);
    table.claim("points to cash", value, paid && payout.state == "posted");
}

fn licence(table: &mut Table, told: &Told) {
    let (published, sold) = (&told.published, &told.sold);
    table.section("Dataset and licence");
    let accepted: BTreeSet<_> = told.uploads.iter().filter(|u| u.is_accepted()).map(|u| u.answer.data_id).collect();
    let members: BTreeSet<_> = published.members.iter().map(|row| row.member.data_id).collect();
    table.fact(
        "dataset",
        format!("{}\nversion {}, root {}", published.ip_id, published.version, published.content.root),
    );
    table.claim("members", format!("{}, all accepted uploads", members.len()), members == accepted);
    let buyer = format!("{} bought by {}", sold.licenseId, sold.buyer);
    table.fact("licence", buyer);
    let (provider, points, wallets) = (sold.providerShare, sold.pointsShare, sold.walletShare);
    let parts = format!("{} provider + {} points + {} wallets", won(provider), won(points), won(wallets));
    let to_members = LICENSE_PRICE * u128::from(CONTRIBUTOR_BPS) / 10_000;
    let adds_up = provider + points + wallets == sold.price && sold.price == LICENSE_PRICE;
    table.claim(&format!("price {}", won(sold.price)), parts, adds_up && points + wallets == to_members);
}

async fn money(table: &mut Table, stack: &Stack, told: &Told) -> Result<()> {
    table.section("Wallets");
    for claim in &told.claims {
        let held = balance(stack.provider(), told.world.token, claim.wallet).await?;
        let earned = format!("{} reward + {} royalty of {}", won(claim.reward), won(claim.royalty), claim.data_id);
        let value = format!("{}\n{earned}", claim.wallet);
        let holds = claim.reward > 0 && claim.royalty > 0 && held == claim.reward + claim.royalty;
        table.claim("claimed on chain", value, holds);
    }
    let with_wallets = told.uploads.iter().filter(|u| u.is_accepted() && told.group[u.contributor].has_wallet);
    let wallets: BTreeSet<usize> = with_wallets.map(|upload| upload.contributor).collect();
    let value = format!("{} of {} contributors with a wallet and an accepted file", told.claims.len(), wallets.len());
    table.claim("claimants", value, told.claims.len() == wallets.len().min(2));
    let log = ProvenanceLog::new(told.world.deployment.provenance_log, stack.provider());
    let mut escrow = 0u128;
    for task in &told.world.tasks {
        escrow += log.taskOf(task.id).call().await.context("failed to read a task")?.escrow;
    }
    let budget: u128 = told.world.tasks.iter().map(|task| task.budget).sum();
    let spent: u128 = told.uploads.iter().map(super::doors::Uploaded::reward).sum();
    let value = format!("{} funded = {} earned + {} left", won(budget), won(spent), won(escrow));
    table.claim("escrow", value, budget == spent + escrow);
    Ok(())
}

fn delivery(table: &mut Table, told: &Told) {
    table.section("Delivery");
    let expected: BTreeMap<_, _> =
        told.uploads.iter().filter(|u| u.is_accepted()).map(|u| (u.answer.data_id, u.content_hash)).collect();
    let right = expected.iter().filter(|(data_id, hash)| told.downloaded.get(*data_id) == Some(*hash)).count();
    let value = format!("{right} of {} files, each with the content hash of what was submitted", expected.len());
    table.claim("bought and decrypted", value, told.downloaded == expected);
}

fn strangers(table: &mut Table, told: &Told) {
    table.section("Strangers, with chain and content store only");
    for report in &told.reports {
        let good = format!("{}, {} checks", report.subject, report.checks.len());
        table.claim("verified", report.failure().unwrap_or(good), report.verified);
    }
    let rows: i64 = told.checksums.values().map(|(rows, _)| rows).sum();
    let filled = told.checksums.values().filter(|(rows, _)| *rows > 0).count();
    let value = format!("{rows} rows in {} tables ({filled} not empty), all checksums equal", told.checksums.len());
    table.claim("second indexer", value, rows > 0);
}

async fn explorer(table: &mut Table, stack: &Stack, told: &Told) -> Result<()> {
    table.section("Explorer");
    for page in pages::see(stack, told).await? {
        table.claim(page.what, page.url, page.is_right);
    }
    Ok(())
}

fn transactions(table: &mut Table, told: &Told) {
    table.section("Transactions");
    for sent in told.world.transactions.all() {
        table.fact(&sent.what, format!("{:>9} gas  {}", sent.gas, sent.hash));
    }
}

fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() { otherwise.into() } else { text }
}
