//! A contributor takes a consent back: provenance shows it, the version goes off sale, and no key is released any more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::signers::SignerSync;
use serde_json::{Value, json};
use tidemark::{
    consent::withdrawal_digest,
    contracts::{ConsentRegistry, IPRegistry},
    dataset::summarise,
    download::{Progress, download},
    event::EventKind,
};
use tidemark_tests::{
    Options, Stack,
    keys::{dev_signer, role},
    mined,
    story::{
        doors::{Doors, meta},
        finality, market,
        people::Contributor,
        samples::{Expected, repository_samples},
        world::World,
    },
};

async fn withdraw(stack: &Stack, world: &World, body: &Value) -> reqwest::Response {
    let url = format!("{}/v1/withdrawals", stack.relayer.as_ref().unwrap().url());
    let request = reqwest::Client::new().post(url).header("x-api-key", &world.api_key).json(body);
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_withdrawn_consent_ends_sale_and_decryption_and_the_next_version_leaves_the_record_out() -> anyhow::Result<()>
{
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let world = World::build(&stack, [3, 3, 3]).await?;
    let doors = Doors::new(&stack, &world)?;
    let group = Contributor::group(3);
    let samples: Vec<_> =
        repository_samples()?.into_iter().filter(|s| matches!(s.expected, Expected::Accepted)).collect();

    let mut records = Vec::new();
    let (mut consents, mut signed_consents) = (Vec::new(), Vec::new());
    for (person, sample) in group.iter().zip(&samples) {
        let meta = meta(&world, sample, person)?;
        let consent: tidemark::consent::SignedConsent = serde_json::from_value(meta["consent"].clone())?;
        consents.push(consent.id(&world.deployment.consent_domain()));
        signed_consents.push(consent);
        let answer: Value = doors.post_upload(&meta, sample.mime, std::fs::read(&sample.path)?).await?.json().await?;
        assert_eq!(answer["status"], "accepted", "{answer}");
        records.push(answer["data_id"].as_str().unwrap().parse::<tidemark::ids::DataId>()?);
    }
    let history = market::history(&stack)?;
    finality::anchored(&history, &world, &records.iter().map(|id| (*id, 2)).collect::<Vec<_>>()).await?;
    let first = market::register_dataset(&stack, &world, "withdrawal").await?;
    let offer = market::publish_offer(&stack, &world, first.ip_id).await?;
    let sale = market::buy(&stack, &world, offer, 1, market::LICENSE_PRICE).await?;
    let custodian = stack.custodian.as_ref().unwrap().url().to_owned();
    let buyer = dev_signer(role::BUYER)?;
    let quiet = Progress::new(|_, _, _| {});
    let folder = tempfile::tempdir()?;
    let got = download(&history, sale.licenseId, &buyer, &custodian, folder.path(), &quiet).await?;
    assert_eq!((got.files.len(), got.missing.len()), (3, 0), "all of it, while all consents stand");

    // somebody else's signature withdraws nothing
    let digest = withdrawal_digest(&world.deployment.consent_domain(), consents[0]);
    let other = group[1].key.sign_hash_sync(&digest)?;
    let answer =
        withdraw(&stack, &world, &json!({ "consent_id": consents[0], "signature": hex(&other.as_bytes()) })).await;
    assert_eq!(answer.status(), 422);
    let own = group[0].key.sign_hash_sync(&digest)?;
    let answer =
        withdraw(&stack, &world, &json!({ "consent_id": consents[0], "signature": hex(&own.as_bytes()) })).await;
    assert_eq!(answer.status(), 202, "{}", answer.text().await?);

    // the relayer carries it to the chain, and puts it into the record's provenance
    let registry = ConsentRegistry::new(world.deployment.consent_registry, stack.provider());
    let deadline = Instant::now() + Duration::from_secs(30);
    while registry.withdrawnAt(consents[0].0).call().await? == 0 {
        assert!(Instant::now() < deadline, "the withdrawal did not reach the chain");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    finality::anchored(&history, &world, &[(records[0], 3), (records[1], 2), (records[2], 2)]).await?;
    let events = history.record(records[0], Some(world.provider)).await?;
    assert_eq!(events.last().unwrap().event.kind, EventKind::ConsentWithdrawn);

    // decryption: the custodian refuses this record and still releases the others
    let mut got = download(&history, sale.licenseId, &buyer, &custodian, folder.path(), &quiet).await?;
    assert_eq!((got.files.len(), got.missing.len()), (2, 1));
    let (data_id, refused) = got.missing.remove(0);
    let refused = format!("{:#}", anyhow::Error::from(refused));
    assert!(refused.contains("consent-withdrawn") && data_id == records[0], "{refused}");

    // sale: anybody reports it, and the version is off sale
    let at = first.members.iter().position(|row| row.member.data_id == records[0]).unwrap();
    let proof = summarise(&first.members)?.tree.proof(at).unwrap();
    let anybody = stack.sender("anybody").await?;
    let ip = IPRegistry::new(world.deployment.ip_registry, &anybody);
    mined!("report", ip.reportWithdrawn(first.ip_id, 1, (&first.members[at].member).into(), proof));
    let refusal = format!("{:#}", market::buy(&stack, &world, offer, 1, market::LICENSE_PRICE).await.unwrap_err());
    assert!(refusal.contains("VersionHasWithdrawnMember"), "{refusal}");

    // the next version is without the record, and is for sale
    let second = market::register_dataset(&stack, &world, "withdrawal").await?;
    assert_eq!((second.version, second.members.len()), (2, 2));
    assert!(second.members.iter().all(|row| row.member.data_id != records[0]));
    let sale = market::buy(&stack, &world, offer, 2, market::LICENSE_PRICE).await?;
    let folder = tempfile::tempdir()?;
    let got = download(&history, sale.licenseId, &buyer, &custodian, folder.path(), &quiet).await?;
    assert_eq!((got.files.len(), got.missing.len()), (2, 0));

    // a consent that is withdrawn on chain only, past provider and relayer, counts the same
    let wallet = stack.sender_of(group[1].key.clone()).await?;
    let direct = ConsentRegistry::new(world.deployment.consent_registry, &wallet);
    mined!("withdraw directly", direct.withdraw((&signed_consents[1]).into()));
    let third = market::register_dataset(&stack, &world, "withdrawal").await?;
    assert_eq!(third.members.iter().map(|row| row.member.data_id).collect::<Vec<_>>(), [records[2]]);

    // a new upload under the withdrawn consent is refused
    let mut again = meta(&world, &samples[3], &group[0])?;
    let consent = again["consent"].clone();
    let digest =
        serde_json::from_value::<tidemark::consent::SignedConsent>(consent)?.id(&world.deployment.consent_domain());
    let signature = group[0].key.sign_hash_sync(&withdrawal_digest(&world.deployment.consent_domain(), digest))?;
    let provider = stack.sender("carrier").await?;
    let signed: tidemark::consent::SignedConsent = serde_json::from_value(again["consent"].take())?;
    let registry = ConsentRegistry::new(world.deployment.consent_registry, &provider);
    mined!("withdraw", registry.withdrawBySignature((&signed).into(), signature.as_bytes().into()));
    again["consent"] = json!(signed);
    let answer = doors.post_upload(&again, samples[3].mime, std::fs::read(&samples[3].path)?).await?;
    assert_eq!(answer.status(), 409);
    assert!(answer.text().await?.contains("consent-withdrawn"));
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    alloy::primitives::hex::encode_prefixed(bytes)
}
