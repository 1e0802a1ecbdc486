//! The whole story, told on a running stack: what the demo does.

use std::collections::BTreeMap;

use alloy::primitives::{B256, U256};
use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use tidemark::{
    contracts::LicenseRegistry::LicenseSold,
    dataset::split_points,
    history::LoadedBatch,
    ids::{ContentHash, DataId},
    publish::Published,
};

use super::{
    doors::{Doors, Uploaded, kept_metadata, metadata_update, registration},
    finality,
    market::{self, Claimed},
    payout::{self, Payout},
    people::Contributor,
    samples::{Kind, Sample},
    strangers::{self, Checksums, Report},
    world::World,
};
use crate::{
    progress::Progress,
    services::Service,
    stack::{PROVIDER_NAME, Stack},
};

const CONTRIBUTORS: usize = 12;
/// Records that come by the Trace door, their files kept by the provider.
const KEPT_RECORDS: u32 = 6;
/// So many of them are updated.
const KEPT_UPDATED: u32 = 3;
const DATASET_NAME: &str = "korean-everyday-media";

/// What happened; the closing table is made of it.
#[derive(Debug)]
pub struct Told {
    /// Chain side of the beginning.
    pub world: World,
    /// The contributors.
    pub group: Vec<Contributor>,
    /// By the upload door.
    pub uploads: Vec<Uploaded>,
    /// By the Trace door: records with their number of events.
    pub kept: Vec<(DataId, usize)>,
    /// All batches, final.
    pub batches: Vec<LoadedBatch>,
    /// The dataset.
    pub published: Published,
    /// The licence.
    pub sold: LicenseSold,
    /// Points that the sale brought, by account.
    pub royalties: BTreeMap<B256, u128>,
    /// What wallets took.
    pub claims: Vec<Claimed>,
    /// Points to cash, with its units; none where everybody was paid to a wallet.
    pub payout: Option<(Payout, u128)>,
    /// What the buyer got, hashed from the files.
    pub downloaded: BTreeMap<DataId, ContentHash>,
    /// What strangers found.
    pub reports: Vec<Report>,
    /// Rows and checksums that two indexers agree on.
    pub checksums: Checksums,
    /// The second indexer, still running.
    pub second: Service,
}

/// Tells it from the sponsor's budget to the second indexer.
pub async fn tell(stack: &Stack, samples: &[Sample], progress: &Progress) -> Result<Told> {
    let step = progress.step("tasks and provider");
    let world = World::build(stack, budgets(samples)).await.context("failed to set the scene")?;
    step.done("registered, 3 tasks funded by permit");
    let group = Contributor::group(CONTRIBUTORS);
    let doors = Doors::new(stack, &world)?;
    let (uploads, kept) =
        tokio::try_join!(submit(&doors, &world, samples, &group, progress), keep(&doors, &world, progress))?;
    something_accepted(&uploads)?;

    let history = market::history(stack)?;
    let step = progress.step("batches to finality");
    let expected: Vec<_> = uploads.iter().map(|u| (u.answer.data_id, 2)).chain(kept.iter().copied()).collect();
    let batches = finality::anchored(&history, &world, &expected).await?;
    step.done(&format!("{} events in {} batches", events(&batches), batches.len()));
    let earned = earned(&uploads, &group);
    let step = progress.step("points");
    finality::credited(stack, &earned).await?;
    step.done(&format!("{} accounts credited", earned.len()));

    let step = progress.step("dataset and licence");
    let published = market::register_dataset(stack, &world, DATASET_NAME).await?;
    let offer = market::publish_offer(stack, &world, published.ip_id).await?;
    let sold = market::buy(stack, &world, offer, published.version, market::LICENSE_PRICE).await?;
    step.done(&format!("{} members, licence {}", published.members.len(), sold.licenseId));

    let royalties = royalties(&published, sold.pointsShare)?;
    let (claims, payout, downloaded) = tokio::try_join!(
        claim(stack, &world, &group, &uploads, &batches, &published, progress),
        pay_out(stack, &uploads, &group, progress),
        download(stack, &published, sold.licenseId, progress),
    )?;
    let step = progress.step("royalties at finality");
    finality::credited(stack, &after_everything(&earned, &royalties, &payout_entries(&uploads, &group))).await?;
    step.done("every points account as computed here");

    let reports = verify(stack, &uploads, &kept, &batches, sold.licenseId, progress).await?;
    let step = progress.step("second indexer");
    let (second, checksums) = strangers::second_indexer(stack, "indexer").await?;
    step.done(&format!("{} tables equal", checksums.len()));
    Ok(Told {
        world,
        group,
        uploads,
        kept,
        batches,
        published,
        sold,
        royalties,
        claims,
        payout,
        downloaded,
        reports,
        checksums,
        second,
    })
}

