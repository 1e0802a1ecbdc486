//! The read API for buyers, on the real stack: the catalogue, who holds what, what each member got of a sale to the unit, and
//! whether a licence may be used, as the custodian decides it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use alloy::{
    primitives::{Address, U256},
    signers::SignerSync,
};
use serde_json::{Value, json};
use tidemark::{
    consent::{SignedConsent, withdrawal_digest},
    contracts::{ConsentRegistry, LicenseRegistry},
    dataset::split_points,
    ids::DataId,
};
use tidemark_tests::{
    Options, Stack,
    keys::{dev_address, dev_signer, role},
    mined,
    story::{
        doors::{Doors, meta},
        finality,
        market::{self, LICENSE_PRICE},
        people::Contributor,
        samples::{Expected, repository_samples},
        world::World,
    },
};

/// All rows of a paged list, two at a time.
async fn all(stack: &Stack, path: &str, list: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let (status, body) =
            stack.indexer.as_ref().unwrap().get(&format!("{path}{sign}limit=2{cursor}")).await.unwrap();
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["at"]["final"], true, "{body}");
        rows.extend(body[list].as_array().unwrap().iter().cloned());
        match body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

fn codes(check: &Value) -> Vec<&str> {
    check["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_finds_a_dataset_checks_its_licence_and_sees_every_member_paid() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let world = World::build(&stack, [4, 4, 4]).await?;
    let doors = Doors::new(&stack, &world)?;
    // the second of them has a wallet
    let group = Contributor::group(4);
    let samples: Vec<_> =
        repository_samples()?.into_iter().filter(|s| matches!(s.expected, Expected::Accepted)).take(4).collect();
    let (mut records, mut consents) = (Vec::new(), Vec::new());
    for (person, sample) in group.iter().zip(&samples) {
        let meta = meta(&world, sample, person)?;
        consents.push(serde_json::from_value::<SignedConsent>(meta["consent"].clone())?);
        let answer: Value = doors.post_upload(&meta, sample.mime, std::fs::read(&sample.path)?).await?.json().await?;
        assert_eq!(answer["status"], "accepted", "{answer}");
        records.push(answer["data_id"].as_str().unwrap().parse::<DataId>()?);
    }
    let history = market::history(&stack)?;
    finality::anchored(&history, &world, &records.iter().map(|id| (*id, 2)).collect::<Vec<_>>()).await?;
    let published = market::register_dataset(&stack, &world, "catalogue").await?;
    let offer = market::publish_offer(&stack, &world, published.ip_id).await?;
    let first = market::buy(&stack, &world, offer, 1, LICENSE_PRICE).await?;
    let second = market::buy(&stack, &world, offer, 1, LICENSE_PRICE).await?;
    let (indexer, id) = (stack.indexer.as_ref().unwrap(), second.licenseId);
    let posted = indexer
        .until(&format!("/v1/licenses/{id}/royalties"), |status, body| {
            status == 200 && body["points_state"] == "posted"
        })
        .await?;

    // the catalogue, each filter both ways
    let media = posted["members"].as_array().unwrap().len();
    assert_eq!(media, 4);
    let known: Vec<Value> = all(&stack, "/v1/datasets", "datasets").await;
    assert_eq!((known.len(), &known[0]["price_min"]), (1, &json!(LICENSE_PRICE.to_string())), "{known:?}");
    let token = world.token;
    let modality = {
        let (_, record) = indexer.get(&format!("/v1/records/{}", records[0])).await?;
        record["metadata"]["file"]["media_category"].as_str().map(str::to_owned)
    };
    for (filter, found) in [
        ("provider=numo".to_owned(), 1),
        ("purpose=train,evaluate".into(), 1),
        ("purpose=redistribute".into(), 0),
        (format!("token={token}"), 1),
        (format!("token={}", Address::ZERO), 0),
        ("for_sale=true".into(), 1),
        (format!("price_max={LICENSE_PRICE}"), 1),
        (format!("price_max={}", LICENSE_PRICE - 1), 0),
        ("price_max=99999999999999999999999&purpose=fine_tune".into(), 0),
        ("members_min=4".into(), 1),
        ("members_min=5".into(), 0),
        ("modality=no-such".into(), 0),
        (format!("modality={}", modality.as_deref().unwrap_or("no-such")), usize::from(modality.is_some())),
    ] {
        assert_eq!(all(&stack, &format!("/v1/datasets?{filter}"), "datasets").await.len(), found, "{filter}");
    }

    // what each got of the second sale: points by the ledger's rule, wallets by the contract's
    let parts = all(&stack, &format!("/v1/licenses/{id}/royalties"), "members").await;
    let points: Vec<u128> =
        published.members.iter().filter(|row| row.member.payee.is_zero()).map(|row| row.member.weight).collect();
    let mut split = split_points(second.pointsShare, &points).unwrap().into_iter();
    let wallet_weight: u128 =
        published.members.iter().map(|row| row.member.weight).sum::<u128>() - points.iter().sum::<u128>();
    let step = (U256::from(first.walletShare) << 128usize) / U256::from(wallet_weight);
    for (row, part) in published.members.iter().zip(&parts) {
        let weight = U256::from(row.member.weight);
        let expected = match row.member.payee.is_zero() {
            true => U256::from(split.next().unwrap()),
            false => ((weight * step * U256::from(2)) >> 128usize) - ((weight * step) >> 128usize),
        };
        assert_eq!(part["amount"], expected.to_string(), "{part}");
        assert_eq!(part["data_id"], row.member.data_id.to_string());
        assert!(part.get("payee").is_none(), "a list of a sale's members links no wallet");
    }
    assert_eq!(parts.iter().filter(|part| part["paid_in"] == "wallet").count(), 1);

    // by holder
    let buyer = dev_address(role::BUYER)?;
    let of = |holder: Address| format!("/v1/licenses?holder={holder}");
    let held = all(&stack, &of(buyer), "licenses").await;
    let ids: Vec<_> = held.iter().map(|license| license["license_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [second.licenseId.to_string(), first.licenseId.to_string()]);
    assert!(all(&stack, &of(Address::repeat_byte(9)), "licenses").await.is_empty());

    // the check: right, and with another's account
    let check = async |holder: Address| indexer.get(&format!("/v1/licenses/{id}/check?holder={holder}")).await;
    let (_, right) = check(buyer).await?;
    assert_eq!((&right["valid"], &right["members"]["usable"], codes(&right)), (&json!(true), &json!(4), vec![]));
    assert_eq!(codes(&check(Address::repeat_byte(9)).await?.1), ["not-holder"]);
    assert_eq!(indexer.get("/v1/licenses/999/check").await?.0, 404);

    // a consent withdrawn on chain counts as soon as it is mined, as it does for the custodian
    let digest =
        withdrawal_digest(&world.deployment.consent_domain(), consents[0].id(&world.deployment.consent_domain()));
    let signature = group[0].key.sign_hash_sync(&digest)?;
    let carrier = stack.sender("carrier").await?;
    let registry = ConsentRegistry::new(world.deployment.consent_registry, &carrier);
    mined!("withdraw", registry.withdrawBySignature((&consents[0]).into(), signature.as_bytes().into()));
    let path = format!("/v1/licenses/{id}/check?holder={buyer}");
    let seen = indexer.until(&path, |_, body| body["members"]["consent_withdrawn"] == 1).await?;
    assert_eq!((&seen["valid"], &seen["members"]["usable"]), (&json!(true), &json!(3)));
    let excluded = seen["excluded"].as_array().unwrap();
    assert_eq!((excluded.len(), &excluded[0]["data_id"]), (1, &json!(records[0])));
    assert_eq!(excluded[0]["reason"], "consent-withdrawn");
    let settled = indexer.until(&path, |_, body| body["excluded"][0]["withdrawn_at"].is_string()).await?;
    assert_eq!(settled["not_final"], json!([]), "final, it is not told as mined any more");

    // an erased record
    let url = format!("{}/v1/records/{}/erasure", stack.relayer.as_ref().unwrap().url(), records[2]);
    let answer = reqwest::Client::new().post(url).header("x-api-key", &world.api_key).send().await?;
    assert!(answer.status().is_success());
    let seen = indexer.until(&path, |_, body| body["members"]["erased"] == 1).await?;
    let reasons: BTreeMap<&str, &str> = seen["excluded"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| (member["data_id"].as_str().unwrap(), member["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(reasons[records[2].to_string().as_str()], "erased");
    assert_eq!(seen["members"]["usable"], 2);

    // passed on, and revoked
    let sender = stack.sender_of(dev_signer(role::BUYER)?).await?;
    let registry = LicenseRegistry::new(world.deployment.license_registry, &sender);
    let heir = dev_address(role::SPONSOR)?;
    mined!("pass on", registry.transferFrom(buyer, heir, id));
    indexer.until(&path, |_, body| codes(body) == ["not-holder"]).await?;
    let heirs = format!("/v1/licenses/{id}/check?holder={heir}");
    assert_eq!(indexer.get(&heirs).await?.1["valid"], true, "the new holder, as soon as it is mined");
    let provider = stack.sender(role::PROVIDER).await?;
    let registry = LicenseRegistry::new(world.deployment.license_registry, &provider);
    mined!("revoke", registry.revoke(id, "a test".into()));
    let seen = indexer.until(&heirs, |_, body| codes(body) == ["license-inactive"]).await?;
    assert_eq!((&seen["valid"], &seen["status"]), (&json!(false), &json!("revoked")));
    indexer
        .until(&format!("{}&status=active", of(heir)), |_, body| {
            body["licenses"] == json!([]) && body["at"].is_object()
        })
        .await?;
    indexer.until(&of(heir), |_, body| body["licenses"][0]["status"] == "revoked").await?;
    Ok(())
}
