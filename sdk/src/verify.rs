//! What a stranger checks against chain and content store, and nothing else.
//!
//! Each check has a name, a yes or no, and one sentence with what was found. A report is good if every check is.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;

use crate::{
    batch::Header,
    consent::purpose,
    contracts::{ConsentRegistry, IPRegistry, LicenseRegistry, ProvenanceLog},
    dataset::summarise,
    event::{Event, EventKind},
    history::{History, HistoryError, LoadedBatch, RecordEvent, rpc},
    ids::{ConsentId, DataId},
    merkle::root_from_proof,
    payload::Payload,
};

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// One thing that was read, for a person to see.
#[derive(Clone, Debug, Serialize)]
pub struct Fact {
    /// What.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was verified.
    pub subject: String,
    /// Whether every check holds.
    pub verified: bool,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// In the order in which they were read.
    pub facts: Vec<Fact>,
}

impl Report {
    pub(crate) fn new(subject: String) -> Self {
        Self { subject, verified: true, ..Self::default() }
    }

    pub(crate) fn check(&mut self, name: &'static str, ok: bool, detail: impl Into<String>) {
        self.verified &= ok;
        self.checks.push(Check { name, ok, detail: detail.into() });
    }

    pub(crate) fn fact(&mut self, name: impl Into<String>, value: impl ToString) {
        self.facts.push(Fact { name: name.into(), value: value.to_string() });
    }
}

/// Verifies a batch: manifest against header, header against chain, each event against the rules that bind it.
pub async fn batch(history: &History, provider: Address, number: u64) -> Result<Report, HistoryError> {
    let mut report = Report::new(format!("batch {number} of {provider}"));
    let anchored = history.anchored_one(provider, number).await?;
    describe_header(&mut report, &anchored.header);
    report.fact("transaction", anchored.place.transaction);
    report.fact("block", anchored.place.block);
    report.fact("final", anchored.place.is_final);
    let stored = ProvenanceLog::new(history.deployment.provenance_log, &history.provider)
        .rootOf(provider, number)
        .call()
        .await
        .map_err(rpc("rootOf"))?;
    report.check("root on chain", stored == anchored.header.root, format!("rootOf gives {stored}"));
    let loaded = history.load(anchored).await?;
    let difference = loaded.difference();
    report.check(
        "manifest matches header",
        difference.is_none(),
        difference.unwrap_or_else(|| "root, count, totals and debits were recomputed from it".into()),
    );
    check_rewards(&mut report, history, &loaded.manifest.events).await?;
    check_disclosures(&mut report, history, &loaded);
    let mut newest = HashMap::<DataId, &Event>::new();
    let mut broken = None;
    for event in &loaded.manifest.events {
        if let Some(previous) = newest.insert(event.data_id, event) {
            broken = broken.or(link_error(Some(previous), event));
        }
    }
    report.check("hash chains", broken.is_none(), broken.unwrap_or_else(|| "unbroken inside the batch".into()));
    Ok(report)
}

