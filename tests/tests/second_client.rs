//! `ethers-providers`, a client and decoder that shares no code with ours, reads the same licence and the same batch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::primitives::{Address, U256};
use ethers_core::{
    abi::{Abi, RawLog, Token},
    types::{Filter, H256, TransactionRequest, U64, transaction::eip2718::TypedTransaction},
};
use ethers_providers::{Http, Middleware, Provider};
use tidemark::{
    contracts::{LicenseRegistry, ProvenanceLog},
    history::History,
};
use tidemark_tests::forge::Forge;

fn abi(contract: &str) -> Abi {
    let path = tidemark_tests::folder::repository().join(format!("sdk/abi/{contract}.json"));
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    serde_json::from_value(file["abi"].clone()).unwrap()
}

async fn call(client: &Provider<Http>, contract: &str, at: Address, function: &str, arguments: &[Token]) -> Vec<Token> {
    let abi = abi(contract);
    let function = abi.function(function).unwrap();
    let input = function.encode_input(arguments).unwrap();
    let transaction = TransactionRequest::new().to(ethers_core::types::H160(at.0.0)).data(input);
    let output = client.call(&TypedTransaction::Legacy(transaction), None).await.unwrap();
    function.decode_output(&output).unwrap()
}

fn number(value: impl Into<U256>) -> Token {
    Token::Uint(ethers_core::types::U256::from_big_endian(&value.into().to_be_bytes::<32>()))
}

#[tokio::test]
async fn a_second_client_reads_the_same_licence_and_the_same_batch() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let events = forge.accepted(0, "seen twice", Address::repeat_byte(0x77))?;
    let batch = forge.batch(0, events.to_vec()).await?;
    forge.anchor(&batch).await?;
    let sale = forge.sell(&events[1]).await?;
    let deployment = forge.world.deployment.clone();
    let client = Provider::<Http>::try_from(forge.stack.chain.url())?;

    let ours = LicenseRegistry::new(deployment.license_registry, &forge.sender).verify(sale.licenseId).call().await?;
    let theirs =
        call(&client, "LicenseRegistry", deployment.license_registry, "verify", &[number(sale.licenseId)]).await;
    let Some(Token::Tuple(fields)) = theirs.into_iter().next() else { panic!("verify() answers with a struct") };
    let terms = &ours.terms;
    let expected = vec![
        Token::Bool(ours.active),
        Token::String(ours.status.clone()),
        Token::Address(ethers_core::types::H160(ours.holder.0.0)),
        number(ours.ipId),
        number(U256::from(ours.version)),
        number(U256::from(ours.offerId)),
        number(U256::from(ours.startsAt)),
        number(U256::from(ours.endsAt)),
        number(U256::from(ours.paid)),
        Token::String(ours.revocationCause.clone()),
        Token::Tuple(vec![
            number(U256::from(terms.price)),
            number(U256::from(terms.duration)),
            number(U256::from(terms.purposes)),
            number(U256::from(terms.seats)),
            number(U256::from(terms.contributorBps)),
            Token::Bool(terms.transferable),
            Token::Bool(terms.aiTraining),
            number(U256::from(terms.resaleBps)),
            Token::FixedBytes(terms.legalHash.to_vec()),
            Token::String(terms.legalUri.clone()),
        ]),
    ];
    assert_eq!(fields, expected);

    let history = History {
        provider: forge.stack.provider().clone(),
        deployment: deployment.clone(),
        store: forge.stack.store()?,
    };
    let ours = history.anchored_one(forge.world.provider, 0).await?;
    let abi = abi("ProvenanceLog");
    let event = abi.event("BatchAnchored")?;
    let filter = Filter::new()
        .address(ethers_core::types::H160(deployment.provenance_log.0.0))
        .topic0(event.signature())
        .topic1(H256::from_slice(forge.world.provider.into_word().as_slice()))
        .from_block(0u64);
    let logs = client.get_logs(&filter).await?;
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0].block_number, Some(U64::from(ours.place.block)));
    assert_eq!(logs[0].transaction_hash.unwrap().0, ours.place.transaction.0);
    let theirs = event.parse_log(RawLog { topics: logs[0].topics.clone(), data: logs[0].data.to_vec() })?;
    let field = |name: &str| theirs.params.iter().find(|param| param.name == name).unwrap().value.clone();
    let header = &ours.header;
    assert_eq!(field("number"), number(U256::from(header.number)));
    assert_eq!(field("root"), Token::FixedBytes(header.root.to_vec()));
    assert_eq!(field("eventCount"), number(U256::from(header.event_count)));
    assert_eq!(field("pointsTotal"), number(U256::from(header.points_total)));
    assert_eq!(field("walletTotal"), number(U256::from(header.wallet_total)));
    assert_eq!(field("manifestCid"), Token::Bytes(header.manifest_cid.to_bytes()));
    assert_eq!(field("attestor"), Token::Address(ethers_core::types::H160(forge.attestor.address().0.0)));

    let root = call(
        &client,
        "ProvenanceLog",
        deployment.provenance_log,
        "rootOf",
        &[Token::Address(ethers_core::types::H160(header.provider.0.0)), number(U256::from(header.number))],
    )
    .await;
    let ours = ProvenanceLog::new(deployment.provenance_log, &forge.sender).rootOf(header.provider, 0).call().await?;
    assert_eq!(root, [Token::FixedBytes(ours.to_vec())]);
    Ok(())
}