/// Room for every file of a kind, and for one more.
fn budgets(samples: &[Sample]) -> [u128; 3] {
    Kind::ALL.map(|kind| samples.iter().filter(|sample| sample.kind == kind).count() as u128 + 1)
}

/// Files of one kind one after another, since a duplicate comes after its original; the kinds at the same time.
async fn submit(
    doors: &Doors,
    world: &World,
    samples: &[Sample],
    group: &[Contributor],
    progress: &Progress,
) -> Result<Vec<Uploaded>> {
    let bar = progress.bar("uploads", samples.len() as u64);
    let of_kind = async |kind: Kind| {
        let mut uploads = Vec::new();
        for (at, sample) in samples.iter().enumerate().filter(|(_, sample)| sample.kind == kind) {
            uploads.push((at, doors.upload(world, sample, at % group.len(), group).await?));
            bar.advance();
            bar.say(sample.name.as_str());
        }
        Ok::<_, anyhow::Error>(uploads)
    };
    let [voice, photo, video] = Kind::ALL;
    let (voice, photo, video) = tokio::try_join!(of_kind(voice), of_kind(photo), of_kind(video))?;
    let mut all: Vec<_> = [voice, photo, video].into_iter().flatten().collect();
    all.sort_by_key(|(at, _)| *at);
    let uploads: Vec<_> = all.into_iter().map(|(_, upload)| upload).collect();
    let accepted = uploads.iter().filter(|upload| upload.is_accepted()).count();
    bar.done(&format!("{accepted} accepted, {} rejected", uploads.len() - accepted));
    Ok(uploads)
}

/// Records by the Trace door; the first one's update comes before its registration and is kept until then.
async fn keep(doors: &Doors, world: &World, progress: &Progress) -> Result<Vec<(DataId, usize)>> {
    let step = progress.step("Trace records");
    let _scene_is_set = world.provider;
    let mut records = Vec::new();
    for number in 0..KEPT_RECORDS {
        let name = format!("kept/clip-{number:03}.mp4");
        let before = kept_metadata(&name, ContentHash::of(name.as_bytes()), 0);
        let after = kept_metadata(&name, ContentHash::of(name.as_bytes()), 1);
        let data_id = DataId::new(PROVIDER_NAME, &name).context("a malformed record id")?;
        let update = metadata_update(data_id, 1, &before, &after)?;
        records.push((data_id, registration(&name, &before)?, update));
    }
    let early: Vec<Value> = records.iter().take(1).map(|(_, _, update)| update.clone()).collect();
    doors.update("demo-updates-0", &early).await?;
    let registrations: Vec<Value> = records.iter().map(|(_, registration, _)| registration.clone()).collect();
    doors.register("demo-records-0", &registrations).await?;
    let updated = KEPT_UPDATED as usize;
    let later: Vec<Value> = records.iter().take(updated).skip(1).map(|(_, _, update)| update.clone()).collect();
    doors.update("demo-updates-1", &later).await?;
    step.done(&format!("{KEPT_RECORDS} registered, {KEPT_UPDATED} updated, one before its registration"));
    let events = |at: usize| if at < updated { 2 } else { 1 };
    Ok(records.into_iter().enumerate().map(|(at, (data_id, _, _))| (data_id, events(at))).collect())
}

/// A dataset needs a member.
fn something_accepted(uploads: &[Uploaded]) -> Result<()> {
    if uploads.iter().any(Uploaded::is_accepted) {
        return Ok(());
    }
    let reasons: Vec<String> =
        uploads.iter().map(|upload| format!("{}: {}", upload.sample.name, upload.answer.detail)).collect();
    bail!("none of the files was accepted, so there is nothing to license:\n  {}", reasons.join("\n  "))
}

/// Events in all batches.
pub fn events(batches: &[LoadedBatch]) -> usize {
    batches.iter().map(|batch| batch.manifest.events.len()).sum()
}

/// Points accounts with what their one record earned.
fn earned(uploads: &[Uploaded], group: &[Contributor]) -> Vec<(B256, u128)> {
    let in_points = |upload: &&Uploaded| upload.is_accepted() && !group[upload.contributor].has_wallet;
    uploads.iter().filter(in_points).map(|upload| (upload.answer.contributor, upload.reward())).collect()
}

/// The points share of a sale by account, computed here from the members that anybody can read.
fn royalties(published: &Published, points_share: u128) -> Result<BTreeMap<B256, u128>> {
    let members: Vec<_> =
        published.members.iter().map(|row| &row.member).filter(|member| member.payee.is_zero()).collect();
    let weights: Vec<u128> = members.iter().map(|member| member.weight).collect();
    if members.is_empty() && points_share == 0 {
        return Ok(BTreeMap::new());
    }
    let parts = split_points(points_share, &weights).context("the points share can't be split")?;
    Ok(members.iter().map(|member| member.contributor).zip(parts).collect())
}