/// Verifies a record: every event's inclusion (also by the contract itself), its hash chain, its consent, its pay.
pub async fn data(history: &History, data_id: DataId, provider: Option<Address>) -> Result<Report, HistoryError> {
    let mut report = Report::new(format!("data {data_id}"));
    let events = history.record(data_id, provider).await?;
    let Some(last) = events.last() else {
        return Err(HistoryError::Unknown(format!("an event of {data_id}")));
    };
    let providers: BTreeSet<Address> = events.iter().map(|found| found.anchored.header.provider).collect();
    if providers.len() > 1 {
        // anybody may name any data id in a batch of their own; one provider's word must not spoil another's
        let names = providers.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
        return Err(HistoryError::Ambiguous { what: data_id.to_string(), names });
    }
    let log = ProvenanceLog::new(history.deployment.provenance_log, &history.provider);
    let mut previous: Option<&Event> = None;
    for found in &events {
        let RecordEvent { event, anchored, proof, payload } = found;
        let header = &anchored.header;
        report.fact(
            format!("event {}", event.sequence),
            format!(
                "{}{} at {} in batch {} (transaction {}, block {})",
                event.kind.name(),
                payload.as_ref().and_then(reason).map(|r| format!(": {r}")).unwrap_or_default(),
                event.occurred_at,
                header.number,
                anchored.place.transaction,
                anchored.place.block
            ),
        );
        report.check(
            "inclusion",
            root_from_proof(event.leaf(), proof) == header.root,
            format!("event {} against the root of batch {}", event.sequence, header.number),
        );
        let contained = log
            .contains(header.provider, header.number, event.into(), proof.clone())
            .call()
            .await
            .map_err(rpc("contains"))?;
        report.check("inclusion by the contract", contained, format!("contains() for event {}", event.sequence));
        if let Some(error) = link_error(previous, event) {
            report.check("hash chain", false, error);
        }
        previous = Some(event);
    }
    report.check("hash chain", events[0].event.sequence == 0, format!("{} events from sequence 0 on", events.len()));
    report.fact("content hash", last.event.content_hash.prefixed());
    report.fact("pseudonym", last.event.contributor);
    report.fact("final", events.iter().all(|found| found.anchored.place.is_final));
    check_consent(&mut report, history, &events).await?;
    for found in events.iter().filter(|found| found.event.reward > 0) {
        describe_reward(&mut report, history, found).await?;
    }
    let accepted = events.iter().any(|found| found.event.kind == EventKind::Accepted);
    let rewards: Vec<Event> = events.iter().map(|found| found.event.clone()).collect();
    check_rewards(&mut report, history, &rewards).await?;
    if accepted {
        describe_licences(&mut report, history, data_id).await?;
    }
    Ok(report)
}

/// Verifies a licence: its terms and state, the dataset version behind it, every member, and the split of its price.
pub async fn license(history: &History, license_id: U256) -> Result<Report, HistoryError> {
    let mut report = Report::new(format!("licence {license_id}"));
    let registry = LicenseRegistry::new(history.deployment.license_registry, &history.provider);
    let sold = history.sales(|filter| filter.topic1(B256::from(license_id))).await?.pop();
    let Some((sale, place)) = sold else {
        return Err(HistoryError::Unknown(format!("licence {license_id}")));
    };
    let view = registry.verify(license_id).call().await.map_err(rpc("verify"))?;
    report.fact("status", &view.status);
    report.fact("holder", view.holder);
    report.fact("dataset", view.ipId);
    report.fact("version", view.version);
    report.fact("purposes", purpose::names(view.terms.purposes).join(", "));
    report.fact("AI training", if view.terms.aiTraining { "allowed" } else { "not allowed" });
    report.fact("seats", view.terms.seats);
    report.fact("from", view.startsAt);
    report.fact("until", view.endsAt);
    report.fact("transaction", place.transaction);
    report.fact("final", place.is_final);
    report.check("active", view.active, format!("verify() answers {:?}", view.status));
    let parts = [sale.providerShare, sale.pointsShare, sale.walletShare];
    let sum = parts.iter().try_fold(0u128, |sum, part| sum.checked_add(*part));
    report.check(
        "price is split whole",
        sum == Some(sale.price),
        format!("{} = provider {} + points {} + wallets {}", sale.price, parts[0], parts[1], parts[2]),
    );
    let version = history
        .versions(Some(view.ipId))
        .await?
        .into_iter()
        .find(|version| version.version == view.version)
        .ok_or_else(|| HistoryError::Unknown(format!("version {} of dataset {}", view.version, view.ipId)))?;
    let members = history.members(&version).await?;
    let summary = summarise(&members);
    let same = summary.as_ref().is_ok_and(|summary| {
        summary.tree.root() == version.content.root
            && summary.total_weight == version.content.total_weight
            && summary.points_weight == version.content.points_weight
            && summary.purposes == version.content.purposes
            && members.len() == version.content.member_count as usize
    });
    report.check(
        "members match the version",
        same,
        match &summary {
            Ok(_) => {
                format!("{} members, root, weights and purposes recomputed from the members manifest", members.len())
            }
            Err(error) => error.to_string(),
        },
    );
    report.check(
        "purposes are consented to",
        view.terms.purposes & !version.content.purposes == 0,
        format!("every member's consent allows {}", purpose::names(version.content.purposes).join(", ")),
    );
    let provider = IPRegistry::new(history.deployment.ip_registry, &history.provider)
        .providerOf(view.ipId)
        .call()
        .await
        .map_err(rpc("providerOf"))?;
    check_members(&mut report, history, provider, &members).await?;
    Ok(report)
}

