//! A stranger registers as a provider, names somebody else's record in a dataset of their own, licenses it to themselves,
//! and still gets no key: a sealed key is bound to the provider that took the content in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::SignerSync,
};
use tidemark::{
    contracts::{DevToken, IPRegistry, LicenseRegistry, PointsTreasury, ProvenanceLog},
    dataset::{Member, MemberRow, VersionContent, dataset_id, encode_members, summarise, version_digest},
    history::accepted_records,
    ids::ConsentId,
    release::{self, ReleaseError, ReleaseRequest, request_release},
    sealing::{RecipientKey, SealedKey},
};
use tidemark_tests::{
    Options, Stack,
    keys::dev_signer,
    mined,
    story::{
        doors::Doors,
        finality, market,
        money::unix_seconds,
        people::Contributor,
        samples::{Expected, repository_samples},
        world::World,
    },
};

#[tokio::test]
async fn a_key_is_released_under_the_dataset_of_its_own_provider_only() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let world = World::build(&stack, [2, 2, 2]).await?;
    let sample = repository_samples()?.into_iter().find(|s| matches!(s.expected, Expected::Accepted)).unwrap();
    let victim = Doors::new(&stack, &world)?.upload(&world, &sample, 0, &Contributor::group(1)).await?;
    let history = market::history(&stack)?;
    let batches = finality::anchored(&history, &world, &[(victim.answer.data_id, 2)]).await?;
    let record = accepted_records(&batches).remove(&victim.answer.data_id).unwrap();
    let sealed_key = SealedKey::decode(&history.store.get(&record.delivery.key_cid, 4_096).await?)?;

    // everything below is the stranger's own: account, attestor, token, dataset, offer, licence
    let stranger = dev_signer("stranger")?;
    let sender = stack.sender_of(stranger.clone()).await?;
    let deployment = &world.deployment;
    let token = *DevToken::deploy(&sender).await?.address();
    let log = ProvenanceLog::new(deployment.provenance_log, &sender);
    let (owner, log_at) = (stranger.address(), *log.address());
    let treasury = *PointsTreasury::deploy(&sender, log_at, owner, token, owner).await?.address();
    mined!("register", log.registerProvider("stranger".into(), stranger.address(), treasury, token, 0));
    let member = Member {
        data_id: victim.answer.data_id,
        contributor: B256::repeat_byte(1),
        consent_id: record.accepted.consent_id,
        payee: Address::ZERO,
        weight: 1,
    };
    let license = async |member: &Member, name: &str| -> anyhow::Result<U256> {
        let rows = [MemberRow {
            member: member.clone(),
            content_hash: record.accepted.content_hash,
            ciphertext_cid: record.delivery.ciphertext_cid,
            key_cid: record.delivery.key_cid,
            batch_number: 0,
            event_index: 0,
            purposes: u32::MAX,
        }];
        let content = VersionContent {
            root: summarise(&rows)?.tree.root(),
            member_count: 1,
            total_weight: 1,
            points_weight: 1,
            purposes: u32::MAX,
            manifest_cid: history.store.put(&encode_members(&rows)?).await?,
        };
        let ip_id = dataset_id(stranger.address(), name);
        let digest = version_digest(&deployment.dataset_domain(), ip_id, 1, &content);
        let signature = Bytes::from(stranger.sign_hash_sync(&digest)?.as_bytes());
        let registry = IPRegistry::new(deployment.ip_registry, &sender);
        mined!("register a dataset", registry.registerDataset(name.into(), (&content).into(), signature));
        let licenses = LicenseRegistry::new(deployment.license_registry, &sender);
        let terms = LicenseRegistry::Terms { price: 1, ..market::terms() };
        let receipt = mined!("offer", licenses.publishOffer(ip_id, terms));
        let offer = receipt.decoded_log::<LicenseRegistry::OfferPublished>().unwrap().offerId;
        let token = DevToken::new(token, &sender);
        mined!("mint", token.mint(stranger.address(), U256::ONE));
        mined!("approve", token.approve(deployment.license_registry, U256::ONE));
        let receipt = mined!("buy", licenses.buy(offer, 1, 1, stranger.address()));
        Ok(receipt.decoded_log::<LicenseRegistry::LicenseSold>().unwrap().licenseId)
    };
    let refusal = async |license_id: U256, member: &Member, sealed_key: SealedKey| {
        let request = ReleaseRequest {
            license_id,
            member: member.clone(),
            member_proof: Vec::new(),
            sealed_key,
            recipient_key: RecipientKey::random().unwrap().public_key(),
            deadline: unix_seconds() + 60,
            signature: Bytes::new(),
        };
        let request =
            request.sign(&release::domain(deployment.chain_id, deployment.license_registry), &stranger).unwrap();
        let custodian = stack.custodian.as_ref().unwrap().url();
        match request_release(&reqwest::Client::new(), custodian, &request).await {
            Err(ReleaseError::Refused { status: 403, kind, .. }) => kind,
            other => panic!("expected a refusal, got {other:?}"),
        }
    };

    let own = license(&member, "mine").await?;
    assert_eq!(refusal(own, &member, sealed_key.clone()).await, "sealed-key-of-other-provider");
    let relabelled = SealedKey { provider: stranger.address(), ..sealed_key.clone() };
    assert_eq!(refusal(own, &member, relabelled).await, "sealed-key-invalid");
    // and a consent of their own invention does not stand in for the contributor's
    let invented = Member { consent_id: ConsentId(B256::repeat_byte(9)), ..member };
    let own = license(&invented, "mine too").await?;
    assert_eq!(refusal(own, &invented, sealed_key).await, "sealed-key-of-other-consent");
    Ok(())
}