/// Two contributors with wallets claim what one of their records earned.
async fn claim(
    stack: &Stack,
    world: &World,
    group: &[Contributor],
    uploads: &[Uploaded],
    batches: &[LoadedBatch],
    published: &Published,
    progress: &Progress,
) -> Result<Vec<Claimed>> {
    let step = progress.step("wallet claims");
    let first_of = |at: usize| uploads.iter().find(|upload| upload.contributor == at && upload.is_accepted());
    let with_wallets = group.iter().enumerate().filter(|(_, contributor)| contributor.has_wallet);
    let claimants = with_wallets.filter_map(|(at, contributor)| Some((contributor, first_of(at)?))).take(2);
    let claims = claimants.map(|(contributor, upload)| {
        market::claim(stack, world, contributor, batches, published, upload.answer.data_id)
    });
    let claims: Vec<Claimed> = futures::future::try_join_all(claims).await?;
    step.done(&format!("{} contributors claimed reward and royalty", claims.len()));
    Ok(claims)
}

/// All records of the first contributor who is paid in points: account and reward.
fn payout_entries(uploads: &[Uploaded], group: &[Contributor]) -> Vec<(B256, u128)> {
    let is_paid_in_points = |upload: &&Uploaded| upload.is_accepted() && !group[upload.contributor].has_wallet;
    let Some(first) = uploads.iter().find(is_paid_in_points) else { return Vec::new() };
    let theirs = uploads.iter().filter(is_paid_in_points).filter(|upload| upload.contributor == first.contributor);
    theirs.map(|upload| (upload.answer.contributor, upload.reward())).collect()
}

async fn pay_out(
    stack: &Stack,
    uploads: &[Uploaded],
    group: &[Contributor],
    progress: &Progress,
) -> Result<Option<(Payout, u128)>> {
    let step = progress.step("payout");
    let entries = payout_entries(uploads, group);
    if entries.is_empty() {
        step.done("nobody earned points");
        return Ok(None);
    }
    let units = entries.iter().map(|(_, amount)| amount).sum();
    let asked = payout::request(stack, "toss-user-demo", &entries).await?;
    step.say("paid by the partner, redeemed on chain, posted at finality");
    let payout = payout::settled(stack, asked.payout_id).await?;
    step.done(&format!("{} points settled", payout.points));
    Ok(Some((payout, units)))
}

async fn download(
    stack: &Stack,
    published: &Published,
    license: U256,
    progress: &Progress,
) -> Result<BTreeMap<DataId, ContentHash>> {
    let step = progress.step("download");
    let files = strangers::download(stack, license, &stack.folder.path().join("download")).await?;
    step.done(&format!("{} of {} files through the custodian", files.len(), published.members.len()));
    Ok(files)
}

/// What every points account must hold in the end.
fn after_everything(
    earned: &[(B256, u128)],
    royalties: &BTreeMap<B256, u128>,
    paid_out: &[(B256, u128)],
) -> Vec<(B256, u128)> {
    let paid: BTreeMap<B256, u128> = paid_out.iter().copied().collect();
    let of = |map: &BTreeMap<B256, u128>, account: &B256| map.get(account).copied().unwrap_or_default();
    let left = |(account, reward): &(B256, u128)| (*account, reward + of(royalties, account) - of(&paid, account));
    earned.iter().map(left).collect()
}

/// A stranger looks at one record of each fate, every batch and the licence.
async fn verify(
    stack: &Stack,
    uploads: &[Uploaded],
    kept: &[(DataId, usize)],
    batches: &[LoadedBatch],
    license: U256,
    progress: &Progress,
) -> Result<Vec<Report>> {
    let step = progress.step("strangers verify");
    let accepted = uploads.iter().find(|upload| upload.is_accepted());
    let rejected = uploads.iter().find(|upload| !upload.is_accepted());
    let records: Vec<DataId> = [accepted, rejected].into_iter().flatten().map(|upload| upload.answer.data_id).collect();
    let records = records.into_iter().chain(kept.first().map(|(data_id, _)| *data_id));
    let mut reports = vec![strangers::verify_license(stack, license).await?];
    let of_records: Vec<Report> =
        futures::stream::iter(records.map(|id| strangers::verify_data(stack, id))).buffered(2).try_collect().await?;
    let numbers = batches.iter().map(|batch| batch.anchored.header.number);
    let of_batches: Vec<Report> =
        futures::stream::iter(numbers.map(|n| strangers::verify_batch(stack, n))).buffered(2).try_collect().await?;
    reports.extend(of_records.into_iter().chain(of_batches));
    step.done(&format!("{} reports by tidemark verify", reports.len()));
    Ok(reports)
}