fn describe_header(report: &mut Report, header: &Header) {
    report.fact("provider", header.provider);
    report.fact("number", header.number);
    report.fact("root", header.root);
    report.fact("events", header.event_count);
    report.fact("points total", header.points_total);
    report.fact("wallet total", header.wallet_total);
    report.fact("manifest", header.manifest_cid);
}

fn reason(payload: &Payload) -> Option<String> {
    match payload {
        Payload::Rejected { verdict } => Some(format!("{} ({})", verdict.outcome.name(), verdict.detail)),
        Payload::MetadataUpdated { seq, .. } => Some(format!("state {seq}")),
        _ => None,
    }
}

/// What is wrong between an event and the one before it of the same record.
pub fn link_error(previous: Option<&Event>, event: &Event) -> Option<String> {
    let what = format!("{} event {}", event.data_id, event.sequence);
    let (sequence, leaf, kind) = match previous {
        None => (0, B256::ZERO, None),
        Some(previous) => (previous.sequence + 1, previous.leaf(), Some(previous.kind)),
    };
    if event.sequence != sequence {
        return Some(format!("{what}: expected sequence {sequence}"));
    }
    if event.previous != leaf {
        return Some(format!("{what}: previous is {}, the event before hashes to {leaf}", event.previous));
    }
    if !EventKind::may_follow(kind, event.kind) {
        return Some(format!("{what}: {} may not come here", event.kind.name()));
    }
    None
}

async fn check_rewards(report: &mut Report, history: &History, events: &[Event]) -> Result<(), HistoryError> {
    // without a task there is no reward
    let mut prices = HashMap::from([(0, Some(0))]);
    let mut wrong = None;
    let mut accepted = 0usize;
    for event in events.iter().filter(|event| event.kind == EventKind::Accepted) {
        accepted += 1;
        if let std::collections::hash_map::Entry::Vacant(entry) = prices.entry(event.task_id) {
            entry.insert(history.task_price(event.task_id).await?);
        }
        let price = prices.get(&event.task_id).copied().flatten();
        if price != Some(event.reward) {
            let published = price.map_or("none".into(), |price| price.to_string());
            wrong = wrong.or(Some(format!(
                "{}: reward {}, published price of task {}: {published}",
                event.data_id, event.reward, event.task_id
            )));
        }
    }
    report.check(
        "rewards equal published prices",
        wrong.is_none(),
        wrong.unwrap_or_else(|| format!("{accepted} accepted events")),
    );
    Ok(())
}

fn check_disclosures(report: &mut Report, history: &History, loaded: &LoadedBatch) {
    let domain = history.deployment.batch_domain();
    let mut wrong = None;
    let mut verdicts = 0usize;
    for event in &loaded.manifest.events {
        let verdict = match loaded.payload(event.index) {
            Some(Payload::Accepted { verdict }) if event.kind == EventKind::Accepted => verdict,
            Some(Payload::Rejected { verdict }) if event.kind == EventKind::Rejected => verdict,
            _ => continue,
        };
        verdicts += 1;
        if let Err(error) = verdict.check(&domain) {
            wrong = wrong.or(Some(format!("{}: {error}", event.data_id)));
        } else if verdict.data_id != event.data_id || verdict.content_hash != event.content_hash {
            wrong = wrong.or(Some(format!("{}: the verdict is of other data", event.data_id)));
        }
    }
    report.fact("disclosed payloads", format!("{} of {}", loaded.disclosures.len(), loaded.manifest.events.len()));
    report.check(
        "verdicts are signed",
        wrong.is_none(),
        wrong.unwrap_or_else(|| format!("{verdicts} disclosed verdicts carry a valid signature")),
    );
}

async fn withdrawn_at(history: &History, consent_id: ConsentId) -> Result<u64, HistoryError> {
    ConsentRegistry::new(history.deployment.consent_registry, &history.provider)
        .withdrawnAt(consent_id.0)
        .call()
        .await
        .map_err(rpc("withdrawnAt"))
}

async fn check_consent(report: &mut Report, history: &History, events: &[RecordEvent]) -> Result<(), HistoryError> {
    let consent_id = events[0].event.consent_id;
    let same = events.iter().all(|found| found.event.consent_id == consent_id);
    report.check("one consent", same, format!("every event names {consent_id}"));
    if consent_id.is_zero() {
        report.fact("consent", "none: metadata only");
        return Ok(());
    }
    let withdrawn = withdrawn_at(history, consent_id).await?;
    let state = match withdrawn {
        0 => format!("{consent_id} stands"),
        at => format!("{consent_id} was withdrawn at {at}"),
    };
    report.fact("consent", state);
    Ok(())
}

async fn describe_reward(report: &mut Report, history: &History, found: &RecordEvent) -> Result<(), HistoryError> {
    let event = &found.event;
    let value = if event.payee.is_zero() {
        format!("{} units in points to {}", event.reward, event.contributor)
    } else {
        let header = &found.anchored.header;
        let claimed = ProvenanceLog::new(history.deployment.provenance_log, &history.provider)
            .isClaimed(header.provider, header.number, event.index)
            .call()
            .await
            .map_err(rpc("isClaimed"))?;
        format!("{} units to {}, {}", event.reward, event.payee, if claimed { "claimed" } else { "not claimed yet" })
    };
    report.fact("reward", value);
    Ok(())
}

async fn describe_licences(report: &mut Report, history: &History, data_id: DataId) -> Result<(), HistoryError> {
    for version in history.versions(None).await? {
        let members = history.members(&version).await?;
        let Some(row) = members.iter().find(|row| row.member.data_id == data_id) else {
            continue;
        };
        report.fact(
            "member of",
            format!(
                "dataset {} version {}, weight {} of {}",
                version.ip_id, version.version, row.member.weight, version.content.total_weight
            ),
        );
        let sales = history
            .sales(|filter| filter.topic2(B256::from(version.ip_id)).topic3(B256::from(U256::from(version.version))))
            .await?;
        for (sale, place) in sales {
            report.fact(
                "licensed",
                format!(
                    "licence {} to {} for {} units (transaction {})",
                    sale.licenseId, sale.buyer, sale.price, place.transaction
                ),
            );
        }
    }
    Ok(())
}

async fn check_members(
    report: &mut Report,
    history: &History,
    provider: Address,
    members: &[crate::dataset::MemberRow],
) -> Result<(), HistoryError> {
    let mut batches = HashMap::<u64, LoadedBatch>::new();
    let mut wrong = None;
    let mut withdrawn = 0usize;
    for row in members {
        if let std::collections::hash_map::Entry::Vacant(entry) = batches.entry(row.batch_number) {
            let anchored = history.anchored_one(provider, row.batch_number).await?;
            let loaded = history.load(anchored).await?;
            if let Some(difference) = loaded.difference() {
                wrong = wrong.or(Some(format!("batch {}: {difference}", row.batch_number)));
            }
            entry.insert(loaded);
        }
        let event = batches.get(&row.batch_number).and_then(|b| b.manifest.events.get(row.event_index as usize));
        let agrees = event.is_some_and(|event| {
            event.kind == EventKind::Accepted
                && event.data_id == row.member.data_id
                && event.contributor == row.member.contributor
                && event.consent_id == row.member.consent_id
                && event.payee == row.member.payee
                && event.content_hash == row.content_hash
        });
        if !agrees {
            wrong = wrong.or(Some(format!("{} is not accepted where the manifest says", row.member.data_id)));
        }
        if withdrawn_at(history, row.member.consent_id).await? != 0 {
            withdrawn += 1;
        }
    }
    report.check(
        "members were accepted",
        wrong.is_none(),
        wrong.unwrap_or_else(|| format!("{} members in {} anchored batches", members.len(), batches.len())),
    );
    report.check("consents stand", withdrawn == 0, format!("{withdrawn} of {} were withdrawn", members.len()));
    Ok(())
}
